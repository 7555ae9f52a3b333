{{/* What each component may do in the namespace, and nowhere else: the rules of its Role. */}}

{{- define "telellm.pipelines.apiServerRules" -}}
# a run is a Workflow, a recurring run a ScheduledWorkflow
- apiGroups: [argoproj.io]
  resources: [workflows]
  verbs: [create, get, list, watch, update, patch, delete]
- apiGroups: [kubeflow.org]
  resources: [scheduledworkflows]
  verbs: [create, get, list, update, patch, delete]
# logs of a step; a step that is tried again loses its pod
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [kfp-launcher]
  verbs: [get]
{{- end -}}

{{- define "telellm.pipelines.persistenceAgentRules" -}}
- apiGroups: [argoproj.io]
  resources: [workflows]
  verbs: [get, list, watch]
- apiGroups: [kubeflow.org]
  resources: [scheduledworkflows]
  verbs: [get, list, watch]
# not of Kubernetes: what the API server asks whether the agent may, where it has users
- apiGroups: [pipelines.kubeflow.org]
  resources: [scheduledworkflows, workflows]
  verbs: [report]
- apiGroups: [pipelines.kubeflow.org]
  resources: [runs]
  verbs: [reportMetrics, readArtifact]
{{- end -}}

{{- define "telellm.pipelines.scheduledWorkflowRules" -}}
- apiGroups: [kubeflow.org]
  resources: [scheduledworkflows]
  verbs: [get, list, watch, update, patch]
- apiGroups: [kubeflow.org]
  resources: [scheduledworkflows/finalizers]
  verbs: [update]
# the runs of a schedule: it counts those that still run
- apiGroups: [argoproj.io]
  resources: [workflows]
  verbs: [create, get, list, watch, update, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# not of Kubernetes: what the API server asks whether the controller may, where it has users
- apiGroups: [pipelines.kubeflow.org]
  resources: [runs]
  verbs: [create]
- apiGroups: [pipelines.kubeflow.org]
  resources: [pipelines]
  verbs: [get]
{{- end -}}

{{- define "telellm.pipelines.uiRules" -}}
# a step's log, its pod, and why it waits
- apiGroups: [""]
  resources: [pods, pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [argoproj.io]
  resources: [workflows]
  verbs: [get, list]
# an artifact says which Secret opens its bucket
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "telellm.store.pipelinesSecretName" . }}]
  verbs: [get]
# where a version of Kubeflow that writes no store beside its artifacts looks for it
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [kfp-launcher]
  verbs: [get]
{{- end -}}

{{- define "telellm.pipelines.workflowControllerRules" -}}
- apiGroups: [argoproj.io]
  resources: [workflows, workflows/finalizers, workflowtasksets, workflowtasksets/finalizers, workflowartifactgctasks]
  verbs: [create, get, list, watch, update, patch, delete]
- apiGroups: [argoproj.io]
  resources: [workflowtasksets/status, workflowartifactgctasks/status]
  verbs: [update, patch]
# it reads these, although nobody makes them here
- apiGroups: [argoproj.io]
  resources: [workflowtemplates, workflowtemplates/finalizers, cronworkflows, cronworkflows/finalizers]
  verbs: [get, list, watch]
- apiGroups: [argoproj.io]
  resources: [workflowtaskresults]
  verbs: [list, watch, deletecollection]
- apiGroups: [""]
  resources: [pods]
  verbs: [create, get, list, watch, update, patch, delete]
# tells a pod of a cancelled run to end
- apiGroups: [""]
  resources: [pods/exec]
  verbs: [create, get]
# its configuration; and what is too long for a pod's variables goes into a ConfigMap
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, get, list, watch]
- apiGroups: [""]
  resources: [serviceaccounts]
  resourceNames: [pipeline-runner]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# which of several controllers works; the Lease is the chart's, and goes with it
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [workflow-controller]
  verbs: [get, update]
{{- end -}}
