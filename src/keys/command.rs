//! `llm-router keys`: makes, lists and revokes the keys of `auth.keysFile`.
//!
//! A key's text is printed once, when it is made, and is nowhere else.

use super::file::{self, BudgetEntry, KeyEntry, KeyFile, KeyFileError, LimitsEntry};
use crate::cli::{self, EXIT_USAGE, examples};
use crate::config;
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::{SignedDuration, Timestamp};
use llm_router_logic::api_key::{self, Digest, RANDOM_BYTES};
use llm_router_logic::route::Strategy;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What `keys` does.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; its text is shown this once
    #[command(after_help = examples::KEYS_CREATE)]
    Create(Box<CreateOptions>),
    /// List the keys: whose they are, until when, what they may do
    #[command(after_help = examples::KEYS_LIST)]
    List(ListOptions),
    /// Revoke a key: each router stops taking it within a second of its file's change
    #[command(after_help = examples::KEYS_REVOKE)]
    Revoke(RevokeOptions),
}

/// Options of `keys create`.
#[derive(Args, Debug)]
pub struct CreateOptions {
    /// YAML file with `auth.keysFile` and `auth.secret`
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Who pays; default: the tenant of the key it replaces
    #[arg(long, value_name = "NAME", required_unless_present = "replaces")]
    tenant: Option<String>,
    /// Models it may use, a final `*` stands for any ending; default: all its tenant may
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// Backends it may use
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    backends: Option<Vec<String>>,
    /// Strategies it may use
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    strategies: Option<Vec<Strategy>>,
    /// Requests in any minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Tokens in any minute
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u32>,
    /// Requests at once
    #[arg(long, value_name = "N")]
    max_concurrent: Option<u32>,
    /// Dollars it may spend per period
    #[arg(long, value_name = "USD")]
    budget: Option<f64>,
    /// Period of the budget: `day`, `week` or `month`
    #[arg(long, value_name = "WORD", requires = "budget")]
    period: Option<String>,
    /// It opens nothing before, for example `2027-01-01T00:00:00Z`
    #[arg(long, value_name = "TIME")]
    not_before: Option<Timestamp>,
    /// How long it opens anything, for example `90days`
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    valid: Option<Duration>,
    /// Key whose place it takes, with all that one may do where nothing else is said
    #[arg(long, value_name = "ID")]
    replaces: Option<String>,
    /// How long the replaced key still opens what it did
    #[arg(long, value_name = "DURATION", requires = "replaces", default_value = "24h", value_parser = humantime::parse_duration)]
    overlap: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `keys list`.
#[derive(Args, Debug)]
pub struct ListOptions {
    /// YAML file with `auth.keysFile`
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `keys revoke`.
#[derive(Args, Debug)]
pub struct RevokeOptions {
    /// The key's id, the part between the first two dashes
    #[arg(value_name = "ID")]
    id: String,
    /// YAML file with `auth.keysFile`
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a command about keys did nothing.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    /// The file of keys.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The configuration has no such setting.
    #[error("`{0}` is not set in `{1}`: {2}")]
    Unset(&'static str, PathBuf, &'static str),
    /// Nobody has that id.
    #[error("there is no key `{0}`: `llm-router keys list` names them")]
    NoSuchKey(String),
    /// A wish that cannot be.
    #[error("{0}")]
    Wrong(String),
}

/// Runs `keys`. Bad wishes exit with 64, a file that cannot be used with 1.
pub fn run(command: &KeysCommand) -> ExitCode {
    let config = match command {
        KeysCommand::Create(options) => &options.config,
        KeysCommand::List(options) => &options.config,
        KeysCommand::Revoke(options) => &options.config,
    };
    let loaded = match config::load(config, &config::process_env) {
        Ok(loaded) => loaded,
        Err(problems) => return cli::refuse(&problems),
    };
    let place = match place(config, loaded.config.access.keys.as_ref()) {
        Ok(place) => place,
        Err(error) => return failed(&error),
    };
    let now = Timestamp::now();
    let told = match command {
        KeysCommand::Create(options) => create(options, &place, now),
        KeysCommand::List(options) => list(options, &place, now),
        KeysCommand::Revoke(options) => revoke(options, &place.file, now),
    };
    match told {
        Ok(text) => {
            // A closed standard output leaves nobody to tell.
            let _ = writeln!(std::io::stdout().lock(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &KeysError) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "{error}");
    if matches!(error, KeysError::File(_)) { ExitCode::FAILURE } else { ExitCode::from(EXIT_USAGE) }
}

/// Where the keys are, and under which secret.
struct Place {
    file: PathBuf,
    secret: SecretString,
}

fn place(config: &Path, keys: Option<&config::Keys>) -> Result<Place, KeysError> {
    let unset = |key, why| KeysError::Unset(key, config.to_owned(), why);
    let file = keys.and_then(|keys| keys.file.clone());
    let secret = keys.and_then(|keys| keys.secret.clone());
    Ok(Place {
        file: file.ok_or_else(|| unset("auth.keysFile", "name the file keys are kept in"))?,
        secret: secret.ok_or_else(|| unset("auth.secret", "keys are stored as hashes under it"))?,
    })
}

fn create(options: &CreateOptions, place: &Place, now: Timestamp) -> Result<String, KeysError> {
    let (id, text) = api_key::new_key(&rand::random::<[u8; RANDOM_BYTES]>());
    let hash = Digest::of(place.secret.expose_secret().as_bytes(), text.as_bytes()).to_string();
    let later = |span: Duration| {
        let span = SignedDuration::try_from(span).map_err(|error| KeysError::Wrong(error.to_string()))?;
        now.checked_add(span).map_err(|error| KeysError::Wrong(format!("that is too far away: {error}")))
    };
    let expires = options.valid.map(later).transpose()?;
    let overlap_ends = later(options.overlap)?;
    let entry = file::update(&place.file, |file: &mut KeyFile| {
        let mut entry = KeyEntry::default();
        if let Some(replaced) = &options.replaces {
            let old = find(file, replaced)?;
            entry = KeyEntry { not_before: None, expires: None, revoked: None, ..old.clone() };
            old.expires = Some(old.expires.map_or(overlap_ends, |end| end.min(overlap_ends)));
        }
        entry.id = id.to_string();
        entry.hash = hash;
        entry.created = Some(now);
        entry.replaces.clone_from(&options.replaces);
        entry.not_before = options.not_before;
        entry.expires = expires;
        if let Some(tenant) = &options.tenant {
            entry.tenant.clone_from(tenant);
        }
        allow(&mut entry, options)?;
        entry.check().map_err(KeysError::Wrong)?;
        file.keys.push(entry.clone());
        Ok::<_, KeysError>(entry)
    })?;
    if options.json {
        let mut told = serde_json::to_value(&entry).map_err(|error| KeysError::Wrong(error.to_string()))?;
        told["key"] = json!(text);
        return Ok(format!("{told:#}"));
    }
    Ok(format!(
        "{text}\n\nThis is key `{}` of `{}`. It is shown this once: keep it now.",
        entry.id, entry.tenant
    ))
}

/// What the options say of the key's rights takes the place of what it had.
fn allow(entry: &mut KeyEntry, options: &CreateOptions) -> Result<(), KeysError> {
    let CreateOptions { models, backends, strategies, .. } = options;
    let take = |has: &mut Option<Vec<String>>, wish: &Option<Vec<String>>| {
        if wish.is_some() {
            has.clone_from(wish);
        }
    };
    take(&mut entry.models, models);
    take(&mut entry.backends, backends);
    if strategies.is_some() {
        entry.strategies.clone_from(strategies);
    }
    let has = entry.limits.unwrap_or_default();
    let limits = LimitsEntry {
        requests_per_minute: options.requests_per_minute.or(has.requests_per_minute),
        tokens_per_minute: options.tokens_per_minute.or(has.tokens_per_minute),
        max_concurrent: options.max_concurrent.or(has.max_concurrent),
    };
    let some = [limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrent];
    entry.limits = some.iter().any(Option::is_some).then_some(limits);
    if let Some(usd) = options.budget {
        entry.budget = Some(BudgetEntry { usd, period: options.period.clone(), ..BudgetEntry::default() });
    }
    Ok(())
}

fn find<'f>(file: &'f mut KeyFile, id: &str) -> Result<&'f mut KeyEntry, KeysError> {
    file.keys.iter_mut().find(|key| key.id == id).ok_or_else(|| KeysError::NoSuchKey(id.to_owned()))
}

fn revoke(options: &RevokeOptions, path: &Path, now: Timestamp) -> Result<String, KeysError> {
    let id = &options.id;
    let (tenant, revoked, before) = file::update(path, |file| {
        let key = find(file, id)?;
        let before = key.revoked.is_some();
        Ok::<_, KeysError>((key.tenant.clone(), *key.revoked.get_or_insert(now), before))
    })?;
    if options.json {
        return Ok(format!("{:#}", json!({"id": id, "tenant": tenant, "revoked": revoked})));
    }
    Ok(if before {
        format!("key `{id}` of `{tenant}` was revoked at {revoked:.0}")
    } else {
        format!("key `{id}` of `{tenant}` is revoked")
    })
}

fn list(options: &ListOptions, place: &Place, now: Timestamp) -> Result<String, KeysError> {
    let keys = file::load(&place.file)?.keys;
    let state = |key: &KeyEntry| match key {
        KeyEntry { revoked: Some(_), .. } => "revoked",
        KeyEntry { expires: Some(end), .. } if *end <= now => "expired",
        KeyEntry { not_before: Some(start), .. } if *start > now => "not yet",
        _ => "valid",
    };
    if options.json {
        // The hash helps nobody who reads a list.
        let told = keys.iter().map(|key| {
            let mut told = serde_json::to_value(key).unwrap_or_default();
            if let Some(fields) = told.as_object_mut() {
                fields.remove("hash");
                fields.insert("state".into(), json!(state(key)));
            }
            told
        });
        return Ok(format!("{:#}", json!({"keys": told.collect::<Vec<_>>()})));
    }
    if keys.is_empty() {
        return Ok(format!("no keys in `{}`: `llm-router keys create` makes one", place.file.display()));
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["id", "tenant", "state", "created", "expires", "models", "budget"]);
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".into(), |time| format!("{time:.0}"));
    for key in &keys {
        let models = key.models.as_ref().map_or_else(|| "all".into(), |models| models.join(","));
        let budget = key.budget.as_ref().map_or_else(
            || "-".into(),
            |budget| format!("${} a {}", budget.usd, budget.period.as_deref().unwrap_or("month")),
        );
        table.add_row([
            key.id.clone(),
            key.tenant.clone(),
            state(key).into(),
            time(key.created),
            time(key.expires),
            models,
            budget,
        ]);
    }
    Ok(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Access;
    use crate::keys::{KeyRefused, Keyring};
    use clap::Parser;
    use serde_json::Value;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: KeysCommand,
    }

    /// A deployment with a file of keys in a directory of its own.
    struct Scene {
        _directory: tempfile::TempDir,
        access: Access,
        place: Place,
        now: Timestamp,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let yaml = "auth: {keysFile: keys.json, secret: a-secret-of-the-hashes-0123456789abcdef}\n\
                        clusters: [{name: c, endpoint: \"http://c.example\", region: r, provider: aws, costPerHour: 1, authType: none}]";
            let loaded = match config::load_str(yaml, directory.path(), &|_| None) {
                Ok(loaded) => loaded,
                Err(problems) => panic!("{problems}"),
            };
            let access = loaded.config.access;
            let place =
                place(Path::new("a.yaml"), access.keys.as_ref()).unwrap_or_else(|error| panic!("{error}"));
            Self { _directory: directory, access, place, now: Timestamp::now() }
        }

        fn run(&self, line: &str) -> Result<String, KeysError> {
            let words = ["keys"].into_iter().chain(line.split_whitespace()).chain(["--config", "a.yaml"]);
            match Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).command {
                KeysCommand::Create(options) => create(&options, &self.place, self.now),
                KeysCommand::List(options) => list(&options, &self.place, self.now),
                KeysCommand::Revoke(options) => revoke(&options, &self.place.file, self.now),
            }
        }

