# shellcheck shell=bash
# What the scripts here share: saying, refusing, running or only showing a command. Sourced, never run.
#
# A command that changes something is called through `run`: with --dry-run it is shown and not carried out.

# Options every script knows; those that source this set them.
DRY_RUN=false
YES=false

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# fail TEXT…: says what a person has to put right, and ends; 64 = used wrongly.
fail() {
    warn "$*"
    exit "${FAIL_CODE:-1}"
}
usage_error() {
    FAIL_CODE=64
    fail "$* (--help tells more)"
}

# Prints the comment at the head of the script that was called.
print_help() {
    sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"
}

# value OPTION "$@": the value that must follow an option.
need_value() {
    [[ $# -ge 2 && -n $2 && $2 != --* ]] || usage_error "\`$1\` needs a value"
}

run() {
    if $DRY_RUN; then
        printf 'would run:'
        printf ' %q' "$@"
        printf '\n'
        return 0
    fi
    "$@"
}

# run_with_input COMMAND…: the same for a command that reads standard input, which may be secret and is not shown.
run_with_input() {
    if $DRY_RUN; then
        cat >/dev/null
        printf 'would run:'
        printf ' %q' "$@"
        printf ' < (not shown)\n'
        return 0
    fi
    "$@"
}

need_program() {
    local program missing=()
    for program in "$@"; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [[ ${#missing[@]} == 0 ]] && return 0
    if $DRY_RUN; then
        warn "not installed: ${missing[*]}"
    else
        fail "not installed: ${missing[*]}"
    fi
}

platformctl() { "$ROOT/infra/platformctl" "$@"; }

# The shared file, read once: PLATFORM[path] is a value, REGIONS the keys in their order.
declare -A PLATFORM=()
REGIONS=()
read_platform() {
    [[ ${#REGIONS[@]} == 0 ]] || return 0
    local path value all
    all=$(platformctl flat) || exit 64
    while IFS=$'\t' read -r path value; do
        PLATFORM[$path]=$value
        [[ $path != regions.*.cloud ]] || REGIONS+=("$(key=${path#regions.} && printf '%s' "${key%.cloud}")")
    done <<<"$all"
}

# value_of PATH: a value of the shared file.
value_of() {
    read_platform
    [[ -v PLATFORM[$1] ]] || fail "no \`$1\` in infra/common/platform.json"
    printf '%s\n' "${PLATFORM[$1]}"
}

# confirm TEXT: asks before what cannot be undone, unless --yes was given.
confirm() {
    if $DRY_RUN || $YES; then return 0; fi
    [[ -t 0 ]] || fail "$1: say --yes to do it without being asked"
    local answer
    read -r -p "$1. Type yes: " answer
    [[ $answer == yes ]] || fail "not done"
}

check_env() {
    case $1 in dev | prod) ;; *) usage_error "--env must be dev or prod, is \`$1\`" ;; esac
}

check_region() {
    read_platform
    [[ -v PLATFORM[regions.$1.cloud] ]] || usage_error "no region \`$1\` in infra/common/platform.json: there is ${REGIONS[*]}"
}

cloud_of() { value_of "regions.$1.cloud"; }
region_of() { value_of "regions.$1.region"; }
# names.stem of the shared file.
cluster_of() { printf '%s-%s-%s\n' "$(value_of project)" "$1" "$2"; }

# The stack of a region: `prod` for the first region of a cloud, `prod-REGION` for a further one.
stack_of() {
    local env=$1 key=$2 cloud other
    cloud=$(cloud_of "$key")
    for other in "${REGIONS[@]}"; do
        [[ $(cloud_of "$other") == "$cloud" ]] || continue
        if [[ $other == "$key" ]]; then
            printf '%s\n' "$env"
        else
            printf '%s-%s\n' "$env" "${key#"$cloud"-}"
        fi
        return
    done
}

# The kubectl context that `setup` gives a cluster.
context_of() { cluster_of "$1" "$2"; }

# A project of Google Cloud is no part of the shared file: the stack knows it.
gcp_project() {
    local project=${GCP_PROJECT:-}
    [[ -n $project ]] || project=$(gcloud config get-value project 2>/dev/null || true)
    [[ -n $project ]] || fail "which project? set GCP_PROJECT, or \`gcloud config set project\`"
    printf '%s\n' "$project"
}

# put_secret ENV KEY NAME: the value on standard input becomes the newest version in the region's own store. It never
# stands on a command line, where others on this machine could read it.
put_secret() {
    local env=$1 key=$2 name=$3 cluster file
    cluster=$(cluster_of "$env" "$key")
    file=$(mktemp)
    chmod 600 "$file"
    cat >"$file"
    case $(cloud_of "$key") in
    aws)
        run aws secretsmanager put-secret-value --region "$(region_of "$key")" --secret-id "$cluster/$name" --secret-string "file://$file"
        ;;
    gcp) run gcloud secrets versions add "$cluster-$name" --data-file "$file" --project "$(gcp_project)" ;;
    azure) run az keyvault secret set --vault-name "$(vault_of "$env" "$key")" --name "$name" --file "$file" --output none ;;
    esac
    rm -f "$file"
}

# The vault of a region in Azure: its name holds a hash, so the recorded outputs say it.
vault_of() {
    local file=$ROOT/infra/common/outputs.$1.json
    [[ -f $file ]] || fail "no infra/common/outputs.$1.json: \`setup --env $1 regions\` records it"
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]]["vault"])' "$file" "$2" 2>/dev/null ||
        fail "outputs.$1.json does not name the vault of $2: \`setup --env $1 --region $2 regions\` records it"
}

# fetch_now ENV KEY NAMESPACE NAME: the cluster reads a secret again at once. A cluster that does not know the
# secret yet reads it when it does.
fetch_now() {
    run kubectl --context "$(context_of "$1" "$2")" --namespace "$3" annotate externalsecret "$4" \
        "llm-router/fetched=$(date -u +%Y-%m-%dT%H:%M:%SZ)" --overwrite ||
        warn "$2 was not told: it fetches $4 within the hour"
}

# read_region_options "$@": sets env and keys; what it does not know goes into rest.
read_region_options() {
    env='' keys=() rest=()
    while [[ $# -gt 0 ]]; do
        case $1 in
        --env) need_value "$@" && env=$2 && shift 2 ;;
        --region) need_value "$@" && check_region "$2" && keys+=("$2") && shift 2 ;;
        --dry-run) DRY_RUN=true && shift ;;
        --yes) YES=true && shift ;;
        --help) print_help && exit 0 ;;
        *) rest+=("$1") && shift ;;
        esac
    done
    [[ -n $env ]] || usage_error '--env is missing'
    check_env "$env"
    [[ ${#keys[@]} -gt 0 ]] || { read_platform && keys=("${REGIONS[@]}"); }
}
