/**
 * The EKS cluster and its pools: one on demand for what must not vanish, two of spot machines.
 *
 * Never does: admit whoever created it as administrator; only the role named in the stack's settings is.
 */
import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { poolLabels, poolTaints } from "../common/names";
import type { Pool } from "../common/shared";
import type { Context } from "./context";
import type { Network } from "./network";

/** What the identities and alarms need of the cluster. */
export interface Cluster {
    cluster: aws.eks.Cluster;
    nodeRole: aws.iam.Role;
    pools: aws.eks.NodeGroup[];
}

/** A role, and what must be there before anything takes it on. */
export interface ServiceRole {
    role: aws.iam.Role;
    attached: aws.iam.RolePolicyAttachment[];
}

/** A role that a service of AWS takes on, with policies that AWS keeps up to date. */
export function serviceRole(ctx: Context, what: string, service: string, policies: string[]): ServiceRole {
    const name = `${ctx.stem}-${what}`;
    const role = new aws.iam.Role(
        name,
        {
            name,
            assumeRolePolicy: JSON.stringify({
                Version: "2012-10-17",
                Statement: [
                    {
                        Effect: "Allow",
                        // Pod identities pass their session's tags on.
                        Action: service === "pods.eks.amazonaws.com" ? ["sts:AssumeRole", "sts:TagSession"] : "sts:AssumeRole",
                        Principal: { Service: service },
                    },
                ],
            }),
            tags: ctx.tagged(name),
        },
        ctx.opts,
    );
    const attached = policies.map(
        (policy) =>
            new aws.iam.RolePolicyAttachment(`${name}-${policy}`, { role: role.name, policyArn: `arn:aws:iam::aws:policy/${policy}` }, ctx.opts),
    );
    return { role, attached };
}

/** Makes the control plane, its pools and its add-ons. */
export function cluster(ctx: Context, network: Network, key: aws.kms.Key): Cluster {
    const { stem, opts, tagged, settings, platform, region, account } = ctx;
    const logs = new aws.cloudwatch.LogGroup(
        `${stem}-control-plane`,
        {
            // The name is EKS's own: made first, the group has our key and retention.
            name: `/aws/eks/${stem}/cluster`,
            retentionInDays: settings.logRetentionDays,
            kmsKeyId: key.arn,
            tags: tagged(`${stem}-control-plane`),
        },
        opts,
    );
    const clusterRole = serviceRole(ctx, "cluster", "eks.amazonaws.com", ["AmazonEKSClusterPolicy"]);
    const made = new aws.eks.Cluster(
        stem,
        {
            name: stem,
            version: platform.kubernetes.version,
            roleArn: clusterRole.role.arn,
            accessConfig: { authenticationMode: "API", bootstrapClusterCreatorAdminPermissions: false },
            bootstrapSelfManagedAddons: false,
            deletionProtection: settings.deletionProtection,
            enabledClusterLogTypes: ["api", "audit", "authenticator", "controllerManager", "scheduler"],
            encryptionConfig: { provider: { keyArn: key.arn }, resources: ["secrets"] },
            kubernetesNetworkConfig: { ipFamily: "ipv4", serviceIpv4Cidr: region.network.services },
            upgradePolicy: { supportType: "STANDARD" },
            vpcConfig: {
                subnetIds: network.privateSubnets.map((subnet) => subnet.id),
                endpointPrivateAccess: true,
                endpointPublicAccess: settings.publicApiFrom.length > 0,
                ...(settings.publicApiFrom.length > 0 ? { publicAccessCidrs: settings.publicApiFrom } : {}),
            },
            zonalShiftConfig: { enabled: settings.highAvailability },
            tags: tagged(stem),
        },
        // Without its policy the control plane cannot clean up after itself either.
        { ...opts, dependsOn: [logs, ...clusterRole.attached], protect: settings.deletionProtection },
    );
    new aws.eks.AccessEntry(`${stem}-admin`, { clusterName: made.name, principalArn: account.adminRoleArn, tags: tagged(`${stem}-admin`) }, opts);
    new aws.eks.AccessPolicyAssociation(
        `${stem}-admin`,
        {
            clusterName: made.name,
            principalArn: account.adminRoleArn,
            policyArn: "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy",
            accessScope: { type: "cluster" },
        },
        opts,
    );
    // The load balancers' group may reach the routers' pods, which carry the cluster's group.
    new aws.vpc.SecurityGroupIngressRule(
        `${stem}-gossip-in`,
        {
            securityGroupId: made.vpcConfig.clusterSecurityGroupId,
            description: "Gossip from its load balancers",
            ipProtocol: "udp",
            fromPort: platform.gossip.port,
            toPort: platform.gossip.port,
            referencedSecurityGroupId: network.gossipGroup.id,
            tags: tagged(`${stem}-gossip-in`),
        },
        opts,
    );

    const nodeRole = serviceRole(ctx, "node", "ec2.amazonaws.com", ["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly"]);
    const cni = addons(ctx, made);
    const pools = (["system", "cpu", "gpu"] as const).map((pool) => nodePool(ctx, network, key, made, nodeRole.role, pool, [...cni, ...nodeRole.attached]));
    return { cluster: made, nodeRole: nodeRole.role, pools };
}

