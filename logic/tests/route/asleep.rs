//! Clusters scaled to zero, and machines that are about to be taken away.

use crate::scene::{NOW, Part, chat, cluster, order, planned, provider, refusal, view};
use llm_router_logic::money::Money;
use llm_router_logic::report::Health;
use llm_router_logic::request::Request;
use llm_router_logic::route::wanted::{awake, wanted};
use llm_router_logic::route::{Policy, Refusal};
use llm_router_logic::time::Moment;
use llm_router_logic::warmth::{ScaleToZero, Want, Warmth};
use std::time::Duration;

fn asleep(part: Part, warmth: Warmth) -> Part {
    let settings = ScaleToZero {
        cold_start: Duration::from_secs(90),
        demand_window: Duration::from_secs(60),
        wake_at_requests: 1,
        wake_at_saving: Money::ZERO,
        tokens_per_second: Some(100.0),
    };
    let mut part = part.spec(|spec| spec.scale_to_zero = Some(settings)).report(|report| {
        report.health = Health::Unhealthy;
        report.breaker_open = true;
    });
    part.standing.warmth = warmth;
    part
}

const COLD: Warmth = Warmth::Cold { cold_start: Duration::from_secs(90) };

fn waking(secs: u64) -> Warmth {
    Warmth::Waking { until: Moment::from_secs(1_000 + secs) }
}

fn wants(parts: &[Part], request: &Request) -> Option<(String, Want)> {
    let (now_view, loads) = view(parts);
    let made = planned(parts, request, &Policy::default(), 7);
    let awake = awake(&now_view, &Policy::default(), NOW)?;
    let (id, want) = wanted(&made, (&now_view, &awake), &loads, request, &Policy::default(), 7, NOW)?;
    Some((id.to_string(), want))
}

#[test]
fn a_sleeping_cluster_is_cold_or_waking_and_not_ill() {
    let parts = [asleep(cluster("gpu", 1.0, 100.0), COLD), asleep(cluster("next", 1.0, 100.0), waking(40))];
    assert_eq!(refusal(&parts, &chat(), "gpu"), Some(Refusal::Cold { cold_start_ms: 90_000 }));
    let soon = refusal(&parts, &chat(), "next").unwrap();
    assert_eq!(soon.retry_after(NOW), Some(Duration::from_secs(40)));
    let woken = parts[1].clone().report(|report| {
        report.health = Health::Healthy;
        report.breaker_open = false;
    });
    assert_eq!(order(&[woken], &chat()), ["next"], "what answers is warm, whatever was said before");
}

#[test]
fn a_request_wants_the_cluster_it_would_have_gone_to_and_says_what_that_would_have_saved() {
    let api = provider("api", 10.0, 10.0);
    let (name, want) = wants(&[asleep(cluster("gpu", 1.0, 100.0), COLD), api.clone()], &chat()).unwrap();
    assert_eq!(name, "gpu");
    // $0.002 at the provider against 100 tokens at 1 $/h, 100 tokens/s and a tenth on top.
    let saved = 0.002 - 1.0 / 3_600.0 * 1.1;
    let Want::Elsewhere(Some(saving)) = want else { panic!("{want:?}") };
    assert!((saving.as_usd() - saved).abs() < 1e-6, "{saving}");
    let nothing_else = wants(&[asleep(cluster("gpu", 1.0, 100.0), COLD)], &chat());
    assert_eq!(nothing_else, Some(("gpu".to_owned(), Want::Unserved)));
    let cheap = [asleep(cluster("gpu", 900.0, 100.0), COLD), provider("api", 0.1, 0.1)];
    assert_eq!(wants(&cheap, &chat()), None, "a dear cluster is not wanted");
    let other = chat().model.map(|_| Request { model: Some("other".into()), ..chat() }).unwrap();
    assert_eq!(wants(&[asleep(cluster("gpu", 1.0, 100.0), COLD), api], &other), None);
    assert_eq!(wants(&[cluster("warm", 1.0, 100.0)], &chat()), None);
}

#[test]
fn what_is_waking_is_wanted_before_a_second_machine_is() {
    let parts = [
        asleep(cluster("cheap", 0.5, 100.0), COLD),
        asleep(cluster("coming", 0.9, 100.0), waking(40)),
        provider("api", 10.0, 10.0),
    ];
    assert_eq!(wants(&parts, &chat()).unwrap().0, "coming");
}

#[test]
fn what_was_measured_last_prices_a_sleeping_cluster_before_what_is_configured() {
    let slow = asleep(cluster("gpu", 1.0, 1.0), COLD);
    assert_eq!(wants(&[slow, provider("api", 10.0, 10.0)], &chat()), None, "at 1 token/s it is dear");
}

#[test]
fn a_machine_about_to_be_taken_away_gets_only_what_ends_in_time() {
    let part = |secs: u64| {
        let mut part = cluster("spot", 0.01, 10.0).report(|report| report.ttft_ms = Some(1_000));
        part.standing.preempted_at = Some(Moment::from_secs(1_000 + secs));
        [part, provider("api", 10.0, 10.0)]
    };
    // A second to the first token and 99 further ones at 10 a second: 10.9 s, and a quarter on top.
    assert_eq!(order(&part(14), &chat())[0], "spot");
    assert_eq!(order(&part(13), &chat()), ["api"]);
    assert_eq!(
        refusal(&part(13), &chat(), "spot"),
        Some(Refusal::Preempted { at: Moment::from_secs(1_013) })
    );
    let short = Request { output_tokens: 5, ..chat() };
    assert_eq!(order(&part(13), &short)[0], "spot");
    assert_eq!(order(&part(0), &short), ["api"]);
}
