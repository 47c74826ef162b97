#!/bin/sh
# Installs what pgvigil's build, demo and tests need, from the distribution, if it is missing.
# With the argument `vm`, what the virtual machines of tests/vm need, too (QEMU and mmdebstrap:
# about 60 MB to fetch, a minute); with `mixed`, the clients of a cluster that tests/clients.rs runs;
# with `package`, what makes and judges a .deb and boots a container of this machine; with `rpm`, the
# same of an .rpm. Both build a program of crates.io once, into ~/.cache/pgvigil/tools: cargo-deb in a
# minute, cargo-generate-rpm in several.
# Starts nothing: no PostgreSQL cluster is created, etcd stays off; what already ran goes on.
set -eu

missing=
need() { # command package...
    command=$1
    shift
    command -v "$command" >/dev/null || missing="$missing $*"
}
PATH=$PATH:/usr/sbin:/sbin
tool=
case "${1:-}" in
vm)
    need qemu-system-x86_64 qemu-system-x86
    need mmdebstrap mmdebstrap
    need strip binutils
    ;;
package)
    need lintian lintian
    need strip binutils
    need dbus-daemon dbus
    need pgrep procps
    [ -x /lib/systemd/systemd ] || missing="$missing systemd"
    tool=cargo-deb@3.8.0
    ;;
rpm)
    need rpmlint rpmlint
    need rpm rpm
    need strip binutils
    tool=cargo-generate-rpm@0.21.1
    ;;
mixed)
    need haproxy haproxy
    need promtool prometheus
    need arping iputils-arping
    ;;
esac
wanted=${1:-}
set -- /usr/lib/postgresql/*/bin/postgres
[ -x "$1" ] || missing="$missing postgresql"
need psql postgresql-client
need etcd etcd-server
need etcdctl etcd-client
need protoc protobuf-compiler
need cc gcc libc6-dev
need ip iproute2
need openssl openssl
need curl curl
need setpriv util-linux
[ -d /usr/include/google/protobuf ] || missing="$missing libprotobuf-dev"
# Patroni in the benchmark is installed into a virtual environment.
[ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import ensurepip' 2>/dev/null ||
    missing="$missing python3-venv"

# Pinned: a package must not change because a tool did.
tools() {
    [ "$tool" ] || return 0
    root=${XDG_CACHE_HOME:-$HOME/.cache}/pgvigil/tools
    grep -qs "\"${tool%@*} ${tool#*@} " "$root/.crates2.json" && return 0
    echo "setup: building $tool, once"
    cargo install --quiet --locked --root "$root" "$tool"
}
if [ -z "$missing" ]; then
    tools
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "setup: missing:$missing; there is no apt-get here, please install them yourself" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "setup: installing$missing with sudo"
    # shellcheck disable=SC2086
    sudo "$0" $wanted
    exec "$0" $wanted
fi

echo "setup: installing$missing"
no_cluster=/etc/postgresql-common/createcluster.d/pgvigil-setup.conf
policy=/usr/sbin/policy-rc.d
made_policy=
clean() {
    rm -f "$no_cluster"
    rmdir --ignore-fail-on-non-empty "${no_cluster%/*}"
    [ -z "$made_policy" ] || rm -f "$policy"
}
trap clean EXIT
trap 'exit 1' INT TERM
mkdir -p "${no_cluster%/*}"
echo 'create_main_cluster = false' >"$no_cluster"
# Asked by the packages' scripts before they start, stop or restart anything.
if [ ! -e "$policy" ]; then
    made_policy=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
echo "setup: apt-get update"
apt-get -q=2 update
# shellcheck disable=SC2086
apt-get -q=2 -o Dpkg::Use-Pty=0 install --yes --no-install-recommends $missing
# Nor at the next boot.
for pair in etcd-server:etcd haproxy:haproxy prometheus:prometheus; do
    case " $missing " in
    *" ${pair%:*} "*) update-rc.d "${pair#*:}" disable >/dev/null 2>&1 || true ;;
    esac
done
tools
echo "setup: done"
