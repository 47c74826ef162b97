//! Commands that go to single members: restart, reload, reinit, flush.

use std::thread;
use std::time::Duration;

use hyper::Method;
use serde_json::{Map, Value, json};

use crate::core::cluster::Member;

use super::Failure;
use super::args::{Event, Flush, Reinit, Reload, Restart, Role};
use super::members;
use super::schedule;
use super::selection::{self, Wanted};
use super::session::{Answer, Session};

/// How often a waiting command looks again.
const POLL: Duration = Duration::from_secs(2);
/// Polls without an answer after which `reinit --wait` gives a member up: ten minutes, more than
/// a machine needs to start.
const SILENT_POLLS_MAX: u32 = 300;

/// `restart`.
pub fn restart(session: &mut Session, options: &Restart) -> Result<(), Failure> {
    let cluster = session.read(&options.cluster)?;
    let wanted = Wanted {
        cluster: &options.cluster,
        names: &options.members,
        role: options.role,
        force: options.force,
        action: "restart",
    };
    let mut members = selection::choose(session, &cluster, &wanted)?;
    if options.pending {
        let pending = |member: &Member| members::document(member).remove("pending_restart");
        members.retain(|member| members::truthy(pending(member).as_ref()));
        if members.is_empty() {
            eprintln!("warning: none of the members waits for a restart");
            return Ok(());
        }
    }
    let scheduled = match &options.scheduled {
        Some(text) => text.clone(),
        None if options.force => String::new(),
        None => {
            let example = schedule::next_hour();
            let question = format!("When should the restart take place (e.g. {example}) ");
            session.console.prompt(&question, Some("now"))?
        }
    };
    let at = schedule::parse(&scheduled)?;
    selection::confirm(session, &members, "restart", at.as_ref(), options.force)?;
    if options.any {
        members.truncate(1);
    }
    let mut body = restart_body(session, options)?;
    if at.is_some() && members::mode(&cluster).paused {
        return Err(Failure::message("Can't schedule restart in the paused state"));
    }
    if let Some(at) = &at {
        body.insert("schedule".to_owned(), json!(at.iso()));
    }
    if let Some(timeout) = &options.timeout {
        body.insert("timeout".to_owned(), json!(timeout));
    }
    for member in &members {
        restart_member(session, member, &Value::Object(body.clone()), options.force)?;
    }
    Ok(())
}

fn restart_body(session: &mut Session, options: &Restart) -> Result<Map<String, Value>, Failure> {
    let version = match &options.pg_version {
        Some(version) => version.clone(),
        None if options.force => String::new(),
        None => session.console.prompt(
            "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ",
            Some(""),
        )?,
    };
    let mut body = Map::new();
    if options.pending {
        body.insert("restart_pending".to_owned(), json!(true));
    }
    if !version.is_empty() {
        if let Some(wrong) = wrong_version(&version) {
            return Err(Failure::Message(format!("Invalid PostgreSQL version{wrong}: {version}")));
        }
        body.insert("postgres_version".to_owned(), json!(version));
    }
    Ok(body)
}

/// What of a version is not as `X.Y` or `X.Y.Z`.
fn wrong_version(text: &str) -> Option<&'static str> {
    let parts: Vec<&str> = text.split('.').collect();
    let number = |part: &&str| (1..=4).contains(&part.len()) && part.parse::<u16>().is_ok();
    if !parts.iter().all(number) {
        return Some("");
    }
    (!(2..=3).contains(&parts.len())).then_some(" format: X.Y or X.Y.Z is accepted")
}

