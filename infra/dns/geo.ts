/**
 * The name clients ask, `router.<domain>`: answered with the nearest region whose router is ready.
 *
 * Owns: the parent zone, the delegation of each region's zone, a health check a region, the records.
 * A region is left out of answers `failures` × `intervalSeconds` + the answer's time to live after its
 * `/readyz` fails; should all fail, Route 53 answers with all of them.
 */
import * as aws from "@pulumi/aws";
import type * as pulumi from "@pulumi/pulumi";
import { envDomain, regionZone, stem, tags } from "../common/names";
import type { Env, Platform } from "../common/shared";

/** Name servers of each region's zone, as its stack put them out. */
export type Delegations = Record<string, pulumi.Input<string[]>>;

/** What the answers hang on. */
export interface Geo {
    name: string;
    zone: aws.route53.Zone;
    checks: Record<string, aws.route53.HealthCheck>;
}

/** Geoproximity wants degrees with at most two decimals, as text. */
function degrees(value: number): string {
    return value.toFixed(2);
}

/** The name of an environment's routers: `router.<domain>` in production, `router.dev.<domain>` in dev. */
export function geoName(platform: Platform, env: Env): string {
    return `${platform.health.host}.${envDomain(platform, env)}`;
}

/** Makes zone, delegations, health checks, records and alarms for every region that is delegated. */
export function geo(platform: Platform, env: Env, delegations: Delegations): Geo {
    const name = stem(platform, env, "geo");
    const common = tags(platform, env, "geo");
    const tagged = (what: string): Record<string, string> => ({ ...common, Name: what });
    const provider = new aws.Provider(name, { region: platform.geo.region as aws.Region, defaultTags: { tags: common } });
    const guarded = { provider, protect: platform.environments[env].deletionProtection };
    const { health } = platform;
    const zone = new aws.route53.Zone(name, { name: envDomain(platform, env), comment: "Routers of every region", forceDestroy: false, tags: tagged(name) }, guarded);
    const topic = new aws.sns.Topic(`${name}-alarms`, { name: `${name}-alarms`, kmsMasterKeyId: "alias/aws/sns", tags: tagged(`${name}-alarms`) }, { provider });
    new aws.sns.TopicSubscription(`${name}-alarms`, { topic: topic.arn, protocol: "email", endpoint: platform.contact }, { provider });

    const asked = geoName(platform, env);
    const checks: Record<string, aws.route53.HealthCheck> = {};
    for (const key of Object.keys(platform.regions)) {
        const region = platform.regions[key];
        const servers = delegations[key];
        if (region === undefined || servers === undefined) {
            continue;
        }
        const regional = `${health.host}.${regionZone(platform, env, key)}`;
        new aws.route53.Record(`${key}-ns`, { zoneId: zone.zoneId, name: regionZone(platform, env, key), type: "NS", ttl: 3600, records: servers }, { provider });
        const check = new aws.route53.HealthCheck(
            `${name}-${key}`,
            {
                type: "HTTPS",
                fqdn: regional,
                port: health.port,
                resourcePath: health.path,
                requestInterval: health.intervalSeconds,
                failureThreshold: health.failures,
                enableSni: true,
                measureLatency: true,
                // Three parts of the world look, so that one part's bad day is not an outage here.
                regions: ["us-east-1", "us-west-2", "eu-west-1"],
                tags: tagged(`${name}-${key}`),
            },
            { provider },
        );
        checks[key] = check;
        new aws.route53.Record(
            `${name}-${key}`,
            {
                zoneId: zone.zoneId,
                name: asked,
                type: "CNAME",
                ttl: health.ttlSeconds,
                records: [regional],
                setIdentifier: key,
                healthCheckId: check.id,
                geoproximityRoutingPolicy: { coordinates: [{ latitude: degrees(region.latitude), longitude: degrees(region.longitude) }], bias: 0 },
            },
            { provider },
        );
        new aws.cloudwatch.MetricAlarm(
            `${name}-${key}`,
            {
                name: `${name}-${key}`,
                alarmDescription: `The routers of ${key} are not ready: clients are sent elsewhere`,
                namespace: "AWS/Route53",
                metricName: "HealthCheckStatus",
                dimensions: { HealthCheckId: check.id },
                statistic: "Minimum",
                comparisonOperator: "LessThanThreshold",
                threshold: 1,
                period: 60,
                evaluationPeriods: 2,
                treatMissingData: "breaching",
                alarmActions: [topic.arn],
                okActions: [topic.arn],
                tags: tagged(`${name}-${key}`),
            },
            { provider },
        );
    }
    return { name: asked, zone, checks };
}
