/**
 * What each workload may do in AWS, by pod identity: a role for one service account of one namespace.
 *
 * No action is a wildcard. A resource is one only where AWS knows no narrower one (lists, descriptions,
 * and what the load balancer controller makes, which its own tags bound).
 */
import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import type { Context } from "./context";
import { serviceRole, type Cluster } from "./cluster";
import type { Stores } from "./stores";

interface Statement {
    Sid: string;
    Effect: "Allow";
    Action: string[];
    Resource: pulumi.Input<pulumi.Input<string>[]>;
    Condition?: object;
}

function grant(ctx: Context, cluster: Cluster, what: string, namespace: string, serviceAccount: string, statements: Statement[]): void {
    const { role } = serviceRole(ctx, what, "pods.eks.amazonaws.com", []);
    const name = `${ctx.stem}-${what}`;
    new aws.iam.RolePolicy(name, { role: role.name, policy: pulumi.jsonStringify({ Version: "2012-10-17", Statement: statements }) }, ctx.opts);
    new aws.eks.PodIdentityAssociation(
        name,
        { clusterName: cluster.cluster.name, namespace, serviceAccount, roleArn: role.arn, tags: ctx.tagged(name) },
        ctx.opts,
    );
}

/** Makes the roles of every workload. */
export function identities(ctx: Context, cluster: Cluster, stores: Stores, key: aws.kms.Key): void {
    const { namespaces, serviceAccounts } = ctx.platform.names;
    const { stem, region, account } = ctx;
    const useKey: Statement = { Sid: "Key", Effect: "Allow", Action: ["kms:Decrypt", "kms:DescribeKey"], Resource: [key.arn] };

    // The router itself calls no cloud: its secrets are brought to it.
    grant(ctx, cluster, "secrets", namespaces.platform, serviceAccounts.secrets, [
        {
            Sid: "Secrets",
            Effect: "Allow",
            Action: ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
            Resource: [pulumi.interpolate`arn:aws:secretsmanager:${region.region}:${account.accountId}:secret:${stem}/*`],
        },
        useKey,
    ]);
    grant(ctx, cluster, "models", namespaces.models, serviceAccounts.models, [
        { Sid: "List", Effect: "Allow", Action: ["s3:ListBucket", "s3:GetBucketLocation"], Resource: [stores.models.arn] },
        { Sid: "Read", Effect: "Allow", Action: ["s3:GetObject"], Resource: [pulumi.interpolate`${stores.models.arn}/*`] },
        useKey,
    ]);
    const dns: Statement[] = [
        {
            Sid: "Records",
            Effect: "Allow",
            Action: ["route53:ChangeResourceRecordSets", "route53:ListResourceRecordSets"],
            Resource: [stores.zone.arn],
        },
        // Route 53 lists zones for the whole account or not at all.
        { Sid: "Zones", Effect: "Allow", Action: ["route53:ListHostedZones", "route53:ListHostedZonesByName"], Resource: ["*"] },
    ];
    grant(ctx, cluster, "dns", namespaces.platform, serviceAccounts.dns, dns);
    grant(ctx, cluster, "certificates", namespaces.platform, serviceAccounts.certificates, [
        ...dns,
        { Sid: "Change", Effect: "Allow", Action: ["route53:GetChange"], Resource: ["arn:aws:route53:::change/*"] },
    ]);
    grant(ctx, cluster, "autoscaler", namespaces.platform, serviceAccounts.autoscaler, [
        {
            Sid: "Scale",
            Effect: "Allow",
            Action: ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"],
            Resource: [pulumi.interpolate`arn:aws:autoscaling:${region.region}:${account.accountId}:autoScalingGroup:*`],
            Condition: { StringEquals: { [`aws:ResourceTag/k8s.io/cluster-autoscaler/${stem}`]: "owned" } },
        },
        {
            // None of these knows a narrower resource; from EKS it learns labels and taints of an empty pool.
            Sid: "Look",
            Effect: "Allow",
            Action: [
                "autoscaling:DescribeAutoScalingGroups",
                "autoscaling:DescribeAutoScalingInstances",
                "autoscaling:DescribeLaunchConfigurations",
                "autoscaling:DescribeScalingActivities",
                "autoscaling:DescribeTags",
                "ec2:DescribeImages",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeLaunchTemplateVersions",
                "ec2:GetInstanceTypesFromInstanceRequirements",
            ],
            Resource: ["*"],
        },
        {
            Sid: "Pools",
            Effect: "Allow",
            Action: ["eks:DescribeNodegroup"],
            Resource: [pulumi.interpolate`arn:aws:eks:${region.region}:${account.accountId}:nodegroup/${stem}/*`],
        },
    ]);
    grant(ctx, cluster, "lb", namespaces.platform, serviceAccounts.loadBalancer, loadBalancers(ctx));
}

