//! docs/openapi.yaml says what the router does, and a fuzzer that reads it finds nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command as Program;
use std::sync::Arc;
use std::time::Duration;

use pgvigil::api::operator;
use pgvigil::api::options::Options;
use pgvigil::api::restart;
use pgvigil::api::routes;
use pgvigil::api::server::{Limits, Shared, bind, serve_within};
use pgvigil::api::snapshot::{Command, Reply, Request, Snapshot};
use pgvigil::config::{merge_patch, validate_dynamic, yaml11};
use pgvigil::core::cluster::{Cluster, Keyed, LeaderKey, Member};
use pgvigil::core::database::Probe;
use pgvigil::core::guard::Phase;
use pgvigil::core::settings::Settings;
use pgvigil::sys::clock;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::lab::pypi;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");
/// What the fuzzer may take, beside its own start.
const FUZZ_SECONDS: u32 = 20;

fn description() -> Value {
    let text = std::fs::read_to_string(FILE).unwrap();
    yaml11::parse(&text, &Arc::from(FILE)).unwrap().root.to_value()
}

#[test]
fn the_description_equals_the_router() {
    let description = description();
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let routed: BTreeSet<(String, String)> =
        routes::routes().map(|(method, path)| (method.to_owned(), path)).collect();
    let missing: Vec<_> = routed.difference(&described).collect();
    let invented: Vec<_> = described.difference(&routed).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing {missing:?}, but {invented:?}");
}

/// A leader with two replicas.
fn leader() -> Snapshot {
    let now = clock::boot();
    let hour = Duration::from_secs(3600);
    let member = |name: &str| {
        let member = Member {
            name: name.into(),
            api_url: format!("http://{name}:8008/patroni"),
            state: "running".into(),
            ..Member::default()
        };
        (name.to_owned(), member)
    };
    Snapshot {
        scope: "demo".into(),
        name: "alpha".into(),
        version: "4.1.5".into(),
        state: "running".into(),
        role: "primary".into(),
        postmaster_alive: true,
        probe: Some((Arc::new(Probe::default()), now)),
        probe_fresh: hour,
        cluster: Some(Arc::new(Cluster {
            config: Some(Keyed { value: r#"{"ttl":20}"#.into(), mod_revision: 8 }),
            leader: Some(LeaderKey { name: "alpha".into(), lease_id: 1, mod_revision: 9 }),
            members: ["alpha", "beta", "gamma"].map(member).into_iter().collect(),
            ..Cluster::default()
        })),
        cluster_at: now,
        leader_until: Some(now.plus(hour)),
        phase: Phase::Leading,
        loop_at: now,
        settings: Settings { failsafe_mode: true, ..Settings::default() },
        ..Snapshot::default()
    }
}

/// The agent's checks, which are pure, and an answer that says that the rest went well.
fn answer(command: Command, snapshot: &Snapshot) -> Reply {
    let done = |text: &str| Reply::text(200, text);
    let result = match command {
        Command::PatchConfig(patch) => Ok(configured(merge_patch(&json!({"ttl": 20}), &patch).0)),
        Command::PutConfig(next) => Ok(configured(next)),
        Command::Reload => Ok(operator::reload_scheduled()),
        Command::Restart(body) => restart::parse_restart(&body, false, clock::wall())
            .map(|plan| plan.schedule.map_or_else(restart::done, |_| restart::scheduled())),
        Command::DeleteRestart => Ok(restart::deleted(false)),
        Command::Reinitialize(body) => {
            restart::parse_reinitialize(&body);
            restart::check_reinitialize(snapshot).map(|()| restart::reinitialize_started())
        }
        Command::Switchover(body) => {
            operator::check_switchover(&body, snapshot, clock::wall()).map(|_| done("done"))
        }
        Command::Failover(body) => operator::check_failover(&body, snapshot).map(|_| done("done")),
        Command::DeleteSwitchover => Ok(operator::switchover_deleted(true)),
        Command::Failsafe(body) => Ok(match body["name"].as_str() {
            Some(_) => Reply::text(500, "Running as a leader"),
            None => Reply::error(400),
        }),
    };
    result.unwrap_or_else(|refusal| refusal)
}

fn configured(next: Value) -> Reply {
    let problems = validate_dynamic(&next);
    if problems.is_empty() {
        Reply::json(200, &next)
    } else {
        Reply::text(400, problems.join("\n"))
    }
}

struct Served {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
    _snapshot: watch::Sender<Arc<Snapshot>>,
    _options: watch::Sender<Arc<Options>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve() -> Served {
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let known = Arc::new(leader());
    let (sender, snapshot) = watch::channel(known.clone());
    let (options_sender, options) = watch::channel(Arc::new(Options::default()));
    let (requests, mut commands) = mpsc::channel::<Request>(64);
    tokio::spawn(async move {
        while let Some(Request { command, reply }) = commands.recv().await {
            let _ = reply.send(answer(command, &known));
        }
    });
    let (_, moves) = watch::channel(address);
    let shared = Arc::new(Shared { snapshot, requests, options, look: Arc::default(), moves });
    let task = tokio::spawn(serve_within(listener, shared, Limits::default()));
    Served { address, task, _snapshot: sender, _options: options_sender }
}

/// Answers that the description does not name, other types and other documents are failures: a
/// 5xx where none is described among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_fuzzer_finds_only_what_is_described() {
    let directory = tempfile::tempdir().unwrap();
    let schemathesis = match pypi::schemathesis(directory.path()) {
        Ok(program) => program,
        Err(reason) => return println!("schemathesis: SKIPPED, {reason}"),
    };
    let served = serve().await;
    let url = format!("http://{}", served.address);
    let seconds = FUZZ_SECONDS.to_string();
    let checks = "status_code_conformance,content_type_conformance,response_headers_conformance,\
                  response_schema_conformance";
    let run = tokio::task::spawn_blocking({
        let (url, directory) = (url.clone(), directory.path().to_owned());
        move || {
            Program::new(&schemathesis[0])
                .args(&schemathesis[1..])
                .args(["run", FILE, "--url", &url, "--max-time", &seconds, "--checks", checks])
                .args(["--phases", "examples,fuzzing", "--generation-deterministic"])
                .args(["--suppress-health-check", "all", "--warnings", "off"])
                .current_dir(directory)
                .env("NO_COLOR", "1")
                .output()
        }
    });
    let output = run.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", said.lines().rev().take(12).collect::<Vec<_>>().join("\n"));
    let client =
        pgvigil::api::client::Client::new(None, &pgvigil::config::CtlTls::default()).unwrap();
    let alive = client.get(&format!("{url}/primary"), Duration::from_secs(2)).await.unwrap();
    assert_eq!(alive.status, 200);
}
