/**
 * What must hold of every region, as functions from registrations to problems: none, or a line each.
 *
 * Kept apart from the tests so that each can be shown a broken region and be seen to notice.
 */
import type { Platform, Env } from "../common/shared";
import type { Registered } from "./recorder";

type Inputs = Record<string, any>;

const of = (resources: Registered[], type: string): { name: string; inputs: Inputs }[] =>
    resources.filter((one) => one.type === type).map(({ name, inputs }) => ({ name, inputs: inputs as Inputs }));

const POOL = {
    aws: "aws:eks/nodeGroup:NodeGroup",
    gcp: "gcp:container/nodePool:NodePool",
    azure: "azure-native:containerservice:AgentPool",
};

/** A pool of any cloud in one form. */
export interface PoolView {
    name: string;
    spot: boolean;
    min: number;
    max: number;
    labels: Record<string, string>;
    taints: string[];
    publicAddress: boolean;
}

/** Every pool of machines, whichever cloud it is in. */
export function pools(resources: Registered[]): PoolView[] {
    const aws = of(resources, POOL.aws).map(({ inputs }) => ({
        name: inputs["nodeGroupName"],
        spot: inputs["capacityType"] === "SPOT",
        min: inputs["scalingConfig"].minSize,
        max: inputs["scalingConfig"].maxSize,
        labels: inputs["labels"],
        taints: (inputs["taints"] ?? []).map((taint: Inputs) => `${taint["key"]}=${taint["value"]}`),
        publicAddress: (inputs["subnetIds"] as string[]).some((id) => id.includes("public")),
    }));
    const gcp = of(resources, POOL.gcp).map(({ inputs }) => ({
        name: inputs["name"],
        spot: inputs["nodeConfig"].spot === true,
        min: inputs["autoscaling"].totalMinNodeCount,
        max: inputs["autoscaling"].totalMaxNodeCount,
        labels: inputs["nodeConfig"].labels,
        taints: (inputs["nodeConfig"].taints ?? []).map((taint: Inputs) => `${taint["key"]}=${taint["value"]}`),
        publicAddress: inputs["networkConfig"]?.enablePrivateNodes !== true,
    }));
    const view = (name: string, inputs: Inputs): PoolView => ({
        name,
        spot: inputs["scaleSetPriority"] === "Spot",
        min: inputs["minCount"],
        max: inputs["maxCount"],
        labels: inputs["nodeLabels"],
        taints: (inputs["nodeTaints"] ?? []).map((taint: string) => taint.split(":")[0]),
        publicAddress: inputs["enableNodePublicIP"] !== false,
    });
    const azure = [
        ...of(resources, "azure-native:containerservice:ManagedCluster").flatMap(({ inputs }) =>
            (inputs["agentPoolProfiles"] as Inputs[]).map((pool) => view(pool["name"], pool)),
        ),
        ...of(resources, POOL.azure).map(({ inputs }) => view(inputs["agentPoolName"], inputs)),
    ];
    return [...aws, ...gcp, ...azure];
}

/** No machine has a public address, and no subnet hands one out. */
export function publicNodes(resources: Registered[]): string[] {
    const found = pools(resources)
        .filter((pool) => pool.publicAddress)
        .map((pool) => `pool ${pool.name} has public addresses`);
    for (const { name, inputs } of of(resources, "aws:ec2/subnet:Subnet")) {
        if (inputs["mapPublicIpOnLaunch"] !== false) {
            found.push(`subnet ${name} hands out public addresses`);
        }
    }
    for (const { name, inputs } of of(resources, "aws:ec2/launchTemplate:LaunchTemplate")) {
        if ((inputs["networkInterfaces"] ?? []).some((one: Inputs) => String(one["associatePublicIpAddress"]) === "true")) {
            found.push(`launch template ${name} asks for a public address`);
        }
    }
    for (const { name, inputs } of of(resources, "gcp:container/cluster:Cluster")) {
        if (inputs["privateClusterConfig"]?.enablePrivateNodes !== true) {
            found.push(`cluster ${name} has public nodes`);
        }
    }
    return found;
}

