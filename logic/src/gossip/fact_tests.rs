use super::*;
use proptest::prelude::*;
use serde::Deserialize;

/// A fact as it is written now: `held` was appended, and version 2 counts in another unit than version 1.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Spent {
    pico: u64,
    held: u64,
}

/// The same before `held` was appended.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Earlier {
    pico: u64,
}

#[derive(Serialize, Deserialize)]
struct Old {
    cents: u64,
}

impl Fact for Spent {
    const TOPIC: Topic = Topic::Budget;
    const VERSION: u8 = 2;

    fn read(payload: &Payload) -> Result<Self, CodecError> {
        match payload.version() {
            2 => payload.body(),
            1 => payload.body().map(|old: Old| Self { pico: old.cents * 10_000_000_000, held: 0 }),
            found => Err(CodecError::Version { found, reads: 2 }),
        }
    }
}

impl Fact for Earlier {
    const TOPIC: Topic = Topic::Budget;
    const VERSION: u8 = 2;
}

#[test]
fn a_fact_comes_back() {
    let told = Spent { pico: 7, held: 9 };
    let payload = Payload::of(&told).unwrap();
    assert_eq!(Spent::read(&Payload::parse(&payload.text()).unwrap()), Ok(told));
}

#[test]
fn an_appended_field_is_ignored_by_who_does_not_know_it() {
    let payload = Payload::of(&Spent { pico: 7, held: 9 }).unwrap();
    assert_eq!(Earlier::read(&payload), Ok(Earlier { pico: 7 }));
}

#[test]
fn the_version_before_is_read_and_others_are_named() {
    let old = Payload::encode(1, &Old { cents: 3 }).unwrap();
    assert_eq!(Spent::read(&old), Ok(Spent { pico: 30_000_000_000, held: 0 }));
    for found in [0, 3, 255] {
        let other = Payload::encode(found, &Old { cents: 3 }).unwrap();
        assert_eq!(Spent::read(&other), Err(CodecError::Version { found, reads: 2 }));
    }
}

#[test]
fn what_is_too_large_is_neither_written_nor_read() {
    assert!(matches!(Payload::encode(1, &"x".repeat(FACT_BYTES_MAX)), Err(CodecError::Oversized(_))));
    let largest = Payload::encode(1, &"x".repeat(FACT_BYTES_MAX - 2)).unwrap();
    assert!(Payload::parse(&largest.text()).is_ok());
    assert!(matches!(Payload::parse(&"A".repeat(FACT_BYTES_MAX * 2)), Err(CodecError::Oversized(_))));
    assert_eq!(Payload::parse(""), Err(CodecError::Text));
    assert_eq!(Payload::parse("!"), Err(CodecError::Text));
}

#[test]
fn no_two_topics_share_a_word() {
    for topic in Topic::ALL {
        assert!(topic.word().len() > 1);
        assert_eq!(Topic::of(topic.word()), Some(topic));
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,300}", base in "[A-Za-z0-9_-]{0,300}") {
        for text in [text, base] {
            if let Ok(payload) = Payload::parse(&text) {
                let _ = Spent::read(&payload);
                prop_assert_eq!(payload.text(), text);
            }
        }
    }
}
