/**
 * Who is told when money or machines go wrong: a budget and alerts, to one address.
 */
import { Budget } from "@pulumi/azure-native/consumption/budget";
import { ActionGroup } from "@pulumi/azure-native/monitor/actionGroup";
import { MetricAlert } from "@pulumi/azure-native/monitor/metricAlert";
import type { Cluster } from "./cluster";
import type { Context } from "./context";

/** Makes the group, the budget and the alerts; the budget counts what carries the region's tag. */
export function watch(ctx: Context, cluster: Cluster): void {
    const { stem, opts, base, platform, settings, account, key } = ctx;
    const group = new ActionGroup(
        stem,
        {
            resourceGroupName: base.resourceGroupName,
            location: "Global",
            tags: base.tags,
            actionGroupName: stem,
            groupShortName: "llm-router",
            enabled: true,
            emailReceivers: [{ name: "platform", emailAddress: platform.contact, useCommonAlertSchema: true }],
        },
        opts,
    );
    const notifications = Object.fromEntries(
        [
            ["Actual", 50],
            ["Actual", 80],
            ["Actual", 100],
            ["Forecasted", 100],
        ].map(([thresholdType, threshold]) => [
            `${thresholdType}${threshold}`,
            {
                enabled: true,
                operator: "GreaterThan",
                threshold: threshold as number,
                thresholdType: thresholdType as string,
                contactEmails: [platform.contact],
                contactGroups: [group.id],
            },
        ]),
    );
    new Budget(
        stem,
        {
            // The nodes lie in a group of AKS' own: the tag finds them, a resource group would not.
            scope: `/subscriptions/${account.subscriptionId}`,
            budgetName: stem,
            category: "Cost",
            amount: settings.budgetUsd,
            timeGrain: "Monthly",
            timePeriod: { startDate: account.budgetStart },
            filter: { tags: { name: "region", operator: "In", values: [key] } },
            notifications,
        },
        opts,
    );
    const alert = (name: string, description: string, metricName: string, operator: string, threshold: number): void => {
        new MetricAlert(
            `${stem}-${name}`,
            {
                resourceGroupName: base.resourceGroupName,
                location: "Global",
                tags: base.tags,
                ruleName: `${stem}-${name}`,
                description,
                severity: 2,
                enabled: true,
                evaluationFrequency: "PT5M",
                windowSize: "PT15M",
                scopes: [cluster.cluster.id],
                criteria: {
                    odataType: "Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria",
                    allOf: [{ criterionType: "StaticThresholdCriterion", name, metricName, operator, threshold, timeAggregation: "Average" }],
                },
                actions: [{ actionGroupId: group.id }],
            },
            opts,
        );
    };
    alert("unneeded-nodes", "The autoscaler keeps nodes nobody needs", "cluster_autoscaler_unneeded_nodes_count", "GreaterThan", 2);
    alert("unschedulable-pods", "Pods wait for a node that does not come: no spot capacity, or a pool at its maximum", "cluster_autoscaler_unschedulable_pods_count", "GreaterThan", 0);
}
