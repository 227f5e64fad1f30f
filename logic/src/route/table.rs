//! The candidates of a decision and the terms each was judged by, as a table with a legend.
//!
//! For people who did not write the formulas: every figure has its unit, what is not known says so, and the
//! legend tells what each column is and what the order goes by.

use crate::money::Money;
use crate::route::explain::{CandidateNote, Explanation};
use crate::route::strategy::{CostBasis, Strategy};
use crate::route::total::Total;
use crate::time::told;
use std::fmt;
use std::time::Duration;

/// The columns, in the order in which a person asks for them.
const COLUMNS: [&str; 14] = [
    "#",
    "backend",
    "score",
    "cost",
    "adds",
    "egress",
    "first token",
    "= reading",
    "+ waiting",
    "+ way",
    "late",
    "whole",
    "load",
    "facts",
];

/// Writes the table of `explanation`; nothing where there is no candidate.
pub(crate) fn write(explanation: &Explanation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let candidates = &explanation.candidates;
    if candidates.is_empty() {
        return Ok(());
    }
    let rows: Vec<[String; 14]> =
        candidates.iter().enumerate().map(|(place, note)| cells(place + 1, note)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([COLUMNS[column].chars().count()]).max().unwrap_or(0)
    };
    writeln!(f)?;
    let mut line = |cells: &[&str]| -> fmt::Result {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column == 1 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        writeln!(f, "  {}", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    line(&COLUMNS)?;
    for row in &rows {
        line(&row.each_ref().map(String::as_str))?;
    }
    writeln!(f, "  order: {}", ordered_by(explanation.strategy, explanation.cost_basis))?;
    for note in candidates {
        let terms: Vec<String> = note
            .score
            .terms()
            .map(|term| format!("{} {}", term.name, amount(term.value, term.unit)))
            .collect();
        let terms = if terms.is_empty() { "nothing counts against it".to_owned() } else { terms.join(" + ") };
        writeln!(f, "  score of {}: {} = {terms}", note.backend, score(&note.score))?;
    }
    f.write_str(LEGEND)
}

const LEGEND: &str = "\
  score: all that the strategy compares, as one number, the lowest first; each class behind the best (what makes one:
    see order) weighs $1000 or 10000000 ms, a missed deadline 64 classes, a second of a late first token $1; who is
    within 5 % of the first goes by load, so that not all routers choose the same
  cost: this request there, average for a cluster (its hour spread over all it makes); adds: what it adds to the bill
  first token: from now, of which reading this prompt, waiting (for a place, and for prompts ahead of it) and the way
    there and back; late: hardly one in fifty comes later; whole: the last token; load: running and waiting of places
  facts: how old what this was judged on is; ?: not measured yet
  *: goes first since this session, or a prompt that begins like this one, was there before
  !: expected to miss the latency targets of strategy slo (late, or time per token); !!: to miss the client's deadline
";

fn cells(place: usize, note: &CandidateNote) -> [String; 14] {
    let terms = &note.terms;
    let time = |micros: Option<u32>| {
        micros.map_or_else(|| "?".to_owned(), |micros| told(Duration::from_micros(micros.into())))
    };
    let usd = |money: Option<Money>| match money {
        None => "?".to_owned(),
        Some(Money::ZERO) => "$0".to_owned(),
        Some(money) => format!("${:.6}", money.as_usd()),
    };
    let mut backend = note.backend.to_string();
    for (mark, applies) in [
        (" *", terms.sticky || terms.prefix),
        (" !", !terms.meets_slo),
        (" !!", terms.meets_deadline == Some(false)),
    ] {
        backend += if applies { mark } else { "" };
    }
    let age = note.facts.age_ms.map_or_else(|| "none".to_owned(), |ms| told(Duration::from_millis(ms)));
    [
        place.to_string(),
        backend,
        score(&note.score),
        usd(note.predicted_cost_usd),
        usd(note.marginal_cost_usd),
        usd(Some(terms.egress)),
        time(terms.ttft),
        time(terms.own_ttft),
        time(terms.wait),
        time(terms.rtt),
        time(terms.ttft_late),
        time(terms.completion),
        format!("{} of {}", terms.load, terms.places),
        age,
    ]
}

fn score(total: &Total) -> String {
    amount(total.value, total.unit)
}

fn amount(value: f64, unit: &str) -> String {
    match unit {
        "USD" => format!("${value:.6}"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// What the order of candidates goes by.
fn ordered_by(strategy: Strategy, basis: CostBasis) -> String {
    let cost = match basis {
        CostBasis::Average => "`cost` and `egress`",
        CostBasis::Marginal => "`adds`",
    };
    let least = format!("the least {cost}; near equals by load, drawn by lot");
    match strategy {
        Strategy::Hybrid => {
            format!("clusters at or under `clusterCostThreshold` with a free place, then {least}")
        }
        Strategy::Cost => least,
        Strategy::Latency => {
            "the least `first token`; among near equals three are drawn, the least loaded first".to_owned()
        }
        Strategy::ClusterFirst => format!("clusters before providers, free places first, each by {least}"),
        Strategy::ExternalFirst => format!("providers before clusters, each by {least}"),
        Strategy::Slo => {
            format!("who meets the targets before those marked !, by {least}; those by `first token`")
        }
    }
}
