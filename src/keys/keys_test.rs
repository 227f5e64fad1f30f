use super::file::{KeyEntry, KeyFile};
use super::*;
use crate::config::{FixedKey, Share, Tenant};
use llm_router_logic::backend::ServedModel;
use secrecy::SecretString;

const SECRET: &str = "a-secret-of-the-tests";

fn access(tenants: Vec<Tenant>) -> Access {
    let keys = Keys {
        secret: Some(SecretString::from(SECRET)),
        file: None,
        fixed: Vec::new(),
        metrics_token: None,
        open_metrics: false,
    };
    Access { keys: Some(keys), tenants }
}

fn models(names: &[&str]) -> Allowed {
    Allowed { models: Some(names.iter().map(|&name| name.to_owned()).collect()), ..Allowed::default() }
}

fn record(key: &str) -> Record {
    Record {
        id: KeyId::new(key),
        digest: Digest::of(SECRET.as_bytes(), key.as_bytes()),
        grant: Grant {
            tenant: TenantId::new("team-a"),
            allowed: Allowed::default(),
            share: Share::default(),
        },
        not_before: None,
        expires: None,
        revoked: None,
    }
}

fn outcome(ring: &Keyring, key: &str, now: u64) -> Result<String, KeyRefused> {
    ring.principal(key.as_bytes(), now).map(|principal| principal.tenant.to_string())
}

#[test]
fn a_key_opens_between_its_times_and_until_it_is_revoked() {
    let records = [
        record("plain"),
        Record { not_before: Some(100), expires: Some(200), ..record("timed") },
        Record { revoked: Some(50), ..record("revoked") },
    ];
    let ring = Keyring::new(&access(Vec::new()), &records, &[]);
    assert_eq!(ring.len(), 3);
    assert_eq!(outcome(&ring, "plain", 0), Ok("team-a".into()));
    assert_eq!(outcome(&ring, "timed", 99), Err(KeyRefused::NotYet));
    assert_eq!(outcome(&ring, "timed", 100), Ok("team-a".into()));
    assert_eq!(outcome(&ring, "timed", 200), Err(KeyRefused::Expired));
    assert_eq!(outcome(&ring, "revoked", 0), Err(KeyRefused::Revoked));
    for key in ["", "plai", "plain ", "lr-a-b"] {
        assert_eq!(outcome(&ring, key, 0), Err(KeyRefused::Unknown), "{key}");
    }
}

#[test]
fn keys_of_the_configuration_open_without_a_secret_of_the_server() {
    let mut access = access(Vec::new());
    if let Some(keys) = &mut access.keys {
        keys.secret = None;
        keys.fixed.push(FixedKey {
            id: KeyId::new("first"),
            key: SecretString::from("a-key-of-the-configuration"),
            grant: record("first").grant,
        });
    }
    let ring = Keyring::new(&access, &[], &[7; 32]);
    let principal = ring.principal(b"a-key-of-the-configuration", 0).unwrap();
    assert_eq!(principal.key, Some(KeyId::new("first")));
    assert!(!format!("{access:?}").contains("a-key-of"), "the key is a secret");
}

#[test]
fn a_key_may_use_what_both_it_and_its_tenant_may() {
    let tenant =
        Tenant { id: TenantId::new("team-a"), allowed: models(&["a", "b"]), share: Share::default() };
    let mut record = record("k");
    record.grant.allowed = models(&["b", "c"]);
    let ring = Keyring::new(&access(vec![tenant]), &[record], &[]);
    let rights = &ring.principal(b"k", 0).unwrap().rights;
    let allowed = ["a", "b", "c"].map(|name| rights.allow_model(&ServedModel::named(name)));
    assert_eq!(allowed, [false, true, false]);
}

#[test]
fn a_file_is_read_as_it_was_written_and_refused_whole_where_one_entry_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    assert!(file::read(&path).unwrap().is_empty(), "no file, no keys");
    let entry = KeyEntry {
        id: "abc".into(),
        hash: Digest::of(b"s", b"k").to_string(),
        tenant: "team-a".into(),
        expires: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        models: Some(vec!["m*".into()]),
        ..KeyEntry::default()
    };
    let add = |file: &mut KeyFile, entry: KeyEntry| -> Result<(), KeyFileError> {
        file.keys.push(entry);
        Ok(())
    };
    file::update(&path, |file| add(file, entry.clone())).unwrap();
    let records = file::read(&path).unwrap();
    assert_eq!(records[0].expires, Some(1_767_323_045));
    assert_eq!(records[0].grant.allowed.models.as_deref(), Some(&["m*".to_owned()][..]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    file::update(&path, |file| add(file, entry.clone())).unwrap();
    assert!(file::read(&path).unwrap_err().to_string().contains("two keys have the id `abc`"));
    for text in ["keys: [{id: a, hash: zz, tenant: t}]", "keys: [{id: a}]", "keys: 7", "kyes: []"] {
        std::fs::write(&path, text).unwrap();
        assert!(file::read(&path).is_err(), "{text}");
    }
    std::fs::write(&path, "").unwrap();
    assert!(file::read(&path).unwrap().is_empty(), "an empty file has no keys");
}
