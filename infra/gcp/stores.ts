/**
 * Where a region keeps things: its images, its models, its part of the DNS.
 */
import * as gcp from "@pulumi/gcp";
import * as pulumi from "@pulumi/pulumi";
import { regionZone } from "../common/names";
import type { Context } from "./context";
import type { Cluster } from "./cluster";

/** What identities and outputs need of the stores. */
export interface Stores {
    registry: gcp.artifactregistry.Repository;
    models: gcp.storage.Bucket;
    zone: gcp.dns.ManagedZone;
}

/** Makes registry, model bucket and zone; the nodes may pull images. */
export function stores(ctx: Context, cluster: Cluster, key: gcp.kms.CryptoKey): Stores {
    const { stem, opts, settings, region, account, labels, platform } = ctx;
    const guarded = { ...opts, protect: settings.deletionProtection };
    const registry = new gcp.artifactregistry.Repository(
        stem,
        {
            repositoryId: stem,
            location: region.region,
            format: "DOCKER",
            dockerConfig: { immutableTags: true },
            kmsKeyName: key.id,
            cleanupPolicies: [{ id: "keep-fifty", action: "KEEP", mostRecentVersions: { keepCount: 50 } }],
            labels,
        },
        guarded,
    );
    new gcp.artifactregistry.RepositoryIamMember(
        `${stem}-pull`,
        {
            repository: registry.name,
            location: region.region,
            role: "roles/artifactregistry.reader",
            member: pulumi.interpolate`serviceAccount:${cluster.nodes.email}`,
        },
        opts,
    );
    const models = new gcp.storage.Bucket(
        `${stem}-models`,
        {
            name: `${account.project}-${stem}-models`.slice(0, 63),
            location: region.region.toUpperCase(),
            uniformBucketLevelAccess: true,
            publicAccessPrevention: "enforced",
            versioning: { enabled: true },
            encryption: { defaultKmsKeyName: key.id },
            forceDestroy: false,
            labels,
        },
        guarded,
    );
    const zoneName = regionZone(platform, ctx.env, ctx.key);
    const zone = new gcp.dns.ManagedZone(
        zoneName,
        {
            name: stem,
            dnsName: `${zoneName}.`,
            description: "Names of one region's cluster",
            dnssecConfig: { state: "on" },
            forceDestroy: false,
            labels,
        },
        guarded,
    );
    return { registry, models, zone };
}
