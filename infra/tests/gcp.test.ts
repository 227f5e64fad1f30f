import { expect, it } from "vitest";
import { regionSuite } from "./region-suite";

const POOL = "gcp:container/nodePool:NodePool";
const CLUSTER = "gcp:container/cluster:Cluster";

const made = regionSuite("gcp", [
    { what: "public nodes", type: CLUSTER, change: (i) => (i.privateClusterConfig.enablePrivateNodes = false), check: "publicNodes", says: /has public nodes/ },
    { what: "a pool with public addresses", type: POOL, change: (i) => (i.networkConfig.enablePrivateNodes = false), check: "publicNodes", says: /has public addresses/ },
    { what: "a GPU pool on demand", type: POOL, name: /gpuspot/, change: (i) => (i.nodeConfig.spot = false), check: "spotAndTaints", says: /gpuspot is not spot/ },
    { what: "a GPU pool without its taint", type: POOL, name: /gpuspot/, change: (i) => i.nodeConfig.taints.pop(), check: "spotAndTaints", says: /nvidia\.com\/gpu=present/ },
    { what: "three GPUs in each zone", type: POOL, name: /gpuspot/, change: (i) => (i.autoscaling = { minNodeCount: 0, maxNodeCount: 3 }), check: "scaleBounds", says: /gpuspot/ },
    { what: "gossip open to the world", type: "gcp:compute/firewall:Firewall", name: /gossip$/, change: (i) => (i.sourceRanges = ["0.0.0.0/0"]), check: "gossipOpen", says: /to the world/ },
    { what: "a rule that opens every UDP port", type: "gcp:compute/firewall:Firewall", name: /gossip$/, change: (i) => (i.allows = [{ protocol: "udp" }], (i.sourceRanges = ["9.9.9.9/32"])), check: "gossipOpen", says: /no peer|not let in/ },
    { what: "something without labels", type: CLUSTER, change: (i) => delete i.resourceLabels, check: "untagged", says: /Cluster .* lacks the tag/ },
    { what: "machines without labels", type: POOL, change: (i) => delete i.nodeConfig.resourceLabels, check: "untagged", says: /machines of .* lacks the tag/ },
    { what: "a budget that says nothing at 80 %", type: "gcp:billing/budget:Budget", change: (i) => i.thresholdRules.splice(1, 1), check: "budget", says: /nothing at 80 %/ },
    { what: "editor on the project", type: "gcp:projects/iAMMember:IAMMember", change: (i) => (i.role = "roles/editor"), check: "wildcards", says: /roles\/editor on the project/ },
    { what: "an open Kubernetes API", type: CLUSTER, change: (i) => (i.privateClusterConfig.enablePrivateEndpoint = false), check: "hardening", says: /public endpoint/ },
    { what: "secrets in the clear", type: CLUSTER, change: (i) => (i.databaseEncryption = { state: "DECRYPTED" }), check: "hardening", says: /secrets in the clear/ },
    { what: "the machine's account within reach of pods", type: POOL, change: (i) => (i.nodeConfig.workloadMetadataConfig.mode = "GCE_METADATA"), check: "hardening", says: /machine's account/ },
    { what: "nodes that are not repaired", type: POOL, change: (i) => (i.management.autoRepair = false), check: "hardening", says: /does not repair/ },
    { what: "an open bucket", type: "gcp:storage/bucket:Bucket", change: (i) => (i.publicAccessPrevention = "inherited"), check: "hardening", says: /is open/ },
    { what: "an alert that tells nobody", type: "gcp:monitoring/alertPolicy:AlertPolicy", change: (i) => (i.notificationChannels = []), check: "alarms", says: /tells nobody/ },
]);

it("closes the gossip port in rank above the rules GKE makes for a Service", () => {
    const rules = made.prod().resources.filter(({ type }) => type === "gcp:compute/firewall:Firewall");
    const denied = rules.find(({ inputs }) => inputs["denies"] !== undefined);
    expect(denied?.inputs["priority"]).toBeLessThan(1000);
    for (const { inputs } of rules.filter((rule) => rule !== denied)) {
        expect(inputs["priority"]).toBeLessThan(denied?.inputs["priority"] as number);
    }
});

it("sends from addresses of its own choice, which peers can let in", () => {
    const nat = made.prod().resources.find(({ type }) => type === "gcp:compute/routerNat:RouterNat");
    expect(nat?.inputs["natIpAllocateOption"]).toBe("MANUAL_ONLY");
    expect(nat?.inputs["natIps"]).toHaveLength(2);
});

it("has a GPU of the kind the file names on each machine of the GPU pool", () => {
    const pool = made.prod().resources.find(({ type, name }) => type === "gcp:container/nodePool:NodePool" && name.endsWith("gpuspot"));
    const [gpu] = (pool?.inputs["nodeConfig"] as any).guestAccelerators;
    expect([gpu.type, gpu.count]).toEqual(["nvidia-tesla-t4", 1]);
});