/** Spot where it should be, tainted so that only what tolerates it lands there, labelled by pool. */
export function spotAndTaints(resources: Registered[], platform: Platform): string[] {
    const { poolLabel, spotTaint, gpuTaint } = platform.scheduling;
    const spot = `${spotTaint.key}=${spotTaint.value}`;
    const gpu = `${gpuTaint.key}=${gpuTaint.value}`;
    const names = platform.names.pools;
    const wanted = {
        [names.system]: { spot: false, taints: [] as string[], label: "system" },
        [names.cpu]: { spot: true, taints: [spot], label: "cpu" },
        [names.gpu]: { spot: true, taints: [spot, gpu], label: "gpu" },
    };
    const seen = pools(resources);
    const found = Object.keys(wanted)
        .filter((name) => !seen.some((pool) => pool.name === name))
        .map((name) => `pool ${name} is missing`);
    for (const pool of seen) {
        const want = wanted[pool.name];
        if (want === undefined) {
            found.push(`pool ${pool.name} is not in names.pools`);
            continue;
        }
        if (pool.spot !== want.spot) {
            found.push(`pool ${pool.name} is ${pool.spot ? "" : "not "}spot`);
        }
        for (const taint of want.taints.filter((one) => !pool.taints.includes(one))) {
            found.push(`pool ${pool.name} lacks the taint ${taint}`);
        }
        if (pool.labels[poolLabel] !== want.label) {
            found.push(`pool ${pool.name} lacks the label ${poolLabel}=${want.label}`);
        }
    }
    return found;
}

/** The GPU pool goes down to nothing and up to three at most; no pool has other bounds than the file's. */
export function scaleBounds(resources: Registered[], platform: Platform, env: Env): string[] {
    const found: string[] = [];
    for (const [pool, name] of Object.entries(platform.names.pools)) {
        const seen = pools(resources).find((one) => one.name === name);
        const bounds = platform.environments[env].pools[pool as "gpu"];
        if (seen === undefined || seen.min !== bounds.min || seen.max !== bounds.max) {
            found.push(`pool ${name} has ${seen?.min}–${seen?.max} machines, not ${bounds.min}–${bounds.max}`);
        }
        if (pool === "gpu" && (seen?.min !== 0 || (seen?.max ?? 9) > 3)) {
            found.push(`pool ${name} does not scale from 0 to at most 3`);
        }
    }
    return found;
}

const OPEN = new Set(["0.0.0.0/0", "::/0", "*", "Internet", "Any"]);

/** Whether a range of ports, as a cloud writes it, holds a port. */
function holds(range: unknown, port: number): boolean {
    const text = String(range ?? "");
    if (text === "*" || text === "") {
        return true;
    }
    const [from, to] = text.split("-").map(Number);
    return (from ?? 0) <= port && port <= (to ?? from ?? 0);
}

