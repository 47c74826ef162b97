//! The life of a .deb on a server with systemd: installed, configured by `init`, started, upgraded
//! under load, killed, stopped, paused, beside Debian's own cluster, and removed.

use std::time::Duration;

use super::built::{self, VERSIONS};
use super::machine::Machine;
use crate::docs::read;

const SOON: Duration = Duration::from_secs(60);
const PRIMARY: &str = "curl -sf http://127.0.0.1:8008/primary";
const POSTMASTER: &str = "head -n 1 /var/lib/postgresql/shop/postmaster.pid";
const MAIN: &str = "systemctl show --value -p MainPID pgvigil";
const JOURNAL: &str = "journalctl -q --no-pager -o cat";
/// How often the device was stopped; once, when it was opened.
const DISARMED: &str = "tr -dc V </run/dog.log | wc -c";
/// core/events.rs: a renewal of the lease was not confirmed.
const MISSED: &str = "MESSAGE_ID=7018d5519a854ef89e80d9a5902cdf38";

type Part = (&'static str, fn(&Machine));

#[test]
#[ignore = "make package-check"]
fn a_server_lives_with_the_deb() {
    let machine = Machine::boot("db1", |payload| built::make_versions("deb", payload));
    let machine = match machine {
        Ok(machine) => machine,
        Err(why) => return println!("a server with systemd: SKIPPED, {why}"),
    };
    let parts: [Part; 8] = [
        ("installed and started", installed),
        ("seen by systemctl and journalctl", seen),
        ("upgraded and downgraded under load", upgraded),
        ("killed, stopped, restarted", ended),
        ("a stop that hangs, a stop that is killed", hangs),
        ("stopped in a pause", paused),
        ("beside Debian's 15-main, which is taken over", adopted),
        ("removed and purged", removed),
    ];
    for (what, part) in parts {
        let begun = std::time::Instant::now();
        part(&machine);
        println!("a server: {what}, {:.1} s", begun.elapsed().as_secs_f32());
    }
}

/// As docs/INSTALL.md says, with a named pipe for a watchdog device.
fn installed(machine: &Machine) {
    let said = machine.run(&format!("dpkg -i /mnt/pgvigil_{}_*.deb", VERSIONS[0]));
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(machine.run("getent group pgvigil | cut -d: -f4"), "", "a group without members");
    assert_eq!(machine.run("stat -c %a:%U /var/lib/pgvigil /etc/pgvigil"), "755:root\n755:root");
    // As needrestart reads it.
    machine.run(
        "perl -e 'eval `cat /etc/needrestart/conf.d/pgvigil.conf`; die $@ if $@; \
         exit !grep { q(pgvigil@15-main.service) =~ $_ } keys %{$nrconf{override_rc}}'",
    );
    assert_eq!(machine.try_run("systemctl is-enabled pgvigil").1.trim(), "disabled");
    assert_eq!(machine.try_run("systemctl is-active pgvigil").1.trim(), "inactive");

    let answers = "shop\\n\\n127.0.0.1\\n\\n/var/lib/postgresql/shop\\n\\n127.0.0.1/32\\nn\\n";
    let (code, said) = machine.try_run(&format!("printf '{answers}' | pgvigil init"));
    assert!(said.contains("It can be run") && code != Some(2), "{said}");
    let mode = machine.run("stat -c %a:%U:%G /etc/pgvigil/pgvigil.yml");
    assert_eq!(mode, "640:root:postgres");
    machine.run(
        "mkfifo -m 666 /run/dog && touch /run/dog.log && \
         systemd-run --unit=lab-dog bash -c 'exec 3<>/run/dog; exec cat <&3 >/run/dog.log'",
    );
    machine.run(
        "sed -i 's|^  mode: automatic|  mode: required\\n  driver: testing\\n  device: /run/dog|' \
         /etc/pgvigil/pgvigil.yml && pgvigil check-config /etc/pgvigil/pgvigil.yml",
    );

    // etcd is not there yet, as after a boot of all servers at once.
    machine.run("systemctl enable --now --no-block pgvigil");
    machine.wait("a word about etcd", SOON, &format!("{JOURNAL} -t pgvigil | grep -i etcd"));
    assert_eq!(machine.try_run(&format!("{JOURNAL} -t postgres")).1, "");
    machine.run("systemd-run --unit=lab-etcd /usr/bin/etcd --data-dir /var/lib/etcd-lab");
    machine.wait("a primary", SOON, PRIMARY);
    machine.wait("active", SOON, "systemctl is-active pgvigil");
}

fn seen(machine: &Machine) {
    for wanted in ["primary running", "timeline 1", "lease confirmed for"] {
        let look = format!("systemctl status --no-pager pgvigil | grep '{wanted}'");
        machine.wait(wanted, SOON, &look);
    }
    let journal = |arguments: &str| machine.run(&format!("{JOURNAL} {arguments}"));
    assert!(journal("-t postgres").contains("ready to accept connections"));
    assert!(
        journal("-t pgvigil -x -o short").contains("This member leads"),
        "the catalog explains"
    );
    assert!(!journal("PGVIGIL_RULE=leader.start PGVIGIL_SCOPE=shop").is_empty());
    let own = "test $(journalctl -q --no-pager -o json -t pgvigil | wc -l) = \
               $(journalctl -q --no-pager -o json -t pgvigil | grep -c MESSAGE_ID)";
    machine.run(own);
    machine.run("systemctl reload pgvigil");
    machine.wait("the reload", SOON, &format!("{JOURNAL} -t pgvigil | grep 'Reloaded the conf'"));
    let list = machine.run("pgvigilctl -c /etc/pgvigil/pgvigil.yml list");
    assert!(list.contains("Leader") && list.contains("running"), "{list}");
    let doctor = machine.try_run("pgvigil doctor /etc/pgvigil/pgvigil.yml").1;
    assert!(doctor.contains("with the settings it needs"), "{doctor}");
    println!("{}", machine.try_run("systemd-analyze security --no-pager pgvigil | tail -n 1").1);
}

/// Clients that write all the time, the supervisor's pings, and its renewals do not notice.
fn upgraded(machine: &Machine) {
    machine.run(
        "cat >/run/load <<'END'
export PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres PATH=$PATH:/usr/lib/postgresql/15/bin
export PGPASSWORD=$(sed -n 's/.*superuser:.*password: \"\\(.*\\)\"}/\\1/p' /etc/pgvigil/pgvigil.yml)
pgbench -q -i && touch /run/loading && exec pgbench -n -c 4 -T 15
END
systemd-run --unit=lab-load -p RemainAfterExit=yes bash /run/load",
    );
    machine.wait("pgbench", SOON, "test -e /run/loading");
    let (main, postmaster) = (machine.run(MAIN), machine.run(POSTMASTER));
    let disarmed = machine.run(DISARMED);
    let pings = machine.run("wc -c </run/dog.log").parse::<usize>().unwrap();
    for version in [VERSIONS[1], VERSIONS[0]] {
        let said = machine.run(&format!("dpkg -i /mnt/pgvigil_{version}_*.deb"));
        let journal = machine.journal();
        assert!(said.contains(&format!("process {main} is pgvigil")), "{said}\n{journal}");
        assert_eq!(machine.run(MAIN), main);
        machine.run(&format!("test /proc/{main}/exe -ef /usr/bin/pgvigil"));
        machine.wait("a ping after it", SOON, &format!("test $(wc -c </run/dog.log) -gt {pings}"));
    }
    refused(machine);
    let (code, said) = machine.try_run("dpkg -r pgvigil");
    assert!(code != Some(0) && said.contains("nobody fences its PostgreSQL"), "{said}");
    machine.wait("pgbench", SOON, "systemctl show -p SubState lab-load | grep exited");
    let load = machine.run(&format!("{JOURNAL} -u lab-load"));
    let done = |line: &&str| line.contains("transactions");
    println!("{}", load.lines().filter(done).collect::<Vec<_>>().join("\n"));
    assert!(load.contains("number of failed transactions: 0 (0.000%)"), "{load}");
    assert!(!load.contains("aborted"), "{load}");
    assert_eq!(machine.run(POSTMASTER), postmaster);
    assert_eq!(machine.run("systemctl show --value -p NRestarts pgvigil"), "0");
    assert_eq!(machine.try_run(&format!("{JOURNAL} {MISSED}")).1, "");
    assert_eq!(machine.run(DISARMED), disarmed, "never disarmed");
}

/// Neither a program that does not run here nor one that would refuse the file that stands there
/// takes the place of a supervisor that runs.
fn refused(machine: &Machine) {
    let main = machine.run(MAIN);
    let file = "/etc/pgvigil/pgvigil.yml";
    machine.run(&format!("cp -a {file} /run/right && sed -i 's/^name:/name: [/' {file}"));
    machine.run("systemctl kill -s USR2 --kill-who=main pgvigil");
    let said = format!("{JOURNAL} -t pgvigil -n 20 | tee /dev/stderr | grep 'replacement refused'");
    let said = machine.wait("a refusal", SOON, &said);
    assert!(said.contains(&format!("error: {file}:")), "{said}");
    machine.run(&format!("cp -a /run/right {file}"));

    let program = "/usr/bin/pgvigil";
    machine.run(&format!("mv {program} {program}.right"));
    machine.run(&format!("printf '#!/of/another/system\n' >{program} && chmod 755 {program}"));
    let (code, said) = machine.try_run("/usr/lib/pgvigil/package upgrade");
    assert!(code == Some(1) && said.contains("does not run on this server"), "{said}");
    machine.run(&format!("mv {program}.right {program} && test /proc/{main}/exe -ef {program}"));
    assert_eq!(machine.run(MAIN), main);
}

fn ended(machine: &Machine) {
    let (main, postmaster) = (machine.run(MAIN), machine.run(POSTMASTER));
    machine.run("systemctl kill -s KILL --kill-who=main pgvigil");
    machine.wait("another supervisor", SOON, &format!("m=$({MAIN}); test $m != 0 -a $m != {main}"));
    machine.wait("still a primary", SOON, PRIMARY);
    assert_eq!(machine.run(POSTMASTER), postmaster);

    machine.run("systemctl stop pgvigil");
    assert_eq!(machine.try_run("pgrep -c postgres").1.trim(), "0");
    assert_eq!(machine.run("etcdctl get /service/shop/leader || true"), "", "the key is released");
    let state = "/usr/lib/postgresql/15/bin/pg_controldata /var/lib/postgresql/shop | grep state";
    assert!(machine.run(state).ends_with("shut down"));
    assert!(machine.run("tail -c 1 /run/dog.log").ends_with('V'), "disarmed");
    machine.run("systemctl start pgvigil");
    machine.wait("a primary", SOON, PRIMARY);
    let before = machine.run(POSTMASTER);
    machine.run("systemctl restart pgvigil");
    machine.wait("a primary", SOON, PRIMARY);
    assert_ne!(machine.run(POSTMASTER), before);
}

/// What a stop could not end is killed, and the watchdog device does not reset the machine for it.
fn hangs(machine: &Machine) {
    // The next start waits until the old lease has ended.
    machine.run(
        "pgvigilctl -c /etc/pgvigil/pgvigil.yml edit-config --force \
         -s ttl=10 -s loop_wait=3 -s retry_timeout=3",
    );
    let lease = "etcdctl get /service/shop/leader -w fields | sed -n 's/\"Lease\" : //p'";
    let granted = format!("etcdctl lease timetolive $(printf %x $({lease})) | grep 'TTL(10s)'");
    machine.wait("a lease of 10 s", SOON, &granted);
    let nothing = "! pgrep postgres && test \"$(tail -c 1 /run/dog.log)\" = V";
    machine.run(
        "mkdir -p /run/systemd/system/pgvigil.service.d && \
         printf '[Service]\\nTimeoutStopSec=2\\n' >/run/systemd/system/pgvigil.service.d/lab.conf \
         && systemctl daemon-reload",
    );
    // SIGSTOP would not do: systemd sends a SIGCONT with its SIGTERM.
    let frozen = "/sys/fs/cgroup/system.slice/pgvigil.service/supervisor/cgroup.freeze";
    machine.run(&format!("echo 1 >{frozen}; systemctl stop pgvigil || true"));
    machine.wait("the end of a hung one", SOON, nothing);
    assert_eq!(machine.run("systemctl show --value -p Result pgvigil"), "timeout");
    machine.run("rm -r /run/systemd/system/pgvigil.service.d; systemctl daemon-reload");
    machine.run("systemctl reset-failed pgvigil; systemctl start pgvigil");
    machine.wait("a primary", SOON, PRIMARY);

    // The shutdown waits for a process that is stopped.
    let writer = machine.run("pgrep -f 'postgres: shop: walwriter'");
    machine.run(&format!("kill -STOP {writer}; systemctl stop --no-block pgvigil"));
    machine.wait("a stop under way", SOON, "grep -l '^stop 1' /dev/shm/pgvigil*");
    machine.run("systemctl kill -s KILL --kill-who=main pgvigil");
    machine.wait("the end of a killed one", SOON, nothing);
    assert_eq!(machine.run("systemctl show --value -p Result pgvigil"), "signal");
    machine.run("systemctl reset-failed pgvigil; systemctl start pgvigil");
    machine.wait("a primary", SOON, PRIMARY);
}

/// In a pause a stop leaves PostgreSQL running, ExecStopPost= included; a removal says so.
fn paused(machine: &Machine) {
    let before = machine.run(POSTMASTER);
    let ctl = "pgvigilctl -c /etc/pgvigil/pgvigil.yml";
    machine.run(&format!("{ctl} pause --wait"));
    machine.run("systemctl stop pgvigil");
    machine.run(&format!("kill -0 {before}"));
    let journal = machine.run(&format!("{JOURNAL} -u pgvigil -n 20"));
    assert!(journal.contains("PostgreSQL goes on and is adopted"), "{journal}");
    let (code, said) = machine.try_run("dpkg -r pgvigil");
    assert!(code != Some(0) && said.contains("left running in a pause"), "{said}");
    machine.run("systemctl start pgvigil");
    machine.wait("adopted", SOON, PRIMARY);
    machine.run(&format!("{ctl} resume --wait"));
    machine.wait("a primary", SOON, PRIMARY);
    assert_eq!(machine.run(POSTMASTER), before);
}

/// The commands of docs/INSTALL.md, word for word.
fn adopted(machine: &Machine) {
    machine.run(
        "pg_createcluster 15 main -p 5433 && systemctl start postgresql@15-main && \
         su postgres -c \"psql -p 5433 -qc \\\"alter user postgres password 'p'\\\"\"",
    );
    machine.run(
        "su postgres -c 'pgvigil generate-config --dsn \
         \"host=/var/run/postgresql port=5433 user=postgres\"' >/etc/pgvigil/15-main.yml && \
         sed -i 's/CHANGE ME/p/; s/:8008/:8009/' /etc/pgvigil/15-main.yml && \
         pgvigil check-config /etc/pgvigil/15-main.yml",
    );
    let postmaster = "head -n 1 /var/lib/postgresql/15/main/postmaster.pid";
    let before = machine.run(postmaster);
    machine.run("sed -i.right 's/:5433\"/:5439\"/' /etc/pgvigil/15-main.yml");
    let install = read("docs/INSTALL.md");
    let block = install.split("```\n").find(|b| b.contains("let-go.conf")).expect("the commands");
    machine.run(&format!("set -e\n{block}"));
    // It was started with another port than this file says: told, and mended without a restart.
    let told = "systemctl status pgvigil@15-main | grep 'not reached: .*:5439: .*on port 5433'";
    machine.wait("a word about its port", SOON, told);
    machine.run("mv /etc/pgvigil/15-main.yml.right /etc/pgvigil/15-main.yml");
    machine.run("systemctl reload pgvigil@15-main");
    machine.wait("a primary", SOON, "curl -sf http://127.0.0.1:8009/primary");
    assert_eq!(machine.run(postmaster), before);
    let group = machine.run(&format!("cat /proc/{before}/cgroup"));
    assert!(group.contains("pgvigil@15-main.service/postgres"), "{group}");
    assert_eq!(machine.try_run("systemctl is-active postgresql@15-main").1.trim(), "inactive");
    // Both members of this server go on, each for itself.
    machine.run("systemctl restart pgvigil@15-main");
    machine.wait("the second one", SOON, "curl -sf http://127.0.0.1:8009/primary");
    machine.run(PRIMARY);
}

fn removed(machine: &Machine) {
    machine.run("systemctl disable --now pgvigil pgvigil@15-main");
    machine.run("dpkg -r pgvigil");
    assert_eq!(machine.run("ls /usr/bin/pgvigil* 2>/dev/null || true"), "");
    machine.run("dpkg -P pgvigil");
    for gone in ["var/lib/pgvigil", "usr/lib/pgvigil", "etc/needrestart/conf.d/pgvigil.conf"] {
        machine.run(&format!("test ! -e /{gone} -a ! -e /etc/modprobe.d/pgvigil.conf"));
    }
    machine.run("test -e /etc/pgvigil/pgvigil.yml -a -e /var/lib/postgresql/shop/PG_VERSION");
}
