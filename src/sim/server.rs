//! The life of a postmaster: start, promotion, streaming, commits, stop and death.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::core::database::{ControlState, Probe, WalReceiver, WalSender};
use crate::core::lsn::Lsn;
use crate::core::sync_names::{self, SyncNames};

use super::fault::RESTORED;
use super::postgres::{Commit, Server, Stop};
use super::world::{Host, World, ms};

/// Between two tries of a walreceiver, and between its looks at a silent connection.
const RECEIVER_EVERY: Duration = Duration::from_millis(500);
const CLIENT_EVERY: Duration = Duration::from_millis(200);

impl World {
    /// The processes of PostgreSQL get the processor.
    pub fn server_moves(&self, m: usize) -> bool {
        let member = &self.members[m];
        let Some(server) = &member.server else { return false };
        let frozen = member.frozen && !server.outside();
        let waits = server.hung || server.doomed || self.volume_hangs(m);
        member.host == Host::Up && !frozen && !waits
    }

    pub fn start_server(&mut self, m: usize, primary: bool) {
        let member = &mut self.members[m];
        member.pids += 1;
        let pid = member.pids;
        if member.server.is_some() {
            return self.start_beside(m, pid);
        }
        let Some(dir) = member.disk.dir_mut() else { return };
        if primary && dir.standby_signal {
            self.checks.violate(
                self.now,
                "history: a standby's data directory was started as a primary".to_owned(),
            );
        }
        dir.standby_signal = !primary;
        if !primary {
            // Served as a standby, of whomever: its files tell no more what it was.
            dir.primary_of = usize::MAX;
        }
        let crashed =
            !matches!(dir.state, ControlState::ShutDown | ControlState::ShutDownInRecovery);
        dir.state =
            if primary { ControlState::InCrashRecovery } else { ControlState::InArchiveRecovery };
        let (sync_names, upstream) = (dir.sync_names.clone(), dir.upstream);
        member.server = Some(Server {
            pid,
            ready: false,
            recovery: !primary,
            stop: Stop::None,
            promoting: false,
            orphaned: false,
            escaped: false,
            hung: false,
            doomed: false,
            sync_names: if primary { sync_names } else { String::new() },
            upstream,
            streaming: false,
            senders: BTreeMap::new(),
            pending: VecDeque::new(),
        });
        let started = self.local(m);
        if let Some(s) = &mut self.members[m].supervisor {
            s.postmaster = Some((pid, started));
        }
        self.tell_agent(m);
        let delay = if crashed { self.some_ms(100, 4000) } else { self.some_ms(50, 600) };
        self.when_it_moves(m, pid, delay, World::server_ready);
        let delay = self.some_ms(50, 300);
        self.when_it_moves(m, pid, delay, World::receiver);
    }

    /// PostgreSQL does not start while a process is attached to the shared memory of the old one.
    fn start_beside(&mut self, m: usize, pid: i32) {
        self.checks.exercise("a start beside an old backend");
        let at = self.local(m);
        if let Some(s) = &mut self.members[m].supervisor {
            s.postmaster = Some((pid, at));
        }
        self.later(ms(20), move |sim| {
            sim.with(|w| {
                w.note_exit(m, pid, false);
                w.observe(m);
            });
        });
    }

    /// Does something in the server after a delay, later when it stands still then.
    pub fn when_it_moves(
        &mut self,
        m: usize,
        pid: i32,
        delay: Duration,
        f: fn(&mut World, usize, i32),
    ) {
        self.later(delay, move |sim| {
            sim.with(|w| {
                if w.members[m].server.as_ref().is_none_or(|s| s.pid != pid) {
                    return;
                }
                if w.server_moves(m) {
                    f(w, m, pid);
                } else {
                    w.when_it_moves(m, pid, ms(50), f);
                }
            });
        });
    }

    fn server_ready(&mut self, m: usize, pid: i32) {
        let member = &mut self.members[m];
        let (Some(server), Some(dir)) = (&mut member.server, member.disk.dir_mut()) else { return };
        if server.stop != Stop::None || server.orphaned {
            return;
        }
        if member.ailing.is_some() {
            // "could not write lock file": no room, or no right to.
            return self.server_gone(m, pid, false);
        }
        server.ready = true;
        let recovery = server.recovery;
        if !recovery {
            dir.state = ControlState::InProduction;
            dir.checkpoint_here(false);
            self.checks.became_primary(m);
        }
        self.say(Some(m), || format!("PostgreSQL {pid} is ready, recovery: {recovery}"), 2000);
        if !recovery {
            self.when_it_moves(m, pid, CLIENT_EVERY, World::client);
        }
    }

