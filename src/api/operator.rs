//! Operators' commands that concern the cluster, as far as they are pure: what a body asks for,
//! whether that is possible now, and the sentences that Patroni answers with. The agent writes to
//! the store, asks members and polls.

use std::time::Duration;

use serde_json::Value;

use crate::core::cluster::{Cluster, FailoverRequest};
use crate::core::guard::Phase;
use crate::core::settings::SyncMode;
use crate::core::time::Wall;

use super::peer::PeerStatus;
use super::schedule;
use super::snapshot::{Command, Reply, Snapshot};

/// While PostgreSQL is frozen nothing can be done with it; it ends within `vigil.freeze_max`.
pub fn refused_while_frozen(command: &Command, phase: Phase) -> Option<Reply> {
    let what = match command {
        Command::Restart(_) => "restart",
        Command::Reinitialize(_) => "reinitialize",
        Command::Switchover(_) => "switchover",
        Command::Failover(_) => "failover",
        _ => return None,
    };
    (phase == Phase::Frozen).then(|| {
        let why = "PostgreSQL is frozen until its leader lease is confirmed, or else killed";
        Reply::text(503, format!("{what} is not possible: {why}"))
    })
}

/// A planned change of the leader, or one that is forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Switchover,
    Failover,
}

impl Action {
    /// As in paths, and inside of sentences.
    pub fn name(self) -> &'static str {
        match self {
            Action::Switchover => "switchover",
            Action::Failover => "failover",
        }
    }

    /// As a sentence begins with it.
    pub fn title(self) -> &'static str {
        match self {
            Action::Switchover => "Switchover",
            Action::Failover => "Failover",
        }
    }
}

/// A switchover or failover that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchoverPlan {
    pub action: Action,
    /// What goes into `/failover`.
    pub request: FailoverRequest,
    /// Members to ask `GET /patroni` before the request is written; `admit` judges the answers.
    /// Empty when the plan is scheduled.
    pub ask: Vec<String>,
}

impl SwitchoverPlan {
    /// Whether one of the members that were asked can be promoted.
    pub fn admit(&self, answers: &[PeerStatus]) -> Result<(), Reply> {
        let scheduled = self.request.scheduled_at.is_some();
        if scheduled || answers.iter().any(|peer| peer.failover_limitation().is_none()) {
            return Ok(());
        }
        Err(impossible(self.action, "no good candidates have been found"))
    }

    /// The answer to a scheduled one, once it is written.
    pub fn scheduled(&self) -> Reply {
        Reply::text(202, format!("{} scheduled", self.action.title()))
    }

    /// The answer when the store did not take the request.
    pub fn not_written(&self) -> Reply {
        Reply::text(503, "failed to write failover key into DCS")
    }

    /// The answer when nothing was decided within `poll_max`.
    pub fn unknown(&self, waited: Duration) -> Reply {
        let (title, seconds) = (self.action.title(), waited.as_secs());
        let advice = "operation may still be in progress";
        Reply::text(503, format!("{title} status unknown after {seconds} seconds; {advice}"))
    }
}

/// How long the outcome of a switchover is waited for.
pub fn poll_max(loop_wait: Duration) -> Duration {
    2 * loop_wait.max(Duration::from_secs(10))
}

/// `POST /switchover`.
pub fn check_switchover(
    body: &Value,
    snapshot: &Snapshot,
    now: Wall,
) -> Result<SwitchoverPlan, Reply> {
    let asked = Asked::read(body)?;
    if asked.leader.is_none() {
        let text = "Switchover could be performed only from a specific leader";
        return Err(Reply::text(400, text));
    }
    let scheduled_at = match &asked.schedule {
        None => None,
        Some(_) if snapshot.settings.paused => {
            return Err(Reply::text(400, "Can't schedule switchover in the paused state"));
        }
        Some(text) => Some(schedule::parse(text, "switchover", now)?),
    };
    if snapshot.settings.paused && asked.candidate.is_none() {
        let text = "Switchover is possible only to a specific candidate in a paused state";
        return Err(Reply::text(400, text));
    }
    plan(Action::Switchover, asked, scheduled_at, snapshot)
}

/// `POST /failover`. With a leader in the body it is treated as a switchover.
pub fn check_failover(body: &Value, snapshot: &Snapshot) -> Result<SwitchoverPlan, Reply> {
    let asked = Asked::read(body)?;
    if asked.candidate.is_none() {
        let text = "Failover could be performed only to a specific candidate";
        return Err(Reply::text(400, text));
    }
    if asked.schedule.is_some() {
        return Err(Reply::text(400, "Failover can't be scheduled"));
    }
    let action = if asked.leader.is_some() { Action::Switchover } else { Action::Failover };
    plan(action, asked, None, snapshot)
}

