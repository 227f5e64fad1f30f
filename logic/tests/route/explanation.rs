//! What a person reads of a decision.

use crate::scene::{NOW, chat, cluster, provider, view};
use llm_router_logic::guard::breaker::Cause;
use llm_router_logic::ids::NodeId;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::route::{Policy, Refusal, RefusalNote, explain, plan};
use serde_json::json;
use std::time::Duration;

#[test]
fn an_explanation_has_candidates_refusals_ages_and_what_else_it_would_have_cost() {
    let healthy = Report { health: Health::Healthy, tokens_per_second: Some(10.0), ..Report::default() };
    let mut heard = cluster("heard", 0.0928, 1.0).peer(healthy, 700);
    heard.own = None;
    let parts = [
        heard,
        provider("api", 0.5, 1.5),
        cluster("ill", 0.378, 30.0).ill(),
        cluster("other", 0.0928, 10.0).model(|model| model.name = "other".into()),
        provider("unpriced", 1.0, 1.0).unpriced(),
    ];
    let (view, loads) = view(&parts);
    let policy = Policy::default();
    let plan = plan(&view, &loads, &chat(), &policy, 3, NOW);
    let explanation = explain(&plan, &view, &chat(), &policy, NOW);

    let first = &explanation.candidates[0];
    assert_eq!((first.backend.as_str(), first.facts.age_ms), ("heard", Some(700)));
    assert_eq!(first.facts.said_by.as_ref().map(NodeId::as_str), Some("gcp-0"));
    let second = &explanation.candidates[1];
    assert_eq!(
        second.extra_cost_usd,
        Some(second.predicted_cost_usd.unwrap() - first.predicted_cost_usd.unwrap())
    );
    let ill = explanation.refused.iter().find(|note| note.backend.as_str() == "ill").unwrap();
    // 100 tokens out at 30 tokens/s of 0.378 $/h, a tenth on top.
    assert_eq!(format!("{:.6}", ill.would_cost_usd.unwrap().as_usd()), "0.000385");
    let other = explanation.refused.iter().find(|note| note.backend.as_str() == "other").unwrap();
    assert_eq!(other.would_cost_usd, None, "it could not have served it");

    let text = explanation.to_string();
    for expected in [
        "model tiny, about 100 tokens in and 100 out, needs chat; strategy hybrid",
        "1. heard with tiny (hybrid_cluster): $0.000284 at $0.002836 per 1K tokens, adding nothing to the bill",
        "said by gcp-0 700 ms ago",
        "2. api with tiny (external_fallback): $0.000200 (-$0.000084 against the first)",
        "3. unpriced with tiny (external_fallback): cost unknown",
        "nothing known yet",
        "-  ill: failed three times in a row (unhealthy); would have cost $0.000385",
        "first token  = reading  + waiting  + way  late",
        "order: clusters at or under `clusterCostThreshold` with a free place",
        "?: not measured yet",
        "-  other: does not serve the model (model_not_served)",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
    }

    let row = text.lines().find(|line| line.trim_start().starts_with("1  heard")).unwrap();
    assert!(
        row.contains("$0.000284") && row.contains("0 of 4") && row.trim_end().ends_with("700 ms"),
        "{row}"
    );

    let json = serde_json::to_value(&explanation).unwrap();
    let scores: Vec<f64> = explanation.candidates.iter().map(|note| note.score.value).collect();
    assert!(scores.is_sorted() && scores[2] > 1_000.0, "an unknown price is a class of its own: {scores:?}");
    for note in &explanation.candidates {
        let sum: f64 = note.score.terms().map(|term| term.value).sum();
        assert!((sum - note.score.value).abs() < 1e-12, "{:?}", note.score);
    }
    let record = serde_json::to_value(&plan.steps[0]).unwrap();
    assert_eq!(record["fact_age_ms"], json!(700.0));
    assert_eq!(record["predicted_cost_usd"], json["candidates"][0]["predicted_cost_usd"]);
    assert_eq!(record["score"], json["candidates"][0]["score"]);
    assert_eq!(record["predicted_ttft_ms"], json!(null), "never measured");
    assert_eq!(json["candidates"][0]["terms"][0]["name"], "egress", "what is not known is left out");
    assert_eq!(json["strategy"], "hybrid");
    assert_eq!(json["candidates"][0]["reason"], "hybrid_cluster");
    assert_eq!(json["candidates"][1]["predicted_cost_usd"], json!(0.0002));
    assert_eq!(json["refused"][0]["code"], "unhealthy");
}

#[test]
fn nothing_to_try_is_said_so() {
    let (view, loads) = view(&[cluster("ill", 0.378, 30.0).ill()]);
    let policy = Policy::default();
    let plan = plan(&view, &loads, &chat(), &policy, 3, NOW);
    let text = explain(&plan, &view, &chat(), &policy, NOW).to_string();
    assert!(text.contains("nothing can serve it now"), "{text}");
}

#[test]
fn a_refusal_says_in_words_how_long_it_holds_and_never_in_microseconds() {
    let until = NOW + Duration::from_millis(1_250);
    let note = RefusalNote::new(Refusal::RateLimited { until }, NOW);
    let json = serde_json::to_value(&note).unwrap();
    let words = "its rate limit is used up; again in 1.25 s";
    assert_eq!(json, json!({"why": "rate_limited", "text": words, "retry_after_ms": 1_250}));
    let open = Refusal::BreakerOpen { until: Some(until), cause: Some(Cause::InARow { failures: 5 }) };
    let text = RefusalNote::new(open, NOW).text;
    assert_eq!(text, "its circuit breaker is open: 5 failures in a row; again in 1.25 s");
    let slow = Refusal::LatencyTooHigh { p95_ms: 6_200, max_ms: 5_000 };
    let expected = "one first token in twenty took over 6.20 s, more than `maxLatencyMs` allows (5.00 s)";
    assert_eq!(RefusalNote::new(slow, NOW).text, expected);
}
