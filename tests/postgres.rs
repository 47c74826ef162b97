//! `pgvigil::postgres` against real servers. Folders with other versions' programs may be given
//! in PGVIGIL_TEST_PG_BINS, separated by colons; the default is Debian's PostgreSQL 15.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use pgvigil::core::database::{ControlState, DataDir, Probe};
use pgvigil::core::timeline::{Relation, checkpoint_end, relation};
use pgvigil::postgres::binaries::{Binaries, Tool};
use pgvigil::postgres::conninfo::Upstream;
use pgvigil::postgres::files::{self, PgpassEntry, Places, Recovery};
use pgvigil::postgres::roles::{Role, Roles};
use pgvigil::postgres::session::{Session, SessionError, Target};
use pgvigil::postgres::{command, control, datadir, pidfile};

use crate::rig::free_port;

const WITHIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program as the user `postgres` if we are root: PostgreSQL refuses root.
fn as_owner(argv: &[String]) -> Command {
    let (program, arguments) = argv.split_first().expect("a program");
    let mut command = if geteuid().is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--", program]);
        setpriv
    } else {
        Command::new(program)
    };
    command
        .args(arguments)
        .stdin(Stdio::null())
        .current_dir("/")
        .env("TZ", "UTC")
        .env("LC_ALL", "C");
    command
}

