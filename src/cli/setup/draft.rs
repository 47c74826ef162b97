//! A configuration in the making, and the file that comes of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::UdpSocket;
use std::path::Path;

use crate::config::is_controlled;

/// Bytes of a password that is made up: 144 bits.
const SECRET_BYTES: usize = 18;

/// Debian's and RHEL's places, the version in between.
const PLACES: [(&str, &str, &str, &str); 2] = [
    ("/usr/lib/postgresql/", "/bin", "/var/lib/postgresql/", "/main"),
    ("/usr/pgsql-", "/bin", "/var/lib/pgsql/", "/data"),
];

/// User and password in PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub scope: String,
    pub name: String,
    /// `host:port`
    pub etcd: Vec<String>,
    /// At which other members and clients reach this server.
    pub address: String,
    pub rest_port: u16,
    pub port: u16,
    pub data_dir: String,
    /// Where it is not the data directory.
    pub config_dir: Option<String>,
    pub bin_dir: String,
    pub superuser: Login,
    pub replication: Login,
    pub rewind: Login,
    /// The server's own settings, if it runs already.
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf; of a new server those that it needs.
    pub pg_hba: Vec<String>,
    pub pg_ident: Vec<String>,
}

impl Draft {
    /// As far as this machine tells, with new passwords.
    pub fn guess() -> Draft {
        let (bin_dir, data_dir) = installed();
        let name = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let login = |name: &str| Login { username: name.to_owned(), password: secret() };
        Draft {
            scope: "main".to_owned(),
            name: if name.is_empty() { "member1".to_owned() } else { name },
            etcd: vec!["127.0.0.1:2379".to_owned()],
            address: own_address(),
            rest_port: 8008,
            port: 5432,
            data_dir,
            config_dir: None,
            bin_dir,
            superuser: login("postgres"),
            replication: login("replicator"),
            rewind: login("rewind_user"),
            parameters: BTreeMap::new(),
            pg_hba: access("samenet"),
            pg_ident: Vec::new(),
        }
    }

    /// The file.
    pub fn render(&self) -> String {
        let (shared, own): (Vec<_>, Vec<_>) =
            self.parameters.iter().partition(|(name, _)| is_controlled(name));
        let at = |host: &str, port: u16| quoted(&format!("{host}:{port}"));
        let etcd: Vec<String> = self.etcd.iter().map(|host| quoted(host)).collect();
        let mut text = HEAD.to_owned();
        let mut line = |indent: usize, key: &str, value: &str| {
            let blank = if value.is_empty() { "" } else { " " };
            // Writing to a String does not fail.
            let _ = writeln!(text, "{:indent$}{key}:{blank}{value}", "");
        };
        line(0, "scope", &quoted(&self.scope));
        line(0, "name", &quoted(&self.name));
        line(0, "\nrestapi", "");
        line(2, "listen", &at("0.0.0.0", self.rest_port));
        line(2, "connect_address", &at(&self.address, self.rest_port));
        line(0, "\netcd3", "");
        line(2, "hosts", &format!("[{}]", etcd.join(", ")));
        text.push_str(BOOTSTRAP);
        settings(&mut text, 6, &shared);
        text.push_str(INITDB);
        let mut line = |key: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, "  {key}: {}", quoted(value));
            }
        };
        line("listen", &format!("0.0.0.0:{}", self.port));
        line("connect_address", &format!("{}:{}", self.address, self.port));
        line("data_dir", &self.data_dir);
        line("config_dir", self.config_dir.as_deref().unwrap_or_default());
        line("bin_dir", &self.bin_dir);
        text.push_str("  authentication:\n");
        let logins = [&self.superuser, &self.replication, &self.rewind];
        for (role, login) in ["superuser", "replication", "rewind"].into_iter().zip(logins) {
            let (user, password) = (quoted(&login.username), quoted(&login.password));
            let _ = writeln!(text, "    {role}: {{username: {user}, password: {password}}}");
        }
        settings(&mut text, 2, &own);
        list(&mut text, "pg_hba", &self.pg_hba);
        list(&mut text, "pg_ident", &self.pg_ident);
        text + WATCHDOG
    }
}

const HEAD: &str = "\
# A member of a PostgreSQL cluster. All keys: CONFIGURATION.md beside the package's other
# documents. After a change: pgvigil check-config FILE, then systemctl reload pgvigil.

";

const BOOTSTRAP: &str = "
bootstrap:
  # For the first start of the first member; later: pgvigilctl edit-config
  dcs:
    ttl: 30
    loop_wait: 10
    retry_timeout: 10
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
";

const INITDB: &str = "  initdb:
    - encoding: UTF8
    - data-checksums

postgresql:
";

const WATCHDOG: &str = "
watchdog:
  # required: does not lead without a device; off: needs none. See FENCING.md
  mode: automatic
";

/// The section `parameters`, if there are any.
fn settings(text: &mut String, indent: usize, values: &[(&String, &String)]) {
    if !values.is_empty() {
        let _ = writeln!(text, "{:indent$}parameters:", "");
    }
    for (name, value) in values {
        let _ = writeln!(text, "{:indent$}  {name}: {}", "", quoted(value));
    }
}

