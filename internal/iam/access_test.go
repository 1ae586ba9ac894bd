package iam_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// query calls an operation with parameters in the form of a query, and returns the error's code and text.
func (in *installation) query(t *testing.T, key sigv4.Credentials, operation, parameters string) (code, message string) {
	t.Helper()
	body := "Version=2010-05-08&Action=" + operation + "&" + parameters
	r, err := http.NewRequestWithContext(t.Context(), "POST", in.url, strings.NewReader(body))
	check(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(body))
	sigv4.Sign(r, key, "iam", "us-east-1", hex.EncodeToString(sum[:]), time.Now())
	response, err := http.DefaultClient.Do(r)
	check(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(t, err)
	var answer struct {
		Error struct{ Code, Message string }
	}
	check(t, xml.Unmarshal(text, &answer))
	return answer.Error.Code, answer.Error.Message
}

// TestPermissionsAreForTheRightResource holds each operation to the resource type that the Service Authorization Reference
// has for it, by what a denial says.
func TestPermissionsAreForTheRightResource(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	_, nobody := in.user(t, "nobody")
	check(t, failure(in.root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: of("alice"), Path: of("/eng/")})))
	made, err := in.root.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: of("alice")})
	check(t, err)
	check(t, failure(in.root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: of("g"), Path: of("/eng/")})))
	check(t, failure(in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
		RoleName: of("r"), Path: of("/app/"), AssumeRolePolicyDocument: of(trusts("AWS", account)),
	})))
	check(t, failure(in.root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: of("p"), Path: of("/own/"), PolicyDocument: of(allowObj)})))
	check(t, failure(in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: of("n"), Path: of("/node/")})))
	check(t, failure(in.root.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{Url: of("https://id.example.com/a")})))
	check(t, failure(in.root.CreateSAMLProvider(ctx, &awsiam.CreateSAMLProviderInput{Name: of("corp"), SAMLMetadataDocument: &goodMetadata})))

	const (
		prefix = "arn:aws:iam::" + account + ":"
		user   = prefix + "user/eng/alice"
		group  = prefix + "group/eng/g"
		role   = prefix + "role/app/r"
		custom = prefix + "policy/own/p"
		node   = prefix + "instance-profile/node/n"
		oidc   = prefix + "oidc-provider/id.example.com/a"
		saml   = prefix + "saml-provider/corp"
		tags   = "&Tags.member.1.Key=k&Tags.member.1.Value=v"
		keys   = "&TagKeys.member.1=k"
		admin  = "&PolicyArn=arn%3Aaws%3Aiam%3A%3Aaws%3Apolicy%2FAdministratorAccess"
		limit  = "&PermissionsBoundary=arn%3Aaws%3Aiam%3A%3Aaws%3Apolicy%2FAdministratorAccess"
		inline = "&PolicyName=i"
	)
	document := "&PolicyDocument=" + url.QueryEscape(allowObj)
	key := "&AccessKeyId=" + *made.AccessKey.AccessKeyId
	arn := func(parameter, value string) string { return "&" + parameter + "=" + url.QueryEscape(value) }
	simulated := arn("PolicySourceArn", user)
	cases := map[string]struct{ parameters, resource string }{
		"CreateUser":                     {"UserName=x&Path=/y/", prefix + "user/y/x"},
		"GetUser":                        {"UserName=ALICE", user},
		"ListUsers":                      {"PathPrefix=/eng/", prefix + "user/eng/"},
		"UpdateUser":                     {"UserName=alice&NewUserName=bob", user},
		"DeleteUser":                     {"UserName=alice", user},
		"TagUser":                        {"UserName=alice" + tags, user},
		"UntagUser":                      {"UserName=alice" + keys, user},
		"ListUserTags":                   {"UserName=alice", user},
		"PutUserPolicy":                  {"UserName=alice" + inline + document, user},
		"GetUserPolicy":                  {"UserName=alice" + inline, user},
		"ListUserPolicies":               {"UserName=alice", user},
		"DeleteUserPolicy":               {"UserName=alice" + inline, user},
		"AttachUserPolicy":               {"UserName=alice" + admin, user},
		"DetachUserPolicy":               {"UserName=alice" + admin, user},
		"ListAttachedUserPolicies":       {"UserName=alice", user},
		"PutUserPermissionsBoundary":     {"UserName=alice" + limit, user},
		"DeleteUserPermissionsBoundary":  {"UserName=alice", user},
		"ListGroupsForUser":              {"UserName=alice", user},
		"CreateAccessKey":                {"UserName=alice", user},
		"DeleteAccessKey":                {"UserName=alice" + key, user},
		"UpdateAccessKey":                {"UserName=alice&Status=Inactive" + key, user},
		"ListAccessKeys":                 {"UserName=alice", user},
		"GetAccessKeyLastUsed":           {key[1:], user},
		"GetLoginProfile":                {"UserName=alice", user},
		"DeleteLoginProfile":             {"UserName=alice", user},
		"ListMFADevices":                 {"UserName=alice", user},
		"ListVirtualMFADevices":          {"", "*"},
		"ListSSHPublicKeys":              {"UserName=alice", user},
		"ListSigningCertificates":        {"UserName=alice", user},
		"ListServiceSpecificCredentials": {"UserName=alice", user},

		"CreateGroup":               {"GroupName=x&Path=/y/", prefix + "group/y/x"},
		"GetGroup":                  {"GroupName=G", group},
		"ListGroups":                {"", prefix + "group/"},
		"UpdateGroup":               {"GroupName=g&NewPath=/z/", group},
		"DeleteGroup":               {"GroupName=g", group},
		"AddUserToGroup":            {"GroupName=g&UserName=alice", group},
		"RemoveUserFromGroup":       {"GroupName=g&UserName=alice", group},
		"PutGroupPolicy":            {"GroupName=g" + inline + document, group},
		"GetGroupPolicy":            {"GroupName=g" + inline, group},
		"ListGroupPolicies":         {"GroupName=g", group},
		"DeleteGroupPolicy":         {"GroupName=g" + inline, group},
		"AttachGroupPolicy":         {"GroupName=g" + admin, group},
		"DetachGroupPolicy":         {"GroupName=g" + admin, group},
		"ListAttachedGroupPolicies": {"GroupName=g", group},

		"CreateRole":                    {"RoleName=x&Path=/y/&AssumeRolePolicyDocument=" + url.QueryEscape(trusts("AWS", account)), prefix + "role/y/x"},
		"GetRole":                       {"RoleName=missing", prefix + "role/missing"},
		"ListRoles":                     {"", prefix + "role/"},
		"UpdateRole":                    {"RoleName=r", role},
		"UpdateRoleDescription":         {"RoleName=r&Description=d", role},
		"UpdateAssumeRolePolicy":        {"RoleName=r" + document, role},
		"DeleteRole":                    {"RoleName=r", role},
		"TagRole":                       {"RoleName=r" + tags, role},
		"UntagRole":                     {"RoleName=r" + keys, role},
		"ListRoleTags":                  {"RoleName=r", role},
		"PutRolePolicy":                 {"RoleName=r" + inline + document, role},
		"GetRolePolicy":                 {"RoleName=r" + inline, role},
		"ListRolePolicies":              {"RoleName=r", role},
		"DeleteRolePolicy":              {"RoleName=r" + inline, role},
		"AttachRolePolicy":              {"RoleName=r" + admin, role},
		"DetachRolePolicy":              {"RoleName=r" + admin, role},
		"ListAttachedRolePolicies":      {"RoleName=r", role},
		"PutRolePermissionsBoundary":    {"RoleName=r" + limit, role},
		"DeleteRolePermissionsBoundary": {"RoleName=r", role},
		"ListInstanceProfilesForRole":   {"RoleName=r", role},

		"CreateServiceLinkedRole": {"AWSServiceName=eks.amazonaws.com", prefix + "role/aws-service-role/eks.amazonaws.com/AWSServiceRoleForAmazonEKS"},
		"DeleteServiceLinkedRole": {"RoleName=r", role},
		"GetServiceLinkedRoleDeletionStatus": {
			"DeletionTaskId=task/aws-service-role/eks.amazonaws.com/AWSServiceRoleForAmazonEKS/1",
			prefix + "role/aws-service-role/eks.amazonaws.com/AWSServiceRoleForAmazonEKS",
		},

		"CreatePolicy":            {"PolicyName=x&Path=/y/" + document, prefix + "policy/y/x"},
		"GetPolicy":               {arn("PolicyArn", custom), custom},
		"ListPolicies":            {"", prefix + "policy/"},
		"DeletePolicy":            {arn("PolicyArn", custom), custom},
		"CreatePolicyVersion":     {arn("PolicyArn", custom) + document, custom},
		"GetPolicyVersion":        {arn("PolicyArn", custom) + "&VersionId=v1", custom},
		"ListPolicyVersions":      {arn("PolicyArn", custom), custom},
		"DeletePolicyVersion":     {arn("PolicyArn", custom) + "&VersionId=v1", custom},
		"SetDefaultPolicyVersion": {arn("PolicyArn", custom) + "&VersionId=v1", custom},
		"ListEntitiesForPolicy":   {arn("PolicyArn", custom), custom},
		"TagPolicy":               {arn("PolicyArn", custom) + tags, custom},
		"UntagPolicy":             {arn("PolicyArn", custom) + keys, custom},
		"ListPolicyTags":          {arn("PolicyArn", custom), custom},

		"CreateOpenIDConnectProvider":             {"Url=https://id.example.com/b", prefix + "oidc-provider/id.example.com/b"},
		"GetOpenIDConnectProvider":                {arn("OpenIDConnectProviderArn", oidc), oidc},
		"ListOpenIDConnectProviders":              {"", prefix + "oidc-provider/"},
		"DeleteOpenIDConnectProvider":             {arn("OpenIDConnectProviderArn", oidc), oidc},
		"AddClientIDToOpenIDConnectProvider":      {arn("OpenIDConnectProviderArn", oidc) + "&ClientID=c", oidc},
		"RemoveClientIDFromOpenIDConnectProvider": {arn("OpenIDConnectProviderArn", oidc) + "&ClientID=c", oidc},
		"UpdateOpenIDConnectProviderThumbprint": {
			arn("OpenIDConnectProviderArn", oidc) + "&ThumbprintList.member.1=" + strings.Repeat("0", 40), oidc,
		},
		"TagOpenIDConnectProvider":      {arn("OpenIDConnectProviderArn", oidc) + tags, oidc},
		"UntagOpenIDConnectProvider":    {arn("OpenIDConnectProviderArn", oidc) + keys, oidc},
		"ListOpenIDConnectProviderTags": {arn("OpenIDConnectProviderArn", oidc), oidc},

		"CreateSAMLProvider":   {"Name=x&SAMLMetadataDocument=" + url.QueryEscape(goodMetadata), prefix + "saml-provider/x"},
		"GetSAMLProvider":      {arn("SAMLProviderArn", saml), saml},
		"ListSAMLProviders":    {"", prefix + "saml-provider/"},
		"UpdateSAMLProvider":   {arn("SAMLProviderArn", saml), saml},
		"DeleteSAMLProvider":   {arn("SAMLProviderArn", saml), saml},
		"TagSAMLProvider":      {arn("SAMLProviderArn", saml) + tags, saml},
		"UntagSAMLProvider":    {arn("SAMLProviderArn", saml) + keys, saml},
		"ListSAMLProviderTags": {arn("SAMLProviderArn", saml), saml},

		"CreateInstanceProfile":         {"InstanceProfileName=x&Path=/y/", prefix + "instance-profile/y/x"},
		"GetInstanceProfile":            {"InstanceProfileName=n", node},
		"ListInstanceProfiles":          {"", prefix + "instance-profile/"},
		"DeleteInstanceProfile":         {"InstanceProfileName=n", node},
		"AddRoleToInstanceProfile":      {"InstanceProfileName=n&RoleName=r", node},
		"RemoveRoleFromInstanceProfile": {"InstanceProfileName=n&RoleName=r", node},
		"TagInstanceProfile":            {"InstanceProfileName=n" + tags, node},
		"UntagInstanceProfile":          {"InstanceProfileName=n" + keys, node},
		"ListInstanceProfileTags":       {"InstanceProfileName=n", node},

		"SimulateCustomPolicy":             {"ActionNames.member.1=s3:GetObject&PolicyInputList.member.1=" + url.QueryEscape(allowObj), "*"},
		"SimulatePrincipalPolicy":          {"ActionNames.member.1=s3:GetObject" + simulated, user},
		"GetContextKeysForCustomPolicy":    {"PolicyInputList.member.1=" + url.QueryEscape(allowObj), "*"},
		"GetContextKeysForPrincipalPolicy": {simulated[1:], user},

		"GenerateServiceLastAccessedDetails":        {arn("Arn", custom), custom},
		"GetServiceLastAccessedDetails":             {"JobId=" + strings.Repeat("0", 36), "*"},
		"GetServiceLastAccessedDetailsWithEntities": {"ServiceNamespace=s3&JobId=" + strings.Repeat("0", 36), "*"},
		"ListPoliciesGrantingServiceAccess":         {arn("Arn", group) + "&ServiceNamespaces.member.1=s3", group},
		"GenerateCredentialReport":                  {"", "*"},
		"GetCredentialReport":                       {"", "*"},
		"GetAccountAuthorizationDetails":            {"", "*"},
		"CreateAccountAlias":                        {"AccountAlias=abc", "*"},
		"DeleteAccountAlias":                        {"AccountAlias=abc", "*"},
		"ListAccountAliases":                        {"", "*"},
		"GetAccountSummary":                         {"", "*"},
	}
	for operation, c := range cases {
		code, message := in.query(t, nobody, operation, c.parameters)
		on := " on resource: " + c.resource
		if c.resource == "*" {
			on = "" // texts leave it out
		}
		want := "User: " + prefix + "user/nobody is not authorized to perform: iam:" + operation + on +
			" because no identity-based policy allows the iam:" + operation + " action"
		if code != "AccessDenied" || message != want {
			t.Errorf("%s: %s: %s\nwant %s", operation, code, message, want)
		}
	}

	text, err := os.ReadFile("../awsapi/models/iam.json")
	check(t, err)
	var model struct{ Operations map[string]any }
	check(t, json.Unmarshal(text, &model))
	for operation := range model.Operations {
		if _, listed := cases[operation]; listed {
			continue
		}
		if code, message := in.query(t, nobody, operation, ""); code != "NotImplemented" || message != "This server does not implement "+operation+"." {
			t.Errorf("%s, which is not listed here: %s: %s", operation, code, message)
		}
	}
}

