#!/bin/bash
# A real cluster on loopback: one etcd, three pgvigil with PostgreSQL, ports that were free.
#
#   demo.sh             runs until Ctrl-C and leaves nothing behind
#   demo.sh failover    writes all the time, kills the primary's postmaster, then a whole member;
#                       exit code 0 only if the cluster healed and no acknowledged row was lost
#
# Started by root, all of it runs as postgres. PGVIGIL=FILE takes another binary.
set -euo pipefail

mode=${1:-play}
program=${PGVIGIL:-$(dirname "$0")/../target/debug/pgvigil}
members=(demo1 demo2 demo3)
ttl=5
restart_after=10 # seconds until a member that died is started again, as systemd would
export LC_ALL=C PGCONNECT_TIMEOUT=2

say() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }
die() {
    echo "demo: $*" >&2
    exit 1
}

# --- who and where ------------------------------------------------------------------------------

[[ $mode == play || $mode == failover ]] || die "usage: demo.sh [failover]"
[[ -x $program ]] || die "$program is missing: run \`make build\` first"
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
[[ -x $bin/postgres ]] || die "no PostgreSQL in /usr/lib/postgresql: run \`make setup\` first"
as=()
if ((EUID == 0)); then
    as=(setpriv --reuid postgres --regid postgres --init-groups --)
    groups=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
fi
dir=$(mktemp -d /var/tmp/pgvigil-demo.XXXXXX)
password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
declare -A rest port pid due group
etcd_pid=

taken=" "
free_port() { # sets $free
    while :; do
        free=$((20000 + RANDOM % 10000))
        [[ $taken == *" $free "* ]] && continue
        (: <"/dev/tcp/127.0.0.1/$free") 2>/dev/null && continue
        taken+="$free "
        return
    done
}

# --- the end: nothing stays behind --------------------------------------------------------------

