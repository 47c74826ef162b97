//! Which members a command means.

use crate::core::cluster::{Cluster, Member};

use super::Failure;
use super::args::Role;
use super::members::{self, Layout};
use super::output::Format;
use super::schedule::Scheduled;
use super::session::Session;

/// Members with this role, by name; at most the leader for a leader's role.
pub fn with_role(cluster: &Cluster, role: Role) -> Vec<&Member> {
    let leader = leader(cluster);
    match role {
        Role::Leader => leader.into_iter().collect(),
        Role::Primary => leader.into_iter().filter(|l| l.role != "standby_leader").collect(),
        Role::StandbyLeader => {
            leader.into_iter().filter(|l| !["primary", "master"].contains(&&*l.role)).collect()
        }
        Role::Replica | Role::Standby => {
            let leader = cluster.leader.as_ref().map(|leader| &leader.name);
            cluster.members.values().filter(|m| Some(&m.name) != leader).collect()
        }
        Role::Any => cluster.members.values().collect(),
    }
}

/// The member that holds the leader key, if it is registered.
pub fn leader(cluster: &Cluster) -> Option<&Member> {
    cluster.members.get(&cluster.leader.as_ref()?.name)
}

/// Members that can be asked over REST, the leader first.
pub fn leader_first(cluster: &Cluster) -> Vec<&Member> {
    let members = with_role(cluster, Role::Leader).into_iter();
    let members = members.chain(with_role(cluster, Role::Replica));
    members.filter(|member| !member.api_url.is_empty()).collect()
}

/// What the command line says about the members it means.
pub struct Wanted<'a> {
    pub cluster: &'a str,
    pub names: &'a [String],
    /// `None`: any, and patronictl then says `'any'`, with the quotes.
    pub role: Option<Role>,
    pub force: bool,
    /// The verb: `restart`, `reload`, `reinitialize`, `flush`.
    pub action: &'static str,
}

/// Prints the members and chooses; asks which one when a reinitialization names none.
pub fn choose(
    session: &mut Session,
    cluster: &Cluster,
    wanted: &Wanted,
) -> Result<Vec<Member>, Failure> {
    let candidates = with_role(cluster, wanted.role.unwrap_or(Role::Any));
    if wanted.names.is_empty() && candidates.is_empty() {
        let text = format!("{} cluster doesn't have any members", wanted.cluster);
        return Err(Failure::Message(text));
    }
    let layout = Layout::List(Format::Pretty);
    session.console.print(&members::render(cluster, wanted.cluster, false, layout))?;
    let is_candidate = |name: &str| candidates.iter().any(|member| member.name == name);
    let mut names: Vec<String> = wanted.names.to_vec();
    if !names.is_empty() {
        names.retain(|name| is_candidate(name));
        let ignored = wanted.names.iter().filter(|name| !is_candidate(name));
        let kind = wanted.role.filter(|role| *role != Role::Any).map_or("member", Role::word);
        let of = wanted.cluster;
        ignored.for_each(|name| eprintln!("warning: {name} is no {kind} of {of}, ignored"));
        if names.is_empty() {
            let role = wanted.role.map_or("'any'", Role::word);
            return Err(Failure::Message(format!("No {role} among provided members")));
        }
    } else if wanted.action != "reinitialize" {
        names = candidates.iter().map(|member| member.name.clone()).collect();
    } else if !wanted.force {
        let all: Vec<&str> = candidates.iter().map(|member| member.name.as_str()).collect();
        let question = format!("Which member do you want to reinitialize [{}]?", all.join(", "));
        names = vec![session.console.prompt(&question, Some(""))?];
    }
    if let Some(stranger) = names.iter().find(|name| !is_candidate(name)) {
        return Err(Failure::Message(format!("{stranger} is not a member of cluster")));
    }
    let chosen = candidates.into_iter().filter(|member| names.contains(&member.name));
    Ok(chosen.cloned().collect())
}

/// Asks before something is done to members, unless forced.
pub fn confirm(
    session: &mut Session,
    members: &[Member],
    action: &str,
    at: Option<&Scheduled>,
    force: bool,
) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let names = names.join(", ");
    let (question, refusal) = match at {
        Some(at) => (
            format!("schedule {action} of members {names} at {}", at.text()),
            format!("Aborted scheduled {action}"),
        ),
        None => (format!("{action} members {names}"), format!("Aborted {action}")),
    };
    if session.console.confirm(&format!("Are you sure you want to {question}?"))? {
        Ok(())
    } else {
        Err(Failure::Message(refusal))
    }
}
