# shellcheck shell=bash
# What the scenarios on a real cluster share. Sourced, never run.
#
# Each asks `/readyz` of all routers through the cluster's own API before it begins and after it has ended, and fails
# if not all of them are ready within the limit.

NAMESPACE=llm-router
SELECTOR=app.kubernetes.io/name=router
WITHIN=120s
DRY_RUN=false

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit "${FAIL_CODE:-1}"
}
usage_error() {
    FAIL_CODE=64
    fail "$* (--help tells more)"
}
print_help() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$0"; }

run() {
    if $DRY_RUN; then
        printf 'would run:'
        printf ' %q' "$@"
        printf '\n'
    else
        "$@"
    fi
}

# parse "$@": the options all scenarios know; the rest is left in ARGUMENTS.
parse() {
    ARGUMENTS=()
    while [[ $# -gt 0 ]]; do
        case $1 in
        --help | -h)
            print_help
            exit 0
            ;;
        --dry-run) DRY_RUN=true ;;
        --namespace | --selector | --within)
            [[ -n ${2:-} && $2 != --* ]] || usage_error "\`$1\` needs a value"
            case $1 in
            --namespace) NAMESPACE=$2 ;;
            --selector) SELECTOR=$2 ;;
            --within) WITHIN=$2 ;;
            esac
            shift
            ;;
        -*) usage_error "unknown option \`$1\`" ;;
        *) ARGUMENTS+=("$1") ;;
        esac
        shift
    done
    command -v kubectl >/dev/null || fail "kubectl is not installed"
}

# a_router [NAME]: the pod named, or the first router.
a_router() {
    if [[ -n ${1:-} ]]; then
        say "$1"
        return
    fi
    local name
    name=$(kubectl --namespace "$NAMESPACE" get pods --selector "$SELECTOR" --output 'jsonpath={.items[0].metadata.name}')
    [[ -n $name ]] || fail "no pod in namespace \`$NAMESPACE\` with labels \`$SELECTOR\`"
    say "$name"
}

all_ready() {
    run kubectl --namespace "$NAMESPACE" wait pods --selector "$SELECTOR" --for condition=Ready --timeout "$WITHIN" ||
        fail "not all routers are ready within $WITHIN"
}
