//! From a request to its answer.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::core::cluster::{Cluster, HistoryEntry};
use crate::core::time::Boot;
use crate::sys::clock;

use super::auth::Access;
use super::cluster::{self, Mode};
use super::health::{self, Query};
use super::server::{Client, Shared, Usage};
use super::snapshot::{Command, Reply, Snapshot};
use super::view::View;
use super::{json, metrics, page, snapshot, status};

/// A request's body has to be there within this time, however slowly it comes.
const BODY_MAX: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 64 * 1024;
const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// How long an answer waits for a fresh look at PostgreSQL.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// No command takes longer; a restart may take as long as recovery does.
const REPLY_MAX: Duration = Duration::from_secs(3600);

const HTML: &str = "text/html";

type Answer = Response<Full<Bytes>>;

/// Answers one request. Reading never waits for anybody.
pub(super) async fn answer(
    request: Request<Incoming>,
    client: Client,
    shared: &Shared,
    usage: &Usage,
) -> Answer {
    let begun = clock::boot();
    let line = format!("{} {} {:?}", request.method(), request.uri(), request.version());
    let mut answer = match *request.method() {
        Method::GET => {
            if first_segment(request.uri().path()) == "patroni" {
                look(shared).await;
            }
            get(request.uri().path(), request.uri().query(), begun, shared)
        }
        Method::HEAD | Method::OPTIONS => {
            let snapshot = shared.snapshot.borrow().clone();
            let view = View::new(&snapshot, clock::boot());
            let query = parse_query(request.uri().query());
            bare(health::passes(request.uri().path(), &query, &view))
        }
        _ => match Write::find(request.method(), request.uri().path()) {
            Some(write) => change(write, request, client, shared, usage).await,
            None => error(501, request.method().as_str()),
        },
    };
    let options = shared.options.borrow().clone();
    for (name, value) in &options.headers {
        answer.headers_mut().insert(name, value.clone());
    }
    let (status, took) = (answer.status().as_u16(), clock::boot().since(begun));
    let (peer, took_ms) = (client.address, took.as_micros() as f64 / 1000.0);
    tracing::debug!("API: {peer} - - \"{line}\" {status} - latency: {took_ms:.3} ms");
    answer
}

/// Members ask here for positions when a leader is chosen: an answer from seconds ago would let a
/// laggard win. The look is the agent's own, shared by all who ask, and its pace is bounded there.
async fn look(shared: &Shared) {
    let asked = clock::boot();
    let mut snapshot = shared.snapshot.clone();
    let running = |s: &Snapshot| s.postmaster_alive && s.probe.is_some();
    if !running(&snapshot.borrow()) {
        return;
    }
    shared.look.notify_one();
    let fresh =
        snapshot.wait_for(|s| !running(s) || s.probe.as_ref().is_some_and(|p| p.1 >= asked));
    // A server that does not answer in time is shown as it was seen last.
    let _ = tokio::time::timeout(LOOK_WITHIN, fresh).await;
}

fn get(path: &str, query: Option<&str>, asked_at: Boot, shared: &Shared) -> Answer {
    let snapshot = shared.snapshot.borrow().clone();
    let view = View::new(&snapshot, clock::boot());
    let query = parse_query(query);
    let segment = first_segment(path);
    match READS.iter().find(|(name, _)| *name == segment).map(|(_, read)| *read) {
        Some(Read::Liveness) => bare(health::is_alive(&view)),
        Some(Read::Readiness) => bare(health::is_ready(&query, &view)),
        Some(Read::Patroni) => document(200, &status::answer(&view, asked_at)),
        Some(Read::Metrics) => text(200, metrics::page(&view), "text/plain"),
        Some(Read::Cluster) => of_cluster(&view, |cluster| {
            document(200, &cluster::document(cluster, mode(&snapshot), &snapshot.scope))
        }),
        Some(Read::History) => {
            of_cluster(&view, |cluster| document(200, &history(&cluster.history)))
        }
        Some(Read::Config) => of_cluster(&view, |cluster| match config(cluster) {
            Some(config) => document(200, &config),
            None => error(502, "GET"),
        }),
        Some(Read::Failsafe) => match &snapshot.failsafe {
            Some(members) => document(200, members),
            None => error(502, "GET"),
        },
        Some(Read::Explain) => document(200, &explain(&snapshot)),
        None => {
            let passes = health::passes(path, &query, &view);
            document(if passes { 200 } else { 503 }, &status::document(&view))
        }
    }
}

