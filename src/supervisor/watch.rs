//! The supervisor's state and its loop.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};

use super::agents::Agents;
use super::children::{Children, Helper};
use super::device::Dog;
use super::groups::{Descent, Groups, Reach};
use super::log::Log;
use super::memory::Memory;
use super::notify::Notify;
use super::{Options, PRIORITY, sentinel};
use crate::core::guard::{Effect, Event, GroupState, Guard, Phase, Refused};
use crate::core::time::Boot;
use crate::link::state::{Counters, Group, Means, State};
use crate::sys::fd::Timer;
use crate::sys::proc::Stat;
use crate::sys::process::{Child, ExitStatus};
use crate::sys::{clock, proc, process, realtime};

/// Longest sleep: chores without a descriptor (reaping orphans, a silent agent).
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Sleep while something is awaited that no descriptor tells.
const WAIT_EVERY: Duration = Duration::from_millis(20);

/// What the first configuration fixed.
#[derive(Debug)]
pub struct Member {
    pub descent: Descent,
    pub rho_ppm: u32,
    /// Held while we live: the second supervisor on this data directory refuses to start.
    pub lock: File,
    pub memory: Memory,
}

#[derive(Debug)]
pub struct Supervisor {
    pub options: Options,
    pub log: Log,
    pub notify: Notify,
    pub guard: Guard,
    pub dog: Dog,
    pub groups: Option<Groups>,
    pub means: Means,
    /// This process.
    pub own: Stat,
    pub sentinel: Option<Child>,
    pub member: Option<Member>,
    pub agents: Agents,
    pub children: Children,
    /// The new program's self-check, before it replaces this one.
    pub check: Option<Helper>,
    pub stop_requested: bool,
    pub reloads: u32,
    pub capsule: Vec<u8>,
    pub counters: Counters,
    /// Set when the loop is to end.
    pub exit: Option<i32>,
    /// PostgreSQL and the sentinel go on, and the record of what was known stays.
    pub leaves: bool,
    timer: Timer,
    signals: Signals,
}

impl Supervisor {
    pub fn new(options: Options, dog: Dog) -> io::Result<Supervisor> {
        let mut log = Log::open();
        let groups = Groups::open(options.cgroup.as_deref());
        match &groups {
            Ok(groups) => log.info(&format!("fencing by control group {}", groups.base.display())),
            Err(error) => log.warning(&format!(
                "no control group ({error}): a fence kills PostgreSQL process by process"
            )),
        }
        let mut new = Supervisor::with(options, log, groups.ok(), dog)?;
        new.dog.store(&new.notify);
        if !new.recall().map_err(io::Error::other)? {
            new.clear_leftovers();
        }
        new.take_device_over();
        Ok(new)
    }

    fn with(
        options: Options,
        mut log: Log,
        groups: Option<Groups>,
        dog: Dog,
    ) -> io::Result<Supervisor> {
        for (what, result) in [
            ("memory is not locked", realtime::lock_memory()),
            ("no real-time priority", realtime::prioritize(PRIORITY)),
        ] {
            if let Err(error) = result {
                log.info(&format!("{what}: {error}"));
            }
        }
        let means = if groups.is_some() { Means::ControlGroup } else { Means::Descent };
        let own = proc::stat(std::process::id() as i32);
        let signals = Signals::catch()?;
        // A successor starts with all signals held back, so that none finds it without handlers.
        process::hold_signals(false)?;
        Ok(Supervisor {
            options,
            log,
            notify: Notify::open(),
            guard: Guard::new(means == Means::ControlGroup),
            dog,
            groups,
            means,
            own: own.ok_or_else(|| io::Error::other("/proc cannot be read"))?,
            sentinel: None,
            member: None,
            agents: Agents::new(),
            children: Children::default(),
            check: None,
            stop_requested: false,
            reloads: 0,
            capsule: Vec::new(),
            counters: Counters::default(),
            exit: None,
            leaves: false,
            timer: Timer::new()?,
            signals,
        })
    }

    /// What a supervisor left of which we know nothing: its jobs end now; PostgreSQL, if it runs,
    /// is frozen until the agent has looked at it. The old agent ends before the first of ours
    /// begins, the old sentinel, whose deadline nobody moves any more, when ours does.
    fn clear_leftovers(&mut self) {
        if self.reach().is_some_and(|reach| reach.look().populated) {
            self.log.warning("PostgreSQL runs already: frozen until it is known what it is");
            let _ = self.decide(Event::Found);
        }
        self.kill_jobs();
    }

    pub fn kill_jobs(&mut self) {
        if let Some(groups) = &self.groups {
            let _ = groups.data.kill();
            let _ = groups.scripts.kill();
        }
    }

    /// Runs until the orderly stop.
    pub fn run(&mut self) -> i32 {
        loop {
            let now = clock::boot();
            self.take_signals(now);
            self.take_orders(now);
            self.tend_children(now);
            self.observe();
            self.tend_device();
            // Facts are told by now; a tick lets time pass.
            let _ = self.decide(Event::Tick);
            self.tend_sentinel();
            self.tend_check(now);
            self.tend_agent(now);
            if let Some(code) = self.exit {
                self.end();
                return code;
            }
            self.record();
            self.publish_state();
            self.sleep();
        }
    }

