//! The register against a model of it, over any sequence of events.

use super::*;
use crate::cache::answer::Whole;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use llm_router_logic::cost::usage::Usage;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TTL: Duration = Duration::from_secs(10);

fn answer(text: &str) -> Arc<Answer> {
    Arc::new(Answer {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(text.as_bytes()),
        streams: false,
        decision: String::new(),
        whole: Whole { cost: None, usage: Usage::default(), model: "m".into(), has_content: true },
    })
}

fn key(name: u8) -> Digest256 {
    [name; 32]
}

/// A running generation of the tests: its turn, and whether others may go along.
type Run = (u64, Result<(), bool>);

fn begin(register: &mut Register<Run>, name: u8, body: u8, now: Moment) -> Begin<u64> {
    let lead = |turn| ((turn, Ok(())), turn);
    register.begin(key(name), key(body), now, |(turn, joinable)| joinable.map(|()| *turn), lead)
}

fn bounds(entries_max: usize) -> Bounds {
    Bounds { ttl: TTL, entries_max, bytes_max: 1 << 20 }
}

#[test]
fn a_key_is_led_joined_replayed_and_forgotten() {
    let mut register = Register::new(bounds(10));
    let at = |s| Moment::ZERO + Duration::from_secs(s);
    let Begin::Lead(turn) = begin(&mut register, 1, 1, at(0)) else { panic!("not the first") };
    assert!(matches!(begin(&mut register, 1, 1, at(1)), Begin::Join(joined) if joined == turn));
    assert!(matches!(begin(&mut register, 1, 2, at(1)), Begin::Conflict), "while it runs");
    register.keep(key(1), turn, Some(answer("hello")), at(100));
    let Begin::Replay(again, age) = begin(&mut register, 1, 1, at(103)) else { panic!("not kept") };
    assert_eq!((&*again.body, age), (&b"hello"[..], Duration::from_secs(3)));
    assert!(matches!(begin(&mut register, 1, 2, at(103)), Begin::Conflict), "once it is kept");
    assert!(matches!(begin(&mut register, 1, 2, at(110)), Begin::Lead(_)), "its time is over");
}

#[test]
fn a_failed_generation_frees_its_key_and_a_late_end_changes_nothing() {
    let mut register = Register::new(bounds(10));
    let now = Moment::ZERO;
    let Begin::Lead(first) = begin(&mut register, 1, 1, now) else { panic!("not the first") };
    register.free(key(1), first);
    let Begin::Lead(second) = begin(&mut register, 1, 2, now) else { panic!("not free") };
    register.free(key(1), first);
    register.keep(key(1), first, Some(answer("of the first")), now);
    assert!(matches!(begin(&mut register, 1, 2, now), Begin::Join(turn) if turn == second));
}

#[test]
fn who_comes_too_late_to_go_along_is_told_so_or_generates() {
    let mut register = Register::new(bounds(10));
    let now = Moment::ZERO;
    let begin_with = |register: &mut Register<Run>, joinable| {
        register.begin(key(1), key(1), now, |(_, own)| own.map(|()| 0), |turn| ((turn, joinable), turn))
    };
    assert!(matches!(begin_with(&mut register, Err(true)), Begin::Lead(1)));
    assert!(matches!(begin_with(&mut register, Err(true)), Begin::Busy));
    register.keep(key(1), 1, None, now);
    assert!(matches!(begin_with(&mut register, Ok(())), Begin::Spent), "never generated twice");
    let mut register = Register::new(bounds(10));
    assert!(matches!(begin_with(&mut register, Err(false)), Begin::Lead(1)));
    assert!(matches!(begin_with(&mut register, Ok(())), Begin::Lead(2)), "the first was given up");
}

#[test]
fn room_is_made_by_answers_and_never_by_what_runs() {
    let mut register = Register::new(bounds(2));
    let now = Moment::ZERO;
    let Begin::Lead(turn) = begin(&mut register, 1, 1, now) else { panic!("not the first") };
    assert!(matches!(begin(&mut register, 2, 1, now), Begin::Lead(_)));
    assert!(matches!(begin(&mut register, 3, 1, now), Begin::Full));
    register.keep(key(1), turn, Some(answer("kept")), now);
    assert!(matches!(begin(&mut register, 3, 1, now), Begin::Lead(_)), "the kept one made room");
    assert_eq!(register.size(), (2, 0));
}

