/**
 * The GKE cluster and its pools: one on demand for what must not vanish, two of spot machines.
 *
 * Never does: give a node a public address or more rights than a node needs.
 */
import * as gcp from "@pulumi/gcp";
import * as pulumi from "@pulumi/pulumi";
import { poolLabels, poolTaints } from "../common/names";
import type { Pool } from "../common/shared";
import { accountName, type Context } from "./context";
import { nodeTag, type Network } from "./network";

/** What the identities and alarms need of the cluster. */
export interface Cluster {
    cluster: gcp.container.Cluster;
    nodes: gcp.serviceaccount.Account;
    pools: gcp.container.NodePool[];
}

/** The key of Kubernetes' secrets, disks and images, and who may use it. */
export function key(ctx: Context): gcp.kms.CryptoKey {
    const { stem, opts, region, account, labels } = ctx;
    const ring = new gcp.kms.KeyRing(stem, { name: stem, location: region.region }, opts);
    const made = new gcp.kms.CryptoKey(
        stem,
        // Keys cannot be deleted, only their versions: Pulumi must not try while something is encrypted.
        { name: stem, keyRing: ring.id, purpose: "ENCRYPT_DECRYPT", rotationPeriod: "7776000s", labels },
        { ...opts, protect: ctx.settings.deletionProtection },
    );
    const agents = {
        gke: `service-${account.projectNumber}@container-engine-robot.iam.gserviceaccount.com`,
        compute: `service-${account.projectNumber}@compute-system.iam.gserviceaccount.com`,
        registry: `service-${account.projectNumber}@gcp-sa-artifactregistry.iam.gserviceaccount.com`,
        storage: `service-${account.projectNumber}@gs-project-accounts.iam.gserviceaccount.com`,
    };
    for (const [what, agent] of Object.entries(agents)) {
        new gcp.kms.CryptoKeyIAMMember(
            `${stem}-${what}`,
            { cryptoKeyId: made.id, role: "roles/cloudkms.cryptoKeyEncrypterDecrypter", member: `serviceAccount:${agent}` },
            opts,
        );
    }
    return made;
}

/** Makes the control plane and its pools. */
export function cluster(ctx: Context, network: Network, secrets: gcp.kms.CryptoKey): Cluster {
    const { stem, opts, settings, platform, region, account, labels } = ctx;
    const place = settings.highAvailability ? region.region : (region.zones[0] as string);
    const nodes = new gcp.serviceaccount.Account(
        `${stem}-node`,
        { accountId: accountName(ctx, "node"), displayName: `Nodes of ${stem}` },
        opts,
    );
    new gcp.projects.IAMMember(
        `${stem}-node`,
        { project: account.project, role: "roles/container.defaultNodeServiceAccount", member: pulumi.interpolate`serviceAccount:${nodes.email}` },
        opts,
    );
    const made = new gcp.container.Cluster(
        stem,
        {
            name: stem,
            location: place,
            nodeLocations: settings.highAvailability ? region.zones : undefined,
            network: network.network.id,
            subnetwork: network.subnet.id,
            networkingMode: "VPC_NATIVE",
            ipAllocationPolicy: { clusterSecondaryRangeName: "pods", servicesSecondaryRangeName: "services" },
            // Dataplane V2 enforces the charts' network policies.
            datapathProvider: "ADVANCED_DATAPATH",
            releaseChannel: { channel: "REGULAR" },
            minMasterVersion: platform.kubernetes.version,
            removeDefaultNodePool: true,
            initialNodeCount: 1,
            deletionProtection: settings.deletionProtection,
            enableShieldedNodes: true,
            enableLegacyAbac: false,
            privateClusterConfig: {
                enablePrivateNodes: true,
                enablePrivateEndpoint: settings.publicApiFrom.length === 0,
                masterIpv4CidrBlock: region.network.controlPlane,
                masterGlobalAccessConfig: { enabled: false },
            },
            masterAuthorizedNetworksConfig: {
                cidrBlocks: settings.publicApiFrom.map((cidrBlock) => ({ cidrBlock, displayName: "operators" })),
                gcpPublicCidrsAccessEnabled: false,
            },
            masterAuth: { clientCertificateConfig: { issueClientCertificate: false } },
            workloadIdentityConfig: { workloadPool: `${account.project}.svc.id.goog` },
            databaseEncryption: { state: "ENCRYPTED", keyName: secrets.id },
            securityPostureConfig: { mode: "BASIC", vulnerabilityMode: "VULNERABILITY_BASIC" },
            loggingConfig: { enableComponents: ["SYSTEM_COMPONENTS", "WORKLOADS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER"] },
            monitoringConfig: { enableComponents: ["SYSTEM_COMPONENTS"], managedPrometheus: { enabled: false } },
            addonsConfig: {
                gcePersistentDiskCsiDriverConfig: { enabled: true },
                httpLoadBalancing: { disabled: false },
                horizontalPodAutoscaling: { disabled: false },
                gcsFuseCsiDriverConfig: { enabled: true },
            },
            maintenancePolicy: { recurringWindow: { startTime: "2026-01-03T03:00:00Z", endTime: "2026-01-03T09:00:00Z", recurrence: "FREQ=WEEKLY;BYDAY=SA,SU" } },
            clusterAutoscaling: { enabled: false, autoscalingProfile: "OPTIMIZE_UTILIZATION" },
            costManagementConfig: { enabled: true },
            resourceLabels: labels,
        },
        { ...opts, protect: settings.deletionProtection, ignoreChanges: ["initialNodeCount", "minMasterVersion"] },
    );
    const pools = (["system", "cpu", "gpu"] as const).map((pool) => nodePool(ctx, made, nodes, secrets, pool, place));
    return { cluster: made, nodes, pools };
}

