//go:build e2e

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The AWS CLI's part of the EKS User Guide, "IAM roles for service accounts", "Learn how EKS Pod Identity grants pods access to AWS
// services" and "Amazon EKS add-ons": its commands in its order, against `lanyard dev`.
func TestTheUserGuideByTheAWSCLI(t *testing.T) {
	cli := filepath.Join(cache(t), "python", "bin", "aws")
	if _, err := os.Stat(cli); err != nil {
		leftOut(t, "the AWS CLI is not installed")
	}
	s := startDev(t, dataDir(t))
	s.must("cluster", "register", "my-cluster")
	for _, chapter := range []struct{ name, script string }{
		{"IAM roles for service accounts", guideIRSA},
		{"EKS Pod Identity", guidePodIdentity},
		{"add-ons", guideAddons},
	} {
		t.Run(chapter.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", guideStart+chapter.script, "sh", cli, binary("lanyard"), t.TempDir())
			cmd.Env = append(s.command().Env, "AWS_PAGER=")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// guideStart is given the AWS CLI, Lanyard's, and an empty directory.
const guideStart = `set -eux
cli=$1 lanyard=$2
cd "$3"
aws() { "$cli" "$@"; }
same() { [ "$1" = "$2" ] || { echo "got $1, want $2"; exit 1; }; }
refused() { code=$1; shift; if "$cli" "$@" 2>refusal; then exit 1; fi; grep "($code)" refusal; }
`

// guideIRSA differs from the guide in one place: the issuer of lanyard dev has a port, which the names of providers never have.
const guideIRSA = `
cluster_name=my-cluster
oidc_id=$(aws eks describe-cluster --name $cluster_name --query "cluster.identity.oidc.issuer" --output text | cut -d '/' -f 5)
[ -n "$oidc_id" ]
if aws iam list-open-id-connect-providers | grep $oidc_id | cut -d "/" -f4 | grep .; then exit 1; fi
aws iam create-open-id-connect-provider --url $(aws eks describe-cluster --name $cluster_name --query "cluster.identity.oidc.issuer" --output text) --client-id-list sts.amazonaws.com
aws iam list-open-id-connect-providers | grep $oidc_id | cut -d "/" -f4

cat >my-policy.json <<EOF
{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::my-pod-secrets-bucket/*"}]}
EOF
aws iam create-policy --policy-name my-policy --policy-document file://my-policy.json
account_id=$(aws sts get-caller-identity --query "Account" --output text)
oidc_provider=$(aws eks describe-cluster --name my-cluster --region $AWS_REGION --query "cluster.identity.oidc.issuer" --output text | sed -e "s/^https:\/\///" -e "s/:[0-9]*\//\//")
export namespace=default
export service_account=my-service-account
cat >trust-relationship.json <<EOF
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": {"Federated": "arn:aws:iam::$account_id:oidc-provider/$oidc_provider"},
      "Action": "sts:AssumeRoleWithWebIdentity",
      "Condition": {"StringEquals": {"$oidc_provider:aud": "sts.amazonaws.com", "$oidc_provider:sub": "system:serviceaccount:$namespace:$service_account"}}
    }
  ]
}
EOF
aws iam create-role --role-name my-role --assume-role-policy-document file://trust-relationship.json --description "my-role-description"
aws iam attach-role-policy --role-name my-role --policy-arn=arn:aws:iam::$account_id:policy/my-policy

same "$(aws iam get-role --role-name my-role --query Role.AssumeRolePolicyDocument.Statement[0].Principal.Federated --output text)" arn:aws:iam::$account_id:oidc-provider/$oidc_provider
policy_arn=$(aws iam list-attached-role-policies --role-name my-role --query "AttachedPolicies[].PolicyArn" --output text)
same "$policy_arn" arn:aws:iam::$account_id:policy/my-policy
same "$(aws iam get-policy --policy-arn $policy_arn --query Policy.DefaultVersionId --output text)" v1
same "$(aws iam get-policy-version --policy-arn $policy_arn --version-id v1 --query PolicyVersion.Document.Statement[0].Action --output text)" s3:GetObject

# What a pod of the service account does with its token, and one of another.
token() { "$lanyard" token my-cluster -n default -s $1 --audience sts.amazonaws.com; }
unsigned() { env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY "$cli" sts assume-role-with-web-identity --no-sign-request --role-session-name app --role-arn arn:aws:iam::$account_id:role/my-role "$@"; }
same "$(unsigned --web-identity-token $(token my-service-account) --query AssumedRoleUser.Arn --output text)" arn:aws:sts::$account_id:assumed-role/my-role/app
if unsigned --web-identity-token $(token another) 2>refusal; then exit 1; fi
grep AccessDenied refusal
`

const guidePodIdentity = `
version=$(aws eks describe-addon-versions --addon-name eks-pod-identity-agent --query 'addons[0].addonVersions[0].addonVersion' --output text)
aws eks create-addon --cluster-name my-cluster --addon-name eks-pod-identity-agent --addon-version $version
aws eks wait addon-active --cluster-name my-cluster --addon-name eks-pod-identity-agent

account_id=$(aws sts get-caller-identity --query "Account" --output text)
cat >trust-relationship.json <<EOF
{
  "Version": "2012-10-17",
  "Statement": [
    {"Sid": "AllowEksAuthToAssumeRoleForPodIdentity", "Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
  ]
}
EOF
aws iam create-role --role-name my-pod-role --assume-role-policy-document file://trust-relationship.json --description "my-role-description"
aws iam attach-role-policy --role-name my-pod-role --policy-arn=arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess
aws eks create-pod-identity-association --cluster-name my-cluster --role-arn arn:aws:iam::$account_id:role/my-pod-role --namespace default --service-account my-service-account

same "$(aws iam get-role --role-name my-pod-role --query Role.AssumeRolePolicyDocument.Statement[0].Principal.Service --output text)" pods.eks.amazonaws.com
same "$(aws iam list-attached-role-policies --role-name my-pod-role --query "AttachedPolicies[].PolicyArn" --output text)" arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess
id=$(aws eks list-pod-identity-associations --cluster-name my-cluster --query 'associations[0].associationId' --output text)
same "$(aws eks describe-pod-identity-association --cluster-name my-cluster --association-id $id --query association.serviceAccount --output text)" my-service-account
token=$("$lanyard" token my-cluster -n default -s my-service-account --audience pods.eks.amazonaws.com)
same "$(aws eks-auth assume-role-for-pod-identity --cluster-name my-cluster --token $token --query podIdentityAssociation.associationId --output text)" $id

aws iam create-role --role-name my-new-role --assume-role-policy-document file://trust-relationship.json
aws eks update-pod-identity-association --cluster-name my-cluster --association-id $id --role-arn arn:aws:iam::$account_id:role/my-new-role
same "$(aws eks describe-pod-identity-association --cluster-name my-cluster --association-id $id --query association.roleArn --output text)" arn:aws:iam::$account_id:role/my-new-role
aws eks delete-pod-identity-association --cluster-name my-cluster --association-id $id
refused ResourceNotFoundException eks describe-pod-identity-association --cluster-name my-cluster --association-id $id
refused ResourceNotFoundException eks-auth assume-role-for-pod-identity --cluster-name my-cluster --token $token
`

const guideAddons = `
aws eks describe-addon-versions --kubernetes-version 1.35 --query 'addons[].{MarketplaceProductUrl: marketplaceInformation.productUrl, Name: addonName, Owner: owner, Publisher: publisher, Type: type}' --output table
versions=$(aws eks describe-addon-versions --kubernetes-version 1.35 --addon-name aws-ebs-csi-driver --query 'addons[].addonVersions[].addonVersion' --output text)
latest=$(echo $versions | cut -d ' ' -f 1)
older=$(echo $versions | cut -d ' ' -f 2)
aws eks describe-addon-configuration --addon-name aws-ebs-csi-driver --addon-version $latest --query podIdentityConfiguration
account_id=$(aws sts get-caller-identity --query "Account" --output text)
aws iam create-role --role-name driver --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}]}'
aws eks create-addon --cluster-name my-cluster --addon-name aws-ebs-csi-driver --addon-version $older --pod-identity-associations serviceAccount=ebs-csi-controller-sa,roleArn=arn:aws:iam::$account_id:role/driver
aws eks wait addon-active --cluster-name my-cluster --addon-name aws-ebs-csi-driver
aws eks list-addons --cluster-name my-cluster | grep aws-ebs-csi-driver
same "$(aws eks describe-addon --cluster-name my-cluster --addon-name aws-ebs-csi-driver --query "addon.addonVersion" --output text)" $older

update=$(aws eks update-addon --cluster-name my-cluster --addon-name aws-ebs-csi-driver --addon-version $latest --resolve-conflicts PRESERVE --query update.id --output text)
same "$(aws eks describe-update --name my-cluster --addon-name aws-ebs-csi-driver --update-id $update --query update.status --output text)" Successful
same "$(aws eks list-updates --name my-cluster --addon-name aws-ebs-csi-driver --query updateIds --output text)" $update
refused ResourceNotFoundException eks describe-update --name my-cluster --update-id $update
same "$(aws eks describe-addon --cluster-name my-cluster --addon-name aws-ebs-csi-driver --query addon.status --output text)" ACTIVE
aws eks delete-addon --cluster-name my-cluster --addon-name aws-ebs-csi-driver --preserve
aws eks wait addon-deleted --cluster-name my-cluster --addon-name aws-ebs-csi-driver
refused ResourceNotFoundException eks describe-addon --cluster-name my-cluster --addon-name aws-ebs-csi-driver
`
