{{/*
Every pod of the chart is made of these. `root` is always `$`.

Names of components (label app.kubernetes.io/component, which the NetworkPolicies select): minio, minio-setup,
training-operator, nightly, vllm, serving, serving-follow, auth-proxy, exporter, test; of Kubeflow Pipelines: ml-pipeline, ml-pipeline-ui,
ml-pipeline-persistenceagent, ml-pipeline-scheduledworkflow, workflow-controller, metadata-grpc, metadata-envoy, mysql.
*/}}

{{/* The reference of an image of the table: dict "root" $ "name" KEY */}}
{{- define "telellm.image" -}}
{{- $image := get .root.Values.images .name -}}
{{- if not $image -}}{{- fail (printf "images.%s: there is no such image in the table" .name) -}}{{- end -}}
{{- $repository := $image.repository -}}
{{- if .root.Values.global.imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .root.Values.global.imageRegistry) (regexReplaceAll "^[^/]*[.:][^/]*/" $repository "") -}}
{{- end -}}
{{- $repository -}}:{{- $image.tag | default .root.Chart.AppVersion -}}
{{- with $image.digest -}}@{{ . }}{{- end -}}
{{- end -}}

{{/* Labels of an object: dict "root" $ "component" NAME */}}
{{- define "telellm.labels" -}}
{{ include "telellm.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.global.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of its pods: none that another version of the chart would change, which would restart them all; same dict */}}
{{- define "telellm.podLabels" -}}
{{ include "telellm.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.global.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Annotations of a pod that reads these when it starts, so that it starts again when the values change them; what a person
changes in an existingSecret or a ConfigMap of their own, the chart cannot see: dict "root" $ [, "store" true]
*/}}
{{- define "telellm.startsWith" -}}
{{- with .root.Values.global.ca.pem }}
checksum/ca: {{ . | sha256sum }}
{{- end }}
{{- if .store }}
checksum/store: {{ .root.Values.store | toJson | sha256sum }}
{{- end }}
{{- end -}}

{{/* Labels that select a component's pods, the same in every version of the chart: dict "root" $ "component" NAME */}}
{{- define "telellm.selector" -}}
app.kubernetes.io/name: telellm-platform
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* securityContext of a pod, level "restricted": dict "root" $ [, "user" NUMBER] */}}
{{- define "telellm.podSecurity" -}}
{{- $user := .user | default 10001 -}}
runAsNonRoot: true
runAsUser: {{ $user }}
runAsGroup: {{ $user }}
fsGroup: {{ $user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* securityContext of a container, level "restricted", with a read-only root */}}
{{- define "telellm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
What stands in every pod's spec beside its containers: pull secrets, nodes, spread, priority, no links to services.
dict "root" $ "component" NAME [, "own" BLOCK with nodeSelector, tolerations, priorityClassName] [, "priority" false]
*/}}
{{- define "telellm.scheduling" -}}
{{- $global := .root.Values.global -}}
{{- $own := .own | default dict -}}
enableServiceLinks: false
{{- with $global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with mergeOverwrite (deepCopy $global.nodeSelector) ($own.nodeSelector | default dict) }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat $global.tolerations ($own.tolerations | default list) }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if not (eq (get . "priority" | toString) "false") }}
{{- with $own.priorityClassName | default (include "telellm.priority" (dict "root" .root "kind" "platform")) }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
{{- if $global.spread }}
topologySpreadConstraints:
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "telellm.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/* Name of a priority class, or nothing: dict "root" $ "kind" platform|jobs */}}
{{- define "telellm.priority" -}}
{{- $class := get .root.Values.priorityClasses .kind -}}
{{- if or .root.Values.priorityClasses.create $class.existing -}}
{{- $class.existing | default (printf "%s-telellm-%s" .root.Release.Namespace .kind) -}}
{{- end -}}
{{- end -}}

{{/* A budget for a component of several replicas: dict "root" $ "component" NAME "replicas" NUMBER */}}
{{- define "telellm.disruptionBudget" -}}
{{- if and .root.Values.podDisruptionBudgets.enabled (gt (int .replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .component }}
  labels:
    {{- include "telellm.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "telellm.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Entries of `env` for a pod that talks to what is outside the cluster; nothing without a proxy: $ */}}
{{- define "telellm.proxyEnv" -}}
{{- $proxy := .Values.global.proxy -}}
{{- if or $proxy.http $proxy.https -}}
{{- range $name, $value := include "telellm.proxyVariables" . | fromYaml }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The same as a mapping of names to values: $ */}}
{{- define "telellm.proxyVariables" -}}
{{- $proxy := .Values.global.proxy -}}
{{- if or $proxy.http $proxy.https -}}
{{- $no := printf "$(KUBERNETES_SERVICE_HOST),localhost,127.0.0.1,.svc,.%s" .Values.global.clusterDomain -}}
{{- $no = printf "%s,%s" $no (include "telellm.serviceNames" .) -}}
{{- with $proxy.noProxy }}{{ $no = printf "%s,%s" $no . }}{{ end -}}
{{- range tuple "HTTP_PROXY" "http_proxy" }}
{{ . }}: {{ $proxy.http | quote }}
{{- end }}
{{- range tuple "HTTPS_PROXY" "https_proxy" }}
{{ . }}: {{ $proxy.https | default $proxy.http | quote }}
{{- end }}
{{- range tuple "NO_PROXY" "no_proxy" }}
{{ . }}: {{ $no | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Services that are asked by their short names, which a proxy must never see: $ */}}
{{- define "telellm.serviceNames" -}}
ml-pipeline,metadata-grpc-service,metadata-envoy-service,telellm-minio,telellm-vllm,telellm-serving,mysql,.{{ .Release.Namespace }}
{{- end -}}

{{/* The private CA: a volume `ca`, its mount, and variables for Go, Python and Node; nothing without one: $ */}}
{{- define "telellm.caConfigMap" -}}
{{- $ca := .Values.global.ca -}}
{{- if $ca.pem -}}telellm-ca{{- else -}}{{ $ca.configMap }}{{- end -}}
{{- end -}}
{{- define "telellm.caVolume" -}}
{{- with include "telellm.caConfigMap" . -}}
- name: ca
  configMap:
    name: {{ . }}
{{- end -}}
{{- end -}}
{{- define "telellm.caMount" -}}
{{- if include "telellm.caConfigMap" . -}}
- name: ca
  mountPath: /etc/telellm/ca
  readOnly: true
{{- end -}}
{{- end -}}
{{- define "telellm.caEnv" -}}
{{- if include "telellm.caConfigMap" . -}}
- name: AWS_CA_BUNDLE
  value: /etc/telellm/ca/ca.crt
- name: NODE_EXTRA_CA_CERTS
  value: /etc/telellm/ca/ca.crt
- name: SSL_CERT_DIR
  value: /etc/ssl/certs:/etc/telellm/ca
{{- end -}}
{{- end -}}

{{/* The store, for every consumer the same: $. `endpoint` http(s)://HOST:PORT, `host`, `port`, `secure` true|false, */}}
{{- define "telellm.store.endpoint" -}}
{{- if .Values.store.endpoint -}}
{{- trimSuffix "/" .Values.store.endpoint -}}
{{- else if .Values.minio.enabled -}}
http://telellm-minio.{{ .Release.Namespace }}.svc.{{ .Values.global.clusterDomain }}:9000
{{- else -}}
{{- fail "store.endpoint: empty while minio.enabled is false; name the S3 server, such as https://s3.example.org" -}}
{{- end -}}
{{- end -}}
{{- define "telellm.store.host" -}}
{{- regexReplaceAll ":[0-9]+$" (urlParse (include "telellm.store.endpoint" .)).host "" -}}
{{- end -}}
{{- define "telellm.store.port" -}}
{{- $url := urlParse (include "telellm.store.endpoint" .) -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}
{{- define "telellm.store.secure" -}}
{{- ternary "true" "false" (hasPrefix "https://" (include "telellm.store.endpoint" .)) -}}
{{- end -}}
{{/* `bucket` and `uri` of the stages; */}}
{{- define "telellm.store.uri" -}}
s3://{{ .Values.store.bucket }}{{ with trimAll "/" .Values.store.prefix }}/{{ . }}{{ end }}
{{- end -}}
{{/* `secretName` of the stages and `pipelinesSecretName` of Kubeflow Pipelines (keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) */}}
{{- define "telellm.store.secretName" -}}
{{- .Values.store.existingSecret | default "telellm-store" -}}
{{- end -}}
{{- define "telellm.store.pipelinesSecretName" -}}
{{- .Values.store.pipelines.existingSecret | default "telellm-pipelines-store" -}}
{{- end -}}

{{/*
One entry of a Secret's `data` that is made once: what the cluster holds stays (look-up), else random letters and digits.
`helm template` looks nothing up and makes another one each time: give an existingSecret there.
dict "root" $ "name" SECRET "key" KEY [, "length" NUMBER, default 32] [, "prefix" TEXT]
*/}}
{{- define "telellm.secret" -}}
{{- $found := (lookup "v1" "Secret" .root.Release.Namespace .name) | default dict -}}
{{- $value := get ($found.data | default dict) .key -}}
{{- if not $value -}}
{{- $value = printf "%s%s" (.prefix | default "") (randAlphaNum (.length | default 32 | int)) | b64enc -}}
{{- end -}}
{{ .key }}: {{ $value | quote }}
{{- end -}}

{{/*
The preloaded pipelines, for the API server: mount the volume `preload`, pass the argument, and put the checksum into the
pod's annotations so that it starts again when they change: $
*/}}
{{- define "telellm.preload.argument" -}}
--sampleconfig=/etc/telellm/pipelines/sampleconfig.json
{{- end -}}
{{- define "telellm.preload.mount" -}}
- name: preload
  mountPath: /etc/telellm/pipelines
  readOnly: true
{{- end -}}
{{- define "telellm.preload.volume" -}}
- name: preload
  projected:
    sources:
      - configMap: {name: telellm-pipelines}
      {{- range $path, $_ := .Files.Glob "files/pipelines/*.yaml" }}
      - configMap: {name: telellm-pipeline-{{ base $path | trimSuffix ".yaml" }}}
      {{- end }}
{{- end -}}
{{- define "telellm.preload.checksum" -}}
checksum/pipelines: {{ include (print .Template.BasePath "/telellm/pipelines.yaml") . | sha256sum }}
{{- end -}}
