//! The laboratory: a cluster of real PostgreSQL and real etcd in network namespaces of one machine,
//! with faults to order and a client that records every acknowledged row.
//!
//! Everything it makes carries its process's pid in the name and is gone when it is dropped; what
//! a killed run left behind, the next one removes.

pub mod config;
pub mod ctl;
pub mod etcd;
pub mod http;
pub mod judge;
pub mod member;
pub mod net;
pub mod process;
pub mod pypi;
pub mod view;
pub mod volume;
pub mod wait;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etcd::Etcd;
use judge::Verdict;
use member::Member;
use net::{Host, MARK, Network};
use tokio_postgres::Config;
use view::View;
use wait::wait_until;
use writer::Writer;

pub const PASSWORD: &str = "lab-secret";
pub const POSTGRES_PORT: u16 = 5432;
pub const REST_PORT: u16 = 8008;
/// How much of each log a failed scenario prints.
const LOG_LINES: usize = 40;
/// The longest wait for a REST answer or a query.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    Pgvigil,
    Patroni,
}

impl Product {
    /// What the variable `SUT` asks for (`pgvigil` if it is not set).
    pub fn from_environment() -> Product {
        match std::env::var("SUT").as_deref() {
            Err(_) | Ok("" | "pgvigil") => Product::Pgvigil,
            Ok("patroni") => Product::Patroni,
            Ok(other) => panic!("SUT={other}: pgvigil or patroni"),
        }
    }
}

/// How pgvigil can stop all of PostgreSQL at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By a control group handed over to it.
    ControlGroup,
    /// By looking for descendants: no group was handed over.
    Descent,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Of all members, until [`Lab::set_product`] says otherwise.
    pub product: Product,
    pub means: Means,
    pub members: u8,
    pub etcds: u8,
    /// Seconds, as the three below.
    pub ttl: u32,
    pub loop_wait: u32,
    pub retry_timeout: u32,
    pub synchronous: bool,
    pub use_pg_rewind: bool,
    /// Each member's data on a volume of its own; seconds of every limit of `vigil.health`, and of
    /// its `hand_over_interval`.
    pub health: Option<(u64, u64)>,
    /// From one row of the writing client to the next, at each member.
    pub write_every: Duration,
    /// `pg_wal` on one more volume.
    pub wal_apart: bool,
    pub bin_dir: PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            product: Product::Pgvigil,
            means: Means::ControlGroup,
            members: 3,
            etcds: 3,
            ttl: 5,
            loop_wait: 1,
            retry_timeout: 2,
            synchronous: false,
            use_pg_rewind: true,
            health: None,
            write_every: Duration::from_millis(20),
            wal_apart: false,
            bin_dir: distribution(),
        }
    }
}

impl Settings {
    /// Fast ones for the program under test: Patroni refuses a ttl below 20 and knows no control
    /// group.
    pub fn fast(product: Product) -> Settings {
        let settings = Settings { product, ..Settings::default() };
        match product {
            Product::Pgvigil => settings,
            Product::Patroni => {
                Settings { means: Means::Descent, ttl: 20, retry_timeout: 3, ..settings }
            }
        }
    }
}

/// PostgreSQL of the distribution: 15 if it is there, else any.
fn distribution() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let any = versions.map(|entry| entry.path().join("bin")).max();
    let preferred = PathBuf::from("/usr/lib/postgresql/15/bin");
    if preferred.exists() { preferred } else { any.unwrap_or(preferred) }
}

/// Fields are dropped in this order: the client, the programs, their network, their files.
pub struct Lab {
    pub settings: Settings,
    writer: Option<Writer>,
    patronictl: Option<ctl::Patronictl>,
    members: Vec<Member>,
    etcds: Vec<Etcd>,
    pub network: Network,
    /// The start of each product's command line, once it was needed.
    programs: BTreeMap<Product, Vec<String>>,
    base: tempfile::TempDir,
}

impl Lab {
    /// Builds the network and starts etcd; no member runs yet.
    pub fn new(settings: Settings) -> Lab {
        let hosts = (1..=settings.members).map(Host::Member).collect();
        let mut lab = Lab::without_members(settings, hosts);
        let program = lab.program(lab.settings.product);
        let member = |n| Member::new(&lab.settings, n, lab.base(), &program, &lab.network);
        lab.members = lab.numbers().map(member).collect();
        lab
    }

