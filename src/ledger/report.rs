//! `llm-router ledger report`: who spent what, as a table, CSV or JSON.

use super::read::{Filter, Grouping, Machines, Reader, Rows, Sums};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use llm_router_logic::money::Money;
use serde_json::{Map, Number, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What was read of one or more ledgers.
#[derive(Debug, Default)]
pub(super) struct Report {
    by: Vec<Grouping>,
    rows: Rows,
    machines: Machines,
}

impl Report {
    /// Reads the ledgers at `paths` and puts them together. Nodes that share a cluster pay for it once:
    /// of a cluster's day the longest time any of them saw counts.
    ///
    /// # Errors
    /// The file and what is wrong, for a person.
    pub(super) fn read(paths: &[PathBuf], by: Vec<Grouping>, filter: &Filter) -> Result<Self, String> {
        let mut report = Self { by, ..Self::default() };
        for path in paths {
            report.add(path, filter).map_err(|error| unreadable(path, &error))?;
        }
        if report.is_by_day() {
            // A day on which machines stood idle and nobody asked is a day too.
            for (day, _) in report.machines.keys() {
                report.rows.entry(vec![day.clone()]).or_default();
            }
        }
        Ok(report)
    }

    fn add(&mut self, path: &Path, filter: &Filter) -> rusqlite::Result<()> {
        let reader = Reader::open(path)?;
        for (names, sums) in reader.rows(&self.by, filter)? {
            let entry = self.rows.entry(names).or_default();
            *entry = entry.merge(&sums);
        }
        for (machine, paid) in reader.machines(filter)? {
            let entry = self.machines.entry(machine).or_default();
            *entry = (*entry).max(paid);
        }
        Ok(())
    }

    /// Whether each row is a day, so that what machines cost that day can stand beside it.
    fn is_by_day(&self) -> bool {
        self.by == [Grouping::Day]
    }

    fn total(&self) -> Sums {
        self.rows.values().fold(Sums::default(), Sums::merge)
    }

    /// What the machines cost: all of them, or those of one day.
    fn machine_cost(&self, day: Option<&str>) -> Money {
        let of_day = self.machines.iter().filter(|((on, _), _)| day.is_none_or(|day| on == day));
        of_day.map(|(_, (_, cost))| *cost).sum()
    }

    /// Savings of `sums` once the machines are paid for in full, idle hours included.
    fn net(&self, sums: &Sums, day: Option<&str>) -> (Money, Money) {
        let idle = self.machine_cost(day) - sums.machine_cost;
        (idle, sums.gross - idle)
    }

    /// The JSON form: `{"total": {…}, "rows": […], "machines": […]}`.
    pub(super) fn json(&self) -> Value {
        let total = self.total();
        let (idle, net) = self.net(&total, None);
        let mut all = sums_json(&total);
        all.insert("idle_usd".into(), json!(idle));
        all.insert("net_savings_usd".into(), json!(net));
        let rows = self.rows.iter().map(|(names, sums)| {
            let named = self.by.iter().zip(names);
            let mut row: Map<String, Value> =
                named.map(|(by, name)| (by.as_str().to_owned(), json!(name))).collect();
            row.extend(sums_json(sums));
            if self.is_by_day() {
                let (idle, net) = self.net(sums, names.first().map(String::as_str));
                row.insert("idle_usd".into(), json!(idle));
                row.insert("net_savings_usd".into(), json!(net));
            }
            Value::Object(row)
        });
        let machines = self.machines.iter().map(|((day, cluster), (millis, cost))| {
            json!({"day": day, "cluster": cluster, "hours": *millis as f64 / 3.6e6, "cost_usd": cost})
        });
        json!({"total": all, "rows": rows.collect::<Vec<_>>(), "machines": machines.collect::<Vec<_>>()})
    }

    /// The CSV form: a header, then a line for each row; amounts in exact decimal dollars.
    pub(super) fn csv(&self) -> String {
        let mut text = String::new();
        let names = self.by.iter().map(|by| by.as_str());
        let mut columns: Vec<&str> = names.chain(COLUMNS.iter().map(|column| column.0)).collect();
        if self.is_by_day() {
            columns.extend(["idle_usd", "net_savings_usd"]);
        }
        let _ = writeln!(text, "{}", columns.join(","));
        for (names, sums) in &self.rows {
            let cells = names.iter().map(|name| quoted(name));
            let mut cells: Vec<String> = cells.chain(COLUMNS.iter().map(|column| (column.1)(sums))).collect();
            if self.is_by_day() {
                let (idle, net) = self.net(sums, names.first().map(String::as_str));
                cells.extend([idle.to_string(), net.to_string()]);
            }
            let _ = writeln!(text, "{}", cells.join(","));
        }
        text
    }

    /// The form for a person.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        let shown = [
            "requests",
            "errors",
            "estimated",
            "unpriced",
            "input",
            "cached",
            "output",
            "cost $",
            "external $",
            "gross saving $",
        ];
        let by_day: &[&str] = if self.is_by_day() { &["idle $", "net saving $"] } else { &[] };
        table.set_header(self.by.iter().map(|by| by.as_str()).chain(shown).chain(by_day.iter().copied()));
        let cells = |sums: &Sums, day: Option<&str>| {
            let mut cells = vec![
                grouped(sums.requests),
                grouped(sums.errors),
                grouped(sums.estimated),
                grouped(sums.unpriced),
                grouped(sums.input_tokens),
                grouped(sums.cached_tokens),
                grouped(sums.output_tokens),
                dollars(sums.cost),
                dollars(sums.external),
                dollars(sums.gross),
            ];
            if self.is_by_day() {
                let (idle, net) = self.net(sums, day);
                cells.extend([dollars(idle), dollars(net)]);
            }
            cells
        };
        for (names, sums) in &self.rows {
            let day = names.first().map(String::as_str);
            let names = names.iter().map(|name| if name.is_empty() { "-".to_owned() } else { name.clone() });
            table.add_row(names.chain(cells(sums, day)));
        }
        let total = self.total();
        let label = (0..self.by.len()).map(|at| if at == 0 { "total".to_owned() } else { String::new() });
        table.add_row(label.chain(cells(&total, None)));
        for column in table.column_iter_mut().skip(self.by.len()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let (idle, net) = self.net(&total, None);
        let mut hours: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, cluster), (millis, _)) in &self.machines {
            *hours.entry(cluster).or_default() += millis;
        }
        let hours: Vec<String> = hours
            .into_iter()
            .map(|(cluster, millis)| format!("{cluster} {:.2} h", millis as f64 / 3.6e6))
            .collect();
        let mut text = format!("{table}\n");
        let _ = writeln!(text, "gross savings  ${}", dollars(total.gross));
        let _ = writeln!(
            text,
            "idle machines  ${}  ({})",
            dollars(idle),
            if hours.is_empty() { "no machine time".to_owned() } else { hours.join(", ") }
        );
        let _ = writeln!(text, "net savings    ${}", dollars(net));
        text
    }
}

