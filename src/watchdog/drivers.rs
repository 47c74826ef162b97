//! How the drivers of watchdog devices keep time, as far as known; by identity, because numbers
//! follow the order of loading and a driver's name is not always to be seen.

use std::time::Duration;

use crate::core::budget::Device;

/// A driver as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Name of the kernel module; empty: not known.
    pub module: &'static str,
    /// How its identity begins.
    identity: &'static str,
    /// Lower is better: hardware outlives the kernel.
    pub rank: u8,
    min_s: u32,
    max_s: u32,
    factor_ppm: u32,
    late_ms: u32,
    early_ms: u32,
}

const EXACT: u32 = 1_010_000;
const DOUBLE: u32 = 2_000_000;

const fn driver(module: &'static str, identity: &'static str, rank: u8) -> Driver {
    Driver {
        module,
        identity,
        rank,
        min_s: 1,
        max_s: 65_535,
        factor_ppm: EXACT,
        late_ms: 0,
        early_ms: 0,
    }
}

/// A device of which nothing is known may take twice its time, and tick in seconds.
const UNKNOWN: Driver = Driver { factor_ppm: DOUBLE, early_ms: 1000, ..driver("", "", 1) };

/// Factors and ticks: measured on Linux 6.1 under QEMU for softdog, i6300esb, iTCO_wdt, ib700wdt
/// and ipmi_watchdog (a simulated BMC); the others by their sources.
const DRIVERS: &[Driver] = &[
    driver("i6300esb", "i6300ESB", 0),
    // 128 ms ticks, rounded down.
    Driver { early_ms: 128, ..driver("hpwdt", "HP", 0) },
    Driver { early_ms: 1000, ..driver("sp5100_tco", "SP5100", 0) },
    // The first expiry may only set a status bit: measured 6.0 s for 3 s. Ticks of 0.6 s.
    Driver {
        min_s: 3,
        max_s: 614,
        factor_ppm: DOUBLE,
        early_ms: 600,
        ..driver("iTCO_wdt", "iTCO_wdt", 0)
    },
    // The same chips behind a firmware table.
    Driver { factor_ppm: DOUBLE, early_ms: 1000, ..driver("wdat_wdt", "wdat_wdt", 0) },
    // A second for the BMC's answer.
    Driver { late_ms: 1000, ..driver("ipmi_watchdog", "IPMI", 0) },
    Driver { max_s: 30, early_ms: 2000, ..driver("ib700wdt", "IB700", 0) },
    driver("xen_wdt", "Xen Guest Watchdog", 1),
    // A timer of the kernel, as blind as the kernel: last choice.
    driver("softdog", "Software Watchdog", 2),
    driver("testing", "Watchdog test harness", 3),
];

/// What is known of the driver with this identity.
pub fn of(identity: &str) -> Driver {
    let known = DRIVERS.iter().find(|driver| identity.starts_with(driver.identity));
    known.copied().unwrap_or(UNKNOWN)
}

impl Driver {
    /// Within the limits that the driver itself tells (0: it tells none). `factor_ppm`: measured
    /// on this machine.
    pub fn timing(&self, min_s: u32, max_s: u32, factor_ppm: Option<u32>) -> Device {
        let max_s = if max_s == 0 { self.max_s } else { self.max_s.min(max_s) };
        Device {
            min_s: self.min_s.max(min_s),
            max_s,
            factor_ppm: factor_ppm.unwrap_or(self.factor_ppm),
            late: Duration::from_millis(self.late_ms.into()),
            early: Duration::from_millis(self.early_ms.into()),
        }
    }

    /// It says after a boot whether the reset before it was its doing.
    pub fn tells(&self) -> bool {
        matches!(self.module, "i6300esb" | "sp5100_tco")
    }

    /// Its timer lives on the processor of the thread that pings, and dies with it.
    pub fn is_software(&self) -> bool {
        self.module == "softdog"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_known_by_its_identity() {
        for (identity, module, factor) in [
            ("i6300ESB timer", "i6300esb", EXACT),
            ("Software Watchdog", "softdog", EXACT),
            ("HPE iLO2+ HW Watchdog Timer", "hpwdt", EXACT),
            ("iTCO_wdt", "iTCO_wdt", DOUBLE),
            ("something new", "", DOUBLE),
            ("", "", DOUBLE),
        ] {
            let driver = of(identity);
            assert_eq!((driver.module, driver.factor_ppm), (module, factor), "{identity}");
        }
        assert_eq!(of("iTCO_wdt").timing(0, 0, Some(EXACT)).factor_ppm, EXACT);
        let limits = of("i6300ESB timer").timing(2, 2046, None);
        assert_eq!((limits.min_s, limits.max_s), (2, 2046));
    }
}