    /// A client writes a row.
    fn client(&mut self, m: usize, pid: i32) {
        let step = self.prng.between(8, 2000) * 8;
        let delay = CLIENT_EVERY + self.some_ms(0, 100);
        let member = &mut self.members[m];
        if member.server.as_ref().is_none_or(|s| s.stop != Stop::None) {
            return;
        }
        self.when_it_moves(m, pid, delay, World::client);
        let member = &mut self.members[m];
        if member.ailing.is_some() {
            return;
        }
        let (Some(server), Some(dir)) = (&mut member.server, member.disk.dir_mut()) else { return };
        if server.pending.len() < 20 {
            dir.end.lsn += step;
            server.pending.push_back(dir.end);
            self.acknowledge(m);
            self.deliver_all(m);
        }
    }

    /// Tells clients of the commits that need not wait any more.
    pub fn acknowledge(&mut self, m: usize) {
        if !self.server_moves(m) {
            return;
        }
        let Some(server) = &self.members[m].server else { return };
        if !server.writable() {
            return;
        }
        let limit = match sync_names::parse(&server.sync_names) {
            None => u64::MAX,
            Some(names) => {
                let named = |s: &usize| self.is_named(&names, *s);
                let senders = server.senders.iter().filter(|(s, _)| named(s));
                let mut flushed: Vec<u64> = senders.map(|(_, lsn)| *lsn).collect();
                flushed.sort_by_key(|lsn| std::cmp::Reverse(*lsn));
                flushed.get(names.count as usize - 1).copied().unwrap_or(0)
            }
        };
        let Some(server) = &mut self.members[m].server else { return };
        let mut done = Vec::new();
        while server.pending.front().is_some_and(|at| at.lsn <= limit) {
            done.extend(server.pending.pop_front());
        }
        // By somebody who may acknowledge only under an excuse: whoever holds the key overrules it.
        let doubtful = self.excused(m).is_some_and(|excuse| {
            excuse == RESTORED || self.leader_name().as_ref() != Some(&self.members[m].name)
        });
        for at in done {
            self.commits.push(Commit { at, lost: false, doubtful });
            self.checks.acknowledged(self.now);
        }
    }

    /// Commits may wait for this member under these names.
    pub fn is_named(&self, names: &SyncNames, m: usize) -> bool {
        names.is_any() || names.names.contains(&self.members[m].name)
    }

    pub fn promote_server(&mut self, m: usize) {
        let Some(server) = &mut self.members[m].server else { return };
        if server.promoting || !server.recovery {
            return;
        }
        server.promoting = true;
        let pid = server.pid;
        let delay = self.some_ms(50, 2000);
        self.when_it_moves(m, pid, delay, World::promoted);
    }

    fn promoted(&mut self, m: usize, pid: i32) {
        let member = &mut self.members[m];
        let (Some(server), Some(dir)) = (&mut member.server, member.disk.dir_mut()) else { return };
        if !server.ready || server.stop != Stop::None || server.orphaned {
            return;
        }
        let number = dir.known_timeline.max(self.wal.number(dir.end.branch)) + 1;
        let fork = dir.end;
        let branch = self.wal.fork(fork, number);
        dir.end.branch = branch;
        dir.known_timeline = number;
        dir.primary_of = branch;
        dir.min_recovery = dir.end;
        dir.state = ControlState::InProduction;
        dir.standby_signal = false;
        server.recovery = false;
        server.promoting = false;
        server.streaming = false;
        server.sync_names = dir.sync_names.clone();
        self.say(
            Some(m),
            || format!("PostgreSQL promoted, timeline {number} at {}", Lsn(fork.lsn)),
            2001,
        );
        self.checks.became_primary(m);
        self.check_promotion(m, number, fork);
        self.when_it_moves(m, pid, CLIENT_EVERY, World::client);
        let delay = self.some_ms(100, 3000);
        self.when_it_moves(m, pid, delay, World::checkpointed);
        self.tell_agent(m);
    }

    fn checkpointed(&mut self, m: usize, _: i32) {
        let member = &mut self.members[m];
        let (Some(server), Some(dir)) = (&member.server, member.disk.dir_mut()) else { return };
        if server.stop == Stop::None {
            dir.checkpoint_here(server.recovery);
        }
    }

    /// The walreceiver's life: connect, notice what is gone.
    fn receiver(&mut self, m: usize, pid: i32) {
        let Some(server) = &self.members[m].server else { return };
        if !server.recovery || server.stop != Stop::None || server.orphaned {
            return;
        }
        let (upstream, streaming) = (server.upstream, server.streaming);
        self.when_it_moves(m, pid, RECEIVER_EVERY, World::receiver);
        let source = upstream.filter(|u| *u != m && self.can_send(*u, m));
        if let Some(dir) = self.members[m].disk.dir_mut() {
            // A restartpoint.
            dir.min_recovery = dir.end;
        }
        match source {
            Some(u) => self.connect(m, u),
            // A connection that went silent is given up after a time.
            None if streaming && self.prng.per_mille(200) => {
                if let Some(server) = &mut self.members[m].server {
                    server.streaming = false;
                }
            }
            None => {}
        }
    }

