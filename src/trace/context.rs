//! Where a request stands in a trace: W3C Trace Context, read from its headers and told to backends.
//!
//! A header that is not as the recommendation wants it is as good as none: the request begins a trace of its
//! own.

use super::note::Section;
use super::sampling::Kept;
use http::HeaderMap;
use llm_router_logic::time::Moment;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Longest `tracestate` passed on, in bytes: the recommendation asks for at least 512.
const STATE_BYTES_MAX: usize = 512;
/// Most members of one.
const STATE_MEMBERS_MAX: usize = 32;
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Where one request stands.
#[derive(Debug)]
pub struct Context {
    trace: TraceId,
    /// The request's own span.
    span: SpanId,
    /// The span it came from.
    parent: Option<SpanId>,
    sampled: bool,
    /// As it came.
    state: Option<String>,
    /// The flags it came with.
    flags: u8,
    route: &'static str,
    started: Moment,
    wall: SystemTime,
    decision: OnceLock<Box<str>>,
    /// What the response cache knew, before anything was planned.
    cache: OnceLock<Section>,
    /// For a shadow copy: the request it copies.
    copy_of: Option<SpanContext>,
}

impl Context {
    pub(super) fn of(headers: &HeaderMap, route: &'static str, ids: &Ids, kept: &Kept, now: Moment) -> Self {
        let parent = parent(headers);
        let state = parent.is_some().then(|| state(headers)).flatten();
        let trace = parent.as_ref().map_or_else(|| ids.trace(), |parent| parent.trace);
        let theirs = parent.as_ref().map(|parent| parent.flags & 1 == 1);
        Self {
            trace,
            span: ids.span(),
            sampled: kept.sample(theirs, trace),
            flags: parent.as_ref().map_or(0, |parent| parent.flags),
            parent: parent.map(|parent| parent.span),
            state,
            route,
            started: now,
            wall: SystemTime::now(),
            decision: OnceLock::new(),
            cache: OnceLock::new(),
            copy_of: None,
        }
    }

    /// Where a shadow copy of its request stands: at the beginning of a trace of its own, which points to this one
    /// and is kept where this one is sampled.
    pub(super) fn copied(&self, ids: &Ids, now: Moment) -> Self {
        Self {
            trace: ids.trace(),
            span: ids.span(),
            sampled: self.sampled,
            route: self.route,
            started: now,
            wall: SystemTime::now(),
            copy_of: Some(self.of_span(self.span, self.sampled)),
            ..Self::none()
        }
    }

    /// A place in no trace.
    fn none() -> Self {
        Self {
            trace: TraceId::INVALID,
            span: SpanId::INVALID,
            parent: None,
            sampled: false,
            state: None,
            flags: 0,
            route: "",
            started: Moment::ZERO,
            wall: SystemTime::UNIX_EPOCH,
            decision: OnceLock::new(),
            cache: OnceLock::new(),
            copy_of: None,
        }
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace
    }

    /// The request's span.
    pub fn span_id(&self) -> SpanId {
        self.span
    }

    /// The decision made for it, once there is one.
    pub fn decision(&self) -> Option<&str> {
        self.decision.get().map(|id| &**id)
    }

    /// Notes the decision made for it.
    pub fn decided(&self, id: &str) {
        // A second one, of a shadow copy, is not this request's.
        let _ = self.decision.set(id.into());
    }

    /// Notes what the response cache knew of it, once.
    pub(super) fn looked(&self, cache: Section) {
        let _ = self.cache.set(cache);
    }

    pub(super) fn cache(&self) -> Option<&Section> {
        self.cache.get()
    }

    pub(super) fn copy_of(&self) -> Option<&SpanContext> {
        self.copy_of.as_ref()
    }

    /// Whether it is kept whatever comes of it.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    pub(super) fn parent(&self) -> Option<SpanId> {
        self.parent
    }

    pub(super) fn route(&self) -> &'static str {
        self.route
    }

    pub(super) fn started(&self) -> Moment {
        self.started
    }

    pub(super) fn wall(&self) -> SystemTime {
        self.wall
    }

    /// The context of one of its spans, for the exporter.
    pub(super) fn of_span(&self, span: SpanId, sampled: bool) -> SpanContext {
        let state = self.state.as_deref().and_then(|state| TraceState::from_str(state).ok());
        let flags = TraceFlags::default().with_sampled(sampled);
        SpanContext::new(self.trace, span, flags, false, state.unwrap_or_default())
    }

    /// Headers for who is asked next. Without a `span` of ours, what came is passed on as it came.
    pub(super) fn told(&self, span: Option<SpanId>) -> Vec<(&'static str, String)> {
        let (span, flags) = match (span, self.parent) {
            (Some(span), _) => (span, u8::from(self.sampled)),
            (None, Some(parent)) => (parent, self.flags),
            (None, None) => return Vec::new(),
        };
        let mut told = vec![(TRACEPARENT, format!("00-{}-{span}-{flags:02x}", self.trace))];
        told.extend(self.state.clone().map(|state| (TRACESTATE, state)));
        told
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::none()
    }
}

/// Makes ids that nobody else makes.
#[derive(Debug)]
pub(super) struct Ids {
    count: AtomicU64,
    random: u64,
}

impl Ids {
    pub(super) fn new(random: [u64; 2]) -> Self {
        Self { count: AtomicU64::new(random[0]), random: random[1] }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): each count gives another number, and none tells the next but to
    /// who inverts it, which an id need not withstand.
    fn next(&self) -> u64 {
        let mut mixed = self.count.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) ^ self.random
    }

    pub(super) fn span(&self) -> SpanId {
        SpanId::from(self.next().max(1))
    }

    fn trace(&self) -> TraceId {
        TraceId::from((u128::from(self.next()) << 64 | u128::from(self.next())).max(1))
    }
}