fn run(argv: &[String]) -> String {
    let output = as_owner(argv).output().expect("started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{argv:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One member: a data directory, its settings and perhaps a running postmaster.
struct Member {
    name: &'static str,
    binaries: Binaries,
    root: PathBuf,
    places: Places,
    port: u16,
    postmaster: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.postmaster.is_some() {
            self.stop(Signal::SIGQUIT);
        }
    }
}

impl Member {
    fn new(name: &'static str, bin_dir: &str, root: &Path) -> Member {
        let data_dir = root.join(name);
        Member {
            name,
            binaries: Binaries::new(bin_dir, &BTreeMap::new()),
            root: root.to_owned(),
            places: Places::new(&data_dir.to_string_lossy(), "", ""),
            port: free_port(),
            postmaster: None,
        }
    }

    fn data_dir(&self) -> String {
        self.places.data_dir.to_string_lossy().into_owned()
    }

    fn tool(&self, tool: Tool) -> String {
        self.binaries.path(tool).expect("installed").to_string_lossy().into_owned()
    }

    fn passfile(&self) -> String {
        self.root.join("pgpass").to_string_lossy().into_owned()
    }

    fn controlled(&self) -> Vec<(String, String)> {
        [("wal_level", "replica"), ("hot_standby", "on"), ("wal_log_hints", "on")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    /// What we write as root must belong to the server's user.
    fn hand_over(&self) {
        if geteuid().is_root() {
            let root = self.root.as_os_str();
            let status =
                Command::new("chown").arg("-R").arg("postgres:postgres").arg(root).status();
            assert!(status.expect("started").success());
        }
    }

    fn configure(&self, upstream: Option<&Member>, extra: &[(&str, &str)]) {
        let mut parameters: BTreeMap<String, String> = self.controlled().into_iter().collect();
        parameters.insert("unix_socket_directories".into(), self.root.to_string_lossy().into());
        parameters.insert("max_wal_senders".into(), "5".into());
        parameters.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let recovery = upstream.map(|upstream| Recovery {
            primary_conninfo: Some(self.source(upstream, "replicator")),
            primary_slot_name: Some(self.name.to_owned()),
            user: BTreeMap::new(),
        });
        files::write_postgresql_conf(&self.places, &parameters, None, recovery.as_ref())
            .expect("configuration");
        let hba = ["local all all trust", "host all all 127.0.0.1/32 scram-sha-256"];
        let replication = "host replication replicator 127.0.0.1/32 scram-sha-256";
        let lines: Vec<String> =
            hba.iter().chain([&replication]).map(ToString::to_string).collect();
        files::write_hba(&self.places, &lines).expect("hba");
        files::write_ident(&self.places, &[]).expect("ident");
        files::clean_auto_conf(&self.places.data_dir).expect("auto.conf");
        files::set_standby(&self.places.data_dir, upstream.is_some()).expect("signal");
        self.hand_over();
    }

    /// Connection string to another member, the password in a file.
    fn source(&self, upstream: &Member, user: &str) -> String {
        Upstream {
            host: "127.0.0.1",
            port: upstream.port,
            user: Some(user),
            passfile: Some(&self.passfile()),
            application_name: Some(self.name),
            options: &BTreeMap::new(),
        }
        .conninfo()
    }

    fn start(&mut self) {
        let port = self.port.to_string();
        let place = [("listen_addresses", "127.0.0.1"), ("port", &port), ("cluster_name", "demo")];
        let place = place.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let argv = command::postmaster(&command::Postmaster {
            postgres: &self.tool(Tool::Postgres),
            data_dir: &self.data_dir(),
            config_file: &self.places.config_file().to_string_lossy(),
            controlled: &[&place[..], &self.controlled()].concat(),
        });
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.join(format!("{}.log", self.name)))
            .expect("log");
        let child = as_owner(&argv)
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("started");
        self.postmaster = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let child = self.postmaster.as_ref().expect("running");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, signal).expect("signalled");
    }

    fn stop(&mut self, signal: Signal) {
        self.signal(signal);
        let mut child = self.postmaster.take().expect("running");
        child.wait().expect("ended");
    }

    fn target(&self) -> Target {
        Target {
            host: self.root.to_string_lossy().into_owned(),
            port: self.port,
            user: "postgres".into(),
            password: None,
            database: "postgres".into(),
            statement_timeout: WITHIN,
            options: Default::default(),
        }
    }

    async fn session(&self) -> Session {
        until("a session", || async { Session::connect(&self.target(), WITHIN).await.ok() }).await
    }

    async fn probe_until(&self, what: &str, condition: impl Fn(&Probe) -> bool) -> Probe {
        until(what, || async {
            let mut session = Session::connect(&self.target(), WITHIN).await.ok()?;
            let probe = session.probe(WITHIN).await.expect("an answer");
            condition(&probe).then_some(probe)
        })
        .await
    }

    /// Control data, compared with what PostgreSQL's own program says of them.
    fn control(&self) -> pgvigil::core::database::ControlData {
        let ours = control::read(&self.places.data_dir).expect("readable");
        let folder = PathBuf::from(self.tool(Tool::Postgres)).with_file_name("pg_controldata");
        let text = run(&[folder.to_string_lossy().into_owned(), self.data_dir()]);
        let theirs: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key, value.trim()))
            .collect();
        let state = match ours.state {
            ControlState::StartingUp => "starting up",
            ControlState::ShutDown => "shut down",
            ControlState::ShutDownInRecovery => "shut down in recovery",
            ControlState::ShuttingDown => "shutting down",
            ControlState::InCrashRecovery => "in crash recovery",
            ControlState::InArchiveRecovery => "in archive recovery",
            ControlState::InProduction => "in production",
        };
        let flag = |on: bool| if on { "on" } else { "off" }.to_owned();
        let want = [
            ("Database system identifier", ours.system_identifier.to_string()),
            ("Database cluster state", state.to_owned()),
            ("Latest checkpoint location", ours.checkpoint_lsn.to_string()),
            ("Latest checkpoint's REDO location", ours.redo_lsn.to_string()),
            ("Latest checkpoint's TimeLineID", ours.timeline.to_string()),
            ("Minimum recovery ending location", ours.min_recovery_lsn.to_string()),
            ("Min recovery ending loc's timeline", ours.min_recovery_timeline.to_string()),
            ("wal_log_hints setting", flag(ours.wal_log_hints)),
            ("Bytes per WAL segment", ours.wal_segment_bytes.to_string()),
            ("Data page checksum version", u32::from(ours.data_checksums).to_string()),
        ];
        for (key, value) in want {
            assert_eq!(theirs.get(key), Some(&value.as_str()), "{key}");
        }
        let time = theirs["Time of latest checkpoint"];
        let date = Command::new("date").args(["-u", "-d", time, "+%s"]).output().expect("date");
        let seconds = String::from_utf8_lossy(&date.stdout).trim().parse::<i64>();
        assert_eq!(seconds, Ok(ours.checkpoint_time), "{time}");
        ours
    }

    /// Runs SQL as a client would.
    async fn client(&self, sql: &str) {
        let config = format!(
            "host={} port={} user=postgres dbname=postgres",
            self.root.display(),
            self.port
        );
        let (client, connection) =
            tokio_postgres::connect(&config, tokio_postgres::NoTls).await.expect("connected");
        let driver = tokio::spawn(connection);
        client.batch_execute(sql).await.expect("carried out");
        drop(client);
        driver.await.expect("ended").expect("clean end");
    }
}

