#!/bin/sh
# Builds this commit as a release and packs it: release.sh deb|rpm DIRECTORY. The same commit gives
# the same file wherever it is built: no path and no time of the build stands in it.
set -eu
kind=$1 output=$2
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
registry=${CARGO_HOME:-$HOME/.cargo}
RUSTFLAGS="--remap-path-prefix=$PWD=/pgvigil --remap-path-prefix=$registry=/cargo"
# The C part of a dependency (aws-lc).
CFLAGS="-ffile-prefix-map=$PWD=/pgvigil -ffile-prefix-map=$registry=/cargo"
export SOURCE_DATE_EPOCH RUSTFLAGS CFLAGS CXXFLAGS="$CFLAGS"
cargo build --locked --release --bin pgvigil --example manual
packaging/package.sh "$kind" target/release/pgvigil target/release/examples/manual "$output"
