package sts

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/policy"
)

// An encoded authorization message is the base64, for URLs and without padding, of a sealed JSON document: what AWS's
// DecodeAuthorizationMessage answers (AWS STS API Reference). Only the caller's account can have it opened, for as long as the
// keyring keeps the data key.
const (
	maxEncodedMessage = 10240 // characters (the model's bound on EncodedMessage)
	sealOverhead      = 45    // bytes, of keyring.Seal
	maxMessage        = maxEncodedMessage/4*3 - sealOverhead
)

func messagePurpose(account string) string { return "authorization-message/" + account }

// The members of the document. Each list is an object with the member items.
type (
	messageItems[T any] struct {
		Items []T `json:"items"`
	}
	messageValue struct {
		Value string `json:"value"`
	}
	messageCondition struct {
		Key    string                     `json:"key"`
		Values messageItems[messageValue] `json:"values"`
	}
	messageStatement struct {
		StatementID     string                         `json:"statementId"`
		Effect          string                         `json:"effect"`
		Principals      messageItems[messageValue]     `json:"principals"`
		PrincipalGroups messageItems[messageValue]     `json:"principalGroups"`
		Actions         messageItems[messageValue]     `json:"actions"`
		NotActions      *messageItems[messageValue]    `json:"notActions,omitempty"`
		Resources       messageItems[messageValue]     `json:"resources"`
		NotResources    *messageItems[messageValue]    `json:"notResources,omitempty"`
		Conditions      messageItems[messageCondition] `json:"conditions"`
	}
	messagePrincipal struct {
		ID   string `json:"id"`
		Name string `json:"name,omitempty"` // of a user
		ARN  string `json:"arn"`
	}
	messageContext struct {
		Principal  messagePrincipal               `json:"principal"`
		Action     string                         `json:"action"`
		Resource   string                         `json:"resource"`
		Conditions messageItems[messageCondition] `json:"conditions"`
	}
	message struct {
		Allowed           bool                           `json:"allowed"`
		ExplicitDeny      bool                           `json:"explicitDeny"`
		MatchedStatements messageItems[messageStatement] `json:"matchedStatements"`
		Failures          messageItems[struct{}]         `json:"failures"`
		Context           messageContext                 `json:"context"`
	}
)

func itemsOf[T any](list []T) messageItems[T] { return messageItems[T]{append([]T{}, list...)} }

func valuesOf(list []string) messageItems[messageValue] {
	values := messageItems[messageValue]{make([]messageValue, len(list))}
	for i, v := range list {
		values.Items[i].Value = v
	}
	return values
}

