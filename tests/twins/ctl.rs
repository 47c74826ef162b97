//! The command-line tools, command by command, against the same cluster.

use super::{Book, mask};
use crate::cluster::leader;
use crate::lab::Product::{Patroni, Pgvigil};
use crate::lab::ctl::Said;
use crate::lab::wait::wait_until;
use crate::lab::{Lab, Product};
use crate::mixed::{SOON, switch_to};

/// What changes nothing. LEADER and REPLICA stand for the names of the two.
const ASKED: &[&[&str]] = &[
    &["list"],
    &["list", "lab"],
    &["list", "lab", "nosuch"],
    &["list", "-e"],
    &["list", "-t"],
    &["list", "-f", "json"],
    &["list", "-f", "yaml"],
    &["list", "-f", "yml"],
    &["list", "-f", "tsv"],
    &["list", "-e", "-f", "tsv"],
    &["list", "-f", "nosuch"],
    &["topology"],
    &["show-config"],
    &["show-config", "nosuch"],
    &["history"],
    &["history", "-f", "json"],
    &["history", "-f", "yaml"],
    &["history", "-f", "tsv"],
    &["dsn"],
    &["dsn", "-r", "replica", "-m", "REPLICA"],
    &["dsn", "-r", "standby-leader"],
    &["dsn", "-m", "REPLICA"],
    &["dsn", "-m", "nosuch"],
    &["version"],
    &["version", "lab"],
    &["version", "lab", "REPLICA"],
    &["query", "-c", "select 1"],
    &["query"],
    &["query", "-c", "select 1 as a, null as b, true as c", "-m", "LEADER", "--format", "pretty"],
    &["query", "-c", "select 1 as a, null as b, true as c", "-m", "LEADER", "--format", "json"],
    &["query", "-c", "select bad", "-m", "LEADER"],
    &["query", "-c", "select 1", "-m", "nosuch"],
    &["query", "-c", "select pg_is_in_recovery()", "-r", "replica"],
    &["edit-config", "--force", "-s", "ttl=5"],
    &["edit-config", "--force", "-s", "nonsense"],
    &["edit-config", "-s", "loop_wait=2"],
    &["edit-config", "-q", "-s", "loop_wait=2"],
    &["edit-config", "nosuch", "--force", "-s", "ttl=20"],
    &["restart"],
    &["restart", "lab", "nosuch", "--force"],
    &["restart", "lab", "REPLICA"],
    &["restart", "lab", "REPLICA", "--force", "--scheduled", "nonsense"],
    &["restart", "lab", "REPLICA", "--force", "--scheduled", "2000-01-01T00:00:00Z"],
    &["restart", "lab", "REPLICA", "--force", "--pg-version", "x"],
    &["restart", "lab", "REPLICA", "--force", "--pg-version", "9.5.2"],
    &["restart", "lab", "--force", "--pending"],
    &["restart", "lab", "-r", "standby-leader", "--force"],
    &["restart", "nosuch", "--force"],
    &["reload"],
    &["reload", "lab", "REPLICA", "--force"],
    &["reload", "lab", "--force"],
    &["reload", "lab", "-r", "replica"],
    &["reinit"],
    &["reinit", "lab", "LEADER", "--force"],
    &["reinit", "lab", "nosuch", "--force"],
    &["reinit", "lab", "REPLICA"],
    &["flush", "lab", "restart", "--force"],
    &["flush", "lab", "switchover"],
    &["flush", "lab", "nosuch"],
    &["flush", "lab"],
    &["switchover", "--leader", "nosuch", "--force"],
    &["switchover", "--leader", "LEADER", "--candidate", "nosuch", "--force"],
    &["switchover", "--leader", "LEADER", "--candidate", "LEADER", "--force"],
    &["switchover", "--leader", "LEADER", "--candidate", "REPLICA"],
    &["switchover", "--candidate", "REPLICA"],
    &["switchover", "--leader", "LEADER", "--candidate", "REPLICA", "--scheduled", "nonsense"],
    &["switchover", "nosuch", "--force"],
    &["failover", "--force"],
    &["failover", "--candidate", "nosuch", "--force"],
    &["failover", "--candidate", "LEADER", "--force"],
    &["failover", "--candidate", "REPLICA"],
    &["failover"],
    &["resume"],
    &["remove", "lab"],
    &["remove"],
    &["remove", "nosuch"],
    &["promote-cluster", "--force"],
    &["demote-cluster", "--force"],
    &["nosuch"],
    &["list", "--nosuch"],
    &["list", "extra", "--group", "x"],
    &[],
    &["--help"],
    &["list", "--help"],
    &["switchover", "--help"],
    &["restart", "--help"],
    &["edit-config", "--help"],
];

/// With answers to the questions, one a line.
const TOLD: &[(&[&str], &str)] = &[
    (&["restart", "lab", "REPLICA"], "\n\nn\n"),
    (&["restart", "lab", "REPLICA"], "now\nn\n"),
    (&["restart", "lab"], "2100-01-01T00:00\nn\n"),
    (&["reload", "lab", "REPLICA"], "n\n"),
    (&["reinit", "lab"], "nosuch\n"),
    (&["reinit", "lab", "REPLICA"], "n\n"),
    (&["switchover"], "\n\n\nn\n"),
    (&["switchover"], "LEADER\nREPLICA\n2100-01-01T00:00+00:00\nn\n"),
    (&["switchover"], "nosuch\n"),
    (&["failover"], "REPLICA\nn\n"),
    (&["failover"], "\n"),
    (&["edit-config", "-s", "loop_wait=2"], "n\n"),
    (&["remove", "lab"], "nosuch\n"),
    (&["remove", "lab"], "lab\nno\n"),
    (&["remove", "lab"], "lab\nYes I am aware\nnosuch\n"),
    (&["edit-config", "--apply", "-"], "loop_wait: 2\n"),
    (&["edit-config", "--apply", "-", "--force"], "ttl: 5\n"),
    (&["flush", "lab", "restart"], "n\n"),
];