    /// Network, etcd and client. Members other than this machine's processes (virtual machines)
    /// are the caller's; `hosts` are those of them that sit in namespaces.
    pub fn without_members(settings: Settings, hosts: Vec<Host>) -> Lab {
        net::sweep();
        sweep_files();
        let base = directory();
        let hosts =
            std::iter::once(Host::Client).chain((1..=settings.etcds).map(Host::Etcd)).chain(hosts);
        let network = Network::new(hosts.collect());
        let mut etcds: Vec<Etcd> = (1..=settings.etcds)
            .map(|n| Etcd::new(n, settings.etcds, base.path(), &network))
            .collect();
        etcds.iter_mut().for_each(Etcd::start);
        let programs = BTreeMap::new();
        let (writer, patronictl, members) = (None, None, Vec::new());
        let lab = Lab { settings, writer, patronictl, members, etcds, network, programs, base };
        lab.etcd_leader();
        lab
    }

    /// Where everything of this laboratory lies; gone with it.
    pub fn base(&self) -> &Path {
        self.base.path()
    }

    /// Starts all members and waits for a leader with streaming replicas, then makes the table and
    /// starts the writers.
    pub fn bootstrap(&mut self) {
        self.members.iter_mut().for_each(Member::start);
        let view = self.wait_healthy("bootstrap", Duration::from_secs(180));
        self.begin_writing(&view);
    }

    /// Makes the table on the leader and starts the writers.
    pub fn begin_writing(&mut self, view: &View) {
        let leader = view.leader().expect("a healthy view").number;
        self.query(leader, "CREATE ROLE writer LOGIN PASSWORD 'lab-secret'").expect("role");
        // Replicas refuse fifty rows a second; that is no news for their logs.
        self.query(leader, "ALTER ROLE writer SET log_min_messages = fatal").expect("role");
        let table = "CREATE TABLE written (member smallint, seq bigint PRIMARY KEY)";
        self.query(leader, table).expect("table");
        self.query(leader, "GRANT INSERT, SELECT ON written TO writer").expect("grant");
        let target = target("writer");
        let client = self.network.path(Host::Client);
        let Settings { members, write_every, .. } = self.settings;
        self.writer = Some(Writer::start(&client, members, &target, write_every));
        self.wait_written();
    }