struct Parent {
    trace: TraceId,
    span: SpanId,
    flags: u8,
}

/// The one `traceparent`, where there is one and it is well made.
fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next().filter(|_| values.next().is_none())?.as_bytes();
    // version-trace-parent-flags; a later version may add more behind another dash.
    let whole = match value.get(..3)? {
        b"00-" => value.len() == 55,
        _ => value.len() == 55 || value.get(55) == Some(&b'-'),
    };
    if !whole || [2, 35, 52].iter().any(|dash| value[*dash] != b'-') {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = value.get(range)?;
        let lower = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        u128::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| lower)?, 16).ok()
    };
    let (version, trace) = (number(0..2)?, number(3..35)?);
    let (span, flags) = (u64::try_from(number(36..52)?).ok()?, u8::try_from(number(53..55)?).ok()?);
    let good = version != 0xff && trace != 0 && span != 0;
    good.then(|| Parent { trace: TraceId::from(trace), span: SpanId::from(span), flags })
}

/// All of `tracestate` in one line, where it is well made and not too long.
fn state(headers: &HeaderMap) -> Option<String> {
    let mut state = String::new();
    for value in headers.get_all(TRACESTATE) {
        let value = value.to_str().ok()?.trim();
        if value.is_empty() {
            continue;
        }
        if !state.is_empty() {
            state.push(',');
        }
        state.push_str(value);
        if state.len() > STATE_BYTES_MAX {
            return None;
        }
    }
    let few = state.split(',').count() <= STATE_MEMBERS_MAX;
    let named = state.split(',').all(|member| !member.trim_start().starts_with('='));
    (!state.is_empty() && few && named && TraceState::from_str(&state).is_ok()).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Traces;
    use http::HeaderValue;
    use llm_router_actors::clock::Clock;
    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::TraceContextExt;
    use opentelemetry_http::HeaderExtractor;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use proptest::prelude::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn context(headers: &[(&'static str, &str)]) -> Context {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let kept = Kept::new(&Traces::default(), Clock::start());
        Context::of(&map, "/v1/chat/completions", &Ids::new([1, 2]), &kept, Moment::ZERO)
    }

    #[tokio::test]
    async fn a_good_parent_is_continued_and_told_on_with_its_state() {
        let context = context(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2,c=3")]);
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent().unwrap().to_string(), "00f067aa0ba902b7");
        let span = SpanId::from(0xab);
        let expected = vec![
            (TRACEPARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ab-01".to_owned()),
            (TRACESTATE, "a=1,b=2,c=3".to_owned()),
        ];
        assert_eq!(context.told(Some(span)), expected);
        // Where no span is made, the next one hears what came.
        assert_eq!(context.told(None)[0].1, PARENT);
    }

    #[tokio::test]
    async fn without_a_parent_a_trace_begins_and_no_empty_state_is_told() {
        let context = context(&[]);
        assert!(context.parent().is_none());
        assert!(context.told(None).is_empty());
        let told = context.told(Some(SpanId::from(1)));
        assert_eq!(told.len(), 1);
        assert!(told[0].1.starts_with("00-") && told[0].1.len() == 55, "{told:?}");
    }

    #[tokio::test]
    async fn what_is_not_well_made_is_ignored() {
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0+",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
        ] {
            let context = context(&[("traceparent", bad), ("tracestate", "a=1")]);
            assert!(context.parent().is_none(), "{bad}");
            assert_eq!(context.told(Some(SpanId::from(1))).len(), 1, "a state without its parent: {bad}");
        }
        assert!(context(&[("traceparent", PARENT), ("traceparent", PARENT)]).parent().is_none());
        let long = format!("a={}", "x".repeat(600));
        for state in ["no pair", "A=1", &long, "="] {
            let context = context(&[("traceparent", PARENT), ("tracestate", state)]);
            assert!(context.parent().is_some());
            assert_eq!(context.told(Some(SpanId::from(1))).len(), 1, "{state}");
        }
        // A later version is read as far as it is known.
        let later = format!("cc{}-more", &PARENT[2..]);
        assert!(context(&[("traceparent", &later)]).parent().is_some());
    }

    proptest! {
        #[test]
        fn a_parent_is_read_as_the_sdks_propagator_reads_it(
            version in prop_oneof![Just("00"), Just("01"), Just("ff"), Just("0g")],
            trace in prop_oneof!["[0-9a-f]{32}", "[0-9A-Fa-f]{30,33}", "0{32}"],
            span in prop_oneof!["[0-9a-f]{16}", "[0-9a-f]{15,17}", "0{16}"],
            flags in prop_oneof!["0[0-3]", "[0-9a-f]{2}", "[0-9a-g]{1,3}"],
        ) {
            let value = format!("{version}-{trace}-{span}-{flags}");
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_str(&value).unwrap());
            let theirs = TraceContextPropagator::new().extract(&HeaderExtractor(&headers));
            let theirs = theirs.span().span_context().clone();
            let ours = parent(&headers);
            // Theirs takes numbers of other lengths and in capitals, and refuses flags above 2 of version 0.
            let strict = trace.len() == 32 && span.len() == 16 && flags.len() == 2;
            let strict = strict && value.bytes().all(|byte| !byte.is_ascii_uppercase());
            let known = u8::from_str_radix(&flags, 16).is_ok_and(|flags| flags <= 2);
            match ours {
                Some(ours) if known => {
                    prop_assert_eq!(ours.trace, theirs.trace_id());
                    prop_assert_eq!(ours.span, theirs.span_id());
                    prop_assert_eq!(ours.flags & 1 == 1, theirs.is_sampled());
                }
                Some(_) => {}
                None => prop_assert!(!(theirs.is_valid() && strict), "{}", value),
            }
        }
    }
}
