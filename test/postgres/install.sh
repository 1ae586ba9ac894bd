#!/usr/bin/env bash
# Unpacks Debian's PostgreSQL server below the folder given (default: .cache/postgres), without installing it. What is there already is
# kept. Where there is no apt-get it says so and does nothing: the tests that need PostgreSQL are then skipped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-$here/../../.cache/postgres}
if compgen -G "$cache/usr/lib/postgresql/*/bin/postgres" >/dev/null; then
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "left out: PostgreSQL (no apt-get on this machine)" >&2
  exit 0
fi
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
version=$(apt-cache search --names-only '^postgresql-[0-9]+$' | sed 's/^postgresql-\([0-9]*\) .*/\1/' | sort -n | tail -1)
if [ -z "$version" ]; then
  echo "no PostgreSQL server is among this machine's packages: run apt-get update" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# unpack PACKAGE…
unpack() {
  apt-get download -qq "$@"
  for package in *.deb; do
    dpkg -x "$package" "$cache"
    rm "$package"
  done
}

unpack "postgresql-$version" libpq5
# The libraries that this machine lacks, of those that the server needs.
libraries=$cache/usr/lib/$(dpkg-architecture -q DEB_HOST_MULTIARCH 2>/dev/null || gcc -dumpmachine 2>/dev/null || echo x86_64-linux-gnu)
missing=$(LD_LIBRARY_PATH=$libraries ldd "$cache/usr/lib/postgresql/$version/bin/postgres" | sed -n 's/^\t\(.*\) => not found$/\1/p')
if [ -n "$missing" ]; then
  needed=$(apt-cache depends "postgresql-$version" | sed -n 's/^ *Depends: \(lib[a-z0-9.+-]*\)$/\1/p')
  # shellcheck disable=SC2086 # one word each
  unpack $needed
fi
