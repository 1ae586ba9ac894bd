{{/* The labels of an object of a component: dict "root" $ "name" NAME. */}}
{{- define "lanyard.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lanyard
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The metadata of an object: dict "root" $ "name" NAME "as" COMPONENT, with "namespaced" false for one of no namespace,
and "annotations" of its own. */}}
{{- define "lanyard.metadata" -}}
{{- if ne .namespaced false -}}
namespace: {{ .root.Release.Namespace }}
{{ end -}}
name: {{ .name }}
labels:
  {{- include "lanyard.labels" (dict "root" .root "name" (.as | default .name)) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The metadata of a pod: dict "root" $ "name" COMPONENT "values" of the component, with "labels" and "annotations" of its own. */}}
{{- define "lanyard.podMetadata" -}}
labels:
  app.kubernetes.io/name: {{ .name }}
  {{- with merge (dict) (.labels | default dict) .values.podLabels .root.Values.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .values.podAnnotations .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What the pods of all components have: dict "root" $ "name" SERVICE_ACCOUNT "values" of the component. */}}
{{- define "lanyard.podCommon" -}}
serviceAccountName: {{ .name }}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Spread the pods of a component over nodes and zones. */}}
{{- define "lanyard.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        app.kubernetes.io/name: {{ $ }}
  {{- end }}
{{- end }}

{{/* The image of a program, and whence it comes: dict "root" $ "name" PROGRAM. */}}
{{- define "lanyard.image" -}}
image: {{ printf "%s/%s:%s" .root.Values.image.registry .name (.root.Values.image.tag | default .root.Chart.AppVersion) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* What pods without rights run as: Pod Security's "restricted" asks for no less. */}}
{{- define "lanyard.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "lanyard.containerSecurity" -}}
securityContext:
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* The partition of the region: the same rule as the programs'. */}}
{{- define "lanyard.partition" -}}
{{- $area := regexReplaceAll "-[a-z]+-[0-9]+$" .Values.region "" -}}
{{- get (dict "cn" "aws-cn" "us-gov" "aws-us-gov" "us-iso" "aws-iso" "us-isob" "aws-iso-b" "eu-isoe" "aws-iso-e" "us-isof" "aws-iso-f" "eusc-de" "aws-eusc") $area | default "aws" -}}
{{- end }}

{{/* The ARN of the role of a service account of this release, by the rule of `lanyard irsa create`: dict "root" $ "account" SERVICE_ACCOUNT. */}}
{{- define "lanyard.roleARN" -}}
{{- $role := printf "%s-%s-%s" .root.Values.clusterName .root.Release.Namespace .account -}}
{{- printf "arn:%s:iam::%s:role/%s" (include "lanyard.partition" .root) .root.Values.account $role -}}
{{- end }}

{{- define "lanyard.server.host" -}}
lanyard-server.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Where Lanyard is; empty for AWS. */}}
{{- define "lanyard.endpoint" -}}
{{- if .Values.endpoint -}}
{{- .Values.endpoint -}}
{{- else if eq .Values.issuer "lanyard" -}}
https://{{ include "lanyard.server.host" . }}
{{- end -}}
{{- end }}

{{/* The ConfigMap with the certificates of the endpoint's authority; empty where the public roots vouch for it. */}}
{{- define "lanyard.ca.configMap" -}}
{{- if .Values.ca.configMap -}}
{{- .Values.ca.configMap -}}
{{- else if or .Values.ca.pem (include "lanyard.server.authority" .) -}}
lanyard-server-ca
{{- end -}}
{{- end }}

{{/* "true" if this release makes the server's authority. */}}
{{- define "lanyard.server.authority" -}}
{{- with .Values.server -}}
{{- if and .enabled (not .existingSecret) (not .tls.existingSecret) -}}true{{- end -}}
{{- end -}}
{{- end }}

{{/* What a client of Lanyard, or of AWS, is told in its environment: dict "root" $ "values" of the component. */}}
{{- define "lanyard.client.env" -}}
- name: AWS_REGION
  value: {{ .root.Values.region }}
{{- with include "lanyard.endpoint" .root }}
{{- /* The SDK for Go takes no endpoint but STS's own for web identities. */}}
- name: AWS_ENDPOINT_URL
  value: {{ . }}
- name: AWS_ENDPOINT_URL_STS
  value: {{ . }}
{{- end }}
{{- if include "lanyard.ca.configMap" .root }}
- name: AWS_CA_BUNDLE
  value: /etc/lanyard/ca/ca.pem
{{- end }}
- name: GOMEMLIMIT
  value: {{ .values.goMemoryLimit }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The mounts and volumes of such a client: its token for STS, and the endpoint's authority. */}}
{{- define "lanyard.client.mounts" -}}
- name: identity
  mountPath: /var/run/secrets/lanyard.id/serviceaccount
  readOnly: true
{{- if include "lanyard.ca.configMap" . }}
- name: ca
  mountPath: /etc/lanyard/ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "lanyard.client.volumes" -}}
- name: identity
  projected:
    defaultMode: 0400
    sources:
      - serviceAccountToken:
          audience: sts.amazonaws.com
          expirationSeconds: 3600
          path: token
{{- with include "lanyard.ca.configMap" . }}
- name: ca
  configMap:
    name: {{ . }}
    items:
      - key: {{ if $.Values.ca.configMap }}{{ $.Values.ca.key }}{{ else }}ca.pem{{ end }}
        path: ca.pem
{{- end }}
{{- end }}

{{/* "true" if the webhook pushes keys: AWS takes none. */}}
{{- define "lanyard.webhook.pushKeys" -}}
{{- if and .Values.webhook.pushKeys (include "lanyard.endpoint" .) -}}true{{- end -}}
{{- end }}

{{/* A role and its binding to a service account of the same name: dict "root" $ "name" SERVICE_ACCOUNT "as" COMPONENT "kind" Role or ClusterRole,
"rules" YAML, "annotations". */}}
{{- define "lanyard.role" -}}
{{- $meta := dict "root" .root "name" .name "as" (.as | default .name) "namespaced" (eq .kind "Role") "annotations" .annotations -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  {{- include "lanyard.metadata" $meta | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  {{- include "lanyard.metadata" $meta | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    namespace: {{ .root.Release.Namespace }}
    name: {{ .name }}
{{- end }}
