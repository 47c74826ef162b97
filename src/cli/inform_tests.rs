use super::super::samples::{captured, cluster, member_api};
use super::*;

#[test]
fn a_reset_is_told_below_the_history() {
    let mut cluster = cluster(captured!("switched.keys"));
    assert_eq!(resets(&cluster, Format::Pretty), "");
    let member = cluster.members.values_mut().next().unwrap();
    member.raw =
        r#"{"vigil":{"last_reset":{"at":"2026-11-21 12:00:00","what":"it was reset"}}}"#.into();
    let line = format!("{}, 2026-11-21 12:00:00: it was reset\n", member.name);
    assert_eq!(resets(&cluster, Format::Pretty), line);
    assert_eq!(resets(&cluster, Format::Json), "", "read by programs");
}

#[test]
fn history_equals_patronictls() {
    let cluster = cluster(captured!("switched.keys"));
    assert_eq!(render_history(&cluster, Format::Pretty), captured!("history.pretty"));
    assert_eq!(render_history(&cluster, Format::Tsv), captured!("history.tsv"));
    assert_eq!(render_history(&cluster, Format::Json), captured!("history.json"));
    assert_eq!(render_history(&cluster, Format::Yaml), captured!("history.yaml"));
    assert_eq!(
        render_history(&Cluster::default(), Format::Pretty),
        "+----+-----+--------+-----------+------------+\n\
         | TL | LSN | Reason | Timestamp | New Leader |\n\
         +----+-----+--------+-----------+------------+\n\
         +----+-----+--------+-----------+------------+\n"
    );
}

#[test]
fn versions_come_from_the_members() {
    let status = r#"{"server_version": 150018, "patroni": {"version": "4.1.4"}}"#;
    let (url, api) = member_api(&[(200, status)]);
    let keys = format!("members/alpha\t{{\"api_url\":\"{url}\"}}\nmembers/beta\t{{}}\n");
    let (mut session, printed) = Session::fixed(&[cluster(&keys)], "");
    let options = Members { cluster: Some("demo".to_owned()), members: vec![] };
    version(&mut session, &options).unwrap();
    assert_eq!(
        printed.text(),
        "patronictl version 4.1.5\n\nalpha: Patroni 4.1.4 PostgreSQL 15.18\n"
    );
    assert_eq!(api.join().unwrap(), ["GET /patroni"]);
}

#[test]
fn explain_shows_rule_reason_and_decisions() {
    let ours = r#"{"rule": "follow", "why": "beta leads", "decisions": ["a", "b"],
        "candidates": [{"name": "beta", "behind_bytes": 7, "obstacles": []},
        {"name": "gamma", "behind_bytes": null, "obstacles": ["it is old", "it is slow"]}]}"#;
    let (url, api) = member_api(&[(200, ours), (503, r#"{"state": "running"}"#)]);
    let keys = format!(
        "members/alpha\t{{\"api_url\":\"{url}\"}}\nmembers/beta\t{{\"api_url\":\"{url}\"}}\n"
    );
    let (mut session, printed) = Session::fixed(&[cluster(&keys)], "");
    explain(&mut session, &Members { cluster: None, members: vec![] }).unwrap();
    assert_eq!(
        printed.text(),
        "alpha: follow\n  beta leads\n  beta could lead, 7 bytes behind\n  \
         gamma could not lead: it is old; it is slow\n  \
         decisions until now, the last one below:\n    a\n    b\n\
         beta: is a Patroni and does not explain itself; see its log\n"
    );
    assert_eq!(api.join().unwrap(), ["GET /explain", "GET /explain"]);
}

#[test]
fn explain_says_whom_it_does_not_find() {
    let keys = "members/alpha\t{}\nmembers/beta\t{}\n";
    for (keys, member, expected) in [
        ("", None, "no member of cluster demo is in etcd: does a member run, and is the name"),
        (keys, Some("gamma"), "gamma is not a member of cluster demo, which has alpha, beta"),
    ] {
        let (mut session, printed) = Session::fixed(&[cluster(keys)], "");
        let members = member.map(str::to_owned).into_iter().collect();
        let answer = explain(&mut session, &Members { cluster: None, members });
        let Err(Failure::Message(what)) = answer else { panic!("{answer:?}: {}", printed.text()) };
        assert!(what.starts_with(expected), "{what}");
    }
}

#[test]
fn remove_asks_three_times() {
    let options = Remove { cluster: "demo".to_owned(), format: Format::Pretty };
    let healthy = cluster(captured!("healthy.keys"));
    let questions = "Please confirm the cluster name to remove: You are about to remove all \
        information in DCS for demo, please type: \"Yes I am aware\": This cluster currently is \
        healthy. Please specify the leader name to continue: ";
    for (input, refusal) in [
        ("nope\n", Some("Cluster names specified do not match")),
        ("demo\nyes\n", Some("You did not exactly type \"Yes I am aware\"")),
        (
            "demo\nYes I am aware\nwrong\n",
            Some("You did not specify the current leader of the cluster"),
        ),
        ("demo\nYes I am aware\nalpha\n", None),
    ] {
        let (mut session, printed) = Session::fixed(std::slice::from_ref(&healthy), input);
        match (remove(&mut session, &options), refusal) {
            (Err(Failure::Message(text)), Some(refusal)) => assert_eq!(text, refusal),
            (Ok(()), None) => {
                assert!(printed.text().ends_with(questions));
                assert_eq!(session.fixed_store().writes.len(), 15);
            }
            (result, _) => panic!("{input}: {result:?}"),
        }
        if refusal.is_some() {
            assert!(session.fixed_store().writes.is_empty());
        }
    }
}
