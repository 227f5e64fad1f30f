//! A gossip message on the wire: one byte for how it is packed, then the message.
//!
//! Never larger than [`FRAME_MAX`], neither packed nor unpacked, whatever its head claims. Who a message
//! says it is from is read here too.

use llm_router_actors::ports::{Deserializable, GossipId};
use zstd::bulk::Compressor;

/// Largest frame, and largest message in one: chitchat's own are at most 65,507 bytes.
pub(super) const FRAME_MAX: usize = 64 * 1024;
/// zstd's fastest level: digests are short and repeat themselves.
const LEVEL: i32 = 1;
/// Messages shorter than this gain nothing.
const COMPRESS_MIN: usize = 128;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Bytes of chitchat 0.11 before a message's body: magic number, version, type.
const HEAD: usize = 4;
const TYPE_AT: usize = 3;
const SYN: u8 = 0;
const SYN_ACK: u8 = 1;

/// Packs messages.
pub(super) struct Packer(Compressor<'static>);

impl Packer {
    pub(super) fn new() -> std::io::Result<Self> {
        Compressor::new(LEVEL).map(Self)
    }

    /// The frame of a message; `None` where it is too large.
    pub(super) fn pack(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        if message.len() >= FRAME_MAX {
            return None;
        }
        let packed = (message.len() >= COMPRESS_MIN).then(|| self.0.compress(message).ok()).flatten();
        let (how, body) = match &packed {
            Some(packed) if packed.len() < message.len() => (ZSTD, packed.as_slice()),
            _ => (PLAIN, message),
        };
        let mut frame = Vec::with_capacity(1 + body.len());
        frame.push(how);
        frame.extend_from_slice(body);
        Some(frame)
    }
}

/// The message in a frame; `None` where it is no frame, or one that would grow too large.
pub(super) fn unpack(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    if frame.len() > FRAME_MAX {
        return None;
    }
    match *frame.first()? {
        PLAIN => {
            frame.remove(0);
            Some(frame)
        }
        // At most this much is set aside, and what does not fit is an error.
        ZSTD => zstd::bulk::decompress(&frame[1..], FRAME_MAX).ok(),
        _ => None,
    }
}

/// Whether a message can be from `node`: whoever sends a digest is in it. (A message without a digest
/// answers one and says nothing of its sender.)
pub(super) fn may_be_from(message: &[u8], node: &str) -> bool {
    let Some(&(SYN | SYN_ACK)) = message.get(TYPE_AT) else {
        return true;
    };
    let mut body = message.get(HEAD..).unwrap_or_default();
    let Ok(count) = u16::deserialize(&mut body) else {
        return false;
    };
    (0..count).any(|_| {
        let id = GossipId::deserialize(&mut body);
        // Heartbeat and two versions.
        let figures = (0..3).all(|_| u64::deserialize(&mut body).is_ok());
        figures && id.is_ok_and(|id| *id.node_id == *node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(message: &[u8]) -> Option<Vec<u8>> {
        Packer::new().unwrap().pack(message)
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks_to_the_same(
            message in proptest::collection::vec(any::<u8>(), 0..4096), repeated in 1_usize..15
        ) {
            let message = message.repeat(repeated);
            prop_assert_eq!(unpack(pack(&message).unwrap()).unwrap(), message);
        }

        #[test]
        fn garbage_is_no_frame_or_a_bounded_one(frame in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Some(message) = unpack(frame.clone()) {
                prop_assert!(message.len() <= FRAME_MAX);
            }
            may_be_from(&frame, "a");
        }
    }

    #[test]
    fn repetition_is_compressed_and_noise_is_not() {
        assert!(pack(&[7; 4096]).unwrap().len() < 100);
        let noise: Vec<u8> =
            (0..4096_u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        assert!(pack(&noise).unwrap().len() <= noise.len() + 1);
        assert_eq!(pack(b"short").unwrap(), b"\0short");
    }

    #[test]
    fn a_frame_is_bounded_both_ways() {
        assert!(pack(&[1; FRAME_MAX]).is_none());
        assert!(pack(&[1; FRAME_MAX - 1]).is_some());
        // 16 MiB of zeroes in some hundred bytes.
        let mut bomb = vec![ZSTD];
        bomb.extend(zstd::bulk::compress(&vec![0; 16 << 20], 19).unwrap());
        assert!(bomb.len() < FRAME_MAX && unpack(bomb).is_none());
        assert!(unpack(vec![PLAIN; FRAME_MAX + 1]).is_none());
        assert!(unpack(Vec::new()).is_none() && unpack(vec![9, 1]).is_none());
    }
}
