{{- define "llm-server.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "llm-server.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "llm-server.podLabels" -}}
{{ include "llm-server.selector" . }}
app.kubernetes.io/component: llm-server
app.kubernetes.io/part-of: llm-router
{{- end -}}

{{- define "llm-server.labels" -}}
{{ include "llm-server.podLabels" . }}
app.kubernetes.io/version: {{ .Values.sidecar.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Takes an image, and the version that stands where it has none. */}}
{{- define "llm-server.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}
{{- end -}}
{{- end -}}

{{- define "llm-server.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "llm-server.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "llm-server.replicasMax" -}}
{{- if eq .Values.autoscaling.kind "none" -}}{{ .Values.replicas }}{{- else -}}{{ .Values.autoscaling.maxReplicas }}{{- end -}}
{{- end -}}

{{/* Where the model lies: a folder for each checksum, so that two models never share a file. */}}
{{- define "llm-server.modelFile" -}}
/models/{{ .Values.model.sha256 | trunc 16 }}/model.gguf
{{- end -}}

{{/* One claim that only one machine can have at a time. */}}
{{- define "llm-server.exclusiveClaim" -}}
{{- if and (eq .Values.model.storage.kind "claim") (not .Values.model.storage.existingClaim) (eq .Values.model.storage.accessMode "ReadWriteOnce") -}}true{{- end -}}
{{- end -}}
