//! The watchdog device in the supervisor: which one is held, what the guard wants of it goes to
//! the petter, what comes back goes to the guard.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::log::Log;
use super::notify::Notify;
use super::watch::Supervisor;
use super::{PRIORITY, record};
use crate::core::budget::{self, Budget, Wish};
use crate::core::guard::{Device as Phase, Effect, Event, Phase as GuardPhase};
use crate::core::time::Boot;
use crate::link::order::{Watchdog, WatchdogMode};
use crate::link::state;
use crate::sys::{clock, fd};
use crate::watchdog::held::{self, Options};
use crate::watchdog::petter::{self, Command, Petter, Report};

/// The descriptor's name in systemd's store.
const STORED: &str = "watchdog";
/// A close that takes longer is left to the end of the process.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The device, or why there is none.
#[derive(Debug)]
pub struct Dog {
    options: Option<Options>,
    held: Option<Held>,
    wish: Watchdog,
    /// Arming failed, and it is not required: not counted on before the next campaign.
    failed: bool,
    last: Option<Command>,
    pinged_at: Boot,
    state: state::Device,
}

#[derive(Debug)]
struct Held {
    petter: Petter,
    file: OwnedFd,
    timing: budget::Device,
    /// It counted when we got it, with this timeout if it told.
    counted: bool,
    timeout: Option<Duration>,
}

impl Dog {
    /// Opens the device, or takes over the descriptor of the program before this one. May wait for
    /// the driver: nothing runs yet.
    pub fn open(options: Option<Options>, log: &mut Log) -> Dog {
        let kept = fd::inherited(record::WATCHDOG_FD).ok().or_else(|| fd::kept(STORED));
        let mut dog = Dog {
            options,
            held: None,
            wish: Watchdog::default(),
            failed: false,
            last: None,
            pinged_at: Boot(0),
            state: state::Device::default(),
        };
        dog.hold(kept, log);
        dog
    }

    fn hold(&mut self, kept: Option<OwnedFd>, log: &mut Log) {
        let Some(options) = &self.options else {
            // Not wanted any more: what the program before us left must not count on.
            let left = kept.map(|fd| held::open(&Options::default(), Some(fd)));
            if let Some(Ok(mut left)) = left {
                left.device.close();
            }
            return;
        };
        let held = held::open(options, kept).and_then(|held| {
            let options = petter::Options { priority: PRIORITY, pin: held.software };
            self.state.node = held.node.display().to_string();
            self.state.identity = held.identity;
            self.state.boot_status = held.boot_status;
            self.state.endless = held.device.is_endless();
            let petter = Petter::start(held.device, options).map_err(|error| error.to_string())?;
            let (timing, counted, timeout) = (held.timing, held.counted, held.timeout);
            Ok(Held { petter, file: held.file, timing, counted, timeout })
        });
        match held {
            Ok(held) => {
                let state::Device { node, identity, endless, .. } = &self.state;
                let never = if *endless { "; it cannot be stopped (nowayout)" } else { "" };
                log.info(&format!("watchdog device {node} ({identity}) is ours{never}"));
                self.state.trouble.clear();
                self.held = Some(held);
            }
            Err(why) => {
                log.warning(&format!("no watchdog device: {why}"));
                self.state.trouble = why;
            }
        }
    }

