package policy_test

import (
	"fmt"

	"github.com/lanyard-id/lanyard/policy"
)

func Example() {
	readOwn, err := policy.New("read-own", policy.Identity, []byte(`{
	  "Version": "2012-10-17",
	  "Statement": {
	    "Sid": "ReadOwn",
	    "Effect": "Allow",
	    "Action": "s3:GetObject",
	    "Resource": "arn:aws:s3:::data/${aws:PrincipalTag/kubernetes-namespace}/*"
	  }
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	context := new(policy.Context)
	context.Set("aws:PrincipalTag/kubernetes-namespace", "shop")
	r := &policy.Request{
		Principal: policy.Principal{
			Kind:    policy.RoleSession,
			Account: "111122223333",
			ARN:     "arn:aws:sts::111122223333:assumed-role/reader/pod-1",
			RoleARN: "arn:aws:iam::111122223333:role/reader",
		},
		Action:  "s3:GetObject",
		Context: context,
	}
	policies := &policy.Policies{Identity: []*policy.Policy{readOwn}}
	for _, resource := range []string{"arn:aws:s3:::data/shop/a.csv", "arn:aws:s3:::data/bank/a.csv"} {
		r.Resource = resource
		decision := policy.Evaluate(r, policies)
		fmt.Println(decision)
		fmt.Println(decision.Message(r))
	}
	// Output:
	// allowed by statement 0 (Sid ReadOwn) of read-own at 3:17
	//
	// denied: no identity-based policy allows s3:GetObject
	// User: arn:aws:sts::111122223333:assumed-role/reader/pod-1 is not authorized to perform: s3:GetObject on resource: arn:aws:s3:::data/bank/a.csv because no identity-based policy allows the s3:GetObject action
}

func ExampleNew() {
	_, err := policy.New("broken", policy.Identity, []byte(`{
	  "Version": "2012-10-17",
	  "Statement": {"Effect": "Allow", "Action": "GetObject", "Resource": "*"}
	}`))
	fmt.Println(err)
	if e, ok := err.(*policy.Error); ok {
		fmt.Printf("line %d, column %d: %s\n", e.Line, e.Column, e.Detail)
	}
	// Output:
	// Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.
	// line 3, column 47: the action "GetObject" is not of the form vendor:name
}

func ExampleEvaluateTrust() {
	trust, err := policy.New("reader's trust policy", policy.Trust, []byte(`{
	  "Version": "2012-10-17",
	  "Statement": {
	    "Effect": "Allow",
	    "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.example.com"},
	    "Action": "sts:AssumeRoleWithWebIdentity",
	    "Condition": {"StringEquals": {"oidc.example.com:sub": "system:serviceaccount:shop:cart"}}
	  }
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, subject := range []string{"system:serviceaccount:shop:cart", "system:serviceaccount:shop:other"} {
		context := new(policy.Context)
		context.Set("oidc.example.com:sub", subject)
		fmt.Println(policy.EvaluateTrust(&policy.Request{
			Principal: policy.Principal{Kind: policy.WebIdentity, Name: "arn:aws:iam::111122223333:oidc-provider/oidc.example.com"},
			Action:    "sts:AssumeRoleWithWebIdentity",
			Resource:  "arn:aws:iam::111122223333:role/reader",
			Context:   context,
		}, trust, nil))
	}
	// Output:
	// allowed by statement 0 of reader's trust policy at 3:17
	// denied: no role trust policy allows sts:AssumeRoleWithWebIdentity
}

func ExampleExplain() {
	readOwn, err := policy.New("read-own", policy.Identity, []byte(`{
	  "Version": "2012-10-17",
	  "Statement": [{
	    "Sid": "ReadOwn",
	    "Effect": "Allow",
	    "Action": "s3:GetObject",
	    "Resource": "*",
	    "Condition": {"StringEquals": {"s3:ExistingObjectTag/owner": "${aws:PrincipalTag/kubernetes-namespace}"}}
	  }]
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	decision := policy.Explain(&policy.Request{
		Principal: policy.Principal{Kind: policy.User, Account: "111122223333", ARN: "arn:aws:iam::111122223333:user/ann"},
		Action:    "s3:GetObject",
		Resource:  "arn:aws:s3:::data/a.csv",
	}, &policy.Policies{Identity: []*policy.Policy{readOwn}})
	fmt.Print(decision.Explanation.Tree())
	// Output:
	// implicitDeny: User: arn:aws:iam::111122223333:user/ann is not authorized to perform: s3:GetObject on resource: arn:aws:s3:::data/a.csv because no identity-based policy allows the s3:GetObject action
	//   identity-based policy: implicitDeny
	//     read-own 3:18 Allow ReadOwn does not apply: Condition StringEquals s3:ExistingObjectTag/owner at 8:37 is ${aws:PrincipalTag/kubernetes-namespace}; the request does not have it
	//   1 statement looked at
	//   the request does not have: aws:PrincipalTag/kubernetes-namespace, s3:ExistingObjectTag/owner
}

func ExampleFindings() {
	for _, f := range policy.Findings([]byte(`{
	  "Version": "2012-10-17",
	  "Statement": {
	    "Effect": "Allow",
	    "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.example.com"},
	    "Action": "sts:AssumeRoleWithWebIdentity",
	    "Condition": {"StringEquals": {"oidc.example.com:aud": "sts.amazonaws.com"}}
	  }
	}`), policy.Trust) {
		fmt.Printf("%d:%d: %s: %s\n", f.Start.Line, f.Start.Column, f.ID, f.Message)
	}
	// Output:
	// 5:33: trust-without-subject: any identity of "arn:aws:iam::111122223333:oidc-provider/oidc.example.com" can take the role: no condition on "oidc.example.com:sub"
}

func ExamplePrint() {
	canonical, err := policy.Print([]byte(`{"Statement":{"Resource":["*"],"Action":["s3:PutObject","s3:GetObject"],"Effect":"Allow"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(canonical))
	// Output:
	// {
	//   "Statement": [
	//     {
	//       "Effect": "Allow",
	//       "Action": [
	//         "s3:GetObject",
	//         "s3:PutObject"
	//       ],
	//       "Resource": "*"
	//     }
	//   ]
	// }
}
