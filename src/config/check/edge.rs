//! The sections about this node's own doors: `server`, `node`, `gossip`, `admin`, `timeouts`, `demo`.

use super::{Check, LOCAL};
use crate::config::file::{
    AdminFile, DemoFile, GossipFile, IdentityFile, NodeFile, RelayFile, ServerFile, TimeoutsFile,
};
use crate::config::path::Path;
use crate::config::settings::{Admin, Demo, Gossip, Node, PeerRelay, Server, Timeouts};
use crate::identity::IdentityFiles;
use llm_router_logic::gossip::presence::Presence;
use llm_router_logic::ids::{NodeId, Region};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

const GOSSIP_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(10);

impl Check<'_> {
    pub(super) fn server(&mut self, mut file: ServerFile) -> Server {
        let at = Path::default().key("server");
        let host_at = at.key("host");
        match &file.host {
            None => self.findings.warning(
                &host_at,
                "not given: only this machine is served, at `127.0.0.1` (set `0.0.0.0` for every network)",
            ),
            Some(host)
                if host.is_empty()
                    || !host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:[]".contains(c)) =>
            {
                self.findings
                    .problem(&host_at, format!("expected a host name or an IP address, found `{host}`"));
            }
            Some(_) => {}
        }
        let read_timeout = self.timeout(&at.key("readTimeout"), file.read_timeout, Duration::from_secs(30));
        Server {
            host: file.host.as_deref().map_or("127.0.0.1", without_brackets).to_owned(),
            port: file.port.unwrap_or(8080),
            read_timeout,
            header_timeout: self.timeout(&at.key("headerTimeout"), file.header_timeout, read_timeout),
            write_timeout: self.timeout(
                &at.key("writeTimeout"),
                file.write_timeout,
                Duration::from_secs(120),
            ),
            idle_timeout: self.timeout(&at.key("idleTimeout"), file.idle_timeout, Duration::from_secs(60)),
            max_body_bytes: self.body_bytes(&at.key("maxBodyBytes"), file.max_body_bytes),
            drain_timeout: self.duration(
                &at.key("drainTimeout"),
                file.drain_timeout,
                Duration::from_secs(30),
                Duration::ZERO,
            ),
            tls: self.tls(&at.key("tls"), file.tls.take()),
            lame_duck: self.duration(&at.key("lameDuck"), file.lame_duck, Duration::ZERO, Duration::ZERO),
        }
    }

    pub(super) fn node(&mut self, file: Option<NodeFile>) -> Node {
        let at = Path::default().key("node");
        let file = file.unwrap_or_default();
        let name = file.name.unwrap_or_else(|| self.host_name());
        self.name(&at.key("name"), &name);
        let region = self.name_or(&at.key("region"), file.region, LOCAL);
        let cloud = self.name_or(&at.key("cloud"), file.cloud, LOCAL);
        Node { name: NodeId::new(name), region: Region::new(region), cloud }
    }

    pub(super) fn gossip(&mut self, file: Option<GossipFile>, node: &Node, named: bool) -> Option<Gossip> {
        let file = file?;
        let at = Path::default().key("gossip");
        if !named {
            self.findings.warning(
                &Path::default().key("node").key("name"),
                format!(
                    "not given: the host's name `{}` is used, and must be unique among the routers",
                    node.name
                ),
            );
        }
        // A broken identity is a problem of its own: the addresses are judged as if it were good.
        let proven = file.identity.is_some();
        let identity = file.identity.and_then(|identity| self.identity(&at.key("identity"), identity));
        let relay = file.relay.and_then(|relay| self.peer_relay(&at.key("relay"), relay, proven));
        let listen = self.gossip_address(&at.key("listen"), file.listen, proven);
        let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let advertise_at = at.key("advertise");
        let advertise = self.gossip_address(&advertise_at, file.advertise, proven);
        match advertise {
            None if proven && listen.ip().is_unspecified() => self.findings.problem(
                &advertise_at,
                format!("missing: `{listen}` is every address (say which one peers reach, for example `10.0.0.7:7946`)"),
            ),
            Some(advertise) if advertise.ip().is_unspecified() || advertise.port() == 0 => {
                self.findings.problem(&advertise_at, format!("`{advertise}` is no address a peer could reach"));
            }
            _ => {}
        }
        let mut seeds = Vec::new();
        for (at, seed) in self.texts(&at.key("seeds"), file.seeds) {
            if is_host_and_port(&seed) {
                seeds.push(seed);
            } else {
                self.findings.problem(&at, format!("expected `host:port`, found `{seed}`"));
            }
        }
        let interval_at = at.key("interval");
        let (least, most) = GOSSIP_INTERVALS.into_inner();
        let interval = self.duration(&interval_at, file.interval, Duration::from_millis(200), least);
        if interval > most {
            self.findings.problem(&interval_at, format!("must be at most `{most:?}`, is `{interval:?}`"));
        }
        Some(Gossip {
            listen,
            advertise,
            seeds,
            interval,
            cluster_id: self.name_or(&at.key("clusterId"), file.cluster_id, "llm-router"),
            identity,
            relay,
        })
    }

    /// Peers prove themselves with the cluster's certificates: without one of its own this node could neither
    /// ask for theirs nor show its own.
    fn peer_relay(&mut self, at: &Path, file: RelayFile, proven: bool) -> Option<PeerRelay> {
        if !proven {
            self.findings.problem(at, "needs `gossip.identity`: peers prove themselves with certificates");
        }
        let listen_at = at.key("listen");
        let listen = self.required(&listen_at, file.listen, "0.0.0.0:7947");
        let listen = self.address(&listen_at, listen)?;
        let advertise_at = at.key("advertise");
        if let Some(advertise) = &file.advertise
            && (!is_host_and_port(advertise) || advertise.len() > Presence::ADDRESS_MAX)
        {
            self.findings.problem(&advertise_at, format!("expected `host:port`, found `{advertise}`"));
        }
        if file.advertise.is_none() && listen.ip().is_unspecified() {
            self.findings.problem(
                &advertise_at,
                format!("peers cannot call `{listen}`: say at which `host:port` they reach it"),
            );
        }
        Some(PeerRelay { listen, advertise: file.advertise })
    }

    /// The files are read when the node starts: they need not be on the machine that checks.
    fn identity(&mut self, at: &Path, file: IdentityFile) -> Option<IdentityFiles> {
        let mut path = |key: &str, value: Option<String>| {
            let at = at.key(key);
            let value =
                self.required(&at, value.filter(|path| !path.is_empty()), &format!("certs/node.{key}"))?;
            Some(self.file_path(&value))
        };
        let (cert, key, ca) = (path("cert", file.cert), path("key", file.key), path("ca", file.ca));
        Some(IdentityFiles { cert: cert?, key: key?, ca: ca? })
    }

    /// Gossip over plain UDP is neither encrypted nor authenticated: one forged packet can poison every
    /// node, so without an identity it stays on this machine.
    fn gossip_address(&mut self, at: &Path, text: Option<String>, proven: bool) -> Option<SocketAddr> {
        let address = self.address(at, text)?;
        if !proven && !address.ip().is_loopback() {
            self.findings.problem(
                at,
                format!("`{address}` is not a loopback address, and plain gossip can be forged (set `gossip.identity`)"),
            );
        }
        Some(address)
    }

    pub(super) fn admin(&mut self, file: AdminFile) -> Option<Admin> {
        let at = Path::default().key("admin");
        let listen = self.required(&at.key("listen"), file.listen, "127.0.0.1:9090");
        let listen = self.address(&at.key("listen"), listen);
        let token = self.required(&at.key("token"), file.token, "${ADMIN_TOKEN}");
        let token = self.secret(&at.key("token"), token);
        let encrypted = file.tls.is_some();
        let tls = self.tls(&at.key("tls"), file.tls);
        let (listen, token) = (listen?, token?);
        if !listen.ip().is_loopback() && !encrypted {
            self.findings.warning(
                &at.key("listen"),
                "not a loopback address: the token crosses the network in clear text (set `admin.tls`)",
            );
        }
        Some(Admin { listen, token, tls })
    }

    pub(super) fn timeouts(&mut self, file: &TimeoutsFile) -> Timeouts {
        let at = Path::default().key("timeouts");
        let first_byte = self.timeout(&at.key("firstByte"), file.first_byte, Duration::from_secs(60));
        Timeouts {
            connect: self.timeout(&at.key("connect"), file.connect, Duration::from_secs(5)),
            first_byte,
            whole_answer: self.timeout(
                &at.key("wholeAnswer"),
                file.whole_answer,
                first_byte.saturating_mul(5),
            ),
            idle: self.timeout(&at.key("idle"), file.idle, Duration::from_secs(30)),
            keep_alive: Some(file.keep_alive.map_or(Duration::from_secs(15), |span| span.0))
                .filter(|keep_alive| !keep_alive.is_zero()),
            total: self.timeout(&at.key("total"), file.total, Duration::from_secs(600)),
        }
    }

    pub(super) fn demo(&mut self, file: DemoFile) -> Option<Demo> {
        let at = Path::default().key("demo");
        self.not_honoured(
            &at,
            &[
                ("mockResponseDelay", file.mock_response_delay.is_some(), "see `router.mockClusterLatency`"),
                ("smartRoutingEnabled", file.smart_routing_enabled.is_some(), "see `router.routingStrategy`"),
                (
                    "budgetTrackingEnabled",
                    file.budget_tracking_enabled.is_some(),
                    "budgets are not enforced yet",
                ),
            ],
        );
        if file.enabled != Some(true) {
            return None;
        }
        let password = self.required(&at.key("password"), file.password, "${DEMO_PASSWORD}");
        let password = self.secret(&at.key("password"), password);
        let session_timeout =
            self.timeout(&at.key("sessionTimeout"), file.session_timeout, Duration::from_secs(3600));
        let rate_limit_per_ip = self.count(&at.key("rateLimitPerIP"), file.rate_limit_per_ip).unwrap_or(60);
        Some(Demo { password: password?, session_timeout, rate_limit_per_ip })
    }
}

/// `[::1]` as the socket wants it.
fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_is_good =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:[]".contains(c));
    host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
}
