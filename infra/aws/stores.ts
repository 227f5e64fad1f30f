/**
 * Where a region keeps things: its images, its models, its part of the DNS.
 */
import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { regionZone } from "../common/names";
import type { Context } from "./context";

/** What identities and outputs need of the stores. */
export interface Stores {
    registry: aws.ecr.Repository;
    models: aws.s3.Bucket;
    zone: aws.route53.Zone;
}

/** Makes registry, model bucket and zone. */
export function stores(ctx: Context, key: aws.kms.Key): Stores {
    const { stem, opts, tagged, settings } = ctx;
    const guarded = { ...opts, protect: settings.deletionProtection };
    const registry = new aws.ecr.Repository(
        stem,
        {
            name: `${stem}/llm-router`,
            imageTagMutability: "IMMUTABLE",
            imageScanningConfiguration: { scanOnPush: true },
            encryptionConfigurations: [{ encryptionType: "KMS", kmsKey: key.arn }],
            tags: tagged(stem),
        },
        guarded,
    );
    new aws.ecr.LifecyclePolicy(
        stem,
        {
            repository: registry.name,
            policy: JSON.stringify({
                rules: [
                    {
                        rulePriority: 1,
                        description: "Keep the last fifty images: a rollback goes back further than that never",
                        selection: { tagStatus: "any", countType: "imageCountMoreThan", countNumber: 50 },
                        action: { type: "expire" },
                    },
                ],
            }),
        },
        opts,
    );
    return { registry, models: models(ctx, key), zone: zone(ctx) };
}

function models(ctx: Context, key: aws.kms.Key): aws.s3.Bucket {
    const { stem, opts, tagged, settings, account } = ctx;
    const name = `${stem}-models`;
    const bucket = new aws.s3.Bucket(
        name,
        // A bucket's name is the whole world's: the account's number makes it ours.
        { bucket: pulumi.interpolate`${name}-${account.accountId}`, tags: tagged(name) },
        { ...opts, protect: settings.deletionProtection },
    );
    new aws.s3.BucketPublicAccessBlock(
        name,
        { bucket: bucket.id, blockPublicAcls: true, blockPublicPolicy: true, ignorePublicAcls: true, restrictPublicBuckets: true },
        opts,
    );
    new aws.s3.BucketOwnershipControls(name, { bucket: bucket.id, rule: { objectOwnership: "BucketOwnerEnforced" } }, opts);
    new aws.s3.BucketVersioning(name, { bucket: bucket.id, versioningConfiguration: { status: "Enabled" } }, opts);
    new aws.s3.BucketServerSideEncryptionConfiguration(
        name,
        {
            bucket: bucket.id,
            rules: [{ applyServerSideEncryptionByDefault: { sseAlgorithm: "aws:kms", kmsMasterKeyId: key.arn }, bucketKeyEnabled: true }],
        },
        opts,
    );
    new aws.s3.BucketPolicy(
        name,
        {
            bucket: bucket.id,
            policy: pulumi.jsonStringify({
                Version: "2012-10-17",
                Statement: [
                    {
                        Sid: "TlsOnly",
                        Effect: "Deny",
                        Principal: "*",
                        Action: "s3:*",
                        Resource: [bucket.arn, pulumi.interpolate`${bucket.arn}/*`],
                        Condition: { Bool: { "aws:SecureTransport": "false" } },
                    },
                ],
            }),
        },
        opts,
    );
    return bucket;
}

function zone(ctx: Context): aws.route53.Zone {
    const { opts, tagged, platform, env, key, settings } = ctx;
    const name = regionZone(platform, env, key);
    return new aws.route53.Zone(
        name,
        { name, comment: "Names of one region's cluster", forceDestroy: false, tags: tagged(name) },
        { ...opts, protect: settings.deletionProtection },
    );
}
