#!/bin/sh
# Makes a package of a program that is built already.
#
#   package.sh deb|rpm PROGRAM MANUAL OUTPUT [VERSION]
#
# MANUAL is the example `manual`, which writes man pages and completions; VERSION overrides
# Cargo.toml's (with the revision, as 0.1.1-1). Prints the file's name. The same input gives the same
# package, byte for byte: times are the commit's.
set -eu

kind=$1 program=$2 manual=$3 output=$4 version=${5:-}
cd "$(dirname "$0")/.."
PATH=${XDG_CACHE_HOME:-$HOME/.cache}/pgvigil/tools/bin:$PATH
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

stage=target/package
rm -rf $stage
mkdir -p $stage "$output"
"$manual" $stage
strip -o $stage/pgvigil "$program"
chmod 755 $stage/pgvigil
gzip -9n $stage/man/*.1

case $kind in
deb)
    cargo deb --quiet --no-build --no-strip ${FAST:+--fast} --output "$output" \
        ${version:+--deb-version "$version"} >$stage/made
    ;;
rpm)
    # The list of files is the .deb's, as the other tool writes it.
    sed -n 's|^    \["\(.*\)", "\(.*\)", "\(.*\)"\],$|{ source = "\1", dest = "/\2", mode = "\3" },|p' \
        Cargo.toml | sed 's|"/etc/[^}]*|&, config = "noreplace" |; s#"/usr/share/\(doc\|man\)[^}]*#&, doc = true #' |
        sed '/lintian\|needrestart/d; s|zsh/vendor-completions|zsh/site-functions|' >$stage/files
    {
        echo "assets = ["
        cat $stage/files
        echo '{ source = "LICENSE", dest = "/usr/share/licenses/pgvigil/LICENSE", mode = "644" },'
        echo "]"
        [ -z "$version" ] || printf 'version = "%s"\nrelease = "%s"\n' "${version%-*}" "${version##*-}"
    } >$stage/rpm.toml
    cargo generate-rpm --metadata-overwrite $stage/rpm.toml --output "$output/" \
        ${FAST:+--payload-compress gzip} >$stage/made
    ;;
*)
    echo "usage: $0 deb|rpm PROGRAM MANUAL OUTPUT [VERSION]" >&2
    exit 2
    ;;
esac
ls -t "$output"/*."$kind" | head -n 1
