//! Operators: what they ask for through the REST API and pgvigilctl, with the refusals that those
//! give, and what they do to the store with their own hands.

use std::time::Duration;

use crate::core::cluster::FailoverRequest;
use crate::core::settings::Settings;
use crate::core::time::Wall;

use super::postgres::Disk;
use super::store::{Compare, Request, Write};
use super::world::{Member, World, ms};

/// Of the leases that can be in force after a change of ttl.
pub const LONGEST_TTL: Duration = Duration::from_secs(30);

pub type Refusal = Result<(), &'static str>;

impl World {
    pub fn leader_name(&self) -> Option<String> {
        self.store.cluster().leader.as_ref().map(|l| l.name.clone())
    }

    /// `PATCH /config`.
    pub fn configure_cluster(&mut self, change: impl FnOnce(&mut Settings)) {
        let before = self.settings();
        let mut settings = before.clone();
        change(&mut settings);
        if settings == *before || self.store.config().is_none() {
            return;
        }
        if settings.paused && !before.paused {
            self.checks.leader_at_pause = self.leader_name();
            self.checks.paused_at = self.now;
        }
        self.configs.push(settings);
        let writes = vec![Write::Config(self.configs.len() - 1)];
        self.store.handle(Request::Transaction { compares: Vec::new(), writes }, self.now);
        self.store_changed();
    }

    /// `POST /switchover`; `at`: when, by the wall clock of whoever leads then.
    pub fn ask_switchover(&mut self, to: Option<String>, at: Option<Wall>) -> Refusal {
        let leader = self.leader_name().ok_or("there is no leader")?;
        if self.settings().paused && (to.is_none() || at.is_some()) {
            return Err("in a pause only to a candidate, and at once");
        }
        let synchronous = self.synchronous();
        let sync = self.store.cluster().sync.as_ref().map(|k| k.value.standbys.clone());
        let mut candidates: Vec<String> = self.store.cluster().members.keys().cloned().collect();
        candidates.retain(|name| {
            *name != leader
                && to.as_ref().is_none_or(|to| to == name)
                && (!synchronous || sync.as_ref().is_some_and(|s| s.contains(name)))
        });
        self.admit(&candidates, at.is_some())?;
        let request = FailoverRequest { leader: Some(leader), candidate: to, scheduled_at: at };
        self.write_failover(request)
    }

    /// `POST /failover`.
    pub fn ask_failover(&mut self, to: String) -> Refusal {
        if self.leader_name().as_ref() == Some(&to) {
            return Err("it leads already");
        }
        self.admit(std::slice::from_ref(&to), false)?;
        if self.store.cluster().pause_record.is_some() {
            // The operator says that the paused leader is down; the simulator does not look.
            let length = Duration::from_secs(600);
            for m in 0..self.members.len() {
                self.excuse(m, length, "excused: an operator forced a failover during a pause");
            }
        }
        let request = FailoverRequest { candidate: Some(to), ..FailoverRequest::default() };
        self.write_failover(request)
    }

    /// One of them has to answer as a member that could lead.
    fn admit(&self, candidates: &[String], later: bool) -> Refusal {
        let fit = candidates.iter().filter_map(|name| self.find(name)).any(|m| {
            let ready = self.members[m].server.as_ref().is_some_and(|s| s.ready && s.recovery);
            self.members[m].agent.is_some() && !self.agent_frozen(m) && ready
        });
        if fit || later { Ok(()) } else { Err("no good candidates have been found") }
    }

    fn write_failover(&mut self, request: FailoverRequest) -> Refusal {
        let revision = self.store.cluster().failover.as_ref().map_or(0, |f| f.mod_revision);
        let compares = vec![Compare::FailoverRevision(revision)];
        let writes = vec![Write::Failover(request)];
        self.checks.handover_asked = Some(self.now);
        self.store.handle(Request::Transaction { compares, writes }, self.now);
        self.store_changed();
        Ok(())
    }

