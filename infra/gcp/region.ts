/**
 * One region in Google Cloud, from nothing to a cluster that Argo CD can be installed in. Read this first.
 */
import * as pulumi from "@pulumi/pulumi";
import { regionZone } from "../common/names";
import { peerSources, type Addresses, type Env, type Platform } from "../common/shared";
import { cluster, key } from "./cluster";
import { contextOf, type Account } from "./context";
import { identities } from "./identity";
import { network } from "./network";
import { stores } from "./stores";
import { watch } from "./watch";

/** What `deploy/scripts/setup` writes into the charts' values and into the other regions' firewalls. */
export interface Outputs {
    cluster: pulumi.Input<string>;
    project: string;
    registry: pulumi.Input<string>;
    models: pulumi.Input<string>;
    zone: string;
    nameServers: pulumi.Input<string[]>;
    inbound: pulumi.Input<string>[];
    outbound: pulumi.Input<string>[];
    peers: string[];
}

/** Makes everything of a region. */
export function gcpRegion(platform: Platform, env: Env, region: string, account: Account, addresses: Addresses): Outputs {
    const ctx = contextOf(platform, env, region, account, addresses);
    const net = network(ctx);
    const secrets = key(ctx);
    const gke = cluster(ctx, net, secrets);
    const kept = stores(ctx, gke, secrets);
    identities(ctx, gke, kept);
    watch(ctx);
    return {
        cluster: gke.cluster.name,
        project: account.project,
        registry: pulumi.interpolate`${ctx.region.region}-docker.pkg.dev/${account.project}/${kept.registry.repositoryId}/llm-router`,
        models: kept.models.name,
        zone: regionZone(platform, env, region),
        nameServers: kept.zone.nameServers,
        inbound: net.gossipAddresses.map((address) => address.address),
        outbound: net.natAddresses.map((address) => address.address),
        peers: peerSources(addresses),
    };
}
