//! What must outlive a reset: that the device was armed, so that the next start can say whether the
//! machine was fenced; and how long the device really takes.
//!
//! Both are lines of text, `key value`. Whoever writes them makes them durable.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::drivers;
use crate::core::budget::Device;
use crate::core::database::beside;
use crate::core::time::{Boot, Wall};
use crate::sys::watchdog::CARD_RESET;

/// Longest file that is read.
const MAX_BYTES: u64 = 16 * 1024;
/// Where calibrations of this machine's devices are kept.
pub const CALIBRATION: &str = "/var/lib/pgvigil/watchdog-calibration";
/// No driver of docs/FENCING.md fires earlier: sp5100_tco takes up to 1 s off the 10 s of a
/// calibration.
const DEVICE_AT_LEAST_PPM: u64 = 850_000;

/// Written when the device is armed, renewed while it is, and when it is disarmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    /// /proc/sys/kernel/random/boot_id.
    pub boot: String,
    pub identity: String,
    /// Seconds.
    pub timeout_s: u64,
    pub armed_at: Wall,
    /// The last time that it was seen to be pinged.
    pub seen_at: Wall,
    pub armed: bool,
    /// The last reset that was found out about.
    pub reset: Option<Reset>,
}

/// The machine went down while the device was armed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reset {
    /// The last sign of life before it.
    pub at: Wall,
    pub identity: String,
    pub by: By,
}

/// What is known of the cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The device says so.
    Device,
    /// The device tells such things, and says that it was not it.
    Other,
    /// Its driver never tells.
    #[default]
    Unknown,
}

impl By {
    pub fn word(self) -> &'static str {
        match self {
            By::Device => "watchdog",
            By::Other => "other",
            By::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self.by {
            By::Device => "the watchdog device reset this machine while it was primary",
            By::Other => {
                "this machine went down while it was primary; the watchdog device says that it \
                 was not its doing (a crash, a loss of power, a reset by hand)"
            }
            By::Unknown => {
                "this machine went down while it was primary and the watchdog device was armed; \
                 its driver does not tell whether it was its doing"
            }
        };
        write!(f, "{text} (device: {})", self.identity)
    }
}

/// Beside the data directory, because that one comes and goes.
pub fn path(data_dir: &Path) -> PathBuf {
    beside(data_dir, "watchdog")
}

/// There from a reset until an operator removes it, if `stay_down` is configured.
pub fn hold(data_dir: &Path) -> PathBuf {
    beside(data_dir, "stay-down")
}

/// Which boot this is.
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl Armed {
    pub fn encode(&self) -> String {
        let mut text = format!(
            "boot {}\nidentity {}\ntimeout_s {}\narmed_at {}\nseen_at {}\narmed {}\n",
            self.boot,
            self.identity,
            self.timeout_s,
            self.armed_at.0,
            self.seen_at.0,
            u8::from(self.armed)
        );
        if let Some(reset) = &self.reset {
            text += &format!("reset_at {}\nreset_by {}\n", reset.at.0, reset.by.word());
            text += &format!("reset_identity {}\n", reset.identity);
        }
        text
    }

    /// Unknown keys are ignored, missing ones empty: it only explains.
    pub fn decode(text: &str) -> Armed {
        let lines: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(' ')).collect();
        let word = |key: &str| lines.get(key).copied().unwrap_or_default();
        let wall = |key: &str| Wall(word(key).parse().unwrap_or(0));
        let reset = lines.contains_key("reset_at").then(|| Reset {
            at: wall("reset_at"),
            identity: word("reset_identity").to_owned(),
            by: match word("reset_by") {
                "watchdog" => By::Device,
                "other" => By::Other,
                _ => By::Unknown,
            },
        });
        Armed {
            boot: word("boot").to_owned(),
            identity: word("identity").to_owned(),
            timeout_s: word("timeout_s").parse().unwrap_or(0),
            armed_at: wall("armed_at"),
            seen_at: wall("seen_at"),
            armed: word("armed") == "1",
            reset,
        }
    }

    pub fn read(data_dir: &Path) -> Option<Armed> {
        read(&path(data_dir)).map(|text| Armed::decode(&text))
    }

    /// What happened since this was written, seen in this boot: the machine went down under the
    /// armed device, or nothing that concerns it.
    pub fn judge(&self, boot: &str, boot_status: Option<u32>) -> Option<Reset> {
        if !self.armed || self.boot == boot {
            return None;
        }
        let told = boot_status.is_some_and(|flags| flags & CARD_RESET != 0);
        let by = match told {
            true => By::Device,
            false if boot_status.is_some() && drivers::of(&self.identity).tells() => By::Other,
            false => By::Unknown,
        };
        Some(Reset { at: self.seen_at, identity: self.identity.clone(), by })
    }
}

