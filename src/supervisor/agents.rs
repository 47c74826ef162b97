//! Agents, one after the other: each in the same group, which is empty before the next begins,
//! with a generation and a socket pair of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::children::Prepared;
use super::groups::emptied;
use super::watch::Supervisor;
use crate::core::time::Boot;
use crate::link::order::Command;
use crate::link::state::{ExitStatus, Refusal, State};
use crate::link::{self, SupervisorEnd};
use crate::sys::process::{self, Child};
use crate::sys::{clock, fd};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An agent that lived so long failed for a new reason.
const SETTLED: Duration = Duration::from_secs(30);
/// An agent that says nothing for so long is replaced. Only it: the deadline is another matter.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// An agent that closed its end is ending; its exit code tells why.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// Orders taken in one turn of the loop.
const ORDERS_MAX: usize = 64;
/// The agent's way to say that its configuration is wrong (EX_CONFIG).
const REFUSES_CONFIGURATION: i32 = 78;
/// The number under which an agent finds its end of the link.
const LINK_NUMBER: i32 = 3;

#[derive(Debug)]
pub struct Agents {
    current: Option<Agent>,
    /// Begins with the milliseconds since the boot, so that no two supervisors number their agents
    /// alike: a job's id, which holds its agent's number, means one job only.
    pub generation: u32,
    next_at: Boot,
    backoff: Duration,
}

#[derive(Debug)]
struct Agent {
    child: Child,
    /// `None` after its end was closed: it is ending or being killed.
    link: Option<SupervisorEnd>,
    started_at: Boot,
    heard_at: Boot,
    seq_seen: u64,
    refused: Option<Refusal>,
    sent: Option<State>,
}

impl Agents {
    pub fn new() -> Agents {
        let generation = (clock::boot().0 / 1_000_000) as u32;
        Agents { current: None, generation, next_at: Boot(0), backoff: BACKOFF_MIN }
    }

    pub fn child(&self) -> Option<&Child> {
        self.current.as_ref().map(|agent| &agent.child)
    }

    /// The socket, and whether a state waits for it to become writable.
    pub fn link(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let link = self.current.as_ref()?.link.as_ref()?;
        Some((link.as_fd(), link.has_unsent()))
    }

    /// Whether the next agent is due in a moment.
    pub fn waits(&self) -> bool {
        self.current.is_none()
    }

    /// The part of the state that answers this agent's orders.
    pub fn receipt(&self) -> State {
        let agent = self.current.as_ref();
        State {
            generation: self.generation,
            seq_seen: agent.map_or(0, |agent| agent.seq_seen),
            refused: agent.and_then(|agent| agent.refused.clone()),
            ..State::default()
        }
    }
}

impl Supervisor {
    pub fn tend_agent(&mut self, now: Boot) {
        match &mut self.agents.current {
            Some(agent) => {
                let patience = if agent.link.is_some() { SILENCE_MAX } else { ENDING_MAX };
                if let Some(status) = process::reap(agent.child.pidfd.as_fd()) {
                    self.agent_ended(status, now);
                } else if now.since(agent.heard_at) >= patience {
                    agent.heard_at = now;
                    self.log.warning("the agent is silent: killing it");
                    self.kill_agent();
                }
            }
            None if now >= self.agents.next_at => {
                if self.groups.as_ref().is_none_or(|groups| emptied(&groups.agent))
                    && let Err(error) = self.start_agent()
                {
                    self.log.critical(&format!("cannot start an agent: {error}"));
                    self.agents.next_at = now.plus(BACKOFF_MAX);
                }
            }
            None => {}
        }
    }

    fn start_agent(&mut self) -> io::Result<()> {
        let (ours, theirs) = fd::seqpacket_pair()?;
        self.agents.generation = self.agents.generation.wrapping_add(1);
        self.counters.agent_starts = self.counters.agent_starts.wrapping_add(1);
        let own = [
            (link::LINK_FD.into(), LINK_NUMBER.to_string()),
            (link::GENERATION.into(), self.agents.generation.to_string()),
        ];
        let env = own.into_iter().chain(process::variables("PATRONI")).collect();
        let command = Command { argv: self.options.agent.clone(), env, ..Command::default() };
        let prepared = Prepared::new(&command).map_err(io::Error::other)?;
        let group = self.groups.as_ref().map(|groups| groups.agent.dir());
        let child = prepared.spawn(group, Some((theirs.as_fd(), LINK_NUMBER)), c"0")?;
        let now = clock::boot();
        self.agents.current = Some(Agent {
            child,
            link: Some(SupervisorEnd::new(ours)),
            started_at: now,
            heard_at: now,
            seq_seen: 0,
            refused: None,
            sent: None,
        });
        Ok(())
    }

    fn agent_ended(&mut self, status: ExitStatus, now: Boot) {
        let Some(agent) = self.agents.current.take() else { return };
        if self.groups.is_none() {
            process::kill(-agent.child.pid, libc::SIGKILL);
        }
        if status == ExitStatus::Code(REFUSES_CONFIGURATION) && self.member.is_none() {
            self.exit = Some(1);
            return;
        }
        let settled = now.since(agent.started_at) >= SETTLED;
        let wait = if settled { BACKOFF_MIN } else { self.agents.backoff };
        self.agents.backoff = (wait * 2).min(BACKOFF_MAX);
        self.agents.next_at = now.plus(wait);
        self.log.warning(&format!("the agent ended ({status:?}): next in {wait:?}"));
    }

    /// SIGKILL to the whole generation; its end is seen by its pidfd.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = &mut self.agents.current {
            agent.link = None;
            process::signal_all(&agent.child, libc::SIGKILL);
        }
        if let Some(groups) = &self.groups {
            emptied(&groups.agent);
        }
    }

    pub fn take_orders(&mut self, now: Boot) {
        for _ in 0..ORDERS_MAX {
            let Some(agent) = &mut self.agents.current else { return };
            let Some(link) = &mut agent.link else { return };
            let envelope = match link.recv() {
                Ok(Some(envelope)) => envelope,
                Ok(None) => return,
                // Nothing but a restart follows from this: the deadline stands where it stood.
                Err(error) => {
                    agent.link = None;
                    agent.heard_at = now;
                    return self.log.info(&format!("the agent's link is at its end: {error}"));
                }
            };
            agent.heard_at = now;
            if envelope.generation != self.agents.generation || envelope.seq <= agent.seq_seen {
                continue;
            }
            let seq = envelope.seq;
            let answer = self.obey(envelope.order, now);
            let Some(agent) = &mut self.agents.current else { return };
            agent.seq_seen = seq;
            if let Err(reason) = answer {
                self.log.warning(&format!("order {seq} refused: {reason}"));
                agent.refused = Some(Refusal { seq, reason });
            }
        }
    }

    /// Sends the state if it changed since the last time.
    pub fn publish_state(&mut self) {
        let state = self.state();
        let Some(agent) = &mut self.agents.current else { return };
        let Some(link) = &mut agent.link else { return };
        if agent.sent.as_ref() == Some(&state) {
            link.flush();
        } else {
            link.send(&state);
            agent.sent = Some(state);
        }
    }
}