/// The fields of a switchover's or failover's body.
struct Asked {
    leader: Option<String>,
    candidate: Option<String>,
    schedule: Option<Value>,
}

impl Asked {
    fn read(body: &Value) -> Result<Asked, Reply> {
        let text = |key: &str| match &body[key] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(Reply::error(400))
            }
        };
        let candidate = text("candidate")?;
        let candidate = if candidate.is_some() { candidate } else { text("member")? };
        let schedule = body.get("scheduled_at").filter(|s| !s.is_null() && *s != "").cloned();
        Ok(Asked { leader: text("leader")?, candidate, schedule })
    }
}

fn plan(
    action: Action,
    asked: Asked,
    scheduled_at: Option<Wall>,
    snapshot: &Snapshot,
) -> Result<SwitchoverPlan, Reply> {
    if asked.leader == asked.candidate {
        return Err(Reply::text(400, "Switchover target and source are the same"));
    }
    let request =
        FailoverRequest { leader: asked.leader, candidate: asked.candidate, scheduled_at };
    let ask = match scheduled_at {
        Some(_) => Vec::new(),
        None => candidates(action, &request, snapshot)?,
    };
    Ok(SwitchoverPlan { action, request, ask })
}

/// The members of whom one has to be fit.
fn candidates(
    action: Action,
    request: &FailoverRequest,
    snapshot: &Snapshot,
) -> Result<Vec<String>, Reply> {
    let cluster = snapshot.cluster.as_ref().ok_or_else(|| Reply::error(503))?;
    let leader = cluster.leader.as_ref().map(|l| l.name.as_str());
    if request.leader.is_some() && request.leader.as_deref() != leader {
        return Err(Reply::text(412, "leader name does not match"));
    }
    let only_sync = snapshot.settings.synchronous_mode == SyncMode::On;
    let is_sync = |name: &str| super::view::is_sync_standby(cluster, name);
    if let Some(candidate) = &request.candidate {
        if action == Action::Switchover && only_sync && !is_sync(candidate) {
            return Err(Reply::text(412, "candidate name does not match with sync_standby"));
        }
        if !cluster.members.contains_key(candidate) {
            return Err(Reply::text(412, "candidate does not exists"));
        }
        return Ok(vec![candidate.clone()]);
    }
    let members = cluster.members.values();
    let (names, reason): (Vec<String>, _) = if only_sync {
        let sync = members.filter(|m| is_sync(&m.name));
        (sync.map(|m| m.name.clone()).collect(), "can not find sync_standby")
    } else {
        let others = members.filter(|m| Some(m.name.as_str()) != leader && !m.api_url.is_empty());
        let reason = "cluster does not have members except leader";
        (others.map(|m| m.name.clone()).collect(), reason)
    };
    if names.is_empty() { Err(impossible(action, reason)) } else { Ok(names) }
}

fn impossible(action: Action, reason: &str) -> Reply {
    Reply::text(412, format!("{} is not possible: {reason}", action.name()))
}

/// Whether the operation that was written has ended, seen from two states of the store: the one
/// before the request was written and the present one. `None`: not yet.
pub fn outcome(plan: &SwitchoverPlan, before: &Cluster, now: &Cluster) -> Option<Reply> {
    let old = before.leader.as_ref().map(|l| &l.name);
    let new = now.leader.as_ref().map(|l| &l.name).filter(|name| !name.is_empty())?;
    let verb = if plan.action == Action::Switchover { "switch" } else { "fail" };
    if Some(new) != old {
        return Some(match &plan.request.candidate {
            Some(wanted) if wanted != new => {
                let verb = if plan.action == Action::Switchover { "Switch" } else { "Fail" };
                Reply::text(200, format!("{verb}ed over to \"{new}\" instead of \"{wanted}\""))
            }
            _ => Reply::text(200, format!("Successfully {verb}ed over to \"{new}\"")),
        });
    }
    let pending = now.failover.as_ref().is_some_and(|f| !f.value.is_empty());
    (!pending).then(|| Reply::text(503, format!("{} failed", plan.action.title())))
}

/// `DELETE /switchover`: the revision of the `/failover` that is to be emptied.
pub fn check_delete_switchover(cluster: &Cluster) -> Result<i64, Reply> {
    match &cluster.failover {
        Some(request) if request.value.scheduled_at.is_some() => Ok(request.mod_revision),
        _ => Err(Reply::text(404, "no switchover is scheduled")),
    }
}

