# shellcheck shell=bash
# Sizes of pools, in each cloud's own words. Sourced by pause-costs and resume-costs.
# What is set here is read by the scripts that source this.
# shellcheck disable=SC2034

# Sets env, keys and pools from the options.
read_pool_options() {
    env='' keys=() pools=()
    local pool=all
    while [[ $# -gt 0 ]]; do
        case $1 in
        --env) need_value "$@" && env=$2 && shift 2 ;;
        --region) need_value "$@" && check_region "$2" && keys+=("$2") && shift 2 ;;
        --pool) need_value "$@" && pool=$2 && shift 2 ;;
        --dry-run) DRY_RUN=true && shift ;;
        --yes) YES=true && shift ;;
        --help) print_help && exit 0 ;;
        *) usage_error "unknown option \`$1\`" ;;
        esac
    done
    [[ -n $env ]] || usage_error '--env is missing'
    check_env "$env"
    [[ ${#keys[@]} -gt 0 ]] || { read_platform && keys=("${REGIONS[@]}"); }
    case $pool in
    all) pools=(gpu cpu system) ;;
    gpu | cpu) pools=("$pool") ;;
    *) usage_error "--pool must be cpu, gpu or all, is \`$pool\`" ;;
    esac
}

confirmed=false
confirm_once() {
    $confirmed || confirm "$1"
    confirmed=true
}

# scale_pool ENV KEY POOL MIN MAX: bounds of the pool, and its size now. With a maximum of 0 it is empty.
scale_pool() {
    local env=$1 key=$2 pool=$3 min=$4 max=$5 cluster name
    cluster=$(cluster_of "$env" "$key")
    name=$(value_of "names.pools.$pool")
    case $(cloud_of "$key") in
    aws) scale_eks "$key" "$cluster" "$name" "$min" "$max" ;;
    gcp) scale_gke "$env" "$key" "$cluster" "$name" "$min" "$max" ;;
    azure) scale_aks "$cluster" "$name" "$pool" "$min" "$max" ;;
    esac
}

scale_eks() {
    local key=$1 cluster=$2 name=$3 min=$4 max=$5
    need_program aws
    # EKS knows no maximum below 1.
    run aws eks update-nodegroup-config --region "$(region_of "$key")" --cluster-name "$cluster" --nodegroup-name "$name" \
        --scaling-config "minSize=$min,maxSize=$((max > 0 ? max : 1)),desiredSize=$min"
}

scale_gke() {
    local env=$1 key=$2 cluster=$3 name=$4 min=$5 max=$6 place=()
    need_program gcloud
    # Production is regional, dev stands in one zone.
    if [[ $(value_of "environments.$env.highAvailability") == true ]]; then
        place=(--region "$(region_of "$key")")
    else
        place=(--zone "$(value_of "regions.$key.zones.0")")
    fi
    place+=(--project "$(gcp_project)" --quiet)
    if [[ $max == 0 ]]; then
        # With the autoscaler on, pods that wait would bring the machines back.
        run gcloud container node-pools update "$name" --cluster "$cluster" --no-enable-autoscaling "${place[@]}"
        run gcloud container clusters resize "$cluster" --node-pool "$name" --num-nodes 0 "${place[@]}"
    else
        run gcloud container node-pools update "$name" --cluster "$cluster" --enable-autoscaling \
            --total-min-nodes "$min" --total-max-nodes "$max" "${place[@]}"
    fi
}

scale_aks() {
    local cluster=$1 name=$2 pool=$3 min=$4 max=$5
    need_program az
    # A resource group is named after its cluster. AKS keeps a system pool of one at least: the whole is stopped.
    if [[ $pool == system ]]; then
        if [[ $max == 0 ]]; then
            run az aks stop --resource-group "$cluster" --name "$cluster"
        else
            run az aks start --resource-group "$cluster" --name "$cluster"
        fi
        return
    fi
    local where=(--resource-group "$cluster" --cluster-name "$cluster" --name "$name")
    if [[ $max == 0 ]]; then
        run az aks nodepool update "${where[@]}" --disable-cluster-autoscaler
        run az aks nodepool scale "${where[@]}" --node-count 0
    else
        run az aks nodepool update "${where[@]}" --enable-cluster-autoscaler --min-count "$min" --max-count "$max"
    fi
}
