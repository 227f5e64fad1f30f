use super::*;
use proptest::prelude::*;

fn reported(input: u64, output: u64) -> Option<Usage> {
    Some(Usage { input, output, ..Usage::default() })
}

#[test]
fn a_complete_answer_is_charged_as_reported() {
    let seen = Seen { reported: reported(7, 3), content_events: 9, at_work: true, complete: true };
    assert_eq!(
        tokens(&seen, 100),
        (seen.reported.unwrap(), false),
        "one event may be several tokens or none"
    );
}

#[test]
fn an_answer_without_usage_is_estimated_and_so_is_one_that_claims_nothing() {
    for reported in [None, reported(0, 0)] {
        let seen = Seen { reported, content_events: 9, at_work: true, complete: true };
        let (usage, estimated) = tokens(&seen, 100);
        assert_eq!((usage.input, usage.output, estimated), (100, 9, true));
    }
}

#[test]
fn an_empty_answer_that_reports_nothing_costs_nothing() {
    let seen = Seen { reported: reported(0, 0), content_events: 0, at_work: true, complete: true };
    assert_eq!(tokens(&seen, 100), (Usage::default(), false));
}

#[test]
fn a_stream_cut_off_is_charged_for_what_was_seen_of_it() {
    // Anthropic tells the input and one token of output at the start.
    let seen = Seen { reported: reported(70, 1), content_events: 30, at_work: true, complete: false };
    let (usage, estimated) = tokens(&seen, 100);
    assert_eq!((usage.input, usage.output, estimated), (70, 30, true));
    // OpenAI tells nothing before the end.
    let (usage, _) = tokens(&Seen { reported: None, ..seen }, 100);
    assert_eq!((usage.input, usage.output), (100, 30));
}

#[test]
fn a_client_that_leaves_before_the_first_byte_has_cost_the_prompt() {
    let seen = Seen { at_work: true, ..Seen::default() };
    let (usage, estimated) = tokens(&seen, 100);
    assert_eq!((usage.input, usage.output, estimated), (100, 0, true));
}

#[test]
fn what_was_refused_or_never_reached_costs_nothing() {
    assert_eq!(tokens(&Seen::default(), 100), (Usage::default(), false));
}

#[test]
fn flags_keep_their_bits_and_words() {
    let flags = Flags::ESTIMATED.with(Flags::SHADOW).with_if(Flags::BATCH, false);
    let words: Vec<&str> =
        Flags::all().filter(|(flag, _)| flags.contains(*flag)).map(|(_, word)| word).collect();
    assert_eq!(words, ["estimated", "shadow"]);
    assert_eq!(Flags::from_bits(flags.bits()), flags);
    assert_eq!(
        Flags::all().map(|(flag, _)| flag.bits()).collect::<Vec<_>>(),
        [1, 2, 4, 8, 16, 32, 64, 128, 256]
    );
    assert_eq!(Flags::all().last().unwrap(), (Flags::BATCH, "batch"));
}

#[test]
fn a_basis_without_a_price_charges_nothing_it_knows_of() {
    let usage = Usage { input: 1_000, output: 500, ..Usage::default() };
    assert_eq!(Basis::Unpriced.charge(&usage, false), None);
    assert_eq!(Basis::Free.charge(&usage, false), Some(Money::ZERO));
    assert_eq!(Basis::Machine(Money::from_pico(2_000)).charge(&usage, false), Some(Money::from_pico(1_000)));
}

proptest! {
    #[test]
    fn an_estimate_is_never_below_what_was_reported_or_seen(
        input in 0u64..1000, output in 0u64..1000, events in 0u64..1000, predicted in 0u32..1000,
        told: bool, at_work: bool, complete: bool,
    ) {
        let usage = Usage { input, output, ..Usage::default() };
        let seen = Seen { reported: told.then_some(usage), content_events: events, at_work, complete };
        let (charged, estimated) = tokens(&seen, predicted);
        if told && input + output > 0 {
            prop_assert!(charged.total_input() >= input && charged.total_output() >= output);
            prop_assert_eq!(estimated, !complete);
        }
        if estimated {
            prop_assert!(charged.total_output() >= events);
        }
        if !at_work && !complete && events == 0 && !told {
            prop_assert_eq!(charged, Usage::default());
        }
    }
}