function nodePool(
    ctx: Context,
    network: Network,
    key: aws.kms.Key,
    made: aws.eks.Cluster,
    role: aws.iam.Role,
    pool: Pool,
    after: pulumi.Resource[],
): aws.eks.NodeGroup {
    const { stem, opts, tagged, settings, platform, region } = ctx;
    const name = `${stem}-${platform.names.pools[pool]}`;
    const machine = region.machines[pool];
    const bounds = settings.pools[pool];
    const template = new aws.ec2.LaunchTemplate(
        name,
        {
            name,
            updateDefaultVersion: true,
            // IMDSv2 only, and out of reach of pods: those have identities of their own.
            metadataOptions: { httpEndpoint: "enabled", httpTokens: "required", httpPutResponseHopLimit: 1 },
            blockDeviceMappings: [
                { deviceName: "/dev/xvda", ebs: { volumeSize: machine.diskGib, volumeType: "gp3", encrypted: "true", kmsKeyId: key.arn, deleteOnTermination: "true" } },
            ],
            monitoring: { enabled: settings.highAvailability },
            tagSpecifications: ["instance", "volume", "network-interface"].map((resourceType) => ({ resourceType, tags: tagged(name) })),
            tags: tagged(name),
        },
        opts,
    );
    return new aws.eks.NodeGroup(
        name,
        {
            clusterName: made.name,
            nodeGroupName: platform.names.pools[pool],
            nodeRoleArn: role.arn,
            // One spot pool over all zones; GPUs are rare enough that every zone counts.
            subnetIds: network.privateSubnets.map((subnet) => subnet.id),
            version: platform.kubernetes.version,
            amiType: pool === "gpu" ? "AL2023_x86_64_NVIDIA" : "AL2023_x86_64_STANDARD",
            capacityType: pool === "system" ? "ON_DEMAND" : "SPOT",
            instanceTypes: [machine.size, ...machine.alternatives],
            launchTemplate: { id: template.id, version: template.latestVersion.apply(String) },
            scalingConfig: { minSize: bounds.min, maxSize: bounds.max, desiredSize: bounds.min },
            updateConfig: { maxUnavailable: 1 },
            nodeRepairConfig: { enabled: true },
            labels: poolLabels(platform, pool),
            taints: poolTaints(platform, pool).map(({ key: taint, value, effect }) => ({
                key: taint,
                value,
                effect: effect === "NoSchedule" ? "NO_SCHEDULE" : "NO_EXECUTE",
            })),
            // EKS itself marks the group for the cluster autoscaler.
            tags: tagged(name),
        },
        // The autoscaler and pause-costs move the size; an update of the stack must not move it back.
        { ...opts, dependsOn: after, ignoreChanges: ["scalingConfig.desiredSize"] },
    );
}

/** Networking first: nodes without it never become ready. */
function addons(ctx: Context, made: aws.eks.Cluster): pulumi.Resource[] {
    const { stem, opts, tagged } = ctx;
    const { role: cniRole } = serviceRole(ctx, "cni", "pods.eks.amazonaws.com", ["AmazonEKS_CNI_Policy"]);
    const { role: diskRole } = serviceRole(ctx, "disks", "pods.eks.amazonaws.com", ["service-role/AmazonEBSCSIDriverPolicy"]);
    const early: aws.eks.Addon[] = [];
    const wanted: { name: string; account?: string; role?: aws.iam.Role; configuration?: object; beforeNodes: boolean }[] = [
        { name: "eks-pod-identity-agent", beforeNodes: true },
        { name: "vpc-cni", account: "aws-node", role: cniRole, configuration: { enableNetworkPolicy: "true" }, beforeNodes: true },
        { name: "kube-proxy", beforeNodes: true },
        { name: "coredns", beforeNodes: false },
        { name: "aws-ebs-csi-driver", account: "ebs-csi-controller-sa", role: diskRole, beforeNodes: false },
        { name: "eks-node-monitoring-agent", beforeNodes: false },
    ];
    for (const { name, account, role, configuration, beforeNodes } of wanted) {
        const addon = new aws.eks.Addon(
            `${stem}-${name}`,
            {
                clusterName: made.name,
                addonName: name,
                resolveConflictsOnCreate: "OVERWRITE",
                resolveConflictsOnUpdate: "PRESERVE",
                ...(configuration === undefined ? {} : { configurationValues: JSON.stringify(configuration) }),
                ...(account === undefined || role === undefined ? {} : { podIdentityAssociations: [{ serviceAccount: account, roleArn: role.arn }] }),
                tags: tagged(`${stem}-${name}`),
            },
            opts,
        );
        if (beforeNodes) {
            early.push(addon);
        }
    }
    return early;
}
