//! What the agent's loop says: each record with the class that the journal's catalog explains
//! (`core::events`) and, in the journal, fields: PGVIGIL_RULE, _ROLE, _TIMELINE, _LSN and
//! _LEASE_MARGIN_MS, what was left until the deadline.

use crate::core::decision::Decision;
use crate::core::view::View;
use crate::core::{events, health};
use crate::sys::clock;

use super::publish;
use super::turn::Turn;

/// Lines of the decision log.
const EXPLAIN_LINES: usize = 50;

/// What was said last.
#[derive(Debug, Default)]
pub struct Told {
    /// What was wrong.
    findings: Vec<String>,
    /// Before the first decision there is none.
    role: Option<&'static str>,
    /// Who held the key at the first look at the cluster, and since.
    leader: Option<Option<String>>,
}

impl Turn {
    pub fn say_pause(&self, before: bool, patroni: bool) {
        let paused = self.world.settings.paused;
        match paused {
            _ if paused == before => {}
            true if patroni => tracing::warn!(
                "PAUSE: a member is a Patroni, which would take the leader lock whatever we write: \
                 the deadline of the lease stays in force, and a primary cut off from etcd stops"
            ),
            true => tracing::info!(
                "PAUSE: the primary goes on without etcd, and when the service is stopped"
            ),
            false => tracing::info!("the pause is over"),
        }
    }

    /// Says what began or ceased to be wrong.
    pub fn say_findings(&mut self, view: &View) {
        let (found, told) = (health::findings(view), &mut self.told.findings);
        for new in found.iter().filter(|f| !told.contains(&f.what)) {
            tracing::warn!(message_id = events::FINDING, "{new}");
        }
        for old in told.iter().filter(|old| !found.iter().any(|f| f.what == **old)) {
            tracing::info!(message_id = events::FINDING_GONE, "no longer: {old}");
        }
        *told = found.into_iter().map(|f| f.what).collect();
    }

    /// Says who leads and what this member is, when that changed.
    pub fn say_roles(&mut self) {
        let role = publish::role_word(&self.world);
        let before = self.told.role.replace(role);
        if let Some(before) = before.filter(|before| *before != role) {
            let (message_id, pgvigil_role) = (events::ROLE, role);
            tracing::info!(message_id, pgvigil_role, "role: {before} -> {role}");
        }
        let Some(cluster) = self.world.cluster() else { return };
        let leader = cluster.leader.as_ref().map(|key| key.name.clone());
        if self.told.leader.as_ref() == Some(&leader) {
            return;
        }
        let name = |leader: &Option<String>| leader.clone().unwrap_or_else(|| "nobody".to_owned());
        let now = name(&leader);
        let message_id = events::LEADER;
        match &self.told.leader {
            Some(before) => tracing::info!(message_id, "leader: {} -> {now}", name(before)),
            None => tracing::info!(message_id, "leader: {now}"),
        }
        self.told.leader = Some(leader);
    }

    /// Says what was decided: one line a loop_wait while nothing changes, as Patroni.
    pub fn say_decision(&mut self, decision: &Decision) {
        let now = clock::boot();
        let same =
            self.last.as_ref().is_some_and(|d| d.rule == decision.rule && d.why == decision.why);
        let again = now.since(self.said_at) >= self.world.settings.loop_wait;
        if same && (!again || self.drivers.setup().local.log.deduplicate) {
            return;
        }
        self.said_at = now;
        let paused = if self.world.settings.paused { "PAUSE: " } else { "" };
        let probe = self.world.probe();
        let position = probe.as_ref().and_then(|(p, _)| {
            if p.in_recovery { p.receive_lsn.max(p.replay_lsn) } else { p.flush_lsn }
        });
        let margin =
            self.world.link.deadline.map(|deadline| deadline.since(now).as_millis() as u64);
        tracing::info!(
            message_id = events::of_rule(decision.rule),
            pgvigil_rule = decision.rule,
            pgvigil_role = publish::role_word(&self.world),
            pgvigil_timeline = probe.as_ref().map(|(p, _)| p.timeline),
            pgvigil_lsn = position.map(tracing::field::display),
            pgvigil_lease_margin_ms = margin,
            "{paused}{}",
            decision.why
        );
        if !same {
            let time = jiff::Timestamp::from_microsecond(clock::wall().0).unwrap_or_default();
            self.explain.push(format!("{time:.3} {}: {}", decision.rule, decision.why));
            let extra = self.explain.len().saturating_sub(EXPLAIN_LINES);
            self.explain.drain(..extra);
        }
    }
}