/// How long a device of this machine really took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    pub boot: String,
    pub identity: String,
    /// Of the machine: another firmware may time otherwise.
    pub firmware: String,
    pub timeout_s: u64,
    /// Both of one boot, by the clock that nobody sets: one that was set back meanwhile would make
    /// the device look faster than it is, and others lead before it resets.
    pub armed_at: Boot,
    /// The last record that reached the disk before the reset.
    pub last_at: Boot,
    /// The longest time between two records, microseconds.
    pub step_us: u64,
    /// a, parts per million, once the machine is back.
    pub factor_ppm: Option<u32>,
}

impl Calibration {
    pub fn encode(&self) -> String {
        let mut text = format!(
            "boot {}\nidentity {}\nfirmware {}\ntimeout_s {}\narmed_at {}\nlast_at {}\n\
             step_us {}\n",
            self.boot,
            self.identity,
            self.firmware,
            self.timeout_s,
            self.armed_at.0,
            self.last_at.0,
            self.step_us
        );
        if let Some(factor) = self.factor_ppm {
            text += &format!("factor_ppm {factor}\n");
        }
        text
    }

    pub fn decode(text: &str) -> Option<Calibration> {
        let lines: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(' ')).collect();
        let word = |key: &str| lines.get(key).copied();
        let instant = |key: &str| Some(Boot(word(key)?.parse().ok()?));
        Some(Calibration {
            boot: word("boot")?.to_owned(),
            identity: word("identity")?.to_owned(),
            firmware: word("firmware")?.to_owned(),
            timeout_s: word("timeout_s")?.parse().ok()?,
            armed_at: instant("armed_at")?,
            last_at: instant("last_at")?,
            step_us: word("step_us")?.parse().ok()?,
            factor_ppm: word("factor_ppm").and_then(|factor| factor.parse().ok()),
        })
    }

    pub fn read(path: &Path) -> Option<Calibration> {
        Calibration::decode(&read(path)?)
    }

    /// After the reset: the factor, with two steps for the record that did not reach the disk, and
    /// 1 % on top. `None`: the machine went down so long before the timeout that the device was not
    /// it; a factor from that would be too short, and others would lead before the reset.
    pub fn measured(&self) -> Option<u32> {
        let ran_us = u64::try_from(self.last_at.since(self.armed_at).as_micros()).ok()?;
        let longest_us = ran_us.checked_add(self.step_us.checked_mul(2)?)?;
        let ppm = longest_us.checked_div(self.timeout_s)?;
        let factor = u32::try_from(ppm.checked_add(10_000)?.max(1_000_000)).ok()?;
        (ppm >= DEVICE_AT_LEAST_PPM).then_some(factor)
    }

    /// The factor, if it was measured with this device under this firmware.
    pub fn of(&self, identity: &str, firmware: &str) -> Option<u32> {
        let same = self.identity == identity && self.firmware == firmware;
        self.factor_ppm.filter(|_| same)
    }
}

/// How the device with this identity keeps time, within the limits that its driver tells. True: as
/// it was measured on this machine.
pub fn timing(identity: &str, min_s: u32, max_s: u32) -> (Device, bool) {
    timing_by(Path::new(CALIBRATION), identity, min_s, max_s)
}

fn timing_by(calibration: &Path, identity: &str, min_s: u32, max_s: u32) -> (Device, bool) {
    let measured = Calibration::read(calibration).and_then(|c| c.of(identity, &firmware()));
    (drivers::of(identity).timing(min_s, max_s, measured), measured.is_some())
}

