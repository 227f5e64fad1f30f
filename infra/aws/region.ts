/**
 * One region in AWS, from nothing to a cluster that Argo CD can be installed in. Read this first.
 */
import type * as pulumi from "@pulumi/pulumi";
import { peerSources, type Addresses, type Env, type Platform } from "../common/shared";
import { regionZone } from "../common/names";
import { cluster } from "./cluster";
import { contextOf, type Account } from "./context";
import { identities } from "./identity";
import { key } from "./key";
import { network } from "./network";
import { stores } from "./stores";
import { watch } from "./watch";

/** What `deploy/scripts/setup` writes into the charts' values and into the other regions' firewalls. */
export interface Outputs {
    cluster: pulumi.Input<string>;
    registry: pulumi.Input<string>;
    models: pulumi.Input<string>;
    zone: string;
    nameServers: pulumi.Input<string[]>;
    inbound: pulumi.Input<string>[];
    outbound: pulumi.Input<string>[];
    gossipAllocations: pulumi.Input<string>[];
    gossipSubnets: pulumi.Input<string>[];
    gossipGroup: pulumi.Input<string>;
    peers: string[];
}

/** Makes everything of a region. */
export function awsRegion(platform: Platform, env: Env, region: string, account: Account, addresses: Addresses): Outputs {
    const ctx = contextOf(platform, env, region, account, addresses);
    const made = key(ctx);
    const net = network(ctx, made);
    const kept = stores(ctx, made);
    const eks = cluster(ctx, net, made);
    identities(ctx, eks, kept, made);
    watch(ctx, net, eks, made);
    return {
        cluster: eks.cluster.name,
        registry: kept.registry.repositoryUrl,
        models: kept.models.bucket,
        zone: regionZone(platform, env, region),
        nameServers: kept.zone.nameServers,
        inbound: net.gossipAddresses.map((address) => address.publicIp),
        outbound: net.natAddresses.map((address) => address.publicIp),
        gossipAllocations: net.gossipAddresses.map((address) => address.id),
        gossipSubnets: net.publicSubnets.slice(0, net.gossipAddresses.length).map((subnet) => subnet.id),
        gossipGroup: net.gossipGroup.id,
        peers: peerSources(addresses),
    };
}
