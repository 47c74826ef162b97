//! The configuration as a whole: files in, meaning and findings out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::core::settings::SyncMode;

/// As tutorials have it, with the parts that today's Patroni documents.
const USUAL: &str = "
scope: demo
name: alpha
namespace: /db//
restapi: {listen: '127.0.0.1:8008', connect_address: '10.0.0.1:8008'}
etcd3: {hosts: 'e1:2379,e2', protocol: http}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 3
    retry_timeout: 5
    synchronous_mode: on
    maximum_lag_on_failover: 16MB
    postgresql:
      use_pg_rewind: true
      parameters: {max_connections: 50, wal_level: logical, max_wal_senders: 1, work_mem: 4MB}
  initdb: [encoding: UTF8, data-checksums]
postgresql:
  listen: 127.0.0.1,10.0.0.1:5432
  connect_address: 10.0.0.1:5432
  data_dir: /data/
  bin_dir: /usr/lib/postgresql/15/bin
  pgpass: /tmp/pgpass
  authentication:
    replication: {username: replicator, password: s3cret-rep}
    superuser: {username: postgres, password: s3cret-super, sslmode: require}
  create_replica_methods: [pgbackrest, basebackup]
  pgbackrest: {command: /x, keep_data: true}
  basebackup: [{max-rate: 100M}, verbose]
  pg_hba: [local all all trust]
  parameters: {work_mem: 8MB, max_connections: 60, logging_collector: on, hba_file: my_hba}
tags: {nofailover: false, zone: z1}
";

fn none() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn load_text(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    load(None, &BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), text.to_owned())]))
}

fn usual() -> Local {
    load_text(USUAL).unwrap_or_else(|e| panic!("{e:?}")).local
}