// EncodeDenial returns the encoded authorization message of a permission that the caller was denied: why, with the values
// of the request's condition keys, of which the longest are left out if the message would be longer than 10,240
// characters. DecodeAuthorizationMessage opens it, for the caller's account only. Errors mean that the caller's policies
// cannot be had, or that nothing can be sealed.
func (s *Service) EncodeDenial(_ context.Context, c *awsapi.Caller, a awsapi.Access) (string, error) {
	explained, err := s.iam.Explain(c, a)
	if err != nil {
		return "", err
	}
	m, err := newMessage(c, explained)
	if err != nil {
		return "", err
	}
	text, err := shorten(m)
	if err != nil {
		return "", err
	}
	sealed, err := s.keyring.Seal(messagePurpose(c.Account), text)
	if err != nil {
		return "", fmt.Errorf("seal authorization message: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

func newMessage(c *awsapi.Caller, explained *iam.Explained) (*message, error) {
	statements, err := deniers(c, explained)
	if err != nil {
		return nil, err
	}
	m := &message{
		Allowed: explained.Decision.Allowed, ExplicitDeny: explained.Decision.Explicit,
		MatchedStatements: itemsOf(statements), Failures: itemsOf[struct{}](nil),
		Context: messageContext{
			Principal: messagePrincipal{ID: c.UserID, ARN: c.ARN},
			Action:    explained.Request.Action, Resource: explained.Request.Resource,
			Conditions: itemsOf[messageCondition](nil),
		},
	}
	if c.Kind == policy.User {
		m.Context.Principal.Name = c.EntityARN[strings.LastIndexByte(c.EntityARN, '/')+1:]
	}
	for key, values := range explained.Request.Context.All() {
		m.Context.Conditions.Items = append(m.Context.Conditions.Items, messageCondition{key, valuesOf(values)})
	}
	return m, nil
}

// shorten returns the message's JSON, without as many condition keys and then matched statements as make it too long.
func shorten(m *message) ([]byte, error) {
	for {
		text, err := marshal(m)
		if err != nil || len(text) <= maxMessage {
			return text, err
		}
		conditions, statements := &m.Context.Conditions.Items, &m.MatchedStatements.Items
		switch {
		case len(*conditions) > 0:
			longest := 0
			for i := range *conditions {
				if (*conditions)[i].size() > (*conditions)[longest].size() {
					longest = i
				}
			}
			*conditions = slices.Delete(*conditions, longest, longest+1)
		case len(*statements) > 0:
			*statements = (*statements)[:len(*statements)-1]
		default:
			return nil, fmt.Errorf("authorization message of %d bytes is longer than %d", len(text), maxMessage)
		}
	}
}

func (c *messageCondition) size() int {
	n := len(c.Key)
	for _, v := range c.Values.Items {
		n += len(v.Value)
	}
	return n
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode authorization message: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// deniers returns the statements that deny explicitly. What they say is left out where the policy's text is not found.
func deniers(c *awsapi.Caller, explained *iam.Explained) ([]messageStatement, error) {
	var list []messageStatement
	for _, layer := range explained.Decision.Explanation.Layers {
		for _, st := range layer.Statements {
			if !st.Applies || st.Effect != "Deny" {
				continue
			}
			m := messageStatement{
				StatementID: st.Sid, Effect: "DENY",
				Principals: valuesOf([]string{c.EntityID}), PrincipalGroups: valuesOf(nil),
				Actions: valuesOf(nil), Resources: valuesOf(nil), Conditions: itemsOf[messageCondition](nil),
			}
			if text, ok := explained.Document(st.Policy); ok {
				if err := m.fill(text, st.Statement); err != nil {
					return nil, fmt.Errorf("read policy %s: %w", st.Policy, err)
				}
			}
			list = append(list, m)
		}
	}
	return list, nil
}

// fill adds what the statement at an index of a document says.
func (m *messageStatement) fill(document string, index int) error {
	var d struct{ Statement oneOrMore[policyStatement] }
	if err := json.Unmarshal([]byte(document), &d); err != nil {
		return err
	}
	if index >= len(d.Statement) { // it was changed since the decision
		return fmt.Errorf("there is no statement %d", index)
	}
	st := d.Statement[index]
	m.Actions, m.Resources = valuesOf(st.Action.texts()), valuesOf(st.Resource.texts())
	if not := valuesOf(st.NotAction.texts()); len(not.Items) > 0 {
		m.NotActions = &not
	}
	if not := valuesOf(st.NotResource.texts()); len(not.Items) > 0 {
		m.NotResources = &not
	}
	for _, operator := range slices.Sorted(maps.Keys(st.Condition)) {
		for _, key := range slices.Sorted(maps.Keys(st.Condition[operator])) {
			values := st.Condition[operator][key]
			m.Conditions.Items = append(m.Conditions.Items, messageCondition{key, valuesOf(values.texts())})
		}
	}
	return nil
}

type policyStatement struct {
	Action, NotAction, Resource, NotResource oneOrMore[scalar]
	Condition                                map[string]map[string]oneOrMore[scalar]
}

// oneOrMore is a list that may be written as its only element.
type oneOrMore[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *oneOrMore[T]) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte("[")) {
		return json.Unmarshal(text, (*[]T)(l))
	}
	*l = make(oneOrMore[T], 1)
	return json.Unmarshal(text, &(*l)[0])
}

// scalar is a string, a number or a boolean, which policies take for their texts.
type scalar string

// UnmarshalJSON implements json.Unmarshaler.
func (s *scalar) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte(`"`)) {
		return json.Unmarshal(text, (*string)(s))
	}
	*s = scalar(text)
	return nil
}

func (l oneOrMore[T]) texts() []string {
	list := make([]string, len(l))
	for i, v := range l {
		list[i] = fmt.Sprint(v)
	}
	return list
}

type decodeMessageInput struct{ EncodedMessage string }

type decodeMessageOutput struct{ DecodedMessage string }

func decodeMessageAccess(c *awsapi.Caller, in *decodeMessageInput) ([]awsapi.Access, error) {
	if c.Session != nil && c.Kind != policy.RoleSession {
		return nil, sessionCredentials("DecodeAuthorizationMessage")
	}
	return []awsapi.Access{{Action: "sts:DecodeAuthorizationMessage", Resource: "*"}}, nil
}

func (s *Service) decodeAuthorizationMessage(_ context.Context, c *awsapi.Caller, in *decodeMessageInput) (*decodeMessageOutput, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(in.EncodedMessage)
	if at := strings.IndexAny(in.EncodedMessage, "\r\n"); err == nil && at >= 0 { // the decoder skips line breaks
		err = base64.CorruptInputError(at)
	}
	var text []byte
	if err == nil {
		text, err = s.keyring.Open(messagePurpose(c.Account), sealed)
	}
	if err != nil {
		invalid := awsapi.Errorf("InvalidAuthorizationMessageException", "Message is not valid")
		invalid.Cause = err
		return nil, invalid
	}
	return &decodeMessageOutput{string(text)}, nil
}
