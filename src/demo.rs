//! `llm-router demo`: three regions in one process, over simulated backends, under generated load.
//!
//! Each region is a full router node with its own port, gossiping with the others over loopback; the
//! clusters and providers are mocks in this process, and no address but theirs stands in any
//! configuration, so no paid call is possible. Owns what is printed, when the load ends and the order
//! of stopping. The scenario's figures stand in [`scenario`], the load in [`load`].

mod breakage;
mod browser;
mod fleet;
mod load;
mod network;
mod pages;
mod scenario;
mod summary;

use crate::cli;
use crate::config::Problems;
use crate::node::{self, NodeError};
use fleet::Fleet;
use load::Load;
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::time::{Duration, Instant};
use summary::Sample;

/// Pause between two status lines.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// No new request in the last part of a limited run, so that it ends on time with every answer whole.
const QUIET_END: Duration = Duration::from_secs(5);
/// How long requests may still run once the load has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(6);

/// Why the demo could not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A simulated backend could not be started.
    #[error("cannot start the simulated backend `{name}`: {source}")]
    Backend {
        /// Which.
        name: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A region's configuration was refused: an error of the demo itself.
    #[error("the demo's configuration of `{region}` is not usable: {problems}")]
    Config {
        /// Which.
        region: &'static str,
        /// Why.
        problems: Problems,
    },
    /// A region's port could not be bound.
    #[error(
        "cannot listen on port `{port}` for `{region}`: {source}; the demo takes three ports in a row, name a free first one with `--port`"
    )]
    Port {
        /// Which port.
        port: u16,
        /// For which region.
        region: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A region's router could not be started.
    #[error("cannot start the router of `{region}`: {source}")]
    Region {
        /// Which.
        region: &'static str,
        /// Why.
        source: NodeError,
    },
    /// A router did not become ready.
    #[error("the router of `{region}` was not ready within {within:?}")]
    NotReady {
        /// Which.
        region: &'static str,
        /// How long it was given.
        within: Duration,
    },
    /// No loopback port for the network between regions.
    #[error("cannot find a free loopback port for the network between regions: {0}")]
    Link(std::io::Error),
    /// No loopback port for gossip.
    #[error("cannot find a free loopback port for gossip: {0}")]
    Gossip(std::io::Error),
    /// The load's HTTP client could not be built.
    #[error("cannot build the HTTP client of the load: {0}")]
    Client(#[from] reqwest::Error),
}

/// Runs the demo until Ctrl-C, SIGTERM or the end of its duration.
///
/// # Errors
/// [`DemoError`] where it cannot start.
pub async fn run(options: &cli::Demo) -> Result<(), DemoError> {
    let mut stopped = pin!(node::stop_signal());
    say("llm-router demo: starting three regions on simulated backends");
    let fleet = tokio::select! {
        fleet = Fleet::start(options.port, options.password.clone()) => fleet?,
        _ = &mut stopped => return Ok(()),
    };
    say(&summary::welcome(fleet.addresses(), fleet.admin().as_ref(), &fleet.ledgers(), options.duration));
    if !options.no_open && std::io::stdout().is_terminal() {
        browser::open(&format!("http://{}/", fleet.addresses()[0]));
    }

    let started = Instant::now();
    let load = Load::start(fleet.addresses().to_vec(), fleet.admin_token(), fleet.burst.subscribe())?;
    let reason = under_load(options.duration, started, &fleet, &load, &mut stopped).await;
    load.end();
    if load.under_way() > 0 {
        say(&format!("stopping: waiting for {} answers, Ctrl-C again to stop now", load.under_way()));
    }
    let drained = async { tokio::time::timeout(LAST_ANSWERS, load.drained()).await.is_ok() };
    // A second signal does not wait for the last answers.
    let mut again = pin!(node::stop_signal());
    tokio::select! {
        _ = drained => {}
        _ = &mut again => {}
    }
    let last = sample(started, &fleet, &load);
    load.stop();
    fleet.shutdown().await;
    say(&summary::farewell(reason, &last));
    Ok(())
}

/// Says how it goes until it is time to stop; answers why.
async fn under_load(
    duration: Option<Duration>,
    started: Instant,
    fleet: &Fleet,
    load: &Load,
    stopped: &mut (impl Future<Output = &'static str> + Unpin),
) -> &'static str {
    let after = |time: Option<Duration>| async move {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let quiet = duration.map(|all| all.saturating_sub(QUIET_END.min(all / 5)));
    let mut quiet = pin!(after(quiet));
    let mut over = pin!(after(duration));
    let mut status = tokio::time::interval(STATUS_EVERY);
    status.tick().await;
    let mut ended = false;
    loop {
        tokio::select! {
            _ = &mut *stopped => return "interrupted",
            () = &mut over => return "time is up",
            () = &mut quiet, if !ended => {
                ended = true;
                load.end();
            }
            _ = status.tick() => say(&summary::status(&sample(started, fleet, load))),
        }
    }
}

fn sample(started: Instant, fleet: &Fleet, load: &Load) -> Sample {
    Sample { elapsed: started.elapsed(), books: fleet.books(), load: load.tally() }
}

/// A closed standard output leaves nobody to tell; the demo goes on.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn three_regions_answer_the_load_without_a_failure() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fleet = Fleet::start(0, None).await.unwrap();
        let started = Instant::now();
        let load =
            Load::start(fleet.addresses().to_vec(), fleet.admin_token(), fleet.burst.subscribe()).unwrap();
        let every_region_served = || fleet.books().iter().all(|book| book.total.requests > 2);
        while !every_region_served() {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", fleet.books());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        load.end();
        tokio::time::timeout(Duration::from_secs(60), load.drained()).await.unwrap();
        let last = sample(started, &fleet, &load);
        assert_eq!((last.load.failed, last.load.first_failure), (0, None));
        assert_eq!(last.load.answered, last.load.sent);
        let live = |node: usize| {
            let snapshot = fleet.handle(node).unwrap().snapshot();
            snapshot.view.members.iter().filter(|member| member.live).count()
        };
        for node in 0..3 {
            while live(node) < 3 {
                assert!(
                    started.elapsed() < Duration::from_secs(60),
                    "router {node} sees {} routers",
                    live(node)
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        fleet.shutdown().await;
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_way_out() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let Err(error) = Fleet::start(port, None).await else { panic!("started on a port in use") };
        let text = error.to_string();
        assert!(
            text.contains("us-west-2") && text.contains(&port.to_string()) && text.contains("--port"),
            "{text}"
        );
    }
}
