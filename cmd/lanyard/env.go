package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newEnvCommand(c *cli) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the shell lines that point AWS's tools at a dev server",
		Example: `  eval "$(lanyard env)"
  aws s3 ls`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := os.ReadFile(filepath.Join(dir, "env"))
			if errors.Is(err, fs.ErrNotExist) {
				return withHint(fmt.Errorf("no dev server has run with the data directory %s", dir),
					"start one with `lanyard dev`, or name its directory with --data-dir")
			}
			if err != nil {
				return fmt.Errorf("read the dev server's environment: %w", err)
			}
			_, err = c.out.Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", defaultDataDir(), "the dev server's data directory")
	return cmd
}
