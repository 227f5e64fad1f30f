//! What the demo prints: where to look, how it goes, how it went. Pure: figures in, text out.

use super::fleet::Admin;
use super::load::Tally;
use super::scenario::{CLUSTERS, PLACES, PROVIDERS};
use llm_router_actors::handle::Book;
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The figures of one moment.
pub(super) struct Sample {
    pub(super) elapsed: Duration,
    /// Each router's books.
    pub(super) books: Vec<Arc<Book>>,
    /// What the load's clients saw.
    pub(super) load: Tally,
}

/// Sums over the three routers.
struct Totals {
    requests: u64,
    fallbacks: u64,
    unpriced: u64,
    on_clusters: u64,
    cost: Money,
    external: Money,
    saved: Money,
}

impl Sample {
    fn totals(&self) -> Totals {
        let sum = |of: fn(&Book) -> u64| self.books.iter().map(|book| of(book)).sum();
        let money = |of: fn(&Book) -> Money| self.books.iter().map(|book| of(book)).sum();
        Totals {
            requests: sum(|book| book.total.requests),
            fallbacks: sum(|book| book.total.fallbacks),
            unpriced: sum(|book| book.total.unpriced),
            on_clusters: CLUSTERS.iter().map(|cluster| self.of(cluster.name).0).sum(),
            cost: money(|book| book.total.cost),
            external: money(|book| book.total.external_equivalent),
            saved: money(|book| book.total.gross_savings),
        }
    }

    /// Requests and cost of one backend.
    fn of(&self, name: &str) -> (u64, Money) {
        let sums = || self.books.iter().filter_map(|book| book.backends.get(&BackendId::new(name)));
        (sums().map(|sums| sums.requests).sum(), sums().map(|sums| sums.cost).sum())
    }

    /// What the clusters cost in this time at their hourly price, busy or idle.
    fn machine_time(&self) -> Money {
        let per_hour: f64 = CLUSTERS.iter().map(|cluster| cluster.cost_per_hour).sum();
        Money::from_usd(per_hour * self.elapsed.as_secs_f64() / 3_600.0).unwrap_or_default()
    }
}