/// A question that is no health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Liveness,
    Readiness,
    Patroni,
    Metrics,
    Cluster,
    History,
    Config,
    Failsafe,
    Explain,
}

const READS: &[(&str, Read)] = &[
    ("liveness", Read::Liveness),
    ("readiness", Read::Readiness),
    ("patroni", Read::Patroni),
    ("metrics", Read::Metrics),
    ("cluster", Read::Cluster),
    ("history", Read::History),
    ("config", Read::Config),
    ("failsafe", Read::Failsafe),
    ("explain", Read::Explain),
];

/// Every method and path that means something: what docs/openapi.yaml has to describe.
pub fn routes() -> impl Iterator<Item = (&'static str, String)> {
    let checks = health::CHECKS.iter().map(|path| ("GET", (*path).to_owned()));
    let reads = READS.iter().map(|(name, _)| ("GET", format!("/{name}")));
    let writes = WRITES.iter().map(|(method, name, _)| (*method, format!("/{name}")));
    checks.chain(reads).chain(writes)
}

/// What the store said, or 503 when that is too old to be repeated.
fn of_cluster(view: &View, answer: impl FnOnce(&Cluster) -> Answer) -> Answer {
    view.cluster.map_or_else(|| error(503, "GET"), answer)
}

fn mode(snapshot: &Snapshot) -> Mode {
    Mode {
        synchronous: snapshot.settings.synchronous_mode,
        standby_cluster: snapshot.standby_cluster,
        paused: snapshot.settings.paused,
    }
}

fn config(cluster: &Cluster) -> Option<Value> {
    serde_json::from_str(&cluster.config.as_ref()?.value).ok()
}

fn history(entries: &[HistoryEntry]) -> Value {
    let line = |entry: &HistoryEntry| {
        let mut line = vec![json!(entry.timeline), json!(entry.lsn.0), json!(entry.reason)];
        line.extend(entry.timestamp.iter().map(|t| json!(t)));
        line.extend(entry.new_leader.iter().map(|l| json!(l)));
        Value::Array(line)
    };
    entries.iter().map(line).collect()
}

/// What the agent decided last and why, and who else could lead: what `pgvigilctl explain` shows.
fn explain(snapshot: &Snapshot) -> Value {
    let candidates = snapshot.candidates.iter().map(|member| {
        json!({
            "name": member.name,
            "behind_bytes": member.behind_bytes,
            "obstacles": member.obstacles,
        })
    });
    json!({
        "rule": snapshot.rule,
        "why": snapshot.why,
        "candidates": candidates.collect::<Vec<_>>(),
        "decisions": snapshot.explain,
    })
}

/// A request that changes something, before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    PatchConfig,
    PutConfig,
    Reload,
    Restart,
    DeleteRestart,
    Reinitialize,
    Switchover,
    Failover,
    DeleteSwitchover,
    Failsafe,
    Sigterm,
    Citus,
    Mpp,
}

const WRITES: &[(&str, &str, Write)] = &[
    ("PATCH", "config", Write::PatchConfig),
    ("PUT", "config", Write::PutConfig),
    ("POST", "reload", Write::Reload),
    ("POST", "restart", Write::Restart),
    ("DELETE", "restart", Write::DeleteRestart),
    ("POST", "reinitialize", Write::Reinitialize),
    ("POST", "switchover", Write::Switchover),
    ("POST", "failover", Write::Failover),
    ("DELETE", "switchover", Write::DeleteSwitchover),
    ("POST", "failsafe", Write::Failsafe),
    ("POST", "sigterm", Write::Sigterm),
    ("POST", "citus", Write::Citus),
    ("POST", "mpp", Write::Mpp),
];