function nodePool(
    ctx: Context,
    made: gcp.container.Cluster,
    nodes: gcp.serviceaccount.Account,
    disks: gcp.kms.CryptoKey,
    pool: Pool,
    place: string,
): gcp.container.NodePool {
    const { stem, opts, settings, platform, region, labels } = ctx;
    const machine = region.machines[pool];
    const bounds = settings.pools[pool];
    return new gcp.container.NodePool(
        `${stem}-${platform.names.pools[pool]}`,
        {
            name: platform.names.pools[pool],
            cluster: made.id,
            location: place,
            // Totals over all zones: three GPUs at most, not three a zone; where there is room for spot.
            autoscaling: { totalMinNodeCount: bounds.min, totalMaxNodeCount: bounds.max, locationPolicy: pool === "system" ? "BALANCED" : "ANY" },
            // For each zone; the autoscaler takes away what is too many, but does not fill up to the minimum by itself.
            initialNodeCount: bounds.min > 0 ? 1 : 0,
            management: { autoRepair: true, autoUpgrade: true },
            upgradeSettings: { strategy: "SURGE", maxSurge: 1, maxUnavailable: 0 },
            networkConfig: { enablePrivateNodes: true },
            nodeConfig: {
                machineType: machine.size,
                spot: pool !== "system",
                diskSizeGb: machine.diskGib,
                diskType: "pd-balanced",
                bootDiskKmsKey: disks.id,
                imageType: "COS_CONTAINERD",
                serviceAccount: nodes.email,
                oauthScopes: ["https://www.googleapis.com/auth/cloud-platform"],
                metadata: { "disable-legacy-endpoints": "true" },
                workloadMetadataConfig: { mode: "GKE_METADATA" },
                shieldedInstanceConfig: { enableSecureBoot: pool !== "gpu", enableIntegrityMonitoring: true },
                labels: poolLabels(platform, pool),
                taints: poolTaints(platform, pool).map(({ key: taint, value, effect }) => ({
                    key: taint,
                    value,
                    effect: effect === "NoSchedule" ? "NO_SCHEDULE" : "NO_EXECUTE",
                })),
                tags: [nodeTag(ctx)],
                resourceLabels: labels,
                ...(machine.accelerator === undefined
                    ? {}
                    : {
                          guestAccelerators: [
                              {
                                  type: `nvidia-tesla-${machine.accelerator.name.toLowerCase()}`,
                                  count: machine.accelerator.count,
                                  gpuDriverInstallationConfig: { gpuDriverVersion: "DEFAULT" },
                              },
                          ],
                      }),
            },
        },
        { ...opts, ignoreChanges: ["initialNodeCount", "version"] },
    );
}
