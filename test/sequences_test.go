package test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in sequences replay what the commands of tutorials send, call by call in their order, by the SDK that eksctl and Terraform
// are made with. Each runs in an account of its own, which has the cluster demo and nothing else, and finds there the files of
// sequences/documents. Besides testscript's own commands they have:
//
//	eksctl ARG…                     the calls that follow are those of this command; it makes those that every command of eksctl begins with
//	terraform ARG…                  the calls that follow are those of this command, on one object
//	setup                           the calls that follow are no command's
//	aws SERVICE OPERATION [PARAM]…  make a call and print the answer as JSON, without what is nil. With ! it must be refused, and what is
//	                                printed on standard error is CODE STATUS: MESSAGE
//	waiter SERVICE NAME [PARAM]…    have a waiter of the SDK find at its first look what it waits for; with ! it must not
//	stacks                          list stacks and describe each of the cluster's by its ID, as eksctl does; the answer is {"Stacks": […]}
//	issuer                          connect to the cluster's issuer, as eksctl does for its thumbprint, and set $THUMBPRINT
//	capture NAME KEY…               set a variable to a part of the last answer
//	want VALUE KEY…                 compare a part of the last answer: a text as it is, all else as JSON
//	absent KEY…                     the last answer has no such part
//	tags JSON KEY…                  compare tags, of whatever form, with a JSON object
//	same FILE KEY…                  compare a policy of the last answer, which may be percent-encoded, with a file's, as JSON
//	kubernetes METHOD PATH [FILE]   ask the API server; with ! it must be refused
//
// A PARAM is NAME=TEXT, NAME:=JSON or NAME=@FILE, by the names of the SDK; {{NAME}} in files is a variable. A KEY is a member's name,
// a number in a list, MEMBER=VALUE for the first of a list that has it, or "length".
//
// The condition [kubernetes] holds where there is an API server, which takes the build tag e2e.
func TestSequences(t *testing.T) {
	sequences := startSequences(t)
	testscript.Run(t, sequences.params("sequences", nil))
	t.Cleanup(func() { // when the scripts, which run side by side, have ended
		for _, line := range sequences.report() {
			t.Log(line)
		}
	})
}

// BenchmarkSequences is what the commands cost, in milliseconds of waiting for answers.
func BenchmarkSequences(b *testing.B) {
	sequences := startSequences(b)
	files, err := filepath.Glob("sequences/*.txt")
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range files {
		b.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(b *testing.B) {
			sequences.reset()
			for b.Loop() {
				testscript.RunT(benchmarkT{b}, sequences.params("", []string{file}))
			}
			var calls int
			var spent time.Duration
			for _, s := range sequences.ran {
				calls, spent = calls+s.calls, spent+s.spent
			}
			if n := len(sequences.ran); n > 0 {
				b.ReportMetric(float64(spent.Microseconds())/1000/float64(n), "ms/command")
				b.ReportMetric(float64(calls)/float64(n), "calls/command")
			}
		})
	}
}

// benchmarkT lets scripts run in a benchmark.
type benchmarkT struct{ *testing.B }

func (benchmarkT) Parallel()                              {}
func (benchmarkT) Verbose() bool                          { return false }
func (benchmarkT) Log(...any)                             {}
func (b benchmarkT) Run(_ string, run func(testscript.T)) { run(b) }

// sequences is what all scripts have in common.
type sequences struct {
	s        *server
	k        *kubernetesSide // nil without an API server
	accounts atomic.Int64
	mu       sync.Mutex
	ran      []section
}

// section is the calls of one command.
type section struct {
	command string // empty for none's
	calls   int
	spent   time.Duration
}

// sequence is one script that runs.
type sequence struct {
	all     *sequences
	config  aws.Config
	section section
	answer  any // of the last call, as JSON has it
}

type sequenceKey struct{}

func startSequences(t testing.TB) *sequences {
	t.Helper()
	return &sequences{s: startDev(t, dataDir(t)), k: startKubernetesSide(t)}
}

func (q *sequences) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ran = nil
}

// report says of each command how many calls it made and how long it waited for them, the longest of its runs.
func (q *sequences) report() (lines []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	longest := map[string]section{}
	for _, s := range q.ran {
		if s.spent > longest[s.command].spent {
			longest[s.command] = s
		}
	}
	for _, command := range slices.Sorted(maps.Keys(longest)) {
		s := longest[command]
		lines = append(lines, fmt.Sprintf("%3d calls %5.0f ms  %s", s.calls, float64(s.spent.Microseconds())/1000, command))
	}
	return lines
}

