//! The decision, told as scenes: backends with facts in, ordered attempts with reasons out.

#[cfg(test)]
#[path = "route/asleep.rs"]
mod asleep;
#[cfg(test)]
#[path = "route/ejection.rs"]
mod ejection;
#[cfg(test)]
#[path = "route/eligibility.rs"]
mod eligibility;
#[cfg(test)]
#[path = "route/explanation.rs"]
mod explanation;
#[cfg(test)]
#[path = "route/marginal.rs"]
mod marginal;
#[cfg(test)]
#[path = "route/properties.rs"]
mod properties;
#[cfg(test)]
#[path = "route/scene.rs"]
mod scene;
#[cfg(test)]
#[path = "route/shortlists.rs"]
mod shortlists;
#[cfg(test)]
#[path = "route/slo.rs"]
mod slo;
#[cfg(test)]
#[path = "route/strategies.rs"]
mod strategies;
#[cfg(test)]
#[path = "route/terms.rs"]
mod terms;
