/**
 * Where a region keeps things: its images, its models, its part of the DNS, its control plane's logs.
 */
import { Registry } from "@pulumi/azure-native/containerregistry/registry";
import { Zone } from "@pulumi/azure-native/dns/zone";
import { DiagnosticSetting } from "@pulumi/azure-native/monitor/diagnosticSetting";
import { Workspace } from "@pulumi/azure-native/operationalinsights/workspace";
import { BlobContainer } from "@pulumi/azure-native/storage/blobContainer";
import { BlobServiceProperties } from "@pulumi/azure-native/storage/blobServiceProperties";
import { StorageAccount } from "@pulumi/azure-native/storage/storageAccount";
import { regionZone, worldName } from "../common/names";
import { assign, type Cluster } from "./cluster";
import type { Context } from "./context";
import type { Network } from "./network";

/** What identities and outputs need of the stores. */
export interface Stores {
    registry: Registry;
    models: StorageAccount;
    container: BlobContainer;
    zone: Zone;
}

/** Makes registry, model container, zone and logs; the nodes may pull images. */
export function stores(ctx: Context, cluster: Cluster, network: Network): Stores {
    const { stem, opts, base, settings, platform, env, key, account } = ctx;
    const guarded = { ...opts, protect: settings.deletionProtection };
    const registry = new Registry(
        stem,
        {
            ...base,
            registryName: worldName(platform, env, key, "acr", account.subscriptionId),
            // Premium: zones and retention of untagged images.
            sku: { name: settings.highAvailability ? "Premium" : "Basic" },
            adminUserEnabled: false,
            ...(settings.highAvailability ? { zoneRedundancy: "Enabled", policies: { retentionPolicy: { days: 30, status: "enabled" } } } : {}),
        },
        guarded,
    );
    assign(ctx, `${stem}-pull`, cluster.kubelet, "acrPull", registry.id);

    const models = new StorageAccount(
        stem,
        {
            ...base,
            accountName: worldName(platform, env, key, "blob", account.subscriptionId),
            kind: "StorageV2",
            sku: { name: settings.highAvailability ? "Standard_ZRS" : "Standard_LRS" },
            allowBlobPublicAccess: false,
            allowSharedKeyAccess: false,
            enableHttpsTrafficOnly: true,
            minimumTlsVersion: "TLS1_2",
            encryption: { keySource: "Microsoft.Storage", requireInfrastructureEncryption: true, services: { blob: { enabled: true, keyType: "Account" } } },
            networkRuleSet: {
                defaultAction: "Deny", bypass: "AzureServices", virtualNetworkRules: [{ virtualNetworkResourceId: network.subnet.id }],
                // Operators copy models from where they administer from. A single address goes without its mask.
                ipRules: settings.publicApiFrom.map((cidr) => ({ iPAddressOrRange: cidr.replace("/32", ""), action: "Allow" as const })),
            },
        },
        guarded,
    );
    new BlobServiceProperties(
        stem,
        {
            resourceGroupName: base.resourceGroupName,
            accountName: models.name,
            blobServicesName: "default",
            isVersioningEnabled: true,
            deleteRetentionPolicy: { enabled: true, days: 14 },
        },
        opts,
    );
    const container = new BlobContainer(
        `${stem}-models`,
        { resourceGroupName: base.resourceGroupName, accountName: models.name, containerName: "models", publicAccess: "None" },
        guarded,
    );
    const zoneName = regionZone(platform, env, key);
    const zone = new Zone(
        zoneName,
        { resourceGroupName: base.resourceGroupName, zoneName, location: "Global", zoneType: "Public", tags: base.tags },
        guarded,
    );
    controlPlaneLogs(ctx, cluster);
    return { registry, models, container, zone };
}

function controlPlaneLogs(ctx: Context, cluster: Cluster): void {
    const { stem, opts, base, settings } = ctx;
    const workspace = new Workspace(
        stem,
        { ...base, workspaceName: stem, sku: { name: "PerGB2018" }, retentionInDays: Math.max(30, settings.logRetentionDays) },
        opts,
    );
    new DiagnosticSetting(
        stem,
        {
            name: "control-plane",
            resourceUri: cluster.cluster.id,
            workspaceId: workspace.id,
            logAnalyticsDestinationType: "Dedicated",
            logs: ["kube-apiserver", "kube-audit-admin", "kube-controller-manager", "kube-scheduler", "cluster-autoscaler", "guard"].map((category) => ({
                category,
                enabled: true,
            })),
        },
        opts,
    );
}
