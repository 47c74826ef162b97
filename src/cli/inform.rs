//! Commands that only tell: list, topology, history, version, explain; and remove.

use std::thread;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::core::PATRONI_VERSION;
use crate::core::cluster::{Cluster, Member};

use super::args::{History, List, Members, Remove, Role, Topology, Watch};
use super::console::Console;
use super::members::{self, Layout};
use super::output::{Format, Listing};
use super::selection;
use super::session::{Answer, Session};
use super::{Failure, schedule};

impl Watch {
    /// Time between two looks; `None`: one look is enough.
    pub fn interval(&self) -> Result<Option<Duration>, Failure> {
        match self.watch_secs {
            None => Ok(self.watch_2s.then(|| Duration::from_secs(2))),
            Some(secs) if secs <= 0.0 => Ok(self.watch_2s.then(|| Duration::from_secs(2))),
            Some(secs) => Duration::try_from_secs_f64(secs).map(Some).map_err(|_| {
                Failure::Message(format!("Invalid value for '-w': {secs} is not a time"))
            }),
        }
    }
}

/// Runs once, or again and again until interrupted.
fn watching(
    session: &mut Session,
    watch: &Watch,
    mut look: impl FnMut(&mut Session) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let interval = watch.interval()?;
    loop {
        if interval.is_some() {
            clear(&mut session.console)?;
        }
        look(session)?;
        match interval {
            Some(interval) => thread::sleep(interval),
            None => return Ok(()),
        }
    }
}

fn clear(console: &mut Console) -> Result<(), Failure> {
    if console.terminal { console.print("\x1b[2J\x1b[1;1H") } else { Ok(()) }
}

/// `list`.
pub fn list(session: &mut Session, options: &List) -> Result<(), Failure> {
    let names = names(session, &options.clusters);
    let layout = Layout::List(options.format);
    watching(session, &options.watch, |session| {
        if options.timestamp {
            session.console.say(&schedule::now())?;
        }
        show(session, &names, options.extended, layout)
    })
}

/// `topology`.
pub fn topology(session: &mut Session, options: &Topology) -> Result<(), Failure> {
    let names = names(session, &options.clusters);
    watching(session, &options.watch, |session| show(session, &names, false, Layout::Topology))
}

fn names(session: &Session, given: &[String]) -> Vec<String> {
    if given.is_empty() && session.configured_scope().is_none() {
        eprintln!("warning: Listing members: No cluster names were provided");
    }
    if given.is_empty() {
        session.configured_scope().into_iter().map(str::to_owned).collect()
    } else {
        given.to_vec()
    }
}

fn show(
    session: &mut Session,
    names: &[String],
    extended: bool,
    layout: Layout,
) -> Result<(), Failure> {
    for name in names {
        let cluster = session.read(name)?;
        session.console.print(&members::render(&cluster, name, extended, layout))?;
    }
    Ok(())
}

/// `history`.
pub fn history(session: &mut Session, options: &History) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    let cluster = session.read(&name)?;
    let history = render_history(&cluster, options.format) + &resets(&cluster, options.format);
    session.console.print(&history)
}

fn render_history(cluster: &Cluster, format: Format) -> String {
    let cell = |text: &Option<String>| json!(text.as_deref().unwrap_or_default());
    let rows = cluster.history.iter().map(|entry| {
        let (timestamp, leader) = (cell(&entry.timestamp), cell(&entry.new_leader));
        vec![json!(entry.timeline), json!(entry.lsn.0), json!(entry.reason), timestamp, leader]
    });
    let left = ["Reason", "Timestamp", "New Leader"].map(|name| (name, false));
    let columns = [("TL", true), ("LSN", true)].into_iter().chain(left).collect();
    Listing { title: None, columns, rows: rows.collect(), omit_empty: false }.render(format)
}

/// For people only: what follows is no part of the store's history.
fn resets(cluster: &Cluster, format: Format) -> String {
    let members = cluster.members.values().filter(|_| format == Format::Pretty);
    let lines = members.filter_map(|member| {
        let document: Value = serde_json::from_str(&member.raw).ok()?;
        let reset = &document["vigil"]["last_reset"];
        let (at, what) = (reset["at"].as_str()?, reset["what"].as_str()?);
        Some(format!("{}, {at}: {what}\n", member.name))
    });
    lines.collect()
}

/// `version`.
pub fn version(session: &mut Session, options: &Members) -> Result<(), Failure> {
    session.console.say(&format!("patronictl version {PATRONI_VERSION}"))?;
    let Some(name) = &options.cluster else { return Ok(()) };
    session.console.say("")?;
    let cluster = session.read(name)?;
    for member in asked(&cluster, &options.members) {
        let answer = session.request(member, Method::GET, "patroni", None);
        let line = match answer.map(|answer| answer.json()) {
            Ok(Value::Object(status)) => versions(&Value::Object(status)),
            Ok(_) => "failed to get version: the answer is not a JSON object".to_owned(),
            Err(Failure::Message(why)) => format!("failed to get version: {why}"),
            Err(failure) => return Err(failure),
        };
        session.console.say(&format!("{}: {line}", member.name))?;
    }
    Ok(())
}

