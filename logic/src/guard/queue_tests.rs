use super::*;
use proptest::prelude::*;

const FAR: Moment = Moment::from_secs(1_000);

fn join(queue: &mut WaitQueue<String>, tenant: &str, tokens: u32, deadline: Moment) -> Ticket {
    let item = format!("{tenant}@{}", deadline.micros() / 1_000_000);
    queue.join(tenant, tokens, deadline, item, 1_000).unwrap().ticket
}

fn order(queue: &mut WaitQueue<String>) -> Vec<String> {
    std::iter::from_fn(|| queue.next(Moment::ZERO, &mut Vec::new())).collect()
}

#[test]
fn a_tenant_with_two_requests_is_not_behind_one_with_a_thousand() {
    let mut queue = WaitQueue::default();
    for _ in 0..500 {
        join(&mut queue, "many", 1_000, FAR);
    }
    join(&mut queue, "few", 1_000, FAR);
    join(&mut queue, "few", 1_000, FAR);
    assert_eq!(queue.ahead("few", FAR), 5, "two of its own, and as many turns of the other's");
    let served = order(&mut queue);
    let last_of_few = served.iter().rposition(|name| name.starts_with("few")).unwrap();
    assert!(last_of_few < 6, "the last of the few was served as number {last_of_few}");
    assert_eq!(served.len(), 502);
}

#[test]
fn turns_are_fair_in_tokens_and_not_in_requests() {
    let mut queue = WaitQueue::default();
    for _ in 0..200 {
        join(&mut queue, "long", 8_000, FAR);
        join(&mut queue, "short", 500, FAR);
    }
    let first: Vec<String> = (0..68).filter_map(|_| queue.next(Moment::ZERO, &mut Vec::new())).collect();
    let long = first.iter().filter(|name| name.starts_with("long")).count();
    assert!((3..=5).contains(&long), "{long} long ones beside {} short ones", first.len() - long);
}

#[test]
fn the_earliest_deadline_of_a_tenant_goes_first_and_what_is_late_is_dropped() {
    let mut queue = WaitQueue::default();
    for secs in [9, 3, 6] {
        join(&mut queue, "a", 1, Moment::from_secs(secs));
    }
    let mut late = Vec::new();
    assert_eq!(queue.next(Moment::from_secs(3), &mut late), Some("a@6".into()));
    assert_eq!(late, ["a@3"], "at its deadline it is late");
    assert_eq!(queue.next(Moment::from_secs(9), &mut late), None);
    assert_eq!((late.len(), queue.len()), (2, 0));
}

#[test]
fn a_full_queue_takes_the_quiet_tenant_in_and_pushes_the_loud_ones_latest_out() {
    let mut queue = WaitQueue::default();
    for secs in 1..=4 {
        queue.join("loud", 1, Moment::from_secs(secs), format!("loud{secs}"), 4).unwrap();
    }
    assert_eq!(queue.join("loud", 1, FAR, "loud5".into(), 4).unwrap_err(), "loud5");
    let joined = queue.join("quiet", 1, FAR, "quiet1".into(), 4).unwrap();
    assert_eq!(joined.displaced.as_deref(), Some("loud4"));
    let joined = queue.join("quiet", 1, FAR, "quiet2".into(), 4).unwrap();
    assert_eq!(joined.displaced.as_deref(), Some("loud3"));
    assert!(queue.join("quiet", 1, FAR, "quiet3".into(), 4).is_err(), "both have two now");
    assert_eq!(queue.len(), 4);
}

#[test]
fn who_leaves_is_gone_and_leaves_no_line_behind() {
    let mut queue = WaitQueue::default();
    let ticket = join(&mut queue, "a", 1, FAR);
    assert!(queue.leave(&ticket).is_some());
    assert!(queue.leave(&ticket).is_none());
    assert!(queue.is_empty() && queue.lines.is_empty());
}

#[test]
fn the_wait_is_that_of_all_ahead_over_all_places() {
    let hold = Duration::from_secs(8);
    assert_eq!(estimated_wait(0, 4, hold), Duration::from_secs(2));
    assert_eq!(estimated_wait(7, 4, hold), Duration::from_secs(16));
    assert_eq!(estimated_wait(usize::MAX, 1, Duration::MAX), Duration::MAX);
}

proptest! {
    #[test]
    fn everyone_who_joined_is_served_displaced_late_or_left_exactly_once(
        steps in proptest::collection::vec((0u8..4, 0usize..4, 1u32..60_000, 1u64..50), 1..300)
    ) {
        let mut queue = WaitQueue::default();
        let (mut now, mut serial) = (Moment::ZERO, 0_u32);
        let mut tickets = Vec::new();
        let mut gone: Vec<u32> = Vec::new();
        for (what, tenant, tokens, secs) in steps {
            match what {
                0 | 1 => {
                    serial += 1;
                    let deadline = now + Duration::from_secs(secs);
                    match queue.join(["a", "b", "c", "d"][tenant], tokens, deadline, serial, 20) {
                        Ok(joined) => {
                            tickets.push(joined.ticket);
                            gone.extend(joined.displaced);
                        }
                        Err(refused) => gone.push(refused),
                    }
                }
                2 => {
                    let mut late = Vec::new();
                    gone.extend(queue.next(now, &mut late));
                    gone.extend(late);
                    now = now + Duration::from_millis(secs * 50);
                }
                _ => {
                    let ticket = tickets.get(tokens as usize % tickets.len().max(1));
                    gone.extend(ticket.and_then(|ticket| queue.leave(ticket)));
                }
            }
            prop_assert!(queue.len() <= 20);
        }
        let mut late = Vec::new();
        while let Some(item) = queue.next(now, &mut late) {
            gone.push(item);
        }
        gone.extend(late);
        prop_assert!(queue.is_empty());
        gone.sort_unstable();
        prop_assert_eq!(gone, (1..=serial).collect::<Vec<_>>());
    }
}
