{{/* What the endpoints of the region's partition are named by. */}}
{{- define "lanyard.intercept.partition" -}}
{{- $all := fromYaml `
aws: {suffix: amazonaws.com, dual: api.aws, iam: iam.amazonaws.com}
aws-cn: {suffix: amazonaws.com.cn, dual: api.amazonwebservices.com.cn, iam: iam.cn-north-1.amazonaws.com.cn}
aws-us-gov: {suffix: amazonaws.com, dual: api.aws, iam: iam.us-gov.amazonaws.com}
aws-iso: {suffix: c2s.ic.gov, dual: api.aws.ic.gov, iam: iam.us-iso-east-1.c2s.ic.gov}
aws-iso-b: {suffix: sc2s.sgov.gov, dual: api.aws.scloud, iam: iam.us-isob-east-1.sc2s.sgov.gov}
aws-iso-e: {suffix: cloud.adc-e.uk, dual: api.cloud-aws.adc-e.uk, iam: iam.eu-isoe-west-1.cloud.adc-e.uk}
aws-iso-f: {suffix: csp.hci.ic.gov, dual: api.aws.hci.ic.gov, iam: iam.us-isof-south-1.csp.hci.ic.gov}
aws-eusc: {suffix: amazonaws.eu, dual: api.amazonwebservices.eu, iam: iam.eusc-de-east-1.amazonaws.eu}
` -}}
{{- get $all (include "lanyard.partition" .) | toYaml -}}
{{- end }}

{{/* AWS's host names that the server answers for, a line each. The S3 store's, with those of its buckets, only where there is one. */}}
{{- define "lanyard.intercept.hosts" -}}
{{- $region := .Values.region -}}
{{- $names := include "lanyard.intercept.partition" . | fromYaml -}}
{{- $hosts := list
  (printf "sts.%s.%s" $region $names.suffix)
  (printf "eks.%s.%s" $region $names.suffix)
  (printf "eks-auth.%s.%s" $region $names.dual)
  $names.iam
-}}
{{- if eq $names.suffix "amazonaws.com" -}}
{{- $hosts = append $hosts "sts.amazonaws.com" -}}
{{- end -}}
{{- if or .Values.server.s3.embedded .Values.server.s3.upstream.endpoint -}}
{{- $s3 := printf "s3.%s.%s" $region $names.suffix -}}
{{- $hosts = concat $hosts (list $s3 (printf "*.%s" $s3)) -}}
{{- if eq $names.suffix "amazonaws.com" -}}
{{- $hosts = concat $hosts (list "s3.amazonaws.com" "*.s3.amazonaws.com") -}}
{{- end -}}
{{- end -}}
{{- concat $hosts .Values.intercept.hosts | uniq | join "\n" -}}
{{- end }}

{{/* The lines of a Corefile that send these names to the server. */}}
{{- define "lanyard.intercept.corefile" -}}
{{- $target := printf "%s.%s" (include "lanyard.server.host" .) .Values.clusterDomain -}}
{{- range splitList "\n" (include "lanyard.intercept.hosts" .) }}
{{- if hasPrefix "*" . }}
rewrite name regex ^(.+){{ trimPrefix "*" . | replace "." "\\." }}\.$ {{ $target }} answer auto
{{- else }}
rewrite name exact {{ . }} {{ $target }}
{{- end }}
{{- end }}
{{- end }}