/// The answer to `DELETE /switchover`; a lost race is Patroni's 409.
pub fn switchover_deleted(written: bool) -> Reply {
    if written { Reply::text(200, "scheduled switchover deleted") } else { Reply::error(409) }
}

/// The answer to `POST /reload`.
pub fn reload_scheduled() -> Reply {
    Reply::text(202, "reload scheduled")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::samples;
    use super::*;
    use crate::core::cluster::{Keyed, LeaderKey};

    const NOW: Wall = Wall(1_795_256_543_000_000);

    fn changed(change: impl FnOnce(&mut Snapshot)) -> Snapshot {
        let mut snapshot = samples::leader();
        change(&mut snapshot);
        snapshot
    }

    fn synchronous(standbys: &[&str]) -> Snapshot {
        changed(|s| {
            let sync = samples::synchronous(standbys);
            s.cluster = Some(Arc::new(Cluster { sync, ..samples::cluster() }));
            s.settings.synchronous_mode = SyncMode::On;
        })
    }

    #[test]
    fn a_frozen_server_is_left_alone() {
        let nothing = || Value::Null;
        for command in [
            Command::Restart(nothing()),
            Command::Reinitialize(nothing()),
            Command::Switchover(nothing()),
            Command::Failover(nothing()),
        ] {
            let refused = refused_while_frozen(&command, Phase::Frozen).unwrap();
            assert!(refused.status == 503 && refused.body.contains("frozen"), "{refused:?}");
            assert_eq!(refused_while_frozen(&command, Phase::Leading), None);
        }
        assert_eq!(refused_while_frozen(&Command::Reload, Phase::Frozen), None);
    }

    #[test]
    fn refuses_switchovers_with_patronis_words() {
        let plain = samples::leader();
        let paused = changed(|s| s.settings.paused = true);
        let alone = changed(|s| {
            let mut cluster = samples::cluster();
            cluster.members.retain(|name, _| name == "alpha");
            s.cluster = Some(Arc::new(cluster));
        });
        let cases = [
            (
                &plain,
                json!({"candidate": "beta"}),
                400,
                "Switchover could be performed only from a specific leader",
            ),
            (&plain, json!({"leader": "beta"}), 412, "leader name does not match"),
            (
                &plain,
                json!({"leader": "alpha", "candidate": "nobody"}),
                412,
                "candidate does not exists",
            ),
            (
                &plain,
                json!({"leader": "alpha", "member": "alpha"}),
                400,
                "Switchover target and source are the same",
            ),
            (&plain, json!({"leader": "alpha", "scheduled_at": "x"}), 422, schedule::UNPARSABLE),
            (&plain, json!({"leader": 7}), 400, ""),
            (
                &paused,
                json!({"leader": "alpha", "scheduled_at": "2100-01-01T00:00:00Z"}),
                400,
                "Can't schedule switchover in the paused state",
            ),
            (
                &paused,
                json!({"leader": "alpha"}),
                400,
                "Switchover is possible only to a specific candidate in a paused state",
            ),
            (
                &alone,
                json!({"leader": "alpha"}),
                412,
                "switchover is not possible: cluster does not have members except leader",
            ),
            (
                &synchronous(&["gamma"]),
                json!({"leader": "alpha", "candidate": "beta"}),
                412,
                "candidate name does not match with sync_standby",
            ),
            (
                &synchronous(&[]),
                json!({"leader": "alpha"}),
                412,
                "switchover is not possible: can not find sync_standby",
            ),
        ];
        for (snapshot, body, status, text) in cases {
            let reply = check_switchover(&body, snapshot, NOW).unwrap_err();
            assert_eq!(reply, Reply::text(status, text), "{body}");
        }
    }

    #[test]
    fn refuses_failovers_with_patronis_words() {
        let plain = samples::leader();
        let cases = [
            (
                json!({"foo": "bar"}),
                400,
                "Failover could be performed only to a specific candidate",
            ),
            (json!({"candidate": "nobody"}), 412, "candidate does not exists"),
            (
                json!({"candidate": "beta", "scheduled_at": "2100-01-01T00:00:00Z"}),
                400,
                "Failover can't be scheduled",
            ),
            (json!({"candidate": "beta", "leader": "gamma"}), 412, "leader name does not match"),
        ];
        for (body, status, text) in cases {
            let reply = check_failover(&body, &plain).unwrap_err();
            assert_eq!(reply, Reply::text(status, text), "{body}");
        }
        // Even to a member that is not synchronous: a failover says "I know".
        let plan = check_failover(&json!({"candidate": "beta"}), &synchronous(&["gamma"]));
        assert_eq!(plan.map(|p| (p.action, p.ask)), Ok((Action::Failover, vec!["beta".into()])));
        let both = check_failover(&json!({"candidate": "beta", "leader": "alpha"}), &plain);
        assert_eq!(both.map(|p| p.action), Ok(Action::Switchover));
    }

    #[test]
    fn plans_a_switchover() {
        let plain = samples::leader();
        let plan = check_switchover(&json!({"leader": "alpha"}), &plain, NOW).unwrap();
        assert_eq!(plan.ask, ["beta", "gamma"]);
        let text = "switchover is not possible: no good candidates have been found";
        assert_eq!(plan.admit(&[PeerStatus::unreachable()]), Err(Reply::text(412, text)));
        let fit = json!({"state": "running", "role": "replica", "xlog": {}});
        assert_eq!(plan.admit(&[PeerStatus::unreachable(), PeerStatus::parse(&fit)]), Ok(()));

        let at = "2100-01-01T00:00:00Z";
        let body = json!({"leader": "alpha", "candidate": "beta", "scheduled_at": at});
        let plan = check_switchover(&body, &plain, NOW).unwrap();
        assert_eq!(plan.request.scheduled_at, Some(Wall(4_102_444_800_000_000)));
        assert_eq!(plan.admit(&[]), Ok(()));
        assert_eq!(plan.scheduled(), Reply::text(202, "Switchover scheduled"));
        let unknown =
            "Switchover status unknown after 20 seconds; operation may still be in progress";
        let waited = poll_max(Duration::from_secs(3));
        assert_eq!(plan.unknown(waited), Reply::text(503, unknown));
    }

    #[test]
    fn tells_how_an_operation_ended() {
        let before = samples::cluster();
        let asked = |candidate: Option<&str>| FailoverRequest {
            leader: Some("alpha".into()),
            candidate: candidate.map(str::to_owned),
            scheduled_at: None,
        };
        let now = |leader: Option<&str>, pending: Option<FailoverRequest>| Cluster {
            leader: leader.map(|name| LeaderKey {
                name: name.into(),
                lease_id: 1,
                mod_revision: 50,
            }),
            failover: pending.map(|value| Keyed { value, mod_revision: 49 }),
            ..before.clone()
        };
        let pending = || Some(asked(Some("beta")));
        let cleared = || Some(FailoverRequest::default());
        let success = Some(Reply::text(200, "Successfully switched over to \"beta\""));
        let other = "Switched over to \"beta\" instead of \"gamma\"";
        let failed = Some(Reply::text(503, "Switchover failed"));
        let cases = [
            (Some("beta"), now(Some("alpha"), pending()), None),
            (Some("beta"), now(None, pending()), None),
            (Some("beta"), now(None, cleared()), None),
            (Some("beta"), now(Some("beta"), pending()), success.clone()),
            (None, now(Some("beta"), cleared()), success),
            (Some("gamma"), now(Some("beta"), None), Some(Reply::text(200, other))),
            (Some("beta"), now(Some("alpha"), cleared()), failed.clone()),
            (Some("beta"), now(Some("alpha"), None), failed),
        ];
        for (candidate, now, expected) in cases {
            let action = Action::Switchover;
            let plan = SwitchoverPlan { action, request: asked(candidate), ask: Vec::new() };
            assert_eq!(outcome(&plan, &before, &now), expected, "{candidate:?} {:?}", now.leader);
        }
        let request = asked(Some("gamma"));
        let plan = SwitchoverPlan { action: Action::Failover, request, ask: Vec::new() };
        let done = Reply::text(200, "Successfully failed over to \"gamma\"");
        assert_eq!(outcome(&plan, &before, &now(Some("gamma"), None)), Some(done));
    }

    #[test]
    fn deletes_only_what_is_scheduled() {
        let mut cluster = samples::cluster();
        let nothing = Reply::text(404, "no switchover is scheduled");
        assert_eq!(check_delete_switchover(&cluster), Err(nothing.clone()));
        let value = FailoverRequest { leader: Some("alpha".into()), ..FailoverRequest::default() };
        cluster.failover = Some(Keyed { value, mod_revision: 42 });
        assert_eq!(check_delete_switchover(&cluster), Err(nothing));
        cluster.failover.as_mut().unwrap().value.scheduled_at = Some(NOW);
        assert_eq!(check_delete_switchover(&cluster), Ok(42));
    }
}
