//! One form for all JSON texts that mean the same, fed to a hash.
//!
//! Owns what counts as the same: white space, the order of an object's members, the way a string is escaped
//! and a number is written do not matter; everything else does. The members of an object called `properties`
//! keep their order: in a JSON schema it decides in which order a model writes its answer.
//!
//! Every piece goes into the hash with its kind and length before it, so no two different values are the same
//! bytes.

use crate::wire::json::{Shallow, elements};
use sha2::{Digest, Sha256};

/// The key whose members' order is part of the meaning.
const ORDERED: &str = "properties";

/// Why a text has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson;

/// Adds text with its length.
pub(super) fn text(hash: &mut Sha256, kind: u8, text: &str) {
    hash.update([kind]);
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text.as_bytes());
}

/// Adds the canonical form of the JSON text `json`. `ordered` = the members of an object keep their order.
///
/// # Errors
/// [`NotJson`], also for an object that has a key twice, which two readers may understand differently.
pub(super) fn value(hash: &mut Sha256, json: &str, ordered: bool) -> Result<(), NotJson> {
    let json = json.trim_ascii();
    match json.as_bytes().first() {
        Some(b'{') => {
            let object = Shallow::read(json).map_err(|_| NotJson)?;
            members(hash, object.members(), ordered)
        }
        Some(b'[') => {
            let elements = elements(json).ok_or(NotJson)?;
            hash.update([b'[']);
            hash.update((elements.len() as u64).to_be_bytes());
            elements.iter().try_for_each(|element| value(hash, element.get(), false))
        }
        Some(b'"') => {
            let string: String = serde_json::from_str(json).map_err(|_| NotJson)?;
            text(hash, b'"', &string);
            Ok(())
        }
        Some(b'-' | b'0'..=b'9') => {
            text(hash, b'#', &number(json));
            Ok(())
        }
        Some(_) if matches!(json, "true" | "false" | "null") => {
            text(hash, b'w', json);
            Ok(())
        }
        _ => Err(NotJson),
    }
}

/// Adds an object of these members.
pub(super) fn members<'m>(
    hash: &mut Sha256,
    members: impl Iterator<Item = (&'m str, &'m str)>,
    ordered: bool,
) -> Result<(), NotJson> {
    let mut members: Vec<_> = members.collect();
    if !ordered {
        members.sort_unstable_by_key(|(name, _)| *name);
    }
    hash.update([b'{']);
    hash.update((members.len() as u64).to_be_bytes());
    members.into_iter().try_for_each(|(name, json)| {
        text(hash, b'k', name);
        value(hash, json, name == ORDERED)
    })
}

/// A number's digits without leading and trailing zeros and the power of ten they are multiplied by: `1`,
/// `1.0` and `10e-1` are all `1e0`. Exact for any length, where a float would make two numbers one.
pub(super) fn number(literal: &str) -> String {
    let (sign, unsigned) = literal.strip_prefix('-').map_or(("", literal), |rest| ("-", rest));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let leading = digits.trim_start_matches('0');
    let kept = leading.trim_end_matches('0');
    if kept.is_empty() {
        return "0".to_owned();
    }
    let shift = (leading.len() - kept.len()) as i128 - fraction.len() as i128;
    match exponent.parse::<i64>() {
        Ok(exponent) => format!("{sign}{kept}e{}", i128::from(exponent) + shift),
        // Nobody's number: as it is written.
        Err(_) => literal.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        for (literal, canonical) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.000", "0"),
            ("0e9", "0"),
            ("1", "1e0"),
            ("1.0", "1e0"),
            ("10e-1", "1e0"),
            ("0.10", "1e-1"),
            ("100", "1e2"),
            ("-12.50E+2", "-125e1"),
            ("18446744073709551617", "18446744073709551617e0"),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            assert_eq!(number(literal), canonical, "{literal}");
        }
    }
}
