//! The REST API over real sockets: what clients send, wrong and slow ones included.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvigil::api::auth::{Access, Credentials};
use pgvigil::api::client::{Client, ClientError};
use pgvigil::api::options::Options;
use pgvigil::api::server::{BindError, Limits, Shared, bind, serve_within};
use pgvigil::api::snapshot::{Command, Reply, Request, Snapshot};
use pgvigil::config::CtlTls;
use pgvigil::core::cluster::{Cluster, Keyed};
use pgvigil::core::database::Probe;
use pgvigil::core::guard::Phase;
use pgvigil::sys::clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::rig::free_port;

/// A health check is answered within this time, whatever others do.
const PROMPTLY: Duration = Duration::from_secs(2);

struct Server {
    address: SocketAddr,
    requests: mpsc::Receiver<Request>,
    moves: watch::Sender<SocketAddr>,
    task: tokio::task::JoinHandle<()>,
    _snapshot: watch::Sender<Arc<Snapshot>>,
    _options: watch::Sender<Arc<Options>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A leader whose lease holds for an hour.
fn leader() -> Snapshot {
    let now = clock::boot();
    let hour = Duration::from_secs(3600);
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
            config: Some(Keyed { value: r#"{"ttl":20,"x":"é"}"#.into(), mod_revision: 8 }),
            ..Cluster::default()
        })),
        cluster_at: now,
        leader_until: Some(now.plus(hour)),
        phase: Phase::Leading,
        loop_at: now,
        ..Snapshot::default()
    }
}

async fn start(options: Options, limits: Limits) -> Server {
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (snapshot_sender, snapshot) = watch::channel(Arc::new(leader()));
    let (options_sender, options) = watch::channel(Arc::new(options));
    let (sender, requests) = mpsc::channel(4);
    let (moves, moves_seen) = watch::channel(address);
    let look = Arc::default();
    let shared = Arc::new(Shared { snapshot, requests: sender, options, look, moves: moves_seen });
    let task = tokio::spawn(serve_within(listener, shared, limits));
    Server { address, requests, moves, task, _snapshot: snapshot_sender, _options: options_sender }
}

async fn usual() -> Server {
    start(Options::default(), Limits::default()).await
}

/// Sends these bytes and reads until the server closes; `Connection: close` is the caller's part.
async fn talk(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(server: &Server, request: &str, body: Option<&str>) -> String {
    let length = body.map(|b| format!("Content-Length: {}\r\n", b.len())).unwrap_or_default();
    let body = body.unwrap_or_default();
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n{body}");
    talk(server, head.as_bytes()).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn client(credentials: Option<&Credentials>) -> Client {
    Client::new(credentials.cloned(), &CtlTls::default()).unwrap()
}

/// Status and body.
async fn post(url: &str, body: &Value, credentials: Option<&Credentials>) -> (u16, Value) {
    let answer = client(credentials).post(url, body, PROMPTLY).await.unwrap();
    (answer.status, answer.body)
}

async fn promptly<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PROMPTLY, future).await.unwrap_or_else(|_| panic!("{what}: not answered promptly"))
}

#[tokio::test]
async fn reads_are_answered() {
    let server = usual().await;
    let cases = [
        ("GET /", "200"),
        ("GET //cluster/x", "200"),
        ("GET /replica", "503"),
        ("GET /nosuch", "503"),
        ("GET /liveness", "200"),
        ("GET /readiness", "200"),
        ("GET /patroni", "200"),
        ("GET /metrics", "200"),
        ("GET /history", "200"),
        ("GET /failsafe", "502"),
        ("GET /explain", "200"),
        ("HEAD /primary", "200"),
        ("HEAD /replica", "503"),
        ("OPTIONS /primary", "200"),
        ("OPTIONS /nosuch", "503"),
        ("GET /read-only?tag_zo%6ee=z1", "503"),
    ];
    for (request, expected) in cases {
        assert_eq!(status(&ask(&server, request, None).await), expected, "{request}");
    }
    let config = ask(&server, "GET /config", None).await;
    assert!(config.ends_with("\r\n\r\n{\"ttl\": 20, \"x\": \"\\u00e9\"}"), "{config}");
    for request in ["GET /liveness", "OPTIONS /primary", "HEAD /primary"] {
        assert!(ask(&server, request, None).await.ends_with("\r\n\r\n"), "{request}");
    }
}

