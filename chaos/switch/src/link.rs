//! What happens to packets that travel in one direction between two ports. No clock and no device: times are
//! nanoseconds that the caller hands in.

use serde_json::{Map, Value, json};

/// A queue in front of a rate holds this much; beyond it packets are lost, as in a router's buffer.
const QUEUE_NS_MAX: u64 = 500_000_000;

/// Rules of one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    /// One way.
    pub(crate) delay_us: u64,
    /// Added to the delay, drawn evenly from 0 to this; order is kept.
    pub(crate) jitter_us: u64,
    /// Share of packets lost, 0 to 1.
    pub(crate) loss: f64,
    /// 0 = no limit.
    pub(crate) rate_kbit: u64,
    /// Longer packets vanish without a word; 0 = none.
    pub(crate) mtu: u64,
    /// Everything vanishes.
    pub(crate) down: bool,
}

impl Rules {
    /// Nothing happens.
    pub(crate) const CLEAR: Self =
        Self { delay_us: 0, jitter_us: 0, loss: 0.0, rate_kbit: 0, mtu: 0, down: false };

    /// These rules with those fields of `change` that are rules.
    ///
    /// # Errors
    /// Names the field that is unknown or has a value it cannot have.
    pub(crate) fn with(mut self, change: &Map<String, Value>) -> Result<Self, String> {
        for (key, value) in change {
            let number = value.as_u64();
            let taken = match key.as_str() {
                "from" | "to" => Some(()),
                "delay_us" => number.map(|number| self.delay_us = number),
                "jitter_us" => number.map(|number| self.jitter_us = number),
                "rate_kbit" => number.map(|number| self.rate_kbit = number),
                "mtu" => number.map(|number| self.mtu = number),
                "down" => value.as_bool().map(|down| self.down = down),
                "loss" => {
                    value.as_f64().filter(|loss| (0.0..=1.0).contains(loss)).map(|loss| self.loss = loss)
                }
                _ => return Err(format!("unknown rule `{key}`")),
            };
            taken.ok_or_else(|| format!("`{key}` cannot be {value}"))?;
        }
        Ok(self)
    }
}

/// What passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    packets: u64,
    bytes: u64,
    udp_packets: u64,
    udp_bytes: u64,
    lost: u64,
}

impl Counters {
    pub(crate) fn told(self) -> Value {
        let Self { packets, bytes, udp_packets, udp_bytes, lost } = self;
        json!({"packets": packets, "bytes": bytes, "udp_packets": udp_packets, "udp_bytes": udp_bytes, "lost": lost})
    }
}

/// One direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) rules: Rules,
    pub(crate) counters: Counters,
    /// When the last packet arrives: the next one is not earlier.
    last_due: u64,
    /// When the wire is free again, where there is a rate.
    free_at: u64,
}

impl Link {
    pub(crate) const fn new() -> Self {
        let counters = Counters { packets: 0, bytes: 0, udp_packets: 0, udp_bytes: 0, lost: 0 };
        Self { rules: Rules::CLEAR, counters, last_due: 0, free_at: 0 }
    }

    /// When a packet of `bytes` that left at `now` arrives; nothing if it never does. `draw` gives numbers from 0
    /// to 1.
    pub(crate) fn admit(
        &mut self,
        bytes: usize,
        udp: bool,
        now: u64,
        draw: &mut impl FnMut() -> f64,
    ) -> Option<u64> {
        let length = bytes as u64;
        let Rules { delay_us, jitter_us, loss, rate_kbit, mtu, down } = self.rules;
        let lost = down || (mtu > 0 && length > mtu) || (loss > 0.0 && draw() < loss);
        let wire = if lost { None } else { self.take_wire(length, rate_kbit, now) };
        let Some(sent) = wire else {
            self.counters.lost += 1;
            return None;
        };
        let jitter = if jitter_us == 0 { 0 } else { (draw() * jitter_us as f64 * 1_000.0) as u64 };
        let due = (sent + delay_us * 1_000 + jitter).max(self.last_due);
        self.last_due = due;
        self.counters.packets += 1;
        self.counters.bytes += length;
        if udp {
            self.counters.udp_packets += 1;
            self.counters.udp_bytes += length;
        }
        Some(due)
    }

