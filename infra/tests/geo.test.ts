import { beforeAll, expect, it } from "vitest";
import { loadPlatform } from "../common/shared";
import { mockClouds, record, type Registered } from "./recorder";

const platform = loadPlatform();
const delegations = Object.fromEntries(Object.keys(platform.regions).map((key) => [key, [`ns.${key}.example.net`]]));
let resources: Registered[];

beforeAll(async () => {
    mockClouds();
    const { geo } = await import("../dns/geo");
    ({ resources } = await record(() => ({ ...geo(platform, "prod", delegations), checks: null, zone: null })));
});

const of = (type: string) => resources.filter((one) => one.type === type);

it("asks each region's router whether it is ready, over HTTPS with its own name", () => {
    const checks = of("aws:route53/healthCheck:HealthCheck").map(({ inputs }) => inputs);
    expect(checks.map((one) => one["fqdn"]).sort()).toEqual(
        Object.keys(platform.regions)
            .map((key) => `router.${key}.llm.example.com`)
            .sort(),
    );
    for (const check of checks) {
        expect([check["type"], check["resourcePath"], check["enableSni"]]).toEqual(["HTTPS", "/readyz", true]);
    }
});

it("answers one name with each region, tied to that region's check and place", () => {
    const records = of("aws:route53/record:Record").filter(({ inputs }) => inputs["type"] === "CNAME");
    expect(records).toHaveLength(Object.keys(platform.regions).length);
    for (const { inputs } of records) {
        const key = inputs["setIdentifier"] as string;
        const region = platform.regions[key];
        expect(inputs["name"]).toBe("router.llm.example.com");
        expect(inputs["healthCheckId"]).toBe(`llm-router-prod-geo-${key}-id`);
        expect(inputs["ttl"]).toBeLessThanOrEqual(60);
        expect((inputs["geoproximityRoutingPolicy"] as any).coordinates[0].latitude).toBe(region?.latitude.toFixed(2));
    }
});

it("delegates each region's zone to that region's own name servers", () => {
    const ns = of("aws:route53/record:Record").filter(({ inputs }) => inputs["type"] === "NS");
    expect(Object.fromEntries(ns.map(({ inputs }) => [inputs["name"], inputs["records"]]))).toEqual(
        Object.fromEntries(Object.entries(delegations).map(([key, servers]) => [`${key}.llm.example.com`, servers])),
    );
});

it("tells somebody when a region is left out, also when the check itself is silent", () => {
    const alarms = of("aws:cloudwatch/metricAlarm:MetricAlarm");
    expect(alarms).toHaveLength(Object.keys(platform.regions).length);
    for (const { inputs } of alarms) {
        expect(inputs["treatMissingData"]).toBe("breaching");
        expect(inputs["alarmActions"]).toHaveLength(1);
    }
});

it("gives no clients to a region that is not delegated", async () => {
    const { geo } = await import("../dns/geo");
    const few = await record(() => ({ ...geo(platform, "dev", { "gcp-us-central1": ["ns.example.net"] }), checks: null, zone: null }));
    const names = few.resources.filter(({ type }) => type === "aws:route53/record:Record").map(({ inputs }) => inputs["name"]);
    expect(names.sort()).toEqual(["gcp-us-central1.dev.llm.example.com", "router.dev.llm.example.com"]);
});
