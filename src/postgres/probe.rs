//! What a server says of itself: of the local one everything that decisions need, of a leader
//! what is needed before following or rewinding. One round trip each: one statement in the
//! simple protocol that answers one JSON document, hence of one instant, as far as possible.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};
use tokio_postgres::error::SqlState;

use super::session::{Session, SessionError};
use crate::core::database::{PendingParameter, Probe, Slot, WalReceiver, WalSender};
use crate::core::lsn::Lsn;
use crate::core::time::Wall;
use crate::core::timeline::History;

/// The first eight digits of a WAL file's name are its timeline.
const CURRENT_TIMELINE: &str = "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, \
                                8))::bit(32)::bigint";

/// Timeline of a standby whose receiver does not run: that of the last restart point, or of the
/// minimum recovery point, which recovery updates more often.
const REPLAY_TIMELINE: &str = "(SELECT greatest(c.timeline_id, r.min_recovery_end_timeline) \
                               FROM pg_control_checkpoint() c, pg_control_recovery() r)";

/// What the startup process of a standby waits for when it has read all WAL that is here; the last
/// one is the name before 13.
const WAITS_FOR_WAL: &str =
    "('RecoveryWalStream', 'RecoveryRetrieveRetryInterval', 'RecoveryWalAll')";

/// Recovery ends only once and never begins in a running server, so a function that only works
/// outside of recovery is safe behind a CASE; for the two that only work inside of it, see
/// [`Session::probe`].
fn probe_sql(major: u32) -> String {
    // Slots that a standby keeps in step with its upstream's (17) are the server's own affair.
    let slots = if major >= 17 { "NOT temporary AND NOT synced" } else { "NOT temporary" };
    let utc = |value: &str| {
        format!("to_char({value} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'")
    };
    format!(
        "SELECT row_to_json(answer) FROM (SELECT
  current_setting('server_version_num')::int AS server_version,
  (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
  {start} AS postmaster_start_time,
  r.in_recovery,
  CASE WHEN r.in_recovery
    THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), {REPLAY_TIMELINE})
    ELSE {CURRENT_TIMELINE} END AS timeline,
  CASE WHEN NOT r.in_recovery THEN pg_current_wal_flush_lsn() END AS flush_lsn,
  CASE WHEN NOT r.in_recovery THEN pg_current_wal_insert_lsn() END AS insert_lsn,
  CASE WHEN r.in_recovery THEN pg_last_wal_receive_lsn() END AS receive_lsn,
  CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn() END AS replay_lsn,
  CASE WHEN r.in_recovery THEN (extract(epoch FROM pg_last_xact_replay_timestamp())
    * 1000000)::bigint END AS replayed_at,
  CASE WHEN r.in_recovery THEN {replayed} END AS replayed_timestamp,
  CASE WHEN r.in_recovery THEN pg_is_wal_replay_paused() ELSE false END AS replay_paused,
  coalesce((SELECT wait_event IN {WAITS_FOR_WAL} FROM pg_stat_activity
    WHERE backend_type = 'startup'), false) AS replay_waits,
  (SELECT row_to_json(w) FROM (SELECT status, sender_host, sender_port,
    nullif(slot_name, '') AS slot_name, received_tli AS received_timeline, written_lsn,
    latest_end_lsn FROM pg_stat_wal_receiver) w) AS wal_receiver,
  (SELECT json_agg(w) FROM (SELECT usename, application_name, host(client_addr) AS client_addr,
    state, sync_state, sync_priority, flush_lsn, write_lsn, replay_lsn
    FROM pg_stat_replication ORDER BY pid) w) AS wal_senders,
  (SELECT json_agg(s) FROM (SELECT slot_name AS name, slot_type AS kind, database, plugin,
    active, restart_lsn, confirmed_flush_lsn, catalog_xmin::text::bigint AS catalog_xmin
    FROM pg_replication_slots WHERE {slots} ORDER BY 1) s)
    AS slots,
  current_setting('synchronous_standby_names') AS synchronous_standby_names,
  coalesce((SELECT wait_event = 'CheckpointerMain' FROM pg_stat_activity
    WHERE backend_type = 'checkpointer'), false) AS checkpointer_idle,
  (SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL) AS writers,
  current_setting('primary_conninfo') AS primary_conninfo,
  current_setting('primary_slot_name') AS primary_slot_name,
  (SELECT json_agg(p) FROM (SELECT name, current_setting(name) AS old_value,
    (SELECT f.setting FROM pg_file_settings f WHERE lower(f.name) = lower(s.name)
     ORDER BY f.seqno DESC LIMIT 1) AS new_value, boot_val
    FROM pg_settings s WHERE pending_restart ORDER BY 1) p) AS pending_restart
FROM (SELECT pg_is_in_recovery() AS in_recovery OFFSET 0) r) answer",
        start = utc("pg_postmaster_start_time()"),
        replayed = utc("pg_last_xact_replay_timestamp()"),
    )
}

