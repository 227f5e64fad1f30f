/**
 * The network of a region: nodes without public addresses, egress through NAT at fixed addresses, and the
 * fixed addresses at which other regions reach the routers.
 *
 * Never does: let anything in but health checks of load balancers and gossip of peers.
 */
import * as gcp from "@pulumi/gcp";
import type { Context } from "./context";

/** What the other parts need of the network. */
export interface Network {
    network: gcp.compute.Network;
    subnet: gcp.compute.Subnetwork;
    natAddresses: gcp.compute.Address[];
    gossipAddresses: gcp.compute.Address[];
    router: gcp.compute.Router;
    nat: gcp.compute.RouterNat;
}

/** The tag of the cluster's nodes that firewall rules speak of. */
export function nodeTag(ctx: Context): string {
    return `${ctx.stem}-node`;
}

/** Makes network, NAT, addresses and firewall. */
export function network(ctx: Context): Network {
    const { stem, opts, region, settings, labels } = ctx;
    const net = new gcp.compute.Network(stem, { name: stem, autoCreateSubnetworks: false, routingMode: "REGIONAL" }, opts);
    const subnet = new gcp.compute.Subnetwork(
        stem,
        {
            name: stem,
            network: net.id,
            region: region.region,
            ipCidrRange: region.network.nodes,
            privateIpGoogleAccess: true,
            secondaryIpRanges: [
                { rangeName: "pods", ipCidrRange: region.network.pods as string },
                { rangeName: "services", ipCidrRange: region.network.services },
            ],
            logConfig: { aggregationInterval: "INTERVAL_10_MIN", flowSampling: 0.1, metadata: "INCLUDE_ALL_METADATA" },
        },
        opts,
    );
    const address = (what: string): gcp.compute.Address =>
        new gcp.compute.Address(
            `${stem}-${what}`,
            { name: `${stem}-${what}`, region: region.region, addressType: "EXTERNAL", networkTier: "PREMIUM", labels },
            { ...opts, protect: settings.deletionProtection },
        );
    // Two addresses in production: NAT gives a machine 64 ports of one at least, and drains one at a time.
    const natAddresses = (settings.highAvailability ? ["nat-0", "nat-1"] : ["nat-0"]).map(address);
    const router = new gcp.compute.Router(stem, { name: stem, network: net.id, region: region.region }, opts);
    const nat = new gcp.compute.RouterNat(
        stem,
        {
            name: stem,
            router: router.name,
            region: region.region,
            natIpAllocateOption: "MANUAL_ONLY",
            natIps: natAddresses.map((one) => one.selfLink),
            sourceSubnetworkIpRangesToNat: "LIST_OF_SUBNETWORKS",
            subnetworks: [{ name: subnet.id, sourceIpRangesToNats: ["ALL_IP_RANGES"] }],
            enableEndpointIndependentMapping: false,
            enableDynamicPortAllocation: true,
            minPortsPerVm: 128,
            maxPortsPerVm: 8192,
            logConfig: { enable: true, filter: "ERRORS_ONLY" },
        },
        opts,
    );
    const gossipAddresses = Array.from({ length: settings.gossipAddresses }, (_, index) => address(`gossip-${index}`));
    firewall(ctx, net);
    return { network: net, subnet, natAddresses, gossipAddresses, router, nat };
}

function firewall(ctx: Context, net: gcp.compute.Network): void {
    const { stem, opts, platform, peers } = ctx;
    const port = String(platform.gossip.port);
    // Below GKE's own rules for load balancers in rank, above them for this port: a Service that forgets
    // its source ranges still cannot open it.
    new gcp.compute.Firewall(
        `${stem}-gossip-deny`,
        {
            name: `${stem}-gossip-deny`,
            network: net.id,
            description: "Nobody reaches the gossip port",
            direction: "INGRESS",
            priority: 900,
            denies: [{ protocol: "udp", ports: [port] }],
            sourceRanges: ["0.0.0.0/0"],
            targetTags: [nodeTag(ctx)],
            logConfig: { metadata: "EXCLUDE_ALL_METADATA" },
        },
        opts,
    );
    if (peers.length > 0) {
        new gcp.compute.Firewall(
            `${stem}-gossip`,
            {
                name: `${stem}-gossip`,
                network: net.id,
                description: "but the NAT addresses of all regions",
                direction: "INGRESS",
                priority: 800,
                allows: [{ protocol: "udp", ports: [port] }],
                sourceRanges: peers,
                targetTags: [nodeTag(ctx)],
            },
            opts,
        );
    }
    new gcp.compute.Firewall(
        `${stem}-inside`,
        {
            name: `${stem}-inside`,
            network: net.id,
            description: "and the routers of this region, among each other",
            direction: "INGRESS",
            priority: 800,
            allows: [{ protocol: "udp", ports: [port] }],
            sourceRanges: [ctx.region.network.nodes, ctx.region.network.pods as string],
            targetTags: [nodeTag(ctx)],
        },
        opts,
    );
}
