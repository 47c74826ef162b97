//! The REST API, endpoint by endpoint, of members with the same role in the same state.

use std::time::Duration;

use super::{Book, mask};
use crate::cluster::leader;
use crate::lab::Product::{Patroni, Pgvigil};
use crate::lab::wait::{let_pass, wait_until};
use crate::lab::{Lab, Product, http};
use crate::mixed::{SOON, arrange, make_synchronous};

/// What a member says of itself.
const OWN: &[&str] = &[
    "GET /",
    "GET /primary",
    "GET /master",
    "GET /read-write",
    "GET /leader",
    "GET /standby-leader",
    "GET /standby_leader",
    "GET /replica",
    "GET /replica?lag=1MB",
    "GET /replica?lag=nonsense",
    "GET /replica?replication_state=streaming",
    "GET /replica?replication_state=other",
    "GET /replica?tag_zone=a",
    "GET /read-only",
    "GET /read-only?lag=0",
    "GET /sync",
    "GET /synchronous",
    "GET /async",
    "GET /asynchronous",
    "GET /read-only-sync",
    "GET /read-only-synchronous",
    "GET /quorum",
    "GET /read-only-quorum",
    "GET /health",
    "GET /readiness",
    "GET /readiness?mode=write",
    "GET /readiness?lag=1MB&mode=apply",
    "GET /liveness",
    "GET /patroni",
    "GET /metrics",
    "GET /nosuch",
    "GET /switchover",
    "GET /sigterm",
    "GET /primaryandmore",
    "GET /health/more",
    "GET //primary",
    "HEAD /",
    "HEAD /primary",
    "HEAD /replica",
    "OPTIONS /primary",
    "OPTIONS /replica",
    "OPTIONS /health",
];

/// What every member says alike.
const COMMON: &[&str] = &["GET /cluster", "GET /history", "GET /config", "GET /failsafe"];