fn role(name: &str, password: &str) -> Role {
    Role { name: name.to_owned(), password: Some(password.to_owned()) }
}

/// A new cluster with its roles, running, and the answer to its first probe.
async fn bootstrap(primary: &mut Member) -> Probe {
    assert_eq!(datadir::inspect(&primary.places.data_dir), DataDir::Empty);
    let pwfile = primary.root.join("pwfile");
    files::write_secret(&pwfile, "s3cret\n").expect("written");
    primary.hand_over();
    run(&command::initdb(
        &primary.tool(Tool::Initdb),
        &primary.data_dir(),
        &["--encoding=UTF8".to_owned(), "--no-sync".to_owned()],
        Some("postgres"),
        Some(&pwfile.to_string_lossy()),
    ));
    let version = primary.binaries.major_version().expect("known");
    let control = primary.control();
    assert_eq!(control.state, ControlState::ShutDown);
    let here = datadir::inspect(&primary.places.data_dir);
    assert_eq!(here, DataDir::Cluster { version, control: control.clone() });

    primary.configure(None, &[]);
    primary.start();
    let mut session = primary.session().await;
    assert_eq!(session.major(), version);
    let roles = Roles {
        superuser: role("postgres", "s3cret"),
        replication: role("replicator", "rep:pass\\"),
        rewind: Some(role("rewind_user", "re'wind")),
    };
    for _ in 0..2 {
        session.create_users(&roles, WITHIN).await.expect("idempotent");
    }
    for want in [true, false] {
        let created = session.ensure_physical("beta", true, WITHIN).await.expect("answer");
        assert_eq!(created, want);
    }
    assert!(session.ensure_physical("No Slot", true, WITHIN).await.is_err());
    session.ensure_physical("extra", false, WITHIN).await.expect("created");
    assert!(session.drop_slot("extra", WITHIN).await.expect("answer"));
    assert!(!session.drop_slot("extra", WITHIN).await.expect("answer"));
    let entries = [("replicator", "rep:pass\\"), ("rewind_user", "re'wind")].map(|(user, pw)| {
        PgpassEntry { host: "127.0.0.1".into(), port: 0, user: user.into(), password: pw.into() }
    });
    assert!(!entries.is_empty());
    let probe = session.probe(WITHIN).await.expect("answer");
    assert_eq!(probe.system_identifier, control.system_identifier);
    assert_eq!((probe.in_recovery, probe.timeline), (false, 1));
    assert_eq!(probe.server_version / 10_000, version);
    assert!(probe.insert_lsn >= probe.flush_lsn && probe.flush_lsn.is_some());
    assert_eq!(probe.receive_lsn.or(probe.replay_lsn), None);
    assert!(probe.postmaster_start_time.ends_with("+00:00"), "{}", probe.postmaster_start_time);
    assert_eq!(probe.slots.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["beta"]);
    assert!(probe.slots[0].restart_lsn.is_some() && probe.slots[0].kind == "physical");
    probe
}

