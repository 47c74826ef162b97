//! The fence and the health in numbers: metrics of our own, behind Patroni's.

use std::fmt::Write;
use std::time::Duration;

use crate::core::health::{self, Health, Place};
use crate::core::time::{Boot, Wall};

/// What the supervisor counts and the renewals show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// The watchdog device counts.
    pub armed: bool,
    pub pings: u32,
    pub withheld: u32,
    pub failed: u32,
    /// When the renewal was sent that is the newest evidence of the lease.
    pub evidence_at: Option<Boot>,
    /// The least that was left of the device's timeout when a ping came.
    pub margin_min: Option<Duration>,
    /// How much later than planned renewals are sent: p50, p99, maximum.
    pub lateness: Option<[Duration; 3]>,
    pub freezes: u32,
    pub thaws: u32,
    pub kills: u32,
    /// What reset the machine while it was primary, the last time, and when.
    pub last_reset: Option<(&'static str, Wall)>,
    pub health: Health,
    /// What is free on the volumes that are known, in bytes.
    pub free: Vec<(Place, u64)>,
}

/// As a label says it.
fn word(place: Place) -> &'static str {
    match place {
        Place::DataDirectory => "data",
        Place::Wal => "wal",
    }
}

/// In the text format of Prometheus. `labels`: `scope="…",name="…"`.
pub fn metrics(fence: &Fence, labels: &str, now: Boot) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
        if !values.is_empty() {
            let head = format!("# HELP pgvigil_{name} {help}\n# TYPE pgvigil_{name} {kind}\n");
            out.push_str(&head);
        }
        for (extra, value) in values {
            writeln!(out, "pgvigil_{name}{{{labels}{extra}}} {value}")
                .expect("invariant: writing to a string does not fail");
        }
    };
    let armed = f64::from(u8::from(fence.armed));
    metric("watchdog_armed", "gauge", "1 if the watchdog device counts.", &[("", armed)]);
    for (name, help, value) in [
        ("watchdog_pings_total", "Pings of the watchdog device.", fence.pings),
        (
            "watchdog_withheld_total",
            "Confirmations that gave no ping: too old, or sent before the last ping returned.",
            fence.withheld,
        ),
        ("watchdog_failed_total", "Pings that the driver refused.", fence.failed),
        ("freezes_total", "Freezes of PostgreSQL.", fence.freezes),
        ("thaws_total", "Thaws of PostgreSQL.", fence.thaws),
        ("kills_total", "Kills of PostgreSQL by the fence.", fence.kills),
    ] {
        metric(name, "counter", help, &[("", value.into())]);
    }
    let seconds = |d: Duration| d.as_secs_f64();
    let age: Vec<_> = fence.evidence_at.iter().map(|at| ("", seconds(now.since(*at)))).collect();
    let help = "Age of the newest evidence of the leader lease.";
    metric("evidence_age_seconds", "gauge", help, &age);
    let margin: Vec<_> = fence.margin_min.iter().map(|d| ("", seconds(*d))).collect();
    let help = "The least that was left of the device's timeout when a ping came.";
    metric("watchdog_margin_min_seconds", "gauge", help, &margin);
    let quantiles = [",quantile=\"0.5\"", ",quantile=\"0.99\"", ",quantile=\"1\""];
    let late: Vec<_> =
        fence.lateness.iter().flat_map(|all| quantiles.into_iter().zip(all.map(seconds))).collect();
    let help = "How much later than planned renewals of the leader lease are sent.";
    metric("renewal_lateness_seconds", "summary", help, &late);
    bears_up(fence, &mut metric);
    if let Some((by, at)) = fence.last_reset {
        let label = format!(",by=\"{by}\"");
        let help = "When the machine last went down while the device was armed, and by what.";
        let at = [(label.as_str(), at.0 as f64 / 1e6)];
        metric("last_reset_timestamp_seconds", "gauge", help, &at);
    }
    out
}