/// Requests that are refused, or change nothing.
const REFUSED: &[(&str, &str)] = &[
    ("POST /nosuch", ""),
    ("DELETE /nosuch", ""),
    ("PUT /nosuch", ""),
    ("POST /config", "{}"),
    ("DELETE /config", ""),
    ("PATCH /config", ""),
    ("PATCH /config", "{}"),
    ("PATCH /config", "[1]"),
    ("PATCH /config", "{nonsense"),
    ("PATCH /config", r#"{"ttl": "5"}"#),
    ("PATCH /config", r#"{"nosuch": null}"#),
    ("PUT /config", ""),
    ("PUT /config", "{}"),
    ("POST /restart", r#"{"role": "bogus"}"#),
    ("POST /restart", r#"{"postgres_version": "15"}"#),
    ("POST /restart", r#"{"postgres_version": "x.y"}"#),
    ("POST /restart", r#"{"postgres_version": "9.5.2"}"#),
    ("POST /restart", r#"{"timeout": "-1"}"#),
    ("POST /restart", r#"{"timeout": "some"}"#),
    ("POST /restart", r#"{"foo": 1}"#),
    ("POST /restart", r#"{"role": "standby_leader"}"#),
    ("POST /restart", r#"{"restart_pending": true}"#),
    ("POST /restart", r#"{"schedule": "2000-01-01T00:00:00Z"}"#),
    ("POST /restart", r#"{"schedule": "2100-01-01T00:00:00"}"#),
    ("POST /restart", r#"{"schedule": "nonsense"}"#),
    ("POST /restart", "nonsense"),
    ("DELETE /restart", ""),
    ("DELETE /switchover", ""),
    ("POST /switchover", ""),
    ("POST /switchover", "{}"),
    ("POST /switchover", "nonsense"),
    ("POST /switchover", r#"{"candidate": "m1"}"#),
    ("POST /switchover", r#"{"leader": "nosuch"}"#),
    ("POST /switchover", r#"{"leader": "nosuch", "candidate": "nosuch"}"#),
    ("POST /switchover", r#"{"leader": "LEADER", "candidate": "LEADER"}"#),
    ("POST /switchover", r#"{"leader": "LEADER", "candidate": "nosuch"}"#),
    ("POST /switchover", r#"{"leader": "LEADER", "scheduled_at": "nonsense"}"#),
    ("POST /switchover", r#"{"leader": "LEADER", "scheduled_at": "2100-01-01T00:00:00"}"#),
    ("POST /switchover", r#"{"leader": "LEADER", "scheduled_at": "2000-01-01T00:00:00Z"}"#),
    ("POST /failover", "{}"),
    ("POST /failover", r#"{"foo": 1}"#),
    ("POST /failover", r#"{"candidate": "nosuch"}"#),
    ("POST /failover", r#"{"candidate": "m1", "scheduled_at": "2100-01-01T00:00:00Z"}"#),
    ("POST /failsafe", "{}"),
    (
        "POST /failsafe",
        r#"{"name": "x", "conn_url": "postgres://a/postgres", "api_url": "http://a/patroni"}"#,
    ),
    ("POST /mpp", r#"{"a": 1}"#),
    ("POST /citus", r#"{"a": 1}"#),
    ("POST /sigterm", ""),
    ("POST /reload", ""),
];

const LATER: &str = "2100-01-01T00:00:00+00:00";

pub fn ask_everything(lab: &mut Lab, book: &mut Book) {
    for leads in [Patroni, Pgvigil] {
        arrange(lab, 2, leads);
        println!("twins: {leads:?} leads");
        look(lab, book, "plain");
        refused(lab, book, "plain");
        planned(lab, book);
        paused(lab, book);
        synchronous(lab, book, leads);
        acted_upon(lab, book);
    }
    switched(lab, book);
}

/// Asks every member everything that changes nothing.
fn look(lab: &Lab, book: &mut Book, state: &str) {
    lab.wait_healthy(state, SOON);
    // What members publish of each other may be older than what the leader says itself.
    wait_until("two standbys that stream", SOON, || {
        let status = lab.get(leader(lab), "/patroni")?.json();
        (status["replication"].as_array()?.len() == 2).then_some(())
    });
    for number in lab.numbers() {
        let circumstances = format!("{state}, {}", role(lab, number));
        for question in OWN {
            let answer = settled(|| ask(lab, number, question, ""));
            book.note(&circumstances, question, lab.product(number), &answer);
        }
    }
    for question in COMMON {
        let [theirs, ours] = wait_agreed(lab, question);
        let circumstances = format!("{state}, any member, {:?} leads", lab.product(leader(lab)));
        book.note(&circumstances, question, Patroni, &theirs);
        book.note(&circumstances, question, Pgvigil, &ours);
    }
}

/// The answer that two questions in a row got: members learn of a change at different times.
fn settled(ask: impl Fn() -> String) -> String {
    let mut last = ask();
    wait_until("a settled answer", SOON, || {
        let_pass(Duration::from_millis(20));
        let now = ask();
        let plain = |text: &str| mask::mask(&mask::without_own(text));
        let same = plain(&now) == plain(&last);
        last = now;
        same.then(|| last.clone())
    })
}

/// One member of each product at the same time, until they agree or have had the time to.
fn wait_agreed(lab: &Lab, question: &str) -> [String; 2] {
    let first = |product| lab.numbers().find(|&n| lab.product(n) == product).expect("a member");
    let (patroni, pgvigil) = (first(Patroni), first(Pgvigil));
    let mut answers = Default::default();
    for _ in 0..100 {
        answers = [ask(lab, patroni, question, ""), ask(lab, pgvigil, question, "")];
        if answers[0] == answers[1] {
            break;
        }
        let_pass(Duration::from_millis(100));
    }
    answers
}

fn role(lab: &Lab, number: u8) -> String {
    wait_until("its role", SOON, || {
        let view = lab.view(number)?;
        view.members.into_iter().find(|line| line.number == number).map(|line| line.role)
    })
}

fn ask(lab: &Lab, number: u8, question: &str, body: &str) -> String {
    let (method, path) = question.split_once(' ').expect("a method");
    let answer = lab.ask_within(number, method, path, body, SOON);
    answer.map_or_else(|| "no answer".to_owned(), |answer| render(&answer))
}

/// Status, the headers that are not the transport's, body.
fn render(answer: &http::Answer) -> String {
    const TRANSPORT: &[&str] = &["server", "date", "connection", "content-length"];
    let mut headers: Vec<String> = answer
        .head
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| format!("{}: {value}", name.to_lowercase()))
        .filter(|line| !TRANSPORT.iter().any(|name| line.starts_with(&format!("{name}: "))))
        .collect();
    headers.sort();
    format!("{}\n{}\n\n{}", answer.status, headers.join("\n"), answer.body)
}

fn refused(lab: &Lab, book: &mut Book, state: &str) {
    let leader = format!("m{}", leader(lab));
    for number in lab.numbers() {
        let circumstances = format!("{state}, {}", role(lab, number));
        for (question, body) in REFUSED {
            let answer = ask(lab, number, question, &body.replace("LEADER", &leader));
            let question = format!("{question} {body}");
            book.note(&circumstances, &question, lab.product(number), &answer);
        }
    }
}

/// Asks every member the same, with the role that it has.
fn tell(lab: &Lab, book: &mut Book, state: &str, question: &str, body: &str) {
    for number in lab.numbers() {
        tell_one(lab, book, number, state, question, body);
    }
}

fn tell_one(lab: &Lab, book: &mut Book, number: u8, state: &str, question: &str, body: &str) {
    let circumstances = format!("{state}, {}", role(lab, number));
    let product = lab.product(number);
    let answer = ask(lab, number, question, body);
    book.note(&circumstances, &format!("{question} {body}"), product, &answer);
}

/// A pending restart, a restart and a switchover for a day that does not come.
fn planned(lab: &mut Lab, book: &mut Book) {
    let state = "planned";
    let more = r#"{"postgresql": {"parameters": {"max_connections": 60}}}"#;
    tell(lab, book, state, "PATCH /config", more);
    for number in lab.numbers() {
        wait_until("a pending restart", SOON, || {
            let status = lab.get(number, "/patroni")?.json();
            status["pending_restart"].as_bool().filter(|&pending| pending)
        });
    }
    let plan = format!(r#"{{"schedule": "{LATER}", "postgres_version": "16.0"}}"#);
    tell(lab, book, state, "POST /restart", &plan);
    tell(lab, book, "planned already", "POST /restart", &plan);
    let leads = leader(lab);
    let plan = format!(r#"{{"leader": "m{leads}", "scheduled_at": "{LATER}"}}"#);
    for number in lab.numbers() {
        tell_one(lab, book, number, state, "POST /switchover", &plan);
        tell_one(lab, book, number, state, "DELETE /switchover", "");
    }
    tell_one(lab, book, leads, "planned again", "POST /switchover", &plan);
    look(lab, book, state);
    tell(lab, book, state, "DELETE /restart", "");
    tell_one(lab, book, leads, "planned again", "DELETE /switchover", "");
    let less = r#"{"postgresql": {"parameters": {"max_connections": 50}}}"#;
    tell(lab, book, state, "PATCH /config", less);
    for number in lab.numbers() {
        wait_until("no pending restart", SOON, || {
            let status = lab.get(number, "/patroni")?.json();
            status["pending_restart"].is_null().then_some(())
        });
    }
}

fn paused(lab: &mut Lab, book: &mut Book) {
    let state = "paused";
    tell(lab, book, state, "PATCH /config", r#"{"pause": true}"#);
    wait_paused(lab, true);
    look(lab, book, state);
    let leads = leader(lab);
    let nobody = format!(r#"{{"leader": "m{leads}"}}"#);
    tell(lab, book, state, "POST /switchover", &nobody);
    let later = format!(r#"{{"leader": "m{leads}", "scheduled_at": "{LATER}"}}"#);
    tell(lab, book, state, "POST /switchover", &later);
    let later = format!(r#"{{"schedule": "{LATER}"}}"#);
    tell(lab, book, state, "POST /restart", &later);
    tell(lab, book, state, "PATCH /config", r#"{"pause": null}"#);
    wait_paused(lab, false);
}

fn wait_paused(lab: &Lab, wanted: bool) {
    for number in lab.numbers() {
        wait_until("every member's word on the pause", SOON, || {
            let said = lab.view(number)?;
            let status = lab.get(number, "/patroni")?.json();
            (said.paused == wanted && status["pause"].is_boolean() == wanted).then_some(())
        });
    }
}

fn synchronous(lab: &mut Lab, book: &mut Book, leads: Product) {
    let state = "synchronous";
    tell(lab, book, state, "PATCH /config", r#"{"synchronous_mode": true}"#);
    lab.settings.synchronous = true;
    lab.wait_healthy("synchronous", SOON);
    let kinds: &[Product] = if leads == Patroni { &[Patroni, Pgvigil] } else { &[Patroni] };
    for &kind in kinds {
        make_synchronous(lab, kind);
        look(lab, book, state);
        let leads = leader(lab);
        let view = lab.view(leads).expect("a view");
        let other = view.members.iter().find(|line| line.role == "replica");
        let other = other.expect("a replica").number;
        let wrong = format!(r#"{{"leader": "m{leads}", "candidate": "m{other}"}}"#);
        tell(lab, book, state, "POST /switchover", &wrong);
    }
    let leads = leader(lab);
    let off = r#"{"synchronous_mode": false}"#;
    tell_one(lab, book, leads, state, "PATCH /config", off);
    lab.settings.synchronous = false;
    wait_until("nobody synchronous", SOON, || {
        let line = lab.view(leads)?.members.into_iter().find(|line| line.role == "sync_standby");
        line.is_none().then_some(())
    });
}

/// What takes its time and succeeds.
fn acted_upon(lab: &mut Lab, book: &mut Book) {
    for number in lab.numbers() {
        tell_one(lab, book, number, "plain", "POST /restart", "{}");
        lab.wait_healthy("restarted", SOON);
    }
    let leads = leader(lab);
    for number in lab.numbers() {
        let before = lab.member(number).postmaster();
        tell_one(lab, book, number, "plain", "POST /reinitialize", "");
        if number != leads {
            let member = lab.member(number);
            wait_until("another postmaster", SOON, || {
                member.postmaster().filter(|_| member.postmaster() != before)
            });
        }
        lab.wait_healthy("copied", SOON);
    }
}

/// A switchover by either leader, and a failover.
fn switched(lab: &mut Lab, book: &mut Book) {
    for leads in [Patroni, Pgvigil] {
        arrange(lab, 2, leads);
        let old = leader(lab);
        let heir = lab.numbers().find(|&n| n != old && lab.product(n) == Patroni).expect("an heir");
        let body = format!(r#"{{"leader": "m{old}", "candidate": "m{heir}"}}"#);
        let answer = ask(lab, old, "POST /switchover", &body);
        book.note("plain, leader", "POST /switchover to a candidate", leads, &answer);
        lab.wait_healthy("switchover", SOON);
    }
    for leads in [Patroni, Pgvigil] {
        arrange(lab, 2, leads);
        let old = leader(lab);
        let heir = lab.numbers().find(|&n| n != old && lab.product(n) == Patroni).expect("an heir");
        let answer = ask(lab, old, "POST /failover", &format!(r#"{{"candidate": "m{heir}"}}"#));
        book.note("plain, leader", "POST /failover to a candidate", leads, &answer);
        lab.wait_healthy("failover", SOON);
    }
}
