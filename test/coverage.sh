#!/usr/bin/env bash
# Fails unless the tests of the policy engine run every one of its statements, and says which they do not.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=$(mktemp)
trap 'rm -f "$profile"' EXIT
"${GO:-go}" test -coverprofile "$profile" ./policy
# A line of the profile is FILE:LINE.COLUMN,LINE.COLUMN STATEMENTS RUNS.
if ! awk 'NR > 1 && $3 == 0 { print "no test runs " $1; missed = 1 } END { exit missed || NR < 2 }' "$profile" >&2; then
  echo "the policy engine must be tested whole" >&2
  exit 1
fi
