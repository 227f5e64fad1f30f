{{/* What the schema cannot say: values that only together are wrong. */}}
{{- define "llm-server.checks" -}}
{{- $max := include "llm-server.replicasMax" . | int -}}
{{- $scaling := .Values.autoscaling -}}
{{- range $what, $image := dict "llama.image" .Values.llama.image "sidecar.image" .Values.sidecar.image "download.image" .Values.download.image -}}
{{- if and (not $image.digest) (has $image.tag (list "latest" "server" "server-cuda" "server-cuda12" "server-cuda13")) -}}
{{- fail (printf "%s.tag is `%s`, which changes under a running release: name a version (server-b…, server-cuda12-b…), or %s.digest" $what $image.tag $what) -}}
{{- end -}}
{{- end -}}
{{- if and (gt $max 1) (include "llm-server.exclusiveClaim" .) -}}
{{- fail (printf "up to %d replicas cannot share a claim of one machine: set model.storage.accessMode: ReadWriteMany (with a class that can), or model.storage.kind: ephemeral" $max) -}}
{{- end -}}
{{- if ne $scaling.kind "none" -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d, above autoscaling.maxReplicas, which is %d" (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $scaling.kind "hpa") (lt (int $scaling.minReplicas) 1) -}}
{{- fail "autoscaling.minReplicas is 0, which a HorizontalPodAutoscaler cannot do: set autoscaling.kind: keda, or minReplicas: 1" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gpu.enabled (eq (int .Values.llama.gpuLayers) 0) -}}
{{- fail "gpu.enabled is true, but llama.gpuLayers is 0: the GPU would be paid and not used. 999 puts every layer on it" -}}
{{- end -}}
{{- if and .Values.gpu.enabled (not .Values.llama.image.digest) (not (regexMatch "cuda|rocm|vulkan|intel|musa" .Values.llama.image.tag)) -}}
{{- fail (printf "gpu.enabled is true, but llama.image.tag `%s` is a build for CPUs: take server-cuda12-b…" .Values.llama.image.tag) -}}
{{- end -}}
{{- if and (not .Values.gpu.enabled) (gt (int .Values.llama.gpuLayers) 0) -}}
{{- fail (printf "llama.gpuLayers is %d, but gpu.enabled is false: the pod would get no GPU" (int .Values.llama.gpuLayers)) -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host is empty: name the host routers of other clouds ask for" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.sidecar.secret.name) -}}
{{- fail "ingress.enabled is true, but sidecar.secret.name is empty: whoever finds the host could use the machine. Name the Secret with the routers' shared secret" -}}
{{- end -}}
{{- $own := list "-m" "--model" "-a" "--alias" "--host" "--port" "-c" "--ctx-size" "-np" "--parallel" "-t" "--threads" "-cram" "--cache-ram" "-ngl" "--gpu-layers" "--n-gpu-layers" "-to" "--timeout" "--metrics" "--slots" "--no-slots" "--ui" "--webui" "--no-ui" "--no-webui" "-kvu" "--kv-unified" "--no-kv-unified" "--offline" "--api-key" "--api-key-file" "--api-prefix" -}}
{{- range .Values.llama.extraArgs -}}
{{- $flag := index (splitList "=" .) 0 -}}
{{- if has $flag $own -}}
{{- fail (printf "llama.extraArgs has %s, which the chart sets itself: use the values under `llama` and `model`" $flag) -}}
{{- end -}}
{{- end -}}
{{- end -}}
