//! How servers end: in good order, told to, killed, or by themselves.

use crate::core::database::ControlState;
use crate::core::lsn::Lsn;
use crate::core::timeline::checkpoint_end;

use super::postgres::{Place, SEGMENT_BYTES, Stop};
use super::world::{World, ms};

impl World {
    /// SIGINT.
    pub fn stop_fast(&mut self, m: usize) {
        let Some(server) = &mut self.members[m].server else { return };
        if server.stop != Stop::None {
            return;
        }
        server.stop = Stop::Fast;
        server.pending.clear();
        let pid = server.pid;
        let slow = self.prng.per_mille(self.plan.faults.slow_stop);
        let delay = if slow { self.some_ms(5000, 90_000) } else { self.some_ms(20, 1500) };
        self.when_it_moves(m, pid, delay, World::shut_down);
    }

    fn shut_down(&mut self, m: usize, pid: i32) {
        let member = &mut self.members[m];
        let (Some(server), Some(dir)) = (&mut member.server, member.disk.dir_mut()) else { return };
        if server.orphaned {
            return;
        }
        if member.ailing.is_some() {
            // The shutdown checkpoint cannot be written.
            return self.server_gone(m, pid, false);
        }
        if !server.ready || server.recovery {
            if server.ready {
                dir.state = ControlState::ShutDownInRecovery;
                dir.checkpoint_here(true);
            }
            return self.server_gone(m, pid, true);
        }
        server.stop = Stop::ShutDown;
        dir.checkpoint = dir.end;
        dir.min_recovery = Place { branch: 0, lsn: 0 };
        dir.end.lsn = checkpoint_end(Lsn(dir.end.lsn), SEGMENT_BYTES).0;
        dir.state = ControlState::ShutDown;
        self.say(Some(m), || "PostgreSQL wrote its shutdown checkpoint".to_owned(), 2003);
        self.deliver_all(m);
        self.when_it_moves(m, pid, ms(10), World::walsenders_end);
    }

    fn walsenders_end(&mut self, m: usize, pid: i32) {
        let Some(end) = self.members[m].disk.dir().map(|d| d.end.lsn) else { return };
        let waits = self.members[m].server.as_ref().is_some_and(|server| {
            server.senders.iter().any(|(s, lsn)| {
                let alive = self.members[*s].server.as_ref();
                *lsn < end && alive.is_some_and(|s| s.upstream == Some(m) && s.streaming)
            })
        });
        if waits {
            self.when_it_moves(m, pid, ms(20), World::walsenders_end);
        } else {
            self.server_gone(m, pid, true);
        }
    }

    /// SIGQUIT.
    pub fn stop_immediate(&mut self, m: usize) {
        let Some(server) = &self.members[m].server else { return };
        let pid = server.pid;
        let delay = self.some_ms(5, 100);
        self.when_it_moves(m, pid, delay, |w, m, pid| w.server_gone(m, pid, false));
    }

    /// The postmaster dies; its backends may go on, some of them out of reach.
    pub fn postmaster_dies(&mut self, m: usize, orphans: bool, escaped: bool) {
        let Some(server) = &mut self.members[m].server else { return };
        if server.orphaned {
            return;
        }
        let pid = server.pid;
        if !orphans {
            return self.server_gone(m, pid, false);
        }
        server.orphaned = true;
        server.escaped = escaped;
        server.senders.clear();
        if escaped {
            // They end when their client goes away, or when they look after their postmaster.
            let delay = self.some_ms(500, 15_000);
            self.later(delay, move |sim| sim.with(|w| w.server_gone(m, pid, false)));
        }
        self.note_exit(m, pid, false);
        self.observe(m);
    }

    /// The last process is gone.
    pub fn server_gone(&mut self, m: usize, pid: i32, clean: bool) {
        let member = &mut self.members[m];
        if member.server.as_ref().is_none_or(|s| s.pid != pid) {
            return;
        }
        let orphaned = member.server.take().is_some_and(|s| s.orphaned);
        self.say(Some(m), || format!("PostgreSQL {pid} is gone, clean: {clean}"), 2002);
        for other in &mut self.members {
            if let Some(s) = &mut other.server {
                s.senders.remove(&m);
                if s.upstream == Some(m) {
                    s.streaming = false;
                }
            }
        }
        if !orphaned {
            self.note_exit(m, pid, clean);
        }
        self.observe(m);
        self.tell_agent(m);
    }
}
