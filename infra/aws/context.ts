/**
 * What every part of a region in AWS is made from.
 *
 * Owns: nothing; a plain value handed from part to part.
 */
import * as aws from "@pulumi/aws";
import type * as pulumi from "@pulumi/pulumi";
import { tags, stem } from "../common/names";
import { peerSources, regionOf, type Addresses, type Env, type Environment, type Platform, type Region } from "../common/shared";

/** Settings of a stack that no file in the repository can know. */
export interface Account {
    /** Role that administers the cluster. */
    adminRoleArn: string;
    /** Principals that may use the model bucket and the key belong to this account. */
    accountId: pulumi.Input<string>;
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
    /** Blocks the gossip port is open to. */
    peers: string[];
    opts: pulumi.CustomResourceOptions;
    /** The tags, with a `Name`. */
    tagged: (name: string) => Record<string, string>;
}

/** The context of a region, with a provider that is bound to it. */
export function contextOf(platform: Platform, env: Env, key: string, account: Account, addresses: Addresses): Context {
    const region = regionOf(platform, key, "aws");
    const name = stem(platform, env, key);
    const common = tags(platform, env, key);
    const provider = new aws.Provider(name, {
        region: region.region as aws.Region,
        defaultTags: { tags: common },
    });
    return {
        platform,
        env,
        settings: platform.environments[env],
        key,
        region,
        account,
        stem: name,
        peers: peerSources(addresses),
        opts: { provider },
        tagged: (what) => ({ ...common, Name: what }),
    };
}
