//! The option `--trouble` of `replay`: what befalls backends, in one word.
//!
//! ```text
//! WHOM=WHAT@FROM..TO     openai=outage@10m..15m             region:us-west-2=outage@20m..25m
//!                        openai=throttled:30s@10m..12m      aws-gpu=slow:4@10m..15m
//!                        aws-gpu=preempted:2m@10m..20m
//! ```

use crate::config::parse_duration;
use llm_router_logic::ids::{BackendId, Region};
use llm_router_logic::sim::{Trouble, TroubleKind, Whom};
use llm_router_logic::time::Moment;
use std::time::Duration;

/// Longest wait that a provider asks for where none is given.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// What clouds give between a notice and the end of a machine: AWS two minutes, the others less.
const NOTICE: Duration = Duration::from_secs(120);

/// Reads one trouble.
///
/// # Errors
/// What is wrong with it and how it is written.
pub(crate) fn trouble(word: &str) -> Result<Trouble, String> {
    let usage = || "expected WHOM=WHAT@FROM..TO, for example `openai=outage@10m..15m`".to_owned();
    let (whom, what) = word.split_once('=').ok_or_else(usage)?;
    let (what, when) = what.split_once('@').ok_or_else(usage)?;
    let (from, to) = when.split_once("..").ok_or_else(usage)?;
    let whom = match whom.strip_prefix("region:") {
        Some(region) => Whom::Region(Region::new(region)),
        None => Whom::Backend(BackendId::new(whom)),
    };
    let (name, value) = what.split_once(':').map_or((what, None), |(name, value)| (name, Some(value)));
    let time = |value: Option<&str>, otherwise| value.map_or(Ok(otherwise), parse_duration);
    let kind = match (name, value) {
        ("outage", None) => TroubleKind::Outage,
        ("slow", Some(times)) => {
            let times = times.parse().map_err(|_| format!("`{times}` is no number of times"))?;
            TroubleKind::Slow(times)
        }
        ("throttled", after) => TroubleKind::Throttled(time(after, RETRY_AFTER)?),
        ("preempted", notice) => TroubleKind::Preempted(time(notice, NOTICE)?),
        _ => {
            return Err(format!(
                "unknown trouble `{what}`: one of outage, slow:TIMES, throttled[:RETRY-AFTER], preempted[:NOTICE]"
            ));
        }
    };
    let moment = |text: &str| parse_duration(text).map(|since| Moment::ZERO + since);
    Ok(Trouble { whom, kind, from: moment(from)?, to: moment(to)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_one_word() {
        let read = trouble("region:us-west-2=slow:2.5@90s..10m").unwrap();
        assert_eq!(read.whom, Whom::Region(Region::new("us-west-2")));
        assert_eq!(read.kind, TroubleKind::Slow(2.5));
        assert_eq!((read.from, read.to), (Moment::from_secs(90), Moment::from_secs(600)));
        let kind = |word: &str| trouble(word).map(|read| read.kind);
        assert_eq!(kind("openai=throttled@1m..2m"), Ok(TroubleKind::Throttled(RETRY_AFTER)));
        assert_eq!(kind("aws-gpu=preempted:30s@1m..2m"), Ok(TroubleKind::Preempted(Duration::from_secs(30))));
    }

    #[test]
    fn a_mistake_says_how_it_is_written() {
        for (word, part) in [
            ("openai", "expected WHOM=WHAT@FROM..TO"),
            ("openai=outage", "expected WHOM=WHAT@FROM..TO"),
            ("openai=outage@1m", "expected WHOM=WHAT@FROM..TO"),
            ("openai=lazy@1m..2m", "unknown trouble `lazy`: one of outage"),
            ("openai=slow:much@1m..2m", "`much` is no number"),
        ] {
            let error = trouble(word).unwrap_err();
            assert!(error.contains(part), "{word}: {error}");
        }
        assert!(trouble("openai=outage@soon..2m").is_err());
    }
}
