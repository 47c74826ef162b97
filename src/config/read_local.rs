//! Reads the local configuration from a checked tree; reports what is missing or contradicts
//! itself. The old spellings of Patroni's early releases work, too.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Endpoint;
use super::address;
use super::diagnostics::Report;
use super::etcd;
use super::keys::{LIBPQ, LOCAL_ONLY};
use super::local::{
    Bootstrap, Credentials, Ctl, CtlTls, CustomBootstrap, DbUser, Local, Postgresql, RestApi,
    RestTls, VerifyClient, Vigil, Watchdog, WatchdogMode,
};
use super::log;
use super::options::{self, INITDB};
use super::reader::{self, Reader};
use super::tags;
use super::tree::{Node, Position};
use super::units;

/// Patroni uses this name for itself in the sync key.
const RESERVED_NAME: &str = "__patroni_strict_sync_replica_placeholder__";

/// Reads the whole; what is missing or contradicts itself goes into the report.
pub fn read(root: &Node, report: &mut Report) -> Local {
    let top = Reader::new(root);
    let whole = Position { line: 0, column: 0, ..root.at.clone() };
    let mut reading = Reading { whole, report };
    let old_name = top.sub("postgresql").text("name");
    let name = top.text("name").or(old_name).unwrap_or_default();
    let scope = top.text("scope").unwrap_or_default();
    reading.check_key(top, "name", &name);
    reading.check_key(top, "scope", &scope);
    let tag_values = tag_values(top);
    let (tags, conflicts) = tags::of(&tag_values);
    for why in conflicts {
        reading.report.warn(&top.at("tags", &reading.whole), "tags", why);
    }
    let etcd = etcd::read(top, &reading.whole, reading.report);
    Local {
        name,
        scope,
        namespace: namespace(top.text("namespace")),
        restapi: reading.restapi(top.sub("restapi")),
        postgresql: reading.postgresql(top.sub("postgresql")),
        bootstrap: reading.bootstrap(top.sub("bootstrap")),
        etcd,
        tags,
        tag_values: tags::shown(&tag_values),
        log: log::read(top.sub("log"), &reading.whole, reading.report),
        ctl: ctl(top),
        watchdog: watchdog(top.sub("watchdog")),
        vigil: Vigil::read(top.sub("vigil")),
    }
}

