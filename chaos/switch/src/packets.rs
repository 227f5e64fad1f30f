//! The packets under way: from a device, through a link, to a device.

use crate::Port;
use crate::link::Link;
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

/// Packets taken from one device before the others have their turn.
const AT_ONCE: usize = 64;
/// Packets under way at most; more are lost.
const UNDER_WAY_MAX: usize = 200_000;
/// The longest packet an IPv4 header can tell of.
const LENGTH_MAX: usize = 65_536;
const UDP: u8 = 17;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: u64,
    /// Keeps the order of packets that are due at once.
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

/// The ports, the links between them and what is under way.
pub(crate) struct Network {
    ports: Vec<Port>,
    devices: Vec<File>,
    /// By sender, then receiver.
    links: Vec<Vec<Link>>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    number: u64,
    started: Instant,
    random: u64,
    buffer: Vec<u8>,
}

impl Network {
    pub(crate) fn new(ports: Vec<Port>, devices: Vec<File>) -> Self {
        let links = vec![vec![Link::new(); ports.len()]; ports.len()];
        Self {
            ports,
            devices,
            links,
            under_way: BinaryHeap::new(),
            number: 0,
            started: Instant::now(),
            random: 0x9E37_79B9_7F4A_7C15,
            buffer: vec![0; LENGTH_MAX],
        }
    }

    /// What to watch for packets.
    pub(crate) fn files(&self) -> Vec<RawFd> {
        self.devices.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// Nanoseconds until the next packet arrives; nothing if none is under way.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let now = self.now();
        self.under_way.peek().map(|Reverse(packet)| packet.due.saturating_sub(now))
    }

    /// Takes packets from a device until it has none or others must have their turn.
    pub(crate) fn read(&mut self, from: usize) {
        for _ in 0..AT_ONCE {
            let Ok(length) = self.devices[from].read(&mut self.buffer) else { return };
            let Some((to, udp)) = self.header(length) else { continue };
            let now = self.now();
            let mut random = self.random;
            let due = self.links[from][to].admit(length, udp, now, &mut || draw(&mut random));
            self.random = random;
            if let Some(due) = due.filter(|_| self.under_way.len() < UNDER_WAY_MAX) {
                self.number += 1;
                let bytes = self.buffer[..length].to_vec();
                self.under_way.push(Reverse(UnderWay { due, number: self.number, to, bytes }));
            }
        }
    }

    /// Hands out what has arrived by now. A device that takes no more loses the packet, as a full card does.
    pub(crate) fn deliver(&mut self) {
        let now = self.now();
        while self.under_way.peek().is_some_and(|Reverse(packet)| packet.due <= now) {
            if let Some(Reverse(packet)) = self.under_way.pop() {
                let _ = self.devices[packet.to].write(&packet.bytes);
            }
        }
    }

    /// Changes the links that `change` names: `from` and `to` are names of ports, or `*` for all. The rest are rules;
    /// `clear` forgets those in force first.
    ///
    /// # Errors
    /// Says what is wrong; nothing was changed then.
    pub(crate) fn change(&mut self, change: &Map<String, Value>) -> Result<(), String> {
        let mut change = change.clone();
        let clear = change.remove("clear").is_some_and(|clear| clear == Value::Bool(true));
        let (from, to) = (self.named(&change, "from")?, self.named(&change, "to")?);
        let mut changed = Vec::new();
        for from in from {
            for to in to.clone() {
                let before = if clear { crate::link::Rules::CLEAR } else { self.links[from][to].rules };
                changed.push((from, to, before.with(&change)?));
            }
        }
        for (from, to, rules) in changed {
            self.links[from][to].rules = rules;
        }
        Ok(())
    }

    /// What passed on every link that something passed on, or was lost on.
    pub(crate) fn told(&self) -> Value {
        let mut told = Vec::new();
        for (from, links) in self.links.iter().enumerate() {
            for (to, link) in links.iter().enumerate() {
                let mut counters = link.counters.told();
                counters["from"] = json!(self.ports[from].name);
                counters["to"] = json!(self.ports[to].name);
                told.push(counters);
            }
        }
        Value::Array(told)
    }

    fn named(&self, change: &Map<String, Value>, key: &str) -> Result<Vec<usize>, String> {
        let name = change.get(key).and_then(Value::as_str).ok_or_else(|| format!("`{key}` names no port"))?;
        if name == "*" {
            return Ok((0..self.ports.len()).collect());
        }
        let found = self.ports.iter().position(|port| port.name == name);
        Ok(vec![found.ok_or_else(|| format!("there is no port `{name}`"))?])
    }

    /// Whose network the packet in the buffer goes to, and whether it is UDP.
    fn header(&self, length: usize) -> Option<(usize, bool)> {
        let (target, protocol) = destination(&self.buffer[..length])?;
        let to = self.ports.iter().position(|port| {
            let kept = u32::MAX.checked_shl(32 - u32::from(port.bits)).unwrap_or(0);
            u32::from(port.network) & kept == u32::from(target) & kept
        })?;
        Some((to, protocol == UDP))
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

/// Where an IPv4 packet goes and what it carries.
fn destination(packet: &[u8]) -> Option<(Ipv4Addr, u8)> {
    let header = packet.get(..20)?;
    if header[0] >> 4 != 4 {
        return None;
    }
    Some((Ipv4Addr::new(header[16], header[17], header[18], header[19]), header[9]))
}

/// A number from 0 to 1 (xorshift64*, Vigna 2016): which packets are lost needs no better one.
fn draw(state: &mut u64) -> f64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_an_ipv4_packet_is_read_and_all_else_passed_over() {
        let mut packet = [0; 20];
        (packet[0], packet[9]) = (0x45, UDP);
        packet[16..20].copy_from_slice(&[10, 77, 1, 1]);
        assert_eq!(destination(&packet), Some((Ipv4Addr::new(10, 77, 1, 1), UDP)));
        assert_eq!(destination(&packet[..19]), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None, "IPv6");
    }

    #[test]
    fn draws_are_even() {
        let mut state = 1;
        let mean = (0..10_000).map(|_| draw(&mut state)).sum::<f64>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
    }
}