/// The password file that all members share.
fn passwords(members: &[&Member]) {
    let mut entries = Vec::new();
    for member in members {
        for (user, password) in [("replicator", "rep:pass\\"), ("rewind_user", "re'wind")] {
            entries.push(PgpassEntry {
                host: "127.0.0.1".into(),
                port: member.port,
                user: user.into(),
                password: password.into(),
            });
        }
    }
    files::write_pgpass(Path::new(&members[0].passfile()), &entries).expect("written");
    members[0].hand_over();
}

/// A standby by base backup that streams from the primary.
async fn clone(primary: &Member, standby: &mut Member) {
    run(&command::pg_basebackup(
        &standby.tool(Tool::PgBasebackup),
        &standby.data_dir(),
        &standby.source(primary, "replicator"),
        &["--checkpoint=fast".to_owned()],
    ));
    standby.configure(Some(primary), &[]);
    standby.start();
    let probe = standby
        .probe_until("streaming", |p| {
            p.wal_receiver.as_ref().is_some_and(|r| r.status == "streaming")
        })
        .await;
    let receiver = probe.wal_receiver.expect("streaming");
    assert_eq!(receiver.sender_host.as_deref(), Some("127.0.0.1"));
    assert_eq!(receiver.sender_port, Some(primary.port));
    assert_eq!((receiver.slot_name.as_deref(), receiver.received_timeline), (Some("beta"), 1));
    assert!(probe.in_recovery && !probe.replay_paused);
    assert!(probe.receive_lsn.is_some() && probe.replay_lsn.is_some());
    assert_eq!(probe.primary_conninfo, standby.source(primary, "replicator"));
    assert_eq!(probe.primary_slot_name, "beta");
    assert_eq!(standby.control().state, ControlState::InArchiveRecovery);
    let sender = primary.probe_until("a sender", |p| p.wal_senders.len() == 1).await;
    let sender = &sender.wal_senders[0];
    assert_eq!((sender.application_name.as_str(), sender.usename.as_str()), ("beta", "replicator"));
    assert_eq!((sender.state.as_str(), sender.sync_state.as_str()), ("streaming", "async"));
}

/// Started again, it replays what it had received and confirmed: until it has read that, what it
/// says is not the end of its log. A delay makes that long, as an unclean end may.
async fn replays_what_it_had(primary: &Member, standby: &mut Member) {
    standby.stop(Signal::SIGINT);
    standby.configure(Some(primary), &[("recovery_min_apply_delay", "1h")]);
    standby.start();
    standby.probe_until("streaming", |p| p.wal_receiver.is_some()).await;
    primary.client("CREATE TABLE late AS SELECT 1 AS id").await;
    let end = primary.session().await.probe(WITHIN).await.expect("answer").flush_lsn;
    let probe = standby.probe_until("received", |p| p.receive_lsn >= end).await;
    assert!(probe.knows_its_end() && probe.replay_lsn < end);
    standby.stop(Signal::SIGQUIT);
    standby.start();
    let probe = standby.probe_until("an answer", |_| true).await;
    assert!(!probe.knows_its_end(), "{:?} {:?}", probe.receive_lsn, probe.replay_lsn);
    assert!(probe.replay_lsn < end);
    standby.configure(Some(primary), &[]);
    standby.signal(Signal::SIGHUP);
    let probe = standby.probe_until("the end", Probe::knows_its_end).await;
    assert!(probe.receive_lsn.max(probe.replay_lsn) >= end);
}

async fn pending_restart(primary: &Member) {
    primary.configure(None, &[("max_files_per_process", "900"), ("work_mem", "5MB")]);
    primary.signal(Signal::SIGHUP);
    let probe = primary.probe_until("pending", |p| !p.pending_restart.is_empty()).await;
    assert_eq!(probe.pending_restart.len(), 1);
    let pending = &probe.pending_restart[0];
    assert_eq!(pending.name, "max_files_per_process");
    assert_eq!((pending.old_value.as_str(), pending.new_value.as_str()), ("1000", "900"));
    for (name, value) in [("work_mem", "5MB"), ("wal_retrieve_retry_interval", "500ms")] {
        primary.client(&format!("SELECT 1 / (current_setting('{name}') = '{value}')::int")).await;
    }
}

