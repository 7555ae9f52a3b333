{{/* A component as a NetworkPolicyPeer: dict "root" $ "component" NAME */}}
{{- define "telellm.pipelines.peer" -}}
podSelector:
  matchLabels:
    {{- include "telellm.selector" . | nindent 4 }}
{{- end -}}

{{/*
What may reach a component, and what it may reach; with names answered, if it asks anybody at all.
dict "root" $ "component" NAME
  "ingress" LIST   rules, as in a NetworkPolicy; none: nobody reaches it
  "to" LIST        components and their ports: dict "component" NAME "port" NUMBER
  "api" true       it asks the Kubernetes API
  "store" true     it asks the store
  "steps" true     it is the pods of runs
  "silent" true    it asks nobody
  "selector" LABELS  in place of the component's own
*/}}
{{- define "telellm.pipelines.policy" -}}
{{- $network := .root.Values.networkPolicies -}}
{{- $root := .root -}}
{{- /* an empty list of peers would be everybody */ -}}
{{- $ingress := list -}}
{{- range .ingress }}{{- if .from }}{{- $ingress = append $ingress . -}}{{- end -}}{{- end -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ ternary "" "telellm-" (hasPrefix "telellm-" .component) }}{{ .component }}
  labels:
    {{- include "telellm.labels" . | nindent 4 }}
spec:
  podSelector:
    {{- if .selector }}
    {{- toYaml .selector | nindent 4 }}
    {{- else }}
    matchLabels:
      {{- include "telellm.selector" . | nindent 6 }}
    {{- end }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- toYaml $ingress | nindent 4 }}
  {{- if .silent }}
  egress: []
  {{- else }}
  egress:
    - to:
        - {{- toYaml $network.dns | nindent 10 }}
      ports:
        - {port: 53, protocol: UDP}
        - {port: 53, protocol: TCP}
    {{- range .to }}
    - to:
        - {{- include "telellm.pipelines.peer" (dict "root" $root "component" .component) | nindent 10 }}
      ports:
        - port: {{ .port }}
    {{- end }}
    {{- if .api }}
    - to:
        - ipBlock:
            cidr: {{ $network.apiServerCidr }}
      ports:
        {{- range $network.apiServerPorts }}
        - port: {{ . }}
        {{- end }}
    {{- end }}
    {{- if and .store $root.Values.minio.enabled }}
    - to:
        - {{- include "telellm.pipelines.peer" (dict "root" $root "component" "minio") | nindent 10 }}
      ports:
        - port: 9000
    {{- end }}
    {{- with include "telellm.network.elsewhere" (dict "root" $root "name" (ternary "steps" .component (eq .steps true))) | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end -}}
