package cloudformation

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// What evaluation makes of parameters may be secret: a parameter with NoEcho, an access key's secret. Therefore parameters, outputs,
// exports and resources' properties and attributes are in the store only in wrapped form.

// tag is a tag of a stack.
type tag struct{ Key, Value string }

// stackRow is a stack. It is keyed by "ACCOUNT/REGION/UUID", and rewritten with each step of its operation: what is large is
// elsewhere.
type stackRow struct {
	identity
	Created     time.Time
	Updated     time.Time // zero until the first update
	Deleted     time.Time // zero until then
	Status      string
	Reason      string `json:",omitempty"`
	Description string `json:",omitempty"`
	Protected   bool   `json:",omitempty"`
	// Current is the generation of the settings that the stack has, Next of those that an operation is about; 0 for none.
	Current int
	Next    int `json:",omitempty"`
	Last    int // highest generation ever given
	// DisableRollback and what follows are options of the last create or update.
	DisableRollback      bool   `json:",omitempty"`
	OnFailure            string `json:",omitempty"`
	RetainExceptOnCreate bool   `json:",omitempty"`
	Timeout              int32  `json:",omitempty"` // minutes
	ChangeSet            string `json:",omitempty"` // ARN of the one that was executed last
	Events               int64  // how many there ever were
	Requests             []requestToken
	Operation            *operation `json:",omitempty"` // under way
	LastOperations       []lastOperation
}

func (r *stackRow) clone() *stackRow {
	n := *r
	n.Requests = append([]requestToken(nil), r.Requests...)
	n.LastOperations = append([]lastOperation(nil), r.LastOperations...)
	if r.Operation != nil {
		o := *r.Operation
		n.Operation = &o
	}
	return &n
}

// requestToken remembers a ClientRequestToken, so that a repeated request has no further effect.
type requestToken struct{ Token, Operation string }

// lastOperation is as answers show it.
type lastOperation struct{ OperationType, OperationId string }

// operation is what is under way: who began it, and until when the replica that carries it out has it for itself.
type operation struct {
	ID     string // UUID
	Caller *awsapi.Caller
	Term   int       // how often it was taken over: a replica whose term is another one has lost it
	Until  time.Time // when it counts as abandoned, unless another step is taken before
	Token  string    `json:",omitempty"` // the ClientRequestToken
	Retain []string  `json:",omitempty"` // resources that a deletion leaves alone
}

// settings are what a create or an update gave a stack. They are keyed by the stack's key and the generation, and never change but
// for the outputs.
type settings struct {
	Template     string
	Capabilities []string
	Tags         []tag
	Imports      []string // names of exports
	Sealed       []byte   // settingsSecrets
}

type settingsSecrets struct {
	Parameters map[string]string
	Outputs    []outputValue // as they were when the operation was complete
}

type outputValue struct {
	Key         string
	Value       string
	Description string `json:",omitempty"`
	Export      string `json:",omitempty"`
}

// resourceRow is a resource of a stack, keyed by the stack's key and the logical ID.
type resourceRow struct {
	ID       string // logical
	Type     string
	Physical string `json:",omitempty"`
	Status   string
	Reason   string `json:",omitempty"`
	Updated  time.Time
	Sealed   []byte // resourceSecrets
}

// resourceSecrets are a resource's states. Of a resource that an operation touches, Before is what the operation found, nil if
// there was none, and State what it is at last.
type resourceSecrets struct {
	State   *state  `json:",omitempty"`
	Touched bool    `json:",omitempty"` // by an operation on the generation Base that is not over
	Base    int     `json:",omitempty"`
	Before  *state  `json:",omitempty"`
	Intent  *intent `json:",omitempty"`
	Discard []state `json:",omitempty"` // made by the operation, and replaced again
}

// eventRow is keyed by the stack's key and the event's number.
type eventRow struct {
	ID       string
	Logical  string
	Physical string `json:",omitempty"`
	Type     string
	Status   string
	Reason   string `json:",omitempty"`
	Time     time.Time
	Token    string `json:",omitempty"`
}

// maxEvents is how many events a stack keeps.
const maxEvents = 5000

// exportRow is keyed by "ACCOUNT/REGION/NAME".
type exportRow struct {
	Stack     string // key
	Sealed    []byte // the value
	Importers []string
}