/// How the server and its volumes bear up.
fn bears_up(fence: &Fence, metric: &mut impl FnMut(&str, &str, &str, &[(&str, f64)])) {
    let seconds = |d: Duration| d.as_secs_f64();
    let fit = f64::from(u8::from(health::fit(&fence.health)));
    metric("fit", "gauge", "1 if this member could do a leader's work.", &[("", fit)]);
    for (name, help, lasting) in [
        (
            "unanswered_seconds",
            "For how long PostgreSQL has not answered a new connection.",
            fence.health.unanswered,
        ),
        (
            "unwritten_seconds",
            "For how long a small transaction has not reached the disk.",
            fence.health.unwritten,
        ),
    ] {
        metric(name, "gauge", help, &[("", seconds(lasting))]);
    }
    let label = |place: Place| format!(",place=\"{}\"", word(place));
    let ailing: Vec<_> =
        fence.health.volume.iter().map(|a| (label(a.place), seconds(a.lasting))).collect();
    let ailing: Vec<_> = ailing.iter().map(|(label, value)| (label.as_str(), *value)).collect();
    let help = "For how long the volume that is worst off has been full, read-only or hanging.";
    metric("volume_ailing_seconds", "gauge", help, &ailing);
    let free: Vec<_> = fence.free.iter().map(|(p, bytes)| (label(*p), *bytes as f64)).collect();
    let free: Vec<_> = free.iter().map(|(label, value)| (label.as_str(), *value)).collect();
    metric("volume_free_bytes", "gauge", "What is free where PostgreSQL writes.", &free);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::health::{Ailing, Illness};

    #[test]
    fn what_is_not_known_is_not_told() {
        let page = metrics(&Fence::default(), "scope=\"a\"", Boot(0));
        assert!(page.contains("pgvigil_watchdog_armed{scope=\"a\"} 0\n"), "{page}");
        assert!(
            page.contains("pgvigil_fit{scope=\"a\"} 1\n") && !page.contains("volume"),
            "{page}"
        );
        assert!(!page.contains("_age_") && !page.contains("quantile") && !page.contains("reset"));
        let ms = Duration::from_millis;
        let fence = Fence {
            armed: true,
            pings: 7,
            evidence_at: Some(Boot(1_000_000_000)),
            margin_min: Some(ms(2500)),
            lateness: Some([ms(1), ms(20), ms(300)]),
            last_reset: Some(("watchdog", Wall(1_500_000))),
            health: Health {
                unanswered: ms(4500),
                volume: Some(Ailing {
                    place: Place::Wal,
                    illness: Illness::Full,
                    lasting: ms(1500),
                }),
                ..Health::default()
            },
            free: vec![(Place::DataDirectory, 1 << 20), (Place::Wal, 0)],
            ..Fence::default()
        };
        let page = metrics(&fence, "scope=\"a\"", Boot(3_500_000_000));
        for line in [
            "pgvigil_watchdog_pings_total{scope=\"a\"} 7",
            "pgvigil_evidence_age_seconds{scope=\"a\"} 2.5",
            "pgvigil_watchdog_margin_min_seconds{scope=\"a\"} 2.5",
            "pgvigil_renewal_lateness_seconds{scope=\"a\",quantile=\"0.99\"} 0.02",
            "pgvigil_fit{scope=\"a\"} 0",
            "pgvigil_unanswered_seconds{scope=\"a\"} 4.5",
            "pgvigil_unwritten_seconds{scope=\"a\"} 0",
            "pgvigil_volume_ailing_seconds{scope=\"a\",place=\"wal\"} 1.5",
            "pgvigil_volume_free_bytes{scope=\"a\",place=\"data\"} 1048576",
            "pgvigil_volume_free_bytes{scope=\"a\",place=\"wal\"} 0",
            "pgvigil_last_reset_timestamp_seconds{scope=\"a\",by=\"watchdog\"} 1.5",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} not in\n{page}");
        }
    }
}
