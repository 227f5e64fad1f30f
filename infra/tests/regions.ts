/** The regions of every cloud, made with the clouds replaced; and the peers each should let in. */
import { loadPlatform, type Addresses, type Env, type Platform } from "../common/shared";
import { record, type Registered } from "./recorder";

/** What setup would have recorded after the first pass. */
export const ADDRESSES: Addresses = {
    "aws-us-west-2": { inbound: ["52.0.0.1", "52.0.0.2"], outbound: ["52.0.1.1", "52.0.1.2", "52.0.1.3"] },
    "gcp-us-central1": { inbound: ["34.0.0.1", "34.0.0.2"], outbound: ["34.0.1.1", "34.0.1.2"] },
    "azure-eastus": { inbound: ["20.0.0.1", "20.0.0.2"], outbound: ["20.0.1.1", "20.0.1.2"] },
};

/** A region as it was made. */
export interface Made {
    key: string;
    platform: Platform;
    resources: Registered[];
    outputs: Record<string, unknown>;
    peers: string[];
}

/** Makes a region of `cloud`; programs are imported here, after the mocks. */
export async function make(cloud: "aws" | "gcp" | "azure", env: Env, addresses: Addresses = ADDRESSES, platform: Platform = loadPlatform()): Promise<Made> {
    const key = Object.keys(platform.regions).find((name) => name.startsWith(`${cloud}-`)) as string;
    const peers = Object.values(addresses)
        .flatMap((both) => both.outbound)
        .map((address) => `${address}/32`);
    const made = await record(await program(cloud, env, key, platform, addresses));
    return { key, platform, peers, ...made };
}

async function program(cloud: "aws" | "gcp" | "azure", env: Env, key: string, platform: Platform, addresses: Addresses): Promise<() => object> {
    switch (cloud) {
        case "aws": {
            const { awsRegion } = await import("../aws/region");
            return () => awsRegion(platform, env, key, { adminRoleArn: "arn:aws:iam::123456789012:role/admin", accountId: "123456789012" }, addresses);
        }
        case "gcp": {
            const { gcpRegion } = await import("../gcp/region");
            return () => gcpRegion(platform, env, key, { project: "project", projectNumber: "42", billingAccount: "0-0-0" }, addresses);
        }
        case "azure": {
            const { azureRegion } = await import("../azure/region");
            return () =>
                azureRegion(platform, env, key, { subscriptionId: "sub", tenantId: "tenant", adminGroupId: "group", budgetStart: "2026-12-01T00:00:00Z" }, addresses);
        }
    }
}