pub(super) fn namespace(text: Option<String>) -> String {
    let text = text.unwrap_or_else(|| "service".to_owned());
    let parts: Vec<&str> = text.split('/').filter(|p| !p.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

fn tag_values(top: Reader) -> BTreeMap<String, Value> {
    match top.value("tags") {
        Some(Value::Object(map)) => map.into_iter().filter(|(_, v)| !v.is_null()).collect(),
        _ => BTreeMap::new(),
    }
}

pub(super) fn ctl(top: Reader) -> Ctl {
    let section = top.sub("ctl");
    Ctl {
        authentication: credentials(section),
        tls: CtlTls {
            insecure: section.boolean("insecure").unwrap_or(false),
            cacert: section.text("cacert").or(top.sub("restapi").text("cafile")),
            certfile: section.text("certfile"),
            keyfile: section.text("keyfile"),
            keyfile_password: section.text("keyfile_password"),
        },
    }
}

fn rest_tls(section: Reader) -> RestTls {
    RestTls {
        certfile: section.text("certfile"),
        keyfile: section.text("keyfile"),
        keyfile_password: section.text("keyfile_password"),
        cafile: section.text("cafile"),
        ciphers: section.text("ciphers"),
        verify_client: match section.text("verify_client").unwrap_or_default().as_str() {
            "optional" => VerifyClient::Optional,
            "required" => VerifyClient::Required,
            _ => VerifyClient::None,
        },
    }
}

/// `authentication`, or the old `auth: user:password`. Both parts, or nothing.
pub(super) fn credentials(section: Reader) -> Option<Credentials> {
    if let Some(auth) = section.text("auth").filter(|_| !section.has("authentication")) {
        let (username, password) = auth.split_once(':')?;
        return Some(Credentials { username: username.into(), password: password.into() });
    }
    let section = section.sub("authentication");
    let (username, password) = (section.text("username")?, section.text("password")?);
    Some(Credentials { username, password })
}

fn watchdog(section: Reader) -> Watchdog {
    let mode = section.value("mode").unwrap_or(Value::Null);
    let word = units::text(&mode).unwrap_or_default().to_lowercase();
    let mode = match (word.as_str(), units::boolean(&mode)) {
        ("required", _) => WatchdogMode::Required,
        (_, Some(false)) => WatchdogMode::Off,
        _ => WatchdogMode::Automatic,
    };
    Watchdog {
        mode,
        device: section.text("device"),
        testing: section.text("driver").is_some_and(|d| d.eq_ignore_ascii_case("testing")),
        safety_margin_s: section.integer("safety_margin", ""),
    }
}

struct Reading<'a> {
    whole: Position,
    report: &'a mut Report,
}

const NOWHERE: fn() -> Endpoint = || Endpoint { host: String::new(), port: 0 };

impl Reading<'_> {
    fn error(&mut self, section: Reader, key: &str, path: &str, why: &str) {
        self.report.error(&section.at(key, &self.whole), path, why);
    }

    /// A name that becomes part of a key of the store.
    fn check_key(&mut self, top: Reader, key: &str, text: &str) {
        if text.is_empty() {
            self.report.error(&self.whole, key, "is missing");
        } else if text.contains('/') || text.chars().any(char::is_control) {
            self.error(top, key, key, "must not contain / or control characters");
        } else if text == RESERVED_NAME {
            self.error(top, key, key, "is a name that Patroni reserves for itself");
        }
    }

    /// One `host:port`; the schema has reported what does not parse at all.
    fn endpoint(&mut self, section: Reader, key: &str, path: &str) -> Option<Endpoint> {
        let text = section.text(key)?;
        match address::endpoint(&text, None) {
            Ok(endpoint) => Some(endpoint),
            Err(why) => {
                if address::parse(&text).is_ok() {
                    self.error(section, key, path, &why);
                }
                None
            }
        }
    }

    /// What others shall connect to must be an address, not "all of them".
    fn reachable(&mut self, section: Reader, path: &str, endpoint: &Endpoint) {
        if matches!(endpoint.host.as_str(), "" | "*" | "0.0.0.0" | "::") && endpoint.port > 0 {
            let why = "is no address that other members can connect to; set it";
            let at = section.at("connect_address", &self.whole);
            self.report.warn(&at, &format!("{path}.connect_address"), why);
        }
    }

    fn restapi(&mut self, section: Reader) -> RestApi {
        let listen = self.endpoint(section, "listen", "restapi.listen");
        if !section.has("listen") {
            self.error(section, "", "restapi.listen", "is missing (host:port)");
        }
        let listen = listen.unwrap_or_else(NOWHERE);
        let connect = self.endpoint(section, "connect_address", "restapi.connect_address");
        let connect_address = connect.unwrap_or_else(|| listen.clone());
        self.reachable(section, "restapi", &connect_address);
        let authentication = credentials(section);
        let wanted = section.has("authentication") || section.has("auth");
        if wanted && authentication.is_none() {
            let why = "needs both username and password";
            self.error(section, "authentication", "restapi.authentication", why);
        }
        RestApi {
            listen,
            connect_address,
            authentication,
            allowlist: section.texts("allowlist").unwrap_or_default(),
            allowlist_include_members: section
                .boolean("allowlist_include_members")
                .unwrap_or(false),
            tls: rest_tls(section),
            http_extra_headers: section.text_map("http_extra_headers"),
            https_extra_headers: section.text_map("https_extra_headers"),
            server_tokens: section.text("server_tokens").unwrap_or_default().to_lowercase(),
        }
    }

    fn postgresql(&mut self, section: Reader) -> Postgresql {
        let listen = section.text("listen").and_then(|text| address::parse(&text).ok());
        if !section.has("listen") {
            self.error(section, "", "postgresql.listen", "is missing (host:port)");
        }
        let (hosts, port) = listen.unwrap_or_default();
        let connect = self.endpoint(section, "connect_address", "postgresql.connect_address");
        let own = Endpoint { host: hosts.first().cloned().unwrap_or_default(), port };
        let connect_address = connect.unwrap_or(own);
        self.reachable(section, "postgresql", &connect_address);
        let data_dir = section.text("data_dir").unwrap_or_default();
        if data_dir.is_empty() {
            self.error(section, "", "postgresql.data_dir", "is missing");
        }
        let data_dir = without_trailing_slash(&data_dir);
        let [superuser, replication, rewind] = self.users(section);
        Postgresql {
            listen_addresses: hosts,
            port,
            connect_address,
            proxy_address: self.endpoint(section, "proxy_address", "postgresql.proxy_address"),
            config_dir: section
                .text("config_dir")
                .map_or_else(|| data_dir.clone(), |d| without_trailing_slash(&d)),
            data_dir,
            config_base_name: section
                .text("config_base_name")
                .unwrap_or_else(|| "postgresql".to_owned()),
            bin_dir: section.text("bin_dir").unwrap_or_default(),
            bin_name: section.text_map("bin_name"),
            pgpass: section.text("pgpass").unwrap_or_else(default_pgpass),
            use_unix_socket: section.boolean("use_unix_socket").unwrap_or(false),
            use_unix_socket_repl: section.boolean("use_unix_socket_repl").unwrap_or(false),
            superuser,
            replication,
            rewind,
            raw: shared(section),
        }
    }

    /// Superuser, replication, rewind; the old spellings stand in for what `authentication` lacks.
    fn users(&mut self, section: Reader) -> [DbUser; 3] {
        let authentication = section.sub("authentication");
        let pick = |new: &str, old: &[&str]| {
            let new = user(authentication.sub(new));
            new.or_else(|| old.iter().find_map(|name| user(section.sub(name))))
        };
        let superuser = pick("superuser", &["superuser", "pg_rewind"]).unwrap_or_default();
        let postgres = "postgres".to_owned();
        let superuser = match superuser.username.as_str() {
            "" => DbUser { username: postgres, ..superuser },
            _ => superuser,
        };
        let replication = pick("replication", &["replication"]).unwrap_or_default();
        if replication.username.is_empty() {
            let path = "postgresql.authentication.replication.username";
            let section = if authentication.is_present() { authentication } else { section };
            self.error(section, "replication", path, "is missing");
        }
        let rewind = pick("rewind", &["pg_rewind", "rewind"]).unwrap_or_default();
        let rewind = if rewind.username.is_empty() { superuser.clone() } else { rewind };
        let mut users = [superuser, replication, rewind];
        // For libpq alone: our own sessions authenticate with passwords.
        if let Some(name) = section.text("krbsrvname") {
            for user in &mut users {
                user.options.insert("krbsrvname".to_owned(), name.clone());
            }
        }
        users
    }

    fn bootstrap(&mut self, section: Reader) -> Bootstrap {
        let (initdb, problems) =
            options::of(&INITDB, &section.value("initdb").unwrap_or(Value::Null));
        for why in problems {
            self.error(section, "initdb", "bootstrap.initdb", &why);
        }
        let method = section.text("method").filter(|m| m != "initdb");
        let custom = method.and_then(|method| {
            let custom = custom_bootstrap(&method, section.sub(&method));
            if custom.is_none() {
                let why = format!("needs a section bootstrap.{method} with a command");
                self.error(section, "method", "bootstrap.method", &why);
            }
            custom
        });
        Bootstrap {
            dcs: section.value("dcs").unwrap_or_else(|| Value::Object(serde_json::Map::new())),
            initdb,
            pg_hba: section.texts("pg_hba").unwrap_or_default(),
            post_bootstrap: section.text("post_bootstrap").or_else(|| section.text("post_init")),
            custom,
        }
    }
}

