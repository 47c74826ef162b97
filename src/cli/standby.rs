//! `demote-cluster` and `promote-cluster`: into and out of a standby cluster.

use std::thread;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::core::cluster::Cluster;

use super::Failure;
use super::args::{DemoteCluster, PromoteCluster};
use super::handover;
use super::schedule;
use super::session::{Answer, Session};

const POLL: Duration = Duration::from_secs(1);

/// A cluster that has not changed by then does not do so for a reason that its members tell.
const POLLS_MAX: u32 = 600;

struct Change {
    /// `demot` or `promot`: the words are made from it.
    stem: &'static str,
    /// The role that the leader is to have.
    role: &'static str,
    section: Value,
    force: bool,
}

/// `demote-cluster`.
pub fn demote(session: &mut Session, options: &DemoteCluster) -> Result<(), Failure> {
    let DemoteCluster { host, port, restore_command, primary_slot_name, .. } = options;
    if host.is_none() && port.is_none() && restore_command.is_none() {
        let text = "At least --host, --port or --restore-command should be specified";
        return Err(Failure::message(text));
    }
    let mut section = json!({});
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            section[key] = value;
        }
    };
    put("host", host.clone().map(Value::from));
    put("port", port.map(Value::from));
    put("restore_command", restore_command.clone().map(Value::from));
    put("primary_slot_name", primary_slot_name.clone().map(Value::from));
    let change = Change { stem: "demot", role: "standby_leader", section, force: options.force };
    carry_out(session, options.cluster.as_deref(), &change)
}

/// `promote-cluster`.
pub fn promote(session: &mut Session, options: &PromoteCluster) -> Result<(), Failure> {
    let section = Value::Null;
    let change = Change { stem: "promot", role: "primary", section, force: options.force };
    carry_out(session, options.cluster.as_deref(), &change)
}

fn carry_out(session: &mut Session, cluster: Option<&str>, change: &Change) -> Result<(), Failure> {
    let name = session.scope(cluster)?;
    let before = session.read(&name)?;
    let stem = change.stem;
    let Some(leader) = before.leader.as_ref().and_then(|key| before.members.get(&key.name)) else {
        let text = format!("Cluster has no leader, {stem}ion is not possible");
        return Err(Failure::Message(text));
    };
    if leader.role == change.role {
        return Err(Failure::message("Cluster is already in the required state"));
    }
    session.console.say("Current cluster topology")?;
    handover::table(session, &before, &name)?;
    if !change.force {
        let question = format!("Are you sure you want to {stem}e {name} cluster?");
        if !session.console.confirm(&question)? {
            return Err(Failure::Message(format!("Aborted cluster {stem}ion")));
        }
    }
    let body = json!({ "standby_cluster": change.section });
    let failed = |why: String| Failure::Message(format!("Failed to {stem}e {name} cluster: {why}"));
    match session.request(leader, Method::PATCH, "config", Some(&body)) {
        Ok(Answer { status: 200, .. }) => {}
        Ok(Answer { status, text }) => {
            return Err(failed(format!("/config PATCH status code={status}, ({text})")));
        }
        Err(failure) => {
            session.inaccessible(leader, &failure);
            return Err(failed(format!("{} does not answer", leader.name)));
        }
    }
    wait(session, &name, &leader.name, change)
}

fn wait(session: &mut Session, name: &str, old: &str, change: &Change) -> Result<(), Failure> {
    for _ in 0..POLLS_MAX {
        let cluster = session.read(name)?;
        if reached(&cluster, old, change) {
            let line = format!("{} cluster is successfully {}ed", schedule::now(), change.stem);
            session.console.say(&line)?;
            return handover::table(session, &cluster, name);
        }
        session.console.say(&format!("{} {}", schedule::now(), progress(&cluster, old, change)))?;
        thread::sleep(POLL);
    }
    let text = format!("the cluster is not {}ed; `list` shows its members", change.stem);
    Err(Failure::Message(text))
}

fn reached(cluster: &Cluster, old: &str, change: &Change) -> bool {
    let leader = cluster.leader.as_ref().and_then(|key| cluster.members.get(&key.name));
    let done = leader.is_some_and(|leader| leader.role == change.role && leader.is_running());
    let demoting = !change.section.is_null();
    done && (!demoting || cluster.members.get(old).is_some_and(|member| member.is_running()))
}

/// In Python's words.
fn progress(cluster: &Cluster, old: &str, change: &Change) -> String {
    let leader = cluster.leader.as_ref();
    let member = leader.and_then(|key| cluster.members.get(&key.name));
    let unlocked = if leader.is_none() { "True" } else { "False" };
    let role = member.map_or("None", |member| member.role.as_str());
    let state = member.map_or("None", |member| member.state.as_str());
    let mut line =
        format!("cluster is unlocked: {unlocked}, leader role: {role}, leader state: {state}");
    let moved = leader.is_some_and(|key| key.name != old);
    if let Some(member) = cluster.members.get(old).filter(|_| moved && !change.section.is_null()) {
        line.push_str(&format!(", previous leader state: '{}'", member.state));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::samples::{captured, cluster, member_api};
    use super::*;

    fn demotion() -> DemoteCluster {
        DemoteCluster {
            cluster: None,
            host: Some("127.0.0.1".into()),
            port: Some(6666),
            restore_command: None,
            primary_slot_name: None,
            force: true,
        }
    }

    #[test]
    fn a_demotion_is_told_second_by_second() {
        let (url, api) = member_api(&[(200, "{}")]);
        let before = captured!("healthy.keys").replace("http://127.0.0.1:8008/patroni", &url);
        let after = before.replace("\"role\":\"primary\"", "\"role\":\"standby_leader\"");
        let reads = [cluster(&before), cluster(&before), cluster(&after)];
        let (mut session, printed) = Session::fixed(&reads, "");
        demote(&mut session, &demotion()).expect("demoted");
        let text = printed.text();
        assert!(text.starts_with("Current cluster topology\n+ Cluster: demo"), "{text}");
        let line = " cluster is unlocked: False, leader role: primary, leader state: running\n";
        assert!(
            text.contains(line) && text.contains(" cluster is successfully demoted\n"),
            "{text}"
        );
        let body = r#"PATCH /config {"standby_cluster":{"host":"127.0.0.1","port":6666}}"#;
        assert_eq!(api.join().expect("asked"), [body]);
    }

    #[test]
    fn what_is_so_already_or_says_nothing_is_refused() {
        let refusal = |result: Result<(), Failure>| match result {
            Err(Failure::Message(text)) => text,
            other => panic!("{other:?}"),
        };
        let (mut session, _) = Session::fixed(&[cluster(captured!("healthy.keys"))], "");
        let options = PromoteCluster { cluster: None, force: true };
        let already = "Cluster is already in the required state";
        assert_eq!(refusal(promote(&mut session, &options)), already);
        let nothing = DemoteCluster { host: None, port: None, ..demotion() };
        let text = "At least --host, --port or --restore-command should be specified";
        assert_eq!(refusal(demote(&mut session, &nothing)), text);
    }
}
