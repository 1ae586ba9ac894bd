package iam

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// reportLifetime is how long a credential report is taken as it is (IAM User Guide, "Getting credential reports").
const reportLifetime = 4 * time.Hour

// credentialReport is keyed by its account.
type credentialReport struct {
	Generated time.Time
	CSV       []byte // compressed by gzip
}

// The columns of a credential report (IAM User Guide, "Getting credential reports").
const credentialColumns = "user,arn,user_creation_time,password_enabled,password_last_used,password_last_changed,password_next_rotation," +
	"mfa_active,access_key_1_active,access_key_1_last_rotated,access_key_1_last_used_date,access_key_1_last_used_region," +
	"access_key_1_last_used_service,access_key_2_active,access_key_2_last_rotated,access_key_2_last_used_date," +
	"access_key_2_last_used_region,access_key_2_last_used_service,cert_1_active,cert_1_last_rotated,cert_2_active,cert_2_last_rotated"

type generateReportOut struct{ State, Description string }

// generateCredentialReport makes the report at once, though it says that it has started, as AWS does.
func (s *Service) generateCredentialReport(ctx context.Context, c *awsapi.Caller, _ *accountOnlyIn) (*generateReportOut, error) {
	now := s.time()
	if r, ok := s.reports.Get(c.Account); ok && now.Sub(r.Generated) < reportLifetime {
		return &generateReportOut{State: "COMPLETE"}, nil
	}
	content, err := s.credentialCSV(c.Account)
	if err != nil {
		return nil, fmt.Errorf("make the credential report of account %s: %w", c.Account, err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(content); err != nil {
		return nil, fmt.Errorf("compress the credential report: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress the credential report: %w", err)
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		s.reports.Write(tx, c.Account, &credentialReport{now, packed.Bytes()})
		return nil
	})
	return &generateReportOut{"STARTED", "No report exists. Starting a new report generation task"}, err
}

type credentialReportOut struct {
	Content       []byte
	ReportFormat  string
	GeneratedTime time.Time
}

func (s *Service) getCredentialReport(_ context.Context, c *awsapi.Caller, _ *accountOnlyIn) (*credentialReportOut, error) {
	r, ok := s.reports.Get(c.Account)
	if !ok {
		return nil, awsapi.Errorf("ReportNotPresent", "No report is present. Use GenerateCredentialReport to generate one.")
	}
	if s.time().Sub(r.Generated) >= reportLifetime {
		return nil, awsapi.Errorf("ReportExpired", "The report has expired. Use GenerateCredentialReport to generate another.")
	}
	packed, err := gzip.NewReader(bytes.NewReader(r.CSV))
	if err != nil {
		return nil, fmt.Errorf("unpack the credential report of account %s: %w", c.Account, err)
	}
	content, err := io.ReadAll(packed)
	if err != nil {
		return nil, fmt.Errorf("unpack the credential report of account %s: %w", c.Account, err)
	}
	return &credentialReportOut{content, "text/csv", r.Generated}, nil
}

// credentialCSV has a line for root and one for each user.
func (s *Service) credentialCSV(account string) ([]byte, error) {
	a, ok := s.accounts.Get(account)
	if !ok {
		return nil, noSuchAccount(account)
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	lines := [][]string{strings.Split(credentialColumns, ",")}
	line := func(name, ownARN string, created time.Time, password []string, keys []string) {
		columns := append([]string{name, ownARN, created.Format(time.RFC3339)}, password...)
		columns = append(columns, "false") // MFA
		for i := range maxAccessKeys {
			id := ""
			if i < len(keys) {
				id = keys[i]
			}
			columns = append(columns, s.keyColumns(id)...)
		}
		lines = append(lines, append(columns, "false", "N/A", "false", "N/A"))
	}
	line("<root_account>", s.rootARN(account), a.Created, []string{"not_supported", "no_information", "not_supported", "not_supported"}, a.AccessKeys)
	for _, r := range s.users.Scan(account+"/", "") {
		line(r.Name, s.userARN(&r.entity), r.Created, []string{"false", "N/A", "N/A", "N/A"}, r.AccessKeys)
	}
	if err := w.WriteAll(lines); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// keyColumns are whether an access key is active, when it was made, and when, where and for what it was last used. id is
// empty for a key that is not there.
func (s *Service) keyColumns(id string) []string {
	k, ok := s.keys.Get(id)
	if !ok {
		return []string{"false", "N/A", "N/A", "N/A", "N/A"}
	}
	columns := []string{strconv.FormatBool(k.Active), k.Created.Format(time.RFC3339), "N/A", "N/A", "N/A"}
	if u, service, ok := s.lastUse(id); ok {
		copy(columns[2:], []string{u.At.Format(time.RFC3339), u.Region, service})
	}
	return columns
}