fn findings(text: &str) -> Vec<String> {
    match load_text(text) {
        Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
        Err(findings) => findings.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_usual_file() {
    let local = usual();
    assert_eq!((local.name.as_str(), local.scope.as_str()), ("alpha", "demo"));
    assert_eq!(local.prefix(), "/db/demo/");
    assert_eq!(local.etcd.endpoints, ["http://e1:2379", "http://e2:2379"]);
    assert_eq!(local.postgresql.listen_addresses, ["127.0.0.1", "10.0.0.1"]);
    assert_eq!(local.postgresql.connect_address.to_string(), "10.0.0.1:5432");
    assert_eq!((&*local.postgresql.data_dir, &*local.postgresql.config_dir), ("/data", "/data"));
    assert_eq!(local.postgresql.rewind, local.postgresql.superuser);
    assert_eq!(local.postgresql.superuser.options["sslmode"], "require");
    assert_eq!(local.bootstrap.initdb, ["--encoding=UTF8", "--data-checksums"]);
    assert_eq!(findings(USUAL), Vec::<String>::new());
}

#[test]
fn the_effective_configuration() {
    let local = usual();
    let (e, warnings) = effective(&local, &local.bootstrap.dcs, Role::Replica, TTL_FLOOR_S);
    let s = &e.settings;
    assert_eq!((s.ttl, s.loop_wait), (Duration::from_secs(20), Duration::from_secs(3)));
    assert_eq!(s.synchronous_mode, SyncMode::On);
    assert_eq!(s.maximum_lag_on_failover_bytes, 16 << 20);
    assert!(s.use_pg_rewind && s.use_slots);
    let line: Vec<String> = e.controlled.iter().map(|(k, v)| format!("--{k}={v}")).collect();
    assert_eq!(
        line.join(" "),
        "--listen_addresses=127.0.0.1,10.0.0.1 --port=5432 --cluster_name=demo \
         --wal_level=logical --hot_standby=on --max_connections=50 --max_wal_senders=10 \
         --max_prepared_transactions=0 --max_locks_per_transaction=64 \
         --track_commit_timestamp=off --max_replication_slots=10 --max_worker_processes=8 \
         --wal_log_hints=on"
    );
    let parameters: Vec<_> = e.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        parameters,
        ["hba_file=/data/my_hba", "logging_collector=on", "wal_keep_size=128MB", "work_mem=8MB"]
    );
    assert_eq!(e.pg_hba, None, "hba_file names another file");
    assert_eq!(e.basebackup, ["--max-rate=100M", "--verbose"]);
    let methods: Vec<_> =
        e.create_replica_methods.iter().map(|m| (&*m.name, m.keep_data)).collect();
    assert_eq!(methods, [("pgbackrest", true), ("basebackup", false)]);
    assert_eq!(
        warnings,
        [
            "postgresql.parameters.max_connections is ignored here: only the dynamic \
             configuration may set it",
            "postgresql parameter max_wal_senders=1 failed validation, defaulting to 10",
        ]
    );
}

#[test]
fn dynamic_values() {
    let local = usual();
    let of = |dynamic| effective(&local, &dynamic, Role::Primary, TTL_FLOOR_S);
    let (e, w) = of(json!({"master_start_timeout": 5, "permanent_slots": {"a": null, "B": {}},
        "vigil": {"freeze_max": "1min", "rho": 0.001}, "pause": true}));
    assert_eq!(e.settings.primary_start_timeout, Duration::from_secs(5));
    let slots: Vec<&str> = e.settings.slots.iter().map(|slot| slot.name.as_str()).collect();
    assert_eq!(slots, ["a"]);
    assert_eq!((e.settings.freeze_max, e.rho_ppm), (Duration::from_secs(60), 1000));
    assert!(e.settings.paused);
    assert!(w.iter().any(|w| w.contains("`B` is no name of a slot")), "{w:?}");
    let logical = json!({"type": "logical", "database": "d", "plugin": "pgoutput"});
    let feedback = |slots: serde_json::Value, use_slots: bool| {
        let (e, _) = of(json!({"slots": slots, "postgresql": {"use_slots": use_slots,
            "parameters": {"HOT_standby_feedback": "off"}}}));
        e.parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    let with = |of: Vec<String>, line: &str| of.iter().any(|l| l == line);
    assert!(with(feedback(json!({"l": logical}), true), "hot_standby_feedback=on"));
    for (slots, use_slots) in [(json!({"l": logical}), false), (json!({"p": null}), true)] {
        assert!(with(feedback(slots, use_slots), "HOT_standby_feedback=off"));
    }
    for nonsense in [json!(null), json!([]), json!("x"), json!({"postgresql": 1, "ttl": {}})] {
        assert_eq!(of(nonsense).0.settings.standby_cluster, None);
    }
    let (e, _) = of(json!({"standby_cluster": {"host": "x, y", "port": 6}}));
    let standby = e.settings.standby_cluster.expect("a standby cluster");
    assert_eq!(standby.upstream.expect("hosts").conn_url, "postgres://x:6,y:6/postgres");
    let (e, _) = of(json!({"standby_cluster": {"host": "::1", "restore_command": "cp"},
                           "synchronous_mode": true}));
    let standby = e.settings.standby_cluster.expect("a standby cluster");
    assert_eq!(standby.upstream.expect("a host").conn_url, "postgres://[::1]:5432/postgres");
    assert_eq!(standby.recovery["restore_command"], "cp");
    assert_eq!(e.settings.synchronous_mode, SyncMode::Off);
    let (e, _) = of(json!({"postgresql": {"parameters": {"wal_keep_segments": 4, "x.y": null,
        "track_commit_timestamp": true, "archive_command": "a\n"}, "use_slots": "off"}}));
    assert_eq!(e.parameters["wal_keep_size"], "64MB");
    assert_eq!(e.parameters["archive_command"], "a\n");
    assert!(e.controlled.contains(&("track_commit_timestamp".into(), "on".into())));
    assert!(!e.parameters.contains_key("x.y") && !e.settings.use_slots);
}

#[test]
fn the_oldest_spellings() {
    let text = "
ttl: &ttl 30
scope: &scope batman
restapi: {listen: '127.0.0.1:8008', auth: 'u:p'}
etcd: {scope: *scope, ttl: *ttl, host: '127.0.0.1:4001'}
postgresql:
  name: pg0
  listen: 127.0.0.1:5432
  data_dir: data/pg0
  replication: {username: replicator, password: rep, network: 127.0.0.1/32}
  superuser: {password: zalando}
  rewind: {username: rewinder, password: x}
  create_replica_method: [wal_e]
  wal_e: {command: /x, no_master: 1}
";
    let local = load_text(text).unwrap_or_else(|e| panic!("{e:?}")).local;
    assert_eq!((&*local.name, &*local.postgresql.superuser.username), ("pg0", "postgres"));
    assert_eq!(local.postgresql.replication.password.as_deref(), Some("rep"));
    assert_eq!(local.postgresql.rewind.username, "rewinder");
    assert_eq!(local.restapi.authentication.as_ref().unwrap().password, "p");
    assert_eq!(local.etcd.endpoints, ["http://127.0.0.1:4001"]);
    let (e, _) = effective(&local, &json!({}), Role::Replica, 20);
    assert_eq!((e.create_replica_methods[0].name.as_str(), e.rewind_options.len()), ("wal_e", 0));
    assert_eq!(
        findings(text),
        [
            "PATRONI_CONFIGURATION:2:1: ttl: is ignored here: it belongs into bootstrap.dcs or \
             the dynamic configuration",
            "PATRONI_CONFIGURATION:5:8: etcd.scope: unknown key, ignored",
            "PATRONI_CONFIGURATION:5:23: etcd.ttl: unknown key, ignored",
        ]
    );
}

/// Each change of the usual file, and the one line that it brings.
#[test]
fn one_clear_line_for_each_mistake() {
    for (from, to, expected) in [
        ("name: alpha", "", "PATRONI_CONFIGURATION: name: is missing"),
        ("name: alpha", "name: a/b", "3:7: name: must not contain / or control characters"),
        ("scope: demo", "scope: on", "2:8: scope: is the boolean true, text is needed"),
        ("scope: demo", "scope: demo\nscope: x", "3:1: scope: is written twice in one section"),
        ("scope: demo", "scope: 0644", "2:8: scope: is read as a number that prints differently"),
        (
            "namespace: /db//",
            "namspace: x",
            "4:1: namspace: unknown key, ignored; did you mean `na",
        ),
        ("listen: '127.0.0.1:8008', ", "", "restapi.listen: is missing (host:port)"),
        (
            "listen: '127.0.0.1:8008'",
            "listen: '1:99999'",
            "restapi.listen: port 99999 is out of ran",
        ),
        ("listen: '127.0.0.1:8008'", "listen: 'h'", "restapi.listen: `h` has no port"),
        ("listen: '127.0.0.1:8008'", "listen: 'a,b:1'", "restapi.listen: `a,b:1` names several"),
        ("10.0.0.1:8008", "0.0.0.0:8008", "restapi.connect_address: is no address that other"),
        ("  data_dir: /data/\n", "", "postgresql.data_dir: is missing"),
        ("  bin_dir: ", "\tbin_dir: ", "a tab indents this line: YAML allows spaces only"),
        (
            "replication: {username: replicator",
            "replication: {user: x",
            "replication.user: unknown",
        ),
        ("protocol: http", "protocol: ftp", "etcd3.protocol: must be one of http, https"),
        ("'e1:2379,e2'", "'http://e1:2379'", "etcd3.hosts: write host:port; the scheme belongs"),
        ("etcd3: {", "consul: {", "consul: this store is not supported"),
        ("8008'}", "8008', verify_client: maybe}", "restapi.verify_client: must be one of none"),
        ("ttl: 20", "ttl: soon", "bootstrap.dcs.ttl: must be a whole number"),
        ("ttl: 20", "standby_cluster: {port: x}", "standby_cluster.port: must be a whole number"),
        ("[local all all trust]", "local", "postgresql.pg_hba: must be a list"),
        ("verbose]", "pgdata: /x]", "basebackup: option pgdata of pg_basebackup is not allowed"),
        ("nofailover: false", "nofailover: maybe", "tags.nofailover: must be on or off"),
        ("nofailover: false", "nofailover: false, failover_priority: 0", "tags: Conflicting conf"),
        ("zone: z1}", "zone: z1}\nvigil: {frieze_max: 3}", "vigil.frieze_max: unknown key"),
        ("zone: z1}", "zone: z1}\nlog: {format: '%(x)s'}", "log.format: `x` is no attribute"),
        ("s3cret-super", "[s3cret]", "superuser.password: must be text"),
    ] {
        let text = USUAL.replacen(from, to, 1);
        assert_ne!(text, USUAL, "{from}");
        let found = findings(&text);
        assert!(found.iter().any(|f| f.contains(expected)), "{to}: {found:#?}");
        assert!(found.iter().all(|f| !f.contains('\n') && !f.contains("s3cret")), "{found:?}");
    }
}

#[test]
fn all_errors_come_at_once_and_in_order() {
    let found = findings("name: a\nrestapi: {listen: x}\npostgresql: {listen: y, pg_hba: 1}\n");
    let paths: Vec<_> = found.iter().map(|f| f.split(": ").nth(1).unwrap_or_default()).collect();
    assert_eq!(
        paths,
        [
            "etcd3",
            "scope",
            "restapi.listen",
            "postgresql.authentication.replication.username",
            "postgresql.data_dir",
            "postgresql.listen",
            "postgresql.pg_hba"
        ]
    );
}

#[test]
fn secrets_are_not_shown() {
    let loaded = load_text(USUAL).unwrap();
    let (effective, _) = effective(&loaded.local, &json!({}), Role::Primary, 20);
    let shown = format!(
        "{loaded:?} {effective:?} {:?} {:?}",
        loaded.local.postgresql, loaded.local.postgresql.superuser
    );
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn files_directories_and_variables() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("20-own.yaml"), "name: beta\nnamespace: ~\ntags: {zone: ~}\n").unwrap();
    fs::write(at("10-base.yml"), USUAL).unwrap();
    fs::write(at("30.txt"), "name: no").unwrap();
    let env = BTreeMap::from([("PATRONI_POSTGRESQL_DATA_DIR".to_owned(), "/env".to_owned())]);
    let local = load(Some(dir.path()), &env).unwrap().local;
    assert_eq!(
        (&*local.name, &*local.namespace, &*local.postgresql.data_dir),
        ("beta", "/service", "/env")
    );
    assert!(!local.tag_values.contains_key("zone"));
    let line = |path: &Path| load(Some(path), &none()).unwrap_err()[0].to_string();
    assert!(line(&at("none.yml")).contains("cannot be read: No such file"));
    fs::write(at("30.yml"), [0xff]).unwrap();
    assert!(line(&at("30.yml")).ends_with("is not UTF-8"));
    fs::write(at("30.yml"), "- a\n").unwrap();
    assert!(line(&at("30.yml")).ends_with("is not a mapping of keys to values"));
    assert!(load(None, &none()).unwrap_err()[0].message.contains("is empty"));
}

#[test]
fn what_was_kept_means_the_same_again() {
    let variables = [("PATRONI_RESTAPI_USERNAME", "admin"), ("PATRONI_RESTAPI_PASSWORD", "0123")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.yml");
    // Values that JSON and YAML write differently.
    let odd = "tags: {a: 0644, b: no, c: '1e3', d: 1:30, e: 1e16, f: ~}";
    fs::write(&path, USUAL.replace("tags: {nofailover: false, zone: z1}", odd)).unwrap();
    let loaded = load(Some(&path), &variables).unwrap();
    let text = loaded.merged.to_string();
    let kept = again(&serde_json::from_str(&text).unwrap(), "kept").unwrap();
    assert!(kept.local == loaded.local && kept.merged == loaded.merged);
    assert!(again(&json!({"scope": "x"}), "kept").is_err());
}

#[test]
fn check_config_prints_and_counts() {
    let env = |text: &str| BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), text.to_owned())]);
    let run = |text: &str| {
        let mut out = Vec::new();
        let code = check_config(None, &env(text), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    };
    let (code, text) = run(USUAL);
    assert_eq!((code, text.lines().count()), (0, 2), "{text}");
    let (code, text) = run("name: [\n");
    assert_eq!((code, text.lines().count()), (1, 1), "{text}");
    assert!(text.starts_with("error: PATRONI_CONFIGURATION:"), "{text}");
}

