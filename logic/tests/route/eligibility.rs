//! Who may serve: models, capabilities, health and every bound at its exact value.

use crate::scene::{NOW, Part, chat, cluster, ejected, planned, provider, refusal, seen, steps};
use llm_router_logic::backend::{Kind, ServedModel};
use llm_router_logic::capability::Capabilities;
use llm_router_logic::guard::breaker::BreakerState;
use llm_router_logic::money::Money;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::request::Request;
use llm_router_logic::route::{Policy, Refusal};
use llm_router_logic::time::Moment;
use std::time::Duration;

fn asking(model: Option<&str>, needs: &[&str]) -> Request {
    Request { model: model.map(str::to_owned), needs: Capabilities::new(needs), ..chat() }
}

fn models(names: &[&str]) -> Vec<ServedModel> {
    names.iter().map(|name| ServedModel::named(*name)).collect()
}

/// The model `part` would be asked for, or why it is refused.
fn model_of(part: Part, request: &Request) -> Result<String, Refusal> {
    // A backend alone may stay ejected here: what is tried after all is the matter of `ejection`.
    let mut policy = Policy::default();
    policy.guards.ejected_max_percent = 100;
    let plan = planned(&[part], request, &policy, 0);
    match plan.steps.first() {
        Some(step) => Ok(step.model.to_string()),
        None => Err(plan.refused[0].1.clone()),
    }
}

fn code_of(part: Part, request: &Request) -> &'static str {
    model_of(part, request).map_or_else(|refusal| refusal.code(), |_| "serves")
}

#[test]
fn a_named_model_is_served_by_name_or_alias_under_the_backends_own_name() {
    let part = || {
        cluster("a", 1.0, 10.0).spec(|spec| {
            spec.models = models(&["one", "two"]);
            spec.models[0].aliases = vec!["two".into(), "uno".into()];
        })
    };
    assert_eq!(model_of(part(), &asking(Some("uno"), &["chat"])), Ok("one".into()));
    assert_eq!(model_of(part(), &asking(Some("two"), &["chat"])), Ok("two".into()), "a name beats an alias");
    assert_eq!(model_of(part(), &asking(Some("three"), &["chat"])), Err(Refusal::ModelNotServed));
    assert_eq!(model_of(part(), &asking(Some(""), &["chat"])), Err(Refusal::ModelNotServed));
}

#[test]
fn where_the_choice_is_left_open_the_default_model_is_taken_if_it_fits() {
    let part = || {
        provider("api", 1.0, 1.0).spec(|spec| {
            spec.models = models(&["mini", "big", "text-embedding-3-small"]);
            spec.default_model = Some("big".into());
        })
    };
    for model in [None, Some("auto")] {
        assert_eq!(model_of(part(), &asking(model, &["chat"])), Ok("big".into()));
        assert_eq!(model_of(part(), &asking(model, &["embedding"])), Ok("text-embedding-3-small".into()));
        let no_default = part().spec(|spec| spec.default_model = None);
        assert_eq!(model_of(no_default, &asking(model, &["chat"])), Ok("mini".into()));
    }
    let refused = model_of(part(), &asking(None, &["chat", "code"]));
    assert_eq!(refused, Err(Refusal::MissingCapability { missing: "code".into() }));
}

#[test]
fn a_cluster_without_configured_models_serves_what_it_or_a_peer_reports() {
    let blank = || cluster("a", 1.0, 10.0).spec(|spec| spec.models.clear());
    assert_eq!(code_of(blank(), &asking(Some("tiny"), &["chat"])), "models_unknown");
    let told = blank().fact(|fact| fact.models = models(&["phi"]).into());
    assert_eq!(model_of(told.clone(), &asking(None, &["chat"])), Ok("phi".into()));
    assert_eq!(code_of(told, &asking(Some("tiny"), &["chat"])), "model_not_served");
    let mut heard = blank().peer(Report { health: Health::Healthy, ..Report::default() }, 100);
    heard.own = None;
    heard.peers[0].models = models(&["phi"]).into();
    assert_eq!(model_of(heard, &asking(Some("phi"), &["chat"])), Ok("phi".into()));
}

