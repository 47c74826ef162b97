#!/bin/sh
# Installed as /usr/lib/pgvigil/package and called by the packages' scripts. Nothing in here stops,
# restarts or kills PostgreSQL.
#
#   package configure    users, directories, udev, catalog, units
#   package upgrade      the supervisors that run go on with the new program, in place
#   package may-remove   fails if one runs
set -eu

program=/usr/bin/pgvigil

# Unit and main process of each member that runs, also of one that is about to start or to stop.
running() {
    [ -d /run/systemd/system ] || return 0
    systemctl list-units --all --plain --no-legend pgvigil.service 'pgvigil@*.service' |
        while read -r unit _; do
            pid=$(systemctl show --value --property=MainPID "$unit")
            [ "${pid:-0}" -eq 0 ] || echo "$unit $pid"
        done
}

# Control groups of a PostgreSQL whose service was stopped in a pause, or cannot start.
unsupervised() {
    for group in /sys/fs/cgroup/system.slice/pgvigil.service/postgres \
        /sys/fs/cgroup/system.slice/system-pgvigil.slice/pgvigil@*.service/postgres; do
        ! grep -qs . "$group/cgroup.procs" || echo "${group%/postgres}"
    done
}

configure() {
    systemd-sysusers pgvigil.conf
    systemd-tmpfiles --create pgvigil.conf
    journalctl --update-catalog >/dev/null 2>&1 || true
    if [ -e /run/udev/control ]; then
        udevadm control --reload || true
        udevadm trigger --action=change --sysname-match='watchdog*' || true
    fi
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || true
}

# SIGUSR2: after a check of the new program, with the configuration that stands there, the supervisor
# executes it in its own process. Lease, watchdog and PostgreSQL go on; so does the old program if the
# new one does not work here.
upgrade() {
    members=$(running)
    [ -n "$members" ] || return 0
    if ! timeout 10 "$program" --version >/dev/null; then
        echo "$program does not run on this server. What runs goes on with the program before, but" >&2
        echo "if that ends nobody supervises its PostgreSQL: install a version that runs here." >&2
        return 1
    fi
    echo "$members" | while read -r unit pid; do
        # One that has just ended is started again as the new program.
        kill -USR2 "$pid" 2>/dev/null || :
    done
    waited=0
    echo "$members" | while read -r unit pid; do
        until [ "/proc/$pid/exe" -ef "$program" ] || [ $waited -ge 150 ]; do
            sleep 0.1
            waited=$((waited + 1))
        done
        if [ "/proc/$pid/exe" -ef "$program" ]; then
            echo "$unit: process $pid is $("$program" --version) now, PostgreSQL went on"
            continue
        fi
        echo "$unit: process $pid still is the program before, and goes on. What it said:" >&2
        journalctl -q -o cat -u "$unit" -t pgvigil --since=-1min |
            grep -e '^error: ' -e '^replacement ' >&2 || :
        echo "After mending: systemctl kill -s USR2 --kill-who=main $unit" >&2
    done
}

may_remove() {
    found=$(running)
    if [ -z "$found" ]; then
        found=$(unsupervised)
        [ -n "$found" ] || return 0
        echo "PostgreSQL was left running in a pause, or by a service that cannot start, and without" >&2
        echo "pgvigil nobody adopts it:" >&2
        for group in $found; do
            echo "  systemctl start ${group##*/}, end the pause, systemctl disable --now ${group##*/}" >&2
        done
        return 1
    fi
    echo "pgvigil runs here, and without it nobody fences its PostgreSQL:" >&2
    echo "$found" | while read -r unit _; do
        echo "  systemctl disable --now $unit" >&2
    done
    echo "first (this stops PostgreSQL, the leader after a hand-over)." >&2
    return 1
}

case "${1:-}" in
configure) configure ;;
upgrade) upgrade ;;
may-remove) may_remove ;;
*)
    echo "usage: $0 configure|upgrade|may-remove" >&2
    exit 2
    ;;
esac