fn restart_member(
    session: &mut Session,
    member: &Member,
    body: &Value,
    force: bool,
) -> Result<(), Failure> {
    if force && body.get("schedule").is_some() {
        let planned = members::document(member).contains_key("scheduled_restart");
        if planned {
            let answer = session.request(member, Method::DELETE, "restart", None);
            report(session, answer, member, "flush scheduled restart", Silent::Success)?;
        }
    }
    let name = &member.name;
    match session.request(member, Method::POST, "restart", Some(body)) {
        Ok(Answer { status: 200, .. }) => {
            session.console.say(&format!("Success: restart on member {name}"))
        }
        Ok(Answer { status: 202, .. }) => {
            session.console.say(&format!("Success: restart scheduled on member {name}"))
        }
        Ok(Answer { status: 409, .. }) => session
            .console
            .say(&format!("Failed: another restart is already scheduled on member {name}")),
        answer => report(session, answer, member, "restart", Silent::No).map(drop),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Silent {
    No,
    Success,
}

/// Prints what became of a request; whether it succeeded. A member that cannot be reached ends
/// the command.
fn report(
    session: &mut Session,
    answer: Result<Answer, Failure>,
    member: &Member,
    action: &str,
    silent: Silent,
) -> Result<bool, Failure> {
    let answer = answer?;
    let name = &member.name;
    if answer.status >= 400 {
        let Answer { status, text } = answer;
        let line = format!("Failed: {action} for member {name}, status code={status}, ({text})");
        session.console.say(&line)?;
        return Ok(false);
    }
    if silent == Silent::No {
        session.console.say(&format!("Success: {action} for member {name}"))?;
    }
    Ok(true)
}

/// `reload`.
pub fn reload(session: &mut Session, options: &Reload) -> Result<(), Failure> {
    let cluster = session.read(&options.cluster)?;
    let wanted = Wanted {
        cluster: &options.cluster,
        names: &options.members,
        role: options.role,
        force: options.force,
        action: "reload",
    };
    let members = selection::choose(session, &cluster, &wanted)?;
    selection::confirm(session, &members, "reload", None, options.force)?;
    let within = members::loop_wait_secs(&cluster);
    for member in &members {
        let name = &member.name;
        let answer = session.request(member, Method::POST, "reload", None)?;
        session.console.say(&match answer.status {
            200 => format!("No changes to apply on member {name}"),
            202 => format!(
                "Reload request received for member {name} and will be processed within {within} \
                 seconds"
            ),
            status => {
                format!("Failed: reload for member {name}, status code={status}, ({})", answer.text)
            }
        })?;
    }
    Ok(())
}

/// `reinit`.
pub fn reinit(session: &mut Session, options: &Reinit) -> Result<(), Failure> {
    let cluster = session.read(&options.cluster)?;
    let wanted = Wanted {
        cluster: &options.cluster,
        names: &options.members,
        role: Some(Role::Replica),
        force: options.force,
        action: "reinitialize",
    };
    let members = selection::choose(session, &cluster, &wanted)?;
    selection::confirm(session, &members, "reinitialize", None, options.force)?;
    let mut started = Vec::new();
    for member in members {
        if reinit_member(session, &member, options)? {
            started.push(member);
        }
    }
    if options.wait && !started.is_empty() { wait_for_copies(session, started) } else { Ok(()) }
}

fn reinit_member(
    session: &mut Session,
    member: &Member,
    options: &Reinit,
) -> Result<bool, Failure> {
    let mut force = options.force;
    loop {
        let body = json!({"force": force, "from_leader": options.from_leader});
        let answer = session.request(member, Method::POST, "reinitialize", Some(&body))?;
        let busy = answer.text.ends_with(" already in progress");
        let started = report(session, Ok(answer), member, "reinitialize", Silent::No)?;
        let question = "Do you want to cancel it and reinitialize anyway?";
        if started || force || !busy || !session.console.confirm(question)? {
            return Ok(started);
        }
        force = true;
    }
}

/// Waits until no member says that it is being copied; on a terminal one line shows how far.
fn wait_for_copies(session: &mut Session, mut members: Vec<Member>) -> Result<(), Failure> {
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let names = names.join(", ");
    session.console.say(&format!("Waiting for reinitialize to complete on: {names}"))?;
    let mut silent_polls = 0;
    while !members.is_empty() {
        thread::sleep(POLL);
        let mut progress = Vec::new();
        let mut done = Vec::new();
        silent_polls += 1;
        for member in &members {
            let Ok(answer) = session.request(member, Method::GET, "patroni", None) else {
                continue;
            };
            silent_polls = 0;
            let status = answer.json();
            match status["state"].as_str() {
                Some("creating replica") => progress.extend(copied(&member.name, &status)),
                Some(_) => done.push(member.name.clone()),
                None => {}
            }
        }
        if silent_polls >= SILENT_POLLS_MAX {
            return Err(Failure::message("the members do not answer any more; see their logs"));
        }
        if session.console.terminal {
            session.console.print(&format!("\r\x1b[K{}", progress.join("  ")))?;
        }
        for name in done {
            members.retain(|member| member.name != name);
            let clear = if session.console.terminal { "\r\x1b[K" } else { "" };
            session.console.say(&format!("{clear}Reinitialize is completed on: {name}"))?;
        }
    }
    Ok(())
}

/// How far a member's base backup is, if it says so: `vigil.basebackup` of `/patroni` with
/// `done_bytes` and `total_bytes`.
fn copied(name: &str, status: &Value) -> Option<String> {
    const BAR_CHARS: u64 = 20;
    let copy = status.get("vigil")?.get("basebackup")?;
    let (done, total) = (copy.get("done_bytes")?.as_u64()?, copy.get("total_bytes")?.as_u64()?);
    let done = done.min(total);
    let filled = done.checked_mul(BAR_CHARS)?.checked_div(total)?;
    let bar: String = (0..BAR_CHARS).map(|i| if i < filled { '#' } else { '.' }).collect();
    let percent = done.checked_mul(100)?.checked_div(total)?;
    Some(format!("{name} [{bar}] {percent} % of {} MB", total >> 20))
}

/// `flush`.
pub fn flush(session: &mut Session, options: &Flush) -> Result<(), Failure> {
    match options.target {
        Event::Restart => flush_restart(session, options),
        Event::Switchover => flush_switchover(session, options),
    }
}

fn flush_restart(session: &mut Session, options: &Flush) -> Result<(), Failure> {
    let cluster = session.read(&options.cluster)?;
    let wanted = Wanted {
        cluster: &options.cluster,
        names: &options.members,
        role: options.role,
        force: options.force,
        action: "flush",
    };
    let members = selection::choose(session, &cluster, &wanted)?;
    selection::confirm(session, &members, "flush", None, options.force)?;
    for member in &members {
        if members::document(member).contains_key("scheduled_restart") {
            let answer = session.request(member, Method::DELETE, "restart", None);
            report(session, answer, member, "flush scheduled restart", Silent::No)?;
        } else {
            let line = format!("No scheduled restart for member {}", member.name);
            session.console.say(&line)?;
        }
    }
    Ok(())
}

fn flush_switchover(session: &mut Session, options: &Flush) -> Result<(), Failure> {
    let cluster = session.read(&options.cluster)?;
    let planned = cluster.failover.as_ref().filter(|f| f.value.scheduled_at.is_some());
    let Some(planned) = planned else {
        return session.console.say("No pending scheduled switchover");
    };
    for member in selection::leader_first(&cluster) {
        let name = &member.name;
        match session.request(member, Method::DELETE, "switchover", None) {
            Ok(Answer { status: 200, text }) => {
                return session.console.say(&format!("Success: {text}"));
            }
            Ok(Answer { status: 404, text }) => {
                return session.console.say(&format!("Failed: {text}"));
            }
            Ok(Answer { status, text }) => {
                let line = format!("Failed: member={name}, status_code={status}, ({text})");
                session.console.say(&line)?;
            }
            Err(failure) => session.inaccessible(member, &failure),
        }
    }
    let name = &options.cluster;
    let line =
        format!("Could not find any accessible member of cluster {name}, falling back to DCS");
    session.console.say(&line)?;
    if session.clear_failover(name, planned.mod_revision)? {
        Ok(())
    } else {
        Err(Failure::message("the scheduled switchover changed meanwhile; look again"))
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