/** UDP gossip comes from the peers' addresses and from inside; from nowhere else. */
export function gossipOpen(resources: Registered[], platform: Platform, peers: string[]): string[] {
    const { port } = platform.gossip;
    const found: string[] = [];
    let heard: string[] = [];
    const consider = (name: string, sources: string[], inside: string[]): void => {
        for (const source of sources) {
            if (OPEN.has(source)) {
                found.push(`${name} opens the gossip port to the world`);
            } else if (!peers.includes(source) && !inside.includes(source)) {
                found.push(`${name} opens the gossip port to ${source}, which is no peer`);
            }
        }
        heard = heard.concat(sources.filter((source) => peers.includes(source)));
    };
    const inside = Object.values(platform.regions).flatMap(({ network }) => [network.nodes, network.pods ?? network.nodes]);
    for (const { name, inputs } of of(resources, "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")) {
        const covers = inputs["ipProtocol"] === "-1" || (inputs["ipProtocol"] === "udp" && inputs["fromPort"] <= port && port <= inputs["toPort"]);
        if (covers) {
            consider(name, [inputs["cidrIpv4"], inputs["cidrIpv6"]].filter((one) => one !== undefined), inside);
        }
    }
    for (const { name, inputs } of of(resources, "aws:ec2/securityGroup:SecurityGroup")) {
        for (const rule of inputs["ingress"] ?? []) {
            consider(name, rule.cidrBlocks ?? [], inside);
        }
    }
    for (const { name, inputs } of of(resources, "gcp:compute/firewall:Firewall")) {
        for (const rule of inputs["allows"] ?? []) {
            if (["udp", "all", "17"].includes(rule.protocol) && (rule.ports === undefined || rule.ports.some((range: string) => holds(range, port)))) {
                consider(name, inputs["sourceRanges"] ?? ["0.0.0.0/0"], inside);
            }
        }
    }
    for (const { name, inputs } of of(resources, "azure-native:network:NetworkSecurityGroup")) {
        const rules = [...(inputs["securityRules"] as Inputs[])].sort((a, b) => a["priority"] - b["priority"]);
        const closed = rules.find((rule) => rule["access"] === "Deny" && rule["protocol"] === "Udp" && holds(rule["destinationPortRange"], port));
        if (closed === undefined) {
            found.push(`${name} has no rule that closes the gossip port`);
        }
        for (const rule of rules) {
            if (rule["access"] === "Allow" && ["Udp", "*"].includes(rule["protocol"]) && holds(rule["destinationPortRange"], port) && rule["priority"] < (closed?.["priority"] ?? Infinity)) {
                consider(`${name}/${rule["name"]}`, rule["sourceAddressPrefixes"] ?? [rule["sourceAddressPrefix"]], [...inside, "VirtualNetwork"]);
            }
        }
    }
    for (const peer of peers.filter((one) => !heard.includes(one))) {
        found.push(`the peer ${peer} is not let in`);
    }
    return found;
}

/** Types that bear no tags in their cloud, or are a setting of something that does. */
const UNTAGGED = [
    /^pulumi:providers:/,
    /^aws:ec2\/(route|routeTableAssociation):/,
    /^aws:iam\/(rolePolicy|rolePolicyAttachment):/,
    /^aws:s3\/bucket(PublicAccessBlock|OwnershipControls|Versioning|ServerSideEncryptionConfiguration|Policy):/,
    /^aws:ecr\/lifecyclePolicy:/,
    /^aws:kms\/alias:/,
    /^aws:sns\/(topicSubscription|topicPolicy):/,
    /^aws:eks\/accessPolicyAssociation:/,
    /^aws:route53\/record:/,
    /^gcp:compute\/(network|subnetwork|router|routerNat|firewall):/,
    /^gcp:kms\/(keyRing|cryptoKeyIAMMember):/,
    /^gcp:serviceaccount\/account:/,
    /^gcp:projects\/iAMMember:/,
    /^gcp:artifactregistry\/repositoryIamMember:/,
    /^gcp:secretmanager\/secretIamMember:/,
    /^gcp:storage\/bucketIAMMember:/,
    /^gcp:dns\/dnsManagedZoneIamMember:/,
    /^gcp:billing\/budget:/,
    /^gcp:container\/nodePool:/,
    /^azure-native:authorization:RoleAssignment$/,
    /^azure-native:network:Subnet$/,
    /^azure-native:storage:(BlobContainer|BlobServiceProperties)$/,
    /^azure-native:managedidentity:FederatedIdentityCredential$/,
    /^azure-native:monitor:DiagnosticSetting$/,
    /^azure-native:consumption:Budget$/,
];

/** Whatever can carry tags carries the platform's, the environment and the region. */
export function untagged(resources: Registered[], platform: Platform, env: Env, region: string): string[] {
    const wanted: Record<string, string> = { ...platform.tags, environment: env, region };
    const lacking = (name: string, tags: Record<string, string> | undefined): string[] =>
        Object.entries(wanted)
            .filter(([key, value]) => tags?.[key] !== value)
            .map(([key, value]) => `${name} lacks the tag ${key}=${value}`);
    const found: string[] = [];
    for (const { type, name, inputs } of resources) {
        if (UNTAGGED.some((pattern) => pattern.test(type))) {
            continue;
        }
        const carried = (inputs["tags"] ?? inputs["resourceLabels"] ?? inputs["userLabels"] ?? inputs["labels"]) as Record<string, string> | undefined;
        found.push(...lacking(`${type} ${name}`, carried));
    }
    for (const { name, inputs } of of(resources, POOL.gcp)) {
        found.push(...lacking(`machines of ${name}`, inputs["nodeConfig"].resourceLabels));
    }
    for (const { name, inputs } of of(resources, "aws:ec2/launchTemplate:LaunchTemplate")) {
        for (const kind of ["instance", "volume", "network-interface"]) {
            const spec = (inputs["tagSpecifications"] as Inputs[] | undefined)?.find((one) => one["resourceType"] === kind);
            found.push(...lacking(`${kind} of ${name}`, spec?.["tags"]));
        }
    }
    return found;
}

