#!/bin/sh
# The same commit, built in two directories of different names, must give the same .deb.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d /var/tmp/pgvigil-repro-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
# Both now: the commit may not be the last one for long.
git clone --quiet . "$work/one"
git clone --quiet "$work/one" "$work/another-one"
for place in one another-one; do
    "$work/$place/packaging/release.sh" deb "$work/$place/made"
    rm -rf "$work/$place/target"
done
cmp "$work"/one/made/*.deb "$work"/another-one/made/*.deb
sha256sum "$work"/one/made/*.deb
