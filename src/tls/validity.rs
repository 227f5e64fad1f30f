//! From when until when a certificate holds, read from its DER.
//!
//! webpki judges a certificate's times only against an authority, and a server does not have its own
//! certificate's. The way to the two times is short (RFC 5280, 4.1): certificate, to-be-signed part, and in it
//! past version, serial number, algorithm and issuer.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The optional version, `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;

/// First and last second at which `certificate` holds, in Unix time; `None` where it is no certificate.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        (_, rest) = expect(rest, VERSION)?;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = expect(rest, tag)?;
    }
    let (times, _) = expect(rest, SEQUENCE)?;
    let (begins, times) = time(times)?;
    let (ends, _) = time(times)?;
    Some((begins, ends))
}

/// The contents of the element that `der` begins with, which must have `tag`, and what follows it.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = element(der)?;
    (found == tag).then_some((contents, rest))
}

fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The long form: that many bytes of length. More than three would be more than any certificate.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// A time of either form and what follows it. RFC 5280, 4.1.2.5: always `Z`, always with seconds; two digits of
/// a year below 50 are of this century.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (tag, text, rest) = element(der)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match tag {
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? < 50 => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
    let seconds = TimeZone::UTC.to_timestamp(time).ok()?.as_second();
    Some((seconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(begins: (i32, u8, u8), ends: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(begins.0, begins.1, begins.2);
        params.not_after = date_time_ymd(ends.0, ends.1, ends.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        // 2050 and later is written as GeneralizedTime.
        let found = validity(&certificate((2024, 2, 29), (2061, 12, 31)));
        assert_eq!(found, Some((1_709_164_800, 2_903_212_800)));
        assert_eq!(validity(&certificate((1999, 12, 31), (2049, 1, 1))), Some((946_598_400, 2_493_072_000)));
    }

    #[test]
    fn no_prefix_of_a_certificate_and_no_changed_byte_panics() {
        let good = certificate((2024, 1, 1), (2030, 1, 1));
        for length in 0..good.len() {
            let _ = validity(&CertificateDer::from(good[..length].to_vec()));
            let mut changed = good.to_vec();
            changed[length] ^= 0xff;
            let _ = validity(&CertificateDer::from(changed));
        }
        assert_eq!(validity(&CertificateDer::from(Vec::new())), None);
    }
}