func (q *sequences) params(dir string, files []string) testscript.Params {
	return testscript.Params{
		Dir: dir, Files: files, RequireUniqueNames: true,
		Setup: q.setup,
		Condition: func(condition string) (bool, error) {
			if condition != "kubernetes" {
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			return q.k != nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"eksctl": scriptEksctl, "terraform": scriptTerraform, "setup": scriptSetup, "aws": scriptAWS, "waiter": scriptWaiter, "stacks": scriptStacks,
			"issuer": scriptIssuer, "capture": scriptCapture, "want": scriptWant, "absent": scriptAbsent, "tags": scriptTags, "same": scriptSame,
			"kubernetes": scriptKubernetes,
		},
	}
}

// setup makes an account with a cluster for a script, and says in its variables what they are.
func (q *sequences) setup(env *testscript.Env) error {
	n := q.accounts.Add(1)
	account := fmt.Sprintf("2%011d", n)
	var root struct{ AccessKeyID, SecretAccessKey string }
	if err := q.lanyard(q.s, &root, "account", "create", "sequence-"+strconv.FormatInt(n, 10), "--account-id", account); err != nil {
		return err
	}
	owner := &server{t: q.s.t, dir: q.s.dir, env: maps.Clone(q.s.env)}
	owner.env["AWS_ACCESS_KEY_ID"], owner.env["AWS_SECRET_ACCESS_KEY"] = root.AccessKeyID, root.SecretAccessKey
	var cluster struct{ ARN, Issuer string }
	if err := q.lanyard(owner, &cluster, "cluster", "register", "demo"); err != nil {
		return err
	}
	issuer, err := url.Parse(cluster.Issuer)
	if err != nil {
		return err
	}
	// Nothing but the cluster: eksctl and Terraform make the provider themselves.
	provider := "arn:aws:iam::" + account + ":oidc-provider/" + issuer.Hostname() + issuer.Path
	for name, value := range map[string]string{
		"ACCOUNT": account, "CLUSTER": cluster.ARN, "NAMESPACE": fmt.Sprintf("web%d", n), "PROVIDER": provider,
		"ISSUER": cluster.Issuer, "ISSUER_HOST": issuer.Hostname(), "ISSUER_PATH": issuer.Path,
	} {
		env.Setenv(name, value)
	}
	documents, err := filepath.Glob("sequences/documents/*")
	if err != nil {
		return err
	}
	for _, file := range documents {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, filepath.Base(file)), data, 0o600); err != nil {
			return err
		}
	}
	script := &sequence{all: q, config: owner.aws()}
	env.Values[sequenceKey{}] = script
	env.Defer(func() { script.begin("") })
	return nil
}

// lanyard runs the CLI and decodes what it prints.
func (q *sequences) lanyard(s *server, into any, args ...string) error {
	out, errs, err := s.lanyard(append(args, "-o", "json")...)
	if err != nil {
		return fmt.Errorf("lanyard %s: %w\n%s", strings.Join(args, " "), err, errs)
	}
	return json.Unmarshal([]byte(out), into)
}

// begin ends the section that runs and begins that of a command, or of none.
func (s *sequence) begin(command string) {
	if s.section.command != "" {
		s.all.mu.Lock()
		s.all.ran = append(s.all.ran, s.section)
		s.all.mu.Unlock()
	}
	s.section = section{command: command}
}

// call makes one call of the section that runs.
func (s *sequence) call(make func() error) error {
	start := time.Now()
	err := make()
	s.section.calls++
	s.section.spent += time.Since(start)
	return err
}

// of is the script that runs, if its command was given what it takes.
func of(ts *testscript.TestScript, ok bool, usage string) *sequence {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
	return ts.Value(sequenceKey{}).(*sequence)
}

func scriptTerraform(ts *testscript.TestScript, neg bool, args []string) {
	of(ts, !neg && len(args) > 0, "terraform ARG…").begin("terraform " + strings.Join(args, " "))
}

func scriptSetup(ts *testscript.TestScript, neg bool, args []string) {
	of(ts, !neg && len(args) == 0, "setup").begin("")
}