fn custom_bootstrap(method: &str, section: Reader) -> Option<CustomBootstrap> {
    const OURS: [&str; 4] =
        ["command", "no_params", "keep_existing_recovery_conf", "recovery_conf"];
    let value = section.is_present().then(|| section.value("recovery_conf"))?;
    let whole = section.whole()?;
    let entries = whole.as_object()?.iter().filter(|(key, _)| !OURS.contains(&key.as_str()));
    Some(CustomBootstrap {
        method: method.to_owned(),
        command: section.text("command")?,
        no_params: section.boolean("no_params").unwrap_or(false),
        keep_existing_recovery_conf: section
            .boolean("keep_existing_recovery_conf")
            .unwrap_or(false),
        recovery_conf: value.as_ref().map(reader::text_map).unwrap_or_default(),
        options: entries.map(|(k, v)| (k.clone(), units::python_text(v))).collect(),
    })
}

fn user(section: Reader) -> Option<DbUser> {
    if !section.is_present() || !(section.has("username") || section.has("password")) {
        return None;
    }
    let option = |name: &&str| Some(((*name).to_owned(), section.text(name)?));
    Some(DbUser {
        username: section.text("username").unwrap_or_default(),
        password: section.text("password"),
        options: LIBPQ.iter().filter_map(option).collect(),
    })
}

/// What `/config` may hold as well, and the sections of replica methods.
fn shared(section: Reader) -> Value {
    const TYPED: [&str; 5] =
        ["bin_dir", "bin_name", "use_unix_socket", "use_unix_socket_repl", "config_base_name"];
    let Some(Value::Object(mut map)) = section.whole() else {
        return Value::Object(serde_json::Map::new());
    };
    if map.contains_key("pg_rewind") && !map.contains_key("use_pg_rewind") {
        map.insert("use_pg_rewind".to_owned(), Value::Bool(true));
    }
    let old_rewind = map.get("rewind").is_some_and(|r| r.get("username").is_some());
    map.retain(|name, _| {
        let typed = LOCAL_ONLY.contains(&name.as_str()) || TYPED.contains(&name.as_str());
        !(typed || old_rewind && name == "rewind")
    });
    Value::Object(map)
}

fn without_trailing_slash(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => path.to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

fn default_pgpass() -> String {
    let home = std::env::home_dir().unwrap_or_default();
    home.join("pgpass").to_string_lossy().into_owned()
}
