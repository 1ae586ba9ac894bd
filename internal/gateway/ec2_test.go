package gateway_test

import (
	"context"
	"encoding/xml"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

func TestEC2(t *testing.T) {
	t.Parallel()
	reader := allowing("ec2:Describe*", "*")
	nobody := user{accountA, "dave", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`}
	authenticator, authorize := iam(t, alice, reader, nobody)
	server := httptest.NewServer(gateway.NewEC2(gateway.Config{
		Authenticator: authenticator, Authorize: authorize, Log: testLog(t),
		EncodeDenial: func(_ context.Context, c *awsapi.Caller, a awsapi.Access) (string, error) {
			if a.Action == "ec2:StopInstances" {
				return "", errors.New("the keyring is empty")
			}
			return "[" + c.ARN + " " + a.Action + " " + a.Resource + "]", nil
		},
	}))
	defer server.Close()
	encoded := func(u user, action string) string {
		return ". Encoded authorization failure message: [" + u.arn() + " ec2:" + action + " *]"
	}
	denied := func(u user, action string) string {
		return "You are not authorized to perform this operation. User: " + u.arn() + " is not authorized to perform: ec2:" + action +
			" because no identity-based policy allows the ec2:" + action + " action"
	}
	tests := []struct {
		name   string
		who    user
		form   string
		status int
		code   string // of the error
		want   string // message of the error, or a part of the answer
	}{
		{"instances", reader, "Action=DescribeInstances&Version=2016-11-15", 200, "", "<reservationSet/>"},
		{"security groups", reader, "Action=DescribeSecurityGroups&Version=2016-11-15", 200, "", "<securityGroupInfo/>"},
		{"two lists", reader, "Action=DescribeVpcEndpointServices&Version=2016-11-15", 200, "", "<serviceNameSet/><serviceDetailSet/>"},
		{"regions", reader, "Action=DescribeRegions&Version=2016-11-15", 200, "", "<regionEndpoint>ec2.us-east-1.amazonaws.com</regionEndpoint>"},
		{"this region", reader, "Action=DescribeRegions&Version=2016-11-15&RegionName.1=us-east-1", 200, "", "<regionName>us-east-1</regionName>"},
		{"another region", reader, "Action=DescribeRegions&Version=2016-11-15&RegionName.1=eu-west-1", 400, "InvalidParameterValue", "Invalid region provided: [eu-west-1]"},
		{"zones", reader, "Action=DescribeAvailabilityZones&Version=2016-11-15", 200, "", "<zoneName>us-east-1a</zoneName>"},
		{"filtered zones", reader, "Action=DescribeAvailabilityZones&Version=2016-11-15&Filter.1.Name=state", 400, "UnsupportedOperation", "The parameter Filter.1.Name is not supported."},
		{"without permission", nobody, "Action=DescribeInstances&Version=2016-11-15", 403, "UnauthorizedOperation", denied(nobody, "DescribeInstances")},
		{"a change without permission", reader, "Action=RunInstances&Version=2016-11-15", 403, "UnauthorizedOperation", denied(reader, "RunInstances") + encoded(reader, "RunInstances")},
		{"a dry run of a change without permission", reader, "Action=CreateVpc&Version=2016-11-15&DryRun=true", 403, "UnauthorizedOperation", denied(reader, "CreateVpc") + encoded(reader, "CreateVpc")},
		{"a change whose reasons cannot be sealed", reader, "Action=StopInstances&Version=2016-11-15", 403, "UnauthorizedOperation", denied(reader, "StopInstances")},
		{"reading by another verb", reader, "Action=GetConsoleOutput&Version=2016-11-15", 403, "UnauthorizedOperation", denied(reader, "GetConsoleOutput")},
		{"listing", reader, "Action=ListImagesInRecycleBin&Version=2016-11-15", 403, "UnauthorizedOperation", denied(reader, "ListImagesInRecycleBin")},
		{"searching", reader, "Action=SearchTransitGatewayRoutes&Version=2016-11-15", 403, "UnauthorizedOperation", denied(reader, "SearchTransitGatewayRoutes")},
		{"a change", alice, "Action=RunInstances&Version=2016-11-15", 400, "UnsupportedOperation", "The operation RunInstances is not supported: there is no EC2 here."},
		{"a dry run", reader, "Action=DescribeVpcs&Version=2016-11-15&DryRun=true", 412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."},
		{"a dry run without permission", nobody, "Action=DescribeVpcs&Version=2016-11-15&DryRun=true", 403, "UnauthorizedOperation", denied(nobody, "DescribeVpcs")},
		{"no action", alice, "Version=2016-11-15", 400, "MissingAction", "The request is missing an action or a required parameter"},
		{"an action that is none", alice, "Action=%3Ca%3E&Version=2016-11-15", 400, "InvalidAction", "The action is not valid for this web service."},
		{"no version", alice, "Action=DescribeVpcs", 400, "MissingParameter", "The request must contain the parameter Version"},
		{"two actions", reader, "Action=DescribeVpcs&Action=RunInstances&Version=2016-11-15", 400, "InvalidQueryParameter", "The query parameters cannot be parsed, or occur more than once."},
		{"a stranger", user{accountA, "mallory", ""}, "Action=DescribeVpcs&Version=2016-11-15", 401, "AuthFailure", "AWS was not able to validate the provided access credentials"},
		{"an expired session", user{accountA, "expired", ""}, "Action=DescribeVpcs&Version=2016-11-15", 400, "RequestExpired", "Request has expired."},
		{"an outage", user{accountA, "outage", ""}, "Action=DescribeVpcs&Version=2016-11-15", 503, "Unavailable", "The service is unavailable. Please try again shortly."},
	}
	for _, tt := range tests {
		for _, method := range []string{"POST", "GET"} {
			t.Run(tt.name+" by "+method, func(t *testing.T) {
				target, body := server.URL+"/", tt.form
				if method == "GET" {
					target, body = target+"?"+tt.form, ""
				}
				r, err := http.NewRequest(method, target, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				sigv4.Sign(r, sigv4.Credentials{AccessKeyID: tt.who.key(), SecretAccessKey: tt.who.secret()}, "ec2", "us-east-1", sha256Hex(body), time.Now())
				status, header, answer := send(t, server, r)
				if status != tt.status {
					t.Errorf("status %d, want %d: %s", status, tt.status, answer)
				}
				if tt.code == "" {
					if !strings.Contains(answer, tt.want) || !strings.Contains(answer, `Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>`) {
						t.Errorf("%s does not have %s", answer, tt.want)
					}
					return
				}
				var e struct {
					XMLName xml.Name `xml:"Response"`
					Errors  []struct {
						Code    string
						Message string
					} `xml:"Errors>Error"`
					RequestID string
				}
				if err := xml.Unmarshal([]byte(answer), &e); err != nil || len(e.Errors) != 1 {
					t.Fatalf("%v in %s", err, answer)
				}
				if e.Errors[0].Code != tt.code || e.Errors[0].Message != tt.want {
					t.Errorf("got  %s: %s\nwant %s: %s", e.Errors[0].Code, e.Errors[0].Message, tt.code, tt.want)
				}
				if len(e.RequestID) != 36 || e.RequestID != header.Get("X-Amzn-Requestid") {
					t.Errorf("request ID %q, header %q", e.RequestID, header.Get("X-Amzn-Requestid"))
				}
			})
		}
	}
	status, _, answer := send(t, server, must(http.NewRequest("POST", server.URL, strings.NewReader("Action=DescribeVpcs"))))
	if status != 403 || !strings.Contains(answer, "<Code>MissingAuthenticationToken</Code>") {
		t.Errorf("unsigned: %d %s", status, answer)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