#[tokio::test]
async fn connections_are_kept_for_those_who_speak_http_1_1() {
    let server = usual().await;
    let answer = talk(&server, b"GET /liveness HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    let two = "GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n\
               GET /replica HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = talk(&server, two.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 1, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 503 Service Unavailable\r\n").count(), 1, "{answers}");
    assert_eq!(answers.matches("content-length: ").count(), 2, "{answers}");
}

#[tokio::test]
async fn wrong_bodies_and_methods_get_pythons_pages() {
    let mut server = usual().await;
    let cases = [
        ("PATCH /config", None, "411"),
        ("PATCH /config", Some(""), "400"),
        ("PATCH /config", Some("{}"), "400"),
        ("PUT /config", Some("{bad"), "400"),
        ("POST /switchover", Some("null"), "400"),
        ("POST /failover", Some("[1]"), "400"),
        ("POST /restart", Some("[1]"), "400"),
        ("POST /config", Some("{}"), "501"),
        ("DELETE /config", None, "501"),
        ("PUT /primary", Some("{}"), "501"),
        ("BREW /coffee", None, "501"),
    ];
    for (request, body, expected) in cases {
        let answer = ask(&server, request, body).await;
        assert_eq!(status(&answer), expected, "{request} {body:?}");
        assert!(answer.contains("<title>Error response</title>"), "{request} {body:?}");
    }
    let answer = ask(&server, "POST /nosuch", Some("{}")).await;
    assert!(answer.starts_with("HTTP/1.1 501 Unsupported method ('POST')\r\n"), "{answer}");
    let large = "x".repeat(65 * 1024);
    let answer = ask(&server, "POST /restart", Some(&large)).await;
    assert_eq!(status(&answer), "413");
    assert!(server.requests.try_recv().is_err(), "nothing of this may reach the agent");
}

#[tokio::test]
async fn commands_reach_the_agent_and_its_reply_the_client() {
    let mut server = usual().await;
    let url = format!("http://{}", server.address);
    let body = json!({"leader": "alpha"});
    let (switchover, restart) = (format!("{url}/switchover"), format!("{url}/restart"));
    let answers = tokio::spawn(async move {
        let first = post(&switchover, &body, None).await;
        let second = post(&restart, &json!({}), None).await;
        (first, second)
    });
    let request = server.requests.recv().await.unwrap();
    assert_eq!(request.command, Command::Switchover(json!({"leader": "alpha"})));
    request.reply.send(Reply::text(412, "leader name does not match")).unwrap();
    let request = server.requests.recv().await.unwrap();
    assert_eq!(request.command, Command::Restart(json!({})));
    drop(request);
    let (first, second) = answers.await.unwrap();
    assert_eq!(first, (412, json!("leader name does not match")));
    assert_eq!(second.0, 503);
}

#[tokio::test]
async fn an_agent_that_does_not_listen_costs_nothing_but_its_own_commands() {
    let server = usual().await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"POST /reload HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    while server.requests.len() < 4 {
        tokio::task::yield_now().await;
    }
    let answer = promptly("the fifth", ask(&server, "POST /reload", None)).await;
    assert_eq!(status(&answer), "503");
    assert_eq!(status(&promptly("health", ask(&server, "GET /primary", None)).await), "200");
}

#[tokio::test]
async fn only_the_admitted_may_change_something() {
    let credentials = Credentials { username: "admin".into(), password: "secret".into() };
    let access = Access { credentials: Some(credentials.clone()), ..Access::default() };
    let mut server = start(Options { access, ..Options::default() }, Limits::default()).await;
    let answer = ask(&server, "POST /reload", None).await;
    assert_eq!(status(&answer), "401");
    assert!(answer.contains("www-authenticate: Basic realm=\"Patroni\"\r\n"), "{answer}");
    assert!(answer.ends_with("no auth header received"), "{answer}");
    assert_eq!(status(&ask(&server, "GET /config", None).await), "200");
    let url = format!("http://{}/reload", server.address);
    let wrong = Credentials { password: "guess".into(), ..credentials.clone() };
    let refused = post(&url, &json!({}), Some(&wrong)).await;
    assert_eq!(refused, (401, json!("not authenticated")));
    let asked = tokio::spawn(async move { post(&url, &json!({}), Some(&credentials)).await });
    let request = server.requests.recv().await.unwrap();
    assert_eq!(request.command, Command::Reload);
    request.reply.send(Reply::text(202, "reload scheduled")).unwrap();
    assert_eq!(asked.await.unwrap(), (202, json!("reload scheduled")));

    let allowlist = vec!["10.0.0.0/8".parse().unwrap()];
    let access = Access { allowlist, ..Access::default() };
    let server = start(Options { access, ..Options::default() }, Limits::default()).await;
    let answer = ask(&server, "POST /reload", None).await;
    assert_eq!(status(&answer), "403");
    assert!(answer.ends_with("Access is denied"), "{answer}");
    assert_eq!(status(&ask(&server, "GET /primary", None).await), "200");
}

#[tokio::test]
async fn a_thousand_silent_connections_do_not_delay_a_health_check() {
    let server = usual().await;
    let mut silent = Vec::new();
    for i in 0..1000 {
        // Several addresses: the cap per address alone shall not be what saves us.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, (i % 8) as u8), 0))).unwrap();
        silent.push(socket.connect(server.address).await.unwrap());
    }
    for _ in 0..100 {
        let answer = promptly("health", ask(&server, "GET /primary", None)).await;
        assert_eq!(status(&answer), "200");
    }
}

#[tokio::test]
async fn a_full_house_makes_room_for_a_health_check() {
    let limits = Limits { connections: 8, connections_per_peer: 4, ..Limits::default() };
    let server = start(Options::default(), limits).await;
    let mut others = Vec::new();
    for i in 0..16 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, 1 + i % 2), 0))).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        let bytes: &[u8] = match i % 3 {
            0 => b"GET /prim",
            1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            _ => b"",
        };
        stream.write_all(bytes).await.unwrap();
        others.push(stream);
    }
    let start = Instant::now();
    for _ in 0..20 {
        let answer = promptly("health", ask(&server, "GET /primary", None)).await;
        assert_eq!(status(&answer), "200");
    }
    assert!(start.elapsed() < PROMPTLY);
    // The first of them had been silent longest.
    let mut byte = [0];
    let closed = promptly("eviction", others[2].read(&mut byte)).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn requests_in_work_are_not_evicted() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let mut server = start(Options::default(), limits).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    let request = b"POST /reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    busy.write_all(request).await.unwrap();
    let request = server.requests.recv().await.unwrap();
    for _ in 0..10 {
        assert_eq!(status(&promptly("health", ask(&server, "GET /primary", None)).await), "200");
    }
    request.reply.send(Reply::text(202, "reload scheduled")).unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("reload scheduled"), "{answer}");
}

