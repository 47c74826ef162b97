//! Sockets and limits. Whatever strangers do (a thousand silent connections, slow readers,
//! garbage), a health check is answered at once: nothing here waits for a client, and the oldest
//! idle connection makes room for a new one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::core::time::Boot;
use crate::sys::clock;

use super::options::Options;
use super::routes;
use super::snapshot::{self, Snapshot};

/// What the server reads and where it sends commands.
pub struct Shared {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub requests: mpsc::Sender<snapshot::Request>,
    /// Replaced on reload; the next request obeys, and the next connection gets its certificate.
    pub options: watch::Receiver<Arc<Options>>,
    /// Asks for a fresh look at PostgreSQL; one look serves all who wait.
    pub look: Arc<Notify>,
    /// Where to listen, when it is to be elsewhere. Open connections stay.
    pub moves: watch::Receiver<SocketAddr>,
}

/// How much strangers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open at the same time; the oldest idle one makes room.
    pub connections: usize,
    /// The same for each client address.
    pub connections_per_peer: usize,
    /// From the opening (or the end of the last answer) to the end of a request's header.
    pub header_max: Duration,
    /// A connection for which nobody works is closed after this time, even when its client has
    /// not yet read the last answer.
    pub idle_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            connections_per_peer: 256,
            header_max: Duration::from_secs(5),
            idle_max: Duration::from_secs(30),
        }
    }
}

const HEADER_BYTES_MAX: usize = 64 * 1024;
const BACKLOG: u32 = 1024;

#[derive(Debug, Error)]
pub enum BindError {
    #[error("restapi.listen: cannot find the address of {host:?}")]
    Resolve { host: String, source: io::Error },
    #[error(
        "restapi.listen: {address} is in use by another program (another pgvigil or a patroni?): \
         stop it, or change restapi.listen"
    )]
    InUse { address: SocketAddr },
    #[error("restapi.listen: cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Listens on `host:port`, see [`resolve`].
///
/// # Errors
/// The name has no address, or the address cannot be had.
pub async fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
    listen(resolve(host, port).await?)
}

/// The address of `host:port`. An empty host or `*` means every address of both families.
///
/// # Errors
/// The name has no address.
pub async fn resolve(host: &str, port: u16) -> Result<SocketAddr, BindError> {
    if matches!(host, "" | "*") {
        return Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = lookup_host((host, port)).await;
    let error = |source| BindError::Resolve { host: host.to_owned(), source };
    let address = found.map_err(error)?.next();
    let none = || io::Error::other("the name has no address");
    address.ok_or_else(none).map_err(error)
}

fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    match listen_on(address) {
        // A kernel without IPv6.
        Err(BindError::Listen { .. }) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            listen_on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        other => other,
    }
}

/// Listens elsewhere; where that cannot be, on as before.
async fn move_to(old: TcpListener, address: SocketAddr) -> TcpListener {
    let before = old.local_addr();
    let error = match (listen(address), before) {
        (Ok(new), _) => return new,
        // The same port on other addresses may be our own: free when the old socket is closed.
        (Err(BindError::InUse { .. }), Ok(before)) if before.port() == address.port() => {
            drop(old);
            return move_on_port(before, address).await;
        }
        (Err(error), _) => error,
    };
    tracing::error!("{error}; the REST API stays where it is");
    old
}

/// Connections that were under way keep the port busy for a moment.
async fn move_on_port(before: SocketAddr, address: SocketAddr) -> TcpListener {
    let begun = clock::boot();
    loop {
        let error = match listen(address) {
            Ok(new) => return new,
            Err(error) => error,
        };
        let late = clock::boot().since(begun) > Duration::from_secs(1);
        if let Some(old) = late.then(|| listen(before).ok()).flatten() {
            tracing::error!("{error}; the REST API stays where it is");
            return old;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            setsockopt(&socket, Ipv6V6Only, &false)?;
        }
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Listen { address, source },
    })
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    serve_within(listener, shared, Limits::default()).await;
}

/// Serves until it is dropped, with other limits than the usual ones.
pub async fn serve_within(mut listener: TcpListener, shared: Arc<Shared>, limits: Limits) {
    let mut moves = shared.moves.clone();
    let connections = Arc::new(Connections::default());
    let _close_all = CloseAll(connections.clone());
    let mut sweep = tokio::time::interval((limits.idle_max / 4).max(Duration::from_millis(1)));
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    admit(stream, peer.ip().to_canonical(), &shared, &connections, limits);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the REST API cannot accept connections");
                    }
                    failing = true;
                    // Out of descriptors, most likely: ours are the first to be given back.
                    connections.lock().close_oldest_idle(None);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Ok(()) = moves.changed() => {
                let address = *moves.borrow_and_update();
                listener = move_to(listener, address).await;
            }
            _ = sweep.tick() => connections.lock().close_idle_since(clock::boot(), limits.idle_max),
        }
    }
}