/// Kind, model, words of the backend, words of the model, needs, whether it serves.
type Case<'a> = (Kind, &'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], bool);

#[test]
fn capabilities_come_from_the_model_the_backend_or_the_kinds_defaults() {
    let with = |kind: Kind, model: &str, spec_words: &[&str], model_words: &[&str]| {
        provider("p", 1.0, 1.0).spec(|spec| {
            spec.kind = kind;
            spec.models = models(&[model]);
            spec.models[0].capabilities = Capabilities::new(model_words);
            spec.capabilities = Capabilities::new(spec_words);
        })
    };
    let cases: [Case<'_>; 23] = [
        (Kind::Llama, "m", &[], &[], &["chat", "tools", "json"], true),
        (Kind::Llama, "m", &[], &[], &["completion"], true),
        (Kind::Llama, "m", &[], &[], &["embedding"], false),
        (Kind::Llama, "m", &[], &[], &["chat", "vision"], false),
        (Kind::Llama, "m", &[], &["vision"], &["chat", "vision"], true),
        (Kind::Llama, "m", &["code"], &[], &["chat", "code"], true),
        (Kind::Llama, "m", &["chat"], &[], &["chat"], true),
        (Kind::Llama, "m", &["chat"], &[], &["chat", "tools"], false),
        (Kind::Llama, "bge", &[], &["embedding"], &["embedding"], true),
        (Kind::Llama, "bge", &[], &["embedding"], &["chat"], false),
        (Kind::Llama, "m", &["chat"], &["code"], &["chat", "code"], true),
        (Kind::OpenAi, "gpt-x", &[], &[], &["chat", "vision", "tools", "json"], true),
        (Kind::OpenAi, "gpt-x", &[], &[], &["embedding"], false),
        (Kind::OpenAi, "text-embedding-3-small", &[], &[], &["embedding"], true),
        (Kind::OpenAi, "text-embedding-3-small", &[], &[], &["chat"], false),
        (Kind::Anthropic, "claude-x", &[], &[], &["chat", "vision", "tools", "json"], true),
        (Kind::Anthropic, "claude-x", &[], &[], &["completion"], false),
        (Kind::Anthropic, "claude-x", &[], &[], &["embedding"], false),
        (Kind::Gemini, "gemini-x", &[], &[], &["chat", "vision", "tools", "json"], true),
        (Kind::Gemini, "gemini-x", &[], &[], &["embedding"], false),
        (Kind::Gemini, "gemini-embedding-001", &[], &[], &["embedding"], true),
        (Kind::Gemini, "gemini-x", &[], &[], &["chat", "code"], false),
        (Kind::OpenAi, "gpt-x", &[], &["embedding"], &["chat"], false),
    ];
    for (kind, model, spec_words, model_words, needs, serves) in cases {
        let code = code_of(with(kind, model, spec_words, model_words), &asking(Some(model), needs));
        let expected = if serves { "serves" } else { "missing_capability" };
        assert_eq!(code, expected, "{kind:?} {model} {spec_words:?} {model_words:?} needs {needs:?}");
    }
}

#[test]
fn the_context_window_holds_input_and_output() {
    let with = |window| cluster("a", 1.0, 10.0).model(move |model| model.context_window = window);
    assert_eq!(code_of(with(Some(200)), &chat()), "serves");
    assert_eq!(model_of(with(Some(199)), &chat()), Err(Refusal::ContextWindow { tokens: 200, window: 199 }));
    assert_eq!(
        code_of(with(None), &Request { input_tokens: u32::MAX, output_tokens: u32::MAX, ..chat() }),
        "serves"
    );
    let two = with(Some(100)).spec(|spec| spec.models.push(ServedModel::named("long")));
    assert_eq!(model_of(two, &Request { model: None, ..chat() }), Ok("long".into()));
}

