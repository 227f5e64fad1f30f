//! Why candidates had no place, for the client where none had.

use llm_router_actors::gate::NotAdmitted;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::time::Moment;
use std::time::Duration;

/// The least a client is told to stay away where all are busy.
const RETRY_LEAST: Duration = Duration::from_secs(1);

/// Why candidates had no place, for the client where none had.
#[derive(Default)]
pub(super) struct Refusals {
    busy: Option<Duration>,
    closed: Option<Duration>,
}

impl Refusals {
    pub(super) fn note(&mut self, refused: NotAdmitted, now: Moment) {
        let soonest =
            |known: Option<Duration>, wait: Duration| Some(known.map_or(wait, |known| known.min(wait)));
        match refused {
            NotAdmitted::Closed(until) => self.closed = soonest(self.closed, until.since(now)),
            NotAdmitted::QueueFull(wait) | NotAdmitted::TooLate(wait) => self.busy = soonest(self.busy, wait),
            NotAdmitted::TimedOut(_)
            | NotAdmitted::Displaced
            | NotAdmitted::TrialTaken
            | NotAdmitted::Dead => {
                self.busy = soonest(self.busy, Duration::ZERO);
            }
        }
    }

    /// Whether any of them would have served, had it had a place.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// 503 with the shortest wait expected; it is not the client that is over a limit. `None` where no
    /// candidate was without a place.
    pub(super) fn told(&self) -> Option<ApiError> {
        let (code, why) = match (self.busy, self.closed) {
            (None, None) => return None,
            (None, Some(_)) => ("rate_limited", "takes no more requests for now"),
            (Some(_), _) => ("overloaded", "is busy and cannot take it in time"),
        };
        let wait = self.busy.into_iter().chain(self.closed).min().unwrap_or_default().max(RETRY_LEAST);
        let why = format!("every backend that could serve this {why}");
        Some(ApiError::new(ErrorKind::Unavailable, why).with_code(code).with_retry_after(wait))
    }
}
