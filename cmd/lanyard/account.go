package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// accountView is an account as Lanyard's API shows it.
type accountView struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	ARN       string `json:"arn"`
	CreatedAt epoch  `json:"createdAt"`
}

func newAccountCommand(c *cli) *cobra.Command {
	return group("account", "Create and list accounts", newAccountCreate(c), newAccountList(c))
}

func newAccountCreate(c *cli) *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an account and print its root access key, which is shown only now",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			in := map[string]string{"name": args[0]}
			if id != "" {
				in["accountId"] = id
			}
			var out struct {
				Account         accountView `json:"account"`
				AccessKeyID     string      `json:"accessKeyId"`
				SecretAccessKey string      `json:"secretAccessKey"`
			}
			if err := lanyardAPI(cmd.Context(), cfg, http.MethodPost, "/lanyard/accounts", in, &out); err != nil {
				return fmt.Errorf("create account %s: %w", args[0], err)
			}
			return c.printFields(out, [][2]string{
				{"ID", out.Account.ID}, {"Name", out.Account.Name}, {"Access key ID", out.AccessKeyID}, {"Secret access key", out.SecretAccessKey},
			})
		},
	}
	cmd.Flags().StringVar(&id, "account-id", "", "the account's 12 digits (default: random)")
	return cmd
}

func newAccountList(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List accounts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			accounts := []accountView{}
			for token := ""; ; {
				var page struct {
					Accounts  []accountView `json:"accounts"`
					NextToken string        `json:"nextToken"`
				}
				path := "/lanyard/accounts"
				if token != "" {
					path += "?nextToken=" + url.QueryEscape(token)
				}
				if err := lanyardAPI(cmd.Context(), cfg, http.MethodGet, path, nil, &page); err != nil {
					return fmt.Errorf("list accounts: %w", err)
				}
				accounts = append(accounts, page.Accounts...)
				if token = page.NextToken; token == "" {
					break
				}
			}
			rows := [][]string{{"ID", "NAME", "AGE"}}
			for _, a := range accounts {
				rows = append(rows, []string{a.ID, a.Name, age(&a.CreatedAt.Time)})
			}
			return c.print(accounts, rows)
		},
	}
}