// scriptEksctl makes the calls that every command begins with, and looks at what eksctl takes from the answers without asking whether
// it is there.
func scriptEksctl(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) > 0, "eksctl ARG…")
	s.begin("eksctl " + strings.Join(args, " "))
	ctx := context.Background()
	ts.Check(s.call(func() error {
		_, err := sts.NewFromConfig(s.config).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		return err
	}))
	client := eks.NewFromConfig(s.config)
	var cluster *eks.DescribeClusterOutput
	ts.Check(s.call(func() (err error) {
		cluster, err = client.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: aws.String("demo")})
		return err
	}))
	c := cluster.Cluster
	ca, err := base64.StdEncoding.DecodeString(*c.CertificateAuthority.Data)
	ts.Check(err)
	if block, _ := pem.Decode(ca); block == nil || c.Status != "ACTIVE" || *c.Name != "demo" || *c.Arn != ts.Getenv("CLUSTER") || *c.Endpoint == "" || *c.Version == "" ||
		!strings.HasPrefix(*c.Identity.Oidc.Issuer, "https://") || c.ConnectorConfig != nil || c.Id != nil {
		ts.Fatalf("eksctl would not go on with the cluster %+v", c)
	}
	var versions *eks.DescribeClusterVersionsOutput
	ts.Check(s.call(func() (err error) {
		versions, err = client.DescribeClusterVersions(ctx, &eks.DescribeClusterVersionsInput{})
		return err
	}))
	if len(versions.ClusterVersions) == 0 {
		ts.Fatalf("eksctl takes the first of the cluster versions, and there is none")
	}
}

// client returns the SDK's client for a service.
func (s *sequence) client(service string) (any, error) {
	switch service {
	case "cloudformation":
		return cloudformation.NewFromConfig(s.config), nil
	case "eks":
		return eks.NewFromConfig(s.config), nil
	case "iam":
		return iam.NewFromConfig(s.config), nil
	case "sts":
		return sts.NewFromConfig(s.config), nil
	}
	return nil, fmt.Errorf("there is no client for the service %q", service)
}

// input makes the SDK's input of a type, whose fields are parameters.
func input(ts *testscript.TestScript, kind reflect.Type, params []string) (reflect.Value, error) {
	members := map[string]json.RawMessage{}
	for _, p := range params {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return reflect.Value{}, fmt.Errorf("%q is no parameter", p)
		}
		switch file, isFile := strings.CutPrefix(value, "@"); {
		case strings.HasSuffix(name, ":"):
			members[strings.TrimSuffix(name, ":")] = json.RawMessage(value)
			continue
		case isFile:
			value = readDocument(ts, file)
		}
		text, err := json.Marshal(value)
		if err != nil {
			return reflect.Value{}, err
		}
		members[name] = text
	}
	text, err := json.Marshal(members)
	if err != nil {
		return reflect.Value{}, err
	}
	in := reflect.New(kind)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return in, d.Decode(in.Interface())
}

var placeholder = regexp.MustCompile(`\{\{([A-Z_]+)\}\}`)

// readDocument reads a file of a script with the variables in it.
func readDocument(ts *testscript.TestScript, file string) string {
	return placeholder.ReplaceAllStringFunc(ts.ReadFile(file), func(name string) string {
		return ts.Getenv(strings.Trim(name, "{}"))
	})
}

// plain is an answer of the SDK as JSON has it, without members that are nil.
func plain(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var answer any
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	var prune func(any) any
	prune = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			delete(v, "ResultMetadata")
			for name, member := range v {
				if member == nil {
					delete(v, name)
				} else {
					v[name] = prune(member)
				}
			}
		case []any:
			for i := range v {
				v[i] = prune(v[i])
			}
		}
		return v
	}
	return prune(answer), nil
}

// keep makes an answer the last one and prints it.
func (s *sequence) keep(ts *testscript.TestScript, answer any) {
	s.answer = answer
	text, err := json.MarshalIndent(answer, "", "  ")
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s\n", text)
}

func scriptAWS(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, len(args) >= 2, "[!] aws SERVICE OPERATION [PARAM]…")
	client, err := s.client(args[0])
	ts.Check(err)
	method := reflect.ValueOf(client).MethodByName(args[1])
	if !method.IsValid() || method.Type().NumIn() != 3 {
		ts.Fatalf("%s has no operation %s", args[0], args[1])
	}
	in, err := input(ts, method.Type().In(1).Elem(), args[2:])
	ts.Check(err)
	var out []reflect.Value
	err = s.call(func() error {
		out = method.Call([]reflect.Value{reflect.ValueOf(context.Background()), in})
		err, _ := out[1].Interface().(error)
		return err
	})
	if err != nil {
		refusal, isRefusal := errors.AsType[smithy.APIError](err)
		response, isResponse := errors.AsType[*smithyhttp.ResponseError](err)
		if !neg || !isRefusal || !isResponse {
			ts.Fatalf("%v", err)
		}
		fmt.Fprintf(ts.Stderr(), "%s %d: %s\n", refusal.ErrorCode(), response.HTTPStatusCode(), refusal.ErrorMessage())
		return
	}
	answer, err := plain(out[0].Interface())
	ts.Check(err)
	s.keep(ts, answer)
	if neg {
		ts.Fatalf("it was not refused")
	}
}

