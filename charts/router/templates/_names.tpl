{{- define "router.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "router.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Of the pods: nothing that changes with the chart alone, which would restart them. */}}
{{- define "router.podLabels" -}}
{{ include "router.selector" . }}
app.kubernetes.io/component: router
app.kubernetes.io/part-of: llm-router
{{- end -}}

{{- define "router.labels" -}}
{{ include "router.podLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "router.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "router.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "router.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* What stands before a pod's name in its node's name: pods of two regions have the same names. */}}
{{- define "router.nodePrefix" -}}
{{- if ne .Values.region "local" -}}{{ .Values.cloud }}-{{ .Values.region }}-{{- end -}}
{{- end -}}

{{/* The most routers there can be. */}}
{{- define "router.replicasMax" -}}
{{- if .Values.autoscaling.enabled -}}{{ .Values.autoscaling.maxReplicas }}{{- else -}}{{ .Values.replicas }}{{- end -}}
{{- end -}}

{{/* The Secrets that the chart itself refers to: NAME: {name, key}. */}}
{{- define "router.ownSecrets" -}}
{{- $own := dict -}}
{{- if and (eq .Values.auth.mode "keys") (not (hasKey .Values.config "auth")) -}}
{{- $_ := set $own "LLM_ROUTER_API_KEY" .Values.auth.apiKey -}}
{{- with .Values.auth.keysFile -}}
{{- if .name -}}{{- $_ := set $own "LLM_ROUTER_KEYS_SECRET" (dict "name" .name "key" .secretKey) -}}{{- end -}}
{{- end -}}
{{- with .Values.auth.metricsToken -}}
{{- if .name -}}{{- $_ := set $own "LLM_ROUTER_METRICS_TOKEN" . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.admin.enabled -}}{{- $_ := set $own "ADMIN_TOKEN" .Values.admin.tokenSecret -}}{{- end -}}
{{- with .Values.tracing -}}
{{- if and .endpoint .headers.name -}}{{- $_ := set $own "OTEL_EXPORTER_OTLP_HEADERS" .headers -}}{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/* The Secret that the External Secrets operator fills. */}}
{{- define "router.externalSecret" -}}{{ include "router.fullname" . }}-external{{- end -}}