#[test]
fn a_cluster_must_be_healthy_and_a_provider_not_unhealthy() {
    let cases = [
        (Health::Healthy, "serves", "serves"),
        (Health::Unknown, "never_seen", "serves"),
        (Health::Loading, "loading", "serves"),
        (Health::Unhealthy, "unhealthy", "unhealthy"),
    ];
    for (health, at_cluster, at_provider) in cases {
        let seen = |part: Part| part.report(|report| report.health = health);
        assert_eq!(code_of(seen(cluster("a", 1.0, 10.0)), &chat()), at_cluster);
        assert_eq!(code_of(seen(provider("p", 1.0, 1.0)), &chat()), at_provider);
    }
    let mut unseen = cluster("a", 1.0, 10.0);
    unseen.own = None;
    assert_eq!(code_of(unseen, &chat()), "never_seen");
    assert_eq!(code_of(provider("p", 1.0, 1.0), &chat()), "serves");
}

#[test]
fn a_peers_word_counts_for_five_seconds_and_only_until_this_node_looked_itself() {
    let healthy = Report { health: Health::Healthy, ..Report::default() };
    let heard = |age_ms| {
        let mut part = cluster("a", 1.0, 10.0).peer(healthy, age_ms);
        part.own = None;
        part
    };
    assert_eq!(code_of(heard(5_000), &chat()), "serves");
    assert_eq!(code_of(heard(5_001), &chat()), "never_seen");
    assert_eq!(code_of(cluster("a", 1.0, 10.0).ill().peer(healthy, 1), &chat()), "unhealthy");
}

#[test]
fn latency_and_queue_of_a_cluster_are_bounded_at_exactly_the_bound() {
    let slow = |p95| cluster("a", 1.0, 10.0).report(move |report| report.latency_p95_ms = Some(p95));
    assert_eq!(code_of(slow(5_000), &chat()), "serves");
    assert_eq!(model_of(slow(5_001), &chat()), Err(Refusal::LatencyTooHigh { p95_ms: 5_001, max_ms: 5_000 }));
    let queued = |depth| cluster("a", 1.0, 10.0).report(move |report| report.queue_depth = depth);
    assert_eq!(code_of(queued(10), &chat()), "serves");
    assert_eq!(model_of(queued(11), &chat()), Err(Refusal::QueueTooLong { depth: 11, max: 10 }));
    let waiting = cluster("a", 1.0, 10.0).load(|load| load.waiting = 11);
    assert_eq!(code_of(waiting, &chat()), "queue_too_long");
    let provider = provider("p", 1.0, 1.0).report(|report| {
        report.latency_p95_ms = Some(60_000);
        report.queue_depth = 1_000;
    });
    assert_eq!(code_of(provider, &chat()), "serves", "these bounds are for clusters");
}

#[test]
fn full_slots_are_no_refusal() {
    let full = cluster("a", 1.0, 10.0).load(|load| load.in_flight = 4);
    assert_eq!(code_of(full, &chat()), "serves");
}

#[test]
fn an_open_breaker_refuses_its_model_only_and_half_open_lets_one_trial_through() {
    let until = NOW + Duration::from_secs(3);
    let broken = |name| ejected(cluster("a", 1.0, 10.0), name, BreakerState::Open { until });
    assert_eq!(code_of(broken("tiny"), &chat()), "breaker_open");
    assert_eq!(code_of(broken("other"), &chat()), "serves");
    let trial = || ejected(cluster("a", 1.0, 10.0), "tiny", BreakerState::HalfOpen);
    assert_eq!(code_of(trial(), &chat()), "serves");
    let due = ejected(cluster("a", 1.0, 10.0), "tiny", BreakerState::Open { until: NOW });
    assert_eq!(code_of(due, &chat()), "serves", "an open breaker whose time has come is half open");
    assert_eq!(code_of(trial().load(|load| load.trial_taken = true), &chat()), "trial_taken");
    let taken_elsewhere = cluster("a", 1.0, 10.0).load(|load| load.trial_taken = true);
    assert_eq!(code_of(taken_elsewhere, &chat()), "serves", "a closed breaker has no trial");
    let all = cluster("a", 1.0, 10.0).report(|report| report.breaker_open = true);
    assert_eq!(code_of(all, &chat()), "breaker_open");
    let mut heard = cluster("a", 1.0, 10.0)
        .peer(Report { health: Health::Healthy, breaker_open: true, ..Report::default() }, 10);
    heard.own = None;
    assert_eq!(code_of(heard, &chat()), "breaker_open");
}

