/** The stack: its name says the environment, its settings the region and the role that administers it. */
import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { envOf, loadAddresses, loadPlatform } from "../common/shared";
import { awsRegion } from "./region";

const config = new pulumi.Config();
const env = envOf(pulumi.getStack());

export const outputs = awsRegion(
    loadPlatform(),
    env,
    config.require("region"),
    { adminRoleArn: config.require("adminRoleArn"), accountId: aws.getCallerIdentityOutput().accountId },
    loadAddresses(env),
);
