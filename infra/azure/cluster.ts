/**
 * The AKS cluster and its pools: one on demand for what must not vanish, two of spot machines.
 *
 * Never does: keep local accounts; who administers it is a group of Entra.
 */
import { RoleAssignment } from "@pulumi/azure-native/authorization/roleAssignment";
import { AgentPool } from "@pulumi/azure-native/containerservice/agentPool";
import { ManagedCluster } from "@pulumi/azure-native/containerservice/managedCluster";
import { UserAssignedIdentity } from "@pulumi/azure-native/managedidentity/userAssignedIdentity";
import * as pulumi from "@pulumi/pulumi";
import { poolLabels, poolTaints } from "../common/names";
import type { Pool } from "../common/shared";
import { ROLES, type Context } from "./context";
import type { Network } from "./network";
import type { Secrets } from "./vault";

/** What the identities and alarms need of the cluster. */
export interface Cluster {
    cluster: ManagedCluster;
    issuer: pulumi.Output<string>;
    kubelet: pulumi.Output<string>;
    pools: AgentPool[];
}

/** Gives a principal one built-in role on one scope. */
export function assign(
    ctx: Context,
    name: string,
    principalId: pulumi.Input<string>,
    role: keyof typeof ROLES,
    scope: pulumi.Input<string>,
    principalType: "ServicePrincipal" | "Group" = "ServicePrincipal",
): RoleAssignment {
    return new RoleAssignment(
        name,
        {
            principalId,
            principalType,
            scope,
            roleDefinitionId: `/subscriptions/${ctx.account.subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${ROLES[role]}`,
        },
        ctx.opts,
    );
}

/** Makes the control plane and its pools. */
export function cluster(ctx: Context, network: Network, secrets: Secrets): Cluster {
    const { stem, opts, base, settings, platform, region, account, group } = ctx;
    const identity = new UserAssignedIdentity(`${stem}-cluster`, { ...base, resourceName: `${stem}-cluster` }, opts);
    const rights = [
        // The subnet for load balancers, the group for their fixed addresses, the vault's key for secrets.
        assign(ctx, `${stem}-cluster-subnet`, identity.principalId, "networkContributor", network.subnet.id),
        ...network.gossipAddresses.map((address, index) =>
            assign(ctx, `${stem}-cluster-address-${index}`, identity.principalId, "networkContributor", address.id),
        ),
        assign(ctx, `${stem}-cluster-key`, identity.principalId, "cryptoUser", secrets.vault.id),
    ];
    const system = region.machines.system;
    const bounds = settings.pools.system;
    const zones = settings.highAvailability ? region.zones : region.zones.slice(0, 1);
    const open = settings.publicApiFrom.length > 0;
    const made = new ManagedCluster(
        stem,
        {
            ...base,
            resourceName: stem,
            dnsPrefix: stem,
            nodeResourceGroup: `${stem}-nodes`,
            nodeResourceGroupProfile: { restrictionLevel: "ReadOnly" },
            kubernetesVersion: platform.kubernetes.version,
            sku: { name: "Base", tier: settings.highAvailability ? "Standard" : "Free" },
            supportPlan: "KubernetesOfficial",
            identity: { type: "UserAssigned", userAssignedIdentities: [identity.id] },
            enableRBAC: true,
            disableLocalAccounts: true,
            aadProfile: { managed: true, enableAzureRBAC: true, adminGroupObjectIDs: [account.adminGroupId], tenantID: account.tenantId },
            apiServerAccessProfile: open
                ? { enablePrivateCluster: false, authorizedIPRanges: settings.publicApiFrom, disableRunCommand: true }
                : { enablePrivateCluster: true, enablePrivateClusterPublicFQDN: false, disableRunCommand: true },
            oidcIssuerProfile: { enabled: true },
            securityProfile: {
                workloadIdentity: { enabled: true },
                imageCleaner: { enabled: true, intervalHours: 168 },
                azureKeyVaultKms: { enabled: true, keyId: secrets.key.keyUriWithVersion, keyVaultNetworkAccess: "Public" },
            },
            networkProfile: {
                networkPlugin: "azure",
                networkPluginMode: "overlay",
                networkDataplane: "cilium",
                networkPolicy: "cilium",
                podCidr: region.network.pods,
                serviceCidr: region.network.services,
                dnsServiceIP: region.network.services.replace(/\.0\/\d+$/, ".10"),
                outboundType: "userAssignedNATGateway",
                loadBalancerSku: "standard",
            },
            autoUpgradeProfile: { upgradeChannel: "patch", nodeOSUpgradeChannel: "NodeImage" },
            autoScalerProfile: { expander: "least-waste", scaleDownUnneededTime: "10m", scaleDownDelayAfterAdd: "10m", skipNodesWithSystemPods: "true" },
            storageProfile: { diskCSIDriver: { enabled: true }, blobCSIDriver: { enabled: false }, fileCSIDriver: { enabled: false } },
            agentPoolProfiles: [
                {
                    name: platform.names.pools.system,
                    mode: "System",
                    type: "VirtualMachineScaleSets",
                    osType: "Linux",
                    osSKU: "AzureLinux",
                    vmSize: system.size,
                    orchestratorVersion: platform.kubernetes.version,
                    availabilityZones: zones,
                    enableAutoScaling: true,
                    minCount: bounds.min,
                    maxCount: bounds.max,
                    count: bounds.min,
                    vnetSubnetID: network.subnet.id,
                    enableNodePublicIP: false,
                    enableEncryptionAtHost: true,
                    osDiskSizeGB: system.diskGib,
                    osDiskType: "Managed",
                    upgradeSettings: { maxSurge: "1" },
                    nodeLabels: poolLabels(platform, "system"),
                    tags: base.tags,
                },
            ],
        },
        {
            ...opts,
            dependsOn: rights,
            protect: settings.deletionProtection,
            // The autoscaler moves the size; Azure's own upgrades move the patch.
            ignoreChanges: ["agentPoolProfiles[0].count"],
        },
    );
    assign(ctx, `${stem}-admin`, account.adminGroupId, "clusterAdmin", made.id, "Group");
    const pools = (["cpu", "gpu"] as const).map((pool) => nodePool(ctx, network, made, pool, zones, group.name));
    const kubelet = made.identityProfile.apply((profile) => profile?.["kubeletidentity"]?.objectId ?? "");
    const issuer = made.oidcIssuerProfile.apply((profile) => profile?.issuerURL ?? "");
    return { cluster: made, issuer, kubelet, pools };
}

