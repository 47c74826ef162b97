//! Maintenance mode: pause and resume.

use std::thread;
use std::time::Duration;

use hyper::Method;
use serde_json::json;

use crate::core::cluster::Cluster;

use super::Failure;
use super::args::Pause;
use super::members;
use super::selection;
use super::session::{Answer, Session};

const POLL: Duration = Duration::from_secs(1);

/// Sets or clears the mode through the first member that answers.
pub fn toggle(session: &mut Session, options: &Pause, pause: bool) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    let cluster = session.read(&name)?;
    if members::mode(&cluster).paused == pause {
        let state = if pause { "already" } else { "not" };
        return Err(Failure::Message(format!("Cluster is {state} paused")));
    }
    let (word, done) = if pause { ("pause", "paused") } else { ("resume", "resumed") };
    let body = json!({ "pause": pause.then_some(true) });
    for member in selection::leader_first(&cluster) {
        match session.request(member, Method::PATCH, "config", Some(&body)) {
            Ok(Answer { status: 200, .. }) => {
                if options.wait {
                    wait(session, &name, &cluster, pause, word)?;
                }
                return session.console.say(&format!("Success: cluster management is {done}"));
            }
            Ok(Answer { status, text }) => {
                return session.console.say(&format!(
                    "Failed: {word} cluster management status code={status}, ({text})"
                ));
            }
            Err(failure) => session.inaccessible(member, &failure),
        }
    }
    Err(Failure::message("Can not find accessible cluster member"))
}

/// Until every member says in its document that it knows. A member that is gone leaves the store
/// within ttl, so after ttl and two loops who is still silent is named and the wait ends.
fn wait(
    session: &mut Session,
    name: &str,
    before: &Cluster,
    pause: bool,
    word: &str,
) -> Result<(), Failure> {
    session
        .console
        .say(&format!("'{word}' request sent, waiting until it is recognized by all nodes"))?;
    let polls = members::ttl_secs(before).saturating_add(2 * members::loop_wait_secs(before));
    let mut silent = String::new();
    for _ in 0..=polls {
        let cluster = session.read(name)?;
        let behind = cluster.members.values().filter(|member| member.pause != pause);
        silent = behind.map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        if silent.is_empty() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    Err(Failure::Message(format!("'{word}' is in force but not yet recognized by: {silent}")))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{captured, cluster, member_api};
    use super::*;

    fn refusal(result: Result<(), Failure>) -> String {
        match result {
            Err(Failure::Message(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_mode_changes_once() {
        let options = Pause { cluster: None, wait: false };
        let running = cluster(captured!("healthy.keys"));
        let paused = cluster(captured!("paused.keys"));
        let (mut session, _) = Session::fixed(&[paused], "");
        assert_eq!(refusal(toggle(&mut session, &options, true)), "Cluster is already paused");
        let (mut session, _) = Session::fixed(&[running], "");
        assert_eq!(refusal(toggle(&mut session, &options, false)), "Cluster is not paused");
        let unreachable =
            captured!("healthy.keys").replace("http://127.0.0.1", "http://127.0.0.1:1");
        let (mut session, _) = Session::fixed(&[cluster(&unreachable)], "");
        let text = "Can not find accessible cluster member";
        assert_eq!(refusal(toggle(&mut session, &options, true)), text);
    }

    #[test]
    fn waiting_ends_when_every_member_knows() {
        let (url, api) = member_api(&[(200, "{}")]);
        let before = captured!("healthy.keys").replace("http://127.0.0.1:8008/patroni", &url);
        let reads = [cluster(&before), cluster(captured!("paused.keys"))];
        let (mut session, printed) = Session::fixed(&reads, "");
        toggle(&mut session, &Pause { cluster: None, wait: true }, true).unwrap();
        assert_eq!(
            printed.text(),
            "'pause' request sent, waiting until it is recognized by all nodes\n\
             Success: cluster management is paused\n"
        );
        assert_eq!(api.join().unwrap(), [r#"PATCH /config {"pause":true}"#]);
    }
}
