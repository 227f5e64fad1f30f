/** The stack: its name says the environment, its settings the region, the subscription and who administers it. */
import * as pulumi from "@pulumi/pulumi";
import { envOf, loadAddresses, loadPlatform } from "../common/shared";
import { azureRegion } from "./region";

const config = new pulumi.Config();
const env = envOf(pulumi.getStack());

export const outputs = azureRegion(
    loadPlatform(),
    env,
    config.require("region"),
    {
        subscriptionId: config.require("subscriptionId"),
        tenantId: config.require("tenantId"),
        adminGroupId: config.require("adminGroupId"),
        budgetStart: config.require("budgetStart"),
    },
    loadAddresses(env),
);