/// Lines of a file of PostgreSQL's, if there are any.
fn list(text: &mut String, key: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = writeln!(text, "  {key}:");
    }
    for line in lines {
        let _ = writeln!(text, "    - {}", quoted(line));
    }
}

/// What a new server permits: sockets, this machine, and `addresses`, all by password.
pub fn access(addresses: &str) -> Vec<String> {
    // As Debian has it: whoever may become postgres needs no password.
    let mut lines =
        ["local all postgres peer", "local all all scram-sha-256"].map(String::from).to_vec();
    for from in ["127.0.0.1/32", addresses] {
        lines.push(format!("host replication replicator {from} scram-sha-256"));
        lines.push(format!("host all all {from} scram-sha-256"));
    }
    lines
}

/// JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A password of letters and digits.
pub fn secret() -> String {
    let mut bytes = [0; SECRET_BYTES];
    let read =
        fs::File::open("/dev/urandom").and_then(|mut f| io::Read::read_exact(&mut f, &mut bytes));
    read.expect("invariant: /dev/urandom can be read");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The newest programs, and the data directory that belongs to them.
fn installed() -> (String, String) {
    let mut found = Vec::new();
    for (before, after, data, main) in PLACES {
        let (parent, prefix) = before.rsplit_once('/').unwrap_or((before, ""));
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(prefix).and_then(|v| v.parse::<u32>().ok());
            let Some(version) = version else { continue };
            let bin_dir = format!("{before}{version}{after}");
            if Path::new(&bin_dir).join("postgres").exists() {
                found.push((version, bin_dir, format!("{data}{version}{main}")));
            }
        }
    }
    let newest = found.into_iter().max();
    // RHEL's own: in the search path, one data directory.
    let otherwise = (String::new(), "/var/lib/pgsql/data".to_owned());
    newest.map_or(otherwise, |(_, bin_dir, data_dir)| (bin_dir, data_dir))
}

/// The address from which this machine would speak to others; nothing is sent.
fn own_address() -> String {
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    asked.map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Role, effective, load};

    #[test]
    fn what_is_written_is_read_without_a_word() {
        let draft = Draft {
            name: "it's \"db\": 1 # no".to_owned(),
            config_dir: Some("/etc/postgresql/15/main".to_owned()),
            parameters: BTreeMap::from([
                ("max_connections".to_owned(), "200".to_owned()),
                ("work_mem".to_owned(), "8MB".to_owned()),
                ("archive_command".to_owned(), "cp %p '/wal/%f' # \\ \"".to_owned()),
            ]),
            pg_ident: vec!["map root postgres".to_owned()],
            bin_dir: "/usr/lib/postgresql/15/bin".to_owned(),
            ..Draft::guess()
        };
        for draft in [draft, Draft::guess()] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("pgvigil.yml");
            std::fs::write(&path, draft.render()).unwrap();
            let loaded = load(Some(&path), &BTreeMap::new()).unwrap();
            assert_eq!(loaded.warnings, [], "{}", draft.render());
            let local = loaded.local;
            assert_eq!((&local.name, &local.scope), (&draft.name, &draft.scope));
            assert_eq!(local.postgresql.superuser.password, Some(draft.superuser.password.clone()));
            let dcs = local.bootstrap.dcs.clone();
            let (effective, warnings) = effective(&local, &dcs, Role::Primary, 3);
            assert!(warnings.is_empty(), "{warnings:?}");
            for (name, value) in &draft.parameters {
                let shared = effective.controlled.iter().find(|(n, _)| n == name).map(|(_, v)| v);
                assert_eq!(shared.or(effective.parameters.get(name)), Some(value), "{name}");
            }
            assert_eq!(effective.pg_hba, Some(draft.pg_hba.clone()));
        }
    }

    /// The package's example is what comes out for one of three servers of the documentation.
    #[test]
    fn the_example_is_behind_nothing() {
        let login = |username: &str| Login {
            username: username.to_owned(),
            password: "CHANGE ME".to_owned(),
        };
        let draft = Draft {
            scope: "main".to_owned(),
            name: "db1".to_owned(),
            etcd: ["etcd1", "etcd2", "etcd3"].map(|host| format!("{host}:2379")).into(),
            address: "192.0.2.11".to_owned(),
            data_dir: "/var/lib/postgresql/15/main".to_owned(),
            bin_dir: "/usr/lib/postgresql/15/bin".to_owned(),
            superuser: login("postgres"),
            replication: login("replicator"),
            rewind: login("rewind_user"),
            ..Draft::guess()
        };
        let path = format!("{}/packaging/example.yml", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, draft.render()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), draft.render(), "REWRITE=1");
    }

    #[test]
    fn passwords_are_long_and_differ() {
        let (one, two) = (secret(), secret());
        assert!(one.len() == 2 * SECRET_BYTES && one != two);
    }
}