/// `Patroni 4.1.4 PostgreSQL 15.18`.
fn versions(status: &Value) -> String {
    let patroni = status["patroni"]["version"].as_str().unwrap_or("None");
    match status["server_version"].as_u64() {
        Some(server) => {
            let (major, minor) = (server / 10_000, server % 10_000);
            format!("Patroni {patroni} PostgreSQL {major}.{minor}")
        }
        None => format!("Patroni {patroni}"),
    }
}

/// Members with a REST API among those named, or all of them.
fn asked<'a>(cluster: &'a Cluster, names: &[String]) -> Vec<&'a Member> {
    let members = selection::with_role(cluster, Role::Any).into_iter();
    let named = |member: &&Member| names.is_empty() || names.contains(&member.name);
    members.filter(|member| !member.api_url.is_empty()).filter(named).collect()
}

/// `explain`: each member's last decision, the rule behind it, who else could lead as that member
/// sees it, and the decisions before.
pub fn explain(session: &mut Session, options: &Members) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    let cluster = session.read(&name)?;
    let members = asked(&cluster, &options.members);
    if cluster.members.is_empty() {
        let ask = "does a member run, and is the name (`scope`) right?";
        return Err(Failure::Message(format!("no member of cluster {name} is in etcd: {ask}")));
    }
    if let Some(stranger) = options.members.iter().find(|n| !cluster.members.contains_key(*n)) {
        let known: Vec<&str> = cluster.members.keys().map(String::as_str).collect();
        let known = known.join(", ");
        let what = format!("{stranger} is not a member of cluster {name}, which has {known}");
        return Err(Failure::Message(what));
    }
    for member in members {
        let text = match session.request(member, Method::GET, "explain", None) {
            Ok(answer) => explanation(member, &answer),
            Err(Failure::Message(why)) => format!("{}: does not answer\n  {why}\n", member.name),
            Err(failure) => return Err(failure),
        };
        session.console.print(&text)?;
    }
    Ok(())
}

fn explanation(member: &Member, answer: &Answer) -> String {
    let name = &member.name;
    let document = answer.json();
    // Patroni answers any path, with its status.
    let Some(rule) = document["rule"].as_str() else {
        return format!("{name}: is a Patroni and does not explain itself; see its log\n");
    };
    if rule.is_empty() {
        return format!("{name}: has not decided anything yet\n");
    }
    let mut text = format!("{name}: {rule}\n  {}\n", document["why"].as_str().unwrap_or_default());
    for member in document["candidates"].as_array().into_iter().flatten() {
        text.push_str(&format!("  {}\n", candidacy(member)));
    }
    let decisions = document["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !decisions.is_empty() {
        text.push_str("  decisions until now, the last one below:\n");
    }
    for line in decisions {
        text.push_str(&format!("    {}\n", line.as_str().unwrap_or_default()));
    }
    text
}

fn candidacy(member: &Value) -> String {
    let name = member["name"].as_str().unwrap_or_default();
    let obstacles = member["obstacles"].as_array().into_iter().flatten();
    let obstacles: Vec<&str> = obstacles.filter_map(Value::as_str).collect();
    if obstacles.is_empty() {
        let behind = member["behind_bytes"].as_u64().unwrap_or_default();
        return format!("{name} could lead, {behind} bytes behind");
    }
    format!("{name} could not lead: {}", obstacles.join("; "))
}

/// `remove`: forgets the cluster in the store, after three questions.
pub fn remove(session: &mut Session, options: &Remove) -> Result<(), Failure> {
    let name = &options.cluster;
    let cluster = session.read(name)?;
    let layout = Layout::List(options.format);
    session.console.print(&members::render(&cluster, name, false, layout))?;
    let confirmed = session.console.prompt("Please confirm the cluster name to remove", None)?;
    if confirmed != *name {
        return Err(Failure::message("Cluster names specified do not match"));
    }
    let sentence = "Yes I am aware";
    let question = format!(
        "You are about to remove all information in DCS for {name}, please type: \"{sentence}\""
    );
    if session.console.prompt(&question, None)? != sentence {
        return Err(Failure::Message(format!("You did not exactly type \"{sentence}\"")));
    }
    if let Some(leader) = &cluster.leader {
        let question =
            "This cluster currently is healthy. Please specify the leader name to continue";
        if session.console.prompt(question, None)? != leader.name {
            return Err(Failure::message("You did not specify the current leader of the cluster"));
        }
    }
    if session.delete(name, &cluster)? {
        Ok(())
    } else {
        Err(Failure::message("the leader changed meanwhile; nothing was removed"))
    }
}

#[cfg(test)]
#[path = "inform_tests.rs"]
mod tests;
