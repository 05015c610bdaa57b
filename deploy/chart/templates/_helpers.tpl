{{/* Labels of every object: that of deploy/, those by which Helm's users find what is of a release, and the user's. */}}
{{- define "resilience.labels" -}}
app.kubernetes.io/name: resilience-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "resilience.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository is not set, and no image is published: build yours as the README says, push it, and name it here" $image.repository -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $repository ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{/* The operator's account, as roles are bound to it. */}}
{{- define "resilience.subjects" -}}
- kind: ServiceAccount
  name: resilience-operator
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* Exactly what is used where it works; the lab takes each verb away and sees what breaks. */}}
{{- define "resilience.rules" -}}
- apiGroups: [resilience.dev]
  resources: [resiliences]
  verbs: [get, list, watch]
- apiGroups: [resilience.dev]
  resources: [resiliences/status]
  verbs: [patch]
# create: an apply of an object that does not exist is a creation as well.
- apiGroups: [networking.istio.io]
  resources: [sidecars, destinationrules, virtualservices]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.istio.io]
  resources: [serviceentries]
  verbs: [list, watch]
# Routes for a Service go before a VirtualService. Where the Gateway API is not installed nothing asks.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, grpcroutes]
  verbs: [list, watch]
- apiGroups: [""]
  # namespaces, which no Role can let anybody watch: whether their pods get a sidecar at all.
  resources: {{ if .Values.namespaces }}[services]{{ else }}[services, namespaces]{{ end }}
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# patch: an event that repeats becomes a series.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
