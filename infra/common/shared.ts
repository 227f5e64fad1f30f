/**
 * The one file of regions, sizes, prices, names and tags, read and checked.
 *
 * For: every program here. `platform.py` checks the same file by the same schema for the scripts, the
 * charts' values and the cost table, without any package installed.
 * Never does: talk to a cloud.
 */
import { readFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import Ajv2020, { type ErrorObject, type ValidateFunction } from "ajv/dist/2020";

/** An environment; each has its own stacks. */
export type Env = "dev" | "prod";
/** A pool of machines. */
export type Pool = "system" | "cpu" | "gpu";

/** A price in USD with where it was read and when. */
export interface Price {
    usd: number;
    source: string;
    date: string;
}

/** How few and how many machines a pool has. */
export interface Bounds {
    min: number;
    max: number;
}

/** A machine of a pool; prices are per hour. */
export interface Machine {
    size: string;
    alternatives: string[];
    vcpus: number;
    memoryGib: number;
    diskGib: number;
    accelerator?: { name: string; memoryGib: number; count: number };
    onDemandHour: Price;
    spotHour: Price;
}

/** A Kubernetes taint. */
export interface Taint {
    key: string;
    value: string;
    effect: "NoSchedule" | "NoExecute";
}

/** A region of one cloud. */
export interface Region {
    cloud: "aws" | "gcp" | "azure";
    region: string;
    zones: string[];
    latitude: number;
    longitude: number;
    network: { nodes: string; services: string; pods?: string; controlPlane?: string };
    machines: Record<Pool, Machine>;
    prices: Record<string, Price>;
}

/** What an environment is sized and guarded by. */
export interface Environment {
    pools: Record<Pool, Bounds>;
    natPerZone: boolean;
    highAvailability: boolean;
    deletionProtection: boolean;
    publicApiFrom: string[];
    logRetentionDays: number;
    budgetUsd: number;
    gossipAddresses: number;
}

/** The whole file. */
export interface Platform {
    project: string;
    domain: string;
    contact: string;
    tags: Record<string, string>;
    kubernetes: { version: string; source: string; date: string };
    names: {
        stem: string;
        pools: Record<Pool, string>;
        namespaces: Record<"router" | "models" | "platform" | "monitoring", string>;
        serviceAccounts: Record<
            "router" | "models" | "secrets" | "secretReader" | "dns" | "certificates" | "autoscaler" | "loadBalancer",
            string
        >;
    };
    scheduling: { poolLabel: string; spotTaint: Taint; gpuTaint: Taint };
    gossip: { port: number; clusterId: string };
    health: {
        host: string;
        path: string;
        port: number;
        intervalSeconds: number;
        failures: number;
        ttlSeconds: number;
    };
    environments: Record<Env, Environment>;
    regions: Record<string, Region>;
    geo: { cloud: string; region: string; prices: Record<string, Price> };
    workload: Record<string, number | string>;
}

/**
 * What the regions of an environment are reached at and send from: written by `deploy/scripts/setup` once
 * the addresses exist. `inbound` is where peers dial a router, `outbound` where its packets come from.
 */
export type Addresses = Record<string, { inbound: string[]; outbound: string[] }>;

/** Network and mask of a CIDR block, as unsigned 32-bit numbers. */
function block(cidr: string): { from: number; to: number } {
    const [address, bits] = cidr.split("/");
    const from = (address ?? "").split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
    return { from, to: from + 2 ** (32 - Number(bits)) - 1 };
}

function at(error: ErrorObject): string {
    const path = error.instancePath.split("/").slice(1).join(".");
    const extra = error.params["additionalProperty"] ?? error.params["missingProperty"];
    const inside = typeof extra === "string" ? (path === "" ? extra : `${path}.${extra}`) : path;
    return `${inside}: ${error.message ?? error.keyword}`;
}

/** Compiled once: that takes longer than a hundred checks. */
let compiled: ValidateFunction | undefined;

function validator(): ValidateFunction {
    if (compiled === undefined) {
        const schema: unknown = JSON.parse(readFileSync(join(__dirname, "platform.schema.json"), "utf8"));
        compiled = new Ajv2020({ allErrors: true, strict: false }).compile(schema as object);
    }
    return compiled;
}

/** Every problem of a platform file, each with the path of the value it is about. */
export function problems(value: unknown): string[] {
    const validate = validator();
    if (!validate(value)) {
        return (validate.errors ?? []).map(at);
    }
    const platform = value as Platform;
    const found: string[] = [];
    const blocks: { path: string; from: number; to: number }[] = [];
    for (const [key, region] of Object.entries(platform.regions)) {
        if (key !== `${region.cloud}-${region.region}`) {
            found.push(`regions.${key}: must be named \`${region.cloud}-${region.region}\` after its cloud and region`);
        }
        for (const [index, zone] of region.zones.entries()) {
            if (region.cloud !== "azure" && !zone.startsWith(region.region)) {
                found.push(`regions.${key}.zones[${index}]: \`${zone}\` is not a zone of \`${region.region}\``);
            }
        }
        for (const [pool, machine] of Object.entries(region.machines)) {
            if (machine.spotHour.usd > machine.onDemandHour.usd) {
                found.push(
                    `regions.${key}.machines.${pool}.spotHour.usd: spot \`${machine.spotHour.usd}\` is dearer than on demand \`${machine.onDemandHour.usd}\``,
                );
            }
        }
        for (const [name, cidr] of Object.entries(region.network)) {
            const path = `regions.${key}.network.${name}`;
            const own = block(cidr);
            for (const other of blocks) {
                if (own.from <= other.to && other.from <= own.to) {
                    found.push(`${path}: \`${cidr}\` overlaps with ${other.path}`);
                }
            }
            blocks.push({ path, ...own });
        }
    }
    for (const [env, settings] of Object.entries(platform.environments)) {
        for (const [pool, bounds] of Object.entries(settings.pools)) {
            if (bounds.min > bounds.max) {
                found.push(`environments.${env}.pools.${pool}.min: \`${bounds.min}\` is more than max \`${bounds.max}\``);
            }
        }
    }
    return found;
}

/** The platform file, or an error that names every wrong value. */
export function loadPlatform(path: string = join(__dirname, "platform.json")): Platform {
    const value: unknown = JSON.parse(readFileSync(path, "utf8"));
    const found = problems(value);
    if (found.length > 0) {
        throw new Error(`${path} cannot be used:\n${found.map((line) => `  ${line}`).join("\n")}`);
    }
    return value as Platform;
}

/** A region by its key, or an error that names the ones there are. */
export function regionOf(platform: Platform, key: string, cloud: Region["cloud"]): Region {
    const region = platform.regions[key];
    const known = Object.keys(platform.regions).filter((name) => name.startsWith(`${cloud}-`));
    if (region === undefined || region.cloud !== cloud) {
        throw new Error(`no region \`${key}\` of ${cloud} in platform.json: there is ${known.join(", ") || "none"}`);
    }
    return region;
}

/** The environment of a stack: `prod`, `dev`, or `prod-eu-west-1` for a further region of the same cloud. */
export function envOf(stack: string): Env {
    const env = stack.split("-")[0];
    if (env !== "dev" && env !== "prod") {
        throw new Error(`stack \`${stack}\` must be named \`dev\`, \`prod\` or \`<dev|prod>-<region>\``);
    }
    return env;
}

/** The addresses among what setup has recorded of an environment's stacks; none before it has. */
export function loadAddresses(env: Env): Addresses {
    const path = join(__dirname, `outputs.${env}.json`);
    return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Addresses) : {};
}

/**
 * Where packets of routers come from, as /32 blocks: the only ones the gossip port is open to. A region's
 * own are among them, since its routers dial each other at the addresses they tell everybody.
 */
export function peerSources(addresses: Addresses): string[] {
    const sources = Object.values(addresses).flatMap((both) => both.outbound);
    return [...new Set(sources)].sort().map((address) => `${address}/32`);
}
