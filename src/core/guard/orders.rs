//! The agent's orders: what is refused when, and what is permitted.

use super::{Answer, Confirmation, Effect, GroupState, Guard, Phase, refuse};
use crate::core::budget::Budget;
use crate::core::cluster::Tenure;
use crate::core::time::Boot;

impl Guard {
    /// Shrink at once, grow with the next confirmation: the lease in the store still has the old
    /// length, and a deadline must never count on more than was granted.
    pub(super) fn retune(&mut self, budget: Budget, out: &mut Vec<Effect>) {
        let longer = self.budget.is_some_and(|old| budget.t1 > old.t1);
        if longer && self.phase != Phase::Idle {
            self.larger = Some(budget);
            return;
        }
        self.larger = None;
        self.budget = Some(budget);
        if let (Phase::Leading, Some(lease)) = (self.phase, self.lease) {
            // Never later: a confirmation that gave no ping moved none, and moves none now.
            self.deadline = self.deadline.min(Some(lease.sent_at.plus(budget.t1)));
        }
        self.arm(out);
    }

    pub(super) fn campaign(&mut self, out: &mut Vec<Effect>) -> Answer {
        if self.budget.is_none() {
            return refuse("not configured");
        }
        match self.phase {
            Phase::Idle | Phase::Fenced => self.phase = Phase::Candidate,
            Phase::Candidate | Phase::Leading => {}
            // A found postmaster stays frozen until the race is won or the freeze ends.
            Phase::Frozen if self.lease.is_none() => {}
            Phase::Frozen => return refuse("frozen: no campaign before the old lease is settled"),
            Phase::Killing => return refuse("a kill is under way"),
            Phase::Sealed => return refuse("sealed: the postmaster has not ended yet"),
            Phase::Paused => return refuse("paused"),
        }
        self.arm_device(out);
        Ok(())
    }

    pub(super) fn withdraw(&mut self, out: &mut Vec<Effect>) -> Answer {
        match self.phase {
            Phase::Candidate | Phase::Leading if self.may_acknowledge() => {
                refuse("this postmaster got a permit: stop it, or fence")
            }
            Phase::Candidate | Phase::Leading => {
                self.settle(Phase::Idle, out);
                Ok(())
            }
            Phase::Idle | Phase::Fenced => Ok(()),
            Phase::Frozen | Phase::Killing | Phase::Sealed | Phase::Paused => {
                refuse("not a candidate")
            }
        }
    }

    pub(super) fn confirm(
        &mut self,
        new: Confirmation,
        now: Boot,
        out: &mut Vec<Effect>,
    ) -> Answer {
        // The configured length may be another than the granted one: a lease is what its grant was.
        let larger = self.larger.filter(|larger| larger.ttl <= new.ttl);
        let Some(budget) = larger.or(self.budget) else { return refuse("not configured") };
        if new.ttl < budget.ttl {
            return refuse("the lease is shorter than the budget counts on: retune first");
        }
        if new.sent_at > now {
            return refuse("confirmation sent in the future");
        }
        if new.sent_at < self.last_sent {
            return refuse("confirmation older than the last one");
        }
        if self.burned == Some(new.tenure) {
            return refuse("this tenure was given up");
        }
        if new.sent_at.plus(budget.t1) <= now {
            return refuse("confirmation too old: its deadline has passed");
        }
        if let Some(old) = self.lease {
            // In a pause no deadline rests on it, and it would be refused for ever: the old store's
            // pause record keeps its members from the key, the key those of the new one.
            let another = old.cluster_id != new.cluster_id || new.raft_term < old.raft_term;
            if another && self.phase != Phase::Paused {
                return refuse("another store, or one restored from a backup");
            }
            // What is frozen goes on only if nobody else held the key in between. So it is with the
            // key on the lease that the last confirmation named: nothing but the transaction that
            // replaced our own key, and compared its tenure, can have attached that lease. It is
            // evidence as any other: the lease was renewed, and counts from when that was sent, and
            // *then* a read showed the key on it. In a pause the lease may run out: the transaction
            // that took the key again compared the record under which nobody else could.
            let ours = old.tenure == new.tenure || old.next == Some(new.tenure.lease_id);
            if !ours && self.phase == Phase::Frozen {
                return refuse("another tenure than the one before the freeze");
            }
        }
        match self.phase {
            Phase::Candidate if !self.is_watched(budget) || !self.is_newest(&new) => {
                // One that was lost since, or that only the larger budget has, never comes else.
                self.arm_device_for(budget, out);
                return refuse("the watchdog device was not armed before this renewal was sent");
            }
            Phase::Candidate | Phase::Leading | Phase::Paused => {}
            // A thaw obeys the rule of a promotion: only on proof younger than G, so that a stall
            // between the proof and the act stays within what the budget allows.
            Phase::Frozen if !self.is_newest(&new) || !self.covers(&new, budget, now) => {
                return refuse("the watchdog device was pinged after this renewal was sent");
            }
            // Found: nobody campaigned for it.
            Phase::Frozen if self.lease.is_none() && !self.is_watched(budget) => {
                self.arm_device_for(budget, out);
                return refuse("the watchdog device is being armed");
            }
            Phase::Frozen if now.since(new.sent_at) <= budget.g => {}
            Phase::Frozen => return refuse("confirmation too old to thaw"),
            Phase::Idle | Phase::Fenced => return refuse("not armed: campaign first"),
            Phase::Killing | Phase::Sealed => return refuse("the end of this tenure is decided"),
        }
        // A sentinel that was about to freeze while this group was thawed froze it again.
        let same = self.lease.is_some_and(|old| old.tenure == new.tenure);
        let again = self.phase == Phase::Leading
            && same
            && self.group.frozen
            && now.since(new.sent_at) <= budget.g;
        self.accept(new, budget, now, out);
        if again {
            out.push(Effect::Thaw);
        }
        Ok(())
    }