#[test]
fn ctl() {
    let dir = tempfile::tempdir().unwrap();
    let of = |url: Option<&str>, env: &[(&str, &str)]| {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load_ctl(None, url, false, &env, dir.path())
    };
    let config = of(Some("etcd3://h:1/ns"), &[("PATRONI_ETCD3_HOSTS", "x:1")]).unwrap();
    assert_eq!((config.etcd.endpoints, &*config.namespace), (vec!["http://h:1".into()], "/ns"));
    assert_eq!(of(Some("h"), &[]).unwrap().etcd.endpoints, ["http://h:2379"]);
    assert!(of(Some("consul://h"), &[]).is_err());
    let env = [("PATRONI_ETCD_HOST", "a"), ("PATRONI_SCOPE", "demo")];
    let config = of(None, &env).unwrap();
    assert_eq!(config.scope.as_deref(), Some("demo"));
    assert_eq!(config.etcd.endpoints, ["http://a:2379"]);
    let nothing = of(None, &[]).unwrap_err();
    assert!(nothing.len() == 1 && nothing[0].to_string().contains("-c FILE"), "{nothing:?}");
    let missing = of(None, &[("PATRONICTL_CONFIG_FILE", "/none")]).unwrap_err();
    assert_eq!(
        missing[0].to_string(),
        "Provided config file /none not existing or no read rights. \
         Check the -c/--config-file parameter"
    );
    fs::create_dir_all(dir.path().join(".config/patroni")).unwrap();
    fs::write(dir.path().join(".config/patroni/patronictl.yaml"), USUAL).unwrap();
    assert_eq!(of(None, &[]).unwrap().namespace, "/db");
}

