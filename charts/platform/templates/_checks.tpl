{{/* What the schema cannot say: values that only together are wrong. */}}
{{- define "platform.checks" -}}
{{- if and .Values.authority.enabled (not .Values.authority.secretName) -}}
{{- fail "authority.secretName is empty: it names the Secret of the routers' authority" -}}
{{- end -}}
{{- if and .Values.acme.enabled (not .Values.acme.email) -}}
{{- fail "acme.email is empty: the authority writes to it before certificates expire" -}}
{{- end -}}
{{- with index .Values "external-dns" -}}
{{- if .enabled -}}
{{- if not .txtOwnerId -}}
{{- fail "external-dns.txtOwnerId is empty: two clusters with the same owner would take each other's records. Give it the cluster's name" -}}
{{- end -}}
{{- if not .domainFilters -}}
{{- fail "external-dns.domainFilters is empty: it would write into every zone it can reach" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.acme.enabled (not .Values.traefik.enabled) (eq .Values.acme.ingressClass "traefik") -}}
{{- fail "acme.ingressClass is traefik, but traefik.enabled is false: name the class of the cluster's own ingress" -}}
{{- end -}}
{{- end -}}

{{- define "platform.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: llm-router
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* After cert-manager answers; in Argo CD also before its kinds are known. */}}
{{- define "platform.afterCertManager" -}}
argocd.argoproj.io/sync-wave: "5"
argocd.argoproj.io/sync-options: SkipDryRunOnMissingResource=true
{{- end -}}
