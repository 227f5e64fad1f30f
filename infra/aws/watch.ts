/**
 * Who is told when money or machines go wrong: a budget and alarms, to one topic and one address.
 */
import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import type { Cluster } from "./cluster";
import type { Context } from "./context";
import type { Network } from "./network";

/** Makes topic, budget and alarms; the region's budget counts what carries the region's tag. */
export function watch(ctx: Context, network: Network, cluster: Cluster, key: aws.kms.Key): aws.sns.Topic {
    const { stem, opts, tagged, platform, settings, key: region, account } = ctx;
    const topic = new aws.sns.Topic(`${stem}-alarms`, { name: `${stem}-alarms`, kmsMasterKeyId: key.keyId, tags: tagged(`${stem}-alarms`) }, opts);
    new aws.sns.TopicSubscription(`${stem}-alarms`, { topic: topic.arn, protocol: "email", endpoint: platform.contact }, opts);
    new aws.sns.TopicPolicy(
        `${stem}-alarms`,
        {
            arn: topic.arn,
            policy: pulumi.jsonStringify({
                Version: "2012-10-17",
                Statement: [
                    {
                        Effect: "Allow",
                        Principal: { Service: ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"] },
                        Action: "sns:Publish",
                        Resource: topic.arn,
                        Condition: { StringEquals: { "aws:SourceAccount": account.accountId } },
                    },
                ],
            }),
        },
        opts,
    );
    new aws.budgets.Budget(
        stem,
        {
            name: stem,
            budgetType: "COST",
            timeUnit: "MONTHLY",
            limitAmount: String(settings.budgetUsd),
            limitUnit: "USD",
            // The tag counts once it is activated as a cost allocation tag: docs/DEPLOY.md.
            costFilters: [{ name: "TagKeyValue", values: [`user:region$${region}`] }],
            notifications: [
                ...[50, 80, 100].map((threshold) => ({ threshold, notificationType: "ACTUAL" })),
                { threshold: 100, notificationType: "FORECASTED" },
            ].map((one) => ({
                ...one,
                comparisonOperator: "GREATER_THAN",
                thresholdType: "PERCENTAGE",
                subscriberEmailAddresses: [platform.contact],
                subscriberSnsTopicArns: [topic.arn],
            })),
            tags: tagged(stem),
        },
        opts,
    );
    const alarm = (name: string, args: Omit<aws.cloudwatch.MetricAlarmArgs, "comparisonOperator" | "alarmActions" | "okActions" | "tags">): void => {
        new aws.cloudwatch.MetricAlarm(
            `${stem}-${name}`,
            { ...args, name: `${stem}-${name}`, comparisonOperator: "GreaterThanThreshold", alarmActions: [topic.arn], okActions: [topic.arn], tags: tagged(`${stem}-${name}`) },
            opts,
        );
    };
    network.natGateways.forEach((nat, index) => {
        alarm(`nat-ports-${index}`, {
            alarmDescription: "The NAT gateway has no port left: requests to providers fail",
            namespace: "AWS/NATGateway",
            metricName: "ErrorPortAllocation",
            dimensions: { NatGatewayId: nat.id },
            statistic: "Sum",
            period: 300,
            evaluationPeriods: 1,
            threshold: 0,
            treatMissingData: "notBreaching",
        });
    });
    alarm("api-errors", {
        alarmDescription: "The Kubernetes API answers with errors of its own",
        namespace: "AWS/EKS",
        metricName: "apiserver_request_total_5XX",
        dimensions: { ClusterName: cluster.cluster.name },
        statistic: "Sum",
        period: 300,
        evaluationPeriods: 3,
        threshold: 50,
        treatMissingData: "notBreaching",
    });
    return topic;
}