// nameRow says which stack has a name; a deleted stack has none. It is keyed by "ACCOUNT/REGION/NAME".
type nameRow struct{ Stack string }

// changeSetRow is keyed by the stack's key and the change set's name.
type changeSetRow struct {
	ID             string // ARN
	Name           string
	Type           string // CREATE or UPDATE
	Description    string
	Created        time.Time
	Status         string
	Reason         string
	Execution      string
	OnStackFailure string
	IncludeNested  bool
	Token          string
	Base           int // the generation that the stack had
	Settings       settings
	Changes        []changeRecord
}

type changeRecord struct {
	Action      string
	Logical     string
	Physical    string
	Type        string
	Replacement string
	Policy      string
	Scope       []string
	Details     []changeDetail
}

type changeDetail struct {
	Attribute  string
	Name       string
	Recreation string
	Evaluation string
	Source     string
	Cause      string
}

func stackKey(i identity) string { return i.Account + "/" + i.Region + "/" + i.ID }

func scopeOf(c *awsapi.Caller) string { return c.Account + "/" + c.Region + "/" }

func generationKey(stack string, generation int) string {
	return fmt.Sprintf("%s/%d", stack, generation)
}

func eventKey(stack string, number int64) string { return fmt.Sprintf("%s/%012d", stack, number) }

// seal wraps what must not be in the store in the clear. purpose is the row's key.
func (s *Service) seal(purpose string, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode what %s keeps: %w", purpose, err)
	}
	sealed, err := s.keyring.Wrap("cloudformation/"+purpose, text)
	if err != nil {
		return nil, fmt.Errorf("wrap what %s keeps: %w", purpose, err)
	}
	return sealed, nil
}

func (s *Service) open(purpose string, sealed []byte, v any) error {
	text, err := s.keyring.Unwrap("cloudformation/"+purpose, sealed)
	if err != nil {
		return fmt.Errorf("unwrap what %s keeps: %w", purpose, err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("decode what %s keeps: %w", purpose, err)
	}
	return nil
}

// held is a resource with its states open.
type held struct {
	row *resourceRow
	resourceSecrets
}

func (s *Service) resourcesOf(stack string) (map[string]*held, error) {
	all := map[string]*held{}
	for key, row := range s.resources.Scan(stack+"/", "") {
		h := &held{row: row}
		if err := s.open(key, row.Sealed, &h.resourceSecrets); err != nil {
			return nil, err
		}
		all[row.ID] = h
	}
	return all, nil
}

// generation reads a stack's settings.
func (s *Service) generation(stack string, generation int) (*settings, *settingsSecrets, error) {
	key := generationKey(stack, generation)
	row, ok := s.settings.Get(key)
	if !ok {
		return nil, nil, fmt.Errorf("the settings %s are not there", key)
	}
	secrets := new(settingsSecrets)
	if err := s.open(key, row.Sealed, secrets); err != nil {
		return nil, nil, err
	}
	return row, secrets, nil
}

// findStack finds a stack by its name, or by its ID, by which deleted ones are found too.
func (s *Service) findStack(c *awsapi.Caller, nameOrID string) (*stackRow, bool) {
	if !strings.HasPrefix(nameOrID, "arn:") {
		n, ok := s.names.Get(scopeOf(c) + nameOrID)
		if !ok {
			return nil, false
		}
		return s.stacks.Get(n.Stack)
	}
	id := nameOrID[strings.LastIndexByte(nameOrID, '/')+1:]
	st, ok := s.stacks.Get(scopeOf(c) + id)
	if !ok || st.ARN() != nameOrID {
		return nil, false
	}
	return st, true
}

// readStack is findStack in a transaction.
func (s *Service) readStack(tx *kv.Tx, c *awsapi.Caller, nameOrID string) (*stackRow, bool) {
	if !strings.HasPrefix(nameOrID, "arn:") {
		n, ok := s.names.Read(tx, scopeOf(c)+nameOrID)
		if !ok {
			return nil, false
		}
		return s.stacks.Read(tx, n.Stack)
	}
	id := nameOrID[strings.LastIndexByte(nameOrID, '/')+1:]
	st, ok := s.stacks.Read(tx, scopeOf(c)+id)
	if !ok || st.ARN() != nameOrID {
		return nil, false
	}
	return st, true
}