#[tokio::test]
async fn the_slow_and_the_idle_are_closed() {
    let short = Duration::from_millis(200);
    let limits = Limits { header_max: short, idle_max: short, ..Limits::default() };
    let server = start(Options::default(), limits).await;
    let openings: [&[u8]; 3] =
        [b"", b"GET /primary HTTP/1.1\r\nHost:", b"GET /primary HTTP/1.1\r\nHost: x\r\n\r\n"];
    for bytes in openings {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let ended = promptly("closing", stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() || answer.is_empty(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed() {
    let limits = Limits { idle_max: Duration::from_millis(200), ..Limits::default() };
    let server = start(Options::default(), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let flood = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(Duration::from_secs(10), flood).await.expect("the server closes");
}

#[tokio::test]
async fn bodies_that_trickle_do_not_keep_others_out() {
    let limits = Limits { connections: 4, ..Limits::default() };
    let server = start(Options::default(), limits).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = b"PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
        stream.write_all(head).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(status(&promptly("health", ask(&server, "GET /primary", None)).await), "200");
}

#[tokio::test]
async fn garbage_is_refused_and_forgotten() {
    let server = usual().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    let cases: [&[u8]; 4] =
        [b"\r\n\r\n\0\0\0\0", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", long.as_bytes()];
    for bytes in cases {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = promptly("garbage", stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(bytes));
        assert_eq!(status(&promptly("health", ask(&server, "GET /", None)).await), "200");
    }
}

/// Listens there, as far as a connection can tell.
async fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

async fn moved(from: SocketAddr, to: SocketAddr) {
    let move_over = async {
        while !listens(to).await || listens(from).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), move_over).await.unwrap();
}

#[tokio::test]
async fn it_listens_elsewhere_when_told() {
    let mut server = usual().await;
    // A port that the kernel gives to nobody's outgoing connection while nothing listens on it.
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    server.moves.send_replace(first);
    moved(server.address, first).await;
    // Accepted for certain: what waits in the queue of a socket ends with it.
    let mut open = TcpStream::connect(first).await.unwrap();
    open.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut bytes = [0; 4096];
    assert!(open.read(&mut bytes).await.unwrap() > 0);
    // The same port on another address, which the first socket does not keep us from.
    let second = SocketAddr::from((Ipv4Addr::new(127, 0, 1, 9), first.port()));
    server.moves.send_replace(second);
    moved(first, second).await;
    // All addresses: the port is our own, and free only when the socket before is closed.
    server.moves.send_replace(SocketAddr::from((Ipv4Addr::UNSPECIFIED, first.port())));
    timeout(Duration::from_secs(10), async {
        while !listens(first).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    server.moves.send_replace(second);
    moved(first, second).await;
    // Another program's: it stays where it is.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    server.moves.send_replace(other.local_addr().unwrap());
    server.address = second;
    assert!(ask(&server, "GET /health", None).await.starts_with("HTTP/1.1 200"));
    // What was connected before is still served.
    open.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = bind("*", 0).await.unwrap();
    let port = first.local_addr().unwrap().port();
    let error = bind("", port).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!(":{port} is in use")), "{error}");
    // Every address of both families.
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
}

#[tokio::test]
async fn the_client_gives_up_in_time() {
    let silent = bind("127.0.0.1", 0).await.unwrap();
    let url = format!("http://{}/patroni", silent.local_addr().unwrap());
    let short = Duration::from_millis(100);
    let error = client(None).get(&url, short).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    drop(silent);
    let error = client(None).get(&url, PROMPTLY).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    let error = client(None).get("ftp://x/", PROMPTLY).await.unwrap_err();
    assert!(matches!(error, ClientError::Url { .. }), "{error}");
}
