//! The member: its configuration, its store, its programs, its volumes and its ports.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::Value;

use crate::api::auth::Credentials;
use crate::api::client::Client;
use crate::config::{self, Effective, Local, Role};
use crate::core::budget::Budget;
use crate::core::cluster::Cluster;
use crate::core::database::DataDir;
use crate::dcs::Dcs;
use crate::discovery;
use crate::postgres::binaries::{Binaries, Tool};
use crate::postgres::datadir;
use crate::sys::clock;

use super::Check;

const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Reads of the whole cluster that are timed.
const SAMPLES: usize = 5;

/// Less free space than this is worth a word.
const ROOM_BYTES: u64 = 1 << 30;

/// Less than one WAL segment: PostgreSQL ends when it needs the next.
const FULL_BYTES: u64 = 16 << 20;

/// What the other checks need to know of the member.
pub struct Known {
    pub local: Option<Local>,
    pub effective: Option<Effective>,
    /// What the member that runs here answers to `GET /patroni`.
    pub answer: Option<Value>,
    store: Option<(Dcs, Vec<Duration>, Result<Cluster, String>)>,
}

impl Known {
    pub async fn gather(
        path: Option<&Path>,
        environment: &BTreeMap<String, String>,
    ) -> (Known, Vec<Check>) {
        let topic = "configuration";
        let loaded = match config::load(path, environment) {
            Ok(loaded) => loaded,
            Err(problems) => {
                let first = problems.iter().find(|problem| problem.error);
                let what = first.or(problems.first()).map(ToString::to_string).unwrap_or_default();
                let advice = "pgvigil check-config prints all that is wrong".to_owned();
                let known = Known { local: None, effective: None, answer: None, store: None };
                return (known, vec![Check::bad(topic, what, advice)]);
            }
        };
        let local = loaded.local;
        let store = Known::ask_store(&local).await;
        let cluster = store.as_ref().and_then(|(_, _, cluster)| cluster.as_ref().ok());
        let stored = cluster.and_then(|cluster| cluster.config.as_ref());
        let dynamic = stored.and_then(|stored| serde_json::from_str(&stored.value).ok());
        let dynamic: Value = dynamic.unwrap_or_else(|| local.bootstrap.dcs.clone());
        let (effective, more) =
            config::effective(&local, &dynamic, Role::Primary, config::TTL_FLOOR_S);
        let what = format!("member {} of {}", local.name, local.scope);
        let mut checks = vec![match loaded.warnings.len() {
            0 => Check::good(topic, what),
            warnings => Check::warning(
                topic,
                format!("{what}: {warnings} warnings"),
                "pgvigil check-config prints them",
            ),
        }];
        let (place, advice) = match stored {
            Some(_) => ("the cluster's", "pgvigilctl edit-config"),
            None => ("bootstrap.dcs", "mend it before the cluster is made from it"),
        };
        let warned = |w| Check::warning(topic, format!("{place}: {w}"), advice);
        checks.extend(more.into_iter().map(warned));
        let answer = Known::ask_member(&local).await;
        let known = Known { answer, effective: Some(effective), local: Some(local), store };
        (known, checks)
    }

    async fn ask_store(local: &Local) -> Option<(Dcs, Vec<Duration>, Result<Cluster, String>)> {
        let dcs = Dcs::new(discovery::options(&local.etcd, local.prefix())).ok()?;
        let (mut times, mut cluster) = (Vec::new(), Err(String::new()));
        // The first one connects.
        for _ in 0..=SAMPLES {
            let begun = clock::boot();
            cluster = dcs.read(ANSWER_WITHIN).await.map_err(|error| error.to_string());
            if cluster.is_err() {
                break;
            }
            times.push(clock::boot().since(begun));
        }
        times.drain(..times.len().min(1));
        times.sort();
        Some((dcs, times, cluster))
    }

    async fn ask_member(local: &Local) -> Option<Value> {
        let own = local.peer_credentials();
        let credentials =
            own.map(|c| Credentials { username: c.username.clone(), password: c.password.clone() });
        let client = Client::new(credentials, &local.ctl.tls).ok()?;
        let document = client.get(&local.restapi.api_url(), ANSWER_WITHIN).await.ok()?.body;
        // Not another one's on the same port.
        let own = |key: &str, value: &str| document["patroni"][key].as_str() == Some(value);
        let own = own("name", &local.name) && own("scope", &local.scope);
        (own && document.get("vigil").is_some()).then_some(document)
    }
}

