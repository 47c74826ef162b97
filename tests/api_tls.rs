//! The REST API over TLS, with what administrators have: certificates that openssl made, and
//! OpenSSL itself (curl) at the other end.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use pgvigil::api::client::Client;
use pgvigil::api::options::Options;
use pgvigil::api::server::{Limits, Shared, bind, serve_within};
use pgvigil::api::snapshot::{Reply, Request, Snapshot};
use pgvigil::config::{CtlTls, Endpoint, RestApi, RestTls, VerifyClient};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

const PROMPTLY: Duration = Duration::from_secs(30);

/// Certificates in a directory of their own.
struct Pki(TempDir);

impl Pki {
    fn new() -> Pki {
        Pki(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn openssl(&self, line: &str) {
        let output = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(self.0.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `openssl req -x509`: CA:TRUE, authority, server and client at once.
    fn alone(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.crt -days 2 \
             -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        ));
    }

    fn server(&self, name: &str, verify_client: VerifyClient) -> RestTls {
        RestTls {
            certfile: Some(self.path(&format!("{name}.crt"))),
            keyfile: Some(self.path(&format!("{name}.key"))),
            cafile: Some(self.path(&format!("{name}.crt"))),
            verify_client,
            ..RestTls::default()
        }
    }

    fn client(&self, cacert: &str, certificate: Option<&str>) -> CtlTls {
        CtlTls {
            cacert: Some(self.path(&format!("{cacert}.crt"))),
            certfile: certificate.map(|name| self.path(&format!("{name}.crt"))),
            keyfile: certificate.map(|name| self.path(&format!("{name}.key"))),
            ..CtlTls::default()
        }
    }
}

fn section(tls: RestTls) -> RestApi {
    RestApi {
        listen: Endpoint { host: "127.0.0.1".into(), port: 8008 },
        connect_address: Endpoint { host: "127.0.0.1".into(), port: 8008 },
        authentication: None,
        allowlist: Vec::new(),
        allowlist_include_members: false,
        tls,
        http_extra_headers: [("X-Plain".to_owned(), "1".to_owned())].into(),
        https_extra_headers: [("Strict-Transport-Security".to_owned(), "max-age=1".to_owned())]
            .into(),
        server_tokens: "minimal".into(),
    }
}

struct Server {
    port: u16,
    options: watch::Sender<Arc<Options>>,
    task: tokio::task::JoinHandle<()>,
    _snapshot: watch::Sender<Arc<Snapshot>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server whose agent answers each command with 202.
async fn start(tls: RestTls) -> Server {
    let listener = bind("0.0.0.0", 0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (snapshot_sender, snapshot) = watch::channel(Arc::new(Snapshot::default()));
    let made = Options::new(&section(tls)).unwrap();
    let (options, options_seen) = watch::channel(Arc::new(made));
    let (requests, mut commands) = mpsc::channel::<Request>(4);
    tokio::spawn(async move {
        while let Some(request) = commands.recv().await {
            let _ = request.reply.send(Reply::text(202, "reload scheduled"));
        }
    });
    let (_, moves) = watch::channel(SocketAddr::from(([0; 4], 0)));
    let look = Arc::default();
    let shared = Shared { snapshot, requests, options: options_seen, look, moves };
    let task = tokio::spawn(serve_within(listener, Arc::new(shared), Limits::default()));
    Server { port, options, task, _snapshot: snapshot_sender }
}

async fn reload(server: &Server, tls: &CtlTls, host: &str) -> Result<u16, String> {
    let client = Client::new(None, tls).map_err(|e| e.to_string())?;
    let url = format!("https://{host}:{}/reload", server.port);
    let answer = client.post(&url, &json!({}), PROMPTLY).await;
    answer.map(|a| a.status).map_err(|e| format!("{:#}", anyhow::Error::new(e)))
}

/// OpenSSL's own opinion.
async fn curl(arguments: Vec<String>) -> Output {
    let run = move || Command::new("curl").args(["-sS", "-i"]).args(arguments).output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_self_signed_certificate_is_authority_server_and_client() {
    let pki = Pki::new();
    pki.alone("one");
    let server = start(pki.server("one", VerifyClient::Required)).await;
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(reload(&server, &pki.client("one", Some("one")), host).await, Ok(202));
    }
    let strict = reload(&server, &pki.client("one", None), "127.0.0.1").await;
    assert!(strict.is_err(), "no certificate: {strict:?}");
    // The name counts, unless a client with a certificate says `insecure`.
    let other = reload(&server, &pki.client("one", Some("one")), "127.0.0.2").await;
    assert!(other.unwrap_err().contains("127.0.0.1"));
    let insecure = CtlTls { insecure: true, ..pki.client("one", Some("one")) };
    let address = format!("https://127.0.0.1:{}/metrics", server.port);
    let client = Client::new(None, &insecure).unwrap();
    assert_eq!(client.get(&address, PROMPTLY).await.unwrap().status, 200);

    let files = ["--cacert", "--cert"].map(|o| [o.to_owned(), pki.path("one.crt")]).concat();
    let key = vec!["--key".to_owned(), pki.path("one.key"), address.clone()];
    let seen = curl([files, key].concat()).await;
    let answer = text(&seen.stdout).to_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer} {}", text(&seen.stderr));
    for header in ["server: patroni/4.1.5", "x-plain: 1", "strict-transport-security: max-age=1"] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_as_openssl_refuses_them() {
    let pki = Pki::new();
    pki.alone("one");
    pki.alone("stranger");
    let server = start(pki.server("one", VerifyClient::Required)).await;
    let wrong_client = reload(&server, &pki.client("one", Some("stranger")), "127.0.0.1").await;
    assert!(wrong_client.is_err(), "{wrong_client:?}");
    let wrong_server = reload(&server, &pki.client("stranger", Some("one")), "127.0.0.1").await;
    assert!(wrong_server.unwrap_err().contains("certificate"), "the chain is checked");
    let insecure = CtlTls { insecure: true, ..pki.client("stranger", Some("one")) };
    let chain = reload(&server, &insecure, "127.0.0.1").await;
    assert!(chain.is_err(), "insecure leaves out the name only, if there is a certificate");
    // The same subject and another key: only the bytes make it the anchor.
    let open = start(pki.server("stranger", VerifyClient::None)).await;
    assert!(reload(&open, &pki.client("one", None), "127.0.0.1").await.is_err());
    let anybody = CtlTls { insecure: true, ..CtlTls::default() };
    assert_eq!(reload(&open, &anybody, "127.0.0.1").await, Ok(202));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_anchor_is_no_certificate() {
    let pki = Pki::new();
    pki.openssl("req -newkey rsa:2048 -nodes -keyout old.key -out old.csr -subj /CN=localhost");
    std::fs::write(pki.path("ca.cnf"), CA_CNF).unwrap();
    std::fs::write(pki.path("index.txt"), "").unwrap();
    std::fs::write(pki.path("serial"), "01\n").unwrap();
    pki.openssl(
        "ca -batch -config ca.cnf -selfsign -in old.csr -keyfile old.key -out old.crt \
         -startdate 20200101000000Z -enddate 20210101000000Z -notext -outdir .",
    );
    let server = start(pki.server("old", VerifyClient::None)).await;
    let refused = reload(&server, &pki.client("old", None), "127.0.0.1").await.unwrap_err();
    assert!(refused.contains("expired") || refused.contains("Expired"), "{refused}");
}

const CA_CNF: &str = "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\n\
    default_md=sha256\npolicy=p\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\n\
    basicConstraints=CA:TRUE\nsubjectAltName=IP:127.0.0.1\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_a_real_authority_and_optional_certificates() {
    let pki = Pki::new();
    pki.openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt \
         -days 2 -subj /CN=authority",
    );
    pki.openssl("req -newkey rsa:2048 -nodes -keyout node.key -out node.csr -subj /CN=node");
    std::fs::write(pki.path("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    pki.openssl(
        "x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out node.crt -days 2 \
         -extfile san",
    );
    // The key behind a password, as `openssl pkcs8` writes it.
    pki.openssl("pkcs8 -topk8 -in node.key -out sealed.key -passout pass:secret");
    let tls = RestTls {
        keyfile: Some(pki.path("sealed.key")),
        keyfile_password: Some("secret".into()),
        cafile: Some(pki.path("ca.crt")),
        ciphers: Some("ECDHE+AESGCM:!aNULL".into()),
        ..pki.server("node", VerifyClient::Optional)
    };
    let server = start(tls.clone()).await;
    assert_eq!(reload(&server, &pki.client("ca", Some("node")), "127.0.0.1").await, Ok(202));
    assert_eq!(reload(&server, &pki.client("ca", None), "127.0.0.1").await, Ok(403));
    let client = Client::new(None, &pki.client("ca", None)).unwrap();
    let url = format!("https://127.0.0.1:{}/history", server.port);
    assert_eq!(client.get(&url, PROMPTLY).await.unwrap().status, 503, "reading needs none");
    let address = format!("https://127.0.0.1:{}/reload", server.port);
    let arguments = ["--cacert", &pki.path("ca.crt"), "-X", "POST", &address].map(str::to_owned);
    let answer = text(&curl(arguments.into()).await.stdout);
    assert!(answer.ends_with("client certificate required"), "{answer}");
    let plain = curl(vec![format!("http://127.0.0.1:{}/liveness", server.port)]).await;
    assert!(!plain.status.success(), "plain HTTP is not answered");

    let refusal = |tls: RestTls| Options::new(&section(tls)).unwrap_err().to_string();
    let wrong = refusal(RestTls { keyfile_password: Some("guess".into()), ..tls.clone() });
    assert!(wrong.contains("restapi.keyfile_password"), "{wrong}");
    let none = refusal(RestTls { keyfile_password: None, ..tls.clone() });
    assert!(none.contains("encrypted: set restapi.keyfile_password"), "{none}");
    let absent = refusal(RestTls { certfile: Some("/nonexistent".into()), ..tls.clone() });
    assert!(absent.starts_with("restapi.certfile: /nonexistent: cannot be read"), "{absent}");
    let key = refusal(RestTls { cafile: Some(pki.path("node.key")), ..tls });
    assert!(key.contains("restapi.cafile") && key.contains("no certificate"), "{key}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_serves_the_next_connection() {
    let pki = Pki::new();
    pki.alone("first");
    let tls = pki.server("first", VerifyClient::None);
    let server = start(tls.clone()).await;
    assert_eq!(reload(&server, &pki.client("first", None), "127.0.0.1").await, Ok(202));
    std::fs::copy(pki.path("first.crt"), pki.path("kept.crt")).unwrap();
    pki.alone("first");
    // The same paths, other bytes: what a reload of the agent does.
    server.options.send_replace(Arc::new(Options::new(&section(tls)).unwrap()));
    assert_eq!(reload(&server, &pki.client("first", None), "127.0.0.1").await, Ok(202));
    assert!(reload(&server, &pki.client("kept", None), "127.0.0.1").await.is_err());
    // And back to plain HTTP.
    server.options.send_replace(Arc::new(Options::new(&section(RestTls::default())).unwrap()));
    let url = format!("http://127.0.0.1:{}/metrics", server.port);
    let client = Client::new(None, &CtlTls::default()).unwrap();
    let answer = client.get(&url, PROMPTLY).await.unwrap();
    assert_eq!(answer.headers.get("x-plain").map(|v| v.as_bytes()), Some(&b"1"[..]));
    assert!(!answer.headers.contains_key("strict-transport-security"));
}