/// Mutations of a real file: any outcome but a panic, and never an error without words.
#[test]
fn no_text_panics() {
    let pieces: Vec<char> = "{}[]:,-#&*!|>'\"%@ \n\t0aé~<".chars().collect();
    let mut state = 1u64;
    let mut next = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let original: Vec<char> = USUAL.chars().collect();
    for _ in 0..1500 {
        let mut text = original.clone();
        for _ in 0..=next(4) {
            let at = next(text.len());
            match next(3) {
                0 => text[at] = pieces[next(pieces.len())],
                1 => drop(text.remove(at)),
                _ => text.insert(at, pieces[next(pieces.len())]),
            }
        }
        let text: String = text.into_iter().collect();
        match load_text(&text) {
            Ok(loaded) => {
                let dcs = &loaded.local.bootstrap.dcs;
                let (e, _) = effective(&loaded.local, dcs, Role::Primary, TTL_FLOOR_S);
                let s = e.settings;
                assert!(s.loop_wait + 2 * s.retry_timeout <= s.ttl, "{text}");
                to_yaml(dcs);
            }
            Err(found) => assert!(found.iter().any(|d| d.error && !d.message.is_empty())),
        }
    }
}

#[test]
fn etcd_may_be_named_by_dns() {
    let with = |lines: &str| {
        let text = USUAL.replace("etcd3: {hosts: 'e1:2379,e2', protocol: http}", lines);
        load_text(&text).map(|loaded| (loaded.local.etcd, loaded.warnings))
    };
    let srv = |domain: &str, suffix: Option<&str>| {
        Some(Srv { domain: domain.to_owned(), suffix: suffix.map(str::to_owned) })
    };
    let (etcd, _) = with("etcd3: {srv: example.com, cacert: /x}").unwrap();
    assert_eq!((etcd.srv, etcd.endpoints), (srv("example.com", None), vec![]));
    let (etcd, warnings) = with("etcd: {srv: a, srv_domain: b., srv_suffix: x, host: h}").unwrap();
    assert_eq!((etcd.srv, etcd.endpoints), (srv("b", Some("x")), vec!["http://h:2379".into()]));
    assert!(!warnings.iter().any(|w| w.path.contains("srv")), "{warnings:?}");
    let (etcd, _) = with("etcd3: {srv: a, proxy: 'http://p:1'}").unwrap();
    assert_eq!((etcd.srv, etcd.endpoints), (None, vec!["http://p:1".into()]));
    assert!(with("etcd3: {srv: ''}").is_err());
    for wrong in ["{srv: 'a b'}", "{srv: 'http://a', host: h}", "{srv: a, srv_suffix: 'x.y'}"] {
        let findings = with(&format!("etcd3: {wrong}")).unwrap_err();
        assert!(
            findings.iter().any(|f| f.error && f.path.starts_with("etcd3.srv")),
            "{findings:?}"
        );
    }
}
