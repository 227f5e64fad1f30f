/**
 * Names and tags: one rule for all clouds, so that a script or a chart finds what a program made.
 *
 * Never does: invent a name of its own; parts come from `platform.json`.
 */
import { createHash } from "node:crypto";
import type { Env, Platform, Pool, Taint } from "./shared";

/** `llm-router-prod-aws-us-west-2`: the cluster's name and the beginning of every other one. */
export function stem(platform: Platform, env: Env, region: string): string {
    return platform.names.stem
        .replace("{project}", platform.project)
        .replace("{env}", env)
        .replace("{region}", region);
}

/**
 * A name for what takes lower-case letters and digits only, in a namespace shared with the whole world
 * (registries, storage accounts): at most 24 characters, the last eight from a hash of the stem and a salt.
 */
export function worldName(platform: Platform, env: Env, region: string, what: string, salt: string): string {
    const digest = createHash("sha256").update(`${stem(platform, env, region)}/${what}/${salt}`).digest("hex");
    const readable = `${platform.project}${env}${what}`.replace(/[^a-z0-9]/g, "").slice(0, 16);
    return `${readable}${digest.slice(0, 8)}`;
}

/** The tags of everything in a region. */
export function tags(platform: Platform, env: Env, region: string): Record<string, string> {
    return { ...platform.tags, environment: env, region };
}

/** The domain of an environment: the platform's own in production, `dev.` below it in dev. */
export function envDomain(platform: Platform, env: Env): string {
    return env === "prod" ? platform.domain : `${env}.${platform.domain}`;
}

/** The zone below the environment's own that a region's cluster writes to. */
export function regionZone(platform: Platform, env: Env, region: string): string {
    return `${region}.${envDomain(platform, env)}`;
}

/** Labels of a pool's nodes. */
export function poolLabels(platform: Platform, pool: Pool): Record<string, string> {
    return { [platform.scheduling.poolLabel]: pool };
}

/** Taints of a pool's nodes: what is not meant for them stays away. */
export function poolTaints(platform: Platform, pool: Pool): Taint[] {
    switch (pool) {
        case "system":
            return [];
        case "cpu":
            return [platform.scheduling.spotTaint];
        case "gpu":
            return [platform.scheduling.spotTaint, platform.scheduling.gpuTaint];
    }
}