    fn can_send(&self, from: usize, to: usize) -> bool {
        self.reaches(from, to)
            && self.reaches(to, from)
            && self.members[from].host == Host::Up
            && self.members[from].server.as_ref().is_some_and(|s| s.ready && !s.hung)
    }

    fn connect(&mut self, m: usize, u: usize) {
        let (Some(mine), Some(theirs)) =
            (self.members[m].disk.dir().map(|d| d.end), self.members[u].disk.dir().map(|d| d.end))
        else {
            return;
        };
        let fits = self.wal.may_stream(theirs, mine);
        if fits && !self.wal.contains(theirs, mine) {
            self.check_stream(m, u, mine, theirs);
        }
        let (ours, stopping) = {
            let Some(sender) = &self.members[u].server else { return };
            (fits, sender.stop != Stop::None)
        };
        let Some(server) = &mut self.members[m].server else { return };
        let was = server.streaming;
        server.streaming = ours && (was || !stopping);
        if !server.streaming {
            if let Some(sender) = &mut self.members[u].server {
                sender.senders.remove(&m);
            }
            return;
        }
        if let Some(sender) = &mut self.members[u].server {
            sender.senders.entry(m).or_insert(mine.lsn);
        }
        self.deliver(u, m);
    }

    /// New WAL goes to all who stream from here.
    pub fn deliver_all(&mut self, u: usize) {
        let Some(server) = &self.members[u].server else { return };
        let standbys: Vec<usize> = server.senders.keys().copied().collect();
        for m in standbys {
            self.deliver(u, m);
        }
    }

    fn deliver(&mut self, u: usize, m: usize) {
        let delay = self.delay();
        self.later(delay, move |sim| sim.with(|w| w.received(u, m)));
    }

    fn received(&mut self, u: usize, m: usize) {
        let follows = self.members[m]
            .server
            .as_ref()
            .is_some_and(|s| s.recovery && s.streaming && s.upstream == Some(u));
        if !self.members[m].receives || self.members[m].ailing.is_some() {
            return;
        }
        if !follows || !self.can_send(u, m) || !self.server_moves(m) || !self.server_moves(u) {
            return;
        }
        let Some(theirs) = self.members[u].disk.dir().map(|d| (d.end, d.known_timeline)) else {
            return;
        };
        let Some(dir) = self.members[m].disk.dir_mut() else { return };
        let mine = dir.end;
        if !self.wal.may_stream(theirs.0, mine) {
            return;
        }
        let moved = mine != theirs.0;
        dir.end = theirs.0;
        dir.primary_of = usize::MAX;
        dir.known_timeline = dir.known_timeline.max(theirs.1);
        if let Some(sender) = &mut self.members[u].server {
            sender.senders.insert(m, theirs.0.lsn);
        }
        self.acknowledge(u);
        if moved {
            self.deliver_all(m);
        }
    }

    /// The answer to the status query.
    pub fn probe(&self, m: usize) -> Option<Probe> {
        let member = &self.members[m];
        let (server, dir) = (member.server.as_ref()?, member.disk.dir()?);
        if !server.ready || server.orphaned || server.stop != Stop::None {
            return None;
        }
        let number = self.wal.number(dir.end.branch);
        let recovery = server.recovery;
        let here = Some(Lsn(dir.end.lsn));
        let receiver = (recovery && server.streaming)
            .then(|| WalReceiver { status: "streaming".to_owned(), ..WalReceiver::default() });
        let names = sync_names::parse(&server.sync_names);
        let senders = server.senders.iter().map(|(s, lsn)| {
            let name = self.members[*s].name.clone();
            let sync = names.as_ref().is_some_and(|names| self.is_named(names, *s));
            WalSender {
                state: "streaming".to_owned(),
                sync_state: if sync { "sync" } else { "async" }.to_owned(),
                flush_lsn: Some(Lsn(*lsn)),
                application_name: name,
                ..WalSender::default()
            }
        });
        let control = dir.control(&self.wal);
        let in_files = control.timeline.max(control.min_recovery_timeline);
        Some(Probe {
            server_version: 150_000,
            system_identifier: dir.system_identifier,
            in_recovery: recovery,
            timeline: if recovery && !server.streaming { in_files } else { number },
            flush_lsn: here.filter(|_| !recovery),
            insert_lsn: here.filter(|_| !recovery),
            receive_lsn: here.filter(|_| recovery),
            replay_lsn: here.filter(|_| recovery),
            checkpointer_idle: true,
            writers: 0,
            wal_receiver: receiver,
            wal_senders: senders.collect(),
            synchronous_standby_names: server.sync_names.clone(),
            ..Probe::default()
        })
    }
}
