//! One machine serving several requests: a fluid model, exact between two changes of who is served.

use super::model::Machine;
use crate::time::Moment;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// Tokens below which a request counts as done: times are whole microseconds.
const DONE: f64 = 1e-6;

/// The state of a machine.
#[derive(Debug)]
pub(super) struct Cluster {
    machine: Machine,
    /// How many times as long everything takes.
    slow: f64,
    /// Who is being read, in order, with the tokens left.
    reading: VecDeque<(usize, f64, u32)>,
    /// Who is being answered, by the credit at which the answer ends.
    answering: BinaryHeap<Answering>,
    /// Tokens any one answer has been given since the start: all of them progress alike.
    credit: f64,
    at: Moment,
    /// Counts changes, so that an event foretold before a change is known to be void.
    pub(super) epoch: u64,
}

#[derive(Debug, PartialEq)]
struct Answering {
    ends_at: f64,
    request: usize,
}

impl Eq for Answering {}

impl Ord for Answering {
    /// The heap's top is the one that ends first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.ends_at.total_cmp(&self.ends_at).then(other.request.cmp(&self.request))
    }
}

impl PartialOrd for Answering {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What happened to a request at the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    FirstToken(usize),
    Ended(usize),
}

impl Cluster {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            slow: 1.0,
            reading: VecDeque::new(),
            answering: BinaryHeap::new(),
            credit: 0.0,
            at: Moment::ZERO,
            epoch: 0,
        }
    }

    /// A request begins.
    pub(super) fn start(&mut self, request: usize, input_tokens: u32, output_tokens: u32, now: Moment) {
        self.advance(now);
        self.reading.push_back((request, f64::from(input_tokens), output_tokens));
        self.epoch += 1;
    }

    /// Everybody who was served is gone.
    pub(super) fn clear(&mut self, now: Moment) {
        self.advance(now);
        self.reading.clear();
        self.answering.clear();
        self.epoch += 1;
    }

    /// From now on everything takes `times` as long as by the machine's speeds.
    pub(super) fn slow_down(&mut self, times: f64, now: Moment) {
        self.advance(now);
        self.slow = times;
        self.epoch += 1;
    }

    /// When something happens next if nothing else changes.
    pub(super) fn next(&self) -> Option<Moment> {
        let (read_rate, answer_rate) = self.rates();
        let read = self.reading.front().map(|(_, left, _)| left / read_rate);
        let answer = self.answering.peek().map(|first| (first.ends_at - self.credit) / answer_rate);
        let secs = match (read, answer) {
            (Some(read), Some(answer)) => read.min(answer),
            (read, answer) => read.or(answer)?,
        };
        // Rounded up, so that what is foretold has happened then.
        let micros = (secs.max(0.0) * 1e6).ceil().min(1e15);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10^15")]
        Some(Moment::from_micros(self.at.micros() + micros as u64))
    }

    /// What has happened up to `now`, in order.
    pub(super) fn happened(&mut self, now: Moment) -> Vec<Happened> {
        self.advance(now);
        let mut happened = Vec::new();
        while let Some((request, left, output)) = self.reading.front().copied()
            && left <= DONE
        {
            self.reading.pop_front();
            happened.push(Happened::FirstToken(request));
            // Reading the prompt made the first token.
            let ends_at = self.credit + f64::from(output.saturating_sub(1));
            self.answering.push(Answering { ends_at, request });
        }
        while let Some(first) = self.answering.peek()
            && first.ends_at - self.credit <= DONE
        {
            happened.push(Happened::Ended(first.request));
            self.answering.pop();
        }
        self.epoch += 1;
        happened
    }

    /// Tokens per second the prompt at the front is read with, and each answer is given.
    fn rates(&self) -> (f64, f64) {
        let Machine {
            prefill_tokens_per_second, decode_tokens_per_second, aggregate_tokens_per_second, ..
        } = self.machine;
        let answers = self.answering.len() as f64;
        let wanted = (answers * decode_tokens_per_second / aggregate_tokens_per_second).min(1.0);
        let share = if self.reading.is_empty() { wanted } else { wanted.min(0.5) };
        let answer_rate = share * aggregate_tokens_per_second / answers.max(1.0);
        let answer_rate = answer_rate.min(decode_tokens_per_second);
        (prefill_tokens_per_second * (1.0 - share) / self.slow, answer_rate / self.slow)
    }

    fn advance(&mut self, now: Moment) {
        let secs = now.since(self.at).as_secs_f64();
        let (read_rate, answer_rate) = self.rates();
        if let Some((_, left, _)) = self.reading.front_mut() {
            *left = (*left - secs * read_rate).max(0.0);
        }
        if self.answering.is_empty() {
            // Nobody's end depends on it: starting anew keeps it exact.
            self.credit = 0.0;
        } else {
            self.credit += secs * answer_rate;
        }
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn machine() -> Machine {
        Machine {
            slots: 4,
            prefill_tokens_per_second: 1_000.0,
            decode_tokens_per_second: 10.0,
            aggregate_tokens_per_second: 20.0,
            rtt: Duration::ZERO,
        }
    }

    fn run(cluster: &mut Cluster) -> Vec<(u64, Happened)> {
        let mut all = Vec::new();
        while let Some(at) = cluster.next() {
            all.extend(cluster.happened(at).into_iter().map(|what| (at.micros() / 1_000, what)));
        }
        all
    }

    #[test]
    fn one_request_takes_its_prompt_and_its_answer() {
        let mut cluster = Cluster::new(machine());
        cluster.start(0, 500, 11, Moment::ZERO);
        assert_eq!(run(&mut cluster), [(500, Happened::FirstToken(0)), (1_500, Happened::Ended(0))]);
    }

    #[test]
    fn answers_share_the_machine_once_it_is_full() {
        let mut cluster = Cluster::new(machine());
        for request in 0..4 {
            cluster.start(request, 0, 11, Moment::ZERO);
        }
        let ends: Vec<u64> = run(&mut cluster)
            .into_iter()
            .filter(|(_, what)| matches!(what, Happened::Ended(_)))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(ends, [2_000; 4], "4 × 10 tokens at 20 a second in all");
    }

    #[test]
    fn a_prompt_leaves_answers_half_of_the_machine() {
        let mut cluster = Cluster::new(machine());
        for request in 0..4 {
            cluster.start(request, 0, 11, Moment::ZERO);
        }
        cluster.happened(Moment::ZERO);
        cluster.start(9, 500, 1, Moment::ZERO);
        let all = run(&mut cluster);
        assert_eq!(all[0], (1_000, Happened::FirstToken(9)), "500 tokens at half of 1,000 a second");
        assert_eq!(all[2].0, 2_500, "5 s of a second's share lost to the prompt: {all:?}");
    }
}
