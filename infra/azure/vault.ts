/**
 * The region's vault: the routers' secrets, and the key that Kubernetes' own secrets are encrypted with.
 */
import { Key } from "@pulumi/azure-native/keyvault/key";
import { Vault } from "@pulumi/azure-native/keyvault/vault";
import type * as pulumi from "@pulumi/pulumi";
import { worldName } from "../common/names";
import type { Context } from "./context";
import type { Network } from "./network";

/** What the cluster and the identities need of the vault. */
export interface Secrets {
    vault: Vault;
    key: Key;
}

/** A vault's resource id. */
export function vaultId(secrets: Secrets): pulumi.Output<string> {
    return secrets.vault.id;
}

/** Makes vault and key; rights are given by roles alone. */
export function secrets(ctx: Context, network: Network): Secrets {
    const { base, opts, settings, platform, env, key: region, account, stem } = ctx;
    const vault = new Vault(
        stem,
        {
            ...base,
            vaultName: worldName(platform, env, region, "kv", account.subscriptionId),
            properties: {
                tenantId: account.tenantId,
                sku: { family: "A", name: "standard" },
                enableRbacAuthorization: true,
                enableSoftDelete: true,
                softDeleteRetentionInDays: settings.deletionProtection ? 90 : 7,
                enablePurgeProtection: true,
                networkAcls: { defaultAction: "Deny", bypass: "AzureServices", virtualNetworkRules: [{ id: network.subnet.id }], ipRules: settings.publicApiFrom.map((value) => ({ value })) },
            },
        },
        { ...opts, protect: settings.deletionProtection },
    );
    const made = new Key(
        stem,
        {
            resourceGroupName: base.resourceGroupName,
            vaultName: vault.name,
            keyName: "kubernetes",
            properties: { kty: "RSA", keySize: 3072, keyOps: ["encrypt", "decrypt"] },
            tags: base.tags,
        },
        { ...opts, protect: settings.deletionProtection },
    );
    return { vault, key: made };
}
