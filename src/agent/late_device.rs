//! A watchdog device that was not there when this member began to lead, or not ours to open (udev
//! late, a module loaded later), is taken into use when it is. A member that does not lead needs
//! none: each campaign looks for one.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use crate::core::guard::Phase;
use crate::link::order::Order;
use crate::watchdog::discover;
use crate::watchdog::held::Options;

use super::drivers::{self, Drivers};

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A node, and when its owner, group or mode changed last.
type Node = (PathBuf, i64);

pub async fn run(drivers: Arc<Drivers>) {
    let mut tried: Option<Node> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let state = drivers.supervisor.state();
        if state.phase != Phase::Leading || !state.watchdog.node.is_empty() {
            continue;
        }
        let Some(options) = drivers::device(&drivers.setup().local) else { continue };
        let Ok(node) = tokio::task::spawn_blocking(move || openable(&options)).await else {
            continue;
        };
        if node.is_none() || node == tried {
            continue;
        }
        tried = node;
        // To a leader this order says: look for the device, and arm it.
        match drivers.supervisor.order(Order::Campaign).await {
            Ok(_) => tracing::info!("a watchdog device has appeared"),
            Err(error) => tracing::warn!("a watchdog device has appeared: {error}"),
        }
    }
}

/// The device that is asked for, if we may open it.
fn openable(options: &Options) -> Option<Node> {
    let node = match options.testing {
        true => options.choice.device.clone()?,
        false => discover::choose(&options.choice, &discover::list()).ok()?.node,
    };
    let changed_at = node.metadata().ok()?.ctime();
    access(&node, AccessFlags::W_OK).ok()?;
    Some((node, changed_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watchdog::discover::Choice;

    #[test]
    fn a_node_is_there_once_it_can_be_opened() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("watchdog");
        let choice = Choice { device: Some(device.clone()), identity: None };
        let options = Options { choice, testing: true };
        assert_eq!(openable(&options), None);
        std::fs::write(&device, "").unwrap();
        assert_eq!(openable(&options).unwrap().0, device);
        assert_eq!(openable(&Options { testing: true, ..Options::default() }), None);
    }
}