async fn promote(member: &Member, timeline: u32) {
    run(&command::promote(&member.tool(Tool::PgCtl), &member.data_dir()));
    let probe = member.probe_until("promotion", |p| !p.in_recovery).await;
    assert_eq!(probe.timeline, timeline);
}

/// Both are primaries for a while; the old one crashes and comes back by rewind.
async fn diverge_and_rewind(old: &mut Member, new: &Member) {
    promote(new, 2).await;
    old.client("CREATE TABLE lost AS SELECT generate_series(1, 1000) AS id").await;
    new.client("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id").await;
    old.stop(Signal::SIGQUIT);
    let crashed = old.control();
    assert_eq!(crashed.state, ControlState::InProduction);

    let rewinder = Target {
        host: "127.0.0.1".into(),
        user: "rewind_user".into(),
        password: Some("re'wind".into()),
        ..new.target()
    };
    let mut session = Session::connect(&rewinder, WITHIN).await.expect("password accepted");
    new.session().await.checkpoint(PATIENCE).await.expect("written");
    let leader = session.leader(WITHIN).await.expect("answer");
    assert_eq!((leader.timeline, leader.in_recovery), (2, false));
    assert_eq!(leader.history.expect("timeline 2 has one").0.len(), 1);

    // pg_rewind recovers it first, by the configuration, which is not in the data directory here.
    let elsewhere = old.places.data_dir.with_extension("conf");
    std::fs::create_dir(&elsewhere).expect("a directory");
    for file in ["postgresql.conf", "postgresql.base.conf"] {
        let (from, to) = (old.places.data_dir.join(file), elsewhere.join(file));
        std::fs::rename(from, to).expect("moved");
    }
    let moved = elsewhere.join("postgresql.conf");
    run(&command::pg_rewind(&command::Rewind {
        pg_rewind: &old.tool(Tool::PgRewind),
        data_dir: &old.data_dir(),
        source_conninfo: &old.source(new, "rewind_user"),
        restore_target_wal: false,
        config_file: Some(&moved.to_string_lossy()),
        options: &["--no-sync".to_owned()],
    }));
    new.session().await.ensure_physical(old.name, true, WITHIN).await.expect("slot");
    old.configure(Some(new), &[]);
    old.start();
    old.probe_until("streaming on timeline 2", |p| {
        p.wal_receiver.as_ref().is_some_and(|r| r.received_timeline == 2)
    })
    .await;
    old.client("SELECT 1 / (count(*) / 1000) FROM kept").await;
}

/// A clean stop hands everything over: the successor leaves the timeline exactly at the end of
/// the shutdown checkpoint, and the old leader can follow.
async fn hand_over(leader: &mut Member, successor: &Member) {
    leader.stop(Signal::SIGINT);
    let sealed = leader.control();
    assert_eq!(sealed.state, ControlState::ShutDown);
    let end = checkpoint_end(sealed.checkpoint_lsn, sealed.wal_segment_bytes);
    let probe = successor.probe_until("all WAL", |p| p.replay_lsn >= Some(end)).await;
    assert_eq!(probe.replay_lsn, Some(end));
    promote(successor, 3).await;
    let seen = successor.session().await.leader(WITHIN).await.expect("answer");
    let history = seen.history.expect("timeline 3 has one");
    assert_eq!(history.0.last().map(|switch| switch.lsn), Some(end));
    assert_eq!(relation(2, end, 3, &history), Relation::CanFollow);
    leader.configure(Some(successor), &[]);
    successor.session().await.ensure_physical(leader.name, true, WITHIN).await.expect("slot");
    leader.start();
    leader.probe_until("streaming on timeline 3", |p| p.timeline == 3).await;
}

