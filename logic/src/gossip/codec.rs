//! Gossiped values as text, and back.
//!
//! Form: base64url of a version byte and a bincode body. One decoder per version, this one and the one
//! before; a value of another is refused by name. While an upgrade rolls, reports are written in the newest
//! version that every live peer reads ([`Reads`]), so that old nodes lose nothing. bincode lives in this
//! file only and always under a limit: without one a hostile length makes it allocate without bound.
//!
//! | version | is |
//! |---|---|
//! | 1 | fixed fields; one byte more is refused |
//! | 2 | the same fields; fields may be appended, and a reader ignores those it does not know. A health it does not know counts as unknown |
//!
//! Figures are rounded before they are written: a peer does not decide better on 1,237 ms than on
//! 1,200 ms, and a value that stays the same makes no traffic.

use crate::backend::ServedModel;
use crate::capability::{self, Capabilities};
use crate::gossip::base64;
use crate::gossip::fact::{Fact, Topic};
use crate::ids::Region;
use crate::report::{Health, Report};
use bincode::config;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The newest version written and read.
pub const VERSION: u8 = 2;
/// The oldest version written and read.
pub const VERSION_MIN: u8 = 1;
/// The version of lists of models and of introductions, which have not changed.
const FIRST: u8 = 1;
/// Bytes of a peer's report: a later version may have appended fields.
const REPORT_READ_MAX: usize = 2 * REPORT_BYTES_MAX;
/// Bytes of a report before text encoding, version included.
pub const REPORT_BYTES_MAX: usize = 64;
/// Bytes of a list of models as text.
pub const MODELS_TEXT_MAX: usize = 1024;
/// Bytes of a list of models before text encoding.
const MODELS_BYTES_MAX: usize = MODELS_TEXT_MAX / 4 * 3;
/// Bytes of a node's facts before text encoding.
const NODE_BYTES_MAX: usize = 384;
/// What bincode may claim in memory for one value: a short body claims up to twelve times its length.
const MEMORY_MAX: usize = 16 * 1024;
/// The longest region name, version or address that is gossiped, in bytes.
const NODE_FIELD_MAX: usize = 120;

/// Capability words that travel with a model, by bit. Only ever append: the position is the format.
const CAPABILITY_BITS: [&str; 6] = [
    capability::CHAT,
    capability::COMPLETION,
    capability::EMBEDDING,
    capability::VISION,
    capability::TOOLS,
    capability::JSON,
];

/// Why a peer's value is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than any value of its kind can be.
    #[error("the value has {0} bytes, more than its kind can have")]
    Oversized(usize),
    /// Not base64url, or empty.
    #[error("the value is not base64url text")]
    Text,
    /// Of a version this node does not read.
    #[error("the value has version {found}, this node reads up to {reads}: finish the upgrade")]
    Version {
        /// The value's.
        found: u8,
        /// The newest this node reads of its kind.
        reads: u8,
    },
    /// The body ends early, goes on too long or holds what cannot be.
    #[error("the value's body is malformed: {0}")]
    Body(String),
}

/// What a node reads, told as a fact: peers write no newer version while it lives. A node that tells none is
/// of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// The newest version of a report it reads.
    pub version: u8,
}

impl Fact for Reads {
    const TOPIC: Topic = Topic::Codec;
    const VERSION: u8 = 1;
}

impl Reads {
    /// What this node reads.
    pub const OURS: Self = Self { version: VERSION };
    /// The name it is told under.
    pub const NAME: &'static str = "reads";
}

