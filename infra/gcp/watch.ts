/**
 * Who is told when money or machines go wrong: a budget and alerts, to one address.
 */
import * as gcp from "@pulumi/gcp";
import type { Context } from "./context";

/** Makes the channel, the budget and the alerts; the budget counts what carries the region's label. */
export function watch(ctx: Context): void {
    const { stem, opts, platform, settings, account, labels } = ctx;
    const channel = new gcp.monitoring.NotificationChannel(
        stem,
        { displayName: stem, type: "email", labels: { email_address: platform.contact }, userLabels: labels },
        opts,
    );
    new gcp.billing.Budget(
        stem,
        {
            billingAccount: account.billingAccount,
            displayName: stem,
            budgetFilter: { projects: [`projects/${account.projectNumber}`], labels: { region: ctx.key }, calendarPeriod: "MONTH" },
            amount: { specifiedAmount: { currencyCode: "USD", units: String(settings.budgetUsd) } },
            thresholdRules: [
                { thresholdPercent: 0.5 },
                { thresholdPercent: 0.8 },
                { thresholdPercent: 1 },
                { thresholdPercent: 1, spendBasis: "FORECASTED_SPEND" },
            ],
            allUpdatesRule: { monitoringNotificationChannels: [channel.id], disableDefaultIamRecipients: false },
        },
        opts,
    );
    const alert = (name: string, displayName: string, filter: string, threshold: number): void => {
        new gcp.monitoring.AlertPolicy(
            `${stem}-${name}`,
            {
                displayName: `${stem}: ${displayName}`,
                combiner: "OR",
                notificationChannels: [channel.id],
                conditions: [
                    {
                        displayName,
                        conditionThreshold: {
                            filter,
                            comparison: "COMPARISON_GT",
                            thresholdValue: threshold,
                            duration: "300s",
                            aggregations: [{ alignmentPeriod: "300s", perSeriesAligner: "ALIGN_DELTA", crossSeriesReducer: "REDUCE_SUM" }],
                        },
                    },
                ],
                userLabels: labels,
            },
            opts,
        );
    };
    alert(
        "nat-ports",
        "the NAT gateway drops packets: requests to providers fail",
        `resource.type="nat_gateway" AND resource.labels.gateway_name="${stem}" AND metric.type="router.googleapis.com/nat/dropped_sent_packets_count"`,
        100,
    );
    alert(
        "node-restarts",
        "containers of the router restart",
        `resource.type="k8s_container" AND resource.labels.cluster_name="${stem}" AND resource.labels.namespace_name="${platform.names.namespaces.router}" AND metric.type="kubernetes.io/container/restart_count"`,
        3,
    );
}
