/**
 * One region in Azure, from nothing to a cluster that Argo CD can be installed in. Read this first.
 */
import * as pulumi from "@pulumi/pulumi";
import { regionZone } from "../common/names";
import { peerSources, type Addresses, type Env, type Platform } from "../common/shared";
import { cluster } from "./cluster";
import { contextOf, type Account } from "./context";
import { identities } from "./identity";
import { network } from "./network";
import { stores } from "./stores";
import { secrets } from "./vault";
import { watch } from "./watch";

/** What `deploy/scripts/setup` writes into the charts' values and into the other regions' firewalls. */
export interface Outputs {
    cluster: pulumi.Input<string>;
    resourceGroup: pulumi.Input<string>;
    registry: pulumi.Input<string>;
    models: pulumi.Input<string>;
    zone: string;
    nameServers: pulumi.Input<string[]>;
    inbound: pulumi.Input<string>[];
    outbound: pulumi.Input<string>[];
    gossipAddressNames: pulumi.Input<string>[];
    vault: pulumi.Input<string>;
    tenantId: string;
    clientIds: Record<string, pulumi.Input<string>>;
    peers: string[];
}

/** Makes everything of a region. */
export function azureRegion(platform: Platform, env: Env, region: string, account: Account, addresses: Addresses): Outputs {
    const ctx = contextOf(platform, env, region, account, addresses);
    const net = network(ctx);
    const vault = secrets(ctx, net);
    const aks = cluster(ctx, net, vault);
    const kept = stores(ctx, aks, net);
    const clientIds = identities(ctx, aks, kept, vault);
    watch(ctx, aks);
    return {
        cluster: aks.cluster.name,
        resourceGroup: ctx.group.name,
        registry: pulumi.interpolate`${kept.registry.loginServer}/llm-router`,
        models: pulumi.interpolate`${kept.models.name}/${kept.container.name}`,
        zone: regionZone(platform, env, region),
        nameServers: kept.zone.nameServers,
        inbound: net.gossipAddresses.map((address) => address.ipAddress.apply((ip) => ip ?? "")),
        outbound: net.natAddresses.map((address) => address.ipAddress.apply((ip) => ip ?? "")),
        gossipAddressNames: net.gossipAddresses.map((address) => address.name),
        vault: vault.vault.name,
        tenantId: account.tenantId,
        clientIds,
        peers: peerSources(addresses),
    };
}