        /// Makes a key: its id and its text.
        fn created(&self, line: &str) -> (String, String) {
            let told: Value =
                serde_json::from_str(&self.run(&format!("create --json {line}")).unwrap()).unwrap();
            let text = |key: &str| told[key].as_str().unwrap().to_owned();
            (text("id"), text("key"))
        }

        fn opens(&self, key: &str, hours: i64) -> Result<String, KeyRefused> {
            let records = file::read(&self.place.file).unwrap();
            let ring = Keyring::new(&self.access, &records, b"");
            let then = u64::try_from(self.now.as_second() + hours * 3_600).unwrap();
            ring.principal(key.as_bytes(), then).map(|principal| principal.tenant.to_string())
        }
    }

    #[test]
    fn a_made_key_opens_until_it_is_revoked_and_is_nowhere_in_the_file() {
        let scene = Scene::new();
        let (id, key) = scene.created("--tenant team-a --models gpt-*,tiny --budget 5 --period day");
        assert_eq!(scene.opens(&key, 0).unwrap(), "team-a");
        let written = std::fs::read_to_string(&scene.place.file).unwrap();
        assert!(!written.contains(&key) && written.contains(&id));
        let listed = scene.run("list").unwrap();
        assert!(
            listed.contains(&id) && listed.contains("gpt-*,tiny") && listed.contains("$5 a day"),
            "{listed}"
        );
        assert!(!scene.run("list --json").unwrap().contains("hash"));

        scene.run(&format!("revoke {id}")).unwrap();
        let again: Value = serde_json::from_str(&scene.run(&format!("revoke {id} --json")).unwrap()).unwrap();
        assert_eq!(again["id"], json!(id));
        assert!(again["revoked"].is_string(), "{again}");
        assert_eq!(scene.opens(&key, 0), Err(KeyRefused::Revoked));
        assert!(scene.run("list").unwrap().contains("revoked"));
    }

