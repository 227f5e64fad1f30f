//! What `--help` shows under the options of each command: lines to copy and change.

pub(crate) const SERVE: &str = r#"Examples:
  llm-router serve --config config/llama-local.yaml
  LOG_LEVEL=debug LOG_FORMAT=json llm-router serve --config /etc/llm-router/router.yaml"#;

pub(crate) const DEMO: &str = r#"Examples:
  llm-router demo
  llm-router demo --port 9000 --duration 60s --no-open"#;

pub(crate) const CHECK: &str = r#"Examples:
  llm-router check --config router.yaml
  llm-router check --config router.yaml --json | jq -r '.problems[].path'"#;

pub(crate) const EXPLAIN: &str = r#"Examples:
  llm-router explain --config router.yaml --request request.json
  llm-router explain --url http://127.0.0.1:9090 --token "$TOKEN" --request request.json --strategy slo
  echo '{"model":"auto","messages":[{"role":"user","content":"Hello"}]}' | llm-router explain --config router.yaml --request - --json"#;

pub(crate) const REPLAY: &str = r#"Examples:
  llm-router replay --config config/replay-azure.yaml --trace trace.csv
  llm-router replay --config router.yaml --trace trace.csv --strategy slo --slo-ttft-ms 2000 --json
  llm-router replay --config router.yaml --trace trace.csv --plot replay.svg
  llm-router replay --config router.yaml --trace trace.csv --trouble openai=outage@10m..15m"#;

pub(crate) const MOCK: &str = r#"Examples:
  llm-router mock --kind llama --listen 127.0.0.1:8081 --slots 2 --tokens-per-second 20
  llm-router mock --kind anthropic --listen 127.0.0.1:8082 --faults faults.yaml"#;

pub(crate) const SIDECAR: &str = r#"Examples:
  llm-router sidecar --config sidecar.yaml"#;

pub(crate) const SCHEMA: &str = r#"Examples:
  llm-router schema > llm-router.schema.json"#;

pub(crate) const COMPLETIONS: &str = r#"Examples:
  llm-router completions bash > /etc/bash_completion.d/llm-router
  llm-router completions zsh > "${fpath[1]}/_llm-router"
  llm-router completions fish > ~/.config/fish/completions/llm-router.fish"#;

pub(crate) const KEYS_CREATE: &str = r#"Examples:
  llm-router keys create --config router.yaml --tenant team-a --budget 50 --period month
  llm-router keys create --config router.yaml --replaces k7x2 --overlap 24h --json"#;

pub(crate) const KEYS_LIST: &str = r#"Examples:
  llm-router keys list --config router.yaml"#;

pub(crate) const KEYS_REVOKE: &str = r#"Examples:
  llm-router keys revoke k7x2 --config router.yaml"#;

pub(crate) const LEDGER_REPORT: &str = r#"Examples:
  llm-router ledger report --config router.yaml
  llm-router ledger report --config aws.yaml --config gcp.yaml --by tenant,day --from 2026-11-01 --csv
  llm-router ledger report --ledger ledger.db --json | jq .total.cost_usd"#;

pub(crate) const LEDGER_VERIFY: &str = r#"Examples:
  llm-router ledger verify --config router.yaml"#;

pub(crate) const LEDGER_RECONCILE: &str = r#"Examples:
  llm-router ledger reconcile usage.csv --config router.yaml --backend openai --tolerance 0.005"#;

pub(crate) const CERTS_INIT: &str = r#"Examples:
  llm-router certs init --dir ca --cluster-id production"#;

pub(crate) const CERTS_ISSUE: &str = r#"Examples:
  llm-router certs issue --dir ca --node aws-1 --dns aws-1.routers.internal --ip 10.0.0.1 --out certs"#;