/// The version to write for peers of which each reads up to the version given, this node's own where there
/// are none.
pub fn version_for(peers: impl IntoIterator<Item = u8>) -> u8 {
    peers.into_iter().min().unwrap_or(VERSION).clamp(VERSION_MIN, VERSION)
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFact {
    /// Where it runs.
    pub region: Region,
    /// Its software version.
    pub version: String,
    /// Where its HTTP listener is reached by peers, if anywhere.
    pub http_address: Option<String>,
}

/// A report on the wire.
#[derive(Serialize, Deserialize)]
struct WireReport {
    /// Changes with every telling: an equal value would not be sent again, and peers would take the
    /// fact for old.
    beat: u8,
    health: u8,
    breaker_open: bool,
    queue_depth: u32,
    in_flight: u32,
    slots: Option<u32>,
    /// Tenths of a token per second.
    speed_tenths: Option<u32>,
    latency_p95_ms: Option<u32>,
    ttft_ms: Option<u32>,
    rtt_ms: Option<u32>,
    backoff_ms: u32,
}

/// A model on the wire.
#[derive(Serialize, Deserialize)]
struct WireModel {
    name: String,
    context_window: Option<u32>,
    capabilities: u8,
}

/// The report as peers will read it: figures rounded to two significant digits.
#[must_use]
pub fn quantised(report: &Report) -> Report {
    read_report(&wire_report(report, 0)).unwrap_or_default()
}

/// A report as a gossip value of `version` ([`version_for`]). `beat` is any number that differs from the last
/// telling's ([`Pace::beat`](crate::gossip::pace::Pace::beat)).
pub fn encode_report(report: &Report, beat: u8, version: u8) -> String {
    // Both versions have the same fields so far; they differ in what a reader bears.
    encode(version.clamp(VERSION_MIN, VERSION), &wire_report(report, beat))
}

/// Reads a peer's report.
///
/// # Errors
/// [`CodecError`] for whatever this node would not have written.
pub fn decode_report(text: &str) -> Result<Report, CodecError> {
    let bytes = bytes::<REPORT_READ_MAX>(text)?;
    match bytes.split_first() {
        Some((1, body)) => read_report(&whole(body)?),
        Some((2, body)) => {
            let mut wire: WireReport = read_body(body)?.0;
            if wire.health > HEALTH_MAX {
                wire.health = 0;
            }
            read_report(&wire)
        }
        Some((&found, _)) => Err(CodecError::Version { found, reads: VERSION }),
        None => Err(CodecError::Text),
    }
}

/// The models of a backend as a gossip value: name, context window and well-known capabilities, in
/// order, as many whole models as fit [`MODELS_TEXT_MAX`].
pub fn encode_models(models: &[ServedModel]) -> String {
    let mut wires: Vec<WireModel> = Vec::new();
    // Version and count.
    let mut bytes = 1 + 5;
    for model in models {
        // Name, its length, window and capabilities at their longest.
        bytes += model.name.len() + 5 + 6 + 1;
        if bytes > MODELS_BYTES_MAX {
            break;
        }
        let capabilities = CAPABILITY_BITS
            .iter()
            .enumerate()
            .filter(|(_, word)| model.capabilities.contains(word))
            .fold(0, |bits, (bit, _)| bits | 1 << bit);
        wires.push(WireModel {
            name: model.name.to_string(),
            context_window: model.context_window,
            capabilities,
        });
    }
    encode(FIRST, &wires)
}

/// Reads a peer's list of models.
///
/// # Errors
/// [`CodecError`] for whatever this node would not have written.
pub fn decode_models(text: &str) -> Result<Vec<ServedModel>, CodecError> {
    let wires: Vec<WireModel> = decode::<_, MODELS_BYTES_MAX>(text)?;
    wires
        .into_iter()
        .map(|wire| {
            if wire.name.is_empty() || wire.name.chars().any(char::is_control) {
                return Err(CodecError::Body("a model's name is empty or has control characters".into()));
            }
            let words =
                CAPABILITY_BITS.iter().enumerate().filter(|(bit, _)| wire.capabilities >> bit & 1 == 1);
            Ok(ServedModel {
                context_window: wire.context_window,
                capabilities: Capabilities::new(words.map(|(_, word)| word)),
                ..ServedModel::named(wire.name)
            })
        })
        .collect()
}

/// A node's facts as a gossip value. A field longer than 120 bytes is not told.
pub fn encode_node(node: &NodeFact) -> String {
    let short = |text: &str| {
        if text.len() <= NODE_FIELD_MAX { text.to_owned() } else { String::new() }
    };
    encode(
        FIRST,
        &NodeFact {
            region: Region::new(short(node.region.as_str())),
            version: short(&node.version),
            http_address: node
                .http_address
                .as_deref()
                .filter(|text| text.len() <= NODE_FIELD_MAX)
                .map(str::to_owned),
        },
    )
}

/// Reads a peer's facts about itself.
///
/// # Errors
/// [`CodecError`] for whatever this node would not have written.
pub fn decode_node(text: &str) -> Result<NodeFact, CodecError> {
    let node: NodeFact = decode::<_, NODE_BYTES_MAX>(text)?;
    let fields = [node.region.as_str(), &node.version, node.http_address.as_deref().unwrap_or("")];
    if fields.iter().any(|field| field.len() > NODE_FIELD_MAX || field.chars().any(char::is_control)) {
        return Err(CodecError::Body("a field is too long or has control characters".into()));
    }
    Ok(node)
}

/// The last health there is on the wire.
const HEALTH_MAX: u8 = 3;

fn wire_report(report: &Report, beat: u8) -> WireReport {
    let speed = report.tokens_per_second.filter(|speed| speed.is_finite() && *speed >= 0.0);
    WireReport {
        beat,
        health: match report.health {
            Health::Unknown => 0,
            Health::Healthy => 1,
            Health::Loading => 2,
            Health::Unhealthy => 3,
        },
        breaker_open: report.breaker_open,
        queue_depth: two_digits(report.queue_depth),
        in_flight: two_digits(report.in_flight),
        slots: report.slots,
        // `as` saturates: an absurd speed stays the largest that can be told.
        speed_tenths: speed.map(|speed| two_digits((speed * 10.0).round() as u32)),
        latency_p95_ms: report.latency_p95_ms.map(two_digits),
        ttft_ms: report.ttft_ms.map(two_digits),
        rtt_ms: report.rtt_ms.map(two_digits),
        backoff_ms: two_digits(report.backoff_ms),
    }
}

fn read_report(wire: &WireReport) -> Result<Report, CodecError> {
    let health = match wire.health {
        0 => Health::Unknown,
        1 => Health::Healthy,
        2 => Health::Loading,
        3 => Health::Unhealthy,
        other => return Err(CodecError::Body(format!("there is no health {other}"))),
    };
    Ok(Report {
        health,
        queue_depth: wire.queue_depth,
        in_flight: wire.in_flight,
        slots: wire.slots,
        tokens_per_second: wire.speed_tenths.map(|tenths| tenths as f32 / 10.0),
        latency_p95_ms: wire.latency_p95_ms,
        ttft_ms: wire.ttft_ms,
        rtt_ms: wire.rtt_ms,
        backoff_ms: wire.backoff_ms,
        breaker_open: wire.breaker_open,
    })
}

/// `figure` rounded to two significant digits; small figures stay as they are.
fn two_digits(figure: u32) -> u32 {
    let mut unit = 1_u32;
    while figure / unit >= 100 {
        unit *= 10;
    }
    let rounded = (u64::from(figure) + u64::from(unit) / 2) / u64::from(unit) * u64::from(unit);
    u32::try_from(rounded).unwrap_or(figure)
}

fn encode<T: Serialize>(version: u8, body: &T) -> String {
    // Our own plain structs cannot fail to serialise into memory; an empty value would be refused by
    // every reader, never misread.
    bytes_of(version, body).map(|bytes| base64::encode(&bytes)).unwrap_or_default()
}

/// A version byte and a body.
pub(super) fn bytes_of<T: Serialize>(version: u8, body: &T) -> Option<Vec<u8>> {
    let mut bytes = vec![version];
    bytes.extend(bincode::serde::encode_to_vec(body, config::standard()).ok()?);
    Some(bytes)
}

/// Reads a body; the second number says how many bytes it had.
pub(super) fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<(T, usize), CodecError> {
    bincode::serde::decode_from_slice(body, config::standard().with_limit::<MEMORY_MAX>())
        .map_err(|error| CodecError::Body(error.to_string()))
}

fn bytes<const BYTES_MAX: usize>(text: &str) -> Result<Vec<u8>, CodecError> {
    if text.len() > (BYTES_MAX * 4).div_ceil(3) {
        return Err(CodecError::Oversized(text.len()));
    }
    base64::decode(text).ok_or(CodecError::Text)
}

/// A value of the first version.
fn decode<T: DeserializeOwned, const BYTES_MAX: usize>(text: &str) -> Result<T, CodecError> {
    match bytes::<BYTES_MAX>(text)?.split_first() {
        None => Err(CodecError::Text),
        Some((&FIRST, body)) => whole(body),
        Some((&found, _)) => Err(CodecError::Version { found, reads: FIRST }),
    }
}

/// A body without a byte too many.
fn whole<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    match read_body(body)? {
        (value, used) if used == body.len() => Ok(value),
        (_, used) => Err(CodecError::Body(format!("{} bytes too many", body.len() - used))),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