    /// `POST /restart` of one member.
    pub fn ask_restart(&mut self, m: usize) -> Refusal {
        let answers = self.probe(m).is_some();
        let running = self.members[m].supervisor.as_ref().is_some_and(|s| s.postmaster.is_some());
        if running && !answers {
            return Err("PostgreSQL is still starting");
        }
        let agent = self.agent(m).ok_or("the member does not answer")?;
        if agent.wishes.restart || agent.memory.restarting {
            return Err("restart already in progress");
        }
        agent.wishes.restart = true;
        self.tell_agent(m);
        Ok(())
    }

    /// `POST /reinitialize` of one member.
    pub fn ask_reinitialize(&mut self, m: usize) -> Refusal {
        let leader = self.leader_name().ok_or("there is no leader")?;
        if leader == self.members[m].name {
            return Err("the leader cannot be reinitialized");
        }
        let agent = self.agent(m).ok_or("the member does not answer")?;
        agent.wishes.reinitialize = true;
        agent.memory.reinitializing = false;
        self.tell_agent(m);
        Ok(())
    }

    /// `systemctl stop`.
    pub fn ask_stop(&mut self, m: usize) -> Refusal {
        let s = self.members[m].supervisor.as_mut().ok_or("it is not running")?;
        s.stop_requested = true;
        self.tell_agent(m);
        Ok(())
    }

    /// The member is stopped, its data directory emptied, and a new one takes its name later.
    pub fn ask_removal(&mut self, m: usize) -> Refusal {
        let name = &self.members[m].name;
        let leads = self.leader_name().as_ref() == Some(name);
        let named = self.store.cluster().sync.as_ref().is_some_and(|k| k.value.contains(name));
        let only = (0..self.members.len()).filter(|o| self.members[*o].disk.dir().is_some());
        if leads || named || only.count() < 3 {
            return Err("its data may be needed");
        }
        self.ask_stop(m)?;
        self.members[m].removed = true;
        Ok(())
    }

    /// Somebody deletes the leader key with etcdctl.
    pub fn delete_leader_key(&mut self) {
        // The leader learns of it when it confirms next, at the latest at its deadline.
        let length = LONGEST_TTL + ms(1000);
        for o in 0..self.members.len() {
            self.excuse(o, length, "excused: an operator deleted the leader key");
        }
        self.store.delete_leader_key();
        self.store_changed();
    }

    /// An operator forces a failover to a member that does not have every commit by what `/sync`
    /// says alone: commits may be lost, as the operator was told.
    pub fn forced_past_sync(&self, name: &str) -> bool {
        let store = self.store.cluster();
        let named = store.sync.as_ref().is_none_or(|key| {
            let leads = key.value.leader.as_deref() == Some(name);
            leads || (key.value.contains(name) && key.value.quorum == 0)
        });
        let asked = store.failover.as_ref().is_some_and(|key| {
            key.value.leader.is_none() && key.value.candidate.as_deref() == Some(name)
        });
        asked && !named
    }

    /// What operators asked for and what has neither been done nor been given up.
    pub fn unfinished(&self) -> Option<String> {
        if let Some(key) = &self.store.cluster().failover
            && !key.value.is_empty()
            && key.value.scheduled_at.is_none_or(|at| at.0 < (self.now / 1000) as i64)
        {
            return Some(format!("/failover {:?}", key.value));
        }
        // What stands in the way of a restart of an unfinished copy is for people to remove.
        let able = |m: &&Member| m.enabled && !matches!(m.disk, Disk::Rubbish);
        self.members.iter().filter(able).find_map(|m| {
            let a = m.agent.as_ref()?;
            let restart = a.wishes.restart || a.memory.restarting;
            let copy = a.wishes.reinitialize || a.memory.reinitializing;
            let what = if restart { "restart" } else { "reinitialize" };
            (restart || copy).then(|| format!("{what} of {}", m.name))
        })
    }
}
