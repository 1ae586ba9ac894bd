#!/usr/bin/env bash
# Fuzzes every target of the packages given, or of all packages, one after the other: fuzz.sh TIME [PACKAGE]...
# Inputs of interest are kept in .cache/fuzz, so that the next run goes on from there. All targets are run, also after one failed.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:?usage: fuzz.sh TIME [PACKAGE]...}
shift
go=${GO:-go}

# go list knows which files are tests of which package, whatever lies beside them.
format='{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}
{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}
{{end}}'
files=$("$go" list -f "$format" "${@:-./...}")

# Go's fuzzer can take the end of its time for a failure when it comes between two of its contexts: it then says nothing but this. An input that
# fails, or hangs, is always named, and takes the place of these words.
time_ended() {
  awk '/^--- FAIL: /{getline; failure = $0; more = 0; next} failure && !/^(FAIL|exit status 1|)($|\t)/{more = 1}
    END {exit !(failure == "    context deadline exceeded" && !more)}' "$1"
}

count=0
failed=()
output=$(mktemp)
trap 'rm -f "$output"' EXIT
while read -r package file; do
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
    count=$((count + 1))
    echo "== $package $target"
    # go test succeeds where there was nothing to fuzz, so its words are looked at too.
    if { "$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 5s "$package" \
      -args -test.fuzzcachedir="$PWD/.cache/fuzz/$package" </dev/null 2>&1 | tee "$output" || time_ended "$output"; } &&
      grep -q '^fuzz: elapsed: .*execs: ' "$output"; then
      continue
    fi
    failed+=("$package $target")
  done
done < <(echo "$files" | grep . || true)

if ((count == 0)); then
  echo "there are no fuzz targets in ${*:-./...}" >&2
  exit 1
fi
if ((${#failed[@]} > 0)); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "$count targets were fuzzed for $time each"