/// Starts the connection's task, unless there is no room and nobody idle to make some.
fn admit(
    stream: TcpStream,
    peer: IpAddr,
    shared: &Arc<Shared>,
    connections: &Arc<Connections>,
    limits: Limits,
) {
    let mut table = connections.lock();
    if table.of_peer(peer) >= limits.connections_per_peer && !table.close_oldest_idle(Some(peer)) {
        return;
    }
    if table.open.len() >= limits.connections && !table.close_oldest_idle(None) {
        return;
    }
    let id = table.next_id;
    table.next_id += 1;
    let usage = Arc::new(Usage::default());
    usage.touch();
    let leave = Leave { id, connections: connections.clone() };
    let (shared, in_task) = (shared.clone(), usage.clone());
    let task = tokio::spawn(async move {
        let _leave = leave;
        greet(stream, peer, &shared, &in_task, limits).await;
    });
    table.open.insert(id, Connection { peer, usage, task: task.abort_handle() });
}

/// The handshake, where TLS is configured. Its client is idle meanwhile: it can be evicted.
async fn greet(stream: TcpStream, peer: IpAddr, shared: &Shared, usage: &Usage, limits: Limits) {
    // Refused only for a socket that is already dead.
    let _ = stream.set_nodelay(true);
    let tls = shared.options.borrow().tls.clone();
    let Some(config) = tls else {
        let client = Client { address: peer, certified: false };
        return converse(stream, client, shared, usage, limits).await;
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(limits.header_max, handshake).await {
        Ok(Ok(stream)) => {
            let certified = stream.get_ref().1.peer_certificates().is_some();
            let client = Client { address: peer, certified };
            converse(stream, client, shared, usage, limits).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub address: IpAddr,
    /// It showed a certificate that we believe.
    pub certified: bool,
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    client: Client,
    shared: &Shared,
    usage: &Usage,
    limits: Limits,
) {
    let peer = client.address;
    let service = service_fn(|request: Request<Incoming>| async move {
        usage.touch();
        Ok::<_, Infallible>(routes::answer(request, client, shared, usage).await)
    });
    let ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_max)
        .max_buf_size(HEADER_BYTES_MAX)
        .writev(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection of the REST API ended early");
    }
}

/// Whether the agent works for this connection and, if not, since when it is idle. A client that
/// sends or reads slowly is idle: it must not keep others out.
#[derive(Default)]
pub(super) struct Usage {
    busy: AtomicBool,
    idle_from: AtomicU64,
}

impl Usage {
    /// The agent works for this connection until the guard is dropped.
    pub(super) fn begin(&self) -> Busy<'_> {
        self.busy.store(true, Ordering::Relaxed);
        Busy(self)
    }

    fn touch(&self) {
        self.idle_from.store(clock::boot().0, Ordering::Relaxed);
    }

    fn idle_since(&self) -> Option<Boot> {
        let busy = self.busy.load(Ordering::Relaxed);
        (!busy).then(|| Boot(self.idle_from.load(Ordering::Relaxed)))
    }
}

pub(super) struct Busy<'a>(&'a Usage);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

struct Connection {
    peer: IpAddr,
    usage: Arc<Usage>,
    task: AbortHandle,
}

#[derive(Default)]
struct Table {
    next_id: u64,
    /// By id, hence by age.
    open: BTreeMap<u64, Connection>,
}

impl Table {
    fn of_peer(&self, peer: IpAddr) -> usize {
        self.open.values().filter(|c| c.peer == peer).count()
    }

    /// Closes the connection that has been idle longest; false if none is idle.
    fn close_oldest_idle(&mut self, peer: Option<IpAddr>) -> bool {
        let of_peer = |c: &Connection| peer.is_none_or(|p| p == c.peer);
        let idle = self.open.iter().filter(|(_, c)| of_peer(c));
        let idle = idle.filter_map(|(id, c)| Some((c.usage.idle_since()?, *id)));
        let Some((_, id)) = idle.min() else { return false };
        self.close(id);
        true
    }

    fn close_idle_since(&mut self, now: Boot, idle_max: Duration) {
        let too_long =
            |c: &Connection| c.usage.idle_since().is_some_and(|since| now.since(since) > idle_max);
        let ids: Vec<u64> =
            self.open.iter().filter(|(_, c)| too_long(c)).map(|(id, _)| *id).collect();
        for id in ids {
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        if let Some(connection) = self.open.remove(&id) {
            connection.task.abort();
        }
    }
}

#[derive(Default)]
struct Connections(Mutex<Table>);

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the connection out of the table when its task ends, however it ends.
struct Leave {
    id: u64,
    connections: Arc<Connections>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.id);
    }
}

/// Connections do not outlive the server.
struct CloseAll(Arc<Connections>);

impl Drop for CloseAll {
    fn drop(&mut self) {
        let open = std::mem::take(&mut self.0.lock().open);
        for connection in open.values() {
            connection.task.abort();
        }
    }
}