/// What one says of a ledger that cannot be read.
pub(super) fn unreadable(path: &Path, error: &rusqlite::Error) -> String {
    format!("cannot read ledger `{}`: {error}", path.display())
}

type Column = (&'static str, fn(&Sums) -> String);

/// The columns of the CSV form.
const COLUMNS: [Column; 12] = [
    ("requests", |sums| sums.requests.to_string()),
    ("attempts", |sums| sums.attempts.to_string()),
    ("errors", |sums| sums.errors.to_string()),
    ("estimated", |sums| sums.estimated.to_string()),
    ("unpriced", |sums| sums.unpriced.to_string()),
    ("input_tokens", |sums| sums.input_tokens.to_string()),
    ("cached_tokens", |sums| sums.cached_tokens.to_string()),
    ("output_tokens", |sums| sums.output_tokens.to_string()),
    ("cost_usd", |sums| sums.cost.to_string()),
    ("machine_cost_usd", |sums| sums.machine_cost.to_string()),
    ("external_equivalent_usd", |sums| sums.external.to_string()),
    ("gross_savings_usd", |sums| sums.gross.to_string()),
];

fn sums_json(sums: &Sums) -> Map<String, Value> {
    let exact = |money: Money| {
        Number::from_i128(money.pico()).map_or_else(|| json!(money.pico().to_string()), Value::Number)
    };
    let Value::Object(fields) = json!({
        "requests": sums.requests, "attempts": sums.attempts, "errors": sums.errors,
        "estimated": sums.estimated, "unpriced": sums.unpriced, "input_tokens": sums.input_tokens,
        "cached_tokens": sums.cached_tokens, "output_tokens": sums.output_tokens, "cost_usd": sums.cost,
        "cost_pico_usd": exact(sums.cost), "machine_cost_usd": sums.machine_cost,
        "external_equivalent_usd": sums.external, "gross_savings_usd": sums.gross,
    }) else {
        return Map::new();
    };
    fields
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// `1234567` as `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Dollars to the hundredth of a cent.
fn dollars(money: Money) -> String {
    let sign = if money < Money::ZERO { "-" } else { "" };
    let rounded = (money.pico().unsigned_abs() + 50_000_000) / 100_000_000;
    let whole = u64::try_from(rounded / 10_000).unwrap_or(u64::MAX);
    format!("{sign}{}.{:04}", grouped(whole), rounded % 10_000)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(dollars(Money::from_pico(1_234_567_890_000_000)), "1,234.5679");
        assert_eq!(dollars(Money::from_pico(-50_000_000)), "-0.0001");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