function nodePool(ctx: Context, network: Network, made: ManagedCluster, pool: Exclude<Pool, "system">, zones: string[], group: pulumi.Output<string>): AgentPool {
    const { stem, opts, base, settings, platform, region } = ctx;
    const machine = region.machines[pool];
    const bounds = settings.pools[pool];
    return new AgentPool(
        `${stem}-${platform.names.pools[pool]}`,
        {
            resourceGroupName: group,
            resourceName: made.name,
            agentPoolName: platform.names.pools[pool],
            mode: "User",
            type: "VirtualMachineScaleSets",
            osType: "Linux",
            osSKU: pool === "gpu" ? "Ubuntu" : "AzureLinux",
            vmSize: machine.size,
            orchestratorVersion: platform.kubernetes.version,
            availabilityZones: zones,
            scaleSetPriority: "Spot",
            scaleSetEvictionPolicy: "Delete",
            // Never evicted for its price; the budget watches that.
            spotMaxPrice: -1,
            enableAutoScaling: true,
            minCount: bounds.min,
            maxCount: bounds.max,
            count: bounds.min,
            vnetSubnetID: network.subnet.id,
            enableNodePublicIP: false,
            enableEncryptionAtHost: true,
            osDiskSizeGB: machine.diskGib,
            osDiskType: "Managed",
            upgradeSettings: { maxSurge: "1" },
            nodeLabels: poolLabels(platform, pool),
            // Azure adds a spot taint of its own, kubernetes.azure.com/scalesetpriority.
            nodeTaints: poolTaints(platform, pool).map(({ key, value, effect }) => `${key}=${value}:${effect}`),
            ...(pool === "gpu" ? { gpuProfile: { driver: "Install" } } : {}),
            tags: base.tags,
        },
        { ...opts, ignoreChanges: ["count"] },
    );
}
