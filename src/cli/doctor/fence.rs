//! The times of the fence: the lease's, and the watchdog device's, as sysfs shows it.

use std::path::PathBuf;

use crate::config::{Effective, Local, WatchdogMode};
use crate::core::budget::{Budget, ELECTION, Wish};
use crate::watchdog::discover::{self, Choice, Found};
use crate::watchdog::record;

use super::Check;
use super::member::Known;

const LEASE: &str = "lease";
const WATCHDOG: &str = "watchdog";

pub fn checks(known: &Known) -> Vec<Check> {
    let (Some(local), Some(effective)) = (&known.local, &known.effective) else {
        return Vec::new();
    };
    let (ttl, rho_ppm) = (effective.settings.ttl, effective.rho_ppm);
    let plain = match Budget::new(ttl, rho_ppm) {
        Ok(plain) => plain,
        Err(error) => {
            return vec![Check::bad(LEASE, error.to_string(), "raise ttl, or lower vigil.rho")];
        }
    };
    let (budget, device) = watchdog(known, local, effective);
    vec![lease(&budget.unwrap_or(plain)), device]
}

fn lease(budget: &Budget) -> Check {
    let what = format!(
        "ttl {} s: frozen after {:.1} s without confirmation, renewed every {:.1} s, nobody else \
         leads before {:.1} s",
        budget.ttl.as_secs(),
        budget.t1.as_secs_f32(),
        budget.k.as_secs_f32(),
        budget.exclusive.as_secs_f32()
    );
    Check::good(LEASE, what)
}

/// The budget with the device that would be chosen, if there is one that fits.
fn watchdog(known: &Known, local: &Local, effective: &Effective) -> (Option<Budget>, Check) {
    let mode = local.watchdog.mode;
    if mode == WatchdogMode::Off {
        return (None, Check::good(WATCHDOG, "switched off (watchdog.mode: off)"));
    }
    let unprotected = |what: String| {
        let advice = "without a device a server whose kernel hangs is fenced by nothing: load a \
                      driver (hardware, or softdog), and let the service open the device (udev)";
        match mode {
            WatchdogMode::Required => Check::bad(WATCHDOG, what, advice),
            WatchdogMode::Automatic | WatchdogMode::Off => Check::warning(WATCHDOG, what, advice),
        }
    };
    let (wish, timing) = (&local.vigil.watchdog, local.watchdog.safety_margin_s);
    let device = local.watchdog.device.as_ref().map(PathBuf::from);
    let choice = Choice { device, identity: wish.identity.clone() };
    let found = match discover::choose(&choice, &discover::list()) {
        Ok(found) => found,
        Err(why) => return (None, unprotected(why)),
    };
    let (times, measured) = record::timing(&found.identity, found.min_s, found.max_s);
    let wish = Wish {
        grade: wish.grade,
        margin_s: timing,
        election: wish.election_timeout.unwrap_or(ELECTION),
        // As under systemd, which keeps a duplicate.
        kept: true,
    };
    match Budget::watched(effective.settings.ttl, effective.rho_ppm, &times, &wish) {
        Ok(budget) => (Some(budget), counted(known, &found, measured, &budget)),
        Err(error) => (None, unprotected(format!("{}: {error}", described(&found)))),
    }
}

fn counted(known: &Known, found: &Found, measured: bool, budget: &Budget) -> Check {
    let watch = budget.watch.unwrap_or_default();
    let what = format!(
        "{}: set to {} s, resets at the latest {:.1} s after a ping ({}), grade {}",
        described(found),
        watch.set.as_secs(),
        watch.reset.as_secs_f32(),
        if measured { "as measured here" } else { "as its driver is known" },
        budget.grade().map_or_else(|| "?".to_owned(), |grade| format!("{grade:?}"))
    );
    // The member's own, while it leads; else a stranger's.
    if found.active == Some(true) && known.answer.is_none() {
        let advice = "somebody else holds it (systemd's RuntimeWatchdogSec, another program): give \
                      one of the two another device";
        return Check::warning(WATCHDOG, format!("{what}; it is in use"), advice);
    }
    Check::good(WATCHDOG, what)
}

fn described(found: &Found) -> String {
    let nowayout = if found.nowayout { ", nowayout" } else { "" };
    let identity = match found.identity.as_str() {
        "" => "legacy driver",
        identity => identity,
    };
    format!("{} ({identity}{nowayout})", found.node.display())
}
