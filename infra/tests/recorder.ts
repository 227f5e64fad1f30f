/**
 * Runs a program with the clouds replaced: every resource it registers is kept, and answered as the cloud
 * would where a program reads something back.
 */
import * as pulumi from "@pulumi/pulumi";

/** One registration: what the engine would have been asked to make. */
export interface Registered {
    type: string;
    name: string;
    inputs: Record<string, unknown>;
}

const kept: Registered[] = [];

/** What a cloud adds to a resource, for what the programs read back. */
function answer(type: string, name: string, inputs: Record<string, unknown>): Record<string, unknown> {
    const common = { name: inputs["name"] ?? name, arn: `arn:aws:mock:::${name}`, ...inputs };
    switch (type) {
        case "aws:ec2/eip:Eip":
            return { ...common, publicIp: `198.51.100.${(kept.length % 250) + 1}` };
        case "aws:eks/cluster:Cluster":
            return { ...common, vpcConfig: { ...(inputs["vpcConfig"] as object), clusterSecurityGroupId: "sg-cluster" } };
        case "aws:ec2/launchTemplate:LaunchTemplate":
            return { ...common, latestVersion: 1 };
        case "aws:route53/zone:Zone":
            return { ...common, zoneId: `Z-${name}`, nameServers: ["ns-1.example.net", "ns-2.example.net"] };
        case "gcp:serviceaccount/account:Account":
            return { ...common, email: `${String(inputs["accountId"])}@project.iam.gserviceaccount.com` };
        case "gcp:compute/address:Address":
            return { ...common, address: `203.0.113.${(kept.length % 250) + 1}`, selfLink: `link/${name}` };
        case "azure-native:network:PublicIPAddress":
            return { ...common, name: inputs["publicIpAddressName"], ipAddress: `192.0.2.${(kept.length % 250) + 1}` };
        case "azure-native:containerservice:ManagedCluster":
            return {
                ...common,
                name: inputs["resourceName"],
                oidcIssuerProfile: { enabled: true, issuerURL: "https://issuer.example.net/" },
                identityProfile: { kubeletidentity: { objectId: "kubelet-object" } },
            };
        case "azure-native:managedidentity:UserAssignedIdentity":
            return { ...common, name: inputs["resourceName"], principalId: `principal-${name}`, clientId: `client-${name}` };
        default:
            return common;
    }
}

/** Must run before a program's modules are imported. */
export function mockClouds(): void {
    pulumi.runtime.setMocks(
        {
            newResource(args) {
                kept.push({ type: args.type, name: args.name, inputs: args.inputs as Record<string, unknown> });
                return { id: `${args.name}-id`, state: answer(args.type, args.name, args.inputs as Record<string, unknown>) };
            },
            call(args) {
                return args.token === "aws:index/getCallerIdentity:getCallerIdentity" ? { accountId: "123456789012" } : args.inputs;
            },
        },
        "llm-router",
        "prod",
        false,
    );
}

/** Runs `program` and waits until everything it made is registered; the registrations, and what it put out. */
export async function record<T extends object>(program: () => T): Promise<{ resources: Registered[]; outputs: Record<string, unknown> }> {
    kept.length = 0;
    const outputs = await new Promise<Record<string, unknown>>((resolve) => {
        pulumi.output(program()).apply((value) => {
            resolve(value as Record<string, unknown>);
            return value;
        });
    });
    // Registrations nobody reads the output of come a turn of the loop later: until none came for a while.
    let before = -1;
    for (let turn = 0; turn < 200 && before !== kept.length; turn++) {
        before = kept.length;
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return { resources: [...kept], outputs };
}

/** A copy in which one resource was changed: what a check must notice. */
export function broken(resources: Registered[], type: string, change: (inputs: Record<string, never>) => void, name?: RegExp): Registered[] {
    const copy = structuredClone(resources);
    const found = copy.find((one) => one.type === type && (name === undefined || name.test(one.name)));
    if (found === undefined) {
        throw new Error(`nothing of type ${type}${name === undefined ? "" : ` named ${name}`} to break`);
    }
    change(found.inputs as Record<string, never>);
    return copy;
}
