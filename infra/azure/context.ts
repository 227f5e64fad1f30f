/**
 * What every part of a region in Azure is made from.
 *
 * Owns: the resource group. Imports of azure-native are deep on purpose: the package's index loads every
 * service of Azure, these load the handful in use.
 */
import { Provider } from "@pulumi/azure-native/provider";
import { ResourceGroup } from "@pulumi/azure-native/resources/resourceGroup";
import type * as pulumi from "@pulumi/pulumi";
import { stem, tags } from "../common/names";
import { peerSources, regionOf, type Addresses, type Env, type Environment, type Platform, type Region } from "../common/shared";

/** Settings of a stack that no file in the repository can know. */
export interface Account {
    subscriptionId: string;
    tenantId: string;
    /** Entra group that administers the cluster. */
    adminGroupId: string;
    /** First day of the month the budget counts from, as `2026-12-01T00:00:00Z`. */
    budgetStart: string;
}

/** One region of one environment. */
export interface Context {
    platform: Platform;
    env: Env;
    settings: Environment;
    key: string;
    region: Region;
    account: Account;
    /** Beginning of every name, the cluster's and the resource group's name. */
    stem: string;
    group: ResourceGroup;
    /** Name, place and tags of whatever is made in the region. */
    base: { resourceGroupName: pulumi.Output<string>; location: string; tags: Record<string, string> };
    /** Blocks the gossip port is open to. */
    peers: string[];
    opts: pulumi.CustomResourceOptions;
}

/** The built-in roles in use, by the ids Azure gives them everywhere. */
export const ROLES = {
    acrPull: "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    networkContributor: "4d97b98b-1d4f-4787-a291-c67834d212e7",
    dnsZoneContributor: "befefa01-2a29-4197-83a8-272ff33ce314",
    blobReader: "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
    secretsUser: "4633458b-17de-408a-b874-0445c86b69e6",
    cryptoUser: "e147488a-f6f5-4113-8e2d-b22465e65bf6",
    clusterAdmin: "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b",
} as const;

/** The context of a region, with a provider that is bound to it. */
export function contextOf(platform: Platform, env: Env, key: string, account: Account, addresses: Addresses): Context {
    const region = regionOf(platform, key, "azure");
    const name = stem(platform, env, key);
    const common = tags(platform, env, key);
    const settings = platform.environments[env];
    const provider = new Provider(name, { subscriptionId: account.subscriptionId, tenantId: account.tenantId, location: region.region });
    const opts = { provider };
    const group = new ResourceGroup(
        name,
        { resourceGroupName: name, location: region.region, tags: common },
        { ...opts, protect: settings.deletionProtection },
    );
    return {
        platform,
        env,
        settings,
        key,
        region,
        account,
        stem: name,
        group,
        base: { resourceGroupName: group.name, location: region.region, tags: common },
        peers: peerSources(addresses),
        opts,
    };
}