pub async fn checks(known: &Known) -> Vec<Check> {
    let (Some(local), Some(effective)) = (&known.local, &known.effective) else {
        return Vec::new();
    };
    let mut checks = vec![member(known)];
    checks.extend(etcd(known, effective).await);
    checks.push(programs(local));
    checks.extend(volumes(local));
    if known.answer.is_none() {
        checks.extend(ports(local));
    }
    checks
}

fn member(known: &Known) -> Check {
    let topic = "member";
    let Some(answer) = &known.answer else {
        return Check::good(
            topic,
            "does not run here now: what only a running one shows is left out",
        );
    };
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let vigil = &answer["vigil"];
    let what =
        format!("{}, {}: {}", text(&answer["role"]), text(&answer["state"]), text(&vigil["why"]));
    let findings = vigil["health"]["findings"].as_array().cloned().unwrap_or_default();
    if let Some(first) = findings.first() {
        // What is wrong is often why nothing else is done.
        let said = text(&vigil["why"]);
        let what =
            if text(first).starts_with(&said) { what } else { format!("{what}; {}", text(first)) };
        return Check::bad(topic, what, "GET /patroni shows all findings");
    }
    match vigil["fence"].as_str() {
        None | Some("none") => Check::good(topic, what),
        Some(fence) => {
            Check::bad(topic, format!("{what}; {fence}"), "pgvigilctl explain tells why")
        }
    }
}

async fn etcd(known: &Known, effective: &Effective) -> Vec<Check> {
    let topic = "etcd";
    let Some((dcs, times, cluster)) = &known.store else {
        return vec![Check::bad(
            topic,
            "the options are refused",
            "pgvigil check-config tells why",
        )];
    };
    let mut checks: Vec<Check> = Vec::new();
    for seen in dcs.endpoints_seen(ANSWER_WITHIN).await {
        checks.push(match seen.version {
            Ok(version) => version_of(&seen.url, &version),
            Err(error) => Check::warning(
                topic,
                format!("{}: {error}", seen.url),
                "the cluster goes on while most members of etcd answer",
            ),
        });
    }
    checks.push(match (cluster, times.get(times.len() / 2), times.last()) {
        (Ok(_), Some(median), Some(worst)) => round_trip(*median, *worst, effective),
        (Ok(_), _, _) => Check::good(topic, "answers"),
        (Err(error), _, _) => Check::bad(
            topic,
            format!("no linearizable read: {error}"),
            "without a quorum of etcd a primary is frozen at its deadline",
        ),
    });
    checks
}

/// The releases in which the lease bugs of earlier ones are mended.
fn version_of(url: &str, version: &str) -> Check {
    let topic = "etcd";
    let parts: Vec<u32> = version.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    let mended = match parts[..] {
        [3, 4, patch, ..] => patch >= 38,
        [3, 5, patch, ..] => patch >= 23,
        [major, minor, ..] => (major, minor) >= (3, 6),
        _ => false,
    };
    let what = format!("{url}: version {version}");
    if mended {
        return Check::good(topic, what);
    }
    let advice = "3.4.38, 3.5.23 and 3.6 mend bugs of leases; pgvigil guards itself against them \
                  by a read after each renewal";
    Check::warning(topic, what, advice)
}

/// A confirmation is two round trips, and permits only while it is young.
fn round_trip(median: Duration, worst: Duration, effective: &Effective) -> Check {
    let topic = "etcd";
    let ms = |d: Duration| d.as_secs_f32() * 1000.0;
    let what =
        format!("a read of the cluster takes {:.1} ms, at worst {:.1} ms", ms(median), ms(worst));
    let Ok(budget) = Budget::new(effective.settings.ttl, effective.rho_ppm) else {
        return Check::good(topic, what);
    };
    if worst * 2 < budget.g {
        return Check::good(
            topic,
            format!("{what}; a confirmation may take {:.0} ms", ms(budget.g)),
        );
    }
    let advice = format!(
        "two of them must take less than {:.0} ms for a promotion: raise ttl, or bring etcd nearer",
        ms(budget.g)
    );
    Check::bad(topic, what, advice)
}

