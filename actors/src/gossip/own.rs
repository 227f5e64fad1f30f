//! What this node tells, within bounds: every value passes here before chitchat has it.
//!
//! One chitchat value of 65 kB would silently hold up all later ones of its node, and everything a node tells
//! is sent in whole to each newcomer: the state is bounded where it is set.

use llm_router_logic::gossip::key::Key;
use llm_router_logic::time::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of keys and values a node may tell.
pub(super) const STATE_BYTES_MAX: usize = 16 * 1024;

/// Sizes of what is told.
#[derive(Debug, Default)]
pub(super) struct OwnState {
    sizes: BTreeMap<String, Size>,
    total: usize,
}

#[derive(Debug)]
struct Size {
    bytes: usize,
    /// Of a withdrawn value the key is told on until then.
    until: Option<Moment>,
}

impl OwnState {
    /// Whether `value` may be told under `key`; if so it is counted. Reports may fill the state, lists of
    /// models only a part of it: a peer can decide without them.
    pub(super) fn admit(&mut self, key: &Key, text: &str, value: &str, now: Moment) -> bool {
        self.forget(now);
        let limit = match key {
            Key::Models(_) => STATE_BYTES_MAX * 5 / 8,
            Key::Fact(..) => STATE_BYTES_MAX * 7 / 8,
            Key::Report(_) | Key::Node => STATE_BYTES_MAX,
        };
        let bytes = text.len() + value.len();
        let before = self.sizes.get(text).map_or(0, |size| size.bytes);
        let total = self.total - before + bytes;
        // What shrinks always may.
        if total > limit && bytes > before {
            return false;
        }
        self.total = total;
        self.sizes.insert(text.to_owned(), Size { bytes, until: None });
        true
    }

    /// A value is withdrawn; its key is told for `grace` longer, so that everybody learns of it.
    pub(super) fn withdraw(&mut self, text: &str, now: Moment, grace: Duration) {
        if let Some(size) = self.sizes.get_mut(text) {
            self.total -= size.bytes - text.len();
            *size = Size { bytes: text.len(), until: Some(now + grace) };
        }
    }

    /// Bytes told.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    fn forget(&mut self, now: Moment) {
        let Self { sizes, total } = self;
        sizes.retain(|_, size| {
            let keep = size.until.is_none_or(|until| until > now);
            if !keep {
                *total -= size.bytes;
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_router_logic::gossip::fact::Topic;

    fn admit(state: &mut OwnState, key: &Key, length: usize) -> bool {
        state.admit(key, &key.to_string(), &"v".repeat(length), Moment::ZERO)
    }

    #[test]
    fn no_more_is_told_than_the_bound_and_reports_find_room_last() {
        let mut state = OwnState::default();
        let models =
            (0..100).filter(|n| admit(&mut state, &Key::Models(format!("b{n}").as_str().into()), 1_024));
        let models = models.count();
        assert!((9..=10).contains(&models), "{models}");
        let facts =
            (0..200).filter(|n| admit(&mut state, &Key::Fact(Topic::Price, format!("n{n}").into()), 250));
        assert!(facts.count() >= 10);
        let reports =
            (0..500).filter(|n| admit(&mut state, &Key::Report(format!("b{n}").as_str().into()), 86));
        assert!(reports.count() >= 20);
        assert!(state.total() <= STATE_BYTES_MAX);
        assert!(!admit(&mut state, &Key::Report("one-more".into()), 86));
    }

    #[test]
    fn a_value_in_place_of_another_counts_once() {
        let mut state = OwnState::default();
        for _ in 0..1_000 {
            assert!(admit(&mut state, &Key::Report("b".into()), 80));
        }
        assert_eq!(state.total(), 83);
    }

    #[test]
    fn a_withdrawn_key_counts_until_it_is_forgotten() {
        let mut state = OwnState::default();
        assert!(admit(&mut state, &Key::Report("b".into()), 80));
        state.withdraw("b/b", Moment::ZERO, Duration::from_secs(9));
        assert_eq!(state.total(), 3);
        assert!(state.admit(&Key::Node, "n", "v", Moment::from_secs(9)));
        assert_eq!(state.total(), 2);
    }
}
