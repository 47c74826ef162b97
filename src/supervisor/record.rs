//! What stands in the record, and how a successor takes it up: a new process after a crash, or the
//! same one with another program.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::children::{JobRun, Running};
use super::groups::Descent;
use super::memory::{Memory, Saved};
use super::orders::lock;
use super::watch::{Member, Supervisor};
use crate::core::guard::{Event, Guard, Phase};
use crate::core::time::Boot;
use crate::link::order::JobKind;
use crate::link::state::{Counters, Exit, ExitStatus, Means};
use crate::sys::process::{self, Child};
use crate::sys::{clock, fd, proc};

/// In the environment of a program that takes the place of another: the data directory, and the
/// number of the descriptor that holds its lock.
pub const DATA_DIR: &str = "PGVIGIL_DATA_DIR";
pub const LOCK_FD: &str = "PGVIGIL_LOCK_FD";
/// The same of the watchdog device.
pub const WATCHDOG_FD: &str = "PGVIGIL_WATCHDOG_FD";

impl Supervisor {
    /// Writes down what a successor must know. Before there is a member there is nothing.
    pub fn record(&mut self) {
        let lines = self.lines();
        if let (Some(lines), Some(member)) = (lines, &mut self.member) {
            member.memory.write(&lines);
        }
    }

    fn lines(&self) -> Option<String> {
        let member = self.member.as_ref()?;
        let mut text = self.guard.save();
        let mut line = |key: &str, value: String| text.push_str(&format!("{key} {value}\n"));
        let identity = |child: &Child| format!("{} {}", child.pid, child.start_ticks);
        line("supervisor", format!("{} {}", self.own.pid, self.own.start_ticks));
        line("data_dir", member.descent.data_dir.display().to_string());
        line("exe_name", member.descent.exe_name.clone());
        line("rho_ppm", member.rho_ppm.to_string());
        line("ready", u8::from(self.notify.is_ready()).to_string());
        line("stop", u8::from(self.stop_requested).to_string());
        line("reloads", self.reloads.to_string());
        line("capsule", self.capsule.iter().map(|byte| format!("{byte:02x}")).collect());
        let Counters { freezes, thaws, kills, agent_starts } = self.counters;
        line("counters", format!("{freezes} {thaws} {kills} {agent_starts}"));
        if let Some(p) = &self.children.postmaster {
            let adopted = u8::from(p.adopted);
            line("postmaster", format!("{} {} {adopted}", identity(&p.child), p.started_at.0));
        }
        for (key, child) in [("agent", self.agents.child()), ("sentinel", self.sentinel.as_ref())] {
            if let Some(child) = child {
                line(key, identity(child));
            }
        }
        for job in &self.children.jobs {
            let data = u8::from(job.kind == JobKind::Data);
            let process = job.child.as_ref().map_or("0 0".to_string(), identity);
            let (how, n) = match job.status {
                None => (0, 0),
                Some(ExitStatus::Code(code)) => (1, code),
                Some(ExitStatus::Signal(signal)) => (2, signal),
                Some(ExitStatus::Unknown) => (3, 0),
            };
            line(&format!("job.{}", job.id), format!("{data} {process} {how} {n}"));
        }
        Some(text)
    }

    /// Before there is an agent: takes up the record of the data directory that the program before
    /// this one named, or in which something of the postgres group works. False: there is none.
    pub fn recall(&mut self) -> Result<bool, String> {
        let named = std::env::var_os(DATA_DIR).map(PathBuf::from);
        let pids = self.groups.as_ref().and_then(|groups| groups.postgres.pids().ok());
        let found = pids.into_iter().flatten().filter_map(proc::cwd);
        for data_dir in named.into_iter().chain(found) {
            let saved = Memory::open(&data_dir, false).ok().and_then(|mut memory| memory.read());
            if let Some((exe_name, rho_ppm)) =
                saved.and_then(|s| Some((s.get("exe_name")?.clone(), number(&s, "rho_ppm"))))
            {
                return self.settle(Descent { data_dir, exe_name }, rho_ppm as u32);
            }
        }
        Ok(false)
    }

    /// Makes a data directory ours: its lock, what the last supervisor there knew, the sentinel.
    /// True: that was something.
    pub fn settle(&mut self, descent: Descent, rho_ppm: u32) -> Result<bool, String> {
        let lock = match fd::inherited(LOCK_FD) {
            Ok(held) => File::from(held),
            Err(_) => lock(&descent.data_dir)?,
        };
        let memory = Memory::open(&descent.data_dir, true).or_else(|error| {
            self.log.warning(&format!("a supervisor after this one will know nothing: {error}"));
            Memory::anonymous()
        });
        let mut memory = memory.map_err(|error| error.to_string())?;
        let saved = memory.read();
        self.member = Some(Member { descent, rho_ppm, lock, memory });
        let restored = saved.is_some_and(|saved| self.restore(&saved));
        // Taken back by a supervisor that died before it told the sentinel; or of one we know not.
        if !restored || self.guard.deadline().is_none() {
            self.publish_deadline(None, Boot(0));
        }
        if self.sentinel.is_none() {
            if let Some(groups) = &self.groups {
                let _ = groups.sentinel.kill();
            }
            self.start_sentinel();
        }
        Ok(restored)
    }