#[test]
fn the_answer_that_ended_first_makes_room_for_bytes() {
    let mut register = Register::new(Bounds { bytes_max: 2 * answer("abc").weight(), ..bounds(10) });
    for name in 1..=3 {
        let now = Moment::ZERO + Duration::from_secs(name.into());
        let Begin::Lead(turn) = begin(&mut register, name, 1, now) else { panic!("not the first") };
        assert_eq!(register.keep(key(name), turn, Some(answer("abc")), now), usize::from(name == 3));
    }
    let now = Moment::ZERO + Duration::from_secs(4);
    assert!(matches!(begin(&mut register, 1, 1, now), Begin::Lead(_)));
    assert!(matches!(begin(&mut register, 2, 1, now), Begin::Replay(..)));
}

/// What happens to a register.
#[derive(Clone, Debug)]
enum Event {
    Ask {
        name: u8,
        body: u8,
    },
    /// The nth running generation ends: 0 fails, 1 too large, else kept with so many bytes.
    Land {
        nth: usize,
        how: usize,
    },
    Wait {
        ms: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u8..5, 0_u8..2).prop_map(|(name, body)| Event::Ask { name, body }),
        3 => (0_usize..8, 0_usize..40).prop_map(|(nth, how)| Event::Land { nth, how }),
        2 => (0_u64..6_000).prop_map(|ms| Event::Wait { ms }),
    ]
}

/// What the model knows of a key.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Running(u64),
    Kept(usize, Moment),
    Spent(Moment),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_register_does_what_its_model_does(events in prop::collection::vec(event(), 1..120)) {
        let entries_max = 4;
        let mut register = Register::new(bounds(entries_max));
        let mut model: BTreeMap<u8, (u8, Known)> = BTreeMap::new();
        let mut ends: VecDeque<u8> = VecDeque::new();
        let mut now = Moment::ZERO;
        for event in events {
            match event {
                Event::Wait { ms } => now = now + Duration::from_millis(ms),
                Event::Ask { name, body } => {
                    let is_over = |known: &Known| match known {
                        Known::Running(_) => false,
                        Known::Kept(_, at) | Known::Spent(at) => now.since(*at) >= TTL,
                    };
                    model.retain(|_, (_, known)| !is_over(known));
                    ends.retain(|name| model.contains_key(name));
                    let got = begin(&mut register, name, body, now);
                    match model.get(&name) {
                        Some((first, _)) if *first != body => prop_assert!(matches!(got, Begin::Conflict)),
                        Some((_, Known::Running(turn))) => {
                            prop_assert!(matches!(got, Begin::Join(joined) if joined == *turn));
                        }
                        Some((_, Known::Kept(bytes, at))) => match got {
                            Begin::Replay(answer, age) => {
                                prop_assert_eq!((answer.body.len(), age), (*bytes, now.since(*at)));
                            }
                            other => prop_assert!(false, "{:?}", other),
                        },
                        Some((_, Known::Spent(_))) => prop_assert!(matches!(got, Begin::Spent)),
                        None => {
                            if model.len() >= entries_max {
                                match ends.pop_front() {
                                    Some(oldest) => drop(model.remove(&oldest)),
                                    None => {
                                        prop_assert!(matches!(got, Begin::Full));
                                        continue;
                                    }
                                }
                            }
                            let Begin::Lead(turn) = got else { return Err(TestCaseError::fail("not led")) };
                            model.insert(name, (body, Known::Running(turn)));
                        }
                    }
                }
                Event::Land { nth, how } => {
                    let running: Vec<(u8, u64)> = model
                        .iter()
                        .filter_map(|(name, (_, known))| match known {
                            Known::Running(turn) => Some((*name, *turn)),
                            _ => None,
                        })
                        .collect();
                    let Some(&(name, turn)) = running.get(nth) else { continue };
                    let body = model[&name].0;
                    match how {
                        0 => {
                            register.free(key(name), turn);
                            model.remove(&name);
                        }
                        1 => {
                            register.keep(key(name), turn, None, now);
                            model.insert(name, (body, Known::Spent(now)));
                            ends.push_back(name);
                        }
                        bytes => {
                            register.keep(key(name), turn, Some(answer(&"x".repeat(bytes))), now);
                            model.insert(name, (body, Known::Kept(bytes, now)));
                            ends.push_back(name);
                        }
                    }
                }
            }
            let (entries, _) = register.size();
            prop_assert!(entries <= entries_max);
        }
        // Everything is forgotten in the end, down to the last byte.
        let running: Vec<_> = model.iter().filter_map(|(name, (_, known))| match known {
            Known::Running(turn) => Some((*name, *turn)),
            _ => None,
        }).collect();
        running.into_iter().for_each(|(name, turn)| register.free(key(name), turn));
        now = now + TTL;
        let Begin::Lead(_) = begin(&mut register, 99, 0, now) else { return Err(TestCaseError::fail("not led")) };
        prop_assert_eq!(register.size(), (1, 0));
    }
}
