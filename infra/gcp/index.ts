/** The stack: its name says the environment, its settings the region, the project and who pays. */
import * as pulumi from "@pulumi/pulumi";
import { envOf, loadAddresses, loadPlatform } from "../common/shared";
import { gcpRegion } from "./region";

const config = new pulumi.Config();
const env = envOf(pulumi.getStack());

export const outputs = gcpRegion(
    loadPlatform(),
    env,
    config.require("region"),
    {
        project: config.require("project"),
        projectNumber: config.require("projectNumber"),
        billingAccount: config.require("billingAccount"),
    },
    loadAddresses(env),
);