// waiters are the functions that make the SDK's waiters, by service and name.
func waiters() map[string]any {
	return map[string]any{
		"cloudformation StackCreateComplete":     cloudformation.NewStackCreateCompleteWaiter,
		"cloudformation StackUpdateComplete":     cloudformation.NewStackUpdateCompleteWaiter,
		"cloudformation StackDeleteComplete":     cloudformation.NewStackDeleteCompleteWaiter,
		"cloudformation ChangeSetCreateComplete": cloudformation.NewChangeSetCreateCompleteWaiter,
		"eks AddonActive":                        eks.NewAddonActiveWaiter,
		"eks AddonDeleted":                       eks.NewAddonDeletedWaiter,
		"iam PolicyExists":                       iam.NewPolicyExistsWaiter,
		"iam RoleExists":                         iam.NewRoleExistsWaiter,
	}
}

// oneLook is how long a waiter waits in all, and also pauses: there is time for one look, however long that takes, and for no other.
const oneLook = time.Minute

func scriptWaiter(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, len(args) >= 2, "[!] waiter SERVICE NAME [PARAM]…")
	newWaiter, ok := waiters()[args[0]+" "+args[1]]
	if !ok {
		ts.Fatalf("%s has no waiter %s", args[0], args[1])
	}
	client, err := s.client(args[0])
	ts.Check(err)
	waiter := reflect.ValueOf(newWaiter).Call([]reflect.Value{reflect.ValueOf(client)})[0]
	wait := waiter.MethodByName("Wait")
	in, err := input(ts, wait.Type().In(1).Elem(), args[2:])
	ts.Check(err)
	once := reflect.MakeFunc(wait.Type().In(3).Elem(), func(options []reflect.Value) []reflect.Value {
		for _, pause := range []string{"MinDelay", "MaxDelay"} {
			options[0].Elem().FieldByName(pause).Set(reflect.ValueOf(oneLook))
		}
		return nil
	})
	err = s.call(func() error {
		out := wait.Call([]reflect.Value{reflect.ValueOf(context.Background()), in, reflect.ValueOf(oneLook), once})
		err, _ := out[0].Interface().(error)
		return err
	})
	switch {
	case neg && err == nil:
		ts.Fatalf("it found what it waits for")
	case neg:
		fmt.Fprintln(ts.Stderr(), err)
	default:
		ts.Check(err)
	}
}

// stackNames are the stacks that eksctl takes for those of a cluster.
var stackNames = regexp.MustCompile(`^(eksctl|EKS)-demo-(cluster|nodegroup-.+|addon-.+|podidentityrole-.+|fargate|karpenter|access-entry-.+|capability-.+)$`)

func scriptStacks(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) == 0, "stacks")
	client := cloudformation.NewFromConfig(s.config)
	filter := []cfntypes.StackStatus{ // all that eksctl knows but DELETE_COMPLETE
		"CREATE_IN_PROGRESS", "CREATE_FAILED", "CREATE_COMPLETE", "ROLLBACK_IN_PROGRESS", "ROLLBACK_FAILED", "ROLLBACK_COMPLETE", "DELETE_IN_PROGRESS",
		"DELETE_FAILED", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_IN_PROGRESS",
		"UPDATE_ROLLBACK_FAILED", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS",
	}
	found := []any{}
	for pages := cloudformation.NewListStacksPaginator(client, &cloudformation.ListStacksInput{StackStatusFilter: filter}); pages.HasMorePages(); {
		var page *cloudformation.ListStacksOutput
		ts.Check(s.call(func() (err error) {
			page, err = pages.NextPage(context.Background())
			return err
		}))
		for _, summary := range page.StackSummaries {
			if !stackNames.MatchString(*summary.StackName) {
				continue
			}
			var out *cloudformation.DescribeStacksOutput
			ts.Check(s.call(func() (err error) {
				out, err = client.DescribeStacks(context.Background(), &cloudformation.DescribeStacksInput{StackName: summary.StackId})
				return err
			}))
			stack, err := plain(out.Stacks[0])
			ts.Check(err)
			found = append(found, stack)
		}
	}
	s.keep(ts, map[string]any{"Stacks": found})
}

