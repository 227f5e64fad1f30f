//! `llm-router ledger reconcile`: the ledger beside what a provider says it served.

use super::export::{Export, Stated};
use super::read::{Rows, Sums};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use llm_router_logic::money::Money;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One figure that both tell.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    day: String,
    /// Empty where the export does not tell models apart.
    model: String,
    what: &'static str,
    ours: i128,
    theirs: i128,
    within: bool,
}

/// The comparison of a ledger with an export.
#[derive(Debug)]
pub(super) struct Comparison {
    compared: usize,
    differences: Vec<Difference>,
}

/// Compares `rows`, which are grouped by day and model, with `export`. Two figures agree where they
/// differ by no more than the share `tolerance` of the larger.
pub(super) fn compare(rows: &Rows, export: &Export, tolerance: f64) -> Comparison {
    let with_models = export.keys().any(|(_, model)| !model.is_empty());
    let mut ours: BTreeMap<(String, String), Sums> = BTreeMap::new();
    // Days the export is silent on are not compared: it may cover a part of the ledger's time.
    let is_covered = |day: &str| export.keys().any(|(known, _)| known == day);
    for (names, sums) in rows {
        let [day, model] = names.as_slice() else { continue };
        if !is_covered(day) {
            continue;
        }
        let name = if with_models { theirs_for(export, day, model) } else { String::new() };
        let entry = ours.entry((day.clone(), name)).or_default();
        *entry = entry.merge(sums);
    }
    let mut keys: Vec<&(String, String)> = ours.keys().chain(export.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut comparison = Comparison { compared: 0, differences: Vec::new() };
    for key in keys {
        let (mine, stated) =
            (ours.get(key).copied().unwrap_or_default(), export.get(key).copied().unwrap_or_default());
        // What the export leaves out of one row it may still tell of another.
        let told = |figure: fn(&Stated) -> bool| export.values().any(figure);
        let money = |money: Option<Money>| money.unwrap_or_default().pico();
        let figures = [
            (
                "requests",
                told(|s| s.requests.is_some()),
                i128::from(mine.attempts),
                stated.requests.unwrap_or(0).into(),
            ),
            (
                "input_tokens",
                told(|s| s.input.is_some()),
                mine.input_tokens.into(),
                stated.input.unwrap_or(0).into(),
            ),
            (
                "output_tokens",
                told(|s| s.output.is_some()),
                mine.output_tokens.into(),
                stated.output.unwrap_or(0).into(),
            ),
            ("cost_pico_usd", told(|s| s.cost.is_some()), mine.cost.pico(), money(stated.cost)),
        ];
        for (what, is_told, ours, theirs) in figures {
            if !is_told {
                continue;
            }
            comparison.compared += 1;
            if ours != theirs {
                let larger = ours.unsigned_abs().max(theirs.unsigned_abs()) as f64;
                // Providers do not all count requests that failed: shown, not judged.
                let within =
                    what == "requests" || (ours - theirs).unsigned_abs() as f64 <= tolerance * larger;
                let (day, model) = key.clone();
                comparison.differences.push(Difference { day, model, what, ours, theirs, within });
            }
        }
    }
    comparison
}

/// The name an export has for our model: the same, or the same with a version date.
fn theirs_for(export: &Export, day: &str, model: &str) -> String {
    let of_day = || export.keys().filter(|(known, _)| known == day).map(|(_, name)| name);
    let versioned = |name: &&String| {
        name.strip_prefix(model).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| {
            rest.len() >= 8 && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        })
    };
    of_day()
        .find(|name| *name == model)
        .or_else(|| of_day().find(versioned))
        .map_or(model, String::as_str)
        .to_owned()
}

impl Comparison {
    /// Whether every figure agrees within the tolerance.
    pub(super) fn agrees(&self) -> bool {
        self.differences.iter().all(|difference| difference.within)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let differences = self.differences.iter().map(|difference| {
            let Difference { day, model, what, ours, theirs, within } = difference;
            json!({
                "day": day, "model": model, "what": what, "ledger": number(*ours), "provider": number(*theirs),
                "difference": number(ours - theirs), "within_tolerance": within,
            })
        });
        json!({
            "agrees": self.agrees(), "compared": self.compared,
            "differences": differences.collect::<Vec<_>>(),
        })
    }

    /// For a person.
    pub(super) fn table(&self) -> String {
        let beyond = self.differences.iter().filter(|difference| !difference.within).count();
        let summary = format!(
            "{} figures compared, {} differ, {beyond} beyond the tolerance\n",
            self.compared,
            self.differences.len()
        );
        if self.differences.is_empty() {
            return summary;
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["day", "model", "figure", "ledger", "provider", "ledger - provider", "share", ""]);
        for difference in &self.differences {
            let Difference { day, model, what, ours, theirs, within } = difference;
            let larger = ours.unsigned_abs().max(theirs.unsigned_abs()).max(1) as f64;
            let share = (ours - theirs) as f64 / larger * 100.0;
            table.add_row([
                day.clone(),
                if model.is_empty() { "all".to_owned() } else { model.clone() },
                (*what).to_owned(),
                ours.to_string(),
                theirs.to_string(),
                (ours - theirs).to_string(),
                format!("{share:+.3} %"),
                if *within { "within".to_owned() } else { "BEYOND".to_owned() },
            ]);
        }
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n{summary}")
    }
}

fn number(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| json!(value.to_string()), |value| json!(value))
}