    pub fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("a bootstrapped laboratory")
    }

    /// Ends the writers, for good.
    pub fn stop_writing(&mut self) {
        self.writer = None;
    }

    pub fn member(&mut self, number: u8) -> &mut Member {
        &mut self.members[usize::from(number) - 1]
    }

    pub fn product(&self, number: u8) -> Product {
        self.members[usize::from(number) - 1].product
    }

    /// From its next start on this stopped member runs the other program, with the same
    /// configuration on the same directory.
    pub fn set_product(&mut self, number: u8, product: Product) {
        let program = self.program(product);
        self.member(number).set_program(product, &program);
    }

    /// The start of the product's command line.
    pub fn program(&mut self, product: Product) -> Vec<String> {
        let base = self.base.path();
        self.programs.entry(product).or_insert_with(|| install(product, base)).clone()
    }

    pub fn directory(&self) -> &Path {
        self.base.path()
    }

    pub fn numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.settings.members
    }

    /// Waits for a row that was sent from now on to be acknowledged; tells by whom.
    pub fn wait_written(&self) -> u8 {
        let since = self.writer().now();
        let limit = Duration::from_secs(90);
        wait_until("an acknowledged row", limit, || {
            self.writer().newest().filter(|ack| ack.sent >= since).map(|ack| ack.member)
        })
    }

    /// Asks a member's REST API from the client's host.
    pub fn ask(&self, member: u8, method: &str, path: &str, body: &str) -> Option<http::Answer> {
        self.ask_within(member, method, path, body, ANSWER_WITHIN)
    }

    /// ... what may take longer.
    pub fn ask_within(
        &self,
        member: u8,
        method: &str,
        path: &str,
        body: &str,
        within: Duration,
    ) -> Option<http::Answer> {
        let server = Host::Member(member).socket(REST_PORT);
        let ask = || http::request(server, method, path, body, within).ok();
        self.network.at(Host::Client, ask)
    }

    pub fn get(&self, member: u8, path: &str) -> Option<http::Answer> {
        self.ask(member, "GET", path, "")
    }

    /// The cluster as a member's `/cluster` tells it.
    pub fn view(&self, member: u8) -> Option<View> {
        let answer = self.get(member, "/cluster").filter(|answer| answer.status == 200)?;
        View::parse(&answer.json())
    }

    /// Waits until all members say the same: one leader, all others streaming on its timeline.
    pub fn wait_healthy(&self, what: &str, limit: Duration) -> View {
        let count = usize::from(self.settings.members);
        wait_until(&format!("a healthy cluster: {what}"), limit, || {
            let views: Option<Vec<View>> = self.numbers().map(|n| self.view(n)).collect();
            let views = views?;
            let view = views.first()?;
            let leader = view.leader()?;
            let agreed = views.iter().all(|other| other.leader() == Some(leader));
            let writable = || self.get(leader.number, "/primary").is_some_and(|a| a.status == 200);
            (agreed && view.is_healthy(count, self.settings.synchronous) && writable())
                .then(|| view.clone())
        })
    }

    /// The leader as any member names it, waiting for one that is not `other_than`.
    pub fn wait_leader(&self, other_than: Option<u8>, limit: Duration) -> u8 {
        wait_until("a leader", limit, || {
            let named = self.numbers().filter(|&n| Some(n) != other_than).find_map(|n| {
                let view = self.view(n)?;
                view.leader().map(|leader| leader.number)
            });
            named.filter(|&leader| Some(leader) != other_than)
        })
    }

    /// One statement as superuser on a member, rows as text.
    pub fn query(&self, member: u8, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        let mut target = target("postgres");
        target.host(Host::Member(member).address().to_string());
        self.query_at(&target, sql).map_err(|error| format!("m{member}: {error}"))
    }

    /// ... on whatever this leads to from the client's host.
    pub fn query_at(&self, target: &Config, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        self.network.at(Host::Client, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let work = query(target, sql);
                let limit = tokio::time::timeout(Duration::from_secs(30), work);
                limit.await.map_err(|_| format!("no answer to {sql}"))?
            })
        })
    }

    /// The verdict on everything since `from`, with the table as it is on the primary now.
    pub fn judge(&self, from: Duration) -> Verdict {
        let (primary, until) = (self.wait_written(), self.writer().now());
        let rows = self.query(primary, "SELECT seq FROM written").expect("the final table");
        let seq = |row: &Vec<Option<String>>| row[0].as_ref().and_then(|seq| seq.parse().ok());
        let present: BTreeSet<i64> = rows.iter().filter_map(seq).collect();
        judge::judge(&self.writer().acks(), &present, from, until)
    }

    /// The machine is gone: first from the network, then all of its processes.
    pub fn lose(&mut self, number: u8) {
        let host = Host::Member(number);
        self.network.unplug(host);
        self.network.kill_all(host);
        self.member(number).reap();
    }

    /// The machine is back.
    pub fn give_back(&mut self, number: u8) {
        self.network.plug(Host::Member(number));
        self.member(number).start();
    }

    /// Cuts a member from etcd and from its peers; clients still reach it.
    pub fn isolate(&self, number: u8) {
        let peers = self.numbers().filter(|&n| n != number).map(Host::Member);
        for other in (1..=self.settings.etcds).map(Host::Etcd).chain(peers) {
            self.network.cut(Host::Member(number), other);
        }
    }

    /// The etcd member that leads (waits for one).
    pub fn etcd_leader(&self) -> u8 {
        wait_until("an etcd leader", Duration::from_secs(30), || {
            let leads = |n: &u8| self.etcds[usize::from(*n) - 1].leads(&self.network);
            (1..=self.settings.etcds).find(|n| leads(n) == Some(true))
        })
    }

    pub fn kill_etcd(&mut self, number: u8) {
        self.etcds[usize::from(number) - 1].kill();
    }

    /// Writes a key of the cluster by hand.
    pub fn put(&self, key: &str, value: &str) {
        let endpoint = format!("http://{}", Host::Etcd(1).socket(2379));
        let key = format!("/service/lab/{key}");
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "put", &key, value]);
        let status = self.network.at(Host::Client, || etcdctl.status()).expect("etcdctl");
        assert!(status.success(), "etcdctl put {key}: {status}");
    }

    pub fn start_etcd(&mut self, number: u8) {
        self.etcds[usize::from(number) - 1].start();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
        for member in &mut self.members {
            // What hangs cannot be killed.
            member.calm_volumes();
            self.network.kill_all(member.host());
        }
    }
}

