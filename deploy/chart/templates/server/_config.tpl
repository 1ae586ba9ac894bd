{{/* The names and addresses that the server's certificates are for. */}}
{{- define "lanyard.server.hosts" -}}
{{- $host := include "lanyard.server.host" . -}}
lanyard-server
lanyard-server.{{ .Release.Namespace }}
{{ $host }}
{{ $host }}.{{ .Values.clusterDomain }}
*.{{ $host }}
*.{{ $host }}.{{ .Values.clusterDomain }}
localhost
127.0.0.1
::1
{{- with .Values.endpoint }}
{{ (urlParse .).hostname }}
{{- end }}
{{- range .Values.server.tls.hosts }}
{{ . }}
{{- end }}
{{- if .Values.intercept.enabled }}
{{- range splitList "\n" (include "lanyard.intercept.hosts" .) }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The server's configuration file. */}}
{{- define "lanyard.server.config" -}}
{{- $v := .Values.server -}}
{{- $c := dict
  "dataDir" "/var/lib/lanyard/data"
  "account" .Values.account
  "region" .Values.region
  "issuerURL" ($v.issuerURL | default (include "lanyard.endpoint" .) | default (printf "https://%s" (include "lanyard.server.host" .)))
  "listenTLS" ":8443"
  "listenProbes" ":4568"
  "masterKeyFile" "/etc/lanyard/keys/master.key"
  "trustGuard" $v.trustGuard
  "maxAssociations" (int $v.maxAssociations)
  "stopDelay" "8s"
  "log" $v.log
-}}
{{- if $v.tls.existingSecret -}}
{{- $_ := set $c "tls" (dict "certFile" "/etc/lanyard/tls/tls.crt" "keyFile" "/etc/lanyard/tls/tls.key") -}}
{{- else -}}
{{- $hosts := splitList "\n" (include "lanyard.server.hosts" .) | uniq -}}
{{- $_ := set $c "tls" (dict "caCertFile" "/etc/lanyard/keys/ca.crt" "caKeyFile" "/etc/lanyard/keys/ca.key" "hosts" $hosts) -}}
{{- end -}}
{{- with $v.etcd.endpoints -}}
{{- $etcd := dict "endpoints" . -}}
{{- if $v.etcd.tlsSecret -}}
{{- $_ := merge $etcd (dict "caFile" "/etc/lanyard/etcd/ca.crt" "certFile" "/etc/lanyard/etcd/tls.crt" "keyFile" "/etc/lanyard/etcd/tls.key") -}}
{{- end -}}
{{- $_ := set $c "etcd" $etcd -}}
{{- end -}}
{{- if $v.s3.embedded -}}
{{- $_ := set $c "s3" (dict "embedded" true) -}}
{{- else if $v.s3.upstream.endpoint -}}
{{- $upstream := merge (dict "secretAccessKeyFile" "/etc/lanyard/s3/secretAccessKey") (omit $v.s3.upstream "existingSecret") -}}
{{- $_ := set $c "s3" (dict "upstream" $upstream) -}}
{{- end -}}
{{- with $v.audit -}}
{{- $audit := dict "mode" .mode "retention" .retention -}}
{{- if .existingSecret -}}
{{- $_ := set $audit "storeFile" "/etc/lanyard/audit/url" -}}
{{- else -}}
{{- $_ := set $audit "maxSize" (int64 .maxSize) -}}
{{- end -}}
{{- if .bucket.name -}}
{{- $_ := set $audit "bucket" .bucket -}}
{{- end -}}
{{- $_ := set $c "audit" $audit -}}
{{- end -}}
{{- with $v.tokenReview -}}
{{- $_ := set $c "tokenReview" (dict "every" . "clusters" (dict $.Values.clusterName (dict "inCluster" true))) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $c $v.extraConfig) -}}
{{- end }}
