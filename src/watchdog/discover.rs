//! Which watchdog devices there are, and which one is ours: by identity, because numbers follow the
//! order of loading. Nothing here opens a device: opening arms it.

use std::fs;
use std::path::{Path, PathBuf};

use super::drivers::{self, Driver};

const CLASS: &str = "/sys/class/watchdog";
/// Patroni's default, and the alias of device 0 or the node of a legacy driver.
pub const ALIAS: &str = "/dev/watchdog";
/// More than any machine has.
const DEVICES_MAX: usize = 64;

/// A device as sysfs tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub node: PathBuf,
    /// `None`: a legacy driver, of which nothing is known before it is opened.
    pub sysfs: Option<PathBuf>,
    pub identity: String,
    /// Somebody holds it open, or firmware started it.
    pub active: Option<bool>,
    pub timeout_s: u32,
    /// 0: the driver tells none.
    pub min_s: u32,
    pub max_s: u32,
    pub boot_status: u32,
    pub nowayout: bool,
}

impl Found {
    pub fn driver(&self) -> Driver {
        drivers::of(&self.identity)
    }
}

/// What the configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// A device node, or with `testing` a named pipe; `None`: the best device there is.
    pub device: Option<PathBuf>,
    /// How the identity of the device begins.
    pub identity: Option<String>,
}

/// All devices, by number.
pub fn list() -> Vec<Found> {
    list_in(Path::new(CLASS), Path::new("/dev"))
}

fn list_in(class: &Path, dev: &Path) -> Vec<Found> {
    let entries = fs::read_dir(class).into_iter().flatten().flatten().take(DEVICES_MAX);
    let mut numbers: Vec<u32> = entries
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("watchdog")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut found: Vec<Found> = numbers.iter().map(|n| look(class, dev, *n)).collect();
    // The alias belongs to number 0; without that one, to a legacy driver.
    if !numbers.contains(&0) && dev.join("watchdog").exists() {
        found.push(Found { node: dev.join("watchdog"), ..Found::default() });
    }
    found
}

fn look(class: &Path, dev: &Path, number: u32) -> Found {
    let name = format!("watchdog{number}");
    let sysfs = class.join(&name);
    let text = |attribute: &str| {
        let text = fs::read_to_string(sysfs.join(attribute)).unwrap_or_default();
        text.trim().to_owned()
    };
    let number = |attribute: &str| text(attribute).parse().unwrap_or(0);
    Found {
        node: dev.join(name),
        identity: text("identity"),
        active: match text("state").as_str() {
            "" => None,
            state => Some(state == "active"),
        },
        timeout_s: number("timeout"),
        min_s: number("min_timeout"),
        max_s: number("max_timeout"),
        boot_status: number("bootstatus"),
        nowayout: number("nowayout") == 1,
        sysfs: Some(sysfs),
    }
}

/// The device to use, or why there is none.
pub fn choose(choice: &Choice, found: &[Found]) -> Result<Found, String> {
    let chosen = match (&choice.device, &choice.identity) {
        (Some(node), _) => by_node(node, found),
        (None, Some(identity)) => {
            let mut fitting = found.iter().filter(|f| f.identity.starts_with(identity.as_str()));
            fitting.next().cloned().ok_or_else(|| {
                let there = found.iter().map(|f| format!("{:?}", f.identity));
                let there = there.collect::<Vec<_>>().join(", ");
                format!("no watchdog device has the identity {identity:?}; there is: [{there}]")
            })
        }
        (None, None) => {
            let best = found.iter().min_by_key(|f| f.driver().rank);
            best.cloned().ok_or_else(|| {
                "there is no watchdog device; load a driver (hardware, or softdog)".to_owned()
            })
        }
    }?;
    match refusal(&chosen) {
        Some(why) => Err(format!("{}: {why}", chosen.node.display())),
        None => Ok(chosen),
    }
}

pub(super) fn by_node(node: &Path, found: &[Found]) -> Result<Found, String> {
    let node = node.canonicalize().unwrap_or_else(|_| node.to_owned());
    let is = |f: &&Found| f.node == node || (node == Path::new(ALIAS) && is_zero(f));
    match found.iter().find(is) {
        Some(found) => Ok(found.clone()),
        None if node.exists() => Ok(Found { node, ..Found::default() }),
        None => Err(format!("{} does not exist", node.display())),
    }
}

fn is_zero(found: &Found) -> bool {
    found.node.file_name().is_some_and(|name| name == "watchdog0")
}