    /// Where a report announces itself, if there is a device.
    pub fn link(&self) -> Option<BorrowedFd<'_>> {
        self.held.as_ref().map(|held| held.petter.as_fd())
    }

    /// For the program that takes this one's place.
    pub fn file(&self) -> Option<&OwnedFd> {
        self.held.as_ref().map(|held| &held.file)
    }

    /// Gives systemd a duplicate: then our end adds no ping and a successor gets it back.
    pub fn store(&mut self, notify: &Notify) {
        self.state.kept = self.file().is_some_and(|file| notify.store(STORED, file.as_fd()));
    }

    pub fn state(&self, guard: &crate::core::guard::Guard) -> state::Device {
        state::Device {
            required: self.wish.mode == WatchdogMode::Required,
            armed: guard.device() == Phase::On,
            withheld: guard.withheld(),
            ..self.state.clone()
        }
    }

    /// The budget of such a lease, with the device where one can be counted on.
    fn budget(&mut self, ttl: Duration, rho_ppm: u32, log: &mut Log) -> Result<Budget, String> {
        let plain = Budget::new(ttl, rho_ppm).map_err(|error| error.to_string())?;
        let Some(held) = self.held.as_ref().filter(|_| !self.failed) else { return Ok(plain) };
        let Watchdog { mode, grade, margin_s, election } = self.wish;
        let wish = Wish { grade, margin_s, election, kept: self.state.kept };
        match Budget::watched(ttl, rho_ppm, &held.timing, &wish) {
            _ if mode == WatchdogMode::Off => Ok(plain),
            Ok(budget) => {
                self.state.trouble.clear();
                Ok(budget)
            }
            Err(error) if mode == WatchdogMode::Required => Err(error.to_string()),
            Err(error) => {
                self.state.trouble = error.to_string();
                log.warning(&format!("the watchdog device is not used: {error}"));
                Ok(plain)
            }
        }
    }

    fn send(&mut self, command: Command) -> Result<(), String> {
        let held = self.held.as_mut().ok_or("there is none")?;
        self.last = Some(command);
        held.petter.send(command).map_err(|error| error.to_string())
    }

    /// At the orderly end: nothing of PostgreSQL runs.
    pub fn close(&mut self, notify: &Notify) {
        if self.send(Command::Close).is_ok()
            && let Some(held) = &mut self.held
        {
            held.petter.wait(CLOSE_MAX);
        }
        notify.forget(STORED);
        self.held = None;
    }
}

impl Supervisor {
    /// See [`Dog::budget`].
    pub fn budget(&mut self, ttl: Duration) -> Result<Budget, String> {
        let rho_ppm = self.member.as_ref().map_or(0, |member| member.rho_ppm);
        self.dog.budget(ttl, rho_ppm, &mut self.log)
    }

    /// The same with another configuration, which stays in force if it can be kept.
    pub fn budget_as(
        &mut self,
        wish: Watchdog,
        ttl: Duration,
        rho_ppm: u32,
    ) -> Result<Budget, String> {
        let before = std::mem::replace(&mut self.dog.wish, wish);
        let budget = self.dog.budget(ttl, rho_ppm, &mut self.log);
        if budget.is_err() {
            self.dog.wish = before;
        }
        budget
    }

    /// At the start, after the record of the supervisor before this one was taken up, if any: a
    /// device that counts stands behind what may run, or is stopped.
    pub fn take_device_over(&mut self) {
        let counted = self.dog.held.as_ref().map(|held| held.counted);
        let timeout = self.dog.held.as_ref().and_then(|held| held.timeout);
        let expected = self.guard.device() != Phase::Off;
        let unknown = matches!(self.guard.phase(), GuardPhase::Frozen | GuardPhase::Killing);
        match counted {
            Some(true) if expected || unknown => self.guard.device_counts(timeout, clock::boot()),
            Some(true) => drop(self.dog.send(Command::Disarm)),
            Some(false) | None if expected => {
                self.log.critical("the watchdog device that covered PostgreSQL is lost");
                let _ = self.decide(Event::DeviceFailed);
            }
            Some(false) | None => {}
        }
    }

    /// Before a campaign: what failed is tried again, and required is required.
    pub fn ready_device(&mut self) -> Result<(), String> {
        if self.dog.held.is_none() && self.dog.options.is_some() {
            self.dog.hold(None, &mut self.log);
            self.dog.store(&self.notify);
        }
        let again = self.dog.failed || self.guard.budget().is_some_and(|b| b.watch.is_none());
        if let Some(ttl) = self.guard.shortest_ttl().filter(|_| again) {
            self.dog.failed = false;
            let budget = self.budget(ttl)?;
            let _ = self.decide(Event::Retune(budget));
        }
        if self.dog.wish.mode == WatchdogMode::Required && self.dog.held.is_none() {
            return Err(format!("watchdog.mode is required: {}", self.dog.state.trouble));
        }
        Ok(())
    }

