/**
 * The network of a region: nodes without public addresses, egress through NAT at a fixed address, and the
 * fixed addresses at which other regions reach the routers.
 *
 * Never does: let anything in but HTTPS for the ingress and gossip of peers.
 */
import { NatGateway } from "@pulumi/azure-native/network/natGateway";
import { NetworkSecurityGroup } from "@pulumi/azure-native/network/networkSecurityGroup";
import { PublicIPAddress } from "@pulumi/azure-native/network/publicIPAddress";
import { Subnet } from "@pulumi/azure-native/network/subnet";
import { VirtualNetwork } from "@pulumi/azure-native/network/virtualNetwork";
import type { types } from "@pulumi/azure-native";
import type { Context } from "./context";

/** What the other parts need of the network. */
export interface Network {
    subnet: Subnet;
    natAddresses: PublicIPAddress[];
    gossipAddresses: PublicIPAddress[];
}

/** Makes network, NAT, addresses and firewall. */
export function network(ctx: Context): Network {
    const { stem, opts, base, region, settings } = ctx;
    const net = new VirtualNetwork(
        stem,
        { ...base, virtualNetworkName: stem, addressSpace: { addressPrefixes: [region.network.nodes] } },
        // Azure lists the subnets inside as well; without this each update would drop ours.
        { ...opts, ignoreChanges: ["subnets"] },
    );
    const address = (what: string, zones: string[]): PublicIPAddress =>
        new PublicIPAddress(
            `${stem}-${what}`,
            {
                ...base,
                publicIpAddressName: `${stem}-${what}`,
                sku: { name: "Standard", tier: "Regional" },
                publicIPAllocationMethod: "Static",
                publicIPAddressVersion: "IPv4",
                zones,
            },
            { ...opts, protect: settings.deletionProtection },
        );
    // A NAT gateway stands in one zone; its address must stand in the same.
    const zone = [region.zones[0] as string];
    const natAddresses = (settings.highAvailability ? ["nat-0", "nat-1"] : ["nat-0"]).map((what) => address(what, zone));
    const nat = new NatGateway(
        stem,
        {
            ...base,
            natGatewayName: stem,
            sku: { name: "Standard" },
            zones: zone,
            idleTimeoutInMinutes: 10,
            publicIpAddresses: natAddresses.map((one) => ({ id: one.id })),
        },
        opts,
    );
    const firewall = new NetworkSecurityGroup(stem, { ...base, networkSecurityGroupName: stem, securityRules: rules(ctx) }, opts);
    const subnet = new Subnet(
        `${stem}-nodes`,
        {
            resourceGroupName: base.resourceGroupName,
            virtualNetworkName: net.name,
            subnetName: "nodes",
            addressPrefix: region.network.nodes,
            natGateway: { id: nat.id },
            networkSecurityGroup: { id: firewall.id },
            defaultOutboundAccess: false,
            serviceEndpoints: [{ service: "Microsoft.Storage" }, { service: "Microsoft.KeyVault" }],
        },
        opts,
    );
    const gossipAddresses = Array.from({ length: settings.gossipAddresses }, (_, index) => address(`gossip-${index}`, region.zones));
    return { subnet, natAddresses, gossipAddresses };
}

/** Azure's default rules follow: the network itself and its load balancer may, the internet may not. */
function rules(ctx: Context): types.input.network.SecurityRuleArgs[] {
    const port = String(ctx.platform.gossip.port);
    const inbound = { direction: "Inbound", sourcePortRange: "*", destinationAddressPrefix: "*" };
    const gossip =
        ctx.peers.length === 0
            ? []
            : [
                  {
                      ...inbound,
                      name: "gossip-from-peers",
                      description: "The NAT addresses of all regions",
                      priority: 100,
                      access: "Allow",
                      protocol: "Udp",
                      sourceAddressPrefixes: ctx.peers,
                      destinationPortRange: port,
                  },
              ];
    return [
        ...gossip,
        {
            ...inbound,
            name: "gossip-inside",
            description: "The routers of this region, among each other",
            priority: 110,
            access: "Allow",
            protocol: "Udp",
            sourceAddressPrefix: "VirtualNetwork",
            destinationPortRange: port,
        },
        {
            ...inbound,
            name: "gossip-deny",
            description: "Nobody else reaches the gossip port",
            priority: 120,
            access: "Deny",
            protocol: "Udp",
            sourceAddressPrefix: "*",
            destinationPortRange: port,
        },
        {
            ...inbound,
            name: "web",
            description: "Clients of the ingress; port 80 sends them to TLS and proves names to the certificate authority",
            priority: 200,
            access: "Allow",
            protocol: "Tcp",
            sourceAddressPrefix: "Internet",
            destinationPortRanges: ["80", "443"],
        },
    ];
}
