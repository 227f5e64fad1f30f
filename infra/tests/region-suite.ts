/** What every cloud's regions must hold, in both environments, and that each check notices when they do not. */
import { beforeAll, describe, expect, it } from "vitest";
import type { Env } from "../common/shared";
import * as checks from "./checks";
import { broken, mockClouds, type Registered } from "./recorder";
import { make, type Made } from "./regions";

/** One way to break a region of a cloud, and the check that must notice. */
export interface Break {
    what: string;
    type: string;
    name?: RegExp;
    change: (inputs: any) => void;
    check: "publicNodes" | "spotAndTaints" | "scaleBounds" | "gossipOpen" | "untagged" | "budget" | "wildcards" | "hardening" | "alarms";
    says: RegExp;
}

function run(check: Break["check"], made: Made, env: Env, resources: Registered[]): string[] {
    switch (check) {
        case "publicNodes":
        case "wildcards":
        case "alarms":
            return checks[check](resources);
        case "spotAndTaints":
            return checks.spotAndTaints(resources, made.platform);
        case "gossipOpen":
            return checks.gossipOpen(resources, made.platform, made.peers);
        case "untagged":
            return checks.untagged(resources, made.platform, env, made.key);
        case "scaleBounds":
        case "budget":
        case "hardening":
            return checks[check](resources, made.platform, env);
    }
}

const ALL = ["publicNodes", "spotAndTaints", "scaleBounds", "gossipOpen", "untagged", "budget", "wildcards", "hardening", "alarms"] as const;

/** Registers the tests of one cloud. */
export function regionSuite(cloud: "aws" | "gcp" | "azure", breaks: Break[]): Record<Env, () => Made> {
    const made = {} as Record<Env, Made>;
    beforeAll(async () => {
        mockClouds();
        for (const env of ["dev", "prod"] as const) {
            made[env] = await make(cloud, env);
        }
    });
    describe.each(["dev", "prod"] as const)(`a region of ${cloud} in %s`, (env) => {
        it.each(ALL)("has no problem that %s finds", (check) => {
            expect(run(check, made[env], env, made[env].resources)).toEqual([]);
        });
        it("is made of more than a handful of resources", () => {
            expect(made[env].resources.length).toBeGreaterThan(25);
        });
        it("puts out a fixed address for each router that peers dial, and those it sends from", () => {
            const { inbound, outbound } = made[env].outputs as { inbound: string[]; outbound: string[] };
            expect(inbound).toHaveLength(made[env].platform.environments[env].gossipAddresses);
            expect(outbound.length).toBeGreaterThan(0);
            expect([...inbound, ...outbound].every((address) => /^\d+\.\d+\.\d+\.\d+$/.test(address))).toBe(true);
        });
        it("is named as scripts and charts expect", () => {
            expect(made[env].outputs["cluster"]).toBe(`llm-router-${env}-${made[env].key}`);
        });
    });
    describe(`a check of ${cloud} notices`, () => {
        it.each(breaks.map((one) => [one.what, one] as const))("%s", (_what, one) => {
            const resources = broken(made.prod.resources, one.type, one.change, one.name);
            const found = run(one.check, made.prod, "prod", resources);
            expect(found.join("\n")).toMatch(one.says);
        });
    });
    it("lets nobody in before the peers' addresses are known", async () => {
        const first = await make(cloud, "prod", {});
        expect(checks.gossipOpen(first.resources, first.platform, [])).toEqual([]);
    });
    return { dev: () => made.dev, prod: () => made.prod };
}