fn programs(local: &Local) -> Check {
    let topic = "postgresql";
    let binaries = Binaries::new(&local.postgresql.bin_dir, &local.postgresql.bin_name);
    for tool in [Tool::Initdb, Tool::PgBasebackup, Tool::PgCtl, Tool::PgRewind] {
        if let Err(error) = binaries.path(tool) {
            return Check::bad(topic, error.to_string(), "install it, or set postgresql.bin_dir");
        }
    }
    let major = match binaries.major_version() {
        Ok(major) => major,
        Err(error) => {
            let advice = "install PostgreSQL 13 to 18, or set postgresql.bin_dir";
            return Check::bad(topic, error.to_string(), advice);
        }
    };
    let dir = &local.postgresql.data_dir;
    match datadir::inspect(Path::new(dir)) {
        DataDir::Cluster { version, .. } if version != major => Check::bad(
            topic,
            format!("the programs are of version {major}, {dir} is of version {version}"),
            "set postgresql.bin_dir to the programs of that version",
        ),
        DataDir::Cluster { version, .. } => {
            Check::good(topic, format!("programs and {dir} are of version {version}"))
        }
        DataDir::Empty => Check::good(topic, format!("version {major}; {dir} is empty")),
        DataDir::Unusable { reason } => Check::bad(
            topic,
            format!("version {major}; {reason}"),
            "run doctor as the owner of the data directory, or as root",
        ),
    }
}

fn volumes(local: &Local) -> Vec<Check> {
    let data_dir = Path::new(&local.postgresql.data_dir);
    // What is not there yet will be made in what is.
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let wal = data_dir.join("pg_wal");
    let device = |path: &Path| nix::sys::stat::stat(path).ok().map(|about| about.st_dev);
    let mut checks = vec![room(there)];
    if wal.exists() && device(&wal) != device(data_dir) {
        checks.push(room(&wal));
    }
    checks
}

fn room(path: &Path) -> Check {
    let topic = "volume";
    let place = path.display();
    let volume = match statvfs(path) {
        Ok(volume) => volume,
        Err(error) => return Check::bad(topic, format!("{place}: {error}"), "check the mount"),
    };
    let free = volume.blocks_available() * volume.fragment_size();
    let total = volume.blocks() * volume.fragment_size();
    let what = format!("{place}: {} MiB of {} MiB are free", free >> 20, total >> 20);
    if volume.flags().contains(FsFlags::ST_RDONLY) {
        return Check::bad(topic, format!("{place} is mounted read-only"), "mount it for writing");
    }
    match free {
        ..FULL_BYTES => Check::bad(topic, what, "PostgreSQL ends when it finds no room for WAL"),
        FULL_BYTES..ROOM_BYTES => Check::warning(topic, what, "a full volume ends PostgreSQL"),
        _ => Check::good(topic, what),
    }
}

/// A port that is to be listened on.
pub struct Port<'a> {
    pub key: &'static str,
    pub host: &'a str,
    pub port: u16,
    /// Whether it could be taken now; given back at once.
    pub tried: std::io::Result<()>,
}

/// Every port that a member with this configuration takes.
pub fn try_ports(local: &Local) -> Vec<Port<'_>> {
    let rest = &local.restapi.listen;
    let postgres = local.postgresql.listen_addresses.iter();
    let wanted = std::iter::once(("restapi.listen", &rest.host, rest.port))
        .chain(postgres.map(|host| ("postgresql.listen", host, local.postgresql.port)));
    let tried = |host: &str, port: u16| {
        let host = if matches!(host, "" | "*") { "0.0.0.0" } else { host };
        TcpListener::bind((host, port)).map(drop)
    };
    wanted.map(|(key, host, port)| Port { key, host, port, tried: tried(host, port) }).collect()
}

/// Only without a running member, which has them.
fn ports(local: &Local) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut free = Vec::new();
    for Port { key, host, port, tried } in try_ports(local) {
        match tried {
            Ok(()) => free.push(format!("{host}:{port}")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => checks.push(Check::bad(
                "ports",
                format!("{key}: {host}:{port} is in use by a program that is not this member"),
                format!("ss -ltnp 'sport = :{port}' tells which; stop it, or change {key}"),
            )),
            Err(error) => checks.push(Check::bad(
                "ports",
                format!("{key}: {host}:{port}: {error}"),
                format!("{key} must be an address of this machine"),
            )),
        }
    }
    if !free.is_empty() {
        checks.insert(0, Check::good("ports", format!("free: {}", free.join(", "))));
    }
    checks
}
