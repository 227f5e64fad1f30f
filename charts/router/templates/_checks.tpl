{{/* What the schema cannot say: values that only together are wrong. Included by the first template. */}}
{{- define "router.checks" -}}
{{- $max := include "router.replicasMax" . | int -}}
{{- if eq .Values.image.tag "latest" -}}
{{- fail "image.tag is `latest`, which changes under a running release: name a version, or image.digest" -}}
{{- end -}}
{{- if and (gt $max 1) (not .Values.gossip.enabled) -}}
{{- fail (printf "gossip.enabled is false, but there are up to %d routers: each would spend the whole of every limit. Set gossip.enabled: true (cert-manager or Secrets give the certificates), or replicas: 1" $max) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %d, above autoscaling.maxReplicas, which is %d" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- $longest := printf "%s%s-%d" (include "router.nodePrefix" .) (include "router.fullname" .) (sub $max 1) -}}
{{- if gt (len $longest) 64 -}}
{{- fail (printf "the node name `%s` has %d characters, at most 64 are allowed: set fullnameOverride to a shorter name" $longest (len $longest)) -}}
{{- end -}}

{{- with .Values.gossip -}}
{{- if .enabled -}}
{{- if ge (int .identity.renewBeforeHours) (int .identity.durationHours) -}}
{{- fail (printf "gossip.identity.renewBeforeHours is %d, not below durationHours, which is %d: certificates would be renewed without end" (int .identity.renewBeforeHours) (int .identity.durationHours)) -}}
{{- end -}}
{{- if and (ne .identity.source "secret") (not .identity.issuerRef.name) -}}
{{- fail "gossip.identity.issuerRef.name is empty: name cert-manager's issuer of the cluster's authority (charts/platform makes one), or set gossip.identity.source: secret" -}}
{{- end -}}
{{- end -}}
{{- if .public.enabled -}}
{{- if not .enabled -}}
{{- fail "gossip.public.enabled is true, but gossip.enabled is false" -}}
{{- end -}}
{{- if lt (len .public.addresses) $max -}}
{{- fail (printf "gossip.public.addresses has %d addresses for up to %d routers: each router needs a static address of its own, or other regions cannot tell them apart" (len .public.addresses) $max) -}}
{{- end -}}
{{- range .public.allowedCIDRs -}}
{{- if hasSuffix "/0" . -}}
{{- fail (printf "gossip.public.allowedCIDRs names %s, the whole world: list the addresses by which all regions' routers leave their networks (NAT)" .) -}}
{{- end -}}
{{- end -}}
{{- if ne (len (uniq .public.addresses)) (len .public.addresses) -}}
{{- fail "gossip.public.addresses names an address twice: each router needs one of its own" -}}
{{- end -}}
{{- if not .public.allowedCIDRs -}}
{{- fail "gossip.public.allowedCIDRs is empty: the gossip port would be open to the world. List the addresses by which all regions' routers leave their networks (NAT)" -}}
{{- end -}}
{{- if eq $.Values.cloud "aws" -}}
{{- if lt (len .public.aws.eipAllocations) $max -}}
{{- fail (printf "gossip.public.aws.eipAllocations has %d entries for up to %d routers: each load balancer needs the allocation of its Elastic IP" (len .public.aws.eipAllocations) $max) -}}
{{- end -}}
{{- with $.Values.networkPolicy -}}
{{- if and .enabled .ingressFrom (not .healthCheckCIDRs) -}}
{{- fail "networkPolicy.ingressFrom keeps out the health checks of the gossip load balancers: name their subnets in networkPolicy.healthCheckCIDRs" -}}
{{- end -}}
{{- end -}}
{{- if lt (len .public.aws.subnets) $max -}}
{{- fail (printf "gossip.public.aws.subnets has %d entries for up to %d routers: each load balancer stands in one public subnet" (len .public.aws.subnets) $max) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and (eq .Values.auth.mode "keys") (not (hasKey .Values.config "auth")) (not .Values.auth.apiKey.name) -}}
{{- fail "auth.apiKey.name is empty: name the Secret with the clients' first key, or say auth.mode: none" -}}
{{- end -}}
{{- if and .Values.admin.enabled (not .Values.admin.tokenSecret.name) -}}
{{- fail "admin.tokenSecret.name is empty: the operators' listener needs a token, in a Secret" -}}
{{- end -}}
{{- if and .Values.externalSecrets.enabled (not .Values.externalSecrets.store.name) -}}
{{- fail "externalSecrets.store.name is empty: name the SecretStore or ClusterSecretStore to fetch from" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts is empty: name the hosts clients ask for" -}}
{{- end -}}
{{- include "router.checkConfig" . -}}
{{- end -}}

{{- define "router.checkConfig" -}}
{{- $config := .Values.config -}}
{{- $chart := dict "node" "set `cloud` and `region`" "admin" "set the values under `admin`" "sidecar" "that is charts/llm-server" -}}
{{- range $key, $instead := $chart -}}
{{- if hasKey $config $key -}}
{{- fail (printf "config.%s is filled in by the chart: %s" $key $instead) -}}
{{- end -}}
{{- end -}}
{{- range $key := keys ($config.gossip | default dict) | sortAlpha -}}
{{- if not (has $key (list "interval" "heedPrices")) -}}
{{- fail (printf "config.gossip.%s is filled in by the chart: set the values under `gossip`" $key) -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey $config "gossip") (not .Values.gossip.enabled) -}}
{{- fail "config.gossip is given, but gossip.enabled is false" -}}
{{- end -}}
{{- if and .Values.gossip.relay.enabled (not .Values.gossip.enabled) -}}
{{- fail "gossip.relay.enabled is true, but gossip.enabled is false: peers prove themselves by their gossip identities" -}}
{{- end -}}
{{- if and .Values.gossip.relay.enabled (has (int .Values.gossip.relay.port) (list 8080 (int .Values.admin.port))) -}}
{{- fail (printf "gossip.relay.port is %d, which another listener has" (int .Values.gossip.relay.port)) -}}
{{- end -}}
{{- if hasKey ($config.ledger | default dict) "path" -}}
{{- fail "config.ledger.path is filled in by the chart: the volume decides where it lies" -}}
{{- end -}}
{{- if and (hasKey $config "ledger") (not .Values.ledger.enabled) -}}
{{- fail "config.ledger is given, but ledger.enabled is false: there would be no volume to keep it on" -}}
{{- end -}}
{{- range $key := list "host" "port" -}}
{{- if hasKey ($config.server | default dict) $key -}}
{{- fail (printf "config.server.%s is filled in by the chart, which must know it" $key) -}}
{{- end -}}
{{- end -}}
{{- if or (hasKey ($config.server | default dict) "drainTimeout") (hasKey ($config.timeouts | default dict) "total") -}}
{{- fail "config.server.drainTimeout and config.timeouts.total follow from drain.longestStreamSeconds: set that" -}}
{{- end -}}

{{/* What makes the router refuse its file, as far as it can be seen from here. */}}
{{- $names := list -}}
{{- range concat ($config.clusters | default list) ($config.externalProviders | default list) -}}
{{- if and .name (has .name $names) -}}{{- fail (printf "config names `%s` twice: each cluster and provider needs a name of its own" .name) -}}{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range $config.clusters -}}
{{- if and (eq (toString .authType) "hmac") (not .sharedSecret) -}}
{{- fail (printf "config.clusters: `%s` has authType hmac and no sharedSecret" (default "without a name" .name)) -}}
{{- end -}}
{{- if and (eq (toString .authType) "mtls") (not (and .certFile .keyFile)) -}}
{{- fail (printf "config.clusters: `%s` has authType mtls and no certFile and keyFile: name files under /etc/llm-router/secrets (secretFiles)" (default "without a name" .name)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.files -}}
{{- if or (eq $name "router.yaml") (hasPrefix (printf "%s-" (include "router.fullname" $)) $name) -}}
{{- fail (printf "files has %s, which the chart makes itself" $name) -}}
{{- end -}}
{{- end -}}

{{/* Every ${NAME} without a default, except in what is switched off, has to be given. */}}
{{- $used := deepCopy $config -}}
{{- $on := list -}}
{{- range ($used.externalProviders | default list) -}}
{{- if ne (toString .enabled) "false" -}}{{- $on = append $on . -}}{{- end -}}
{{- end -}}
{{- $_ := set $used "externalProviders" $on -}}
{{- if not (concat ($config.clusters | default list) $on) -}}
{{- fail "config has no cluster and no enabled provider: there would be nobody to ask" -}}
{{- end -}}
{{- if eq (toString (dig "demo" "enabled" false $used)) "false" -}}{{- $_ := unset $used "demo" -}}{{- end -}}
{{- $given := concat (list "POD_NAME" "POD_IP") (keys (include "router.ownSecrets" . | fromJson)) (keys .Values.env) (keys .Values.secretEnv) -}}
{{- if .Values.externalSecrets.enabled -}}{{- $given = concat $given (keys .Values.externalSecrets.data) -}}{{- end -}}
{{- $text := toYaml $used | replace "$${" "" -}}
{{- range $reference := regexFindAll "\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}" $text -1 | uniq -}}
{{- $name := trimSuffix "}" (trimPrefix "${" $reference) -}}
{{- if not (has $name $given) -}}
{{- fail (printf "config refers to %s, which nothing sets: add %s to secretEnv (a secret), externalSecrets.data or env" $reference $name) -}}
{{- end -}}
{{- end -}}
{{- $twice := list -}}
{{- $secrets := include "router.ownSecrets" $ | fromJson -}}
{{- range $name := keys .Values.secretEnv -}}
{{- if hasKey $secrets $name -}}{{- fail (printf "secretEnv.%s is set by the chart itself: use the values under `auth` and `admin`" $name) -}}{{- end -}}
{{- end -}}
{{- range $name := keys .Values.env -}}
{{- if or (hasKey $.Values.secretEnv $name) (and $.Values.externalSecrets.enabled (hasKey $.Values.externalSecrets.data $name)) -}}{{- $twice = append $twice $name -}}{{- end -}}
{{- end -}}
{{- if $twice -}}
{{- fail (printf "%s is in env and is a secret too: keep one" (join ", " $twice)) -}}
{{- end -}}
{{- end -}}