/// Why this device would not reset the machine, as far as that can be seen without opening it.
fn refusal(found: &Found) -> Option<String> {
    let parameter = |module: &str, name: &str| {
        let path = format!("/sys/module/{module}/parameters/{name}");
        fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    // A legacy driver shows nothing in sysfs but its module.
    let ipmi = found.sysfs.is_none() && parameter("ipmi_watchdog", "action") == "none";
    if ipmi {
        return Some("ipmi_watchdog has action=none: it resets nothing".to_owned());
    }
    // This parameter is not shown in /sys; the kernel's log has it, for those who may read it.
    let harmless = found.driver().is_software() && softdog_only_logs(&kernel_log());
    harmless.then(|| "softdog has soft_noboot=1: it only logs".to_owned())
}

fn softdog_only_logs(log: &str) -> bool {
    let loaded = log.lines().rfind(|line| line.contains("softdog: initialized"));
    loaded.is_some_and(|line| line.contains("soft_noboot=1"))
}

/// What the kernel's log holds now; empty if we may not read it.
fn kernel_log() -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let Ok(mut file) = file else { return String::new() };
    let (mut text, mut record) = (String::new(), [0; 8192]);
    // One record a read, until it would wait; a record that was overwritten is an error once.
    for _ in 0..100_000 {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(n) => text.push_str(&String::from_utf8_lossy(&record[..n])),
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(devices: &[(&str, &str)], alias: bool) -> (tempfile::TempDir, Vec<Found>) {
        let root = tempfile::tempdir().unwrap();
        let (class, dev) = (root.path().join("class"), root.path().join("dev"));
        fs::create_dir_all(&dev).unwrap();
        for (name, identity) in devices {
            let sysfs = class.join(name);
            fs::create_dir_all(&sysfs).unwrap();
            for (attribute, text) in [
                ("identity", *identity),
                ("state", "inactive"),
                ("timeout", "60"),
                ("min_timeout", "1"),
                ("max_timeout", "65535"),
                ("bootstatus", "32"),
                ("nowayout", "0"),
            ] {
                fs::write(sysfs.join(attribute), format!("{text}\n")).unwrap();
            }
            fs::write(dev.join(name), "").unwrap();
        }
        if alias {
            fs::write(dev.join("watchdog"), "").unwrap();
        }
        let found = list_in(&class, &dev);
        (root, found)
    }

    fn name(chosen: Result<Found, String>) -> String {
        let name = |f: Found| f.node.file_name().unwrap().to_str().unwrap().to_owned();
        chosen.map_or_else(|error| error, name)
    }

    #[test]
    fn hardware_comes_before_softdog_whatever_its_number() {
        let (_root, found) =
            tree(&[("watchdog0", "Software Watchdog"), ("watchdog1", "i6300ESB timer")], true);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[1].max_s, found[1].boot_status, found[1].active),
            (65_535, 32, Some(false))
        );
        assert_eq!(name(choose(&Choice::default(), &found)), "watchdog1");
        let by = |text: &str| Choice { identity: Some(text.into()), device: None };
        assert_eq!(name(choose(&by("Software"), &found)), "watchdog0");
        let error = choose(&by("hpwdt"), &found).unwrap_err();
        assert!(error.contains("i6300ESB timer"), "{error}");
        let at = |node: PathBuf| Choice { device: Some(node), identity: None };
        assert_eq!(name(choose(&at(found[0].node.clone()), &found)), "watchdog0");
        assert!(choose(&at("/dev/no-such-watchdog".into()), &found).is_err());
        assert!(choose(&Choice::default(), &[]).unwrap_err().contains("no watchdog device"));
    }

    #[test]
    fn a_legacy_driver_has_the_alias_and_no_number() {
        let (_root, found) = tree(&[("watchdog1", "Software Watchdog")], true);
        let legacy = found.iter().find(|f| f.sysfs.is_none()).unwrap();
        assert!(legacy.node.ends_with("watchdog") && legacy.identity.is_empty());
        assert_eq!(name(choose(&Choice::default(), &found)), "watchdog");
        let (_root, found) = tree(&[("watchdog0", "Software Watchdog")], true);
        assert_eq!(found.len(), 1, "the alias is number 0's");
    }

    #[test]
    fn a_softdog_that_only_logs_is_seen() {
        let line = "6,1,1,-;softdog: initialized. soft_noboot=0 soft_margin=60 sec\n";
        let noboot = line.replace("noboot=0", "noboot=1");
        for (log, expected) in [
            (String::new(), false),
            (line.to_owned(), false),
            (noboot.clone(), true),
            (noboot + line, false),
        ] {
            assert_eq!(softdog_only_logs(&log), expected, "{log}");
        }
    }
}