    /// Lets the guard decide, writes down what it decided, and does it, before anything else
    /// happens: what a successor reads is never behind what the world has seen.
    pub fn decide(&mut self, event: Event) -> Result<(), Refused> {
        let guard = self.guard.clone();
        let before = guard.phase();
        let mut effects = Vec::new();
        let answer = self.guard.on(event, clock::boot(), &mut effects);
        if self.guard != guard {
            self.record();
        }
        for effect in effects {
            self.perform(effect);
        }
        let after = self.guard.phase();
        if before != after {
            self.counters.freezes += u32::from(after == Phase::Frozen);
            self.counters.kills += u32::from(after == Phase::Killing);
            self.log.phase(before, after);
        }
        answer
    }

    fn perform(&mut self, effect: Effect) {
        let failed = match effect {
            Effect::Arm { deadline, kill_by } => {
                self.publish_deadline(Some(deadline), kill_by);
                Ok(())
            }
            Effect::Disarm => {
                self.publish_deadline(None, Boot(0));
                Ok(())
            }
            Effect::Freeze => self.reach().map_or(Ok(()), |reach| reach.freeze()),
            Effect::Kill => {
                // Also one that is on its way into the group.
                let helpers = self.children.helpers.iter();
                helpers.for_each(|child| process::signal_all(child, libc::SIGKILL));
                let killed = self.reach().map_or(Ok(()), |reach| reach.kill());
                if killed.is_ok() && self.means == Means::ControlGroup {
                    let _ = self.decide(Event::KillSent);
                }
                killed
            }
            // Decided before its deadline, but we may have been stopped since.
            Effect::Thaw if self.guard.deadline().is_some_and(|at| clock::boot() >= at) => Ok(()),
            Effect::Thaw => {
                self.counters.thaws += 1;
                self.groups.as_ref().map_or(Ok(()), |groups| groups.postgres.thaw())
            }
            Effect::Clear => self.groups.as_ref().map_or(Ok(()), |groups| groups.postgres.thaw()),
            Effect::ArmDevice { .. } | Effect::Ping { .. } | Effect::DisarmDevice => {
                self.command_device(effect);
                Ok(())
            }
            Effect::LookAtTasks => {
                let running = self.a_task_runs();
                let _ = self.decide(Event::Tasks { running });
                Ok(())
            }
        };
        if let Err(error) = failed {
            self.log.critical(&format!("{effect:?} failed: {error}"));
        }
    }

    /// To the sentinel; there is none before there is a member, and the first configuration arms
    /// again.
    pub fn publish_deadline(&self, deadline: Option<Boot>, kill_by: Boot) {
        if let Some(member) = &self.member {
            let freeze_max = self.guard.freeze_max();
            sentinel::publish(&member.memory.page, deadline, kill_by, freeze_max);
        }
    }

    /// A frozen task sleeps (S); one in the kernel that will freeze on its way out is in D.
    fn a_task_runs(&self) -> bool {
        let tids = self.groups.as_ref().map(|groups| groups.postgres.tids());
        let Some(Ok(tids)) = tids else { return true };
        tids.into_iter().any(|tid| proc::stat(tid).is_some_and(|stat| stat.state == 'R'))
    }

