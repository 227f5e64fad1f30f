import { expect, it } from "vitest";
import { regionSuite } from "./region-suite";

const NODES = "aws:eks/nodeGroup:NodeGroup";
const TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate";
const CLUSTER = "aws:eks/cluster:Cluster";

const made = regionSuite("aws", [
    { what: "a subnet that hands out public addresses", type: "aws:ec2/subnet:Subnet", change: (i) => (i.mapPublicIpOnLaunch = true), check: "publicNodes", says: /hands out public addresses/ },
    { what: "a pool in a public subnet", type: NODES, change: (i) => (i.subnetIds = ["stem-public-a-id"]), check: "publicNodes", says: /has public addresses/ },
    { what: "a GPU pool on demand", type: NODES, name: /gpuspot/, change: (i) => (i.capacityType = "ON_DEMAND"), check: "spotAndTaints", says: /gpuspot is not spot/ },
    { what: "a GPU pool without its taint", type: NODES, name: /gpuspot/, change: (i) => i.taints.pop(), check: "spotAndTaints", says: /lacks the taint nvidia\.com\/gpu=present/ },
    { what: "a pool with another label", type: NODES, name: /cpuspot/, change: (i) => (i.labels = {}), check: "spotAndTaints", says: /lacks the label/ },
    { what: "a GPU that is always on", type: NODES, name: /gpuspot/, change: (i) => (i.scalingConfig.minSize = 1), check: "scaleBounds", says: /does not scale from 0/ },
    { what: "ten GPUs", type: NODES, name: /gpuspot/, change: (i) => (i.scalingConfig.maxSize = 10), check: "scaleBounds", says: /0–10 machines, not 0–3/ },
    { what: "gossip open to the world", type: "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", name: /gossip-from/, change: (i) => (i.cidrIpv4 = "0.0.0.0/0"), check: "gossipOpen", says: /to the world/ },
    { what: "gossip open to a stranger", type: "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", name: /gossip-from/, change: (i) => (i.cidrIpv4 = "8.8.8.8/32"), check: "gossipOpen", says: /8\.8\.8\.8\/32, which is no peer/ },
    { what: "something without tags", type: "aws:ecr/repository:Repository", change: (i) => delete i.tags, check: "untagged", says: /Repository .* lacks the tag/ },
    { what: "machines without tags", type: TEMPLATE, change: (i) => i.tagSpecifications.pop(), check: "untagged", says: /network-interface of .* lacks the tag/ },
    { what: "a budget of another amount", type: "aws:budgets/budget:Budget", change: (i) => (i.limitAmount = "1"), check: "budget", says: /the budget is 1, not/ },
    { what: "a budget that tells nobody", type: "aws:budgets/budget:Budget", change: (i) => (i.notifications[0].subscriberEmailAddresses = []), check: "budget", says: /tells nobody/ },
    { what: "a wildcard for an action", type: "aws:iam/rolePolicy:RolePolicy", name: /-secrets$/, change: (i) => (i.policy = i.policy.replace("secretsmanager:GetSecretValue", "secretsmanager:*")), check: "wildcards", says: /allows secretsmanager:\*/ },
    { what: "a change allowed on everything", type: "aws:iam/rolePolicy:RolePolicy", name: /-dns$/, change: (i) => (i.policy = i.policy.replace(/"Resource":\["[^"*]+"\]/, '"Resource":["*"]')), check: "wildcards", says: /ChangeResourceRecordSets on everything/ },
    { what: "IMDSv1", type: TEMPLATE, change: (i) => (i.metadataOptions.httpTokens = "optional"), check: "hardening", says: /IMDSv1/ },
    { what: "a disk in the clear", type: TEMPLATE, change: (i) => (i.blockDeviceMappings[0].ebs.encrypted = "false"), check: "hardening", says: /disk in the clear/ },
    { what: "a Kubernetes API open to the world", type: CLUSTER, change: (i) => (i.vpcConfig.endpointPublicAccess = true), check: "hardening", says: /public endpoint/ },
    { what: "secrets in the clear", type: CLUSTER, change: (i) => delete i.encryptionConfig, check: "hardening", says: /secrets in the clear/ },
    { what: "a control plane without audit log", type: CLUSTER, change: (i) => (i.enabledClusterLogTypes = ["api"]), check: "hardening", says: /does not log its control plane/ },
    { what: "nodes that are not repaired", type: NODES, change: (i) => delete i.nodeRepairConfig, check: "hardening", says: /does not repair/ },
    { what: "an open bucket", type: "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", change: (i) => (i.blockPublicAcls = false), check: "hardening", says: /is open/ },
    { what: "an alarm that tells nobody", type: "aws:cloudwatch/metricAlarm:MetricAlarm", change: (i) => (i.alarmActions = []), check: "alarms", says: /tells nobody/ },
]);

it("leads each private subnet out through NAT and never through the internet gateway", () => {
    const routes = made.prod().resources.filter(({ type }) => type === "aws:ec2/route:Route");
    const inside = routes.filter(({ name }) => name.includes("private"));
    expect(inside).toHaveLength(3);
    for (const { inputs } of inside) {
        expect(inputs["natGatewayId"]).toBeDefined();
        expect(inputs["gatewayId"]).toBeUndefined();
    }
});

it("has a NAT gateway in every zone in production and one in dev", () => {
    const gateways = (env: "dev" | "prod") => made[env]().resources.filter(({ type }) => type === "aws:ec2/natGateway:NatGateway").length;
    expect([gateways("dev"), gateways("prod")]).toEqual([1, 3]);
});

it("lets a workload be what its service account says and nothing else", () => {
    const bound = made
        .prod()
        .resources.filter(({ type }) => type === "aws:eks/podIdentityAssociation:PodIdentityAssociation")
        .map(({ inputs }) => `${inputs["namespace"]}/${inputs["serviceAccount"]}`)
        .sort();
    expect(bound).toEqual([
        "llm-models/llm-server",
        "platform/aws-load-balancer-controller",
        "platform/cert-manager",
        "platform/cluster-autoscaler",
        "platform/external-dns",
        "platform/external-secrets",
    ]);
});
