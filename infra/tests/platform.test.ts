import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { poolTaints, stem, tags, worldName } from "../common/names";
import { envOf, loadPlatform, peerSources, problems, regionOf } from "../common/shared";

const raw = (): any => JSON.parse(readFileSync(join(__dirname, "../common/platform.json"), "utf8"));

/** The same list is tried on `platform.py` by tests/deploy/test_infra_platform.py. */
const wrong = JSON.parse(readFileSync(join(__dirname, "wrong-values.json"), "utf8")) as { what: string; path: string; value: unknown; says: string }[];

function set(target: any, path: string, value: unknown): void {
    const keys = path.split("/");
    const last = keys.pop() as string;
    const parent = keys.reduce((inner, key) => inner[key], target);
    if (value === null) {
        delete parent[last];
    } else {
        parent[last] = value;
    }
}

it("is without a problem as it stands", () => {
    expect(problems(raw())).toEqual([]);
});

it.each(wrong.map((one) => [one.what, one] as const))("refuses %s and names its path", (_what, one) => {
    const platform = raw();
    set(platform, one.path, one.value);
    const found = problems(platform);
    expect(found.some((line) => line.startsWith(`${one.says}:`))).toBe(true);
});

it("names the regions there are when asked for another", () => {
    expect(() => regionOf(loadPlatform(), "aws-mars-1", "aws")).toThrow("no region `aws-mars-1` of aws in platform.json: there is aws-us-west-2");
});

it("reads the environment from the stack's name and refuses others", () => {
    expect(envOf("prod-eu-west-1")).toBe("prod");
    expect(() => envOf("staging")).toThrow("stack `staging` must be named");
});

it("lets in what routers send from, this region's too, and each address once", () => {
    const addresses = { a: { inbound: ["1.1.1.1"], outbound: ["2.2.2.2"] }, b: { inbound: ["3.3.3.3"], outbound: ["4.4.4.4", "4.4.4.4"] } };
    expect(peerSources(addresses)).toEqual(["2.2.2.2/32", "4.4.4.4/32"]);
});

it("gives the same names everywhere, and valid ones where names are the whole world's", () => {
    const platform = loadPlatform();
    expect(stem(platform, "prod", "azure-eastus")).toBe("llm-router-prod-azure-eastus");
    const name = worldName(platform, "prod", "azure-eastus", "acr", "sub");
    expect(name).toMatch(/^[a-z0-9]{5,24}$/);
    expect(name).not.toBe(worldName(platform, "dev", "azure-eastus", "acr", "sub"));
    expect(tags(platform, "dev", "aws-us-west-2")).toMatchObject({ environment: "dev", region: "aws-us-west-2", project: "llm-router" });
    expect(poolTaints(platform, "gpu").map((taint) => taint.key)).toEqual(["llm-router/spot", "nvidia.com/gpu"]);
});
