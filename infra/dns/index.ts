/** The stack: its settings name the stacks of the regions, whose zones it delegates. */
import * as pulumi from "@pulumi/pulumi";
import { envOf, loadPlatform } from "../common/shared";
import { geo, type Delegations } from "./geo";

const config = new pulumi.Config();
const stacks = config.requireObject<Record<string, string>>("regions");
const delegations: Delegations = {};
for (const [key, stack] of Object.entries(stacks)) {
    delegations[key] = new pulumi.StackReference(stack).requireOutput("outputs").apply((outputs) => (outputs as { nameServers: string[] }).nameServers);
}

const made = geo(loadPlatform(), envOf(pulumi.getStack()), delegations);

export const outputs = { name: made.name, nameServers: made.zone.nameServers };