func TestARenamedUserNeedsPermissionForBothNames(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	_, admin := in.user(t, "admin")
	in.user(t, "alice")
	in.group(t, "g")
	document := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:UpdateUser","iam:UpdateGroup"],"Resource":` +
		`["arn:aws:iam::111122223333:user/alice","arn:aws:iam::111122223333:user/ok/*","arn:aws:iam::111122223333:group/g","arn:aws:iam::111122223333:group/ok/*"]}]}`
	check(t, failure(in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("admin"), PolicyName: of("p"), PolicyDocument: &document})))
	for _, c := range []struct{ operation, parameters, denied string }{
		{"UpdateUser", "UserName=alice&NewUserName=bob", "user/bob"},
		{"UpdateUser", "UserName=alice&NewPath=/x/", "user/x/alice"},
		{"UpdateGroup", "GroupName=g&NewGroupName=h", "group/h"},
		{"UpdateGroup", "GroupName=g&NewPath=/x/", "group/x/g"},
		{"UpdateUser", "UserName=alice&NewUserName=bob&NewPath=/ok/", ""},
		{"UpdateGroup", "GroupName=g&NewGroupName=h&NewPath=/ok/", ""},
	} {
		code, message := in.query(t, admin, c.operation, c.parameters)
		denied := strings.Contains(message, "on resource: arn:aws:iam::111122223333:"+c.denied+" because")
		if c.denied == "" && code != "" || c.denied != "" && (code != "AccessDenied" || !denied) {
			t.Errorf("%s %s: %s: %s", c.operation, c.parameters, code, message)
		}
	}
}
