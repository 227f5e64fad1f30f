// Loads a program as Pulumi's own runtime does (its vendored ts-node, CommonJS), with the clouds replaced, and
// prints how many resources it registered and what it exports.
//
//   node tests/load.cjs FOLDER CONFIG STACK
const path = require("node:path");
const [folder, config, stack] = process.argv.slice(2);
process.env.PULUMI_CONFIG = config;
process.chdir(folder);
const packages = path.join(__dirname, "..", "node_modules");
require(path.join(packages, "@pulumi/pulumi/vendor/ts-node@7.0.1")).register({
    compiler: path.join(packages, "typescript"),
    transpileOnly: true,
    project: "tsconfig.json",
});
const pulumi = require(path.join(packages, "@pulumi/pulumi"));
let registered = 0;
pulumi.runtime.setMocks(
    {
        newResource: (args) => {
            registered += 1;
            const state = { ...args.inputs, name: args.inputs.name ?? args.name, arn: `arn:${args.name}`, latestVersion: 1, zoneId: "Z" };
            state.vpcConfig = { ...args.inputs.vpcConfig, clusterSecurityGroupId: "sg" };
            state.outputs = { outputs: { nameServers: ["ns.example.net"] } };
            return { id: `${args.name}-id`, state };
        },
        call: (args) => ({ ...args.inputs, accountId: "123456789012" }),
    },
    path.basename(folder) === "dns" ? "llm-router-dns" : `llm-router-${path.basename(folder)}`,
    stack,
    false,
);
const exported = Object.keys(require(path.resolve("index.ts")));
let before = -1;
const wait = setInterval(() => {
    if (before === registered) {
        clearInterval(wait);
        process.stdout.write(JSON.stringify({ exported, registered }));
    }
    before = registered;
}, 300);