/** There is a budget of the file's amount that tells somebody before and when it is spent. */
export function budget(resources: Registered[], platform: Platform, env: Env): string[] {
    const amount = platform.environments[env].budgetUsd;
    const seen = [
        ...of(resources, "aws:budgets/budget:Budget").map(({ inputs }) => ({
            amount: Number(inputs["limitAmount"]),
            thresholds: (inputs["notifications"] as Inputs[]).map((one) => Number(one["threshold"])),
            told: (inputs["notifications"] as Inputs[]).every((one) => one["subscriberEmailAddresses"].includes(platform.contact)),
        })),
        ...of(resources, "gcp:billing/budget:Budget").map(({ inputs }) => ({
            amount: Number(inputs["amount"].specifiedAmount.units),
            thresholds: (inputs["thresholdRules"] as Inputs[]).map((one) => one["thresholdPercent"] * 100),
            told: (inputs["allUpdatesRule"]?.monitoringNotificationChannels ?? []).length > 0,
        })),
        ...of(resources, "azure-native:consumption:Budget").map(({ inputs }) => ({
            amount: Number(inputs["amount"]),
            thresholds: Object.values(inputs["notifications"] as Record<string, Inputs>).map((one) => one["threshold"]),
            told: Object.values(inputs["notifications"] as Record<string, Inputs>).every((one) => one["contactEmails"].includes(platform.contact)),
        })),
    ];
    if (seen.length !== 1) {
        return [`${seen.length} budgets instead of one`];
    }
    const [only] = seen as [(typeof seen)[0]];
    const found = only.amount === amount ? [] : [`the budget is ${only.amount}, not ${amount}`];
    for (const threshold of [50, 80, 100].filter((one) => !only.thresholds.includes(one))) {
        found.push(`the budget says nothing at ${threshold} %`);
    }
    return only.told ? found : [...found, "the budget tells nobody"];
}

/** Every statement that allows something, of every policy made here. */
function statements(resources: Registered[]): { name: string; actions: string[]; resource: string[]; conditioned: boolean }[] {
    const documents = resources.flatMap(({ type, name, inputs }) => {
        const policy = inputs["policy"] as string | undefined;
        return policy !== undefined && /^aws:(iam\/rolePolicy|kms\/key|sns\/topicPolicy|s3\/bucketPolicy):/.test(type) ? [{ type, name, policy }] : [];
    });
    return documents.flatMap(({ type, name, policy }) =>
        (JSON.parse(policy)["Statement"] as Inputs[])
            .filter((one) => one["Effect"] === "Allow")
            .map((one) => ({
                name,
                actions: [one["Action"]].flat() as string[],
                // In a key's own policy `*` means that key.
                resource: type.startsWith("aws:kms") ? [] : ([one["Resource"]].flat() as string[]),
                conditioned: one["Condition"] !== undefined,
            })),
    );
}

