{{/* Facts that several parts of Kubeflow Pipelines must agree on. */}}

{{/* Where runs keep their artifacts, and where Argo archives the pods' logs in the same bucket: $ */}}
{{- define "telellm.pipelines.root" -}}
minio://{{ .Values.store.pipelines.bucket }}/v2/artifacts
{{- end -}}
{{- define "telellm.pipelines.logKey" -}}
{{ `v2/artifacts/pod-logs/{{workflow.name}}/{{pod.name}}` }}
{{- end -}}

{{/* The database: `host`, `port`, `secretName` (keys username, password): $ */}}
{{- define "telellm.pipelines.database.host" -}}
{{- $database := .Values.pipelines.database -}}
{{- if .Values.pipelines.mysql.enabled -}}
{{- if $database.host -}}{{- fail "pipelines.database.host: names an external database while pipelines.mysql.enabled is true; set one of the two" -}}{{- end -}}
mysql
{{- else -}}
{{- required "pipelines.database.host: empty while pipelines.mysql.enabled is false; name the MySQL server" $database.host -}}
{{- end -}}
{{- end -}}
{{- define "telellm.pipelines.database.port" -}}
{{- ternary 3306 (int .Values.pipelines.database.port) .Values.pipelines.mysql.enabled -}}
{{- end -}}
{{- define "telellm.pipelines.database.secretName" -}}
{{- if .Values.pipelines.mysql.enabled -}}
{{- .Values.pipelines.mysql.existingSecret | default "telellm-mysql" -}}
{{- else -}}
{{- required "pipelines.database.existingSecret: empty while pipelines.mysql.enabled is false; name a Secret with username and password" .Values.pipelines.database.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Entries of `env` from keys of a Secret: dict "secret" NAME "keys" (dict VARIABLE KEY …) */}}
{{- define "telellm.pipelines.secretEnv" -}}
{{- $secret := .secret -}}
{{- range $name, $key := .keys }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $key }}
{{- end }}
{{- end -}}

{{/*
An init container that waits until a server listens: without it a pod that comes too early fails, and its restarts
come ever more slowly. dict "root" $ "host" HOST "port" PORT
*/}}
{{- define "telellm.pipelines.wait" -}}
- name: wait
  image: {{ include "telellm.image" (dict "root" .root "name" "launcher") }}
  imagePullPolicy: {{ .root.Values.global.imagePullPolicy }}
  command:
    - python
    - -c
    - |
      import socket, sys, time
      print("waiting for", *sys.argv[1:], flush=True)
      while True:
          try:
              socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
              break
          except OSError:
              time.sleep(2)
    - {{ .host | quote }}
    - {{ .port | quote }}
  resources:
    requests:
      cpu: 10m
      memory: 32Mi
    limits:
      memory: 64Mi
  securityContext:
    {{- include "telellm.containerSecurity" (dict "root" .root) | nindent 4 }}
{{- end -}}

{{/* Role and account of a component, bound to each other: dict "root" $ "component" LABEL "name" NAME "rules" TEXT */}}
{{- define "telellm.pipelines.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  labels:
    {{- include "telellm.labels" . | nindent 4 }}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  labels:
    {{- include "telellm.labels" . | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "telellm.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/* The token with which a component shows itself to the API server: dict "file" NAME */}}
{{- define "telellm.pipelines.tokenVolume" -}}
- name: token
  projected:
    sources:
      - serviceAccountToken:
          path: {{ .file }}
          audience: pipelines.kubeflow.org
          expirationSeconds: 3600
{{- end -}}
{{- define "telellm.pipelines.tokenMount" -}}
- name: token
  mountPath: /var/run/secrets/kubeflow/tokens
  readOnly: true
{{- end -}}

{{/*
What every pod of a run gets, whatever image its step has: the level "restricted" for the pod as a whole, and the
private CA for Kubeflow's driver and launcher and for Argo's executor, which talk to the store. Argo's podSpecPatch: $
*/}}
{{- define "telellm.pipelines.podSpecPatch" -}}
{{- $runs := .Values.pipelines.runs -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $runs.user | int64 }}
  runAsGroup: {{ $runs.group | int64 }}
  fsGroup: {{ $runs.group | int64 }}
  seccompProfile:
    type: RuntimeDefault
{{- with include "telellm.caConfigMap" . }}
volumes:
  - name: telellm-run-ca
    configMap:
      name: {{ . }}
containers:
  {{- range tuple "main" "wait" }}
  - name: {{ . }}
    env:
      - name: SSL_CERT_DIR
        value: /etc/ssl/certs:/etc/telellm/run-ca
    volumeMounts:
      - name: telellm-run-ca
        mountPath: /etc/telellm/run-ca
        readOnly: true
  {{- end }}
{{- end }}
{{- end -}}
