//! Whether pg_rewind can bring a data directory back into a leader's history.

use crate::core::database::{ControlData, ControlState};

/// Why pg_rewind would be refused or useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Obstacle {
    #[error("the data directory belongs to another cluster (system identifier {ours})")]
    OtherCluster { ours: u64 },
    #[error("neither wal_log_hints nor data checksums were on: pg_rewind cannot see all changes")]
    NoHintsNoChecksums,
}

/// What pg_rewind needs before it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preparation {
    Ready,
    /// The server did not stop cleanly as a primary: run `command::crash_recovery` first.
    CrashRecovery,
    /// A server in recovery was killed, or one still runs: start it as a standby without an
    /// upstream and stop it cleanly, so that the control data are those of a clean shutdown.
    CleanStop,
}

/// Judges the target of a rewind by its control data. `leader` is the leader's system identifier.
pub fn preparation(control: &ControlData, leader: u64) -> Result<Preparation, Obstacle> {
    if control.system_identifier != leader {
        return Err(Obstacle::OtherCluster { ours: control.system_identifier });
    }
    if !control.wal_log_hints && !control.data_checksums {
        return Err(Obstacle::NoHintsNoChecksums);
    }
    Ok(match control.state {
        ControlState::ShutDown | ControlState::ShutDownInRecovery => Preparation::Ready,
        ControlState::InProduction | ControlState::ShuttingDown | ControlState::InCrashRecovery => {
            Preparation::CrashRecovery
        }
        ControlState::StartingUp | ControlState::InArchiveRecovery => Preparation::CleanStop,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::lsn::Lsn;

    /// Control data of a healthy cluster in the given state.
    pub(crate) fn control(state: ControlState) -> ControlData {
        ControlData {
            system_identifier: 7,
            state,
            checkpoint_lsn: Lsn(0x300_0028),
            redo_lsn: Lsn(0x300_0028),
            timeline: 1,
            min_recovery_lsn: Lsn(0),
            min_recovery_timeline: 0,
            wal_log_hints: true,
            data_checksums: false,
            wal_segment_bytes: 16 * 1024 * 1024,
            checkpoint_time: 0,
        }
    }

    #[test]
    fn states_lead_to_preparations() {
        use ControlState as S;
        let cases = [
            (S::ShutDown, Preparation::Ready),
            (S::ShutDownInRecovery, Preparation::Ready),
            (S::InProduction, Preparation::CrashRecovery),
            (S::ShuttingDown, Preparation::CrashRecovery),
            (S::InCrashRecovery, Preparation::CrashRecovery),
            (S::InArchiveRecovery, Preparation::CleanStop),
            (S::StartingUp, Preparation::CleanStop),
        ];
        for (state, want) in cases {
            assert_eq!(preparation(&control(state), 7), Ok(want), "{state:?}");
        }
    }

    #[test]
    fn obstacles_are_named() {
        let mut data = control(ControlState::ShutDown);
        assert_eq!(preparation(&data, 8), Err(Obstacle::OtherCluster { ours: 7 }));
        data.wal_log_hints = false;
        assert_eq!(preparation(&data, 7), Err(Obstacle::NoHintsNoChecksums));
        data.data_checksums = true;
        assert_eq!(preparation(&data, 7), Ok(Preparation::Ready));
    }
}