/** No allowed action has a wildcard; a wildcard for the resource only to look. */
export function wildcards(resources: Registered[]): string[] {
    const found: string[] = [];
    for (const { name, actions, resource } of statements(resources)) {
        for (const action of actions.filter((one) => one.includes("*"))) {
            found.push(`${name} allows ${action}`);
        }
        if (resource.includes("*")) {
            for (const action of actions.filter((one) => !/:(Describe|List|Get)/.test(one))) {
                found.push(`${name} allows ${action} on everything`);
            }
        }
    }
    for (const { name, inputs } of of(resources, "aws:iam/rolePolicyAttachment:RolePolicyAttachment")) {
        if (/(AdministratorAccess|PowerUserAccess|FullAccess)$/.test(String(inputs["policyArn"]))) {
            found.push(`${name} attaches ${inputs["policyArn"]}`);
        }
    }
    for (const { name, inputs } of of(resources, "gcp:projects/iAMMember:IAMMember")) {
        if (/roles\/(owner|editor|viewer)$|[Aa]dmin$/.test(inputs["role"])) {
            found.push(`${name} grants ${inputs["role"]} on the project`);
        }
    }
    for (const { name, inputs } of of(resources, "azure-native:authorization:RoleAssignment")) {
        // Owner, Contributor, User Access Administrator.
        if (/(8e3af657-a8ff-443c-a75c-2fe8c4bcb635|b24988ac-6180-42a0-ab88-20f7382dd24c|18d7d88d-d35e-4fb5-a5c3-7773c20a72d9)$/.test(inputs["roleDefinitionId"])) {
            found.push(`${name} grants a role over everything`);
        }
        if (/^\/subscriptions\/[^/]+$/.test(inputs["scope"])) {
            found.push(`${name} grants on the whole subscription`);
        }
    }
    return found;
}

