//! What a reset by the watchdog device leaves to explain: a durable record of when it was armed and
//! last pinged, and at the next start what it means. Written beside everything else: neither a
//! campaign nor a ping waits for it, and a disk that hangs delays nothing but the record itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::core::events;
use crate::link::state::{Device, State};
use crate::postgres::durable::{self, FileError};
use crate::sys::clock;
use crate::watchdog::record::{self, Armed, Reset};

use super::drivers::Drivers;

/// How often the record is renewed while the device is armed: the time of a reset is known to that.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// At the start: says whether the machine went down while the device was armed, as the record and
/// the device tell. With `stay_down` PostgreSQL is not started then before an operator agrees.
pub fn look(data_dir: &Path, state: &State, stay_down: bool) -> Result<Option<Reset>, FileError> {
    let Some(mut armed) = Armed::read(data_dir) else { return Ok(None) };
    let reset = armed.judge(&record::boot_id(), state.watchdog.boot_status);
    if let Some(reset) = reset {
        let message_id = events::BOOT_AFTER_RESET;
        tracing::error!(message_id, "{}", tale(&reset));
        if stay_down {
            durable::write(&record::hold(data_dir), reset.to_string().as_bytes(), None)?;
        }
        armed = Armed { armed: false, reset: Some(reset), ..armed };
        durable::write(&record::path(data_dir), armed.encode().as_bytes(), None)?;
    }
    Ok(armed.reset)
}

/// When, not how long ago: the record is of a clock that was right, and after a boot nobody may
/// have set it yet.
fn tale(reset: &Reset) -> String {
    format!("{reset}; last sign of life at {}", clock::local(reset.at))
}

/// Keeps the record while this agent lives.
pub async fn run(drivers: Arc<Drivers>) {
    let path = record::path(&drivers.setup().data_dir());
    let mut states = drivers.supervisor.states();
    let mut written = Armed { reset: drivers.last_reset.get().cloned(), ..Armed::default() };
    let mut told = Device::default();
    loop {
        let device = states.borrow_and_update().watchdog.clone();
        let armed = device.armed;
        tell(&told, &device);
        told = device;
        if armed || written.armed {
            written = next(&written, &states.borrow().clone());
            keep(path.clone(), written.encode()).await;
        }
        let changed = states.wait_for(|state| {
            state.watchdog.armed != armed || state.watchdog.trouble != told.trouble
        });
        if let Ok(Err(_)) = tokio::time::timeout(RENEW_EVERY, changed).await {
            return;
        }
    }
}

/// Says what changed.
fn tell(before: &Device, now: &Device) {
    let (identity, seconds) = (&now.identity, now.timeout.as_secs());
    if now.armed && !before.armed {
        let message_id = events::WATCHDOG_ARMED;
        match seconds {
            0 => tracing::info!(message_id, "the watchdog device counts on: {identity}"),
            _ => tracing::info!(message_id, "the watchdog device counts: {identity}, {seconds} s"),
        }
    } else if before.armed && !now.armed {
        let message_id = events::WATCHDOG_STOPPED;
        tracing::info!(message_id, "the watchdog device is stopped: {identity}");
    }
    if now.trouble != before.trouble && !now.trouble.is_empty() {
        let message_id = events::WATCHDOG_TROUBLE;
        tracing::warn!(message_id, "watchdog device: {}", now.trouble);
    }
}

fn next(before: &Armed, state: &State) -> Armed {
    let (device, now) = (&state.watchdog, clock::wall());
    Armed {
        boot: record::boot_id(),
        identity: device.identity.clone(),
        timeout_s: device.timeout.as_secs(),
        armed_at: if before.armed { before.armed_at } else { now },
        seen_at: now,
        armed: device.armed,
        reset: before.reset.clone(),
    }
}

async fn keep(path: PathBuf, text: String) {
    let write = tokio::task::spawn_blocking(move || durable::write(&path, text.as_bytes(), None));
    match write.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!("the record of the watchdog device: {error}"),
        Err(error) => tracing::warn!("the record of the watchdog device: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Wall;
    use crate::link::state::Device;
    use crate::sys::watchdog::CARD_RESET;
    use crate::watchdog::record::By;

    #[test]
    fn a_start_after_a_reset_says_so_once_and_remembers_it() {
        let root = tempfile::tempdir().unwrap();
        let data_dir = root.path().join("main");
        let watchdog = Device {
            identity: "i6300ESB timer".into(),
            armed: true,
            boot_status: Some(CARD_RESET),
            ..Device::default()
        };
        let state = State { watchdog, ..State::default() };
        assert_eq!(look(&data_dir, &state, true).unwrap(), None);
        let armed = next(&Armed::default(), &state);
        assert!(armed.armed && armed.seen_at >= armed.armed_at && armed.armed_at > Wall(0));
        durable::write(&record::path(&data_dir), armed.encode().as_bytes(), None).unwrap();
        assert_eq!(look(&data_dir, &state, true).unwrap(), None, "the same boot");
        let earlier = Armed { boot: "another".into(), ..armed };
        durable::write(&record::path(&data_dir), earlier.encode().as_bytes(), None).unwrap();
        let reset = look(&data_dir, &state, false).unwrap().unwrap();
        assert_eq!((reset.by, reset.at), (By::Device, earlier.seen_at));
        // By a clock that is behind: the boot was slow, and nobody has set it yet.
        let ahead = Reset { at: Wall(clock::wall().0 + 86_400_000_000), ..reset.clone() };
        assert!(tale(&ahead).ends_with(&clock::local(ahead.at)), "{}", tale(&ahead));
        assert!(!record::hold(&data_dir).exists());
        // It is told of from here on, and not found again.
        assert_eq!(look(&data_dir, &state, true).unwrap(), Some(reset.clone()));
        assert!(!record::hold(&data_dir).exists());
        let again = Armed { armed: true, ..Armed::read(&data_dir).unwrap() };
        durable::write(&record::path(&data_dir), again.encode().as_bytes(), None).unwrap();
        assert!(look(&data_dir, &state, true).unwrap().is_some());
        assert!(record::hold(&data_dir).exists(), "an operator is to look first");
    }
}
