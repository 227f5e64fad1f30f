use super::*;
use proptest::prelude::*;

/// Relative errors of `estimates`, the 90th percentile.
fn p90(mut errors: Vec<f64>) -> f64 {
    errors.sort_by(f64::total_cmp);
    errors[errors.len() * 9 / 10]
}

fn plain(bytes: usize) -> TextShape {
    TextShape::of_bytes(bytes)
}

/// Prompts of 50 bytes to 20 kB and their tokens at `per_byte`, each off by up to a tenth.
fn prompts(count: usize, fixed: f64, per_byte: f64) -> Vec<(usize, u64)> {
    (0..count)
        .map(|n| {
            let bytes = 50 + n * 7_919 % 20_000;
            let noise = 1.0 + (n * 31 % 21) as f64 / 100.0 - 0.1;
            (bytes, ((fixed + per_byte * bytes as f64) * noise).round() as u64)
        })
        .collect()
}

#[test]
fn before_anything_is_learnt_four_bytes_are_a_token() {
    let estimator = InputEstimator::default();
    assert_eq!(estimator.estimate(&plain(4_000)), 1_008);
    assert_eq!(estimator.estimate(&plain(0)), 8);
}

/// Texts of fourteen kinds (manual pages in nine languages, source code, JSON and TOML files, Markdown), pieces
/// of 100 bytes to 20 kB: their shapes, and their tokens as two tokenizers counted them.
fn recorded() -> Vec<(&'static str, TextShape, [u64; 2])> {
    let rows = include_str!("../../tests/data/prompt_shapes.csv").lines().skip(1);
    let row = |line: &'static str| {
        let mut cells = line.split(',');
        let kind = cells.next().unwrap();
        let figures: Vec<u32> = cells.map(|cell| cell.parse().unwrap()).collect();
        let shape = TextShape::from_counts(figures[0] as usize, figures[1..13].try_into().unwrap());
        (kind, shape, [figures[13].into(), figures[14].into()])
    };
    rows.map(row).collect()
}

fn shuffled<T: Clone>(rows: &[T], seed: u64) -> Vec<T> {
    let mut rows = rows.to_vec();
    let mut draw = seed;
    for at in (1..rows.len()).rev() {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rows.swap(at, (draw >> 33) as usize % (at + 1));
    }
    rows
}

/// Errors from the `first` observation on, each estimated before it is learnt.
fn errors(rows: &[(&str, TextShape, [u64; 2])], tokenizer: usize, first: usize) -> Vec<f64> {
    let mut estimator = InputEstimator::default();
    let mut errors = Vec::new();
    for (nth, (_, shape, tokens)) in rows.iter().enumerate() {
        if nth >= first {
            errors.push((f64::from(estimator.estimate(shape)) / tokens[tokenizer] as f64 - 1.0).abs());
        }
        estimator.learn(shape, tokens[tokenizer]);
    }
    errors
}

#[test]
fn after_two_hundred_requests_of_real_text_nine_of_ten_estimates_are_within_fifteen_percent() {
    let rows = recorded();
    assert_eq!(rows.len(), 504);
    for tokenizer in [0, 1] {
        for seed in 1..=5 {
            let p90 = p90(errors(&shuffled(&rows, seed), tokenizer, 200));
            assert!(p90 <= 0.15, "tokenizer {tokenizer}, order {seed}, all kinds mixed: {p90:.3}");
        }
        let prose: Vec<_> = rows.iter().filter(|(kind, ..)| *kind == "en").copied().collect();
        let p90 = p90(errors(&prose, tokenizer, 12));
        assert!(p90 <= 0.15, "tokenizer {tokenizer}, English alone after a dozen: {p90:.3}");
    }
}

#[test]
fn after_two_hundred_requests_any_rate_of_tokens_is_learnt_with_its_template() {
    for (fixed, per_byte) in [(4.0, 0.21), (12.0, 0.6), (300.0, 0.33)] {
        let mut estimator = InputEstimator::default();
        let prompts = prompts(500, fixed, per_byte);
        for (bytes, tokens) in &prompts[..200] {
            estimator.learn(&plain(*bytes), *tokens);
        }
        let error = |(bytes, tokens): &(usize, u64)| {
            (f64::from(estimator.estimate(&plain(*bytes))) / *tokens as f64 - 1.0).abs()
        };
        let p90 = p90(prompts[200..].iter().map(error).collect());
        assert!(p90 <= 0.15, "{fixed} + {per_byte}: p90 {p90:.3}");
    }
}

