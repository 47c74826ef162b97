use super::super::samples::{captured, cluster, member_api};
use super::*;

fn options() -> Switchover {
    Switchover {
        cluster: Some("demo".to_owned()),
        leader: None,
        candidate: None,
        scheduled: None,
        force: true,
    }
}

/// The healthy cluster whose leader answers at this address.
fn healthy(url: &str) -> Cluster {
    cluster(&captured!("healthy.keys").replace("http://127.0.0.1:8008/patroni", url))
}

fn refusal(result: Result<(), Failure>) -> String {
    match result {
        Err(Failure::Message(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_done_is_refused_before_anybody_is_asked() {
    let some = |text: &str| Some(text.to_owned());
    let cases = [
        (
            Switchover { leader: some("gamma"), ..options() },
            "Member gamma is not the leader of cluster demo",
        ),
        (
            Switchover { candidate: some("nosuch"), ..options() },
            "Member nosuch does not exist in cluster demo or is tagged as nofailover",
        ),
        (
            Switchover { candidate: some("alpha"), ..options() },
            "Member alpha is already the leader of cluster demo",
        ),
        (
            Switchover { scheduled: some("soon"), ..options() },
            "Unable to parse scheduled timestamp (soon). \
             It should be in an unambiguous format (e.g. ISO 8601)",
        ),
    ];
    for (options, expected) in cases {
        let (mut session, _) = Session::fixed(&[healthy("")], "");
        assert_eq!(refusal(switchover(&mut session, &options)), expected);
    }
    let (mut session, _) = Session::fixed(&[cluster("")], "");
    assert_eq!(refusal(switchover(&mut session, &options())), "This cluster has no leader");
    let (mut session, _) = Session::fixed(&[cluster(captured!("paused.keys"))], "");
    let planned = Switchover { scheduled: some("2100-01-01"), ..options() };
    assert_eq!(
        refusal(switchover(&mut session, &planned)),
        "Can't schedule switchover in the paused state"
    );
    let (mut session, _) = Session::fixed(&[healthy("")], "");
    let forced = Failover { cluster: None, candidate: None, force: true };
    assert_eq!(
        refusal(failover(&mut session, &forced)),
        "Failover could be performed only to a specific candidate"
    );
}

#[test]
fn a_switchover_asks_the_leader_and_shows_the_outcome() {
    let (url, api) = member_api(&[(200, "Successfully switched over to \"beta\"")]);
    let after = cluster(captured!("switched.keys"));
    let (mut session, printed) = Session::fixed(&[healthy(&url), after], "");
    let options = Switchover { candidate: Some("beta".to_owned()), ..options() };
    switchover(&mut session, &options).unwrap();
    let text = printed.text();
    assert!(text.starts_with("Current cluster topology\n+ Cluster: demo ("), "{text}");
    assert!(text.contains(" Successfully switched over to \"beta\"\n+ Cluster: "), "{text}");
    assert!(text.ends_with(captured!("switched.list")), "{text}");
    assert_eq!(api.join().unwrap(), [r#"POST /switchover {"candidate":"beta","leader":"alpha"}"#]);
}

#[test]
fn questions_equal_patronictls() {
    let (url, api) = member_api(&[(202, "Switchover scheduled")]);
    let input = "\nbeta\n2100-01-01T00:00Z\ny\n";
    let (mut session, printed) = Session::fixed(&[healthy(&url)], input);
    switchover(&mut session, &Switchover { force: false, ..options() }).unwrap();
    let text = printed.text();
    let example = "2026-11-21T11:24".len();
    let (_, asked) = text.split_once("Primary [alpha]: ").unwrap();
    let (candidate, rest) = asked.split_once("(e.g. ").unwrap();
    assert_eq!(candidate, "Candidate ['beta', 'gamma'] []: When should the switchover take place ");
    assert!(
        rest[example..].starts_with(
            " )  [now]: Are you sure you want to schedule switchover of cluster demo at \
             2100-01-01T00:00:00+00:00, demoting current leader alpha? [y/N]: "
        ),
        "{rest}"
    );
    assert_eq!(
        api.join().unwrap(),
        [concat!(
            r#"POST /switchover {"candidate":"beta","leader":"alpha","#,
            r#""scheduled_at":"2100-01-01T00:00:00+00:00"}"#
        )]
    );
}

#[test]
fn a_members_refusal_is_shown_and_is_no_failure() {
    let refusal = "Switchover is possible only to a specific candidate in a paused state";
    let (url, api) = member_api(&[(400, refusal)]);
    let (mut session, printed) = Session::fixed(&[healthy(&url)], "");
    switchover(&mut session, &options()).unwrap();
    let line = format!("Switchover failed, details: 400, {refusal}\n");
    assert!(printed.text().ends_with(&line));
    assert_eq!(api.join().unwrap(), [r#"POST /switchover {"candidate":null,"leader":"alpha"}"#]);
}

#[test]
fn without_an_answer_the_request_goes_into_the_store() {
    let cluster =
        cluster(&captured!("healthy.keys").replace("http://127.0.0.1:8008", "http://127.0.0.1:1"));
    let (mut session, printed) = Session::fixed(&[cluster], "");
    let options = Failover { cluster: None, candidate: Some("beta".to_owned()), force: true };
    failover(&mut session, &options).unwrap();
    let text = printed.text();
    assert!(
        text.contains(" Could not failover using Patroni api, falling back to DCS\n"),
        "{text}"
    );
    let request = "{\"member\":\"beta\"}".to_owned();
    let put = crate::dcs::Write::Put(crate::dcs::Key::Failover, request, 0);
    assert_eq!(session.fixed_store().writes, [put]);
}
