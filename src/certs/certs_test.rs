use super::*;
use std::os::unix::fs::PermissionsExt;

fn request(node: &str) -> Request {
    Request { node: node.to_owned(), valid: days(1), dns: Vec::new(), ip: Vec::new() }
}

fn contents(issued: &Issued, authority: &Authority) -> Contents {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let files = IdentityFiles {
        cert: path("c", &issued.cert),
        key: path("k", &issued.key),
        ca: path("a", authority.pem()),
    };
    Contents::read(&files).unwrap()
}

fn name(cluster: &str, node: &str) -> NodeName {
    NodeName { cluster: cluster.to_owned(), node: NodeId::new(node) }
}

#[test]
fn an_authority_is_made_once_and_its_key_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let [cert, key] = init(directory.path(), "prod").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cert), mode(&key)), (0o644, 0o600));
    let before = std::fs::read(&key).unwrap();
    let again = init(directory.path(), "prod").unwrap_err().to_string();
    assert!(again.contains("ca.pem` exists"), "{again}");
    std::fs::remove_file(&cert).unwrap();
    let again = init(directory.path(), "prod").unwrap_err().to_string();
    assert!(again.contains("ca.key` exists"), "{again}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

#[test]
fn a_node_is_issued_an_identity_of_its_own_and_renewed_over_it() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("nodes");
    init(directory.path(), "prod").unwrap();
    let mut asked = request("router_eu.1");
    asked.dns.push("gossip.example.org".to_owned());
    asked.ip.push("10.0.0.7".parse().unwrap());
    let files = issue(directory.path(), &asked, &out).unwrap();
    let expected = name("prod", "router_eu.1");
    let first = Identity::new(&Contents::read(&files).unwrap(), &expected).unwrap();
    issue(directory.path(), &asked, &out).unwrap();
    let second = Identity::new(&Contents::read(&files).unwrap(), &expected).unwrap();
    assert_ne!(first.serial(), second.serial());
    assert_eq!(std::fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3, "nothing half written is left");
}

#[test]
fn an_identity_that_peers_would_refuse_is_refused_at_home() {
    let (authority, foreign) = (Authority::new("prod").unwrap(), Authority::new("prod").unwrap());
    let good = authority.issue(&request("a")).unwrap();
    let judged = |contents: &Contents, expected: &NodeName| match Identity::new(contents, expected) {
        Ok(_) => "good".to_owned(),
        Err(error) => error.to_string(),
    };
    let expected = name("prod", "a");
    assert_eq!(judged(&contents(&good, &authority), &expected), "good");
    assert!(judged(&contents(&good, &authority), &name("prod", "b")).contains("is of node `a`"));
    assert!(judged(&contents(&good, &authority), &name("other", "a")).contains("cluster `prod`"));
    assert!(judged(&contents(&good, &foreign), &expected).contains("does not hold"));
    let now = SystemTime::now();
    let old = authority.issue_between(&request("a"), "prod", now - DAY * 2, now - DAY).unwrap();
    assert!(judged(&contents(&old, &authority), &expected).contains("expired"));
    let mixed = Issued { cert: good.cert.clone(), key: old.key };
    assert!(judged(&contents(&mixed, &authority), &expected).contains("certificate and key"));
    let empty = Issued { cert: String::new(), key: good.key };
    assert!(judged(&contents(&empty, &authority), &expected).contains("no certificate"));
    let unnamed = Issued { cert: authority.pem().to_owned(), key: authority.key.clone() };
    assert!(judged(&contents(&unnamed, &authority), &expected).contains("`authority`"));
}

#[test]
fn names_and_times_that_cannot_be_certified_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path(), "prod").unwrap();
    for node in ["", "a/b", "a b", "../a", ".", "ä", &"x".repeat(65)] {
        assert!(
            matches!(issue(directory.path(), &request(node), directory.path()), Err(CertsError::Name(_))),
            "{node}"
        );
    }
    assert!(matches!(init(&directory.path().join("x"), "a/b"), Err(CertsError::Name(_))));
    for (valid, good) in [(0, false), (1, true), (3650, true), (3651, false)] {
        let asked = Request { valid: days(valid), ..request("a") };
        assert_eq!(issue(directory.path(), &asked, directory.path()).is_ok(), good, "{valid}");
    }
    let asked = Request { dns: vec!["no name".to_owned()], ..request("a") };
    assert!(matches!(issue(directory.path(), &asked, directory.path()), Err(CertsError::Dns(_))));
    let missing = issue(&directory.path().join("nowhere"), &request("a"), directory.path());
    assert!(missing.unwrap_err().to_string().starts_with("cannot read `"));
}
