/**
 * The network of a region: nodes in private subnets, egress through NAT at fixed addresses, and the fixed
 * addresses at which other regions reach the routers.
 *
 * Never does: give a machine a public address.
 */
import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import type { Context } from "./context";

/** What the other parts need of the network. */
export interface Network {
    vpc: aws.ec2.Vpc;
    privateSubnets: aws.ec2.Subnet[];
    publicSubnets: aws.ec2.Subnet[];
    natGateways: aws.ec2.NatGateway[];
    gossipAddresses: aws.ec2.Eip[];
    natAddresses: aws.ec2.Eip[];
    gossipGroup: aws.ec2.SecurityGroup;
}

/** `10.10.0.0/16` cut in 16 parts: the part with this number. */
function part(cidr: string, number: number): string {
    const [a, b] = cidr.split(".");
    return `${a}.${b}.${number * 16}.0/20`;
}

/** Makes the network; `key` encrypts the flow logs. */
export function network(ctx: Context, key: aws.kms.Key): Network {
    const { stem, opts, tagged, region, settings } = ctx;
    const vpc = new aws.ec2.Vpc(
        stem,
        { cidrBlock: region.network.nodes, enableDnsHostnames: true, enableDnsSupport: true, tags: tagged(stem) },
        opts,
    );
    // Whoever forgets to name a security group gets one that lets nothing through.
    new aws.ec2.DefaultSecurityGroup(`${stem}-default`, { vpcId: vpc.id, ingress: [], egress: [], tags: tagged(`${stem}-default`) }, opts);
    const gateway = new aws.ec2.InternetGateway(stem, { vpcId: vpc.id, tags: tagged(stem) }, opts);

    const publicRoutes = new aws.ec2.RouteTable(`${stem}-public`, { vpcId: vpc.id, tags: tagged(`${stem}-public`) }, opts);
    new aws.ec2.Route(`${stem}-public`, { routeTableId: publicRoutes.id, destinationCidrBlock: "0.0.0.0/0", gatewayId: gateway.id }, opts);

    const publicSubnets: aws.ec2.Subnet[] = [];
    const privateSubnets: aws.ec2.Subnet[] = [];
    const natGateways: aws.ec2.NatGateway[] = [];
    const natAddresses: aws.ec2.Eip[] = [];
    const privateTables: aws.ec2.RouteTable[] = [];
    region.zones.forEach((zone, index) => {
        const outside = `${stem}-public-${zone}`;
        const subnet = new aws.ec2.Subnet(
            outside,
            {
                vpcId: vpc.id,
                cidrBlock: part(region.network.nodes, index),
                availabilityZone: zone,
                mapPublicIpOnLaunch: false,
                tags: { ...tagged(outside), "kubernetes.io/role/elb": "1" },
            },
            opts,
        );
        new aws.ec2.RouteTableAssociation(outside, { subnetId: subnet.id, routeTableId: publicRoutes.id }, opts);
        publicSubnets.push(subnet);

        if (settings.natPerZone || index === 0) {
            const nat = `${stem}-nat-${zone}`;
            const address = new aws.ec2.Eip(nat, { domain: "vpc", tags: tagged(nat) }, { ...opts, protect: settings.deletionProtection });
            natAddresses.push(address);
            natGateways.push(
                new aws.ec2.NatGateway(nat, { allocationId: address.id, subnetId: subnet.id, tags: tagged(nat) }, { ...opts, dependsOn: [gateway] }),
            );
        }

        const inside = `${stem}-private-${zone}`;
        const nodes = new aws.ec2.Subnet(
            inside,
            {
                vpcId: vpc.id,
                cidrBlock: part(region.network.nodes, 8 + index),
                availabilityZone: zone,
                mapPublicIpOnLaunch: false,
                tags: { ...tagged(inside), "kubernetes.io/role/internal-elb": "1" },
            },
            opts,
        );
        const table = new aws.ec2.RouteTable(inside, { vpcId: vpc.id, tags: tagged(inside) }, opts);
        const nat = natGateways[settings.natPerZone ? index : 0] as aws.ec2.NatGateway;
        new aws.ec2.Route(inside, { routeTableId: table.id, destinationCidrBlock: "0.0.0.0/0", natGatewayId: nat.id }, opts);
        new aws.ec2.RouteTableAssociation(inside, { subnetId: nodes.id, routeTableId: table.id }, opts);
        privateSubnets.push(nodes);
        privateTables.push(table);
    });

    // Models and image layers lie in S3: without this each byte of them is paid for at the NAT gateway.
    new aws.ec2.VpcEndpoint(
        `${stem}-s3`,
        {
            vpcId: vpc.id,
            serviceName: `com.amazonaws.${region.region}.s3`,
            vpcEndpointType: "Gateway",
            routeTableIds: privateTables.map((table) => table.id),
            tags: tagged(`${stem}-s3`),
        },
        opts,
    );

    flowLogs(ctx, vpc, key);
    const gossipAddresses = Array.from({ length: settings.gossipAddresses }, (_, index) => {
        const name = `${stem}-gossip-${index}`;
        return new aws.ec2.Eip(name, { domain: "vpc", tags: tagged(name) }, { ...opts, protect: settings.deletionProtection });
    });
    return { vpc, privateSubnets, publicSubnets, natGateways, gossipAddresses, natAddresses, gossipGroup: gossip(ctx, vpc) };
}

