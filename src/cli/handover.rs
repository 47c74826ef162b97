//! Switchover and failover.

use hyper::Method;
use serde_json::{Map, json};

use crate::api::operator::Action;
use crate::core::cluster::{Cluster, FailoverRequest};
use crate::core::settings::SyncMode;

use super::Failure;
use super::args::{Failover, Switchover};
use super::members::{self, Layout};
use super::output::Format;
use super::schedule::{self, Scheduled};
use super::selection;
use super::session::{Answer, Session};

/// What the operator wants, after all questions.
struct Plan<'a> {
    action: Action,
    cluster: &'a str,
    /// Only a switchover names it.
    leader: Option<String>,
    candidate: Option<String>,
    at: Option<Scheduled>,
}

/// `switchover`.
pub fn switchover(session: &mut Session, options: &Switchover) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    let cluster = show(session, &name)?;
    let leader = leader(session, &cluster, &name, options)?;
    let action = Action::Switchover;
    let candidate =
        candidate(session, &cluster, options.candidate.as_deref(), options.force, action)?;
    check_candidate(&cluster, &name, candidate.as_deref())?;
    let at = when(session, &cluster, options)?;
    let plan = Plan { action, cluster: &name, leader: Some(leader), candidate, at };
    confirm(session, &cluster, &plan, options.force)?;
    carry_out(session, &cluster, &plan)
}

/// `failover`.
pub fn failover(session: &mut Session, options: &Failover) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    let cluster = show(session, &name)?;
    let action = Action::Failover;
    let candidate =
        candidate(session, &cluster, options.candidate.as_deref(), options.force, action)?;
    let Some(candidate) = candidate else {
        return Err(Failure::message("Failover could be performed only to a specific candidate"));
    };
    check_candidate(&cluster, &name, Some(&candidate))?;
    if !options.force && is_asynchronous(&cluster, &candidate) {
        let question = "Are you sure you want to failover to the asynchronous node";
        if !session.console.confirm(&format!("{question} {candidate}?"))? {
            return Err(Failure::message("Aborting failover"));
        }
    }
    let plan = Plan { action, cluster: &name, leader: None, candidate: Some(candidate), at: None };
    confirm(session, &cluster, &plan, options.force)?;
    carry_out(session, &cluster, &plan)
}

fn show(session: &mut Session, name: &str) -> Result<Cluster, Failure> {
    let cluster = session.read(name)?;
    session.console.say("Current cluster topology")?;
    table(session, &cluster, name)?;
    Ok(cluster)
}

/// The members as `list` shows them.
pub fn table(session: &mut Session, cluster: &Cluster, name: &str) -> Result<(), Failure> {
    let layout = Layout::List(Format::Pretty);
    session.console.print(&members::render(cluster, name, false, layout))
}

/// The leader that is to go: asked for unless given or forced.
fn leader(
    session: &mut Session,
    cluster: &Cluster,
    name: &str,
    options: &Switchover,
) -> Result<String, Failure> {
    let Some(leader) = &cluster.leader else {
        return Err(Failure::message("This cluster has no leader"));
    };
    let given = match &options.leader {
        Some(given) => given.clone(),
        None if options.force => leader.name.clone(),
        None => {
            let standby = members::mode(cluster).standby_cluster;
            let question = if standby { "Standby Leader" } else { "Primary" };
            session.console.prompt(question, Some(&leader.name))?
        }
    };
    if given != leader.name {
        let text = format!("Member {given} is not the leader of cluster {name}");
        return Err(Failure::Message(text));
    }
    Ok(given)
}

/// Members that may be promoted, by name.
fn candidates(cluster: &Cluster) -> Vec<&str> {
    let leader = cluster.leader.as_ref().map(|leader| leader.name.as_str());
    let members = cluster.members.values().filter(|member| !member.tags.nofailover);
    members.map(|member| member.name.as_str()).filter(|name| Some(*name) != leader).collect()
}

/// The member to promote: asked for unless given or forced; `None` leaves the choice to the
/// cluster.
fn candidate(
    session: &mut Session,
    cluster: &Cluster,
    given: Option<&str>,
    force: bool,
    action: Action,
) -> Result<Option<String>, Failure> {
    let names = candidates(cluster);
    if names.is_empty() {
        let text = format!("No candidates found to {} to", action.name());
        return Err(Failure::Message(text));
    }
    let answer = match given {
        Some(given) => given.to_owned(),
        None if force => String::new(),
        None => {
            let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
            session.console.prompt(&format!("Candidate [{}]", names.join(", ")), Some(""))?
        }
    };
    Ok(Some(answer).filter(|name| !name.is_empty()))
}

