//! Sessions with a server. Every call has a deadline; when it passes, the connection is dropped,
//! because its state is unknown then. (The blocking `postgres` crate has no such deadline and
//! would hang with the server.)

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, config::SslMode};

use crate::core::error::chain;

use super::tls::Terms;

/// Where and as whom to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Host name, address, or an absolute path: the folder of the server's Unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    /// After this the server itself gives up a statement; zero: never. Not shorter than the
    /// deadlines of the calls, or else they end with a refusal instead of a timeout.
    pub statement_timeout: Duration,
    /// libpq's options: `sslmode` and its kin.
    pub options: BTreeMap<String, String>,
}

/// Without the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody answered: no server, or none reachable.
    #[error("cannot connect to PostgreSQL at {place}: {reason}")]
    Unreachable { place: String, reason: String },
    /// It did not answer in time. Whether the statement was carried out is unknown.
    #[error("PostgreSQL at {place} did not answer within {} ms: {doing}", within.as_millis())]
    Timeout { place: String, doing: &'static str, within: Duration },
    /// It answered: no.
    #[error("PostgreSQL at {place} refused ({code}): {doing}: {message}")]
    Refused { place: String, doing: &'static str, code: String, message: String },
    /// The connection broke in the middle. Whether the statement was carried out is unknown.
    #[error("connection to PostgreSQL at {place} was lost: {doing}: {reason}")]
    Lost { place: String, doing: &'static str, reason: String },
    /// It answered something that makes no sense here.
    #[error("PostgreSQL at {place} answered {doing} with something unexpected: {reason}")]
    Unexpected { place: String, doing: &'static str, reason: String },
}

impl SessionError {
    /// The server answered, if only to refuse: it is alive.
    pub fn is_answer(&self) -> bool {
        matches!(self, SessionError::Refused { .. } | SessionError::Unexpected { .. })
    }

    /// The five characters of SQLSTATE, if the server refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            SessionError::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The server is up but cannot serve yet or any more (starting, stopping, recovering).
    pub fn is_starting_or_stopping(&self) -> bool {
        self.code() == Some(SqlState::CANNOT_CONNECT_NOW.code())
    }
}

/// One connection. Dropping it closes the connection at once.
pub struct Session {
    client: Option<Client>,
    connection: JoinHandle<()>,
    place: String,
    major: u32,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Session {
    /// Connects and authenticates within the given time.
    pub async fn connect(target: &Target, within: Duration) -> Result<Session, SessionError> {
        let terms = Terms::new(&target.host, &target.options);
        let open = async {
            match Session::open(target, &terms, terms.mode(), within).await {
                // As libpq: `hostnossl`, or a TLS that the two cannot agree upon.
                Err(error) if terms.mode() == SslMode::Prefer && is_about_tls(&error) => {
                    let plain = Session::open(target, &terms, SslMode::Disable, within).await;
                    plain.map_err(|_| error)
                }
                other => other,
            }
        };
        let place = || format!("{}:{}", target.host, target.port);
        let doing = "connect";
        match tokio::time::timeout(within, open).await {
            Ok(Err(SessionError::Lost { place, reason, .. })) => {
                Err(SessionError::Unreachable { place, reason })
            }
            Ok(other) => other,
            Err(_) => Err(SessionError::Timeout { place: place(), doing, within }),
        }
    }

    async fn open(
        target: &Target,
        terms: &Terms<'_>,
        mode: SslMode,
        within: Duration,
    ) -> Result<Session, SessionError> {
        let place = format!("{}:{}", target.host, target.port);
        let mut config = config(target, within);
        config.ssl_mode(mode);
        config.channel_binding(terms.binding()).ssl_negotiation(terms.negotiation());
        let connector = terms.connector().map_err(|error| SessionError::Unreachable {
            place: place.clone(),
            reason: error.to_string(),
        })?;
        let (client, connection) =
            config.connect(connector).await.map_err(|e| classify(&place, "connect", e))?;
        let major = connection.parameter("server_version").and_then(leading_number).unwrap_or(0);
        // The task ends with the connection or with the session. Its error is not lost: the
        // call that waits gets it.
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Session { client: Some(client), connection, place, major })
    }

    /// Major version of the server.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The connection is gone: after a timeout, or because the server closed it.
    pub fn is_closed(&self) -> bool {
        self.client.as_ref().is_none_or(Client::is_closed)
    }

    /// One statement (or several, as one transaction) in one round trip; the first column of the
    /// first row as text.
    pub(super) async fn run(
        &mut self,
        doing: &'static str,
        sql: &str,
        within: Duration,
    ) -> Result<Option<String>, SessionError> {
        let place = self.place.clone();
        let Some(client) = self.client.take() else {
            let reason = "closed after an earlier failure".to_owned();
            return Err(SessionError::Lost { place, doing, reason });
        };
        let messages = within_deadline(client.simple_query(sql), within).await;
        // Taken and not given back on a timeout: dropping the client drops the connection.
        let Some(result) = messages else {
            self.connection.abort();
            return Err(SessionError::Timeout { place, doing, within });
        };
        self.client = Some(client);
        let messages = result.map_err(|e| classify(&place, doing, e))?;
        Ok(messages.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten().map(str::to_owned),
            _ => None,
        }))
    }

    pub(super) fn unexpected(&self, doing: &'static str, reason: impl ToString) -> SessionError {
        SessionError::Unexpected { place: self.place.clone(), doing, reason: reason.to_string() }
    }

    /// Writes a checkpoint, waited for. Takes as long as the volume needs: connect with a
    /// `statement_timeout` of zero for it.
    pub async fn checkpoint(&mut self, within: Duration) -> Result<(), SessionError> {
        self.run("checkpoint", "CHECKPOINT", within).await.map(|_| ())
    }

    /// A small transaction that leaves nothing behind but its record in the log, and waits for the
    /// local disk alone (see `config`).
    pub async fn write(&mut self, within: Duration) -> Result<(), SessionError> {
        let sql = "SELECT pg_logical_emit_message(true, 'pgvigil', '')";
        self.run("write", sql, within).await.map(|_| ())
    }

    /// The size of all databases on disk.
    pub async fn size_bytes(&mut self, within: Duration) -> Result<u64, SessionError> {
        let doing = "size of the databases";
        let sql = "SELECT sum(pg_database_size(oid)) FROM pg_database";
        let text = self.run(doing, sql, within).await?.unwrap_or_default();
        text.parse().map_err(|_| SessionError::Unexpected {
            place: self.place.clone(),
            doing,
            reason: format!("{text:?} is no size"),
        })
    }
}

async fn within_deadline<T>(future: impl Future<Output = T>, within: Duration) -> Option<T> {
    tokio::time::timeout(within, future).await.ok()
}

fn config(target: &Target, within: Duration) -> tokio_postgres::Config {
    let timeout = target.statement_timeout.as_millis();
    // Nobody's functions but PostgreSQL's are called, and nothing that we do waits for a
    // synchronous standby.
    let options = format!(
        "-c statement_timeout={timeout} -c lock_timeout={timeout} -c search_path=pg_catalog \
         -c synchronous_commit=local -c default_transaction_read_only=off"
    );
    let mut config = tokio_postgres::Config::new();
    config
        .host(&target.host)
        .port(target.port)
        .user(&target.user)
        .dbname(&target.database)
        .application_name("pgvigil")
        .options(&options)
        .tcp_user_timeout(within);
    if let Some(password) = &target.password {
        config.password(password);
    }
    config
}

/// The server has no rule for a connection with TLS, or there was none to be had.
fn is_about_tls(error: &SessionError) -> bool {
    match error {
        SessionError::Lost { reason, .. } => reason.contains("TLS handshake"),
        other => other.code() == Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION.code()),
    }
}

