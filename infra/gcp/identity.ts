/**
 * What each workload may do in Google Cloud, by workload identity: a Kubernetes service account is a
 * principal of its own, so no key and no second account is needed.
 *
 * Every grant is on one resource; none is on the project.
 */
import * as gcp from "@pulumi/gcp";
import type * as pulumi from "@pulumi/pulumi";
import type { Context } from "./context";
import type { Cluster } from "./cluster";
import type { Stores } from "./stores";

function principal(ctx: Context, namespace: string, serviceAccount: string): string {
    const { project, projectNumber } = ctx.account;
    return `principal://iam.googleapis.com/projects/${projectNumber}/locations/global/workloadIdentityPools/${project}.svc.id.goog/subject/ns/${namespace}/sa/${serviceAccount}`;
}

/** Grants what the secrets operator, the model servers, external-dns and cert-manager need. */
export function identities(ctx: Context, cluster: Cluster, stores: Stores): void {
    const { stem, account, platform } = ctx;
    const { namespaces, serviceAccounts } = platform.names;
    // The pool exists once a cluster uses it.
    const opts: pulumi.CustomResourceOptions = { ...ctx.opts, dependsOn: [cluster.cluster] };

    for (const secret of ["openai", "anthropic", "gemini", "api-key", "cluster-secret", "shared-tls-crt", "shared-tls-key"]) {
        const made = new gcp.secretmanager.Secret(
            `${stem}-${secret}`,
            { secretId: `${stem}-${secret}`, replication: { userManaged: { replicas: [{ location: ctx.region.region }] } }, labels: ctx.labels },
            { ...ctx.opts, protect: ctx.settings.deletionProtection },
        );
        new gcp.secretmanager.SecretIamMember(
            `${stem}-${secret}`,
            {
                project: account.project,
                secretId: made.secretId,
                role: "roles/secretmanager.secretAccessor",
                member: principal(ctx, namespaces.platform, serviceAccounts.secrets),
            },
            opts,
        );
    }
    new gcp.storage.BucketIAMMember(
        `${stem}-models`,
        { bucket: stores.models.name, role: "roles/storage.objectViewer", member: principal(ctx, namespaces.models, serviceAccounts.models) },
        opts,
    );
    for (const [what, serviceAccount] of [
        ["dns", serviceAccounts.dns],
        ["certificates", serviceAccounts.certificates],
    ] as const) {
        new gcp.dns.DnsManagedZoneIamMember(
            `${stem}-${what}`,
            { managedZone: stores.zone.name, role: "roles/dns.admin", member: principal(ctx, namespaces.platform, serviceAccount) },
            opts,
        );
    }
}