impl Write {
    fn find(method: &Method, path: &str) -> Option<Write> {
        let wanted = (method.as_str(), first_segment(path));
        WRITES.iter().find(|(method, name, _)| (*method, *name) == wanted).map(|found| found.2)
    }

    /// The command with its body; `Err` is the status of the error page.
    async fn read(self, request: Request<Incoming>) -> Result<Asked, u16> {
        Ok(Asked::Agent(match self {
            Write::PatchConfig => Command::PatchConfig(object(request, CONFIG_BYTES_MAX).await?),
            Write::PutConfig => Command::PutConfig(object(request, CONFIG_BYTES_MAX).await?),
            Write::Reload => Command::Reload,
            Write::Restart => Command::Restart(optional_object(request).await?),
            Write::DeleteRestart => Command::DeleteRestart,
            Write::Reinitialize => Command::Reinitialize(optional_object(request).await?),
            Write::Switchover => Command::Switchover(object(request, BODY_BYTES_MAX).await?),
            Write::Failover => Command::Failover(object(request, BODY_BYTES_MAX).await?),
            Write::DeleteSwitchover => Command::DeleteSwitchover,
            Write::Failsafe => Command::Failsafe(object(request, BODY_BYTES_MAX).await?),
            // Patroni acts on it in tests on Windows only.
            Write::Sigterm => return Ok(Asked::Answered(text(202, "shutdown scheduled", HTML))),
            // Of Citus coordinators and workers, which a configuration of ours cannot name.
            Write::Citus | Write::Mpp => {
                object(request, BODY_BYTES_MAX).await?;
                return Ok(Asked::Answered(text(200, "OK", HTML)));
            }
        }))
    }
}

/// Who answers.
enum Asked {
    Agent(Command),
    Answered(Answer),
}

async fn change(
    write: Write,
    request: Request<Incoming>,
    client: Client,
    shared: &Shared,
    usage: &Usage,
) -> Answer {
    let method = request.method().to_string();
    let access = shared.options.borrow().access.clone();
    if let Some(refusal) = refusal(write, &access, client, &request, shared).await {
        return refusal;
    }
    // Switched off it is no question of what was sent.
    if write == Write::Failsafe && !shared.snapshot.borrow().settings.failsafe_mode {
        return error(502, &method);
    }
    let command = match write.read(request).await {
        Ok(Asked::Agent(command)) => command,
        Ok(Asked::Answered(answer)) => return answer,
        Err(status) => return error(status, &method),
    };
    tracing::info!(?write, peer = %client.address, "command received over HTTP");
    let _busy = usage.begin();
    let Reply { status, body, json, headers } = forward(command, shared).await;
    if status >= 400 && body.is_empty() {
        return error(status, &method);
    }
    let mut answer = text(status, body, if json { "application/json" } else { HTML });
    for (name, number) in headers {
        answer.headers_mut().insert(name, HeaderValue::from(number));
    }
    answer
}

/// Why this client may not; in Patroni's order: the address, the certificate, name and password.
async fn refusal(
    write: Write,
    access: &Access,
    client: Client,
    request: &Request<Incoming>,
    shared: &Shared,
) -> Option<Answer> {
    // Patroni never checks this one, and members of old releases send nothing that could be.
    if write == Write::Mpp {
        return None;
    }
    // A leader asks for a promise when the store, which has the list of members, is away.
    let members = (write != Write::Failsafe).then(|| member_hosts(shared));
    if !access.admits(client.address, members.as_deref()).await {
        return Some(text(403, "Access is denied", HTML));
    }
    if access.certificate && !client.certified {
        return Some(text(403, "client certificate required", HTML));
    }
    let header = request.headers().get(hyper::header::AUTHORIZATION);
    let reason = access.authenticates(header.map(HeaderValue::as_bytes)).err()?;
    let mut answer = text(401, reason, HTML);
    let realm = HeaderValue::from_static("Basic realm=\"Patroni\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, realm);
    Some(answer)
}

/// The agent's reply, or 503 when it has too much to do, gave up or takes too long.
async fn forward(command: Command, shared: &Shared) -> Reply {
    let (reply, answer) = oneshot::channel();
    if shared.requests.try_send(snapshot::Request { command, reply }).is_err() {
        return Reply::error(503);
    }
    match timeout(REPLY_MAX, answer).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) | Err(_) => Reply::error(503),
    }
}

