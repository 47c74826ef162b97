//! A client that never stops writing: one writer per member, each connected directly to it (no
//! proxy in between), each recording every row whose commit was acknowledged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::judge::Ack;
use super::net::{Host, enter};

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A peer that acknowledges no bytes for so long is gone; a frozen PostgreSQL is not, its kernel
/// answers.
const PEER_GONE_AFTER: Duration = Duration::from_secs(5);

const ASK_PEER_EVERY: Duration = Duration::from_secs(2);

/// The timeline is read from the name of the WAL file that the row goes to.
const INSERT: &str = "INSERT INTO written VALUES ($1, $2) \
                      RETURNING substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";

pub struct Writer {
    record: Arc<Record>,
}

struct Record {
    /// From a row to the next, and from a connection that broke to the next.
    every: Duration,
    epoch: Instant,
    next: AtomicI64,
    stop: AtomicBool,
    acks: Mutex<Vec<Ack>>,
    /// Member and time of every connection that broke.
    broken: Mutex<Vec<(u8, Duration, String)>>,
}

impl Writer {
    /// `at`: the namespace to write from. The threads end with the writer, except one that waits
    /// for an answer: it ends when its server does.
    pub fn start(at: &Path, members: u8, target: &Config, every: Duration) -> Writer {
        let record = Arc::new(Record {
            every,
            epoch: Instant::now(),
            next: AtomicI64::new(1),
            stop: AtomicBool::new(false),
            acks: Mutex::default(),
            broken: Mutex::default(),
        });
        for member in 1..=members {
            let (record, at, mut target) = (record.clone(), at.to_path_buf(), target.clone());
            target.host(Host::Member(member).address().to_string());
            thread::spawn(move || {
                enter(&at);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(record.write_for_ever(member, target));
            });
        }
        Writer { record }
    }

    /// The time on the writers' clock.
    pub fn now(&self) -> Duration {
        self.record.epoch.elapsed()
    }

    pub fn acks(&self) -> Vec<Ack> {
        self.record.acks.lock().expect("acks").clone()
    }

    /// When the newest row was acknowledged, and by which member.
    pub fn newest(&self) -> Option<Ack> {
        self.record.acks.lock().expect("acks").iter().max_by_key(|ack| ack.acked).copied()
    }

    /// Connections to a member that broke since then, with the cause.
    pub fn broken_since(&self, since: Duration, member: u8) -> Vec<String> {
        let broken = self.record.broken.lock().expect("broken");
        let wanted = broken.iter().filter(|(m, at, _)| *m == member && *at >= since);
        wanted.map(|(_, _, cause)| cause.clone()).collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
    }
}

impl Record {
    async fn write_for_ever(&self, member: u8, mut target: Config) {
        target.connect_timeout(CONNECT_WITHIN).tcp_user_timeout(PEER_GONE_AFTER);
        // A machine that was reset while it owed an answer sends nothing any more.
        target.keepalives_idle(ASK_PEER_EVERY).keepalives_interval(ASK_PEER_EVERY);
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok(client) = connect(&target, CONNECT_WITHIN).await
                && let Err(cause) = self.write_until_broken(member, &client).await
            {
                let at = self.epoch.elapsed();
                self.broken.lock().expect("broken").push((member, at, cause.to_string()));
            }
            tokio::time::sleep(self.every).await;
        }
    }

    async fn write_until_broken(
        &self,
        member: u8,
        client: &Client,
    ) -> Result<(), tokio_postgres::Error> {
        let insert = client.prepare(INSERT).await?;
        while !self.stop.load(Ordering::Relaxed) {
            let seq = self.next.fetch_add(1, Ordering::Relaxed);
            let sent = self.epoch.elapsed();
            match client.query_one(&insert, &[&i16::from(member), &seq]).await {
                Ok(row) => {
                    let acked = self.epoch.elapsed();
                    let timeline = u32::from_str_radix(row.get(0), 16).expect("a timeline");
                    let ack = Ack { member, seq, timeline, sent, acked };
                    self.acks.lock().expect("acks").push(ack);
                }
                Err(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.every.saturating_sub(self.epoch.elapsed() - sent)).await;
        }
        Ok(())
    }
}

/// Connects, authenticates, and keeps the connection served until the client is dropped.
pub async fn connect(target: &Config, within: Duration) -> Result<Client, String> {
    let attempt = tokio::time::timeout(within, target.connect(NoTls)).await;
    let (client, connection) =
        attempt.map_err(|_| "no answer in time".to_owned())?.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}