    /// Promises are worth a lease of the length in force (`core::failsafe`), but only while no
    /// deadline has passed: what is frozen may have been followed by another leader, which no
    /// promise given afterwards tells.
    pub(super) fn extend(
        &mut self,
        tenure: Tenure,
        sent_at: Boot,
        now: Boot,
        out: &mut Vec<Effect>,
    ) -> Answer {
        match (self.phase, self.lease, self.budget) {
            (Phase::Leading, Some(lease), Some(budget))
                if lease.tenure == tenure && (lease.sent_at..=now).contains(&sent_at) =>
            {
                self.accept(Confirmation { sent_at, ttl: budget.ttl, ..lease }, budget, now, out);
                Ok(())
            }
            _ => refuse("promises extend only a running deadline of their own tenure"),
        }
    }

    fn accept(&mut self, new: Confirmation, budget: Budget, now: Boot, out: &mut Vec<Effect>) {
        self.budget = Some(budget);
        // One that waits for a longer lease goes on waiting.
        self.larger = self.larger.filter(|larger| larger.t1 > budget.t1);
        self.lease = Some(new);
        self.last_sent = new.sent_at;
        if self.phase == Phase::Paused {
            return;
        }
        let thaw = self.phase == Phase::Frozen;
        self.phase = Phase::Leading;
        if self.covers(&new, budget, now) {
            self.deadline = Some(new.sent_at.plus(budget.t1));
        }
        // Armed before the thaw: were we stopped in between, the sentinel has the deadline.
        self.arm(out);
        self.prove(now, out);
        if thaw {
            out.push(Effect::Thaw);
        }
    }

    pub(super) fn lease_lost(&mut self, tenure: Tenure, now: Boot, out: &mut Vec<Effect>) {
        // News of a possession that is over change nothing.
        if self.lease.map(|lease| lease.tenure) != Some(tenure) {
            return;
        }
        match self.phase {
            Phase::Leading | Phase::Frozen if self.may_acknowledge() => self.kill(now, out),
            Phase::Leading | Phase::Frozen => {
                self.settle(Phase::Idle, out);
                self.spare_standby(out);
            }
            // While the pause record exists nobody takes a vacant key; operators decide.
            Phase::Paused => {}
            Phase::Idle | Phase::Candidate | Phase::Killing | Phase::Fenced | Phase::Sealed => {}
        }
    }

    /// The pause record keeps everybody from the key until its leader says otherwise, and a standby
    /// acknowledges nothing: neither needs anybody who watches a deadline.
    pub(super) fn leave(&self) -> Answer {
        match self.phase {
            _ if self.data_job => refuse("a job is working on the data directory"),
            Phase::Paused => Ok(()),
            Phase::Idle if !self.permitted => Ok(()),
            _ => refuse("PostgreSQL may accept writes and no pause record covers it"),
        }
    }

    pub(super) fn data_directory_is_free(&self) -> Answer {
        if self.group.populated {
            return refuse("PostgreSQL is running");
        }
        if self.data_job {
            return refuse("a job is working on the data directory");
        }
        Ok(())
    }

