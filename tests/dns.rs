//! A name server that knows SRV records and nothing else, on UDP and TCP, for as long as a value
//! lives. It notes what it is asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::Srv;

use crate::rig::free_port;

/// How soon it notices its end.
const POLL: Duration = Duration::from_millis(20);

/// What a name stands for.
#[derive(Clone)]
pub enum Entry {
    /// Priority, host and port of each record.
    Records(Vec<(u16, String, u16)>),
    /// The same, but over UDP the answer says that it is too long.
    Long(Vec<(u16, String, u16)>),
    /// SERVFAIL.
    Broken,
}

#[derive(Default)]
struct Zone {
    entries: BTreeMap<String, Entry>,
    asked: Vec<String>,
}

pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// On a free port of loopback.
    pub fn start() -> NameServer {
        NameServer::start_at(SocketAddr::from(([127, 0, 0, 1], free_port())))
            .expect("a name server")
    }

    /// At this address; an error if it may not be taken.
    pub fn start_at(address: SocketAddr) -> std::io::Result<NameServer> {
        let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
        udp.set_read_timeout(Some(POLL))?;
        tcp.set_nonblocking(true)?;
        let (zone, end) = (Arc::new(Mutex::new(Zone::default())), Arc::new(AtomicBool::new(false)));
        let threads = vec![
            serve(&zone, &end, move |zone| serve_udp(&udp, zone)),
            serve(&zone, &end, move |zone| match tcp.accept() {
                Ok((stream, _)) => drop(serve_tcp(stream, zone)),
                Err(_) => std::thread::sleep(POLL),
            }),
        ];
        Ok(NameServer { address, zone, end, threads })
    }

    /// From now on the name stands for this.
    pub fn set(&self, name: &str, entry: Entry) {
        self.zone.lock().expect("a zone").entries.insert(name.to_owned(), entry);
    }

    /// The names asked for until now, in order; forgets them.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.zone.lock().expect("a zone").asked)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Serves again and again until the end.
fn serve(
    zone: &Arc<Mutex<Zone>>,
    end: &Arc<AtomicBool>,
    once: impl Fn(&Mutex<Zone>) + Send + 'static,
) -> JoinHandle<()> {
    let (zone, end) = (zone.clone(), end.clone());
    std::thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            once(&zone);
        }
    })
}

fn serve_udp(socket: &UdpSocket, zone: &Mutex<Zone>) {
    let mut buffer = [0; 1500];
    if let Ok((length, from)) = socket.recv_from(&mut buffer)
        && let Some(answer) = answer(&buffer[..length], zone, true)
    {
        let _ = socket.send_to(&answer, from);
    }
}

/// One question; its length stands before each message.
fn serve_tcp(mut stream: TcpStream, zone: &Mutex<Zone>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question)?;
    let answer = answer(&question, zone, false).unwrap_or_default();
    let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
    stream.write_all(&[&length[..], &answer].concat())
}

fn answer(question: &[u8], zone: &Mutex<Zone>, udp: bool) -> Option<Vec<u8>> {
    let request = Message::from_octets(question).ok()?;
    let question = request.sole_question().ok()?;
    let name = question.qname().to_string();
    let mut zone = zone.lock().expect("a zone");
    let entry = zone.entries.get(&name).filter(|_| question.qtype() == Rtype::SRV).cloned();
    if question.qtype() == Rtype::SRV {
        zone.asked.push(name);
    }
    let (code, records, long) = match entry {
        Some(Entry::Records(records)) => (Rcode::NOERROR, records, false),
        Some(Entry::Long(records)) => (Rcode::NOERROR, records, udp),
        Some(Entry::Broken) => (Rcode::SERVFAIL, Vec::new(), false),
        None => (Rcode::NXDOMAIN, Vec::new(), false),
    };
    let mut answer = MessageBuilder::new_vec().start_answer(&request, code).ok()?;
    answer.header_mut().set_ra(true);
    answer.header_mut().set_tc(long);
    for (priority, host, port) in records.into_iter().filter(|_| !long) {
        let host: Name<Vec<u8>> = host.parse().expect("a name");
        answer.push((question.qname(), 60, Srv::new(priority, 0, port, host))).ok()?;
    }
    Some(answer.finish())
}