/// The history file is fetched by SQL as the rewind role: that needs nothing but the rights
/// which pg_rewind needs anyway (or a superuser), works through the same authentication and
/// deadlines, and yields everything in one round trip. `TIMELINE_HISTORY` would need a
/// replication connection, which the driver does not have.
fn leader_sql() -> String {
    format!(
        "SELECT row_to_json(answer) FROM (SELECT r.in_recovery, t.timeline,
  (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
  CASE WHEN t.timeline > 1 THEN encode(pg_read_binary_file('pg_wal/' ||
    lpad(upper(to_hex(t.timeline)), 8, '0') || '.history', 0, {HISTORY_BYTES_MAX}, true),
    'hex') END AS history
FROM (SELECT pg_is_in_recovery() AS in_recovery OFFSET 0) r,
  LATERAL (SELECT CASE WHEN r.in_recovery
    THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), {REPLAY_TIMELINE})
    ELSE {CURRENT_TIMELINE} END AS timeline OFFSET 0) t) answer"
    )
}

const HISTORY_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// A leader as seen from another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub system_identifier: u64,
    pub in_recovery: bool,
    pub timeline: u32,
    /// Ancestors of `timeline`; `None` if the leader has no such file (any more).
    pub history: Option<History>,
}

impl Session {
    /// The state of the local server (as superuser or member of `pg_monitor`).
    ///
    /// If recovery ends in the middle of the statement, the server refuses it; the second try
    /// then sees a primary.
    pub async fn probe(&mut self, within: Duration) -> Result<Probe, SessionError> {
        let doing = "probe";
        let sql = probe_sql(self.major());
        let ended = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        let text = match self.run(doing, &sql, within).await {
            Err(e) if e.code() == Some(ended.code()) => self.run(doing, &sql, within).await?,
            result => result?,
        };
        let text = text.unwrap_or_default();
        let raw: RawProbe = serde_json::from_str(&text).map_err(|e| self.unexpected(doing, e))?;
        Ok(raw.into())
    }

    /// What the leader says to one who wants to follow or to rewind (as rewind role or
    /// superuser).
    pub async fn leader(&mut self, within: Duration) -> Result<Leader, SessionError> {
        let doing = "ask the leader";
        let text = self.run(doing, &leader_sql(), within).await?.unwrap_or_default();
        let raw: RawLeader = serde_json::from_str(&text).map_err(|e| self.unexpected(doing, e))?;
        raw.decode().map_err(|reason| self.unexpected(doing, reason))
    }
}

#[derive(Deserialize)]
struct RawLeader {
    #[serde(deserialize_with = "identifier")]
    system_identifier: u64,
    in_recovery: bool,
    timeline: u32,
    history: Option<String>,
}

impl RawLeader {
    fn decode(self) -> Result<Leader, String> {
        let history = match self.history {
            None if self.timeline == 1 => Some(History::default()),
            None => None,
            Some(hex) => {
                let bytes = unhex(&hex).ok_or("the history is not text")?;
                // A recovery target's name may be in any encoding; it is for people only.
                let text = String::from_utf8_lossy(&bytes);
                Some(History::parse(&text, self.timeline).map_err(|e| e.to_string())?)
            }
        };
        Ok(Leader {
            system_identifier: self.system_identifier,
            in_recovery: self.in_recovery,
            timeline: self.timeline,
            history,
        })
    }
}

pub(super) fn unhex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = hex.chars().map(|c| c.to_digit(16)).collect();
    digits?.chunks(2).map(|pair| u8::try_from(pair.first()? * 16 + pair.get(1)?).ok()).collect()
}

#[derive(Deserialize)]
struct RawProbe {
    server_version: u32,
    #[serde(deserialize_with = "identifier")]
    system_identifier: u64,
    postmaster_start_time: String,
    in_recovery: bool,
    timeline: u32,
    #[serde(deserialize_with = "lsn")]
    flush_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    insert_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    receive_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    replay_lsn: Option<Lsn>,
    replayed_at: Option<i64>,
    replayed_timestamp: Option<String>,
    replay_paused: bool,
    replay_waits: bool,
    wal_receiver: Option<RawReceiver>,
    wal_senders: Option<Vec<RawSender>>,
    slots: Option<Vec<RawSlot>>,
    synchronous_standby_names: String,
    checkpointer_idle: bool,
    writers: u32,
    primary_conninfo: String,
    primary_slot_name: String,
    pending_restart: Option<Vec<RawPending>>,
}

#[derive(Deserialize)]
struct RawReceiver {
    status: Option<String>,
    sender_host: Option<String>,
    sender_port: Option<u16>,
    slot_name: Option<String>,
    received_timeline: Option<u32>,
    #[serde(deserialize_with = "lsn")]
    written_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    latest_end_lsn: Option<Lsn>,
}