    /// One of the guard's effects on the device.
    pub fn command_device(&mut self, effect: Effect) {
        let age = self.guard.budget().map_or(Duration::ZERO, |budget| budget.proof());
        let seconds = |timeout: Duration| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        let command = match effect {
            Effect::ArmDevice { timeout } => Command::Arm { timeout_s: seconds(timeout) },
            Effect::Ping { proof, timeout } => {
                Command::Ping { timeout_s: seconds(timeout), proof: proof.map(|at| (at, age)) }
            }
            _ => Command::Disarm,
        };
        if let Err(why) = self.dog.send(command) {
            self.log.critical(&format!("watchdog device: {why}"));
            self.device_answered(command, None);
        }
    }

    /// What the petter has to say.
    pub fn tend_device(&mut self) {
        while let Some(held) = &mut self.dog.held {
            let Some((report, newest)) = held.petter.take() else { return };
            // Of what was overtaken by a later command only the last one's answer counts.
            if let (true, Some(command)) = (newest, self.dog.last) {
                self.device_answered(command, Some(report));
            }
        }
    }

    fn device_answered(&mut self, command: Command, report: Option<Report>) {
        let event = match (command, report) {
            (Command::Arm { timeout_s }, Some(Report::Armed { at })) => {
                self.log.info(&format!("watchdog armed: timeout {timeout_s} s"));
                self.device_counted(timeout_s, at);
                Event::DeviceArmed { at }
            }
            (Command::Arm { .. }, report) => return self.device_failed(report),
            (Command::Ping { timeout_s, .. }, Some(Report::Pinged { at })) => {
                self.dog.state.pings = self.dog.state.pings.wrapping_add(1);
                self.dog.state.trouble.clear();
                self.device_counted(timeout_s, at);
                Event::Pinged { at: Some(at) }
            }
            (Command::Ping { .. }, Some(Report::Withheld)) => Event::PingLate,
            (Command::Ping { .. }, report) => {
                if let Some(Report::Failed(failure)) = report {
                    self.log.critical(&format!("watchdog: {failure}"));
                    self.dog.state.failed = self.dog.state.failed.wrapping_add(1);
                    self.dog.state.trouble = failure.to_string();
                }
                Event::Pinged { at: None }
            }
            (Command::Disarm, Some(Report::Disarmed { endless })) => {
                let how = if endless { "it cannot be stopped and is pinged on" } else { "stopped" };
                self.log.info(&format!("watchdog disarmed: {how}"));
                self.dog.state.endless = endless;
                return;
            }
            _ => return,
        };
        let _ = self.decide(event);
    }

    fn device_counted(&mut self, timeout_s: u32, at: Boot) {
        let state = &mut self.dog.state;
        let left = state.timeout.saturating_sub(at.since(self.dog.pinged_at));
        if self.guard.device() == Phase::On && !state.timeout.is_zero() {
            state.margin_min = Some(state.margin_min.map_or(left, |least| least.min(left)));
        }
        state.timeout = Duration::from_secs(timeout_s.into());
        self.dog.pinged_at = at;
    }

    /// It cannot be armed: without it, unless it is required.
    fn device_failed(&mut self, report: Option<Report>) {
        let why = match report {
            Some(Report::Failed(failure)) => failure.to_string(),
            _ => "no answer".to_owned(),
        };
        self.log.critical(&format!("the watchdog device cannot be armed: {why}"));
        let _ = self.decide(Event::DeviceFailed);
        self.dog.failed = self.dog.wish.mode != WatchdogMode::Required;
        if let (Some(ttl), true) = (self.guard.shortest_ttl(), self.dog.failed)
            && let Ok(budget) = self.budget(ttl)
        {
            let _ = self.decide(Event::Retune(budget));
        }
        self.dog.state.trouble = why;
    }
}
