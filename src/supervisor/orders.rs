//! The agent's orders.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::children::{Prepared, Running};
use super::groups::Descent;
use super::watch::Supervisor;
use crate::core::database::beside;
use crate::core::guard::Event;
use crate::core::time::Boot;
use crate::link::CAPSULE_MAX_BYTES;
use crate::link::order::{Command, Configure, Order, PgSignal};
use crate::link::state::Means;
use crate::sys::clock;
use crate::sys::process::{self, Child};

/// How long a lock that is held is tried for.
const LOCK_TRIES: u32 = 50;
const LOCK_EVERY: Duration = Duration::from_millis(10);

type Answer = Result<(), String>;

impl Supervisor {
    /// Carries out one order, or says why not.
    pub fn obey(&mut self, order: Order, now: Boot) -> Answer {
        let early = matches!(
            order,
            Order::Configure(_)
                | Order::Heartbeat { .. }
                | Order::Reloaded { .. }
                | Order::Goodbye { .. }
        );
        if !early && self.member.is_none() {
            return Err("not configured".into());
        }
        match order {
            Order::Configure(configure) => self.configure(&configure),
            Order::Retune { ttl } => self.budget(ttl).and_then(|b| self.order(Event::Retune(b))),
            Order::Campaign => {
                self.ready_device()?;
                self.order(Event::Campaign)
            }
            Order::Withdraw => self.order(Event::Withdraw),
            Order::Confirm(confirmation) => self.order(Event::Confirm(confirmation)),
            Order::Extend { tenure, sent_at } => self.order(Event::Extend(tenure, sent_at)),
            Order::LeaseLost { tenure } => self.order(Event::LeaseLost(tenure)),
            Order::StartStandby(command) => self.start(Event::StartStandby, &command),
            Order::StartPrimary(command) => self.start(Event::StartPrimary, &command),
            Order::Promote(command) => {
                let prepared = Prepared::new(&command)?;
                self.order(Event::Promote)?;
                self.start_helper(&prepared)
            }
            Order::Signal(signal) => self.signal(signal),
            Order::Fence { reason } => {
                self.log.critical(&format!("fence: {reason}"));
                self.order(Event::Fence)
            }
            Order::Sealed => self.order(Event::Sealed),
            Order::Release { tenure } => self.order(Event::Release(tenure)),
            Order::Pause { tenure, revision } => {
                self.log.info(&format!("pause record at revision {revision}"));
                self.order(Event::Pause(tenure))
            }
            Order::Resume => self.order(Event::Resume),
            Order::RunJob(job) => self.run_job(&job),
            Order::CancelJob { id } => {
                self.cancel_job(id, now);
                Ok(())
            }
            Order::Adopt { pid, standby } => self.adopt(pid, standby),
            Order::Capsule(bytes) if bytes.len() <= CAPSULE_MAX_BYTES => {
                self.capsule = bytes;
                Ok(())
            }
            Order::Capsule(_) => Err(format!("a capsule holds {CAPSULE_MAX_BYTES} bytes")),
            Order::Heartbeat { status, ready } => {
                self.notify.heartbeat(&status, ready);
                Ok(())
            }
            Order::Reloaded { reload } => {
                if reload == self.reloads {
                    self.notify.reloaded();
                }
                Ok(())
            }
            Order::Goodbye { failed } => {
                self.order(Event::Goodbye)?;
                self.exit = Some(i32::from(failed));
                Ok(())
            }
            Order::Leave => self.leave(),
        }
    }

    fn leave(&mut self) -> Answer {
        self.order(Event::Leave)?;
        self.log.info("paused: PostgreSQL goes on without a supervisor");
        self.leaves = true;
        self.exit = Some(0);
        Ok(())
    }

    fn order(&mut self, event: Event) -> Answer {
        self.decide(event).map_err(|refused| refused.0.to_string())
    }

    /// What can be refused without the guard is refused before it permits.
    fn start(&mut self, permit: Event, command: &Command) -> Answer {
        let member = self.member.as_ref().ok_or("not configured")?;
        let prepared = Prepared::postmaster(command, &member.descent.data_dir)?;
        self.order(permit)?;
        self.start_postmaster(&prepared)
    }

    fn configure(&mut self, configure: &Configure) -> Answer {
        let budget = self.budget_as(configure.watchdog, configure.ttl, configure.rho_ppm)?;
        let data_dir = PathBuf::from(&configure.data_dir);
        match &mut self.member {
            Some(member) if member.descent.data_dir != data_dir => {
                return Err("the data directory of a running member cannot change".into());
            }
            Some(member) => member.rho_ppm = configure.rho_ppm,
            None => self.settle_in(configure, data_dir)?,
        }
        let freeze_max = configure.freeze_max;
        self.order(Event::Configure { budget, freeze_max })?;
        let ms = |d: Duration| d.as_millis();
        self.log.info(&format!(
            "ttl {} ms: frozen {} ms after an unconfirmed renewal was sent, permits until {} ms",
            ms(budget.ttl),
            ms(budget.t1),
            ms(budget.g)
        ));
        if let (Some(watch), Some(grade)) = (budget.watch, budget.grade()) {
            self.log.info(&format!(
                "watchdog: timeout {} s, resets at most {} ms after a ping, grade {grade:?} of \
                 {} ms",
                watch.set.as_secs(),
                ms(watch.reset),
                ms(budget.exclusive)
            ));
        }
        Ok(())
    }

