//! JSON as translation needs it: a shallow look that keeps offsets, a full parse that refuses
//! duplicate keys, byte splices, and a cursor whose errors name the field.
//!
//! Duplicate keys are refused everywhere, because two readers that choose differently between them
//! (the router and the upstream) could be made to see two different requests.

mod node;
mod splice;

pub(crate) use node::Node;
pub(crate) use splice::Splice;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::fmt;

/// The members of an object in order, values unparsed and borrowed from the body.
#[derive(Debug)]
pub(crate) struct Shallow<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Shallow<'a> {
    /// Reads one object.
    pub(crate) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members: Self::Value = Vec::new();
                while let Some(key) = map.next_key_seed(Key)? {
                    // A linear search is fine for the few keys of a real request; the sorted check
                    // below keeps a hostile object of many keys from costing its square.
                    if members.len() < 64 && members.iter().any(|(known, _)| *known == key) {
                        return Err(M::Error::custom(format!("duplicate key `{key}`")));
                    }
                    members.push((key, map.next_value()?));
                }
                if members.len() > 64 {
                    let mut keys: Vec<&str> = members.iter().map(|(key, _)| key.as_ref()).collect();
                    keys.sort_unstable();
                    if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
                        return Err(M::Error::custom(format!("duplicate key `{}`", pair[0])));
                    }
                }
                Ok(members)
            }
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let members = reader.deserialize_map(Members)?;
        reader.end()?;
        Ok(Self(members))
    }

    /// A member's text; JSON `null` counts as absent, as it does for every dialect's optional fields.
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.raw(key).filter(|text| *text != "null")
    }

    /// Names and texts of all members, in their order, `null` included.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, raw)| (name.as_ref(), raw.get()))
    }

    /// The object without the members `keys`, every other byte of its members as it was.
    pub(crate) fn without(&self, keys: &[&str]) -> String {
        let kept = self.0.iter().filter(|(name, _)| !keys.contains(&name.as_ref()));
        let members: Vec<String> = kept.map(|(name, raw)| format!("{}:{}", quote(name), raw.get())).collect();
        format!("{{{}}}", members.join(","))
    }

    /// A member's text, `null` included.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, raw)| raw.get())
    }
}

/// Reads the members of an array, unparsed.
pub(crate) fn elements(text: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(text).ok()
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// Parses a whole text, keeping key order and refusing duplicate keys at any depth.
pub(crate) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Value, S::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key_seed(Key)? {
            let value = map.next_value_seed(Strict)?;
            if values.insert(key.clone().into_owned(), value).is_some() {
                return Err(M::Error::custom(format!("duplicate key `{key}`")));
            }
        }
        Ok(Value::Object(values))
    }
}

/// Whether arrays and objects are nested at most `depth_max` deep. A shallow look skips over what it does
/// not read without counting, so this is asked first.
pub(crate) fn is_depth_within(text: &str, depth_max: usize) -> bool {
    let opens = |byte: &u8| matches!(byte, b'[' | b'{');
    // Almost every body is told by this count, which is fast.
    if text.as_bytes().iter().filter(|byte| opens(byte)).count() <= depth_max {
        return true;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        if in_string {
            in_string = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > depth_max {
            return false;
        }
    }
    true
}

/// Tells the characters of a JSON string as it stands in a body, escapes undone; nothing for anything else.
pub(crate) fn string_chars(raw: &str, mut tell: impl FnMut(char)) {
    let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return;
    };
    let mut chars = inner.chars();
    let mut high: Option<u32> = None;
    while let Some(c) = chars.next() {
        let told = match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('b' | 'f') => ' ',
                Some('u') => {
                    let digits = chars.as_str().get(..4).unwrap_or_default();
                    let unit = u32::from_str_radix(digits, 16).unwrap_or(0xfffd);
                    chars.by_ref().take(4).for_each(drop);
                    match (high.take(), unit) {
                        (_, 0xd800..=0xdbff) => {
                            high = Some(unit);
                            continue;
                        }
                        (Some(high), 0xdc00..=0xdfff) => {
                            let code = 0x1_0000 + ((high - 0xd800) << 10) + (unit - 0xdc00);
                            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                        }
                        (_, unit) => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                    }
                }
                Some(escaped) => escaped,
                None => return,
            },
            plain => plain,
        };
        tell(told);
    }
}

/// Bytes a JSON string stands for, without decoding it into memory; 0 for other values.
pub(crate) fn string_bytes(raw: &str) -> usize {
    let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return 0;
    };
    let bytes = inner.as_bytes();
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            (at, count) = (at + 1, count + 1);
        } else if bytes.get(at + 1) == Some(&b'u') {
            let unit =
                inner.get(at + 2..at + 6).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
            // Each half of a surrogate pair counts half of the four bytes it makes.
            count += match unit {
                0..=0x7F => 1,
                0x80..=0x7FF | 0xD800..=0xDFFF => 2,
                _ => 3,
            };
            at += 6;
        } else {
            (at, count) = (at + 2, count + 1);
        }
    }
    count
}

/// A string as JSON text.
pub(crate) fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        assert!(Shallow::read(r#"{"a":1,"b":2,"a":3}"#).is_err());
        assert!(Shallow::read(r#"{"a":1,"\u0061":3}"#).is_err());
        assert!(parse(r#"{"x":[{"a":1,"a":1}]}"#).is_err());
        let many: String = (0..200).map(|i| format!("\"k{i}\":0,")).collect();
        assert!(Shallow::read(&format!("{{{many}\"k7\":1}}")).is_err());
        assert!(Shallow::read(&format!("{{{many}\"z\":1}}")).is_ok());
    }

    #[test]
    fn depth_is_counted_outside_strings_only() {
        let brackets = "[".repeat(300);
        assert!(is_depth_within(&format!(r#"{{"a":"\\\"{brackets}"}}"#), 127));
        assert!(!is_depth_within(&format!("{}{}", "[".repeat(128), "]".repeat(128)), 127));
        assert!(is_depth_within(&"[]".repeat(500), 127));
    }

    #[test]
    fn a_parse_keeps_the_order_of_keys() {
        let text = r#"{"z":1,"a":{"y":true,"b":[1.5,null]}}"#;
        assert_eq!(parse(text).unwrap().to_string(), text);
    }

    proptest! {
        #[test]
        fn string_bytes_counts_what_decoding_would_give(text in ".{0,40}") {
            prop_assert_eq!(string_bytes(&quote(&text)), text.len());
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            prop_assert_eq!(string_bytes(&format!("\"{escaped}\"")), text.len());
            for raw in [quote(&text), format!("\"{escaped}\"")] {
                let mut told = String::new();
                string_chars(&raw, |c| told.push(c));
                prop_assert_eq!(told.replace(['\u{8}', '\u{c}'], " "), text.replace(['\u{8}', '\u{c}'], " "));
            }
        }

        #[test]
        fn a_strict_parse_agrees_with_the_usual_one(text in r#"[\[\]{}",:0-9a-z\\. -]{0,40}"#) {
            if let Ok(value) = parse(&text) {
                prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
            }
        }
    }
}
