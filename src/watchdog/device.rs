//! How a device is driven: opened once and kept, so that nobody else can take it; armed and
//! disarmed by ENABLECARD and DISABLECARD; every step checked, because drivers say yes to much.

use std::io;

use super::card::{Card, Info};
use super::drivers;
use crate::sys::watchdog::{ALARM_ONLY, PRETIMEOUT};

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    SetTimeout,
    /// The driver has another timeout in force than the one that it was given.
    OtherTimeout,
    Enable,
    /// It says that it does not count.
    NotActive,
    Ping,
}

/// A step that failed, small enough to be sent by a thread that must not allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub step: Step,
    /// The kernel's error, or the timeout in force for [`Step::OtherTimeout`].
    pub number: i32,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = io::Error::from_raw_os_error(self.number);
        match self.step {
            Step::SetTimeout => write!(f, "the timeout is refused: {error}"),
            Step::OtherTimeout => write!(f, "the driver keeps a timeout of {} s", self.number),
            Step::Enable => write!(f, "it cannot be started: {error}"),
            Step::NotActive => write!(f, "the driver says that it does not count"),
            Step::Ping => write!(f, "the ping is refused: {error}"),
        }
    }
}

fn failed(step: Step) -> impl Fn(io::Error) -> Failure {
    move |error| Failure { step, number: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// An open device.
pub struct Device {
    card: Box<dyn Card>,
    /// In force, as far as we know.
    timeout_s: u32,
    /// KEEPALIVE is not supported: a write pings.
    writes: bool,
    /// The kernel refuses to stop it (`nowayout`): it must be pinged for ever.
    endless: bool,
    /// How long before the reset the kernel is to leave word of it; `None`: left as it is.
    pretimeout_s: Option<u32>,
}

impl Device {
    /// Takes a device over that was just opened, or that counts already; refuses one that resets
    /// nothing.
    pub fn new(mut card: Box<dyn Card>) -> Result<(Device, Info), String> {
        let info = card.info().map_err(|error| format!("it does not say what it is: {error}"))?;
        if info.options & ALARM_ONLY != 0 {
            let _ = card.enable(false);
            let _ = card.write(b"V");
            return Err(format!("{}: it only raises an alarm and resets nothing", info.identity));
        }
        let pretimeout_s = pretimeout_s(card.as_mut(), &info);
        Ok((Device { card, timeout_s: 0, writes: false, endless: false, pretimeout_s }, info))
    }

    /// Flags of the time when the driver was loaded; `None`: it does not tell.
    pub fn boot_status(&mut self) -> Option<u32> {
        self.card.boot_status().ok()
    }

    /// What the driver says of the timeout in force.
    pub fn told_timeout_s(&mut self) -> Option<u32> {
        self.card.timeout().ok().flatten().filter(|seconds| *seconds > 0)
    }

    /// Lets it count with this timeout, and makes sure that it does.
    pub fn arm(&mut self, timeout_s: u32) -> Result<(), Failure> {
        self.set_timeout(timeout_s)?;
        match self.card.enable(true) {
            // A driver without this call began to count when it was opened.
            Err(error) if !is_missing(&error) => return Err(failed(Step::Enable)(error)),
            _ => {}
        }
        // For ipmi_watchdog the first heartbeat is what arms.
        self.keep_alive()?;
        if self.card.is_active() == Some(false) {
            return Err(Failure { step: Step::NotActive, number: 0 });
        }
        Ok(())
    }

    /// One ping; a timeout other than the one in force is set by the same call.
    pub fn ping(&mut self, timeout_s: u32) -> Result<(), Failure> {
        if timeout_s != self.timeout_s {
            self.set_timeout(timeout_s)?;
        }
        self.keep_alive()?;
        // A ping of a device that was disarmed succeeds and does nothing.
        match self.card.is_active() {
            Some(false) => Err(Failure { step: Step::NotActive, number: 0 }),
            _ => Ok(()),
        }
    }

    fn set_timeout(&mut self, timeout_s: u32) -> Result<(), Failure> {
        self.timeout_s = 0;
        self.card.set_timeout(timeout_s).map_err(failed(Step::SetTimeout))?;
        match self.card.timeout() {
            Ok(Some(in_force)) if in_force != timeout_s => {
                let number = i32::try_from(in_force).unwrap_or(i32::MAX);
                return Err(Failure { step: Step::OtherTimeout, number });
            }
            _ => self.timeout_s = timeout_s,
        }
        // Word of the reset, which is not worth going without the device.
        if let Some(seconds) = self.pretimeout_s.filter(|seconds| *seconds < timeout_s) {
            let _ = self.card.set_pretimeout(seconds);
        }
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), Failure> {
        if !self.writes {
            match self.card.keep_alive() {
                Err(error) if is_missing(&error) => self.writes = true,
                answer => return answer.map_err(failed(Step::Ping)),
            }
        }
        self.card.write(b"\0").map_err(failed(Step::Ping))
    }

    /// Stops it; it stays open. False: the kernel refuses, and it must be pinged on
    /// ([`Device::is_endless`]).
    pub fn disarm(&mut self) -> bool {
        let stopped = self.card.enable(false).is_ok();
        // Drivers without a stop are pinged by the kernel and say that they are inactive.
        self.endless = match self.card.is_active() {
            Some(active) => active,
            None => !stopped,
        };
        !self.endless
    }

    pub fn is_endless(&self) -> bool {
        self.endless
    }

    /// The ping of a device that nobody wants to count and that cannot be stopped.
    pub fn idle(&mut self) {
        // It fails only as a device that is gone does.
        let _ = self.keep_alive();
    }

    /// Stops it for good: in two ways, because the close that follows is the last chance. What
    /// cannot be stopped gets the longest timeout that it takes.
    pub fn close(&mut self) {
        if !self.disarm() {
            let longest = [65_535, 2046, 614, 255, 60];
            let _ = longest.into_iter().find(|seconds| self.card.set_timeout(*seconds).is_ok());
        }
        // In the same breath as the close: a `V` holds until the next write, not the next ioctl.
        let _ = self.card.write(b"V");
    }
}

/// A second is enough for a line in the log, or for a panic's traces in pstore; the countdown goes
/// on meanwhile. Only where the administrator has chosen a governor, else nothing would happen.
/// hpwdt's own handler of this warning stops the device, so it gets none.
fn pretimeout_s(card: &mut dyn Card, info: &Info) -> Option<u32> {
    let able = info.options & PRETIMEOUT != 0;
    match drivers::of(&info.identity).module {
        "hpwdt" => able.then_some(0),
        _ => (able && !card.governor().is_empty()).then_some(1),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY))
}

#[cfg(test)]
pub mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A device as Linux 6.1 was measured to behave.
    #[derive(Clone, Debug, Default)]
    pub struct Fake(pub Arc<Mutex<Inner>>);

    #[derive(Debug, Default)]
    pub struct Inner {
        pub calls: String,
        pub timeout_s: u32,
        pub active: bool,
        pub nowayout: bool,
        pub legacy: bool,
        pub alarm_only: bool,
        pub no_keep_alive: bool,
        pub floor_s: u32,
        pub dead: bool,
        pub identity: &'static str,
        pub pretimeout: bool,
        pub governor: &'static str,
    }

    fn missing<T>() -> io::Result<T> {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    impl Fake {
        pub fn with(change: impl FnOnce(&mut Inner)) -> Fake {
            let fake = Fake::default();
            change(&mut fake.0.lock().unwrap());
            fake
        }

        pub fn calls(&self) -> String {
            std::mem::take(&mut self.0.lock().unwrap().calls)
        }
    }

    impl Card for Fake {
        fn info(&mut self) -> io::Result<Info> {
            let inner = self.0.lock().unwrap();
            let alarm = if inner.alarm_only { ALARM_ONLY } else { 0 };
            let warns = if inner.pretimeout { PRETIMEOUT } else { 0 };
            let identity = if inner.identity.is_empty() { "Fake" } else { inner.identity };
            Ok(Info { options: alarm | warns, identity: identity.into() })
        }
        fn boot_status(&mut self) -> io::Result<u32> {
            if self.0.lock().unwrap().legacy { missing() } else { Ok(0x20) }
        }
        fn set_timeout(&mut self, seconds: u32) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            inner.calls += &format!("t{seconds}");
            if seconds > 1000 {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            inner.timeout_s = seconds.max(inner.floor_s);
            Ok(())
        }
        fn timeout(&mut self) -> io::Result<Option<u32>> {
            Ok(Some(self.0.lock().unwrap().timeout_s))
        }
        fn set_pretimeout(&mut self, seconds: u32) -> io::Result<()> {
            self.0.lock().unwrap().calls += &format!("p{seconds}");
            missing()
        }
        fn governor(&mut self) -> String {
            self.0.lock().unwrap().governor.to_owned()
        }
        fn keep_alive(&mut self) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            inner.calls.push('k');
            match (inner.no_keep_alive, inner.dead) {
                (true, _) => missing(),
                (_, true) => Err(io::Error::from_raw_os_error(libc::EIO)),
                _ => Ok(()),
            }
        }
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().calls += if bytes == b"V" { "V" } else { "w" };
            Ok(())
        }
        fn enable(&mut self, on: bool) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            inner.calls.push(if on { 'E' } else { 'D' });
            if !on && inner.nowayout {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
            inner.active = on;
            Ok(())
        }
        fn is_active(&mut self) -> Option<bool> {
            let inner = self.0.lock().unwrap();
            (!inner.legacy).then_some(inner.active)
        }
    }

    #[test]
    fn arming_and_pinging_are_verified() {
        let fake = Fake::default();
        let (mut device, info) = Device::new(Box::new(fake.clone())).unwrap();
        assert_eq!((info.identity.as_str(), device.boot_status()), ("Fake", Some(0x20)));
        assert!(device.disarm() && fake.calls() == "D");
        device.arm(4).unwrap();
        assert_eq!((fake.calls().as_str(), device.card.is_active()), ("t4Ek", Some(true)));
        device.ping(4).unwrap();
        device.ping(2).unwrap();
        assert_eq!((fake.calls().as_str(), device.timeout_s), ("kt2k", 2));
        fake.0.lock().unwrap().active = false;
        let not_active = Failure { step: Step::NotActive, number: 0 };
        assert_eq!(device.ping(2), Err(not_active), "a ping of what is disarmed succeeds");
        fake.0.lock().unwrap().dead = true;
        let error = device.ping(2).unwrap_err();
        assert!(error.step == Step::Ping && error.to_string().contains("Input/output"), "{error}");
        fake.0.lock().unwrap().floor_s = 3;
        let error = device.arm(2).unwrap_err();
        assert_eq!(error, Failure { step: Step::OtherTimeout, number: 3 });
    }

    #[test]
    fn what_drivers_lack() {
        let fake = Fake::with(|inner| inner.no_keep_alive = true);
        let (mut device, _) = Device::new(Box::new(fake.clone())).unwrap();
        device.arm(4).unwrap();
        device.ping(4).unwrap();
        assert_eq!(fake.calls(), "t4Ekww", "pinged by writing, after one try");

        let fake = Fake::with(|inner| inner.legacy = true);
        let (mut device, _) = Device::new(Box::new(fake.clone())).unwrap();
        assert!(device.boot_status().is_none() && device.card.is_active().is_none());
        assert!(device.arm(4).is_ok() && device.disarm());

        let fake = Fake::with(|inner| inner.alarm_only = true);
        let refused = Device::new(Box::new(fake.clone())).err().unwrap();
        assert!(refused.contains("alarm"), "{refused}");
        assert_eq!(fake.calls(), "DV", "it was armed by being opened");
    }

    #[test]
    fn a_warning_before_the_reset_is_asked_for_where_somebody_hears_it() {
        for (identity, pretimeout, governor, expected) in [
            ("", true, "noop", "t4p1Ek"),
            ("", true, "panic", "t4p1Ek"),
            ("", true, "", "t4Ek"),
            ("", false, "noop", "t4Ek"),
            ("HPE iLO2+ HW Watchdog Timer", true, "panic", "t4p0Ek"),
        ] {
            let fake = Fake::with(|inner| {
                (inner.identity, inner.pretimeout, inner.governor) =
                    (identity, pretimeout, governor);
            });
            let (mut device, _) = Device::new(Box::new(fake.clone())).unwrap();
            // Refused by this driver, and armed all the same.
            device.arm(4).unwrap();
            assert_eq!(fake.calls(), expected, "{identity} {governor}");
            // There is no second before the end of one second.
            device.ping(1).unwrap();
            assert!(!fake.calls().contains("p1"), "{identity} {governor}");
        }
    }

    #[test]
    fn what_cannot_be_stopped_is_left_with_its_longest_timeout() {
        let fake = Fake::with(|inner| (inner.nowayout, inner.active) = (true, true));
        let (mut device, _) = Device::new(Box::new(fake.clone())).unwrap();
        assert!(!device.disarm() && device.is_endless());
        device.idle();
        device.close();
        assert_eq!(fake.calls(), "DkDt65535t2046t614V");
        let fake = Fake::default();
        let (mut device, _) = Device::new(Box::new(fake.clone())).unwrap();
        device.arm(4).unwrap();
        fake.calls();
        device.close();
        assert_eq!(fake.calls(), "DV");
    }
}
