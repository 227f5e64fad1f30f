use super::*;
use futures_util::future::join_all;

fn gate(slots: u32) -> Arc<Gate> {
    let guards = GuardPolicy { slow_start: Duration::from_secs(10), ..GuardPolicy::default() };
    Gate::new(Clock::start(), true, Some(slots), None, &guards)
}

fn ask(max_wait: Duration, max_waiting: u32) -> Ask<'static> {
    Ask { tenant: "t", model: "m", tokens: 1, trial: false, max_wait, max_waiting }
}

fn a_trial(max_wait: Duration) -> Ask<'static> {
    Ask { trial: true, ..ask(max_wait, 1) }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn never_more_run_than_the_limit_allows_and_all_get_their_turn() {
    let gate = gate(2);
    let peak = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let runs = (0..20).map(|_| {
        let (gate, peak) = (Arc::clone(&gate), Arc::clone(&peak));
        async move {
            let _slot = gate.admit(ask(LONG, 100)).await.unwrap();
            peak.fetch_max(gate.load(0, Moment::ZERO).in_flight, std::sync::atomic::Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    join_all(runs).await;
    assert_eq!(peak.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert_eq!(gate.load(0, Moment::ZERO).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_loses_no_slot() {
    let gate = gate(1);
    let held = gate.admit(ask(LONG, 10)).await.unwrap();
    let refused = gate.admit(ask(Duration::from_secs(1), 10)).await;
    assert_eq!(refused.err(), Some(NotAdmitted::TimedOut(Duration::from_secs(1))));
    let abandoned = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { gate.admit(ask(LONG, 10)).await.map(drop) }
    });
    tokio::task::yield_now().await;
    assert_eq!(gate.load(0, Moment::ZERO).waiting, 1);
    abandoned.abort();
    let _ = abandoned.await;
    assert_eq!(gate.load(0, Moment::ZERO).waiting, 0);
    drop(held);
    assert!(gate.admit(ask(Duration::ZERO, 0)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_a_larger_limit_lets_the_next_in() {
    let gate = gate(1);
    let _held = gate.admit(ask(LONG, 1)).await.unwrap();
    let next = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { gate.admit(ask(LONG, 1)).await.is_ok() }
    });
    tokio::task::yield_now().await;
    assert_eq!(gate.admit(ask(LONG, 1)).await.err(), Some(NotAdmitted::QueueFull(Duration::ZERO)));
    gate.set_places(Some(2));
    assert!(next.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_asked_for_quiet_is_left_alone_until_then() {
    let gate = gate(4);
    let until = gate.clock.now() + Duration::from_secs(2);
    gate.back_off(until);
    gate.back_off(gate.clock.now() + Duration::from_secs(1));
    assert_eq!(gate.admit(ask(LONG, 1)).await.err(), Some(NotAdmitted::Closed(until)));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(gate.admit(ask(LONG, 1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_half_open_breaker_lets_one_trial_through() {
    let gate = gate(4);
    let trial = gate.admit(a_trial(LONG)).await.unwrap();
    assert_eq!(gate.admit(a_trial(LONG)).await.err(), Some(NotAdmitted::TrialTaken));
    drop(trial);
    assert!(gate.admit(a_trial(LONG)).await.is_ok());
}

/// Somebody who waits and is then let go at once.
fn waiting(gate: &Arc<Gate>, ask: Ask<'static>) -> tokio::task::JoinHandle<Result<(), NotAdmitted>> {
    let gate = Arc::clone(gate);
    tokio::spawn(async move { gate.admit(ask).await.map(drop) })
}

/// A gate that has learnt that a place is held for ten seconds.
async fn held_for_ten_seconds(slots: u32) -> Arc<Gate> {
    let gate = gate(slots);
    let slot = gate.admit(ask(LONG, 1)).await.unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    drop(slot);
    gate
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_before_his_deadline_is_turned_away_at_once_and_told_the_wait() {
    let gate = held_for_ten_seconds(2).await;
    let _held = (gate.admit(ask(LONG, 9)).await.unwrap(), gate.admit(ask(LONG, 9)).await.unwrap());
    let before = gate.clock.now();
    let refused = gate.admit(ask(Duration::from_secs(4), 9)).await.err();
    assert_eq!(refused, Some(NotAdmitted::TooLate(Duration::from_secs(5))), "ten seconds over two places");
    assert_eq!(gate.clock.now(), before, "nobody waited for that");
    let waiter = waiting(&gate, ask(Duration::from_secs(6), 9));
    tokio::task::yield_now().await;
    assert_eq!(gate.load(0, gate.clock.now()).waiting, 1);
    assert_eq!(gate.wait(), Duration::from_secs(10), "one more would be second");
    waiter.abort();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_lets_a_quiet_tenant_in() {
    let gate = gate(1);
    let held = gate.admit(ask(LONG, 2)).await.unwrap();
    let loud = [waiting(&gate, ask(LONG, 2)), waiting(&gate, ask(LONG, 2))];
    tokio::task::yield_now().await;
    let quiet = waiting(&gate, Ask { tenant: "quiet", ..ask(LONG, 2) });
    tokio::task::yield_now().await;
    assert_eq!(gate.load(0, gate.clock.now()).waiting, 2);
    drop(held);
    assert_eq!(quiet.await.unwrap(), Ok(()));
    let [first, second] = loud;
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Err(NotAdmitted::Displaced)));
}

#[tokio::test(start_paused = true)]
async fn a_returning_backend_is_given_its_places_one_after_another() {
    let gate = gate(10);
    gate.warm_up();
    let limit = |gate: &Gate| gate.load(0, gate.clock.now()).limit;
    assert_eq!((limit(&gate), gate.load(0, gate.clock.now()).warming_percent), (1, Some(10)));
    let _first = gate.admit(ask(LONG, 9)).await.unwrap();
    let second = waiting(&gate, ask(LONG, 9));
    tokio::time::advance(Duration::from_secs(5)).await;
    gate.set_places(Some(10));
    assert_eq!(second.await.unwrap(), Ok(()), "who waits moves up as the share grows");
    assert_eq!(limit(&gate), 6);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!((limit(&gate), gate.load(0, gate.clock.now()).warming_percent), (10, None));
}

#[tokio::test(start_paused = true)]
async fn a_503_closes_its_model_and_a_429_the_account_unless_told_otherwise() {
    let closed = |model| Ask { model, ..ask(LONG, 1) };
    let gate = gate(4);
    let until = gate.clock.now() + Duration::from_secs(2);
    gate.back_off_model("a", until);
    assert_eq!(gate.admit(closed("a")).await.err(), Some(NotAdmitted::Closed(until)));
    assert!(gate.admit(closed("b")).await.is_ok());
    assert_eq!(gate.closed_models(), [("a".to_owned(), until)]);
    gate.throttled("a", until);
    assert_eq!(gate.admit(closed("b")).await.err(), Some(NotAdmitted::Closed(until)));

    let by_model = RateLimit { scope: ThrottleScope::Model, ..RateLimit::default() };
    let told = Gate::new(gate.clock, true, None, Some(by_model), &GuardPolicy::default());
    told.throttled("a", until);
    assert_eq!(told.admit(closed("a")).await.err(), Some(NotAdmitted::Closed(until)));
    assert!(told.admit(closed("b")).await.is_ok());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(told.admit(closed("a")).await.is_ok());
    assert!(told.closed_models().is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_places_are_unknown_the_limit_is_learnt_from_refusals() {
    let guards = GuardPolicy { concurrency_max: 64, ..GuardPolicy::default() };
    let gate = Gate::new(Clock::start(), true, None, None, &guards);
    let limit = || gate.load(0, gate.clock.now()).limit;
    assert_eq!(limit(), 64);
    let slots: Vec<Slot> =
        join_all((0..10).map(|_| gate.admit(ask(LONG, 1)))).await.into_iter().flatten().collect();
    gate.refused();
    assert_eq!((slots.len(), limit()), (10, 9), "below what ran");
    gate.set_places(Some(2));
    assert_eq!(limit(), 2, "once they are known they count");
}