#[test]
fn a_rate_limit_or_a_back_off_refuses_until_its_time_and_says_how_long() {
    let until = NOW + Duration::from_secs(3);
    let closed = provider("p", 1.0, 1.0).load(|load| load.closed_until = Some(until));
    let refused = model_of(closed, &chat()).unwrap_err();
    assert_eq!(refused, Refusal::RateLimited { until });
    assert_eq!(refused.retry_after(NOW), Some(Duration::from_secs(3)));
    let over = provider("p", 1.0, 1.0).load(|load| load.closed_until = Some(NOW));
    assert_eq!(code_of(over, &chat()), "serves");

    let backing_off = |observed_ms_ago: u64| {
        let mut part = provider("p", 1.0, 1.0);
        part.own = Some(seen(Report { health: Health::Healthy, backoff_ms: 2_000, ..Report::default() }));
        part.fact(|fact| fact.observed_at = Moment::from_micros(NOW.micros() - observed_ms_ago * 1_000))
    };
    let refused = model_of(backing_off(500), &chat()).unwrap_err();
    assert_eq!(refused.retry_after(NOW), Some(Duration::from_millis(1_500)));
    assert_eq!(code_of(backing_off(2_000), &chat()), "serves");
}

#[test]
fn a_maximum_cost_refuses_what_is_dearer_or_unknown() {
    let part = || provider("p", 1.0, 1.0);
    let exact = Money::from_usd(0.0002).unwrap();
    let bounded = |max: Money| {
        let mut request = chat();
        request.hints.max_cost = Some(max);
        request
    };
    assert_eq!(code_of(part(), &bounded(exact)), "serves");
    let below = exact - Money::from_pico(1);
    assert_eq!(model_of(part(), &bounded(below)), Err(Refusal::TooDear { predicted: exact, max: below }));
    assert_eq!(code_of(part().unpriced(), &bounded(exact)), "cost_unknown");
    assert_eq!(code_of(cluster("a", 1.0, 1.0).unpriced(), &bounded(exact)), "cost_unknown");
}

#[test]
fn the_first_reason_is_the_most_lasting_one() {
    let everything_wrong = cluster("a", 1.0, 10.0)
        .ill()
        .report(|report| report.queue_depth = 99)
        .load(|load| load.closed_until = Some(NOW + Duration::from_secs(1)));
    let parts = [everything_wrong.clone()];
    assert_eq!(refusal(&parts, &chat(), "a").map(|refusal| refusal.code()), Some("unhealthy"));
    assert_eq!(code_of(everything_wrong, &asking(Some("other"), &["chat"])), "model_not_served");
}

#[test]
fn only_what_can_change_by_itself_may_pass() {
    let passing = [Refusal::NeverSeen, Refusal::Unhealthy, Refusal::QueueTooLong { depth: 2, max: 1 }];
    let lasting = [Refusal::ModelNotServed, Refusal::ContextWindow { tokens: 2, window: 1 }];
    assert!(passing.iter().all(Refusal::may_pass));
    assert!(!lasting.iter().any(Refusal::may_pass));
    for refusal in passing.iter().chain(&lasting) {
        let json = serde_json::to_value(refusal).unwrap();
        assert_eq!(json["why"], refusal.code(), "the code is the word in JSON");
    }
}

#[test]
fn no_backend_at_all_is_an_empty_plan() {
    assert!(steps(&[], &chat()).is_empty());
}