/** The security group of the gossip load balancers: UDP from the NAT addresses of all regions, nothing else. */
function gossip(ctx: Context, vpc: aws.ec2.Vpc): aws.ec2.SecurityGroup {
    const { stem, opts, tagged, platform, peers, region } = ctx;
    const name = `${stem}-gossip`;
    const group = new aws.ec2.SecurityGroup(
        name,
        { vpcId: vpc.id, description: "Gossip between the regions' routers", revokeRulesOnDelete: true, tags: tagged(name) },
        opts,
    );
    for (const peer of peers) {
        new aws.vpc.SecurityGroupIngressRule(
            `${name}-from-${peer.replace("/32", "").replaceAll(".", "-")}`,
            {
                securityGroupId: group.id,
                description: "A NAT address of a region's routers",
                ipProtocol: "udp",
                fromPort: platform.gossip.port,
                toPort: platform.gossip.port,
                cidrIpv4: peer,
                tags: tagged(name),
            },
            opts,
        );
    }
    new aws.vpc.SecurityGroupEgressRule(
        `${name}-to-nodes`,
        {
            securityGroupId: group.id,
            description: "To the routers' pods",
            ipProtocol: "udp",
            fromPort: platform.gossip.port,
            toPort: platform.gossip.port,
            cidrIpv4: region.network.nodes,
            tags: tagged(name),
        },
        opts,
    );
    return group;
}

function flowLogs(ctx: Context, vpc: aws.ec2.Vpc, key: aws.kms.Key): void {
    const { stem, opts, tagged, settings } = ctx;
    const name = `${stem}-flow`;
    const logs = new aws.cloudwatch.LogGroup(
        name,
        { name: `/llm-router/${stem}/flow`, retentionInDays: settings.logRetentionDays, kmsKeyId: key.arn, tags: tagged(name) },
        opts,
    );
    const role = new aws.iam.Role(
        name,
        {
            name,
            assumeRolePolicy: JSON.stringify({
                Version: "2012-10-17",
                Statement: [{ Effect: "Allow", Action: "sts:AssumeRole", Principal: { Service: "vpc-flow-logs.amazonaws.com" } }],
            }),
            tags: tagged(name),
        },
        opts,
    );
    new aws.iam.RolePolicy(
        name,
        {
            role: role.name,
            policy: pulumi.jsonStringify({
                Version: "2012-10-17",
                Statement: [
                    {
                        Effect: "Allow",
                        Action: ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
                        Resource: pulumi.interpolate`${logs.arn}:*`,
                    },
                ],
            }),
        },
        opts,
    );
    new aws.ec2.FlowLog(
        name,
        { vpcId: vpc.id, trafficType: "REJECT", logDestination: logs.arn, iamRoleArn: role.arn, tags: tagged(name) },
        opts,
    );
}