impl Lab {
    /// Prints the ends of the logs, and copies them to where `LAB_LOGS` says.
    fn keep_logs(&self) {
        let kept = std::env::var_os("LAB_LOGS").map(PathBuf::from);
        let etcds = self.etcds.iter().map(|etcd| (etcd.name(), etcd.log()));
        for (name, log) in self.members.iter().map(|m| (m.name(), m.log())).chain(etcds) {
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("---- {name}, last lines:\n{}", tail.join("\n"));
            if let Some(kept) = &kept {
                fs::write(kept.join(format!("{name}.log")), log)
                    .unwrap_or_else(|e| eprintln!("{e}"));
            }
        }
    }
}

/// Puts the program where `postgres` can read it; the start of its command line.
fn install(product: Product, base: &Path) -> Vec<String> {
    match product {
        Product::Patroni => pypi::patroni(base).unwrap_or_else(|e| panic!("{e}")),
        Product::Pgvigil => {
            let copy = base.join("pgvigil");
            fs::copy(env!("CARGO_BIN_EXE_pgvigil"), &copy).expect("a copy of the program");
            vec![copy.display().to_string()]
        }
    }
}

/// A directory that `postgres` can enter, gone when it is dropped.
pub fn directory() -> tempfile::TempDir {
    let prefix = format!("{MARK}{}-", std::process::id());
    let mode = fs::Permissions::from_mode(0o755);
    let made = tempfile::Builder::new().prefix(&prefix).permissions(mode).tempdir_in("/var/tmp");
    made.expect("a directory below /var/tmp")
}

fn sweep_files() {
    for entry in fs::read_dir("/var/tmp").into_iter().flatten().flatten() {
        if process::is_leftover(&entry.file_name().to_string_lossy()) {
            volume::release(&entry.path());
            fs::remove_dir_all(entry.path()).unwrap_or_else(|e| eprintln!("{e}"));
        }
    }
    let groups = process::control_groups().and_then(|path| fs::read_dir(path).ok());
    for entry in groups.into_iter().flatten().flatten() {
        if process::is_leftover(&entry.file_name().to_string_lossy()) {
            process::remove_control_group(&entry.path());
        }
    }
}

/// A command at a host, as `postgres`, inside a control group if one is given. `ip netns exec`
/// would mount /sys anew and hide the control groups.
fn run_as_postgres(namespace: &Path, control_group: Option<&Path>, command: &[String]) -> Command {
    let (uid, gid) = postgres_user();
    let script = "[ -z \"$1\" ] || echo $$ > \"$1/cgroup.procs\"; shift; exec \"$@\"";
    let mut full = Command::new("sh");
    full.args(["-c", script, "sh"]).arg(control_group.unwrap_or(Path::new("")));
    full.arg("nsenter").arg(format!("--net={}", namespace.display()));
    full.args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}")]);
    full.args(["--clear-groups", "--"]).args(command);
    full.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent");
    // The clone may be in a home that postgres may not enter.
    full.current_dir("/");
    full
}

/// A directory that belongs to `postgres`.
fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    owner_of_postgres(path);
}

fn owner_of_postgres(path: &Path) {
    let (uid, gid) = postgres_user();
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
}

fn postgres_user() -> (u32, u32) {
    let user = nix::unistd::User::from_name("postgres").ok().flatten();
    let user = user.expect("a user postgres (Debian: postgresql-common)");
    (user.uid.as_raw(), user.gid.as_raw())
}

fn target(user: &str) -> Config {
    let mut target = Config::new();
    target.port(POSTGRES_PORT).user(user).password(PASSWORD).dbname("postgres");
    target
}

async fn query(target: &Config, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let client = writer::connect(target, ANSWER_WITHIN).await?;
    let messages = client.simple_query(sql).await.map_err(|e| format!("{sql}: {e}"))?;
    let row = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}
