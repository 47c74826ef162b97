//! Jobs on the data directory: initdb, base backup, rewind.

use crate::core::database::ControlState;
use crate::core::guard::Event;
use crate::core::view::Work;

use super::postgres::{Branch, Dir, Disk, Place};
use super::supervisor::Job;
use super::world::{Host, World, ms};

/// Begins a job by order of the agent.
pub fn run(w: &mut World, m: usize, work: Work, from: Option<String>) -> Result<(), &'static str> {
    w.decide(m, Event::StartDataJob).map_err(|r| r.0)?;
    let generation = w.members[m].generations;
    let Some(s) = &mut w.members[m].supervisor else { return Err("no supervisor") };
    let id = (u64::from(generation) << 32) + s.jobs.len() as u64 + 1;
    s.jobs.push(Job { id, work, succeeded: None, cancelled: false });
    if let Some(dir) = w.members[m].disk.dir_mut()
        && work == Work::Rewind
    {
        dir.standby_signal = true;
        dir.half_rewound = true;
    }
    let source = from.and_then(|name| w.find(&name));
    let delay = match work {
        Work::Initdb => w.some_ms(500, 3000),
        Work::BaseBackup => w.some_ms(1000, 30_000),
        Work::Rewind => w.some_ms(300, 8000),
    };
    let ok = match work {
        Work::BaseBackup if matches!(w.members[m].disk, Disk::Empty) => {
            w.members[m].disk = Disk::Rubbish;
            true
        }
        Work::BaseBackup => false,
        Work::Initdb | Work::Rewind => true,
    };
    let lucky = ok && !w.prng.per_mille(w.plan.faults.job_failure);
    w.later(delay, move |sim| sim.with(|w| end(w, m, id, work, source, lucky)));
    w.tell_agent(m);
    Ok(())
}

fn find(w: &mut World, m: usize, id: u64) -> Option<&mut Job> {
    w.members[m].supervisor.as_mut()?.jobs.iter_mut().find(|j| j.id == id && j.succeeded.is_none())
}

pub fn cancel(w: &mut World, m: usize) {
    if let Some(s) = &mut w.members[m].supervisor {
        s.jobs.iter_mut().for_each(|j| j.cancelled = true);
    }
}

fn end(w: &mut World, m: usize, id: u64, work: Work, source: Option<usize>, lucky: bool) {
    let frozen = w.members[m].host == Host::Frozen
        || w.members[m].supervisor.as_ref().is_some_and(|s| s.frozen);
    if frozen {
        return w.later(ms(100), move |sim| sim.with(|w| end(w, m, id, work, source, lucky)));
    }
    let Some(job) = find(w, m, id) else { return };
    let lucky = lucky && !job.cancelled;
    let succeeded = lucky
        && match work {
            Work::Initdb => initdb(w, m),
            Work::BaseBackup => source.is_some_and(|u| base_backup(w, m, u)),
            Work::Rewind => source.is_some_and(|u| rewind(w, m, u)),
        };
    if !succeeded && matches!(w.members[m].disk, Disk::Rubbish) {
        // pg_basebackup removes what it has written when it fails by itself.
        w.members[m].disk = Disk::Empty;
    }
    w.say(Some(m), || format!("{work:?} ended, succeeded: {succeeded}"), 4000);
    if let Some(job) = find(w, m, id) {
        job.succeeded = Some(succeeded);
    }
    let _ = w.decide(m, Event::DataJobEnded);
}

fn initdb(w: &mut World, m: usize) -> bool {
    let branch = w.wal.root();
    let end = Place { branch, lsn: 0x0100_0028 };
    let system_identifier = w.prng.next() >> 1;
    w.members[m].disk = Disk::Data(Box::new(Dir {
        system_identifier,
        end: Place { branch, lsn: 0x0100_00A0 },
        state: ControlState::ShutDown,
        checkpoint: end,
        min_recovery: Place { branch: 0, lsn: 0 },
        standby_signal: false,
        bootstrapping: false,
        promoting: false,
        half_rewound: false,
        sync_names: String::new(),
        upstream: None,
        primary_of: branch,
        known_timeline: 1,
    }));
    true
}

fn answers(w: &World, m: usize, u: usize) -> bool {
    u != m
        && w.reaches(m, u)
        && w.reaches(u, m)
        && w.server_moves(u)
        && w.members[u].server.as_ref().is_some_and(|s| s.ready && !s.orphaned)
}

fn base_backup(w: &mut World, m: usize, u: usize) -> bool {
    let Some(source) = w.members[u].disk.dir().filter(|_| answers(w, m, u)) else { return false };
    let copy = Dir {
        standby_signal: false,
        bootstrapping: false,
        promoting: false,
        half_rewound: false,
        sync_names: String::new(),
        upstream: None,
        primary_of: Branch::MAX,
        ..source.clone()
    };
    w.members[m].disk = Disk::Data(Box::new(copy));
    true
}

fn rewind(w: &mut World, m: usize, u: usize) -> bool {
    let primary = w.members[u].server.as_ref().is_some_and(|s| !s.recovery);
    let Some(source) = w.members[u].disk.dir().filter(|_| answers(w, m, u) && primary).cloned()
    else {
        return false;
    };
    let Some(mine) = w.members[m].disk.dir().cloned() else { return false };
    let number = |p: Place| w.wal.number(p.branch);
    if number(source.checkpoint) == number(mine.checkpoint) {
        // "no rewind required"; a crashed server was recovered on the way.
        if let Some(dir) = w.members[m].disk.dir_mut()
            && matches!(mine.state, ControlState::InProduction | ControlState::InCrashRecovery)
        {
            dir.state = ControlState::ShutDown;
        }
        return true;
    }
    if w.wal.fork_point(mine.end, source.end).is_none() {
        return false;
    }
    w.check_removal(m);
    let rewound = Dir {
        state: ControlState::InArchiveRecovery,
        min_recovery: source.end,
        standby_signal: true,
        half_rewound: true,
        sync_names: String::new(),
        upstream: None,
        primary_of: Branch::MAX,
        ..source
    };
    w.members[m].disk = Disk::Data(Box::new(rewound));
    true
}

impl World {
    /// The job was killed: what it had written stays.
    pub fn end_job_midway(&mut self, m: usize) {
        self.say(Some(m), || "a job on the data directory was killed".to_owned(), 4001);
    }
}
