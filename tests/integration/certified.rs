//! Nodes with certificates of their cluster, on loopback.

use crate::fixture::Router;
use llm_router::certs::{Authority, Request, days};
use serde_json::Value;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A UDP port that is free now.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Writes the identity of `node`, by `issuer`, that trusts `trusted`.
pub(crate) fn lay_down(directory: &Path, node: &str, issuer: &Authority, trusted: &str) {
    let request = Request { node: node.to_owned(), valid: days(1), dns: Vec::new(), ip: Vec::new() };
    let issued = issuer.issue(&request).unwrap();
    // Each file at once, as a person would copy them: half a change must do no harm.
    let put = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    put(&format!("{node}.key"), &issued.key);
    put(&format!("{node}.pem"), &issued.cert);
    put(&format!("{node}-ca.pem"), trusted);
}

pub(crate) struct Place {
    pub(crate) directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn node(&self, name: &str, cluster_id: &str, port: u16, seed: u16) -> String {
        let path = |suffix: &str| self.path(&format!("{name}{suffix}")).display().to_string();
        format!(
            "node: {{name: {name}, region: region-{name}}}\nrouter: {{healthCheckInterval: 2s}}\n\
             gossip: {{listen: \"127.0.0.1:{port}\", seeds: [\"127.0.0.1:{seed}\"], clusterId: {cluster_id}, \
             identity: {{cert: \"{}\", key: \"{}\", ca: \"{}\"}}}}",
            path(".pem"),
            path(".key"),
            path("-ca.pem")
        )
    }
}

pub(crate) fn live(view: &Value) -> Vec<&str> {
    let members = view["members"].as_array().unwrap().iter();
    members.filter(|m| m["live"] == true).map(|m| m["node"].as_str().unwrap()).collect()
}

pub(crate) async fn all_live(routers: &[&Router]) {
    for router in routers {
        router.wait_for("all members to be live", |view| live(view).len() == routers.len()).await;
    }
}
