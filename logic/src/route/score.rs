//! Predicted latency and cost of one candidate.
