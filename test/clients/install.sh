#!/usr/bin/env bash
# Installs what the client programs need, below the folder given (default: .cache/clients), and builds them. What is
# there already for the same versions is kept. For each toolchain that this machine lacks it says so and goes on; the
# file "missing" in the folder then lists the clients left out.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-$here/../../.cache/clients}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
: >"$cache/missing"

# has CLIENT COMMAND…: whether the client's toolchain is here.
has() {
  local client=$1 command
  shift
  for command in "$@"; do
    command -v "$command" >/dev/null && continue
    left_out "$client" "no $command on this machine"
    return 1
  done
}

# left_out CLIENT WHY
left_out() {
  echo "left out: $1 ($2)" >&2
  echo "$1" >>"$cache/missing"
}

# fresh CLIENT VERSION FILE…: whether the client was installed here from exactly these files, by this version of its toolchain.
fresh() {
  local client=$1 version=$2
  shift 2
  sum=$({ echo "$cache $version" && cat "$@"; } | cksum)
  [ -f "$cache/$client/.installed" ] && [ "$(cat "$cache/$client/.installed")" = "$sum" ]
}

installed() { echo "$sum" >"$cache/$1/.installed"; }

for client in gov1 gov2; do
  mkdir -p "$cache/$client"
  (cd "$here/$client" && go build -o "$cache/$client/client" .)
done

if has python python3; then
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    left_out python "no venv in this machine's python3"
  elif ! fresh python "$(python3 --version)" "$here/python/requirements.txt"; then
    rm -rf "$cache/python"
    python3 -m venv "$cache/python"
    "$cache/python/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
    installed python
  fi
fi

if has js node npm; then
  if ! fresh js "$(node --version)" "$here/js/package.json" "$here/js/package-lock.json"; then
    rm -rf "$cache/js"
    mkdir -p "$cache/js"
    cp "$here"/js/package*.json "$cache/js/"
    npm ci --prefix "$cache/js" --no-audit --no-fund --loglevel=error
    installed js
  fi
  cp "$here/js/client.mjs" "$cache/js/"
fi

if has java java javac mvn; then
  if ! fresh java "$(javac -version 2>&1)" "$here/java/pom.xml" "$here/java/src/main/java/Client.java"; then
    rm -rf "$cache/java"
    mkdir -p "$cache/java"
    cp -r "$here/java/pom.xml" "$here/java/src" "$cache/java/"
    (cd "$cache/java" && mvn --quiet --batch-mode -Dstyle.color=never compile dependency:copy-dependencies)
    installed java
  fi
fi
