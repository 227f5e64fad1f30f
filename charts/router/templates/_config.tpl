{{/* The configuration file of one router. Takes the root as `root` and its gossip address as `advertise`. */}}
{{- define "router.config" -}}
{{- $values := .root.Values -}}
{{- $seconds := int $values.drain.longestStreamSeconds -}}
{{- $config := deepCopy $values.config -}}
{{- $server := $config.server | default dict -}}
{{- $_ := set $server "host" "0.0.0.0" -}}
{{- $_ := set $server "port" 8080 -}}
{{- $_ := set $server "drainTimeout" (printf "%ds" (add $seconds 5)) -}}
{{- $_ := set $config "server" $server -}}
{{- $timeouts := $config.timeouts | default dict -}}
{{- $_ := set $timeouts "total" (printf "%ds" $seconds) -}}
{{- $_ := set $config "timeouts" $timeouts -}}
{{- $_ := set $config "node" (dict "name" (printf "%s${POD_NAME}" (include "router.nodePrefix" .root)) "region" $values.region "cloud" $values.cloud) -}}
{{- if not (hasKey $config "auth") -}}
{{- if eq $values.auth.mode "none" -}}
{{- $_ := set $config "auth" "none" -}}
{{- else -}}
{{- $auth := dict "keys" (list (dict "key" "${LLM_ROUTER_API_KEY}")) -}}
{{- if $values.auth.keysFile.name -}}
{{- $_ := set $auth "keysFile" "/etc/llm-router/keys/keys.yaml" -}}
{{- $_ := set $auth "secret" "${LLM_ROUTER_KEYS_SECRET}" -}}
{{- end -}}
{{- if $values.auth.metricsToken.name -}}
{{- $_ := set $auth "metricsToken" "${LLM_ROUTER_METRICS_TOKEN}" -}}
{{- else -}}
{{- $_ := set $auth "openMetrics" true -}}
{{- end -}}
{{- $_ := set $config "auth" $auth -}}
{{- end -}}
{{- end -}}
{{- if $values.admin.enabled -}}
{{- $_ := set $config "admin" (dict "listen" (printf "127.0.0.1:%d" (int $values.admin.port)) "token" "${ADMIN_TOKEN}") -}}
{{- end -}}
{{- if $values.ledger.enabled -}}
{{- $_ := set $config "ledger" (merge (dict "path" "/var/lib/llm-router/ledger.sqlite") ($config.ledger | default dict)) -}}
{{- end -}}
{{- with $values.gossip -}}
{{- if .enabled -}}
{{- $own := printf "%s-gossip.%s.svc:%d" (include "router.fullname" $.root) $.root.Release.Namespace (int .port) -}}
{{- $cert := "/etc/llm-router/identity/${POD_NAME}" -}}
{{- if eq .identity.source "csi" -}}{{- $cert = "/etc/llm-router/identity" -}}{{- end -}}
{{- $ca := printf "%s/ca.crt" $cert -}}
{{- if .identity.trustBundle.configMap -}}{{- $ca = "/etc/llm-router/trust/ca.crt" -}}{{- end -}}
{{- $identity := dict "cert" (printf "%s/tls.crt" $cert) "key" (printf "%s/tls.key" $cert) "ca" $ca -}}
{{- $gossip := dict "listen" (printf "0.0.0.0:%d" (int .port)) "advertise" $.advertise "seeds" (prepend .seeds $own) "clusterId" .clusterId "identity" $identity -}}
{{- if .relay.enabled -}}
{{- $host := index (splitList ":" $.advertise) 0 -}}
{{- $_ := set $gossip "relay" (dict "listen" (printf "0.0.0.0:%d" (int .relay.port)) "advertise" (printf "%s:%d" $host (int .relay.port))) -}}
{{- end -}}
{{- $_ := set $config "gossip" (merge $gossip ($config.gossip | default dict)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