    /// The first configuration.
    fn settle_in(&mut self, configure: &Configure, data_dir: PathBuf) -> Answer {
        let exe_name = Path::new(&configure.postgres_path).file_name().and_then(|n| n.to_str());
        let exe_name = exe_name.ok_or("postgres_path has no file name")?.to_string();
        self.settle(Descent { data_dir, exe_name }, configure.rho_ppm).map(drop).inspect_err(
            |reason| {
                self.log.critical(reason);
                self.exit = Some(1);
            },
        )
    }

    fn signal(&mut self, signal: PgSignal) -> Answer {
        let number = match signal {
            PgSignal::Reload => libc::SIGHUP,
            PgSignal::SmartStop => libc::SIGTERM,
            PgSignal::FastStop => libc::SIGINT,
            PgSignal::ImmediateStop => libc::SIGQUIT,
        };
        if self.children.postmaster.is_none() {
            return Err("no postmaster".into());
        }
        if number != libc::SIGHUP {
            self.order(Event::StopSignal)?;
        }
        match &self.children.postmaster {
            Some(running) => {
                process::signal(running.child.pidfd.as_fd(), number).map_err(|e| e.to_string())
            }
            None => Ok(()),
        }
    }

    /// Takes over a postmaster that we did not start, or learns what the known one is.
    fn adopt(&mut self, pid: i32, standby: bool) -> Answer {
        if self.children.postmaster.as_ref().is_none_or(|running| running.child.pid != pid) {
            if self.children.postmaster.is_some() {
                return Err("another postmaster is known".into());
            }
            let running = self.identify(pid)?;
            self.gather(pid);
            self.log.info(&format!("postmaster adopted, pid={pid}, standby={standby}"));
            self.children.postmaster = Some(running);
        }
        self.order(Event::Adopted { standby })
    }

    fn identify(&self, pid: i32) -> Result<Running, String> {
        let member = self.member.as_ref().ok_or("not configured")?;
        let child = Child::of(pid).map_err(|e| format!("process {pid}: {e}"))?;
        if !member.descent.is_postgres(pid) {
            let dir = member.descent.data_dir.display();
            return Err(format!("process {pid} is no {} in {dir}", member.descent.exe_name));
        }
        Ok(Running { child, started_at: clock::boot(), adopted: true })
    }

    /// Moves the postmaster and all that belongs to it into our group, in passes until one finds
    /// nobody outside: a fork may race with a pass.
    pub fn gather(&mut self, pid: i32) {
        if !process::may_signal(pid) {
            self.log.warning(&format!("process {pid} may not be signalled: it cannot be fenced"));
            return self.fence_by(Means::NotFenceable);
        }
        let (Some(groups), Some(member)) = (&self.groups, &self.member) else { return };
        for _ in 0..20 {
            let inside = groups.postgres.pids().unwrap_or_default();
            let found = member.descent.find();
            let outside: Vec<i32> = found.into_iter().filter(|p| !inside.contains(p)).collect();
            if outside.is_empty() {
                return;
            }
            for pid in outside {
                match groups.postgres.add(pid) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                        self.log.warning(&format!("process {pid} stays in its group: {error}"));
                        return self.fence_by(Means::Descent);
                    }
                    _ => {}
                }
            }
        }
        self.fence_by(Means::Descent);
    }

    /// Other means than the group's hold until this postmaster is gone. The sentinel was forked
    /// with those of its time: another takes its place, here and when they are the group's again.
    pub fn fence_by(&mut self, means: Means) {
        self.guard.set_can_freeze(means == Means::ControlGroup);
        if std::mem::replace(&mut self.means, means) != means && self.sentinel.is_some() {
            self.start_sentinel();
        }
    }
}

/// The lock of whoever runs the member; none where the data directory has no name.
pub fn lock_path(data_dir: &Path) -> Option<PathBuf> {
    data_dir.file_name().map(|_| beside(data_dir, "lock"))
}

pub fn lock(data_dir: &Path) -> Result<File, String> {
    let path = lock_path(data_dir).ok_or("data_dir has no name")?;
    let text = |error| format!("{}: {error}", path.display());
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(text)?;
    // What a supervisor forked just before it died holds it, too, until it is its own program.
    let mut tries = (0..LOCK_TRIES).map(|n| {
        std::thread::sleep(LOCK_EVERY * n.min(1));
        file.try_lock()
    });
    if !tries.any(|answer| answer.is_ok()) {
        let mut holder = String::new();
        let _ = file.take(64).read_to_string(&mut holder);
        return Err(format!("{}: held by process {}", path.display(), holder.trim()));
    }
    // For people; the lock itself is what counts.
    let _ = file.set_len(0);
    let _ = file.write_all(format!("{}\n", std::process::id()).as_bytes());
    Ok(file)
}