    pub(super) fn start_standby(&mut self, out: &mut Vec<Effect>) -> Answer {
        self.data_directory_is_free()?;
        if self.phase == Phase::Fenced {
            self.phase = Phase::Idle;
        }
        self.begin(out);
        Ok(())
    }

    pub(super) fn start_primary(&mut self, now: Boot, out: &mut Vec<Effect>) -> Answer {
        self.data_directory_is_free()?;
        self.fresh(now)?;
        self.begin(out);
        self.permitted = true;
        Ok(())
    }

    /// Counts the group as populated from the permit on: the start is under way.
    fn begin(&mut self, out: &mut Vec<Effect>) {
        self.group = GroupState { populated: true, frozen: false };
        self.orphans_since = None;
        out.push(Effect::Clear);
    }

    pub(super) fn promote(&mut self, now: Boot) -> Answer {
        if !self.group.populated {
            return refuse("no postmaster to promote");
        }
        self.fresh(now)?;
        self.permitted = true;
        Ok(())
    }

    /// Whether now is an instant to become a primary: under a confirmation younger than G. (That
    /// its tenure is not burned follows from the phase: a release ends Leading.)
    fn fresh(&self, now: Boot) -> Answer {
        match (self.phase, self.lease, self.budget) {
            (Phase::Leading, Some(lease), Some(budget)) => {
                if !self.is_watched(budget) {
                    return refuse("the watchdog device is not armed");
                }
                if now.since(lease.sent_at) > budget.g || !self.is_newest(&lease) {
                    return refuse("the last confirmation is too old");
                }
                Ok(())
            }
            _ => refuse("not leading"),
        }
    }

    pub(super) fn seal(&mut self) -> Answer {
        if self.group.populated && !self.stop_sent {
            // pg_control may say `shut down` of an earlier run.
            return refuse("this postmaster was not told to stop");
        }
        self.sealed = self.group.populated;
        Ok(())
    }

    /// Burns the tenure: from here on nothing of ours can acknowledge under it, so that its key
    /// may be deleted whatever becomes of the request to do so. One burned tenure is enough to
    /// remember: an older one has a smaller revision, which the store never gives again.
    pub(super) fn release(&mut self, tenure: Tenure, now: Boot, out: &mut Vec<Effect>) -> Answer {
        if self.burned == Some(tenure) {
            return Ok(());
        }
        if self.lease.is_some_and(|lease| lease.tenure != tenure) {
            return refuse("another tenure is the present one");
        }
        if self.may_acknowledge() && !self.sealed {
            return refuse("PostgreSQL runs and may accept writes: stop it first");
        }
        self.burned = Some(tenure);
        match self.phase {
            Phase::Killing | Phase::Fenced | Phase::Idle | Phase::Sealed => {}
            // It will never be thawed now.
            Phase::Frozen => self.kill(now, out),
            Phase::Candidate | Phase::Leading | Phase::Paused if self.may_acknowledge() => {
                self.settle(Phase::Sealed, out);
            }
            Phase::Candidate | Phase::Leading | Phase::Paused => self.settle(Phase::Idle, out),
        }
        Ok(())
    }

    pub(super) fn pause(&mut self, tenure: Tenure, out: &mut Vec<Effect>) -> Answer {
        if self.lease.map(|lease| lease.tenure) != Some(tenure) {
            return refuse("the pause record belongs to another tenure");
        }
        match self.phase {
            Phase::Leading => {
                self.phase = Phase::Paused;
                self.deadline = None;
                out.push(Effect::Disarm);
                self.disarm_device(out);
                Ok(())
            }
            Phase::Paused => Ok(()),
            _ => refuse("not leading"),
        }
    }

    pub(super) fn resume(&mut self, now: Boot, out: &mut Vec<Effect>) {
        if self.phase != Phase::Paused {
            return;
        }
        self.phase = Phase::Leading;
        let young = |(l, b): (Confirmation, Budget)| now.since(l.sent_at) <= b.g;
        let fresh = self.lease.zip(self.budget).is_some_and(young);
        self.deadline = self.lease.zip(self.budget).map(|(l, b)| l.sent_at.plus(b.t1));
        // The pause record, which keeps others from the key, goes when the device is armed.
        self.arm_device(out);
        if fresh {
            self.arm(out);
        } else {
            self.expire(now, out);
        }
    }
}
