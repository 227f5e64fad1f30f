use super::*;
use proptest::prelude::*;

const BUILT_IN: &str = include_str!("../../../config/prices.json");

fn table(rows: &str) -> Result<PriceTable, PriceError> {
    PriceTable::parse(&format!(r#"{{"models":[{rows}]}}"#))
}

fn row_text(model: &str, more: &str) -> String {
    format!(
        r#"{{"kind":"openai","model":"{model}","input":0.15,"output":0.6,"capabilities":["chat"],"source":"s","date":"2026-01-31"{more}}}"#
    )
}

#[test]
fn the_built_in_table_is_sound() {
    let table = PriceTable::parse(BUILT_IN).unwrap();
    assert!(table.rows().len() >= 15);
    for row in table.rows() {
        assert!(row.price.rates.input > Money::ZERO, "{}", row.model);
        assert!(row.price.rates.cached_read <= row.price.rates.input, "{}", row.model);
        assert!(
            row.capabilities.contains("embedding") || row.price.rates.output > row.price.rates.input,
            "{}",
            row.model
        );
        assert!(!row.good_for.is_empty(), "{}", row.model);
    }
}

/// In USD per 1,000 tokens, as the program this one replaces listed them.
#[test]
fn the_built_in_table_knows_the_models_it_started_from() {
    let table = PriceTable::parse(BUILT_IN).unwrap();
    for (kind, model, input, output) in [
        (Kind::OpenAi, "gpt-3.5-turbo", 0.0005, 0.0015),
        (Kind::OpenAi, "gpt-4-turbo", 0.01, 0.03),
        (Kind::Anthropic, "claude-3-haiku-20240307", 0.00025, 0.00125),
        (Kind::Anthropic, "claude-3-5-sonnet-20241022", 0.003, 0.015),
        (Kind::Gemini, "gemini-1.5-flash", 0.000075, 0.0003),
    ] {
        let price = table.lookup(kind, model).unwrap().price.rates;
        assert_eq!(price.input.times(1000), Money::from_usd(input).unwrap(), "{model}");
        assert_eq!(price.output.times(1000), Money::from_usd(output).unwrap(), "{model}");
    }
}

#[test]
fn a_token_is_priced_to_the_pico_dollar_and_missing_classes_take_the_plain_one() {
    let price = table(&row_text("m", "")).unwrap().lookup(Kind::OpenAi, "m").unwrap().price.rates;
    assert_eq!(price.input, Money::from_pico(150_000));
    assert_eq!(price.output, Money::from_pico(600_000));
    assert_eq!((price.cached_read, price.cache_write), (price.input, price.input));
    let cached = table(&row_text("m", r#","cached_read":0.01875,"cache_write":0.3"#)).unwrap();
    assert_eq!(cached.rows()[0].price.rates.cached_read, Money::from_pico(18_750));
    assert_eq!(cached.rows()[0].price.rates.cache_write, Money::from_pico(300_000));
}

fn rates(pico: [i128; 7]) -> Rates {
    let [input, cached_read, cache_write, cache_write_1h, output, reasoning, image] =
        pico.map(Money::from_pico);
    Rates { input, cached_read, cache_write, cache_write_1h, output, reasoning, image }
}

#[test]
fn each_class_is_charged_at_its_own_price() {
    let pico = Money::from_pico;
    let rates = rates([1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]);
    let price = TokenPrice { rates, ..TokenPrice::default() };
    let usage = Usage {
        input: 1,
        cached_read: 2,
        cache_write: 3,
        cache_write_1h: 4,
        output: 5,
        reasoning: 6,
        image: 7,
    };
    assert_eq!(price.charge(&usage, false), pico(7_654_321));
    assert_eq!(price.predict(7, 2), pico(20_007));
    assert_eq!(price.charge(&Usage::default(), false), Money::ZERO);
}

#[test]
fn a_long_request_is_repriced_as_a_whole() {
    let row = row_text(
        "m",
        r#","tiers":[{"above_tokens":200,"input":0.3,"output":1.2},{"above_tokens":400,"input":3,"output":12}]"#,
    );
    let price = table(&row).unwrap().rows()[0].price;
    let charge = |input, cached_read| {
        price.charge(&Usage { input, cached_read, output: 10, ..Usage::default() }, false).pico()
    };
    assert_eq!(charge(200, 0), 200 * 150_000 + 10 * 600_000);
    assert_eq!(charge(201, 0), 201 * 300_000 + 10 * 1_200_000, "all of it, not only the last token");
    assert_eq!(charge(1, 200), 201 * 300_000 + 10 * 1_200_000, "cached tokens count towards the length");
    assert_eq!(charge(401, 0), 401 * 3_000_000 + 10 * 12_000_000);
    assert_eq!(price.predict(201, 10).pico(), charge(201, 0));
}

#[test]
fn a_batch_costs_its_share() {
    let price = table(&row_text("m", r#","batch":0.5"#)).unwrap().rows()[0].price;
    let usage = Usage { input: 3, output: 1, ..Usage::default() };
    assert_eq!(price.charge(&usage, false).pico(), 1_050_000);
    assert_eq!(price.charge(&usage, true).pico(), 525_000);
    let plain = table(&row_text("m", "")).unwrap().rows()[0].price;
    assert_eq!(plain.charge(&usage, true), plain.charge(&usage, false), "no share is known");
}

#[test]
fn the_hash_of_a_table_names_its_prices_and_nothing_else() {
    let price = TokenPrice::flat(Money::from_pico(1), Money::from_pico(2));
    let hash = |rows: &[(&str, &str, TokenPrice)]| table_hash(rows.iter().copied());
    let one = hash(&[("a", "m", price), ("b", "m", price)]);
    assert_eq!(one, hash(&[("b", "m", price), ("a", "m", TokenPrice { table: 7, ..price })]));
    assert_ne!(one, hash(&[("a", "m", price)]));
    assert_ne!(one, hash(&[("a", "m", price), ("b", "m", TokenPrice { batch_ppm: Some(1), ..price })]));
    let tier = Tier { above_tokens: 9, rates: price.rates };
    assert_ne!(
        one,
        hash(&[("a", "m", price), ("b", "m", TokenPrice { tiers: [Some(tier), None], ..price })])
    );
    assert_ne!(hash(&[]), 0);
}

#[test]
fn versions_are_looked_up_by_their_base_name() {
    let rows = ["gpt-4o", "gpt-4o-2024-05-13", "a"].map(|model| row_text(model, "")).join(",");
    let table = table(&rows).unwrap();
    let found = |model: &str| table.lookup(Kind::OpenAi, model).map(|row| row.model.as_str());
    assert_eq!(found("gpt-4o-2024-08-06"), Some("gpt-4o"));
    assert_eq!(found("gpt-4o-2024-05-13"), Some("gpt-4o-2024-05-13"), "an exact row comes first");
    assert_eq!(found("gpt-4o-20240806"), Some("gpt-4o"));
    assert_eq!(found("gpt-4o-latest"), Some("gpt-4o"));
    for unknown in ["gpt-4o-mini", "gpt-4o-001", "gpt-4o-2024-8-6", "gpt-4", "-20240806", "é20240806", ""] {
        assert_eq!(found(unknown), None, "{unknown:?}");
    }
    assert_eq!(table.lookup(Kind::Gemini, "gpt-4o"), None, "another dialect's model");
}

#[test]
fn gemini_versions_are_numbered() {
    let rows = row_text("gemini-x", "").replace("openai", "gemini");
    let table = table(&rows).unwrap();
    assert!(table.lookup(Kind::Gemini, "gemini-x-002").is_some());
    assert!(table.lookup(Kind::Gemini, "gemini-x-102").is_none());
}

#[test]
fn an_operators_rows_override_and_extend_the_table() {
    let mut prices = table(&[row_text("a", ""), row_text("b", "")].join(",")).unwrap();
    let dear = row_text("b", "").replace("0.15", "99");
    prices.override_with(table(&[dear, row_text("c", "")].join(",")).unwrap());
    let input = |model| prices.lookup(Kind::OpenAi, model).unwrap().price.rates.input;
    assert_eq!(input("a"), Money::from_pico(150_000));
    assert_eq!(input("b"), Money::from_pico(99_000_000));
    assert_eq!(input("c"), Money::from_pico(150_000));
    assert_eq!(prices.rows().len(), 3);
}

#[test]
fn a_wrong_row_is_named() {
    for (text, problem) in [
        (row_text("m", r#","inptu":1"#), "unknown field `inptu`"),
        (row_text("m", "").replace("0.15", "-1"), "`input`"),
        (row_text("m", "").replace("0.6", "1e300"), "`output`"),
        (row_text("m", r#","cached_read":-0.1"#), "`cached_read`"),
        (row_text("m", r#","batch":1.5"#), "`batch`"),
        (row_text("m", r#","tiers":[{"above_tokens":1,"input":-1,"output":1}]"#), "`tiers`"),
        (
            row_text(
                "m",
                r#","tiers":[{"above_tokens":2,"input":1,"output":1},{"above_tokens":2,"input":1,"output":1}]"#,
            ),
            "`above_tokens`",
        ),
        (row_text("m", "").replace("2026-01-31", "31.1.2026"), "`date`"),
        (row_text("m", "").replace(r#""s""#, r#""""#), "`source`"),
        (row_text("m", "").replace(r#"["chat"]"#, "[]"), "`capabilities`"),
        (row_text("m", "").replace("openai", "llama"), "`kind`"),
        (row_text("m", "").replace("openai", "acme"), "acme"),
        (row_text("m", "").replace(r#""output":0.6,"#, ""), "missing field `output`"),
        (row_text("good", ""), "is there twice"),
    ] {
        let error = table(&format!("{},{text}", row_text("good", ""))).unwrap_err().to_string();
        assert!(error.starts_with("row 2 "), "{error}");
        assert!(error.contains(problem), "{error} does not say {problem}");
    }
}

#[test]
fn what_is_no_table_is_refused() {
    for text in ["", "[]", "{}", r#"{"models":{}}"#, r#"{"models":[],"modles":[]}"#] {
        assert!(matches!(PriceTable::parse(text), Err(PriceError::Document(_))), "{text:?}");
    }
    assert_eq!(PriceTable::parse(r#"{"models":[]}"#), Ok(PriceTable::default()));
}

proptest! {
    #[test]
    fn any_name_can_be_looked_up(name in ".{0,40}") {
        let table = PriceTable::parse(BUILT_IN).unwrap();
        for kind in [Kind::Llama, Kind::OpenAi, Kind::Anthropic, Kind::Gemini] {
            if let Some(row) = table.lookup(kind, &name) {
                prop_assert!(name.starts_with(&row.model));
            }
        }
    }

    #[test]
    fn charging_is_exact_and_never_shrinks_with_more_tokens(
        usd in 0.0f64..1000.0, tokens in 0u64..10_000_000, more in 0u64..1000
    ) {
        let price = Money::from_usd(usd / 1e6).unwrap();
        let price = TokenPrice::flat(price, price);
        let charge = |input| price.charge(&Usage { input, ..Usage::default() }, false);
        prop_assert_eq!(charge(tokens).pico(), price.rates.input.pico() * i128::from(tokens));
        prop_assert!(charge(tokens + more) >= charge(tokens));
    }
}