/// Where to look and what to try.
pub(super) fn welcome(
    addresses: &[SocketAddr],
    admin: Option<&Admin>,
    ledgers: &[PathBuf],
    duration: Option<Duration>,
) -> String {
    let mut text = String::from(
        "\nEverything here is SIMULATED: six clusters and three providers in this process. No paid call is \
         possible.\n\n  region               dashboard and API\n",
    );
    // Writing to a String cannot fail, here and below.
    for (place, address) in PLACES.iter().zip(addresses) {
        let _ = writeln!(text, "  {:<5}  {:<12}  http://{address}/", place.cloud, place.region);
    }
    let Some(first) = addresses.first() else { return text };
    let chat = format!("curl -s http://{first}/v1/chat/completions -H 'content-type: application/json'");
    let ask = |model: &str, more: &str| {
        format!(
            r#"'{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}],"max_tokens":40{more}}}'"#
        )
    };
    let mut tries = vec![
        (
            "an answer, with its route in the x-llm-router-* headers",
            format!("{chat} -i -d {}", ask("assistant", "")),
        ),
        ("the same as a stream", format!("{chat} -N -d {}", ask("assistant", r#","stream":true"#))),
        (
            "the fastest backend instead of the cheapest",
            format!("{chat} -i -H 'x-llm-router-strategy: latency' -d {}", ask("assistant", "")),
        ),
        ("what can be served now", format!("curl -s http://{first}/v1/models")),
        ("metrics for Prometheus", format!("curl -s http://{first}/metrics")),
    ];
    if let Some(Admin { addr, token }) = admin {
        tries.push((
            "what this router knows, with the age of each fact",
            format!("curl -s http://{addr}/admin/view -H 'authorization: Bearer {token}'"),
        ));
    }
    text.push_str("\nTry in another terminal:\n");
    for (what, command) in tries {
        let _ = writeln!(text, "  # {what}\n  {command}");
    }
    if !ledgers.is_empty() {
        let files: Vec<String> = ledgers.iter().map(|file| format!("--ledger {}", file.display())).collect();
        let _ = writeln!(
            text,
            "  # what it all cost and saved, gross and net; the ledgers are gone with the demo\n  \
             llm-router ledger report {} --by backend,model\n  \
             llm-router ledger report {} --by day",
            files.join(" "),
            files.join(" ")
        );
    }
    let end = duration
        .map_or_else(|| "Ctrl-C stops.".to_owned(), |time| format!("Stops after {time:?}, or on Ctrl-C."));
    let _ = writeln!(text, "\nAbout {} requests a second come in. {end}", super::load::PER_SECOND);
    text
}

/// One line of how it goes.
pub(super) fn status(sample: &Sample) -> String {
    let totals = sample.totals();
    let under_way = sample.load.sent.saturating_sub(sample.load.answered + sample.load.failed);
    format!(
        "{:>5} s  {:>5} requests  {} failed  {:>2} under way  {:>3} % on clusters  spent {}  saved {} (gross)",
        sample.elapsed.as_secs(),
        totals.requests,
        sample.load.failed,
        under_way,
        percent(totals.on_clusters, totals.requests),
        dollars(totals.cost),
        dollars(totals.saved),
    )
}

/// How it went.
pub(super) fn farewell(reason: &str, sample: &Sample) -> String {
    let totals = sample.totals();
    let mut text = format!(
        "\nStopped after {:.0} s ({reason}). All figures are simulated.\n\n  backend      requests   share  spent\n",
        sample.elapsed.as_secs_f64()
    );
    let names =
        CLUSTERS.iter().map(|cluster| cluster.name).chain(PROVIDERS.iter().map(|provider| provider.name));
    for name in names {
        let (requests, cost) = sample.of(name);
        let share = percent(requests, totals.requests);
        let _ = writeln!(text, "  {name:<11}  {requests:>8}  {share:>4} %  {}", dollars(cost));
    }
    let load = &sample.load;
    let unanswered = load.sent.saturating_sub(load.answered + load.failed);
    let _ = writeln!(
        text,
        "\n  requests     {} seen by the routers, {} served after a first backend failed\n  \
         load         {} sent, {} answered, {} failed, {unanswered} cut off by the stop, {} held back",
        totals.requests, totals.fallbacks, load.sent, load.answered, load.failed, load.held_back,
    );
    if let Some(why) = &load.first_failure {
        let _ = writeln!(text, "  first failure {why}");
    }
    let share = totals.saved.as_usd() / totals.external.as_usd();
    let share = if share.is_finite() { format!(", {:.0} %", share * 100.0) } else { String::new() };
    let _ = write!(
        text,
        "  spent        {} on tokens, provider prices and clusters at their measured $/1K\n  \
         external     {} for the answers a provider could have given, each at the cheapest provider's list price\n  \
         saved        {}{share} (gross)\n  \
         machines     {} for six clusters over this time at their hourly price, busy or idle",
        dollars(totals.cost),
        dollars(totals.external),
        dollars(totals.saved),
        dollars(sample.machine_time()),
    );
    if totals.unpriced > 0 {
        let _ = write!(text, "\n  unpriced     {} answers whose cost is not known", totals.unpriced);
    }
    text
}

fn percent(part: u64, all: u64) -> u64 {
    (part * 100 + all / 2).checked_div(all).unwrap_or(0)
}

fn dollars(money: Money) -> String {
    let usd = money.as_usd();
    format!("{}${:.4}", if usd < 0.0 { "-" } else { "" }, usd.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_router_actors::handle::Sums;

    fn sums(requests: u64, cost: f64, external: f64) -> Sums {
        let money = |usd| Money::from_usd(usd).unwrap();
        Sums {
            requests,
            cost: money(cost),
            external_equivalent: money(external),
            gross_savings: money(external - cost),
            ..Sums::default()
        }
    }

    fn sample() -> Sample {
        let book = |requests, provider| Book {
            total: sums(requests + provider, 0.03, 0.1),
            backends: [
                ("aws-gpu".into(), sums(requests, 0.01, 0.08)),
                ("openai".into(), sums(provider, 0.02, 0.02)),
            ]
            .into(),
            ..Book::default()
        };
        Sample {
            elapsed: Duration::from_secs(60),
            books: vec![Arc::new(book(60, 20)), Arc::new(book(20, 0))],
            load: Tally { sent: 101, answered: 100, ..Tally::default() },
        }
    }

    #[test]
    fn the_status_line_sums_over_the_routers() {
        assert_eq!(
            status(&sample()),
            "   60 s    100 requests  0 failed   1 under way   80 % on clusters  spent $0.0600  saved $0.1400 (gross)"
        );
    }

    #[test]
    fn the_farewell_says_where_requests_went_and_what_they_would_have_cost() {
        let text = farewell("time is up", &sample());
        for line in [
            "  aws-gpu            80    80 %  $0.0200",
            "  openai             20    20 %  $0.0400",
            "  gcp-cpu             0     0 %  $0.0000",
            "  load         101 sent, 100 answered, 0 failed, 1 cut off by the stop, 0 held back",
            "  saved        $0.1400, 70 % (gross)",
        ] {
            assert!(text.lines().any(|have| have == line), "no line `{line}` in\n{text}");
        }
        // Six clusters at 0.9226 $/h for one minute.
        assert!(text.contains("  machines     $0.0154"), "{text}");
        assert!(!text.contains("unpriced"));
    }

    #[test]
    fn a_demo_without_a_request_divides_by_nothing() {
        let empty = Sample { elapsed: Duration::ZERO, books: vec![], load: Tally::default() };
        assert!(status(&empty).contains("  0 % on clusters"));
        assert!(farewell("interrupted", &empty).contains("  saved        $0.0000 (gross)"));
    }

    #[test]
    fn the_welcome_names_every_region_and_says_that_nothing_is_real() {
        let addresses: Vec<SocketAddr> =
            (8080..8083).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let admin = Admin { addr: SocketAddr::from(([127, 0, 0, 1], 9)), token: "t".to_owned() };
        let text =
            welcome(&addresses, Some(&admin), &["/tmp/d/aws.sqlite".into()], Some(Duration::from_secs(60)));
        assert!(text.contains("ledger report --ledger /tmp/d/aws.sqlite --by day"), "{text}");
        assert!(text.contains("SIMULATED"));
        for part in [
            "aws    us-west-2     http://127.0.0.1:8080/",
            "http://127.0.0.1:8082/",
            "/admin/view",
            "after 60s",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert_eq!(text.matches("curl ").count(), 6);
    }
}