fn member_hosts(shared: &Shared) -> Vec<String> {
    let snapshot = shared.snapshot.borrow().clone();
    let members = snapshot.cluster.iter().flat_map(|c| c.members.values());
    members.filter_map(|m| Some(cluster::address(&m.api_url)?.0.to_owned())).collect()
}

/// A body that has to be there and to be a JSON object that asks for something.
async fn object(request: Request<Incoming>, bytes_max: usize) -> Result<Value, u16> {
    if !request.headers().contains_key(CONTENT_LENGTH) {
        return Err(411);
    }
    match serde_json::from_slice(&bytes(request, bytes_max).await?) {
        Ok(Value::Object(fields)) if !fields.is_empty() => Ok(Value::Object(fields)),
        _ => Err(400),
    }
}

/// A JSON object; no body means an empty one.
async fn optional_object(request: Request<Incoming>) -> Result<Value, u16> {
    let empty = || Value::Object(Map::new());
    if !request.headers().contains_key(CONTENT_LENGTH) {
        return Ok(empty());
    }
    let bytes = bytes(request, BODY_BYTES_MAX).await?;
    match serde_json::from_slice(&bytes) {
        _ if bytes.is_empty() => Ok(empty()),
        Ok(fields @ Value::Object(_)) => Ok(fields),
        _ => Err(400),
    }
}

async fn bytes(request: Request<Incoming>, bytes_max: usize) -> Result<Bytes, u16> {
    let announced = request.body().size_hint().lower();
    if announced > bytes_max as u64 {
        return Err(413);
    }
    let body = std::pin::pin!(Limited::new(request.into_body(), bytes_max).collect());
    match timeout(BODY_MAX, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(400),
        Err(_) => Err(408),
    }
}

/// Patroni's routing: leading slashes do not count, what follows the first segment neither.
fn first_segment(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

/// Query parameters, the first of each name; those without a value do not count.
fn parse_query(query: Option<&str>) -> Query {
    let mut out = Query::new();
    for pair in query.unwrap_or_default().split('&') {
        if let Some((name, value)) = pair.split_once('=').filter(|(_, value)| !value.is_empty()) {
            out.entry(percent_decode(name)).or_insert_with(|| percent_decode(value));
        }
    }
    out
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digit = |i: usize| char::from(*tail.get(i)?).to_digit(16);
        match (first, digit(0).zip(digit(1))) {
            (b'%', Some((high, low))) => {
                out.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(*other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn document(status: u16, value: &Value) -> Answer {
    text(status, json::python(value), "application/json")
}

/// A status and nothing else: what load balancers and Kubernetes read.
fn bare(passes: bool) -> Answer {
    let mut answer = Response::new(Full::default());
    let fails = StatusCode::SERVICE_UNAVAILABLE;
    *answer.status_mut() = if passes { StatusCode::OK } else { fails };
    answer
}

fn text(status: u16, body: impl Into<Bytes>, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code(status);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// The error page; the connection ends with it, because the request's body may be unread.
fn error(status: u16, method: &str) -> Answer {
    let (reason, body) = page::error(status, method);
    let mut answer = text(status, body, "text/html;charset=utf-8");
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if let Ok(reason) = ReasonPhrase::try_from(reason) {
        answer.extensions_mut().insert(reason);
    }
    answer
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