    #[test]
    fn a_replaced_key_goes_on_for_the_overlap_and_its_successor_may_do_the_same() {
        let scene = Scene::new();
        let (old, old_key) = scene.created("--tenant team-a --models tiny --max-concurrent 3");
        let (_, new_key) = scene.created(&format!("--replaces {old} --overlap 2h"));
        assert_eq!(scene.opens(&new_key, 48).unwrap(), "team-a");
        assert_eq!(scene.opens(&old_key, 1).unwrap(), "team-a");
        assert_eq!(scene.opens(&old_key, 3), Err(KeyRefused::Expired));
        let keys = file::load(&scene.place.file).unwrap().keys;
        assert_eq!(keys[1].models, Some(vec!["tiny".to_owned()]));
        assert_eq!(keys[1].limits.unwrap().max_concurrent, Some(3));
    }

    #[test]
    fn a_wish_that_cannot_be_changes_nothing_and_says_why() {
        let scene = Scene::new();
        let before = scene.created("--tenant team-a --valid 1h");
        assert_eq!(scene.opens(&before.1, 2), Err(KeyRefused::Expired));
        for (line, why) in [
            ("revoke nobody", "there is no key `nobody`"),
            ("create --replaces nobody", "there is no key `nobody`"),
            ("create --tenant a/b", "`a/b` is no tenant name"),
            ("create --tenant a --budget 5 --period fortnight", "budget.period"),
        ] {
            let error = scene.run(line).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert_eq!(file::load(&scene.place.file).unwrap().keys.len(), 1);
    }
}
