//! Deltas made by hand, in chitchat's own form.

use super::*;
use llm_router_actors::ports::{GossipMessage, Serializable};
use proptest::prelude::*;
use std::net::{Ipv4Addr, SocketAddr};

/// Operations of a delta to be.
#[derive(Default)]
pub(in super::super) struct Forged(Vec<u8>);

impl Forged {
    pub(in super::super) fn node(mut self, name: &str, gc: u64, from: u64) -> Self {
        self.0.push(0);
        GossipId::new(name, 7, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).serialize(&mut self.0);
        gc.serialize(&mut self.0);
        from.serialize(&mut self.0);
        self
    }

    pub(in super::super) fn value(mut self, key: &str, value: &str, version: u64) -> Self {
        self.0.push(1);
        key.to_owned().serialize(&mut self.0);
        value.to_owned().serialize(&mut self.0);
        version.serialize(&mut self.0);
        self.0.push(0);
        self
    }

    pub(in super::super) fn highest(mut self, version: u64) -> Self {
        self.0.push(2);
        version.serialize(&mut self.0);
        self
    }

    /// As the answer to a digest: a message that says nothing of its sender.
    pub(in super::super) fn ack(self) -> Vec<u8> {
        let mut message = vec![0x53, 0xB0, 0, ACK];
        for block in self.0.chunks(60_000) {
            message.push(2);
            u16::try_from(block.len()).unwrap().serialize(&mut message);
            message.extend(block);
        }
        message.push(0);
        message
    }
}

fn verdict(forged: Forged) -> Result<(), &'static str> {
    let message = forged.ack();
    assert!(GossipMessage::deserialize(&mut message.as_slice()).is_ok(), "chitchat itself would take it");
    judge(&message)
}

#[test]
fn what_chitchat_tells_is_sound() {
    let told = Forged::default().node("a", 3, 4).value("b/x", "one", 5).value("n", "two", 9);
    assert_eq!(verdict(told.node("b", 0, 0).highest(7)), Ok(()));
    assert_eq!(verdict(Forged::default()), Ok(()));
    assert_eq!(judge(&GossipMessage::BadCluster.serialize_to_vec()), Ok(()));
}

#[test]
fn what_contradicts_itself_or_would_overflow_is_not() {
    let base = || Forged::default().node("a", 0, 0);
    // The first of these ends chitchat's task.
    assert_eq!(verdict(base().value("k", "v", 10).highest(5)), Err("unsound_delta"));
    assert_eq!(verdict(base().value("k", "v", u64::MAX)), Err("unsound_delta"));
    assert_eq!(verdict(base().highest(u64::MAX)), Err("unsound_delta"));
    assert_eq!(verdict(Forged::default().node("a", u64::MAX, 0)), Err("unsound_delta"));
    assert_eq!(verdict(base().value("k", &"v".repeat(VALUE_MAX + 1), 1)), Err("oversized_value"));
    assert_eq!(verdict(base().value(&"k".repeat(KEY_MAX + 1), "v", 1)), Err("oversized_value"));
}

#[test]
fn a_small_message_that_unpacks_without_end_is_refused_before_chitchat_sees_it() {
    let block = zstd::bulk::compress(&[0; BLOCK_MAX], 19).unwrap();
    let mut message = vec![0x53, 0xB0, 0, ACK];
    for _ in 0..500 {
        message.push(1);
        u16::try_from(block.len()).unwrap().serialize(&mut message);
        message.extend(&block);
    }
    message.push(0);
    assert!(message.len() < 32 * 1024);
    assert_eq!(judge(&message), Err("oversized_delta"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut message in proptest::collection::vec(any::<u8>(), 0..400), kind in 0_u8..4) {
        if let Some(at) = message.get_mut(TYPE_AT) {
            *at = kind;
        }
        let _ = judge(&message);
    }
}
