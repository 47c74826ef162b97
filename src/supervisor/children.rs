//! The postmaster, the jobs, and whoever promotes.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use super::groups::emptied;
use super::watch::Supervisor;
use crate::core::guard::Event;
use crate::core::time::Boot;
use crate::link::order::{Command, Job, JobKind};
use crate::link::state::{Exit, ExitStatus, JobState, Postmaster};
use crate::sys::clock;
use crate::sys::process::{self, Child, Spec};

const RUNNING_MAX: usize = 32;
/// Ended jobs that are remembered, so that their ids do not run again.
const ENDED_MAX: usize = 32;
/// From a job's SIGTERM to its SIGKILL.
const CANCEL_GRACE: Duration = Duration::from_secs(3);

/// Names that would make PostgreSQL or a script talk to systemd or to us in our place.
/// PATRONI_* may hold passwords; only the agent gets them.
const NOT_INHERITED: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_", "PGVIGIL_", "PATRONI"];

#[derive(Debug, Default)]
pub struct Children {
    pub postmaster: Option<Running>,
    pub last_exit: Option<Exit>,
    pub jobs: Vec<JobRun>,
    /// Promoting commands, in the postgres group.
    pub helpers: Vec<Child>,
}

#[derive(Debug)]
pub struct Running {
    pub child: Child,
    pub started_at: Boot,
    pub adopted: bool,
}

#[derive(Debug)]
pub struct JobRun {
    pub id: u64,
    pub kind: JobKind,
    /// `None`: ended, and seen to have left nothing behind.
    pub child: Option<Child>,
    pub status: Option<ExitStatus>,
    pub kill_at: Option<Boot>,
}

/// A child with an end in time.
#[derive(Debug)]
pub struct Helper {
    pub child: Child,
    pub until: Boot,
}

/// A command as the kernel wants it: all that can be refused is refused before the guard decides.
#[derive(Debug)]
pub struct Prepared {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: Option<CString>,
    output: Option<CString>,
}

impl Prepared {
    pub fn new(command: &Command) -> Result<Prepared, String> {
        let c = |text: &str| CString::new(text).map_err(|_| format!("NUL in {text:?}"));
        if !command.argv.first().is_some_and(|program| program.starts_with('/')) {
            return Err("a command begins with an absolute path".into());
        }
        let inherited = process::environment().filter(|(name, _)| {
            !NOT_INHERITED.iter().any(|prefix| name.starts_with(prefix))
                && !command.env.iter().any(|(added, _)| added == name)
        });
        let env = inherited.chain(command.env.iter().cloned());
        Ok(Prepared {
            argv: command.argv.iter().map(|a| c(a)).collect::<Result<_, _>>()?,
            env: env.map(|(n, v)| c(&format!("{n}={v}"))).collect::<Result<_, _>>()?,
            cwd: command.cwd.as_deref().map(c).transpose()?,
            output: command.output.as_deref().map(c).transpose()?,
        })
    }

    /// The postmaster keeps its own protection from the OOM killer and gives it to no backend. It
    /// begins in the data directory, by which it is known without a control group.
    pub fn postmaster(command: &Command, data_dir: &Path) -> Result<Prepared, String> {
        let mut command = command.clone();
        command.cwd = data_dir.to_str().map(String::from);
        command.env.push(("PG_OOM_ADJUST_FILE".into(), "/proc/self/oom_score_adj".into()));
        command.env.push(("PG_OOM_ADJUST_VALUE".into(), "0".into()));
        Prepared::new(&command)
    }

    pub fn spawn(
        &self,
        group: Option<BorrowedFd<'_>>,
        inherit: Option<(BorrowedFd<'_>, RawFd)>,
        oom_score_adj: &CStr,
    ) -> io::Result<Child> {
        process::spawn(&Spec {
            argv: &self.argv,
            env: &self.env,
            cwd: self.cwd.as_deref(),
            output: self.output.as_deref(),
            group,
            inherit,
            oom_score_adj,
        })
    }
}

impl Children {
    /// Those whose end is awaited.
    pub fn running(&self) -> impl Iterator<Item = &Child> {
        let postmaster = self.postmaster.iter().map(|running| &running.child);
        let jobs = self.jobs.iter().filter(|job| job.status.is_none()).flat_map(|job| &job.child);
        postmaster.chain(jobs).chain(&self.helpers)
    }

    /// Whether something is awaited that no descriptor tells: the rest of an ended job.
    pub fn wait(&self) -> bool {
        self.jobs.iter().any(|job| job.status.is_some() && job.child.is_some())
    }

    pub fn postmaster_state(&self, permitted: bool) -> Option<Postmaster> {
        self.postmaster.as_ref().map(|running| Postmaster {
            pid: running.child.pid,
            start_ticks: running.child.start_ticks,
            started_at: running.started_at,
            adopted: running.adopted,
            permitted,
        })
    }

    pub fn job_states(&self) -> Vec<JobState> {
        let ended = |job: &JobRun| if job.child.is_none() { job.status } else { None };
        let state = |job: &JobRun| JobState { id: job.id, kind: job.kind, ended: ended(job) };
        self.jobs.iter().map(state).collect()
    }

