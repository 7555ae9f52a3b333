{{/*
Who talks to whom, besides Kubeflow Pipelines within itself (templates/pipelines). `steps` are the pods of Kubeflow's
runs, `jobs` those that the launcher starts; all other names are components. Ports are those of the containers. $
*/}}
{{- define "telellm.flows" -}}
{{- $v := .Values -}}
{{- if $v.minio.enabled }}
- {from: [minio-setup, steps, jobs, test, exporter, ml-pipeline, ml-pipeline-ui], to: minio, ports: [9000]}
{{- end }}
{{- if and $v.minio.enabled $v.serving.enabled }}
- {from: [serving, serving-follow], to: minio, ports: [9000]}
{{- end }}
{{- if $v.serving.enabled }}
- {from: [test], to: serving, ports: [8000]}
{{- end }}
{{- if $v.pipelines.enabled }}
- {from: [nightly, test, exporter], to: ml-pipeline, ports: [8888]}
- {from: [auth-proxy], to: ml-pipeline-ui, ports: [3000]}
{{- end }}
{{- if $v.vllm.enabled }}
- {from: [steps, jobs], to: vllm, ports: [8000]}
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
{{- if $v.serving.enabled }}{{- $all = concat $all (list "serving" "serving-follow") -}}{{- end -}}
{{- if $v.authProxy.enabled }}{{- $all = append $all "auth-proxy" -}}{{- end -}}
{{- if $v.monitoring.exporter.enabled }}{{- $all = append $all "exporter" -}}{{- end -}}
{{- join " " $all -}}
{{- end -}}

{{/* Who asks the Kubernetes API server, and who shows figures (port): */}}
{{- define "telellm.network.askers" -}}
test training-operator serving-follow
{{- end -}}
{{- define "telellm.network.figures" -}}
{minio: 9000, training-operator: 8080, vllm: 8000, serving: 8000, exporter: 9101}
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

{{/*
Rules of egress to what is not of this chart, for a component: a list. Crawled pages, hubs, webhooks: externalPorts of
externalCidrs. What the values name by its address may also be a Service of another namespace. dict "root" $ "name" NAME
*/}}
{{- define "telellm.network.elsewhere" -}}
{{- $v := .root.Values -}}
{{- $name := .name -}}
{{- $named := list -}}
{{- if and (not $v.minio.enabled) (has $name (list "steps" "jobs" "test" "exporter" "ml-pipeline" "ml-pipeline-ui" "serving" "serving-follow")) -}}
{{- $named = append $named (include "telellm.store.port" .root | int) -}}
{{- end -}}
{{- if and (not $v.pipelines.mysql.enabled) (has $name (list "ml-pipeline" "metadata-grpc")) -}}
{{- $named = append $named (int $v.pipelines.database.port) -}}
{{- end -}}
{{- if and $v.telellm.nightly.api (has $name (list "nightly" "exporter")) -}}
{{- $named = append $named (include "telellm.network.port" $v.telellm.nightly.api | int) -}}
{{- end -}}
{{- if and $v.authProxy.issuer (eq $name "auth-proxy") -}}
{{- $named = append $named (include "telellm.network.port" $v.authProxy.issuer | int) -}}
{{- end -}}
{{- $goesOut := or (has $name (list "steps" "jobs")) (and (eq $name "vllm") (not $v.vllm.offline)) -}}
{{- if or $goesOut (eq $name "auth-proxy") -}}
{{- range compact (list $v.global.proxy.http $v.global.proxy.https) -}}
{{- $named = append $named (include "telellm.network.port" . | int) -}}
{{- end -}}
{{- end -}}
{{- if and $goesOut $v.networkPolicies.externalCidrs }}
- to:
    {{- include "telellm.network.outside" .root | nindent 4 }}
  {{- include "telellm.network.ports" $v.networkPolicies.externalPorts | nindent 2 }}
{{- end }}
{{- if and (eq $name "auth-proxy") (not $v.authProxy.issuer) $v.networkPolicies.externalCidrs }}
# a provider that has its addresses in itself, such as github
- to:
    {{- include "telellm.network.outside" .root | nindent 4 }}
  {{- include "telellm.network.ports" (list 443) | nindent 2 }}
{{- end }}
{{- with uniq $named }}
- to:
    - namespaceSelector: {}
    {{- include "telellm.network.outside" $.root | nindent 4 }}
  {{- include "telellm.network.ports" . | nindent 2 }}
{{- end }}
{{- if has $name (list "steps" "jobs") }}
{{- with $v.networkPolicies.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Who may reach the UI, or the proxy before it: peers. `kubectl port-forward` comes from the pod's own node: $ */}}
{{- define "telellm.network.uiFrom" -}}
{{- $peers := .Values.networkPolicies.uiFrom | default list -}}
{{- with .Values.ingress -}}
{{- if and .enabled .controllerNamespace -}}
{{- $labels := dict "kubernetes.io/metadata.name" .controllerNamespace -}}
{{- $peers = append $peers (dict "namespaceSelector" (dict "matchLabels" $labels)) -}}
{{- else if .enabled -}}
{{- $others := false -}}
{{- range $peers }}{{- if or .namespaceSelector .ipBlock (hasKey . "namespaceSelector") }}{{- $others = true }}{{ end }}{{ end -}}
{{- if not $others -}}
{{- fail "ingress.controllerNamespace: empty, and networkPolicies.uiFrom names nobody outside of this namespace: the ingress would reach nothing; name its controller's namespace, such as ingress-nginx" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $peers -}}
{{- end -}}

{{/* Networks outside of the cluster, as peers: $ */}}
{{- define "telellm.network.outside" -}}
{{- range .Values.networkPolicies.externalCidrs }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- end -}}

{{/* Port of an address: http(s)://HOST[:PORT]… */}}
{{- define "telellm.network.port" -}}
{{- $url := urlParse . -}}
{{- trimPrefix ":" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}
