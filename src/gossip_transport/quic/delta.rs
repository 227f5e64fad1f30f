//! Whether a message's delta is one that chitchat can apply. It takes its peers' word: one delta that contradicts
//! itself ends its task, one value too many or too large stays with every node for good.
//!
//! Reads chitchat 0.11's own form (a digest, then blocks of operations), and nothing of it is kept.

use llm_router_actors::ports::{Deserializable, GossipId};

/// Largest value: a list of models has 1 KiB, and a later version may tell somewhat more.
const VALUE_MAX: usize = 8 * 1024;
/// Longest key.
const KEY_MAX: usize = 128;
/// Longest name of a node.
const NODE_MAX: usize = 256;
/// Bytes of all operations together, unpacked: many times what a full fleet tells at once.
const DELTA_MAX: usize = 2 * 1024 * 1024;
/// Highest version: one more a microsecond is reached in nine years. Beyond it additions would overflow.
const VERSION_MAX: u64 = 1 << 48;
/// Bytes of one unpacked block.
const BLOCK_MAX: usize = 65_535;

/// Bytes before a message's body, and where its type stands.
const HEAD: usize = 4;
const TYPE_AT: usize = 3;
const SYN_ACK: u8 = 1;
const ACK: u8 = 2;

/// Judges a message; one without a delta is sound.
///
/// # Errors
/// The metric label of what is wrong.
pub(super) fn judge(message: &[u8]) -> Result<(), &'static str> {
    let mut body = message.get(HEAD..).unwrap_or_default();
    match message.get(TYPE_AT) {
        Some(&SYN_ACK) => skip_digest(&mut body).ok_or("malformed_packet")?,
        Some(&ACK) => {}
        _ => return Ok(()),
    }
    operations(&unpack(body)?)
}

fn skip_digest(body: &mut &[u8]) -> Option<()> {
    for _ in 0..u16::deserialize(body).ok()? {
        GossipId::deserialize(body).ok()?;
        for _ in 0..3 {
            u64::deserialize(body).ok()?;
        }
    }
    Some(())
}

/// The operations of a delta, out of their blocks.
fn unpack(mut body: &[u8]) -> Result<Vec<u8>, &'static str> {
    let body = &mut body;
    let malformed = "malformed_packet";
    let mut all = Vec::new();
    loop {
        let kind = u8::deserialize(body).map_err(|_| malformed)?;
        if kind == 0 {
            return Ok(all);
        }
        let length = usize::from(u16::deserialize(body).map_err(|_| malformed)?);
        let (block, rest) = body.split_at_checked(length).ok_or(malformed)?;
        *body = rest;
        match kind {
            1 => all.extend(zstd::bulk::decompress(block, BLOCK_MAX).map_err(|_| malformed)?),
            2 => all.extend_from_slice(block),
            _ => return Err(malformed),
        }
        if all.len() > DELTA_MAX {
            return Err("oversized_delta");
        }
    }
}

fn operations(mut body: &[u8]) -> Result<(), &'static str> {
    let body = &mut body;
    // Highest version of the node under way, and whether it has values.
    let mut node: Option<(u64, bool)> = None;
    while !body.is_empty() {
        match operation(body).ok_or("malformed_packet")? {
            Operation::Node { name, versions } => {
                if name > NODE_MAX || versions.iter().any(|version| *version > VERSION_MAX) {
                    return Err("unsound_delta");
                }
                node = Some((0, false));
            }
            Operation::Value { key, value, version } => {
                if key > KEY_MAX || value > VALUE_MAX {
                    return Err("oversized_value");
                }
                match &mut node {
                    Some((highest, has_values)) if version > *highest && version <= VERSION_MAX => {
                        (*highest, *has_values) = (version, true);
                    }
                    _ => return Err("unsound_delta"),
                }
            }
            // It stands for values that are no more; beside values it would contradict them.
            Operation::Highest(version) => match node {
                Some((_, false)) if version <= VERSION_MAX => {}
                _ => return Err("unsound_delta"),
            },
        }
    }
    Ok(())
}

/// One operation, as far as it is judged: lengths and versions.
enum Operation {
    Node { name: usize, versions: [u64; 2] },
    Value { key: usize, value: usize, version: u64 },
    Highest(u64),
}

fn operation(body: &mut &[u8]) -> Option<Operation> {
    match u8::deserialize(body).ok()? {
        0 => {
            let name = GossipId::deserialize(body).ok()?.node_id.len();
            Some(Operation::Node {
                name,
                versions: [u64::deserialize(body).ok()?, u64::deserialize(body).ok()?],
            })
        }
        1 => {
            let key = String::deserialize(body).ok()?.len();
            let value = String::deserialize(body).ok()?.len();
            let version = u64::deserialize(body).ok()?;
            u8::deserialize(body).ok()?;
            Some(Operation::Value { key, value, version })
        }
        2 => Some(Operation::Highest(u64::deserialize(body).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "delta_test.rs"]
pub(super) mod tests;
