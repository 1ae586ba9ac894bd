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

# has CLIENT COMMAND: whether the client's toolchain is here.
has() {
  command -v "$2" >/dev/null && return 0
  echo "left out: $1 (no $2 on this machine)" >&2
  echo "$1" >>"$cache/missing"
  return 1
}

# fresh CLIENT FILE…: whether the client was installed from exactly these files.
fresh() {
  local client=$1
  shift
  sum=$(cat "$@" | sha256sum)
  [ -f "$cache/$client/.installed" ] && [ "$(cat "$cache/$client/.installed")" = "$sum" ]
}

installed() { echo "$sum" >"$cache/$1/.installed"; }

for client in gov1 gov2; do
  mkdir -p "$cache/$client"
  (cd "$here/$client" && go build -o "$cache/$client/client" .)
done

if has python python3; then
  if ! fresh python "$here/python/requirements.txt"; then
    rm -rf "$cache/python"
    python3 -m venv "$cache/python"
    "$cache/python/bin/pip" install --quiet -r "$here/python/requirements.txt"
    installed python
  fi
fi

if has js npm; then
  if ! fresh js "$here/js/package.json" "$here/js/package-lock.json"; then
    rm -rf "$cache/js"
    mkdir -p "$cache/js"
    cp "$here"/js/package*.json "$cache/js/"
    npm ci --prefix "$cache/js" --no-audit --no-fund --loglevel=error
    installed js
  fi
  cp "$here/js/client.mjs" "$cache/js/"
fi

if has java mvn; then
  if ! fresh java "$here/java/pom.xml" "$here/java/src/main/java/Client.java"; then
    rm -rf "$cache/java"
    mkdir -p "$cache/java"
    cp -r "$here/java/pom.xml" "$here/java/src" "$cache/java/"
    (cd "$cache/java" && mvn --quiet --batch-mode compile dependency:copy-dependencies)
    installed java
  fi
fi
