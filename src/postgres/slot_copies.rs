//! A logical slot's state as the leader keeps it on disk, and into a standby's data directory: what
//! PostgreSQL itself does when it creates a slot (slot.c), while no server runs there.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::durable::{self, FileError, at};
use super::probe::{lsn, unhex};
use super::session::{Session, SessionError, literal};
use crate::core::lsn::Lsn;
use crate::core::slots::is_valid;

/// Of slot.c: it stands first, in the byte order of the machine.
const MAGIC: u32 = 0x0105_1CA1;
/// Magic number, checksum, version and the length of what follows.
const HEAD_BYTES: usize = 16;
/// A state has some 200 bytes.
const STATE_BYTES_MAX: u32 = 65_536;

/// A logical slot of the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderSlot {
    pub name: String,
    pub catalog_xmin: Option<u32>,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Option<Lsn>,
    /// The WAL that it needs is not older than the leader's last checkpoint.
    pub recent: bool,
    /// If it was asked for.
    pub state: Option<Vec<u8>>,
}

/// What a leader says of its logical slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderAnswer {
    /// It keeps catalog rows for who has the physical slot that was named.
    pub keeps: bool,
    pub slots: Vec<LeaderSlot>,
}

#[derive(Deserialize)]
struct RawAnswer {
    keeps: bool,
    slots: Option<Vec<RawSlot>>,
}

#[derive(Deserialize)]
struct RawSlot {
    name: String,
    catalog_xmin: Option<u32>,
    #[serde(deserialize_with = "lsn")]
    restart_lsn: Option<Lsn>,
    #[serde(deserialize_with = "lsn")]
    confirmed_flush_lsn: Option<Lsn>,
    recent: Option<bool>,
    state: Option<String>,
}

impl Session {
    /// The leader's logical slots of these names, with the state of those to be copied; as rewind
    /// role or superuser. Refused by a server in recovery.
    pub async fn logical_slots(
        &mut self,
        own: &str,
        copy: &[String],
        others: &[String],
        within: Duration,
    ) -> Result<LeaderAnswer, SessionError> {
        let doing = "ask for logical slots";
        let list = |names: &[String]| {
            let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
            format!("ARRAY[{}]::name[]", names.join(", "))
        };
        // PostgreSQL copies these itself.
        let except = if self.major() >= 17 { "AND NOT failover" } else { "" };
        let sql = format!(
            "SELECT row_to_json(answer) FROM (SELECT
  coalesce((SELECT catalog_xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = {own}),
    false) AS keeps,
  (SELECT json_agg(s) FROM (SELECT slot_name AS name, catalog_xmin::text::bigint AS catalog_xmin,
    restart_lsn, confirmed_flush_lsn,
    pg_walfile_name(restart_lsn) >= pg_walfile_name(c.redo_lsn) AS recent,
    CASE WHEN slot_name = ANY ({copy}) THEN encode(pg_read_binary_file('pg_replslot/' ||
      slot_name || '/state', 0, {STATE_BYTES_MAX}, true), 'hex') END AS state
    FROM pg_replication_slots, pg_control_checkpoint() c
    WHERE slot_type = 'logical' AND NOT temporary {except}
      AND slot_name = ANY ({copy} || {others})) s) AS slots) answer",
            own = literal(own),
            copy = list(copy),
            others = list(others),
        );
        let text = self.run(doing, &sql, within).await?.unwrap_or_default();
        let raw: RawAnswer = serde_json::from_str(&text).map_err(|e| self.unexpected(doing, e))?;
        let slots = raw.slots.into_iter().flatten().map(|slot| LeaderSlot {
            name: slot.name,
            catalog_xmin: slot.catalog_xmin,
            restart_lsn: slot.restart_lsn,
            confirmed_flush_lsn: slot.confirmed_flush_lsn,
            recent: slot.recent == Some(true),
            state: slot.state.and_then(|hex| unhex(&hex)).filter(|state| is_state(state)),
        });
        Ok(LeaderAnswer { keeps: raw.keeps, slots: slots.collect() })
    }
}

/// Whole, and a slot's: a server does not start with anything else under that name.
fn is_state(bytes: &[u8]) -> bool {
    let word = |at: usize| {
        let four = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        four.map(u32::from_ne_bytes)
    };
    let length = word(12).and_then(|length| usize::try_from(length).ok());
    word(0) == Some(MAGIC) && length.is_some_and(|length| HEAD_BYTES + length == bytes.len())
}

/// Puts a copy where the next start finds it; whether that was done. It is not if there is a slot
/// of that name, or if the WAL that it needs is gone: a consumer would be refused later.
pub fn install(
    data_dir: &Path,
    name: &str,
    state: &[u8],
    needs: Lsn,
    wal_segment_bytes: u32,
) -> Result<bool, FileError> {
    let slots = data_dir.join("pg_replslot");
    let place = slots.join(name);
    if !is_valid(name) || place.exists() || !has_wal(data_dir, needs, wal_segment_bytes) {
        return Ok(false);
    }
    // PostgreSQL removes what it finds under such a name.
    let new = slots.join(format!("{name}.tmp"));
    if new.exists() {
        fs::remove_dir_all(&new).map_err(at("remove", &new))?;
    }
    fs::DirBuilder::new().mode(0o700).create(&new).map_err(at("create", &new))?;
    durable::write(&new.join("state"), state, Some(0o600))?;
    fs::rename(&new, &place).map_err(at("rename", &new))?;
    durable::sync_parent(&place)?;
    Ok(true)
}

/// Whether the segment with this position is there, of whatever timeline.
fn has_wal(data_dir: &Path, position: Lsn, wal_segment_bytes: u32) -> bool {
    let bytes = u64::from(wal_segment_bytes.max(1));
    let name = format!("{:08X}{:08X}", position.0 >> 32, (position.0 & 0xFFFF_FFFF) / bytes);
    let mut files = fs::read_dir(data_dir.join("pg_wal")).into_iter().flatten().flatten();
    files.any(|file| {
        let file = file.file_name();
        file.len() == 24 && file.to_str().is_some_and(|file| file.ends_with(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(length: u32) -> Vec<u8> {
        let words = [MAGIC, 1, 3, length];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend([7; 20]);
        bytes
    }

    #[test]
    fn only_a_whole_state_is_one() {
        assert!(is_state(&state(20)));
        assert!(!is_state(&state(19)) && !is_state(&state(u32::MAX)));
        assert!(!is_state(&[]) && !is_state(&[0; 36]) && !is_state(&state(20)[..12]));
    }

    #[test]
    fn a_copy_needs_its_wal_and_replaces_nothing() {
        const SEGMENT: u32 = 16 << 20;
        let root = tempfile::tempdir().expect("folder");
        let dir = root.path();
        for folder in ["pg_wal", "pg_replslot", "pg_replslot/s.tmp"] {
            fs::create_dir(dir.join(folder)).expect("a folder");
        }
        let needs = Lsn(0x1_0500_0028);
        assert!(!install(dir, "s", &state(20), needs, SEGMENT).expect("no WAL"));
        fs::write(dir.join("pg_wal/000000020000000100000005"), "").expect("WAL");
        assert!(!install(dir, "../s", &state(20), needs, SEGMENT).expect("no name"));
        assert!(install(dir, "s", &state(20), needs, SEGMENT).expect("installed"));
        assert!(!install(dir, "s", &state(20), needs, SEGMENT).expect("there already"));
        assert_eq!(fs::read(dir.join("pg_replslot/s/state")).expect("a state"), state(20));
        assert!(!dir.join("pg_replslot/s.tmp").exists());
    }
}
