//! `global/pg_control`, read without PostgreSQL's tools.
//!
//! The layout is `ControlFileData` of `catalog/pg_control.h`. On 64-bit machines all fields that
//! we need have stood at the same offsets since PostgreSQL 13; only the checksum at the end has
//! moved (18 has one more flag before it). Numbers are in the machine's own byte order.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::database::{ControlData, ControlState};
use crate::core::lsn::Lsn;

/// A running server rewrites the file in place: a read may see half of a write. Such a read is
/// repeated, as PostgreSQL's own tools do.
const ATTEMPTS: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(10);

/// Size of the part that holds data, without the checksum, by `pg_control_version`.
fn data_len(version: u32) -> Option<usize> {
    match version {
        1300 | 1700 => Some(288),
        1800 => Some(292),
        _ => None,
    }
}

/// Why the control data could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Content { path: PathBuf, source: ContentError },
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    #[error("too short for control data ({0} bytes): damaged, or a backup that was not finished")]
    Short(usize),
    #[error("control data version {0} is not known (PostgreSQL 13 to 18 on this machine type)")]
    Version(u32),
    #[error("checksum does not match: damaged control data")]
    Checksum,
    #[error("unknown cluster state {0}")]
    State(u32),
}

/// Reads and checks the control data of a data directory. Blocks (a small file, and at most
/// 50 ms for repeated reads).
pub fn read(data_dir: &Path) -> Result<ControlData, ControlError> {
    let path = data_dir.join("global").join("pg_control");
    let mut attempt = 1;
    loop {
        let mut bytes = Vec::with_capacity(512);
        File::open(&path)
            .and_then(|file| file.take(512).read_to_end(&mut bytes))
            .map_err(|source| ControlError::Read { path: path.clone(), source })?;
        match parse(&bytes) {
            Err(ContentError::Checksum) if attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(ATTEMPT_PAUSE);
            }
            result => return result.map_err(|source| ControlError::Content { path, source }),
        }
    }
}

/// Interprets the first bytes of pg_control (512 are enough); never panics.
pub fn parse(bytes: &[u8]) -> Result<ControlData, ContentError> {
    let short = ContentError::Short(bytes.len());
    let version = word(bytes, 8).ok_or(short)?;
    let len = data_len(version).ok_or(ContentError::Version(version))?;
    let checksum = word(bytes, len).ok_or(short)?;
    let data = bytes.get(..len).ok_or(short)?;
    if crc32c(data) != checksum {
        return Err(ContentError::Checksum);
    }
    let u32_at = |offset| word(data, offset).ok_or(short);
    let u64_at = |offset| long(data, offset).ok_or(short);
    Ok(ControlData {
        system_identifier: u64_at(0)?,
        state: state(u32_at(16)?)?,
        checkpoint_lsn: Lsn(u64_at(32)?),
        redo_lsn: Lsn(u64_at(40)?),
        timeline: u32_at(48)?,
        checkpoint_time: u64_at(104)?.cast_signed(),
        min_recovery_lsn: Lsn(u64_at(136)?),
        min_recovery_timeline: u32_at(144)?,
        wal_log_hints: data.get(176).copied().ok_or(short)? != 0,
        wal_segment_bytes: u32_at(228)?,
        data_checksums: u32_at(252)? != 0,
    })
}

fn state(number: u32) -> Result<ControlState, ContentError> {
    Ok(match number {
        0 => ControlState::StartingUp,
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        3 => ControlState::ShuttingDown,
        4 => ControlState::InCrashRecovery,
        5 => ControlState::InArchiveRecovery,
        6 => ControlState::InProduction,
        other => return Err(ContentError::State(other)),
    })
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let part = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(part.try_into().ok()?))
}

fn long(bytes: &[u8], offset: usize) -> Option<u64> {
    let part = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_ne_bytes(part.try_into().ok()?))
}

/// CRC-32C (Castagnoli), bit by bit: the input is 300 bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control data as a server of that version writes it, with the fields that we read.
    fn sample(version: u32) -> Vec<u8> {
        let len = data_len(version).unwrap_or(288);
        let mut bytes = vec![0; 512];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, &7_710_603_412_123_716_393_u64.to_ne_bytes());
        put(8, &version.to_ne_bytes());
        put(16, &6_u32.to_ne_bytes());
        put(32, &0x150_0718_u64.to_ne_bytes());
        put(40, &0x150_0700_u64.to_ne_bytes());
        put(48, &3_u32.to_ne_bytes());
        put(104, &1_795_000_000_u64.to_ne_bytes());
        put(136, &0x9000_u64.to_ne_bytes());
        put(144, &2_u32.to_ne_bytes());
        put(176, &[1]);
        put(228, &16_777_216_u32.to_ne_bytes());
        put(252, &1_u32.to_ne_bytes());
        let crc = crc32c(&bytes[..len]);
        bytes[len..len + 4].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    #[test]
    fn checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn reads_every_known_version() {
        for version in [1300, 1700, 1800] {
            let data = parse(&sample(version)).expect("valid");
            assert_eq!(data.system_identifier, 7_710_603_412_123_716_393);
            assert_eq!(data.state, ControlState::InProduction);
            assert_eq!(data.checkpoint_lsn, Lsn(0x150_0718));
            assert_eq!(data.redo_lsn, Lsn(0x150_0700));
            assert_eq!((data.timeline, data.min_recovery_timeline), (3, 2));
            assert_eq!(data.min_recovery_lsn, Lsn(0x9000));
            assert!(data.wal_log_hints && data.data_checksums);
            assert_eq!(data.wal_segment_bytes, 16_777_216);
            assert_eq!(data.checkpoint_time, 1_795_000_000);
        }
    }

    #[test]
    fn refuses_damage_without_panic() {
        assert_eq!(parse(&sample(1200)), Err(ContentError::Version(1200)));
        let good = sample(1800);
        for len in 0..296 {
            assert!(parse(&good[..len]).is_err(), "{len}");
        }
        for at in (0..288).filter(|at| !(8..12).contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert_eq!(parse(&bad), Err(ContentError::Checksum), "{at}");
        }
    }
}
