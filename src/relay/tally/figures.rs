//! What metrics compare once a request has ended: prediction and truth, the arms of experiments.

use super::Tally;
use crate::decisions::Outcome;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::route::Step;
use prometheus::Histogram;
use std::time::Duration;

impl Tally {
    /// How far the prediction was from the truth.
    pub(super) fn compare(&self, reported: Option<Usage>) {
        let Some(usage) = reported else { return };
        let metrics = self.sources.handle.metrics();
        let record = &self.record;
        let error = |predicted: f64, truth: f64| (truth > 0.0).then(|| (predicted / truth - 1.0).abs());
        let observe = |histogram: &Histogram, error: Option<f64>| {
            if let Some(error) = error {
                histogram.observe(error);
            }
        };
        let input = error(record.predicted_input_tokens.into(), usage.total_input() as f64);
        let output = error(record.predicted_output_tokens.into(), usage.total_output() as f64);
        let cost = record.predicted_cost.zip(record.cost);
        let cost = cost.and_then(|(predicted, truth)| error(predicted.as_usd(), truth.as_usd()));
        observe(&metrics.input_estimate_error_ratio, input);
        observe(&metrics.states.output_estimate_error_ratio, output);
        observe(&metrics.states.cost_estimate_error_ratio, cost);
    }

    pub(super) fn count_external(&self, step: &Step, status: &str) {
        if !self.sources.snapshot.view.backends[step.index].spec.is_cluster() {
            let labels = [step.backend.as_str(), &step.model, status];
            self.sources.handle.metrics().external_requests_total.with_label_values(&labels).inc();
        }
    }

    /// What came of it, for each arm it is in.
    pub(super) fn count_arms(&self) {
        let states = &self.sources.handle.metrics().states;
        let arms = self.record.circumstances.experiments.iter();
        for (experiment, arm) in arms.filter_map(|one| one.split_once('=')) {
            let word = match self.record.outcome {
                Outcome::Served => "served",
                Outcome::Cancelled => "cancelled",
                Outcome::Failed | Outcome::Running => "failed",
            };
            states.experiment_requests_total.with_label_values(&[experiment, arm, word]).inc();
            if let Some(cost) = self.record.cost {
                let spent = states.experiment_spend_usd_total.with_label_values(&[experiment, arm]);
                spent.inc_by(cost.as_usd().max(0.0));
            }
            if let Some(ms) = self.record.ttft_ms {
                let ttft = states.experiment_ttft_seconds.with_label_values(&[experiment, arm]);
                ttft.observe(Duration::from_millis(ms).as_secs_f64());
            }
        }
    }
}