/** The AWS load balancer controller: it may touch what carries this cluster's tag, and make what will. */
function loadBalancers(ctx: Context): Statement[] {
    const { stem, region, account } = ctx;
    const balancers = [
        pulumi.interpolate`arn:aws:elasticloadbalancing:${region.region}:${account.accountId}:loadbalancer/*`,
        pulumi.interpolate`arn:aws:elasticloadbalancing:${region.region}:${account.accountId}:targetgroup/*`,
        pulumi.interpolate`arn:aws:elasticloadbalancing:${region.region}:${account.accountId}:listener/*`,
        pulumi.interpolate`arn:aws:elasticloadbalancing:${region.region}:${account.accountId}:listener-rule/*`,
    ];
    const groups = [pulumi.interpolate`arn:aws:ec2:${region.region}:${account.accountId}:security-group/*`];
    const own = { StringEquals: { "aws:ResourceTag/elbv2.k8s.aws/cluster": stem } };
    const marked = { StringEquals: { "aws:RequestTag/elbv2.k8s.aws/cluster": stem } };
    return [
        {
            // AWS describes these for the whole account or not at all.
            Sid: "Look",
            Effect: "Allow",
            Action: [
                "ec2:DescribeAccountAttributes",
                "ec2:DescribeAddresses",
                "ec2:DescribeAvailabilityZones",
                "ec2:DescribeInstances",
                "ec2:DescribeInternetGateways",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeRouteTables",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeTags",
                "ec2:DescribeVpcs",
                "elasticloadbalancing:DescribeListenerAttributes",
                "elasticloadbalancing:DescribeListenerCertificates",
                "elasticloadbalancing:DescribeListeners",
                "elasticloadbalancing:DescribeLoadBalancerAttributes",
                "elasticloadbalancing:DescribeLoadBalancers",
                "elasticloadbalancing:DescribeRules",
                "elasticloadbalancing:DescribeTags",
                "elasticloadbalancing:DescribeTargetGroupAttributes",
                "elasticloadbalancing:DescribeTargetGroups",
                "elasticloadbalancing:DescribeTargetHealth",
            ],
            Resource: ["*"],
        },
        {
            Sid: "Create",
            Effect: "Allow",
            Action: ["elasticloadbalancing:CreateLoadBalancer", "elasticloadbalancing:CreateTargetGroup", "elasticloadbalancing:AddTags"],
            Resource: balancers,
            Condition: marked,
        },
        {
            Sid: "Change",
            Effect: "Allow",
            Action: [
                "elasticloadbalancing:CreateListener",
                "elasticloadbalancing:CreateRule",
                "elasticloadbalancing:AddTags",
                "elasticloadbalancing:RemoveTags",
                "elasticloadbalancing:DeleteListener",
                "elasticloadbalancing:DeleteLoadBalancer",
                "elasticloadbalancing:DeleteRule",
                "elasticloadbalancing:DeleteTargetGroup",
                "elasticloadbalancing:ModifyListener",
                "elasticloadbalancing:ModifyListenerAttributes",
                "elasticloadbalancing:ModifyLoadBalancerAttributes",
                "elasticloadbalancing:ModifyRule",
                "elasticloadbalancing:ModifyTargetGroup",
                "elasticloadbalancing:ModifyTargetGroupAttributes",
                "elasticloadbalancing:SetSecurityGroups",
                "elasticloadbalancing:SetSubnets",
                "elasticloadbalancing:RegisterTargets",
                "elasticloadbalancing:DeregisterTargets",
            ],
            Resource: balancers,
            Condition: own,
        },
        {
            Sid: "Groups",
            Effect: "Allow",
            Action: ["ec2:AuthorizeSecurityGroupIngress", "ec2:RevokeSecurityGroupIngress", "ec2:DeleteSecurityGroup"],
            Resource: groups,
            Condition: own,
        },
        {
            Sid: "MakeGroups",
            Effect: "Allow",
            Action: ["ec2:CreateSecurityGroup", "ec2:CreateTags"],
            Resource: [...groups, pulumi.interpolate`arn:aws:ec2:${region.region}:${account.accountId}:vpc/*`],
        },
    ];
}