    /// False: the record is not what we can read, and nothing was done.
    fn restore(&mut self, saved: &Saved) -> bool {
        let frozen = self.reach().is_some_and(|reach| reach.look().frozen);
        let Ok(guard) = Guard::restore(saved, frozen) else { return false };
        let data_dir = self.member.as_ref().map(|member| member.descent.data_dir.as_path());
        if saved.get("data_dir").map(Path::new) != data_dir {
            return false;
        }
        let found = self.guard.phase() == Phase::Frozen;
        let in_place = find(saved, "supervisor").is_some_and(|child| child.pid == self.own.pid);
        self.guard = guard;
        self.guard.set_can_freeze(self.means == Means::ControlGroup);
        let capsule = saved.get("capsule").map_or("", String::as_str).as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        self.capsule = capsule.chunks(2).filter_map(byte).collect();
        if let [freezes, thaws, kills, agent_starts] = numbers(saved, "counters")[..] {
            let [freezes, thaws, kills] = [freezes, thaws, kills].map(|n| n as u32);
            let agent_starts = self.counters.agent_starts.wrapping_add(agent_starts as u32);
            self.counters = Counters { freezes, thaws, kills, agent_starts };
        }
        if in_place {
            self.notify.is_again(number(saved, "ready") == 1);
            self.stop_requested = number(saved, "stop") == 1;
            self.reloads = number(saved, "reloads") as u32;
        } else {
            self.kill_jobs();
        }
        self.sentinel = find(saved, "sentinel");
        if let Some(agent) = find(saved, "agent") {
            process::signal_all(&agent, libc::SIGKILL);
        }
        self.restore_jobs(saved, in_place);
        let fits = self.restore_postmaster(saved, in_place);
        self.log.info(&format!("the supervisor before left {:?}", self.guard.phase()));
        let at_rest = matches!(self.guard.phase(), Phase::Frozen | Phase::Killing);
        if !fits || found || (frozen && !at_rest && self.guard.group().populated) {
            let _ = self.decide(Event::Found);
        } else if self.children.postmaster.is_none() {
            let _ = self.decide(Event::PostmasterExited);
        }
        // Decided, but perhaps not done. A kill repeats itself.
        if self.guard.phase() == Phase::Frozen {
            let _ = self.reach().map(|reach| reach.freeze());
        }
        true
    }

    /// In the same process they are our children still and run on. Of one whose end nobody saw
    /// nothing is told: it may have succeeded.
    fn restore_jobs(&mut self, saved: &Saved, in_place: bool) {
        for key in saved.keys() {
            let Some(Ok(id)) = key.strip_prefix("job.").map(str::parse) else { continue };
            let [data, pid, start_ticks, how, n] = numbers(saved, key)[..] else { continue };
            let child = Child::find(pid as i32, start_ticks);
            let status = match how {
                1 => Some(ExitStatus::Code(n as i32)),
                2 => Some(ExitStatus::Signal(n as i32)),
                3 => Some(ExitStatus::Unknown),
                _ if child.is_none() => continue,
                _ => None,
            };
            if let (Some(child), false) = (&child, in_place) {
                process::signal_all(child, libc::SIGKILL);
            }
            // The clock that generations begin with wraps after 49 days.
            self.agents.generation = self.agents.generation.max((id >> 32) as u32);
            self.children.jobs.push(JobRun {
                id,
                kind: if data == 1 { JobKind::Data } else { JobKind::Script },
                child,
                status,
                kill_at: None,
            });
        }
    }

    /// False: what has the postmaster's identity is no postmaster of this data directory.
    fn restore_postmaster(&mut self, saved: &Saved, in_place: bool) -> bool {
        let [pid, start_ticks, started_at, adopted] = numbers(saved, "postmaster")[..] else {
            return true;
        };
        let ended = |child: &Child| process::is_readable(child.pidfd.as_fd());
        let child = Child::find(pid as i32, start_ticks);
        // Our own child's end is taken note of as always.
        let Some(child) = child.filter(|child| in_place || !ended(child)) else {
            let (at, permitted) = (clock::boot(), self.guard.permitted());
            let (pid, status) = (pid as i32, ExitStatus::Unknown);
            self.children.last_exit = Some(Exit { pid, at, status, permitted });
            return true;
        };
        let is_postgres = |member: &Member| member.descent.is_postgres(child.pid);
        if !in_place && !self.member.as_ref().is_some_and(is_postgres) {
            return false;
        }
        let adopted = adopted == 1 || !in_place;
        let started_at = Boot(started_at);
        self.gather(child.pid);
        self.children.postmaster = Some(Running { child, started_at, adopted });
        true
    }
}

fn numbers(saved: &Saved, key: &str) -> Vec<u64> {
    let words = saved.get(key).map_or("", String::as_str).split(' ');
    words.filter_map(|word| word.parse().ok()).collect()
}

fn number(saved: &Saved, key: &str) -> u64 {
    numbers(saved, key).first().copied().unwrap_or(0)
}

/// The process that this line identifies, if it is still there.
fn find(saved: &Saved, key: &str) -> Option<Child> {
    let [pid, start_ticks] = numbers(saved, key)[..] else { return None };
    Child::find(pid as i32, start_ticks)
}
