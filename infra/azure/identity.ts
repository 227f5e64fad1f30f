/**
 * What each workload may do in Azure, by workload identity: one identity for one service account of one
 * namespace, with one role on one resource.
 */
import { FederatedIdentityCredential } from "@pulumi/azure-native/managedidentity/federatedIdentityCredential";
import { UserAssignedIdentity } from "@pulumi/azure-native/managedidentity/userAssignedIdentity";
import type * as pulumi from "@pulumi/pulumi";
import { assign, type Cluster } from "./cluster";
import type { Context, ROLES } from "./context";
import type { Stores } from "./stores";
import type { Secrets } from "./vault";

/** Makes the identities; the result is their client ids, which the charts put on the service accounts. */
export function identities(ctx: Context, cluster: Cluster, stores: Stores, secrets: Secrets): Record<string, pulumi.Output<string>> {
    const { stem, opts, base, platform } = ctx;
    const { namespaces, serviceAccounts } = platform.names;
    const clients: Record<string, pulumi.Output<string>> = {};
    const give = (what: string, namespace: string, serviceAccount: string, role: keyof typeof ROLES, scope: pulumi.Input<string>): void => {
        const name = `${stem}-${what}`;
        const identity = new UserAssignedIdentity(name, { ...base, resourceName: name }, opts);
        new FederatedIdentityCredential(
            name,
            {
                resourceGroupName: base.resourceGroupName,
                resourceName: identity.name,
                federatedIdentityCredentialResourceName: "kubernetes",
                issuer: cluster.issuer,
                subject: `system:serviceaccount:${namespace}:${serviceAccount}`,
                audiences: ["api://AzureADTokenExchange"],
            },
            opts,
        );
        assign(ctx, name, identity.principalId, role, scope);
        clients[what] = identity.clientId;
    };
    give("secrets", namespaces.platform, serviceAccounts.secretReader, "secretsUser", secrets.vault.id);
    give("models", namespaces.models, serviceAccounts.models, "blobReader", stores.container.id);
    give("dns", namespaces.platform, serviceAccounts.dns, "dnsZoneContributor", stores.zone.id);
    give("certificates", namespaces.platform, serviceAccounts.certificates, "dnsZoneContributor", stores.zone.id);
    return clients;
}