fn check_candidate(cluster: &Cluster, name: &str, candidate: Option<&str>) -> Result<(), Failure> {
    let Some(candidate) = candidate else { return Ok(()) };
    if cluster.leader.as_ref().is_some_and(|leader| leader.name == candidate) {
        let text = format!("Member {candidate} is already the leader of cluster {name}");
        return Err(Failure::Message(text));
    }
    if !candidates(cluster).contains(&candidate) {
        return Err(Failure::Message(format!(
            "Member {candidate} does not exist in cluster {name} or is tagged as nofailover"
        )));
    }
    Ok(())
}

/// Whether promoting this member may lose commits that synchronous replication protects.
fn is_asynchronous(cluster: &Cluster, candidate: &str) -> bool {
    let sync = cluster.sync.as_ref().map(|sync| &sync.value);
    let Some(sync) = sync.filter(|sync| sync.leader.is_some()) else { return false };
    members::mode(cluster).synchronous != SyncMode::Off && !sync.contains(candidate)
}

fn when(
    session: &mut Session,
    cluster: &Cluster,
    options: &Switchover,
) -> Result<Option<Scheduled>, Failure> {
    let text = match &options.scheduled {
        Some(text) => text.clone(),
        None if options.force => String::new(),
        None => {
            let example = schedule::next_hour();
            let question = format!("When should the switchover take place (e.g. {example} ) ");
            session.console.prompt(&question, Some("now"))?
        }
    };
    let at = schedule::parse(&text)?;
    if at.is_some() && members::mode(cluster).paused {
        return Err(Failure::message("Can't schedule switchover in the paused state"));
    }
    Ok(at)
}

fn confirm(
    session: &mut Session,
    cluster: &Cluster,
    plan: &Plan,
    force: bool,
) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    let (word, name) = (plan.action.name(), plan.cluster);
    let demoting = match &cluster.leader {
        Some(leader) => format!(", demoting current leader {}", leader.name),
        None => String::new(),
    };
    let (question, refusal) = match &plan.at {
        Some(at) => (
            format!("schedule {word} of cluster {name} at {}{demoting}", at.iso()),
            format!("Aborting scheduled {word}"),
        ),
        None => (format!("{word} cluster {name}{demoting}"), format!("Aborting {word}")),
    };
    if session.console.confirm(&format!("Are you sure you want to {question}?"))? {
        Ok(())
    } else {
        Err(Failure::Message(refusal))
    }
}

/// Asks the leader, or the candidate if there is no leader; writes the request into the store
/// itself when nobody answers.
fn carry_out(session: &mut Session, cluster: &Cluster, plan: &Plan) -> Result<(), Failure> {
    let mut body = Map::new();
    body.insert("candidate".to_owned(), json!(plan.candidate));
    if let Some(leader) = &plan.leader {
        body.insert("leader".to_owned(), json!(leader));
    }
    if let Some(at) = &plan.at {
        body.insert("scheduled_at".to_owned(), json!(at.iso()));
    }
    let candidate = plan.candidate.as_ref().and_then(|name| cluster.members.get(name));
    let asked = match &cluster.leader {
        Some(_) => selection::leader(cluster),
        None => candidate,
    };
    let (word, title) = (plan.action.name(), plan.action.title());
    let answer = asked.map(|m| (m, session.request(m, Method::POST, word, Some(&body.into()))));
    match answer {
        Some((_, Ok(Answer { status: 200 | 202, text }))) => {
            session.console.say(&format!("{} {text}", schedule::now_precise()))?;
        }
        Some((_, Ok(Answer { status, text }))) => {
            let unknown = text.contains("status unknown");
            let verdict = if unknown { "result unknown" } else { "failed" };
            return session.console.say(&format!("{title} {verdict}, details: {status}, {text}"));
        }
        unreachable => {
            if let Some((member, Err(failure))) = unreachable {
                session.inaccessible(member, &failure);
            }
            let line = format!("Could not {word} using Patroni api, falling back to DCS");
            session.console.say(&format!("{} {line}", schedule::now_precise()))?;
            session.write_failover(
                plan.cluster,
                &FailoverRequest {
                    leader: plan.leader.clone(),
                    candidate: plan.candidate.clone(),
                    scheduled_at: plan.at.as_ref().map(Scheduled::wall),
                },
            )?;
        }
    }
    let cluster = session.read(plan.cluster)?;
    table(session, &cluster, plan.cluster)
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
