{{/*
Who talks to whom, besides Kubeflow Pipelines within itself (templates/pipelines). `steps` are the pods of Kubeflow's
runs, `jobs` those that the launcher starts; all other names are components. Ports are those of the containers. $
*/}}
{{- define "telellm.flows" -}}
{{- $v := .Values -}}
{{- if $v.minio.enabled }}
- {from: [minio-setup, steps, jobs, test, exporter, ml-pipeline, ml-pipeline-ui], to: minio, ports: [9000]}
{{- end }}
{{- if $v.pipelines.enabled }}
- {from: [nightly, test, exporter], to: ml-pipeline, ports: [8888]}
- {from: [auth-proxy], to: ml-pipeline-ui, ports: [3000]}
{{- end }}
{{- if $v.vllm.enabled }}
- {from: [steps, jobs, test], to: vllm, ports: [8000]}
{{- end }}
# the processes of one training
- {from: [jobs], to: jobs, ports: []}
{{- end -}}

{{/* Components with policies here: $ */}}
{{- define "telellm.network.components" -}}
{{- $v := .Values -}}
{{- $all := list "steps" "jobs" "test" -}}
{{- if $v.minio.enabled }}{{- $all = concat $all (list "minio" "minio-setup") -}}{{- end -}}
{{- if $v.trainingOperator.enabled }}{{- $all = append $all "training-operator" -}}{{- end -}}
{{- if include "telellm.pipelinesApi" . }}{{- $all = append $all "nightly" -}}{{- end -}}
{{- if $v.vllm.enabled }}{{- $all = append $all "vllm" -}}{{- end -}}
{{- if $v.authProxy.enabled }}{{- $all = append $all "auth-proxy" -}}{{- end -}}
{{- if $v.monitoring.exporter.enabled }}{{- $all = append $all "exporter" -}}{{- end -}}
{{- join " " $all -}}
{{- end -}}

{{/* Who asks the Kubernetes API server, who reaches what lies outside, who shows figures (port): */}}
{{- define "telellm.network.askers" -}}
test training-operator
{{- end -}}
{{- define "telellm.network.outside" -}}
steps jobs test nightly vllm auth-proxy exporter
{{- end -}}
{{- define "telellm.network.figures" -}}
{minio: 9000, training-operator: 8080, vllm: 8000, exporter: 9101}
{{- end -}}

{{/* Label selector of a component: dict "root" $ "name" NAME */}}
{{- define "telellm.network.selector" -}}
{{- if eq .name "steps" -}}
matchExpressions:
  - key: workflows.argoproj.io/workflow
    operator: Exists
{{- else if eq .name "jobs" -}}
matchLabels:
  app.kubernetes.io/name: telellm
  app.kubernetes.io/managed-by: telellm
{{- else -}}
matchLabels:
  {{- include "telellm.selector" (dict "root" .root "component" .name) | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Ports of a rule; nothing for all of them: a list */}}
{{- define "telellm.network.ports" -}}
{{- with . -}}
ports:
  {{- range . }}
  - port: {{ int . }}
    protocol: TCP
  {{- end }}
{{- end }}
{{- end -}}
