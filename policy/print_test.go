package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/policy"
)

func TestPrint(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ document, want string }{
		"elements come in the order of the grammar, and lone values lose their lists": {
			`{"Statement":{"Resource":["*"],"Action":["s3:GetObject"],"Effect":"Allow","Sid":"Read"},"Id":"one","Version":"2012-10-17"}`,
			`{
  "Version": "2012-10-17",
  "Id": "one",
  "Statement": [
    {
      "Sid": "Read",
      "Effect": "Allow",
      "Action": "s3:GetObject",
      "Resource": "*"
    }
  ]
}
`},
		"values are sorted strings without repetitions": {
			`{"Statement":[{"Action":["s3:PutObject","s3:GetObject","s3:PutObject"],"NotResource":[],
			  "Condition":{"StringLike":{"b":[true,"*",1.50],"a":"x"},"Bool":{"c":[true,"true"]}}}]}`,
			`{
  "Statement": [
    {
      "Action": [
        "s3:GetObject",
        "s3:PutObject"
      ],
      "NotResource": [],
      "Condition": {
        "Bool": {
          "c": "true"
        },
        "StringLike": {
          "a": "x",
          "b": [
            "*",
            "1.50",
            "true"
          ]
        }
      }
    }
  ]
}
`},
		"types of principals are sorted": {
			`{"Statement":[{"Principal":{"Service":["b","a"],"AWS":"*"},"NotPrincipal":"*"}]}`,
			`{
  "Statement": [
    {
      "Principal": {
        "AWS": "*",
        "Service": [
          "a",
          "b"
        ]
      },
      "NotPrincipal": "*"
    }
  ]
}
`},
		"text is escaped no more than it must be": {
			`{"Id":"\u0041<&\/é\n","Statement":[]}`,
			`{
  "Id": "A<&/é\n",
  "Statement": []
}
`},
		"what is malformed stays so": {
			`{"Version":1,"Statement":[5,{"Action":[["s3:*"]],"Resource":7,"Principal":{"AWS":[111122223333,{"z":1,"a":null}]},"Condition":[]}]}`,
			`{
  "Version": 1,
  "Statement": [
    5,
    {
      "Principal": {
        "AWS": [
          111122223333,
          {
            "z": 1,
            "a": null
          }
        ]
      },
      "Action": [
        [
          "s3:*"
        ]
      ],
      "Resource": 7,
      "Condition": []
    }
  ]
}
`},
		"a document that is no object": {`true`, "true\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policy.Print([]byte(c.document))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
			again, err := policy.Print(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(got), string(again)); diff != "" {
				t.Errorf("printed again it differs: %s", diff)
			}
		})
	}
}

func TestPrintRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		document string
		want     policy.Error
	}{
		"what is not JSON": {
			`{"Statement":[}`,
			policy.Error{Message: "This policy contains invalid Json", Detail: "a JSON value is missing", Line: 1, Column: 15},
		},
		"an element that no policy has": {
			"{\n \"Statement\":[{\"Effekt\":\"Allow\",\"More\":1}]}",
			policy.Error{Message: "Syntax errors in policy.", Detail: `unknown element "Effekt"`, Line: 2, Column: 16},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policy.Print([]byte(c.document))
			e, ok := err.(*policy.Error)
			if !ok {
				t.Fatalf("got %s, %v; want an error", got, err)
			}
			if diff := cmp.Diff(c.want, *e); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]int{
		"":                      0,
		" \t\r\n":               0,
		`{"Id": "é \u00e9 日本"}`: 18,
	} {
		if got := policy.Size([]byte(document)); got != want {
			t.Errorf("the size of %q is %d, want %d", document, got, want)
		}
	}
}