/// A server that hangs: the call ends, the session is gone, another one works afterwards.
async fn deadlines(member: &Member) {
    let mut session = member.session().await;
    let pid = pidfile::read(&member.places.data_dir).expect("running");
    assert_eq!((pid.port, pid.status.as_deref()), (Some(member.port), Some("ready")));
    let shm = pid.shm.expect("named");
    assert!(pidfile::shm_attached(shm).expect("readable").is_some_and(|count| count > 1));
    assert!(datadir::remove_contents(&member.places.data_dir).is_err(), "in use");
    member.signal(Signal::SIGSTOP);
    let silent = Session::connect(&member.target(), Duration::from_millis(200)).await;
    member.signal(Signal::SIGCONT);
    assert!(matches!(silent.err().expect("no answer"), SessionError::Timeout { .. }));
    let late = session.probe(Duration::ZERO).await.expect_err("no time");
    assert!(matches!(late, SessionError::Timeout { .. }) && session.is_closed());
    assert!(matches!(session.probe(WITHIN).await, Err(SessionError::Lost { .. })));
    let wrong = Target { host: "127.0.0.1".into(), password: Some("x".into()), ..member.target() };
    let refused = Session::connect(&wrong, WITHIN).await.err().expect("refused");
    assert!(refused.is_answer() && refused.code() == Some("28P01"), "{refused}");
    member.session().await.probe(WITHIN).await.expect("answer");
}

async fn life_of_a_cluster(bin_dir: &str) {
    let folder =
        tempfile::Builder::new().prefix("pgvigil-test-").tempdir_in("/var/tmp").expect("folder");
    let mut alpha = Member::new("alpha", bin_dir, folder.path());
    let mut beta = Member::new("beta", bin_dir, folder.path());
    passwords(&[&alpha, &beta]);
    bootstrap(&mut alpha).await;
    clone(&alpha, &mut beta).await;
    replays_what_it_had(&alpha, &mut beta).await;
    pending_restart(&alpha).await;
    diverge_and_rewind(&mut alpha, &beta).await;
    hand_over(&mut beta, &alpha).await;
    deadlines(&alpha).await;
    beta.stop(Signal::SIGINT);
    assert_eq!(beta.control().state, ControlState::ShutDownInRecovery);
    let aside = datadir::move_aside(&beta.places.data_dir).expect("moved");
    datadir::remove_contents(&aside).expect("removed");
    assert_eq!(datadir::inspect(&aside), DataDir::Empty);
}

#[tokio::test]
async fn life_of_a_cluster_on_real_servers() {
    let bins = std::env::var("PGVIGIL_TEST_PG_BINS");
    let bins = bins.unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
    for bin_dir in bins.split(':') {
        if !Path::new(bin_dir).join("postgres").exists() {
            println!("skipped: no PostgreSQL in {bin_dir}");
            continue;
        }
        life_of_a_cluster(bin_dir).await;
    }
}

#[test]
fn the_server_program_judges_its_parameters() {
    let bin = std::env::var("PGVIGIL_TEST_PG_BINS").unwrap_or_default();
    let bin = bin.split(':').next().filter(|bin| !bin.is_empty());
    let bin = bin.unwrap_or("/usr/lib/postgresql/15/bin");
    let postgres = Binaries::new(bin, &BTreeMap::new()).path(Tool::Postgres).expect("installed");
    let given = [
        ("work_mem", "5MB"),
        ("a b", "1"),
        ("lc_messages", "de_DE.UTF-8"),
        ("my.own", "x"),
        ("no_such", "'"),
        ("TimeZone", "Mars"),
        ("wal_level", "most"),
        ("ignore_checksum_failure", "on"),
        ("shared_buffers", "128MB"),
        ("block_size", "1"),
    ];
    let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for _ in 0..2 {
        let refusals = pgvigil::postgres::judge::refusals(&postgres, &given);
        let mut names: Vec<&str> = refusals.iter().map(|r| r.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["TimeZone", "a b", "block_size", "no_such", "wal_level"]);
        assert!(refusals.iter().any(|r| r.reason.contains("invalid value for parameter")));
    }
}