# pgvigil, PostgreSQL, etcd and their children: what runs our programs in this directory or below it
# (not a shell that somebody opened there), or is in the member's control group.
pids_in() { # directory, control group or nothing
    local process exe
    for process in /proc/[0-9]*; do
        exe=$(readlink "$process/exe" 2>/dev/null) || continue
        [[ $exe == "$dir"/* || $exe == "$bin"/* || $exe == */etcd ]] || continue
        [[ $exe == "$1"/* || $(readlink "$process/cwd" 2>/dev/null)/ == "$1"/* ]] &&
            echo "${process#/proc/}"
    done
    [[ ! $2 ]] || find "$2" -name cgroup.procs -exec cat {} + 2>/dev/null
    return 0
}

kill_in() { # directory, control group or nothing
    local found
    while found=$(pids_in "$1" "$2") && [[ $found ]]; do
        # shellcheck disable=SC2086
        kill -KILL $found 2>/dev/null || true
        sleep 0.05
    done
}

stop() { # pid, seconds
    local i
    kill -TERM "$1" 2>/dev/null || return 0
    for ((i = 0; i < $2 * 10; i++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
}

clean() {
    trap '' INT TERM
    local m last
    [[ -d $dir ]] || return 0
    say "stopping"
    [[ ${writer:-} ]] && kill "$writer" 2>/dev/null || true
    last=$(leader || true)
    for m in "${members[@]}"; do
        [[ $m == "$last" || ! ${pid[$m]:-} ]] || stop "${pid[$m]}" 15
    done
    [[ $last && ${pid[$last]:-} ]] && stop "${pid[$last]}" 30
    [[ $etcd_pid ]] && stop "$etcd_pid" 5
    kill_in "$dir" ""
    for m in "${!group[@]}"; do
        kill_in "$dir/$m" "${group[$m]}"
        find "${group[$m]}" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap clean EXIT
trap 'echo; exit 0' INT TERM

# --- the parts ----------------------------------------------------------------------------------

# In a session of its own, so that Ctrl-C reaches this script only.
# A program may arrange processes below a control group only if it is inside already.
spawn() { # directory, control group or nothing, command...; sets $spawned
    local where=$1 group=$2
    shift 2
    (
        cd "$where"
        [[ ! $group ]] || echo "$BASHPID" >"$group/cgroup.procs"
        exec setsid "${as[@]}" "$@" </dev/null >>log 2>&1
    ) &
    spawned=$!
    disown # no word from bash when it is killed
}

make_group() { # member
    local path=$groups/pgvigil-demo-$$-$1
    mkdir "$path" 2>/dev/null || return 0
    group[$1]=$path
    chown postgres "$path" "$path"/cgroup.{procs,subtree_control,threads}
}

configure() { # member
    local m=$1
    cat <<END
scope: demo
name: $m
watchdog: {mode: off} # this machine is not to be reset by what a demonstration does
restapi:
  listen: 127.0.0.1:${rest[$m]}
  connect_address: 127.0.0.1:${rest[$m]}
etcd3:
  host: 127.0.0.1:$etcd_port
bootstrap:
  dcs:
    ttl: $ttl
    loop_wait: 1
    retry_timeout: 2
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: 50
        shared_buffers: 32MB
  initdb:
  - encoding: UTF8
  - data-checksums
postgresql:
  listen: 127.0.0.1:${port[$m]}
  connect_address: 127.0.0.1:${port[$m]}
  data_dir: $dir/$m/data
  bin_dir: $bin
  pgpass: $dir/$m/pgpass
  authentication:
    superuser: {username: postgres, password: $password}
    replication: {username: replicator, password: $password}
    rewind: {username: rewind_user, password: $password}
  parameters:
    unix_socket_directories: $dir/$m
  pg_hba:
  - local all all scram-sha-256
  - host replication replicator 127.0.0.1/32 scram-sha-256
  - host all all 127.0.0.1/32 scram-sha-256
END
}

start() { # member
    local m=$1
    local command=("$dir/pgvigil" "$dir/$m/config.yml")
    if [[ ${group[$m]:-} ]]; then
        command=("$dir/pgvigil" --cgroup "${group[$m]}" "$dir/$m/config.yml")
    fi
    spawn "$dir/$m" "${group[$m]:-}" "${command[@]}"
    pid[$m]=$spawned
    due[$m]=
}

ctl() { "$dir/pgvigil" ctl -c "$dir/demo1/config.yml" "$@"; }

http() { # port, path: the answer, or nothing
    timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" &&
        printf "GET %s HTTP/1.0\r\n\r\n" "$2" >&3 && cat <&3' - "$1" "$2" 2>/dev/null || true
}

leader() {
    local m
    for m in "${members[@]}"; do
        [[ $(http "${rest[$m]}" /primary) == "HTTP/1."?" 200"* ]] && echo "$m" && return
    done
    return 1
}

healthy() { # a leader and two replicas that stream, one of them synchronously
    local m cluster
    m=$(leader) || return 1
    cluster=$(http "${rest[$m]}" /cluster)
    [[ $cluster =~ \"role\":\ *\"sync_standby\" ]] &&
        (($(grep -o '"state": *"streaming"' <<<"$cluster" | wc -l) == 2))
}

await() { # seconds, what, command...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < until)) || {
            tail -n 15 "$dir"/*/log >&2
            die "waited in vain for $what"
        }
        sleep 0.2
    done
}

postmaster() { head -n 1 "$dir/$1/data/postmaster.pid"; }

# --- up -----------------------------------------------------------------------------------------

chmod 755 "$dir"
cp "$program" "$dir/pgvigil"
free_port && etcd_port=$free
free_port && peer_port=$free
mkdir "$dir/etcd"
for m in "${members[@]}"; do
    free_port && rest[$m]=$free
    free_port && port[$m]=$free
    mkdir "$dir/$m"
    (umask 077 && configure "$m" >"$dir/$m/config.yml")
    if ((EUID == 0)); then
        chown -R postgres:postgres "$dir/$m"
        [[ ! $groups ]] || make_group "$m"
    fi
done
((EUID != 0)) || chown postgres:postgres "$dir/etcd"
say "starting etcd and three members in $dir"
client=http://127.0.0.1:$etcd_port
peer=http://127.0.0.1:$peer_port
spawn "$dir/etcd" "" etcd --name demo --data-dir "$dir/etcd/data" \
    --listen-client-urls "$client" --advertise-client-urls "$client" --listen-peer-urls "$peer" \
    --initial-advertise-peer-urls "$peer" --initial-cluster "demo=$peer"
etcd_pid=$spawned
for m in "${members[@]}"; do
    start "$m"
done
await 120 "a leader and two streaming replicas" healthy
say "the cluster is up"
ctl list

url() { # attributes
    local hosts=() m
    for m in "${members[@]}"; do hosts+=("127.0.0.1:${port[$m]}"); done
    local IFS=,
    echo "postgresql://postgres:$password@${hosts[*]}/postgres?target_session_attrs=$1"
}

# --- to play with -------------------------------------------------------------------------------

explain() {
    local m now
    now=$(leader)
    echo
    echo "The primary, whichever it is, and any standby:"
    echo "  psql '$(url read-write)'"
    echo "  psql '$(url prefer-standby)'"
    echo "Each member:"
    for m in "${members[@]}"; do
        echo "  $m: PostgreSQL 127.0.0.1:${port[$m]}, REST http://127.0.0.1:${rest[$m]}/patroni," \
            "pgvigil pid ${pid[$m]}, log $dir/$m/log"
    done
    local ctl="$dir/pgvigil ctl -c $dir/demo1/config.yml"
    echo "To try in a second terminal:"
    echo "  watch -n 1 $ctl list"
    echo "  $ctl explain    # what each member decided, and why"
    echo "  kill -9 $(postmaster "$now")    # the postmaster of the primary, $now"
    echo "  kill -9 ${pid[$now]}    # its pgvigil; started again after $restart_after s"
    echo "  $ctl switchover --force"
    echo "Ctrl-C stops it all and leaves nothing behind."
    echo
}

play() {
    local m
    explain
    while sleep 1; do
        for m in "${members[@]}"; do
            kill -0 "${pid[$m]}" 2>/dev/null && continue
            if [[ ! ${due[$m]} ]]; then
                say "pgvigil of $m (pid ${pid[$m]}) died; it starts again in $restart_after s"
                due[$m]=$((SECONDS + restart_after))
            elif ((SECONDS >= due[$m])); then
                start "$m"
                say "pgvigil of $m runs again: pid ${pid[$m]}"
            fi
        done
    done
}

# --- faults and a verdict -----------------------------------------------------------------------

query() { timeout 5 "$bin/psql" -XqAt "$(url read-write)" -c "$1" 2>/dev/null; }

# One row after the other; a row whose insert was acknowledged is written down with its time.
write() {
    local n=0
    while n=$((n + 1)); do
        query "INSERT INTO written VALUES ($n)" && echo "$n $EPOCHREALTIME" >>"$dir/acknowledged"
    done
}

written_since() { # time
    awk -v since="$1" 'END {exit !($2 > since)}' "$dir/acknowledged"
}

# The longest time without an acknowledged row since then.
gap() {
    awk -v since="$1" '{if ($2 > since && last && $2 - last > gap) gap = $2 - last; last = $2}
        END {printf "%.2f s", gap}' "$dir/acknowledged"
}

new_postmaster() { # member, old pid
    local now
    now=$(postmaster "$1" 2>/dev/null) && [[ $now && $now != "$2" ]]
}

other_leader() { # member
    local now
    now=$(leader) && [[ $now != "$1" ]]
}

failover() {
    local old killed since lost rows
    query "CREATE TABLE written (n bigint PRIMARY KEY)" || die "no table could be made"
    : >"$dir/acknowledged"
    write &
    writer=$!
    await 10 "the first row" written_since 0

    old=$(leader) && killed=$(postmaster "$old") && since=$EPOCHREALTIME
    say "SIGKILL to the postmaster of $old, the primary (pid $killed)"
    kill -KILL "$killed"
    await 60 "a new postmaster" new_postmaster "$old" "$killed"
    await 60 "writes" written_since "$EPOCHREALTIME"
    say "rows are written again, by $(leader || echo nobody); longest gap: $(gap "$since")"
    await 60 "a healthy cluster" healthy
    ctl list

    old=$(leader) && since=$EPOCHREALTIME
    say "SIGKILL to all of $old, the primary: its pgvigil, its PostgreSQL (ttl $ttl s)"
    kill_in "$dir/$old" "${group[$old]:-}"
    await 60 "another leader" other_leader "$old"
    await 60 "writes" written_since "$EPOCHREALTIME"
    say "rows are written again, by $(leader || echo nobody); longest gap: $(gap "$since")"
    say "starting $old again"
    start "$old"
    await 90 "a healthy cluster" healthy
    ctl list

    kill "$writer" && wait "$writer" 2>/dev/null || true
    writer=
    query "SELECT n FROM written" | sort >"$dir/present" || die "the table cannot be read"
    rows=$(wc -l <"$dir/acknowledged")
    lost=$(cut -d ' ' -f 1 "$dir/acknowledged" | sort | comm -23 - "$dir/present" | wc -l)
    say "$rows rows were acknowledged, $lost of them are lost"
    ((lost == 0)) || exit 1
    say "the cluster healed and nothing was lost"
}

"$mode"