/// What changes something, in turn by either tool: each list leads back to where it began.
const DONE: &[&[&str]] = &[
    &["pause"],
    &["pause"],
    &["list"],
    &["topology"],
    &["switchover", "--leader", "LEADER", "--force"],
    &["restart", "lab", "REPLICA", "--force", "--scheduled", "2100-01-01T00:00:00Z"],
    &["resume", "--wait"],
    &["resume"],
    &["pause", "--wait"],
    &["resume", "--wait"],
    &["restart", "lab", "REPLICA", "--force", "--scheduled", "2100-01-01T00:00:00Z"],
    &["restart", "lab", "REPLICA", "--force", "--scheduled", "2100-01-01T00:00:00Z"],
    &["list"],
    &["list", "-f", "json"],
    &["list", "-f", "tsv"],
    &["flush", "lab", "restart", "--force"],
    &["flush", "lab", "restart", "--force"],
    &["switchover", "--leader", "LEADER", "--force", "--scheduled", "2100-01-01T00:00:00Z"],
    &["list"],
    &["flush", "lab", "switchover"],
    &["flush", "lab", "switchover"],
    &["edit-config", "--force", "-s", "maximum_lag_on_failover=2097152"],
    &["edit-config", "--force", "-s", "maximum_lag_on_failover=1048576"],
    &["edit-config", "--force", "-p", "max_connections=60"],
    &["list"],
    &["list", "-f", "json"],
    &["edit-config", "--force", "-p", "max_connections=50"],
    &["restart", "lab", "REPLICA", "--force"],
    &["reinit", "lab", "REPLICA", "--force", "--wait"],
    &["switchover", "--leader", "LEADER", "--candidate", "REPLICA", "--force"],
    &["failover", "--candidate", "REPLICA", "--force"],
];

pub fn run_everything(lab: &mut Lab, book: &mut Book) {
    for arguments in ASKED {
        pair(lab, book, arguments, "");
    }
    for (arguments, input) in TOLD {
        pair(lab, book, arguments, input);
    }
    let begin = leader(lab);
    for product in [Patroni, Pgvigil] {
        if leader(lab) != begin {
            switch_to(lab, begin, product);
        }
        for (turn, arguments) in DONE.iter().enumerate() {
            let arguments = filled(lab, arguments);
            let said = mask::positions(&mask::mask(&run(lab, product, &arguments, "")));
            let question = format!("{turn}: patronictl {}", DONE[turn].join(" "));
            book.note("command line, in turn", &question, product, &said);
            lab.wait_healthy("after a command", SOON);
            settle(lab, &arguments);
        }
    }
}

/// By both, one right after the other, again if the cluster changed in between.
fn pair(lab: &mut Lab, book: &mut Book, arguments: &[&str], input: &str) {
    let filled_in = filled(lab, arguments);
    let input_filled = fill(lab, input);
    let mut said = Default::default();
    for _ in 0..2 {
        said = [Patroni, Pgvigil].map(|product| run(lab, product, &filled_in, &input_filled));
        if mask::mask(&said[0]) == mask::mask(&said[1]) {
            break;
        }
    }
    let question = format!("patronictl {} <<< {input:?}", arguments.join(" "));
    let [theirs, ours] = said;
    book.note("command line", &question, Patroni, &theirs);
    book.note("command line", &question, Pgvigil, &ours);
}

fn run(lab: &mut Lab, product: Product, arguments: &[String], input: &str) -> String {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Said { code, out, err } = lab.ctl_told(product, &arguments, input);
    format!("exit code {code:?}\n{out}---- error output\n{err}")
}

fn filled(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| fill(lab, argument)).collect()
}

fn fill(lab: &Lab, text: &str) -> String {
    if !text.contains("LEADER") && !text.contains("REPLICA") {
        return text.to_owned();
    }
    let leader = leader(lab);
    // A Patroni: whose answers are shown must not depend on the turn.
    let replica = lab.numbers().find(|&n| n != leader && lab.product(n) == Patroni);
    text.replace("LEADER", &format!("m{leader}"))
        .replace("REPLICA", &format!("m{}", replica.expect("a replica")))
}

/// Waits until the members know of what was done, and say so in etcd.
fn settle(lab: &Lab, arguments: &[String]) {
    let said = arguments.join(" ");
    let (field, wanted) = match () {
        () if said.starts_with("pause") => ("pause", true),
        () if said.starts_with("resume") => ("pause", false),
        () if said.ends_with("max_connections=60") => ("pending_restart", true),
        () if said.ends_with("max_connections=50") => ("pending_restart", false),
        () => return,
    };
    wait_until(field, SOON, || {
        let told = lab.numbers().all(|number| {
            let status = lab.get(number, "/patroni").map(|answer| answer.json());
            status.is_some_and(|status| status[field].is_null() != wanted)
        });
        let cluster = lab.get(1, "/cluster")?.json();
        let members = cluster["members"].as_array()?;
        let shown = |member: &serde_json::Value| member[field].is_null() != wanted;
        (told && (field == "pause" || members.iter().all(shown))).then_some(())
    });
}
