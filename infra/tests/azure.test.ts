import { expect, it } from "vitest";
import { regionSuite } from "./region-suite";

const POOL = "azure-native:containerservice:AgentPool";
const CLUSTER = "azure-native:containerservice:ManagedCluster";
const RULES = "azure-native:network:NetworkSecurityGroup";

const made = regionSuite("azure", [
    { what: "a pool with public addresses", type: POOL, change: (i) => (i.enableNodePublicIP = true), check: "publicNodes", says: /has public addresses/ },
    { what: "a GPU pool on demand", type: POOL, name: /gpuspot/, change: (i) => (i.scaleSetPriority = "Regular"), check: "spotAndTaints", says: /gpuspot is not spot/ },
    { what: "a GPU pool without its taint", type: POOL, name: /gpuspot/, change: (i) => i.nodeTaints.pop(), check: "spotAndTaints", says: /nvidia\.com\/gpu=present/ },
    { what: "a GPU that is always on", type: POOL, name: /gpuspot/, change: (i) => (i.minCount = 1), check: "scaleBounds", says: /does not scale from 0/ },
    { what: "gossip open to the world", type: RULES, change: (i) => (i.securityRules[0].sourceAddressPrefixes = ["*"]), check: "gossipOpen", says: /to the world/ },
    { what: "a firewall that does not close the gossip port", type: RULES, change: (i) => (i.securityRules = i.securityRules.filter((r: any) => r.name !== "gossip-deny")), check: "gossipOpen", says: /no rule that closes/ },
    { what: "something without tags", type: CLUSTER, change: (i) => delete i.tags, check: "untagged", says: /ManagedCluster .* lacks the tag/ },
    { what: "no budget", type: "azure-native:consumption:Budget", change: (i) => Object.assign(i, { amount: 7 }), check: "budget", says: /the budget is 7/ },
    { what: "contributor of everything", type: "azure-native:authorization:RoleAssignment", change: (i) => (i.roleDefinitionId = "x/b24988ac-6180-42a0-ab88-20f7382dd24c"), check: "wildcards", says: /a role over everything/ },
    { what: "a role on the subscription", type: "azure-native:authorization:RoleAssignment", change: (i) => (i.scope = "/subscriptions/sub"), check: "wildcards", says: /whole subscription/ },
    { what: "local accounts", type: CLUSTER, change: (i) => (i.disableLocalAccounts = false), check: "hardening", says: /local accounts/ },
    { what: "an open Kubernetes API", type: CLUSTER, change: (i) => (i.apiServerAccessProfile = { enablePrivateCluster: false }), check: "hardening", says: /API open/ },
    { what: "secrets in the clear", type: CLUSTER, change: (i) => delete i.securityProfile.azureKeyVaultKms, check: "hardening", says: /secrets in the clear/ },
    { what: "no audit log", type: "azure-native:monitor:DiagnosticSetting", change: (i) => (i.logs = []), check: "hardening", says: /does not log its control plane/ },
    { what: "disks in the clear", type: POOL, change: (i) => (i.enableEncryptionAtHost = false), check: "hardening", says: /disks in the clear/ },
    { what: "a storage account with keys", type: "azure-native:storage:StorageAccount", change: (i) => (i.allowSharedKeyAccess = true), check: "hardening", says: /is open/ },
    { what: "an alert that tells nobody", type: "azure-native:monitor:MetricAlert", change: (i) => (i.actions = []), check: "alarms", says: /tells nobody/ },
]);

it("sends everything out through the NAT gateway", () => {
    const subnet = made.prod().resources.find(({ type }) => type === "azure-native:network:Subnet");
    const cluster = made.prod().resources.find(({ type }) => type === CLUSTER);
    expect(subnet?.inputs["natGateway"]).toBeDefined();
    expect(subnet?.inputs["defaultOutboundAccess"]).toBe(false);
    expect((cluster?.inputs["networkProfile"] as any).outboundType).toBe("userAssignedNATGateway");
});

it("trusts a service account of one namespace per identity", () => {
    const subjects = made
        .prod()
        .resources.filter(({ type }) => type === "azure-native:managedidentity:FederatedIdentityCredential")
        .map(({ inputs }) => inputs["subject"])
        .sort();
    expect(subjects).toEqual([
        "system:serviceaccount:llm-models:llm-server",
        "system:serviceaccount:platform:cert-manager",
        "system:serviceaccount:platform:external-dns",
        "system:serviceaccount:platform:secret-reader",
    ]);
});

it("names registry, vault and storage account within what Azure allows", () => {
    const named = (type: string, key: string) => made.prod().resources.find((one) => one.type === type)?.inputs[key] as string;
    for (const name of [
        named("azure-native:containerregistry:Registry", "registryName"),
        named("azure-native:keyvault:Vault", "vaultName"),
        named("azure-native:storage:StorageAccount", "accountName"),
    ]) {
        expect(name).toMatch(/^[a-z][a-z0-9]{4,23}$/);
    }
});