/** What someone who runs such clusters looks for first: metadata, encryption, logs, API, repair. */
export function hardening(resources: Registered[], platform: Platform, env: Env): string[] {
    const found: string[] = [];
    const need = (ok: boolean, what: string): void => {
        if (!ok) {
            found.push(what);
        }
    };
    const open = platform.environments[env].publicApiFrom;
    for (const { name, inputs } of of(resources, "aws:ec2/launchTemplate:LaunchTemplate")) {
        need(inputs["metadataOptions"]?.httpTokens === "required", `${name} lets IMDSv1 in`);
        need(inputs["metadataOptions"]?.httpPutResponseHopLimit === 1, `${name} lets pods reach the instance's role`);
        need((inputs["blockDeviceMappings"] as Inputs[]).every((disk) => String(disk["ebs"].encrypted) === "true"), `${name} has a disk in the clear`);
    }
    for (const { name, inputs } of of(resources, "aws:eks/cluster:Cluster")) {
        const vpc = inputs["vpcConfig"];
        need(vpc.endpointPrivateAccess === true, `${name} has no private endpoint`);
        need(vpc.endpointPublicAccess === open.length > 0, `${name}: public endpoint without networks that may use it`);
        need(!(vpc.publicAccessCidrs ?? []).some((cidr: string) => OPEN.has(cidr)), `${name}: API open to the world`);
        need(inputs["encryptionConfig"]?.resources?.includes("secrets"), `${name}: secrets in the clear`);
        need(["api", "audit", "authenticator", "controllerManager", "scheduler"].every((one) => inputs["enabledClusterLogTypes"]?.includes(one)), `${name} does not log its control plane`);
        need(inputs["version"] === platform.kubernetes.version, `${name} runs ${inputs["version"]}`);
        need(inputs["accessConfig"]?.authenticationMode === "API" && inputs["accessConfig"].bootstrapClusterCreatorAdminPermissions === false, `${name}: its creator administers it`);
    }
    for (const { name, inputs } of of(resources, POOL.aws)) {
        need(inputs["nodeRepairConfig"]?.enabled === true, `${name} does not repair its nodes`);
    }
    for (const { name, inputs } of of(resources, "aws:kms/key:Key")) {
        need(inputs["enableKeyRotation"] === true, `${name} is not rotated`);
    }
    for (const { name, inputs } of of(resources, "aws:cloudwatch/logGroup:LogGroup")) {
        need(inputs["kmsKeyId"] !== undefined && inputs["retentionInDays"] > 0, `${name} is kept in the clear or forever`);
    }
    for (const { name, inputs } of of(resources, "gcp:container/cluster:Cluster")) {
        need(inputs["databaseEncryption"]?.state === "ENCRYPTED", `${name}: secrets in the clear`);
        need(["APISERVER", "CONTROLLER_MANAGER", "SCHEDULER"].every((one) => inputs["loggingConfig"]?.enableComponents.includes(one)), `${name} does not log its control plane`);
        need(inputs["privateClusterConfig"]?.enablePrivateEndpoint === (open.length === 0), `${name}: public endpoint without networks that may use it`);
        need(inputs["workloadIdentityConfig"]?.workloadPool !== undefined, `${name} has no workload identity`);
        need(inputs["enableShieldedNodes"] === true && inputs["enableLegacyAbac"] === false, `${name}: nodes unshielded or old authorisation`);
        need(inputs["minMasterVersion"] === platform.kubernetes.version, `${name} runs ${inputs["minMasterVersion"]}`);
    }
    for (const { name, inputs } of of(resources, POOL.gcp)) {
        need(inputs["management"]?.autoRepair === true, `${name} does not repair its nodes`);
        need(inputs["nodeConfig"].workloadMetadataConfig?.mode === "GKE_METADATA", `${name} lets pods reach the machine's account`);
        need(inputs["nodeConfig"].metadata?.["disable-legacy-endpoints"] === "true", `${name} has legacy metadata`);
        need(inputs["nodeConfig"].serviceAccount !== undefined, `${name} runs as the project's default account`);
    }
    for (const { name, inputs } of of(resources, "azure-native:containerservice:ManagedCluster")) {
        need(inputs["disableLocalAccounts"] === true, `${name} keeps local accounts`);
        need(inputs["securityProfile"]?.workloadIdentity?.enabled === true && inputs["oidcIssuerProfile"]?.enabled === true, `${name} has no workload identity`);
        need(inputs["securityProfile"]?.azureKeyVaultKms?.enabled === true, `${name}: secrets in the clear`);
        const api = inputs["apiServerAccessProfile"];
        need(open.length > 0 ? api.authorizedIPRanges?.length > 0 : api.enablePrivateCluster === true, `${name}: API open to the world`);
        need(inputs["kubernetesVersion"] === platform.kubernetes.version, `${name} runs ${inputs["kubernetesVersion"]}`);
    }
    if (of(resources, "azure-native:containerservice:ManagedCluster").length > 0) {
        const logs = of(resources, "azure-native:monitor:DiagnosticSetting").flatMap(({ inputs }) => (inputs["logs"] as Inputs[]).map((one) => one["category"]));
        need(["kube-apiserver", "kube-audit-admin"].every((one) => logs.includes(one)), "AKS does not log its control plane");
    }
    for (const { name, inputs } of of(resources, POOL.azure)) {
        need(inputs["enableEncryptionAtHost"] === true, `${name} has disks in the clear`);
    }
    for (const { name, inputs } of of(resources, "azure-native:storage:StorageAccount")) {
        need(inputs["allowBlobPublicAccess"] === false && inputs["enableHttpsTrafficOnly"] === true && inputs["allowSharedKeyAccess"] === false, `${name} is open`);
    }
    for (const { name, inputs } of of(resources, "gcp:storage/bucket:Bucket")) {
        need(inputs["publicAccessPrevention"] === "enforced" && inputs["uniformBucketLevelAccess"] === true, `${name} is open`);
    }
    for (const bucket of of(resources, "aws:s3/bucket:Bucket")) {
        const block = of(resources, "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock").find((one) => one.name === bucket.name);
        need(
            block !== undefined && ["blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"].every((one) => block.inputs[one] === true),
            `${bucket.name} is open`,
        );
    }
    return found;
}

/** Something is made that tells the contact of trouble other than money. */
export function alarms(resources: Registered[]): string[] {
    const made = resources.filter(({ type }) =>
        ["aws:cloudwatch/metricAlarm:MetricAlarm", "gcp:monitoring/alertPolicy:AlertPolicy", "azure-native:monitor:MetricAlert"].includes(type),
    );
    const silent = made.filter(({ inputs }) => {
        const to = (inputs["alarmActions"] ?? inputs["notificationChannels"] ?? inputs["actions"]) as unknown[] | undefined;
        return to === undefined || to.length === 0;
    });
    return [...(made.length < 2 ? [`only ${made.length} alarms`] : []), ...silent.map(({ name }) => `the alarm ${name} tells nobody`)];
}
