/**
 * What every part of a region in Google Cloud is made from.
 *
 * Owns: nothing; a plain value handed from part to part.
 */
import * as gcp from "@pulumi/gcp";
import type * as pulumi from "@pulumi/pulumi";
import { stem, tags } from "../common/names";
import { peerSources, regionOf, type Addresses, type Env, type Environment, type Platform, type Region } from "../common/shared";

/** Settings of a stack that no file in the repository can know. */
export interface Account {
    project: string;
    /** Number of the project: service agents are named after it. */
    projectNumber: string;
    billingAccount: string;
}

/** One region of one environment. */
export interface Context {
    platform: Platform;
    env: Env;
    settings: Environment;
    key: string;
    region: Region;
    account: Account;
    /** Beginning of every name, and the cluster's name. */
    stem: string;
    labels: Record<string, string>;
    /** Blocks the gossip port is open to. */
    peers: string[];
    opts: pulumi.CustomResourceOptions;
}

/** The context of a region, with a provider that is bound to it. */
export function contextOf(platform: Platform, env: Env, key: string, account: Account, addresses: Addresses): Context {
    const region = regionOf(platform, key, "gcp");
    const name = stem(platform, env, key);
    const labels = tags(platform, env, key);
    const provider = new gcp.Provider(name, { project: account.project, region: region.region, defaultLabels: labels });
    return {
        platform,
        env,
        settings: platform.environments[env],
        key,
        region,
        account,
        stem: name,
        labels,
        peers: peerSources(addresses),
        opts: { provider },
    };
}

/** A service account's name has at most 30 characters: the environment, the region's first letters, the use. */
export function accountName(ctx: Context, what: string): string {
    const place = ctx.region.region.replace(/[^a-z0-9]/g, "").slice(0, 10);
    return `llm-${ctx.env}-${place}-${what}`.slice(0, 30);
}