#[derive(Deserialize)]
struct RawSender {
    usename: Option<String>,
    application_name: Option<String>,
    client_addr: Option<String>,
    state: Option<String>,
    sync_state: Option<String>,
    sync_priority: Option<i32>,
    #[serde(deserialize_with = "lsn")]
    flush_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    write_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    replay_lsn: Option<Lsn>,
}

#[derive(Deserialize)]
struct RawSlot {
    name: String,
    kind: String,
    database: Option<String>,
    plugin: Option<String>,
    active: bool,
    #[serde(deserialize_with = "lsn")]
    restart_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    confirmed_flush_lsn: Option<Lsn>,
    catalog_xmin: Option<u32>,
}

#[derive(Deserialize)]
struct RawPending {
    name: String,
    old_value: String,
    /// `None`: no longer in any file, so the built-in value comes back.
    new_value: Option<String>,
    boot_val: Option<String>,
}

pub(super) fn lsn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

/// Above 2^53, and PostgreSQL prints it signed.
fn identifier<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<i64>().map(i64::cast_unsigned).map_err(D::Error::custom)
}

impl From<RawProbe> for Probe {
    fn from(raw: RawProbe) -> Probe {
        Probe {
            server_version: raw.server_version,
            system_identifier: raw.system_identifier,
            postmaster_start_time: raw.postmaster_start_time,
            in_recovery: raw.in_recovery,
            timeline: raw.timeline,
            flush_lsn: raw.flush_lsn,
            insert_lsn: raw.insert_lsn,
            receive_lsn: raw.receive_lsn,
            replay_lsn: raw.replay_lsn,
            replayed_at: raw.replayed_at.map(Wall),
            replayed_timestamp: raw.replayed_timestamp,
            replay_paused: raw.replay_paused,
            replay_waits: raw.replay_waits,
            wal_receiver: raw.wal_receiver.map(WalReceiver::from),
            wal_senders: raw.wal_senders.into_iter().flatten().map(WalSender::from).collect(),
            slots: raw.slots.into_iter().flatten().map(Slot::from).collect(),
            synchronous_standby_names: raw.synchronous_standby_names,
            checkpointer_idle: raw.checkpointer_idle,
            writers: raw.writers,
            primary_conninfo: raw.primary_conninfo,
            primary_slot_name: raw.primary_slot_name,
            pending_restart: raw
                .pending_restart
                .into_iter()
                .flatten()
                .map(PendingParameter::from)
                .collect(),
        }
    }
}

impl From<RawReceiver> for WalReceiver {
    fn from(raw: RawReceiver) -> WalReceiver {
        WalReceiver {
            status: raw.status.unwrap_or_default(),
            sender_host: raw.sender_host,
            sender_port: raw.sender_port,
            slot_name: raw.slot_name,
            received_timeline: raw.received_timeline.unwrap_or_default(),
            written_lsn: raw.written_lsn,
            latest_end_lsn: raw.latest_end_lsn,
        }
    }
}

impl From<RawSender> for WalSender {
    fn from(raw: RawSender) -> WalSender {
        WalSender {
            usename: raw.usename.unwrap_or_default(),
            application_name: raw.application_name.unwrap_or_default(),
            client_addr: raw.client_addr,
            state: raw.state.unwrap_or_default(),
            sync_state: raw.sync_state.unwrap_or_default(),
            sync_priority: raw.sync_priority.unwrap_or_default(),
            flush_lsn: raw.flush_lsn,
            write_lsn: raw.write_lsn,
            replay_lsn: raw.replay_lsn,
        }
    }
}

impl From<RawSlot> for Slot {
    fn from(raw: RawSlot) -> Slot {
        Slot {
            name: raw.name,
            kind: raw.kind,
            database: raw.database,
            plugin: raw.plugin,
            active: raw.active,
            restart_lsn: raw.restart_lsn,
            confirmed_flush_lsn: raw.confirmed_flush_lsn,
            catalog_xmin: raw.catalog_xmin,
        }
    }
}

impl From<RawPending> for PendingParameter {
    fn from(raw: RawPending) -> PendingParameter {
        PendingParameter {
            name: raw.name,
            old_value: raw.old_value,
            new_value: raw.new_value.or(raw.boot_val).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(timeline: u32, history: Option<&str>) -> RawLeader {
        RawLeader {
            system_identifier: 1,
            in_recovery: false,
            timeline,
            history: history.map(str::to_owned),
        }
    }

    #[test]
    fn decodes_a_leader() {
        let hex = "310930 2f333030303134380978";
        let leader = raw(2, Some(&hex.replace(' ', ""))).decode().expect("valid");
        assert_eq!(leader.history.as_ref().map(|h| h.0.len()), Some(1));
        assert_eq!(raw(3, None).decode().expect("valid").history, None);
        assert_eq!(raw(1, None).decode().expect("valid").history, Some(History::default()));
        for bad in ["3", "zz", "00"] {
            assert!(raw(2, Some(bad)).decode().is_err(), "{bad}");
        }
    }
}
