{{/* Names */}}
{{- define "tunesmith.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tunesmith.secretName" -}}
{{- .Values.secrets.existingSecret | default (printf "%s-secrets" (include "tunesmith.fullname" .)) -}}
{{- end -}}

{{- define "tunesmith.claimName" -}}
{{- .Values.storage.existingClaim | default (printf "%s-shared" (include "tunesmith.fullname" .)) -}}
{{- end -}}

{{/* What every object of the release carries. Call: (dict "root" $ "component" "gateway") */}}
{{- define "tunesmith.selector" -}}
app.kubernetes.io/name: tunesmith
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "tunesmith.labels" -}}
{{ include "tunesmith.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Every pod of the release, whatever its component. */}}
{{- define "tunesmith.release" -}}
app.kubernetes.io/name: tunesmith
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* A digest wins over a tag. Call: (dict "root" $ "image" .Values.images.gateway) */}}
{{- define "tunesmith.image" -}}
{{- $registry := .image.registry | default .root.Values.image.registry -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A setting as text: large whole numbers without an exponent, lists with commas. */}}
{{- define "tunesmith.text" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if and (kindIs "float64" .) (eq (float64 (int64 .)) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "tunesmith.storageUrl" -}}
{{- ternary .Values.storage.s3.url "/shared/artifacts" (eq .Values.storage.kind "s3") -}}
{{- end -}}

{{- define "tunesmith.needsClaim" -}}
{{- if or (eq .Values.storage.kind "volume") .Values.ray.enabled -}}yes{{- end -}}
{{- end -}}

{{/* Longer than a checkpoint may take, which is what a worker does with SIGTERM. */}}
{{- define "tunesmith.grace" -}}
{{- add (.Values.settings.pause_timeout_seconds | int64) 60 -}}
{{- end -}}

{{/* The environment that all of our processes share. */}}
{{- define "tunesmith.env" -}}
- {name: TUNESMITH_DATABASE_URL_FILE, value: /etc/tunesmith/secrets/database_url}
- {name: TUNESMITH_BROKER_URL_FILE, value: /etc/tunesmith/secrets/broker_url}
- {name: TUNESMITH_STORAGE_URL, value: {{ include "tunesmith.storageUrl" . | quote }}}
{{- if .Values.importVolume.existingClaim }}
- {name: TUNESMITH_IMPORT_ROOTS, value: /import}
{{- end }}
{{- if eq .Values.storage.kind "s3" }}
{{- with .Values.storage.s3.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.storage.s3.region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- if .Values.storage.s3.existingSecret }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /etc/tunesmith/s3/credentials}
{{- end }}
{{- end }}
{{- range $name := .Values.secrets.settings }}
- {name: TUNESMITH_{{ upper $name }}_FILE, value: /etc/tunesmith/secrets/{{ $name }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: TUNESMITH_{{ upper $name }}, value: {{ include "tunesmith.text" $value | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Enough for what speaks to ledger and broker alone. */}}
{{- define "tunesmith.ledgerMounts" -}}
- {name: home, mountPath: /var/lib/tunesmith}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /etc/tunesmith/secrets, readOnly: true}
{{- end -}}

{{- define "tunesmith.mounts" -}}
{{ include "tunesmith.ledgerMounts" . }}
{{- if include "tunesmith.needsClaim" . }}
- {name: shared, mountPath: /shared}
{{- end }}
{{- if .Values.importVolume.existingClaim }}
- {name: import, mountPath: /import, readOnly: true}
{{- end }}
{{- if and (eq .Values.storage.kind "s3") .Values.storage.s3.existingSecret }}
- {name: s3, mountPath: /etc/tunesmith/s3, readOnly: true}
{{- end }}
{{- end -}}

{{/* All but `home`. A pod sees those keys of the Secret that it needs. */}}
{{- define "tunesmith.ledgerVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.temporarySize }}}
- name: secrets
  secret:
    secretName: {{ include "tunesmith.secretName" . }}
    defaultMode: 0440
    items:
      - {key: database_url, path: database_url}
      - {key: broker_url, path: broker_url}
      {{- range .Values.secrets.settings }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end -}}

{{- define "tunesmith.volumes" -}}
{{ include "tunesmith.ledgerVolumes" . }}
{{- if include "tunesmith.needsClaim" . }}
- name: shared
  persistentVolumeClaim: {claimName: {{ include "tunesmith.claimName" . }}}
{{- end }}
{{- if .Values.importVolume.existingClaim }}
- name: import
  persistentVolumeClaim: {claimName: {{ .Values.importVolume.existingClaim }}, readOnly: true}
{{- end }}
{{- if and (eq .Values.storage.kind "s3") .Values.storage.s3.existingSecret }}
- name: s3
  secret: {secretName: {{ .Values.storage.s3.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* The account has no token: nothing of ours speaks to Kubernetes. Without enableServiceLinks: false a Service named
     tunesmith would put TUNESMITH_PORT=tcp://... into every pod. shareProcessNamespace: the pause process is PID 1,
     reaps orphans, and SIGTERM ends a process of ours that has not set its handler yet. */}}
{{- define "tunesmith.podBasics" -}}
serviceAccountName: {{ include "tunesmith.fullname" . }}
automountServiceAccountToken: false
enableServiceLinks: false
shareProcessNamespace: true
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "tunesmith.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Waits until the ledger is of this version. Call: (dict "root" $ "image" IMAGE), with "reach" true until it answers at all */}}
{{- define "tunesmith.waitForLedger" -}}
- name: wait-for-ledger
  image: {{ .image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [python3, -m, shared.store.wait{{ if .reach }}, --reach{{ end }}]
  env:
    {{- include "tunesmith.env" .root | nindent 4 }}
  securityContext:
    {{- include "tunesmith.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 50m, memory: 128Mi}
    limits: {memory: 256Mi}
  volumeMounts:
    {{- include "tunesmith.ledgerMounts" .root | nindent 4 }}
{{- end -}}

{{/* Where pods may be placed. Call with a map that has nodeSelector, tolerations, affinity, priorityClassName */}}
{{- define "tunesmith.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* A pool of workers with what it leaves out, as YAML. Call: (dict "root" $ "pool" POOL) */}}
{{- define "tunesmith.pool" -}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.workerDefaults) .pool) -}}
{{- end -}}

{{/* Redis and PostgreSQL: 999 is their user in the official images. */}}
{{- define "tunesmith.dataBasics" -}}
serviceAccountName: {{ include "tunesmith.fullname" . }}-data
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 999
  runAsGroup: 999
  fsGroup: 999
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