#[test]
fn pictures_that_count_as_tokens_do_not_spoil_what_is_known_of_text() {
    let mut estimator = InputEstimator::default();
    for _ in 0..100 {
        estimator.learn(&plain(100), 9_000);
    }
    assert_eq!(estimator, InputEstimator::default());
}

#[test]
fn a_change_of_text_is_followed() {
    let mut estimator = InputEstimator::default();
    for (bytes, tokens) in prompts(400, 4.0, 0.2).into_iter().chain(prompts(1_000, 4.0, 0.5)) {
        estimator.learn(&plain(bytes), tokens);
    }
    let estimate = f64::from(estimator.estimate(&plain(10_000)));
    assert!((estimate / 5_004.0 - 1.0).abs() < 0.1, "was {estimate}");
}

#[test]
fn prompts_all_of_one_length_are_estimated_right_at_that_length() {
    let mut estimator = InputEstimator::default();
    for _ in 0..2_000 {
        estimator.learn(&plain(1_000), 700);
    }
    let estimate = estimator.estimate(&plain(1_000));
    assert!(estimate.abs_diff(700) <= 7, "was {estimate}");
}

#[test]
fn what_cannot_be_teaches_nothing() {
    let mut estimator = InputEstimator::default();
    estimator.learn(&plain(0), 100);
    estimator.learn(&plain(100), 0);
    assert_eq!(estimator, InputEstimator::default());
}

#[test]
fn output_is_the_prior_within_the_clients_bound_until_eight_answers_were_seen() {
    let mut estimator = OutputEstimator::default();
    for _ in 0..8 {
        assert_eq!(estimator.estimate(0.5, None), 256);
        assert_eq!(estimator.estimate(0.5, Some(100)), 100);
        estimator.learn(1_000);
    }
    // Faded, eight answers are a little less than eight.
    estimator.learn(1_000);
    assert!(estimator.estimate(0.5, None).abs_diff(1_000) <= 100);
    assert_eq!(estimator.estimate(0.5, Some(300)), 300);
}

#[test]
fn a_quantile_of_the_output_is_met_to_a_tenth() {
    let mut estimator = OutputEstimator::default();
    for n in 0..400_u64 {
        estimator.learn(1 + n * 37 % 100 * 10);
    }
    for (quantile, exact) in [(0.1, 91.0), (0.5, 491.0), (0.9, 891.0)] {
        let estimate = f64::from(estimator.estimate(quantile, None));
        assert!(estimate >= 0.95 * exact && estimate <= 1.2 * exact, "{quantile}: {estimate} for {exact}");
    }
}

proptest! {
    #[test]
    fn estimates_stay_sane_whatever_is_learnt(
        seen in proptest::collection::vec((any::<u32>(), any::<u64>()), 0..100), bytes: u32
    ) {
        let mut estimator = InputEstimator::default();
        for (bytes, tokens) in seen {
            estimator.learn(&plain(bytes as usize), tokens);
        }
        let estimate = f64::from(estimator.estimate(&plain(bytes as usize)));
        prop_assert!(estimate >= 1.0);
        prop_assert!(estimate <= FIXED_MAX + PER_BYTE_MAX * f64::from(bytes) + 1.0);
        prop_assert!(estimator.estimate(&plain(bytes as usize / 2)) <= estimator.estimate(&plain(bytes as usize)));
    }

    #[test]
    fn output_never_exceeds_the_bound_and_grows_with_the_quantile(
        answers in proptest::collection::vec(any::<u64>(), 0..60), low in 0.0f64..1.0, more in 0.0f64..1.0, bound: u32
    ) {
        let mut estimator = OutputEstimator::default();
        for tokens in answers {
            estimator.learn(tokens);
        }
        let (at_low, at_high) = (estimator.estimate(low, Some(bound)), estimator.estimate(low + more, Some(bound)));
        prop_assert!(at_low <= at_high && at_high <= bound);
    }

    #[test]
    fn a_bucket_covers_its_answers_to_a_tenth(tokens in 1u64..8_000_000) {
        let longest = f64::from(longest_in(bucket_of(tokens)));
        prop_assert!(longest >= tokens as f64 - 0.5 && longest <= tokens as f64 * 1.1 + 1.0);
    }
}
