{{/* What cannot work, refused before anything is applied: rules between values, which the schema cannot say. Called
     by workers.yaml, the first of our files that Helm renders. */}}
{{- define "tunesmith.check" -}}
{{- include "tunesmith.checkPlaces" . -}}
{{- include "tunesmith.checkImages" . -}}
{{- include "tunesmith.checkNumbers" . -}}
{{- range $name, $pool := .Values.workers -}}
{{- $worker := include "tunesmith.pool" (dict "root" $ "pool" $pool) | fromYaml -}}
{{- if $worker.enabled -}}
{{- include "tunesmith.checkPool" (dict "root" $ "name" $name "pool" $worker) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where data, backups and gateways are. */}}
{{- define "tunesmith.checkPlaces" -}}
{{- if and (not (and .Values.postgres.enabled .Values.redis.enabled)) (not .Values.secrets.existingSecret) -}}
{{- fail "secrets.existingSecret: an external PostgreSQL or Redis (postgres.enabled or redis.enabled is false) needs a Secret with the keys database_url, broker_url and metrics_key" -}}
{{- end -}}
{{- if and .Values.secrets.settings (not .Values.secrets.existingSecret) -}}
{{- fail (printf "secrets.settings names %s: keys of a Secret of yours, so secrets.existingSecret must name it" (join ", " .Values.secrets.settings)) -}}
{{- end -}}
{{- if and (eq .Values.storage.kind "s3") (not .Values.storage.s3.url) -}}
{{- fail "storage.s3.url: storage.kind is s3, so it must name a bucket, e.g. s3://models/tunesmith" -}}
{{- end -}}
{{- $s3 := .Values.backup.s3 -}}
{{- if and .Values.backup.enabled (eq (empty $s3.url) (empty .Values.backup.existingClaim)) -}}
{{- fail "backup.s3.url or backup.existingClaim: backup.enabled is true, so one of them must say where backups lie, e.g. s3://backups/tunesmith" -}}
{{- end -}}
{{- if and .Values.backup.enabled (eq .Values.storage.kind "s3") (or $s3.endpoint $s3.region $s3.existingSecret) -}}
{{- fail "backup.s3: artifacts and backups are reached with the same keys and endpoint, those of storage.s3: only url may stand here" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host: ingress.enabled is true, so it must say by which name the gateways are reached, e.g. tunesmith.example.com" -}}
{{- end -}}
{{- end -}}

{{/* A branch's name moves, and a node keeps the build that it has: two pods of one pool would run different code. */}}
{{- define "tunesmith.checkImages" -}}
{{- $given := dict "postgres.image" .Values.postgres.image "redis.image" .Values.redis.image -}}
{{- range $name, $image := .Values.images -}}
{{- $given = set $given (printf "images.%s" $name) $image -}}
{{- end -}}
{{- range $name, $image := $given -}}
{{- if and $image.tag (not $image.digest) (not (regexMatch "[0-9]" $image.tag)) -}}
{{- fail (printf "%s.tag is %s: it must name one build, a version or a commit (with a digit); or give %s.digest" $name $image.tag $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tunesmith.checkNumbers" -}}
{{- /* As shared/settings.py has them, and refuses them: no pod would start. */ -}}
{{- $keeper := dig "keeper_seconds" 20.0 .Values.settings | float64 -}}
{{- $lease := dig "lease_seconds" 30.0 .Values.settings | float64 -}}
{{- if ge $keeper $lease -}}
{{- fail (printf "settings.keeper_seconds is %v: it must be below settings.lease_seconds (%v), or a lost child would still run when the job starts again" $keeper $lease) -}}
{{- end -}}
{{- $scaling := .Values.gateway.autoscaling -}}
{{- if and $scaling.enabled (gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas)) -}}
{{- fail (printf "gateway.autoscaling.minReplicas is %d: at most maxReplicas (%d)" (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas)) -}}
{{- end -}}
{{- $limit := dig "limits" "memory" "" .Values.redis.resources | toString -}}
{{- if and .Values.redis.enabled $limit (ge (include "tunesmith.bytes" .Values.redis.maxMemory | float64) (include "tunesmith.bytes" $limit | float64)) -}}
{{- fail (printf "redis.maxMemory is %s: it must be below redis.resources.limits.memory (%s), or the kernel ends Redis before it refuses to grow; half of it is right" .Values.redis.maxMemory $limit) -}}
{{- end -}}
{{- end -}}

{{/* Call: (dict "root" $ "name" "trainer" "pool" POOL), the pool with what it leaves out */}}
{{- define "tunesmith.checkPool" -}}
{{- $values := .root.Values -}}
{{- $at := printf "workers.%s" .name -}}
{{- $scaling := .pool.autoscaling -}}
{{- $taken := list "gateway" "beat" "postgres" "redis" "ray" "migrate" "backup" "test" "network" "monitoring" -}}
{{- if has .name $taken -}}
{{- fail (printf "%s: a pool cannot have the name of another part of the release (%s), e.g. %s-pool" $at (join ", " $taken) .name) -}}
{{- end -}}
{{- if and .pool.image (not (hasKey $values.images .pool.image)) -}}
{{- fail (printf "%s.image is %s: it must be a key of images (%s)" $at .pool.image (keys $values.images | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and .pool.ray (not $values.ray.enabled) -}}
{{- fail (printf "%s.ray: there is no cluster for it, ray.enabled is false" $at) -}}
{{- end -}}
{{- if ne $scaling.kind "none" -}}
{{- if gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is %d: at most maxReplicas (%d)" $at (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq .pool.service "inference") (not $scaling.query) -}}
{{- fail (printf "%s.autoscaling.query: replicas wait in no queue, so it must say how many inference workers are wanted" $at) -}}
{{- end -}}
{{- if and (eq $scaling.kind "keda") (not $values.metrics.prometheusAddress) -}}
{{- fail (printf "metrics.prometheusAddress: %s.autoscaling.kind is keda, which asks a Prometheus, e.g. http://prometheus-operated.monitoring:9090" $at) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes, or of Redis (kb, mb, gb), in bytes. */}}
{{- define "tunesmith.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "kb" 1024 "mb" 1048576 "gb" 1073741824 -}}
{{- $units = merge $units (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624) -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number .)) -}}
{{- end -}}
