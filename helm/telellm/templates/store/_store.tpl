{{/* Variables with the store's administrator: $ */}}
{{- define "telellm.minio.rootEnv" -}}
{{- range $name, $key := dict "MINIO_ROOT_USER" "rootUser" "MINIO_ROOT_PASSWORD" "rootPassword" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.minio.existingSecret | default "telellm-minio-root" }}
      key: {{ $key }}
{{- end }}
{{- end -}}

{{/* Files of the job that sets the store up: $ */}}
{{- define "telellm.minio.setup" -}}
setup.sh: |
  {{- .Files.Get "files/minio-setup.sh" | nindent 2 }}
stages.json: {{ include "telellm.minio.policy" (dict "bucket" .Values.store.bucket "sources" .Values.minio.sourceBuckets) | fromJson | toJson | quote }}
pipelines.json: {{ include "telellm.minio.policy" (dict "bucket" .Values.store.pipelines.bucket "sources" list) | fromJson | toJson | quote }}
lifecycle.json: {{ include "telellm.minio.lifecycle" . | fromYaml | toJson | quote }}
pipelines-lifecycle.json: {{ include "telellm.minio.pipelinesLifecycle" . | fromYaml | toJson | quote }}
# no versions of what is made again or addressed by its digest
unversioned: {{ include "telellm.minio.unversioned" . | quote }}
{{- end -}}

{{- define "telellm.minio.folder" -}}
{{- with trimAll "/" .Values.store.prefix }}{{ . }}/{{ end -}}
{{- end -}}

{{- define "telellm.minio.unversioned" -}}
{{- $folders := list -}}
{{- range tuple "runs" "corpora" "tele-eval" "packed" "conversations" "checks" "base-models" -}}
{{- $folders = append $folders (printf "%s%s/" (include "telellm.minio.folder" $) .) -}}
{{- end -}}
{{- join "," $folders -}}
{{- end -}}

{{/* Rights of a user: all in its bucket, reading in others: dict "bucket" NAME "sources" NAMES */}}
{{- define "telellm.minio.policy" -}}
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Resource": ["arn:aws:s3:::{{ .bucket }}"],
   "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]},
  {"Effect": "Allow", "Resource": ["arn:aws:s3:::{{ .bucket }}/*"],
   "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]}
  {{- range .sources }},
  {"Effect": "Allow", "Resource": ["arn:aws:s3:::{{ . }}"], "Action": ["s3:GetBucketLocation", "s3:ListBucket"]},
  {"Effect": "Allow", "Resource": ["arn:aws:s3:::{{ . }}/*"], "Action": ["s3:GetObject"]}
  {{- end }}
]}
{{- end -}}

{{- define "telellm.minio.lifecycle" -}}
{{- $folder := include "telellm.minio.folder" . -}}
Rules:
{{- with .Values.minio.lifecycle.runsDays }}
  - ID: runs
    Status: Enabled
    Filter: {Prefix: {{ $folder }}runs/}
    Expiration: {Days: {{ . }}}
{{- end }}
{{- with .Values.minio.lifecycle.modelVersionsDays }}
  - ID: model-versions
    Status: Enabled
    Filter: {Prefix: {{ $folder }}models/}
    NoncurrentVersionExpiration: {NoncurrentDays: {{ . }}}
{{- end }}
{{- end -}}

{{- define "telellm.minio.pipelinesLifecycle" -}}
Rules:
{{- with .Values.minio.lifecycle.pipelinesDays }}
  - ID: artifacts
    Status: Enabled
    Filter: {Prefix: v2/artifacts/}
    Expiration: {Days: {{ . }}}
{{- end }}
{{- end -}}
