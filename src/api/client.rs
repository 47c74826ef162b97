//! Requests from member to member and from pgvigilctl: small JSON documents over HTTP or HTTPS,
//! one connection each.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time;
use tokio_rustls::TlsConnector;

use super::auth::Credentials;
use super::tls;
use crate::config::CtlTls;
use crate::tls::{TlsError, server_name};

/// A host that is gone does not answer at all; one that is there does so at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

const ANSWER_BYTES_MAX: usize = 1024 * 1024;

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{url}: not a URL that can be asked (http://host:port/path)")]
    Url { url: String },
    #[error("{url}: no answer within {} ms", within.as_millis())]
    Timeout { url: String, within: Duration },
    #[error("{url}: cannot be reached")]
    Unreachable { url: String, source: Cause },
    #[error("{url}: the answer broke off or is longer than {ANSWER_BYTES_MAX} bytes")]
    Body { url: String, source: Cause },
}

/// A member's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// JSON if it is JSON, else the text as a JSON string.
    pub body: Value,
}

/// Who asks, and whom it believes.
#[derive(Clone, Debug)]
pub struct Client {
    credentials: Option<Credentials>,
    tls: Arc<ClientConfig>,
}

/// The authorities of the system, read once, for who has configured nothing.
static USUAL: LazyLock<Option<Arc<ClientConfig>>> =
    LazyLock::new(|| tls::client(&CtlTls::default()).ok());

impl Client {
    /// With name and password, and what `ctl` says of certificates.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn new(credentials: Option<Credentials>, tls: &CtlTls) -> Result<Client, TlsError> {
        let usual = (*tls == CtlTls::default()).then(|| USUAL.clone()).flatten();
        let tls = match usual {
            Some(usual) => usual,
            None => tls::client(tls)?,
        };
        Ok(Client { credentials, tls })
    }

    /// `GET`, without body. The whole exchange ends within `timeout`.
    pub async fn get(&self, url: &str, timeout: Duration) -> Result<Answer, ClientError> {
        self.request(Method::GET, url, None, timeout).await
    }

    /// `POST` of a JSON document.
    pub async fn post(
        &self,
        url: &str,
        body: &Value,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.request(Method::POST, url, Some(body), timeout).await
    }

    /// Any method, with or without a JSON document.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let bad_url = || ClientError::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad_url())?;
        let (scheme, host) = uri.scheme_str().zip(uri.host()).ok_or_else(bad_url)?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(bad_url()),
        };
        let target = Target {
            host: host.trim_start_matches('[').trim_end_matches(']'),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            tls: secure.then_some(&self.tls),
        };
        let request = self.head(method, &uri, body).ok_or_else(bad_url)?;
        time::timeout(timeout, exchange(request, target, url))
            .await
            .unwrap_or_else(|_| Err(ClientError::Timeout { url: url.to_owned(), within: timeout }))
    }

    fn head(
        &self,
        method: Method,
        uri: &Uri,
        body: Option<&Value>,
    ) -> Option<Request<Full<Bytes>>> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = HeaderValue::try_from(uri.authority()?.as_str()).ok()?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        request = request.header("User-Agent", "pgvigil");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(credentials) = &self.credentials {
            let mut value = HeaderValue::try_from(credentials.header()).ok()?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let text = body.map(Value::to_string).unwrap_or_default();
        request.body(Full::new(Bytes::from(text))).ok()
    }
}

struct Target<'a> {
    host: &'a str,
    port: u16,
    tls: Option<&'a Arc<ClientConfig>>,
}

async fn exchange(
    request: Request<Full<Bytes>>,
    target: Target<'_>,
    url: &str,
) -> Result<Answer, ClientError> {
    let unreachable = |source| ClientError::Unreachable { url: url.to_owned(), source };
    let connecting = TcpStream::connect((target.host, target.port));
    let stream = match time::timeout(CONNECT_WITHIN, connecting).await {
        Ok(connected) => connected.map_err(|e| unreachable(e.into()))?,
        Err(late) => return Err(unreachable(late.into())),
    };
    // Refused only for a socket that is already dead.
    let _ = stream.set_nodelay(true);
    let Some(config) = target.tls else { return converse(request, stream, url).await };
    let name = server_name(target.host).ok_or_else(|| ClientError::Url { url: url.to_owned() })?;
    let secured = TlsConnector::from(config.clone()).connect(name, stream).await;
    converse(request, secured.map_err(|e| unreachable(e.into()))?, url).await
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    request: Request<Full<Bytes>>,
    stream: S,
    url: &str,
) -> Result<Answer, ClientError> {
    let unreachable =
        |e: hyper::Error| ClientError::Unreachable { url: url.to_owned(), source: e.into() };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(unreachable)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let broken = |source| ClientError::Body { url: url.to_owned(), source };
        let bytes = body.map_err(broken)?.to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, headers, body })
    };
    // The connection lives as long as the exchange, and is dropped with it.
    tokio::pin!(connection, exchange);
    tokio::select! {
        biased;
        answered = &mut exchange => answered,
        // It ended first: what it has read so far is the answer, or there is none.
        _ = &mut connection => exchange.await,
    }
}
