{{/* Pull secrets of an account whose pods others make: $ */}}
{{- define "telellm.accountPullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A job template of k8s/, with what the values say about pods: dict "root" $ "text" YAML */}}
{{- define "telellm.jobTemplate" -}}
{{- $values := .root.Values -}}
{{- $own := $values.telellm.templates -}}
{{- $job := fromYaml .text -}}
{{- if $job.Error -}}{{- fail (printf "job template: %s" $job.Error) -}}{{- end -}}
{{- $spec := dict -}}
{{- if eq $job.kind "PyTorchJob" -}}
{{- $spec = $job.spec.pytorchReplicaSpecs.Master.template.spec -}}
{{- else -}}
{{- $spec = $job.spec.template.spec -}}
{{- end -}}
{{- with $values.global.imagePullSecrets -}}
{{- $secrets := list -}}
{{- range . }}{{- $secrets = append $secrets (dict "name" .) -}}{{- end -}}
{{- $_ := set $spec "imagePullSecrets" $secrets -}}
{{- end -}}
{{- with $own.nodeSelector }}{{- $_ := set $spec "nodeSelector" . -}}{{- end -}}
{{- with concat ($spec.tolerations | default list) $own.tolerations }}{{- $_ := set $spec "tolerations" . -}}{{- end -}}
{{- with include "telellm.priority" (dict "root" .root "kind" "jobs") }}{{- $_ := set $spec "priorityClassName" . -}}{{- end -}}
{{- $env := concat (include "telellm.proxyEnv" .root | fromYamlArray) $own.env -}}
{{- range $container := $spec.containers -}}
{{- $_ := set $container "imagePullPolicy" $values.global.imagePullPolicy -}}
{{- $_ := set $container "env" (concat ($container.env | default list) $env) -}}
{{- $_ := set $container "envFrom" (list (dict "secretRef" (dict "name" (include "telellm.store.secretName" $.root)))) -}}
{{- end -}}
{{- range $volume := $spec.volumes -}}
{{- if eq $volume.name "ca" -}}
{{- $_ := set $volume "configMap" (dict "name" (include "telellm.caConfigMap" $.root | default "telellm-ca") "optional" true) -}}
{{- end -}}
{{- end -}}
{{- toYaml $job | replace "telellm-lm" (include "telellm.lm.secretName" .root) -}}
{{- end -}}

{{/* The Secret with the key of the language model's server: $ */}}
{{- define "telellm.lm.secretName" -}}
{{- .Values.vllm.existingSecret | default "telellm-lm" -}}
{{- end -}}

{{/* A recipe of the values, with images and queue of this chart: dict "root" $ "name" NAME */}}
{{- define "telellm.recipe" -}}
{{- $recipe := deepCopy (get .root.Values.telellm.recipes .name) -}}
{{- if not $recipe.name }}{{- $_ := set $recipe "name" .name -}}{{- end -}}
{{- $cluster := dict "registry" (include "telellm.registry" .root) "tag" (.root.Values.images.launcher.tag | default .root.Chart.AppVersion) -}}
{{- if .root.Values.kueue.enabled }}{{- $_ := set $cluster "queue" .root.Values.kueue.localQueue -}}{{- end -}}
{{- $_ := set $recipe "cluster" (mergeOverwrite $cluster ($recipe.cluster | default dict)) -}}
{{- toYaml $recipe -}}
{{- end -}}

{{/* Registry of the stages' images, as a recipe names it: $ */}}
{{- define "telellm.registry" -}}
{{- $image := include "telellm.image" (dict "root" . "name" "launcher") -}}
{{- if not (contains "/telellm/launcher:" $image) -}}
{{- fail (printf "images.launcher.repository: %s does not end in /telellm/launcher; jobs find the images of stages beside it: set global.imageRegistry" $image) -}}
{{- end -}}
{{- regexReplaceAll "/telellm/launcher:.*$" $image "" -}}
{{- end -}}

{{/* Name of the recipe that the UI's form starts with; nothing without recipes: $ */}}
{{- define "telellm.defaultRecipe" -}}
{{- $names := keys .Values.telellm.recipes | sortAlpha -}}
{{- $name := .Values.telellm.defaultRecipe -}}
{{- if and $names (not $name) }}{{- $name = first $names -}}{{- end -}}
{{- if and $name (not (has $name $names)) -}}
{{- fail (printf "telellm.defaultRecipe: %s is not one of telellm.recipes: %s" $name (join ", " $names)) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* A compiled pipeline with this chart's images, store and default recipe: dict "root" $ "text" YAML */}}
{{- define "telellm.pipeline" -}}
{{- $root := .root -}}
{{- $text := .text -}}
{{- $secret := include "telellm.store.secretName" $root -}}
{{- $ca := include "telellm.caConfigMap" $root | default "telellm-ca" -}}
{{- $recipe := include "telellm.defaultRecipe" $root -}}
{{- $documents := list -}}
{{- range $document := splitList "\n---\n" $text -}}
{{- $content := fromYaml $document -}}
{{- if $content.Error -}}{{- fail (printf "files/pipelines: %s" $content.Error) -}}{{- end -}}
{{- with $content.root -}}
{{- range $name, $parameter := .inputDefinitions.parameters -}}
{{- if eq $name "store" -}}
{{- $_ := set $parameter "defaultValue" (include "telellm.store.uri" $root) -}}{{- $_ := set $parameter "isOptional" true -}}
{{- else if and $recipe (eq $name "recipe") -}}
{{- $_ := set $parameter "defaultValue" (include "telellm.recipe" (dict "root" $root "name" $recipe)) -}}{{- $_ := set $parameter "isOptional" true -}}
{{- end -}}
{{- end -}}
{{- range $executor := $content.deploymentSpec.executors -}}
{{- with $executor.container -}}
{{- $name := regexReplaceAll "^.*/telellm/([a-z-]+)[:@].*$" .image "${1}" -}}
{{- $_ := set . "image" (include "telellm.image" (dict "root" $root "name" $name)) -}}
{{- with include "telellm.proxyEnv" $root | fromYamlArray -}}
{{- $_ := set $executor.container "env" (concat ($executor.container.env | default list) .) -}}
{{- end -}}
{{- $steps := get $root.Values.telellm.steps $name | default dict -}}
{{- $resources := .resources | default dict -}}
{{- with $steps.cpu }}{{- $_ := unset $resources "cpuRequest" -}}{{- $_ := set $resources "resourceCpuRequest" (toString .) -}}{{- end -}}
{{- with $steps.memory -}}
{{- $_ := unset $resources "memoryRequest" -}}{{- $_ := unset $resources "memoryLimit" -}}
{{- $_ := set $resources "resourceMemoryRequest" . -}}{{- $_ := set $resources "resourceMemoryLimit" . -}}
{{- end -}}
{{- if hasKey $steps "gpus" -}}
{{- $_ := unset $resources "accelerator" -}}
{{- with $steps.gpus | int -}}
{{- $_ := set $resources "accelerator" (dict "type" "nvidia.com/gpu" "resourceType" "nvidia.com/gpu" "count" (toString .) "resourceCount" (toString .)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set . "resources" $resources -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $documents = append $documents (toYaml $content | replace "telellm-store" $secret | replace "telellm-ca" $ca | replace "telellm-lm" (include "telellm.lm.secretName" $root)) -}}
{{- end -}}
{{- join "\n---\n" $documents -}}
{{- end -}}

{{/* The name of a preloaded pipeline's version: the chart's, and a digest of the pipeline: dict "root" $ "text" RENDERED */}}
{{- define "telellm.pipelineVersion" -}}
{{- printf "%s-%s" .root.Chart.Version (.text | sha256sum | trunc 8) | replace "+" "-" -}}
{{- end -}}

{{/* What recurring run there should be, as JSON; null: none: $ */}}
{{- define "telellm.nightly" -}}
{{- $nightly := .Values.telellm.nightly -}}
{{- if $nightly.enabled -}}
{{- $recipe := $nightly.recipe | default (include "telellm.defaultRecipe" .) -}}
{{- if not (hasKey .Values.telellm.recipes $recipe) -}}
{{- fail (printf "telellm.nightly.recipe: %q is not one of telellm.recipes: %s" $recipe (keys .Values.telellm.recipes | sortAlpha | join ", " | default "none")) -}}
{{- end -}}
{{- $text := .Files.Get "files/pipelines/nightly.yaml" -}}
{{- if not $text }}{{- fail "telellm.nightly.enabled: the chart holds no compiled pipelines; make it with `make chart`" -}}{{- end -}}
{{- $version := include "telellm.pipelineVersion" (dict "root" . "text" (include "telellm.pipeline" (dict "root" . "text" $text))) -}}
{{- $parameters := dict "recipe" (include "telellm.recipe" (dict "root" . "name" $recipe)) "store" (include "telellm.store.uri" .) -}}
{{- dict "name" "nightly" "pipeline" "nightly" "version" $version "schedule" $nightly.schedule "timeZone" $nightly.timeZone "serviceAccount" $nightly.serviceAccount "parameters" $parameters | toJson -}}
{{- else -}}
null
{{- end -}}
{{- end -}}

{{/* Address of Kubeflow Pipelines' API; nothing where there is none: $ */}}
{{- define "telellm.pipelinesApi" -}}
{{- if .Values.telellm.nightly.api -}}
{{- .Values.telellm.nightly.api -}}
{{- else if .Values.pipelines.enabled -}}
http://ml-pipeline.{{ .Release.Namespace }}.svc.{{ .Values.global.clusterDomain }}:8888
{{- end -}}
{{- end -}}

{{/* spec of the job that sets the recurring run: dict "root" $ "api" ADDRESS "file" wanted.json, or empty: none */}}
{{- define "telellm.nightlyJob" -}}
{{- $part := dict "root" .root "component" "nightly" -}}
backoffLimit: 5
activeDeadlineSeconds: 3600
template:
  metadata:
    labels:
      {{- include "telellm.podLabels" $part | nindent 6 }}
  spec:
    {{- include "telellm.scheduling" $part | nindent 4 }}
    serviceAccountName: telellm-stage
    automountServiceAccountToken: false
    terminationGracePeriodSeconds: 5
    restartPolicy: OnFailure
    securityContext:
      {{- include "telellm.podSecurity" $part | nindent 6 }}
    containers:
      - name: nightly
        image: {{ include "telellm.image" (dict "root" .root "name" "launcher") }}
        imagePullPolicy: {{ .root.Values.global.imagePullPolicy }}
        command: [python, /etc/telellm/nightly/nightly.py, {{ with .file }}/etc/telellm/nightly/{{ . }}{{ else }}--remove{{ end }}]
        env:
          - name: KFP_API
            value: {{ .api }}
          - name: OWNER
            value: {{ .root.Release.Name }} in {{ .root.Release.Namespace }}
          {{- if not .file }}
          - name: PATIENCE_SECONDS
            value: "60"
          {{- end }}
        resources:
          {{- toYaml .root.Values.telellm.nightly.resources | nindent 10 }}
        securityContext:
          {{- include "telellm.containerSecurity" $part | nindent 10 }}
        volumeMounts:
          - name: nightly
            mountPath: /etc/telellm/nightly
            readOnly: true
    volumes:
      - name: nightly
        configMap:
          name: telellm-nightly
{{- end -}}

{{/* What the containers of `helm test` share: dict "root" $ [, "key" SECRET of the server that is asked] */}}
{{- define "telellm.testContainer" -}}
image: {{ include "telellm.image" (dict "root" .root "name" "launcher") }}
imagePullPolicy: {{ .root.Values.global.imagePullPolicy }}
env:
  - name: TELELLM_STORE_PATIENCE
    value: "120"
  {{- with .key }}
  - name: OPENAI_API_KEY
    valueFrom:
      secretKeyRef:
        name: {{ . }}
        key: api-key
  {{- end }}
  {{- with include "telellm.caEnv" .root }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "telellm.proxyEnv" .root }}
  {{- . | nindent 2 }}
  {{- end }}
envFrom:
  - secretRef:
      name: {{ include "telellm.store.secretName" .root }}
resources:
  {{- toYaml .root.Values.telellm.test.resources | nindent 2 }}
securityContext:
  {{- include "telellm.containerSecurity" .root | nindent 2 }}
volumeMounts:
  - name: cache
    mountPath: /cache
  - name: tmp
    mountPath: /tmp
  - name: templates
    mountPath: /etc/telellm/job-templates
    readOnly: true
  - name: recipes
    mountPath: /etc/telellm/recipes
    readOnly: true
  {{- with include "telellm.caMount" .root }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* … and their volumes: $ */}}
{{- define "telellm.testVolumes" -}}
- name: cache
  emptyDir: {}
- name: tmp
  emptyDir: {}
- name: templates
  configMap:
    name: telellm-job-templates
- name: recipes
  configMap:
    name: telellm-recipes
{{- with include "telellm.caVolume" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The Service through which people reach the UI: $ */}}
{{- define "telellm.uiService" -}}
{{- ternary "telellm-auth-proxy" "ml-pipeline-ui" .Values.authProxy.enabled -}}
{{- end -}}