    /// PostgreSQL's processes by the means in force; `None`: not even where they are is known.
    pub fn reach(&self) -> Option<Reach<'_>> {
        match (&self.groups, self.means) {
            (Some(groups), Means::ControlGroup) => Some(Reach::Group(&groups.postgres)),
            _ => self.member.as_ref().map(|member| Reach::Descent(&member.descent)),
        }
    }

    fn observe(&mut self) {
        // A child that has not moved itself into its group yet is there for all that.
        let known = self.children.postmaster.is_some() || !self.children.helpers.is_empty();
        let state = match self.reach() {
            None => return,
            Some(reach @ Reach::Group(_)) => {
                let state = reach.look();
                GroupState { populated: state.populated || known, ..state }
            }
            // To search all of /proc each time would be too dear, and a postmaster is enough.
            Some(reach) => GroupState {
                populated: known || (self.guard.group().populated && reach.look().populated),
                frozen: false,
            },
        };
        if state != self.guard.group() {
            let _ = self.decide(Event::Group(state));
        }
        // What was adopted and could not be moved into our group is gone.
        if !state.populated && self.means != Means::ControlGroup {
            self.fence_by(if self.groups.is_some() { Means::ControlGroup } else { Means::Descent });
        }
    }

    fn tend_sentinel(&mut self) {
        let Some(child) = &self.sentinel else { return };
        if let Some(status) = process::reap(child.pidfd.as_fd()) {
            match status {
                // A dead supervisor's: it ends when there is nothing to fence any more.
                ExitStatus::Unknown => self.log.info("the old sentinel ended: starting another"),
                _ => self.log.critical("the sentinel ended: starting another"),
            }
            self.start_sentinel();
        }
    }

    pub fn start_sentinel(&mut self) {
        let (Some(reach), Some(member)) = (self.reach(), &self.member) else { return };
        match sentinel::start(&member.memory.page, &reach) {
            Ok(child) => {
                if let Some(Err(error)) = self.groups.as_ref().map(|g| g.sentinel.add(child.pid)) {
                    self.log.warning(&format!("the sentinel is not in its group: {error}"));
                }
                // Whoever it replaces ends when this one is there, not before.
                if let Some(old) = self.sentinel.replace(child) {
                    let _ = process::signal(old.pidfd.as_fd(), libc::SIGKILL);
                }
            }
            Err(error) => self.log.critical(&format!("cannot start the sentinel: {error}")),
        }
    }

    pub fn take_signals(&mut self, now: Boot) {
        if count(&mut self.signals.stop) > 0 && !self.stop_requested {
            self.stop_requested = true;
            self.log.info("asked to stop");
            self.notify.stopping();
        }
        if self.stop_requested {
            self.notify.extend(now);
        }
        let reloads = count(&mut self.signals.reload);
        if reloads > 0 {
            self.reloads = self.reloads.wrapping_add(reloads);
            self.notify.reloading();
        }
        if count(&mut self.signals.replace) > 0 {
            self.begin_replacement(now);
        }
    }

    /// What the agent is told.
    pub fn state(&self) -> State {
        let lease = self.guard.lease();
        let group = self.guard.group();
        State {
            phase: self.guard.phase(),
            tenure: lease.map(|lease| lease.tenure),
            sent_at: lease.map(|lease| lease.sent_at),
            deadline: self.guard.deadline(),
            burned: self.guard.burned(),
            budget: self.guard.budget(),
            group: Group { means: self.means, populated: group.populated, frozen: group.frozen },
            postmaster: self.children.postmaster_state(self.guard.permitted()),
            last_exit: self.children.last_exit,
            jobs: self.children.job_states(),
            stop_requested: self.stop_requested,
            reloads: self.reloads,
            capsule: self.capsule.clone(),
            counters: self.counters,
            watchdog: self.dog.state(&self.guard),
            ..self.agents.receipt()
        }
    }

    fn sleep(&mut self) {
        let waiting = self.agents.waits()
            || self.children.wait()
            || (self.means != Means::ControlGroup && self.guard.phase() == Phase::Killing);
        let limit = if waiting { WAIT_EVERY } else { SWEEP_EVERY };
        if let Err(error) = self.timer.set(self.guard.wake_at()) {
            self.log.critical(&format!("cannot set the timer: {error}"));
        }
        let mut fds = vec![
            input(self.timer.as_fd()),
            input(self.signals.stop.as_fd()),
            input(self.signals.reload.as_fd()),
            input(self.signals.replace.as_fd()),
        ];
        if let Some(groups) = &self.groups {
            fds.push(PollFd::new(groups.postgres.events_fd(), PollFlags::POLLPRI));
        }
        fds.extend(self.dog.link().map(input));
        if let Some((link, unsent)) = self.agents.link() {
            let output = if unsent { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(link, PollFlags::POLLIN | output));
        }
        let check = self.check.iter().map(|check| &check.child);
        let children = self.children.running().chain(self.agents.child()).chain(&self.sentinel);
        fds.extend(children.chain(check).map(|child| input(child.pidfd.as_fd())));
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        // EINTR and everything else: the sweep that follows looks at all of them anyway.
        let _ = poll(&mut fds, limit);
    }

    /// The rest of the tree ends with us.
    fn end(&mut self) {
        self.notify.stopping();
        if self.leaves {
            self.record();
            self.children.postmaster = None;
        } else if let Some(child) = &self.sentinel {
            let _ = process::signal(child.pidfd.as_fd(), libc::SIGKILL);
        }
        for child in self.children.running().chain(self.agents.child()) {
            process::signal_all(child, libc::SIGKILL);
        }
        if let Some(groups) = &self.groups {
            for group in [&groups.agent, &groups.data, &groups.scripts] {
                let _ = group.kill();
            }
        }
        self.dog.close(&self.notify);
        if let Some(member) = self.member.as_ref().filter(|_| !self.leaves) {
            member.memory.remove();
        }
        self.log.info("stopped");
    }
}

fn input(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

/// Reading ends of the pipes into which the signal handlers write.
#[derive(Debug)]
struct Signals {
    stop: UnixStream,
    reload: UnixStream,
    replace: UnixStream,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        let pipe = |signals: &[i32]| -> io::Result<UnixStream> {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, theirs.try_clone()?)?;
            }
            Ok(ours)
        };
        Ok(Signals {
            stop: pipe(&[SIGTERM, SIGINT])?,
            reload: pipe(&[SIGHUP])?,
            replace: pipe(&[SIGUSR2])?,
        })
    }
}

/// How many signals came since the last look.
fn count(pipe: &mut UnixStream) -> u32 {
    let mut buffer = [0; 64];
    pipe.read(&mut buffer).map_or(0, |n| n as u32)
}
