# shellcheck shell=bash
# The routers' authority in a cluster: what cert-manager signs with, and whom routers trust. Sourced by setup and
# rotate-ca; namespaces are those of deploy/base.

# apply_made CONTEXT COMMAND…: applies what a `kubectl create … --dry-run` prints; it may be secret and is not shown.
apply_made() {
    local context=$1
    shift
    if $DRY_RUN; then
        printf 'would apply:'
        printf ' %q' "$@"
        printf '\n'
        return 0
    fi
    "$@" --dry-run=client --output yaml | kubectl --context "$context" apply --server-side --force-conflicts --filename -
}

need_namespaces() {
    run kubectl --context "$1" apply --filename "$ROOT/deploy/base/namespaces.yaml"
}

# give_authority ENV KEY DIR: DIR/ca.pem and ca.key become the cluster's signer.
give_authority() {
    local context
    context=$(context_of "$1" "$2")
    need_namespaces "$context"
    apply_made "$context" kubectl create secret tls llm-router-root --namespace platform --cert "$3/ca.pem" --key "$3/ca.key"
}

# give_trust ENV KEY FILE…: the cluster's routers trust the authorities in these files.
give_trust() {
    local env=$1 key=$2 bundle
    shift 2
    bundle=$(mktemp)
    $DRY_RUN || cat "$@" >"$bundle"
    apply_made "$(context_of "$env" "$key")" kubectl create configmap llm-router-trust --namespace llm-router "--from-file=ca.crt=$bundle"
    rm -f "$bundle"
}

# renew_identities ENV KEY: cert-manager issues every router's certificate anew, and each is waited for.
renew_identities() {
    local context names name
    context=$(context_of "$1" "$2")
    if $DRY_RUN; then
        say "would renew: every Certificate *-identity in llm-router of $context"
        return 0
    fi
    names=$(kubectl --context "$context" --namespace llm-router get certificates --output name | grep -- '-identity$' || true)
    [[ -n $names ]] || fail "$context has no Certificate *-identity in the namespace llm-router: is charts/router installed with gossip.identity.source: certManager?"
    for name in $names; do
        # What `cmctl renew` does.
        kubectl --context "$context" --namespace llm-router patch "$name" --subresource status --type json --patch \
            '[{"op": "add", "path": "/status/conditions/-", "value": {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "rotated by deploy/scripts"}}]'
        kubectl --context "$context" --namespace llm-router wait "$name" --for 'jsonpath={.status.conditions[?(@.type=="Issuing")].status}=False' --timeout 120s
        kubectl --context "$context" --namespace llm-router wait "$name" --for condition=Ready --timeout 120s
    done
}
