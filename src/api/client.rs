//! Requests from member to member: small JSON documents over HTTP, one connection each.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use thiserror::Error;
use tokio::time;

use super::auth::Credentials;

/// A host that is gone does not answer at all; one that is there does so at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

const ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{url}: not a URL that can be asked (http://host:port/path)")]
    Url { url: String },
    #[error("{url}: no answer within {} ms", within.as_millis())]
    Timeout { url: String, within: Duration },
    #[error("{url}: cannot be reached")]
    Unreachable { url: String, source: hyper_util::client::legacy::Error },
    #[error("{url}: the answer broke off or is longer than {ANSWER_BYTES_MAX} bytes")]
    Body { url: String, source: Box<dyn std::error::Error + Send + Sync> },
}

/// A status with its body: JSON if it is JSON, else the text as a JSON string.
pub type Answer = (u16, Value);

/// `GET`, without body. The whole exchange ends within `timeout`.
pub async fn get_json(
    url: &str,
    timeout: Duration,
    credentials: Option<&Credentials>,
) -> Result<Answer, ClientError> {
    request_json(Method::GET, url, None, timeout, credentials).await
}

/// `POST` of a JSON document.
pub async fn post_json(
    url: &str,
    body: &Value,
    timeout: Duration,
    credentials: Option<&Credentials>,
) -> Result<Answer, ClientError> {
    request_json(Method::POST, url, Some(body), timeout, credentials).await
}

/// Any method, with or without a JSON document.
pub async fn request_json(
    method: Method,
    url: &str,
    body: Option<&Value>,
    timeout: Duration,
    credentials: Option<&Credentials>,
) -> Result<Answer, ClientError> {
    let bad_url = || ClientError::Url { url: url.to_owned() };
    if !url.starts_with("http://") {
        return Err(bad_url());
    }
    let text = body.map(Value::to_string).unwrap_or_default();
    let mut request = Request::builder().method(method).uri(url).header("User-Agent", "pgvigil");
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(credentials) = credentials {
        let mut value = HeaderValue::try_from(credentials.header())
            .expect("invariant: base64 is a header value");
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Full::new(Bytes::from(text))).map_err(|_| bad_url())?;
    time::timeout(timeout, exchange(request, url))
        .await
        .unwrap_or_else(|_| Err(ClientError::Timeout { url: url.to_owned(), within: timeout }))
}

async fn exchange(request: Request<Full<Bytes>>, url: &str) -> Result<Answer, ClientError> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_WITHIN));
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let unreachable = |source| ClientError::Unreachable { url: url.to_owned(), source };
    let answer = client.request(request).await.map_err(unreachable)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let broken = |source| ClientError::Body { url: url.to_owned(), source };
    let bytes = body.map_err(broken)?.to_bytes();
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Ok((status, value))
}