    /// When the packet is on the wire as a whole; nothing if the queue before it is full.
    fn take_wire(&mut self, length: u64, rate_kbit: u64, now: u64) -> Option<u64> {
        if rate_kbit == 0 {
            return Some(now);
        }
        let start = self.free_at.max(now);
        if start - now > QUEUE_NS_MAX {
            return None;
        }
        self.free_at = start + length * 8_000_000 / rate_kbit;
        Some(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruled(rules: Rules) -> Link {
        Link { rules, ..Link::new() }
    }

    fn never() -> f64 {
        unreachable!("nothing is drawn")
    }

    #[test]
    fn a_clear_link_delivers_at_once() {
        assert_eq!(Link::new().admit(100, false, 7, &mut never), Some(7));
    }

    #[test]
    fn delay_is_added_and_jitter_keeps_the_order() {
        let mut link = ruled(Rules { delay_us: 75_000, jitter_us: 10_000, ..Rules::CLEAR });
        assert_eq!(link.admit(100, false, 0, &mut || 1.0), Some(85_000_000));
        assert_eq!(link.admit(100, false, 1, &mut || 0.0), Some(85_000_000), "not before the one before it");
        assert_eq!(link.admit(100, false, 20_000_000, &mut || 0.0), Some(95_000_000));
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_queue_loses_them() {
        let mut link = ruled(Rules { rate_kbit: 8_000, ..Rules::CLEAR });
        assert_eq!(
            link.admit(1_000, false, 0, &mut never),
            Some(1_000_000),
            "1,000 bytes at 1 MB/s are 1 ms"
        );
        assert_eq!(link.admit(1_000, false, 0, &mut never), Some(2_000_000));
        let admitted = (0..1_000).filter(|_| link.admit(1_000, false, 0, &mut never).is_some()).count();
        assert_eq!(admitted, 499, "half a second of them waits");
    }

    #[test]
    fn a_cut_link_a_long_packet_and_an_unlucky_draw_lose_the_packet_and_count_it() {
        let mut cut = ruled(Rules { down: true, ..Rules::CLEAR });
        assert_eq!(cut.admit(1, false, 0, &mut never), None);
        let mut hole = ruled(Rules { mtu: 1_200, ..Rules::CLEAR });
        assert_eq!(hole.admit(1_201, false, 0, &mut never), None);
        assert_eq!(hole.admit(1_200, true, 0, &mut never), Some(0));
        let counted = Counters { packets: 1, bytes: 1_200, udp_packets: 1, udp_bytes: 1_200, lost: 1 };
        assert_eq!(hole.counters, counted);
        let mut lossy = ruled(Rules { loss: 0.05, ..Rules::CLEAR });
        assert_eq!(lossy.admit(1, false, 0, &mut || 0.04), None);
        assert_eq!(lossy.admit(1, false, 0, &mut || 0.06), Some(0));
    }

    #[test]
    fn only_rules_with_values_they_can_have_are_taken() {
        let change = |text| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let rules =
            Rules::CLEAR.with(&change(r#"{"from": "a", "delay_us": 5, "loss": 0.5, "down": true}"#)).unwrap();
        assert_eq!(rules, Rules { delay_us: 5, loss: 0.5, down: true, ..Rules::CLEAR });
        assert_eq!(Rules::CLEAR.with(&change(r#"{"los": 1}"#)).unwrap_err(), "unknown rule `los`");
        assert_eq!(Rules::CLEAR.with(&change(r#"{"loss": 2}"#)).unwrap_err(), "`loss` cannot be 2");
        assert_eq!(Rules::CLEAR.with(&change(r#"{"down": 1}"#)).unwrap_err(), "`down` cannot be 1");
    }
}