    fn owns(&self, pid: i32) -> bool {
        self.running().any(|child| child.pid == pid)
    }
}

impl Supervisor {
    /// Starts the postmaster; the guard has permitted it. It is born in the postgres group.
    pub fn start_postmaster(&mut self, prepared: &Prepared) -> Result<(), String> {
        let group = self.groups.as_ref().map(|groups| groups.postgres.dir());
        let child = prepared
            .spawn(group, None, c"-900")
            .map_err(|error| format!("cannot start the postmaster: {error}"))?;
        self.log.info(&format!("postmaster started, pid={}", child.pid));
        self.children.postmaster =
            Some(Running { started_at: clock::boot(), adopted: false, child });
        Ok(())
    }

    /// Runs the promoting command inside the postgres group, so that a fence takes it along.
    pub fn start_helper(&mut self, prepared: &Prepared) -> Result<(), String> {
        let group = self.groups.as_ref().map(|groups| groups.postgres.dir());
        let child = prepared
            .spawn(group, None, c"0")
            .map_err(|error| format!("cannot run the promotion: {error}"))?;
        self.children.helpers.push(child);
        Ok(())
    }

    pub fn run_job(&mut self, job: &Job) -> Result<(), String> {
        if self.children.jobs.iter().any(|known| known.id == job.id) {
            return Ok(());
        }
        if self.children.jobs.iter().filter(|job| job.child.is_some()).count() >= RUNNING_MAX {
            return Err(format!("{RUNNING_MAX} jobs are running already"));
        }
        let prepared = Prepared::new(&job.command)?;
        if job.kind == JobKind::Data {
            self.decide(Event::StartDataJob).map_err(|refused| refused.0.to_string())?;
        }
        let group = self.groups.as_ref().map(|groups| match job.kind {
            JobKind::Data => groups.data.dir(),
            JobKind::Script => groups.scripts.dir(),
        });
        let child = prepared.spawn(group, None, c"0");
        let child = Some(child.map_err(|error| format!("cannot run the job: {error}"))?);
        let (id, kind) = (job.id, job.kind);
        self.children.jobs.push(JobRun { id, kind, child, status: None, kill_at: None });
        Ok(())
    }

    pub fn cancel_job(&mut self, id: u64, now: Boot) {
        let mut jobs = self.children.jobs.iter_mut().filter(|job| job.kill_at.is_none());
        if let Some(job) = jobs.find(|job| job.id == id)
            && let Some(child) = &job.child
        {
            process::signal_all(child, libc::SIGTERM);
            job.kill_at = Some(now.plus(CANCEL_GRACE));
        }
    }

    /// Takes note of the children that ended.
    pub fn tend_children(&mut self, now: Boot) {
        let ended = self.children.postmaster.as_ref().and_then(|p| has_ended(&p.child));
        if let Some(status) = ended
            && let Some(running) = self.children.postmaster.take()
        {
            let pid = running.child.pid;
            self.log.info(&format!("postmaster ended, pid={pid}: {status:?}"));
            let permitted = self.guard.permitted();
            self.children.last_exit = Some(Exit { pid, at: now, status, permitted });
            let _ = self.decide(Event::PostmasterExited);
        }
        self.children.helpers.retain(|child| has_ended(child).is_none());
        self.tend_jobs(now);
        let owned = |pid| {
            let others = self.agents.child().into_iter().chain(&self.sentinel);
            let check = self.check.iter().map(|check| &check.child);
            self.children.owns(pid) || others.chain(check).any(|child| child.pid == pid)
        };
        process::reap_orphans(owned);
    }

    fn tend_jobs(&mut self, now: Boot) {
        for job in &mut self.children.jobs {
            let Some(child) = &job.child else { continue };
            if job.status.is_none() {
                job.status = has_ended(child);
            }
            if job.status.is_none() && job.kill_at.is_some_and(|at| now >= at) {
                process::signal_all(child, libc::SIGKILL);
            }
            if job.status.is_some() {
                let is_data = job.kind == JobKind::Data;
                // A data job has ended when nothing of it can touch the data directory.
                let clean = match &self.groups {
                    Some(groups) => !is_data || emptied(&groups.data),
                    None => {
                        if is_data {
                            process::kill(-child.pid, libc::SIGKILL);
                        }
                        true
                    }
                };
                if clean {
                    job.child = None;
                }
            }
        }
        let ended = self.children.jobs.iter().filter(|job| job.child.is_none()).count();
        let mut surplus = ended.saturating_sub(ENDED_MAX);
        self.children.jobs.retain(|job| {
            let forget = job.child.is_none() && surplus > 0;
            surplus -= usize::from(forget);
            !forget
        });
        // Also of a job of which nobody knows more: of a supervisor that died, or never started.
        let works = |job: &JobRun| job.kind == JobKind::Data && job.child.is_some();
        if self.guard.data_job()
            && !self.children.jobs.iter().any(works)
            && self.groups.as_ref().is_none_or(|groups| emptied(&groups.data))
        {
            let _ = self.decide(Event::DataJobEnded);
        }
    }
}

fn has_ended(child: &Child) -> Option<ExitStatus> {
    process::reap(child.pidfd.as_fd())
}