fn classify(place: &str, doing: &'static str, error: tokio_postgres::Error) -> SessionError {
    let place = place.to_owned();
    match error.as_db_error() {
        Some(answer) => SessionError::Refused {
            place,
            doing,
            code: answer.code().code().to_owned(),
            message: answer.message().to_owned(),
        },
        None => SessionError::Lost { place, doing, reason: chain(&error) },
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// A string as SQL literal; right whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// A name as SQL identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16) -> Target {
        Target {
            host: "127.0.0.1".into(),
            port,
            user: "u".into(),
            password: Some("hidden".into()),
            database: "postgres".into(),
            statement_timeout: Duration::from_secs(1),
            options: BTreeMap::new(),
        }
    }

    #[test]
    fn quotes_and_hides() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(leading_number("15.18 (Debian)"), Some(15));
        assert_eq!(format!("{:?}", target(1)), "u@127.0.0.1:1/postgres");
    }

    #[tokio::test]
    async fn a_dead_and_a_silent_server() {
        let within = Duration::from_millis(200);
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = socket.local_addr().expect("address").port();
        let silent = Session::connect(&target(port), within).await.err().expect("no answer");
        assert!(matches!(silent, SessionError::Timeout { .. }), "{silent}");
        drop(socket);
        let dead = Session::connect(&target(port), within).await.err().expect("refused");
        assert!(matches!(dead, SessionError::Unreachable { .. }), "{dead}");
        assert!(dead.to_string().contains("Connection refused"), "{dead}");
        assert!(!dead.is_answer());
    }
}
