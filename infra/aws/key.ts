/**
 * The region's own key: Kubernetes secrets, disks, images, models and logs are encrypted with it.
 *
 * Its policy names each action; the account's root is given those that keep the key manageable, which
 * also lets IAM policies of the account grant them.
 */
import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import type { Context } from "./context";

const USE = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"];
const MANAGE = [
    "kms:GetKeyPolicy",
    "kms:PutKeyPolicy",
    "kms:ListKeyPolicies",
    "kms:GetKeyRotationStatus",
    "kms:EnableKeyRotation",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:DisableKey",
    "kms:ScheduleKeyDeletion",
    "kms:CancelKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:ListResourceTags",
    "kms:UpdateKeyDescription",
    "kms:ListGrants",
    "kms:CreateGrant",
    "kms:RevokeGrant",
    "kms:RetireGrant",
    "kms:CreateAlias",
    "kms:DeleteAlias",
];

/** Makes the key, rotated every year. */
export function key(ctx: Context): aws.kms.Key {
    const { stem, opts, tagged, region, account, settings } = ctx;
    const made = new aws.kms.Key(
        stem,
        {
            description: `Secrets, disks, images, models and logs of ${stem}`,
            enableKeyRotation: true,
            deletionWindowInDays: settings.deletionProtection ? 30 : 7,
            policy: pulumi.jsonStringify({
                Version: "2012-10-17",
                Statement: [
                    {
                        Sid: "Account",
                        Effect: "Allow",
                        Principal: { AWS: pulumi.interpolate`arn:aws:iam::${account.accountId}:root` },
                        Action: [...USE, ...MANAGE],
                        Resource: "*",
                    },
                    {
                        Sid: "Logs",
                        Effect: "Allow",
                        Principal: { Service: `logs.${region.region}.amazonaws.com` },
                        Action: USE,
                        Resource: "*",
                        Condition: {
                            ArnLike: {
                                "kms:EncryptionContext:aws:logs:arn": pulumi.interpolate`arn:aws:logs:${region.region}:${account.accountId}:log-group:*`,
                            },
                        },
                    },
                    {
                        Sid: "Disks",
                        Effect: "Allow",
                        Principal: {
                            AWS: pulumi.interpolate`arn:aws:iam::${account.accountId}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling`,
                        },
                        Action: [...USE, "kms:CreateGrant"],
                        Resource: "*",
                    },
                    {
                        Sid: "Alarms",
                        Effect: "Allow",
                        Principal: { Service: ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"] },
                        Action: ["kms:Decrypt", "kms:GenerateDataKey"],
                        Resource: "*",
                        Condition: { StringEquals: { "aws:SourceAccount": account.accountId } },
                    },
                ],
            }),
            tags: tagged(stem),
        },
        { ...opts, protect: settings.deletionProtection },
    );
    new aws.kms.Alias(stem, { name: `alias/${stem}`, targetKeyId: made.keyId }, opts);
    return made;
}