/// What distinguishes this machine's firmware from the one after its next update.
pub fn firmware() -> String {
    let word = |name: &str| {
        let text = fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
        text.trim().replace(' ', "_")
    };
    [word("product_name"), word("bios_version"), word("bios_date")].join("/")
}

fn read(path: &Path) -> Option<String> {
    let small = fs::metadata(path).is_ok_and(|about| about.len() <= MAX_BYTES);
    small.then(|| fs::read_to_string(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn armed(identity: &str) -> Armed {
        Armed {
            boot: "one".into(),
            identity: identity.into(),
            timeout_s: 4,
            armed_at: Wall(5),
            seen_at: Wall(9),
            armed: true,
            reset: None,
        }
    }

    #[test]
    fn a_reset_is_what_happened_in_another_boot_while_it_was_armed() {
        for (identity, boot, status, expected) in [
            ("i6300ESB timer", "one", Some(0x20), None),
            ("i6300ESB timer", "two", Some(0x20), Some(By::Device)),
            ("i6300ESB timer", "two", Some(0), Some(By::Other)),
            ("i6300ESB timer", "two", None, Some(By::Unknown)),
            ("Software Watchdog", "two", Some(0), Some(By::Unknown)),
        ] {
            let reset = armed(identity).judge(boot, status);
            assert_eq!(reset.as_ref().map(|r| r.by), expected, "{identity} {boot} {status:?}");
            assert!(reset.is_none_or(|r| r.at == Wall(9) && r.to_string().contains(identity)));
        }
        assert_eq!(Armed { armed: false, ..armed("x") }.judge("two", None), None);
    }

    #[test]
    fn records_come_back_and_nonsense_is_no_error() {
        let reset = Reset { at: Wall(3), identity: "a b".into(), by: By::Other };
        for record in [armed("iTCO_wdt"), Armed { reset: Some(reset), ..armed("a b") }] {
            assert_eq!(Armed::decode(&(record.encode() + "future 1\n")), record);
        }
        assert_eq!(Armed::decode("\n\nx\narmed 2\n"), Armed::default());
        let path = path(Path::new("/var/lib/pg/main"));
        assert_eq!(path, Path::new("/var/lib/pg/.main.pgvigil.watchdog"));
    }

    #[test]
    fn a_calibration_is_of_one_device_and_one_firmware() {
        let at = |ms| Boot(0).plus(Duration::from_millis(ms));
        let run = Calibration {
            boot: "one".into(),
            identity: "iTCO_wdt".into(),
            firmware: "box/1.2".into(),
            timeout_s: 10,
            armed_at: at(1_000),
            last_at: at(20_150),
            step_us: 50_000,
            factor_ppm: None,
        };
        assert_eq!(run.measured(), Some(1_935_000));
        // Reset by hand, or before the device was armed.
        for last_ms in [0, 1_000, 9_000] {
            assert_eq!(Calibration { last_at: at(last_ms), ..run.clone() }.measured(), None);
        }
        assert_eq!(Calibration { timeout_s: 0, ..run.clone() }.measured(), None);
        let done = Calibration { factor_ppm: Some(1_935_000), ..run.clone() };
        assert_eq!(Calibration::decode(&done.encode()), Some(done.clone()));
        assert_eq!(done.of("iTCO_wdt", "box/1.2"), Some(1_935_000));
        assert_eq!(done.of("iTCO_wdt", "box/1.3"), None);
        assert_eq!(run.of("iTCO_wdt", "box/1.2"), None);
        assert_eq!(Calibration::decode("boot x\n"), None);
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("calibration");
        assert_eq!(timing_by(&path, "iTCO_wdt", 0, 0).0.factor_ppm, 2_000_000);
        let here = Calibration { firmware: firmware(), ..done };
        fs::write(&path, here.encode()).unwrap();
        let (device, measured) = timing_by(&path, "iTCO_wdt", 4, 0);
        assert_eq!((device.factor_ppm, device.min_s, measured), (1_935_000, 4, true));
        assert!(!timing_by(&path, "i6300ESB timer", 0, 0).1, "another device");
    }
}