func scriptIssuer(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) == 0, "issuer")
	ca, err := os.ReadFile(filepath.Join(s.all.s.dir, "ca.pem"))
	ts.Check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	var reply *http.Response
	ts.Check(s.call(func() (err error) {
		reply, err = client.Get(ts.Getenv("ISSUER"))
		return err
	}))
	ts.Check(reply.Body.Close())
	chain := reply.TLS.PeerCertificates
	sum := sha1.Sum(chain[len(chain)-1].Raw)
	ts.Setenv("THUMBPRINT", hex.EncodeToString(sum[:]))
}

// part finds a part of an answer.
func part(v any, path []string) (any, bool) {
	for _, key := range path {
		switch of := v.(type) {
		case map[string]any:
			member, ok := of[key]
			if !ok {
				return nil, false
			}
			v = member
		case []any:
			name, value, isMatch := strings.Cut(key, "=")
			i, err := strconv.Atoi(key)
			switch {
			case key == "length":
				v = float64(len(of))
				continue
			case isMatch:
				i = slices.IndexFunc(of, func(one any) bool { m, ok := one.(map[string]any); return ok && m[name] == value })
			case err != nil:
				return nil, false
			}
			if i < 0 || i >= len(of) {
				return nil, false
			}
			v = of[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// must finds a part of the last answer, which must be there.
func (s *sequence) must(ts *testscript.TestScript, path []string) any {
	v, ok := part(s.answer, path)
	if !ok {
		ts.Fatalf("the last answer has no %s", strings.Join(path, " "))
	}
	return v
}

func scriptCapture(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) >= 2, "capture NAME KEY…")
	text, ok := s.must(ts, args[1:]).(string)
	if !ok {
		ts.Fatalf("%s is no text", strings.Join(args[1:], " "))
	}
	ts.Setenv(args[0], text)
}

func scriptWant(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) >= 2, "want VALUE KEY…")
	got := s.must(ts, args[1:])
	var want any = args[0]
	if _, isText := got.(string); !isText {
		if err := json.Unmarshal([]byte(args[0]), &want); err != nil {
			ts.Fatalf("%s is %v, which is no text", strings.Join(args[1:], " "), got)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		ts.Fatalf("%s (-want +got):\n%s", strings.Join(args[1:], " "), diff)
	}
}

func scriptAbsent(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) >= 1, "absent KEY…")
	if v, ok := part(s.answer, args); ok {
		ts.Fatalf("%s is %v", strings.Join(args, " "), v)
	}
}

func scriptTags(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) >= 2, "tags JSON KEY…")
	got := s.must(ts, args[1:])
	if list, ok := got.([]any); ok {
		tags := map[string]any{}
		for _, one := range list {
			tag, _ := one.(map[string]any)
			key, _ := tag["Key"].(string)
			if _, twice := tags[key]; twice {
				ts.Fatalf("the tag %s is there twice", key)
			}
			tags[key] = tag["Value"]
		}
		got = tags
	}
	var want any
	ts.Check(json.Unmarshal([]byte(args[0]), &want))
	if diff := cmp.Diff(want, got); diff != "" {
		ts.Fatalf("%s (-want +got):\n%s", strings.Join(args[1:], " "), diff)
	}
}

func scriptSame(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, !neg && len(args) >= 2, "same FILE KEY…")
	encoded, _ := s.must(ts, args[1:]).(string)
	text, err := url.PathUnescape(encoded)
	ts.Check(err)
	// Terraform decodes it as a form, where a plus would be a space.
	if form, err := url.QueryUnescape(encoded); err != nil || strings.HasPrefix(encoded, "%") && form != text {
		ts.Fatalf("%s reads differently as a path and as a form: %s", strings.Join(args[1:], " "), encoded)
	}
	var got, want any
	ts.Check(json.Unmarshal([]byte(text), &got))
	ts.Check(json.Unmarshal([]byte(readDocument(ts, args[0])), &want))
	if diff := cmp.Diff(want, got); diff != "" {
		ts.Fatalf("%s (-want +got):\n%s", strings.Join(args[1:], " "), diff)
	}
}

func scriptKubernetes(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts, len(args) == 2 || len(args) == 3, "[!] kubernetes METHOD PATH [FILE]")
	body := ""
	if len(args) == 3 {
		body = readDocument(ts, args[2])
	}
	var data []byte
	err := s.call(func() (err error) {
		data, err = s.all.k.do(args[0], args[1], body)
		return err
	})
	if neg {
		if err == nil {
			ts.Fatalf("it was not refused")
		}
		fmt.Fprintln(ts.Stderr(), err)
		return
	}
	ts.Check(err)
	var answer any
	ts.Check(json.Unmarshal(data, &answer))
	s.keep(ts, answer)
}
