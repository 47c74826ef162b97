use super::super::samples::{captured, cluster, member_api};
use super::*;

fn restart_options() -> Restart {
    Restart {
        cluster: "demo".to_owned(),
        members: vec![],
        role: None,
        any: false,
        scheduled: None,
        pg_version: None,
        pending: false,
        timeout: None,
        force: true,
    }
}

fn at(keys: &str, url: &str) -> crate::core::cluster::Cluster {
    let keys = ["8008", "8009", "8010"]
        .iter()
        .fold(keys.to_owned(), |k, p| k.replace(&format!("http://127.0.0.1:{p}/patroni"), url));
    cluster(&keys)
}

fn refusal(result: Result<(), Failure>) -> String {
    match result {
        Err(Failure::Message(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reload_equals_the_captured_transcript() {
    let (url, api) = member_api(&[(202, "reload scheduled")]);
    let (mut session, printed) = Session::fixed(&[at(captured!("pending.keys"), &url)], "");
    let options = Reload {
        cluster: "demo".to_owned(),
        members: vec!["beta".to_owned()],
        role: None,
        force: true,
    };
    reload(&mut session, &options).unwrap();
    assert_eq!(printed.text(), captured!("reload-beta.txt"));
    assert_eq!(api.join().unwrap(), ["POST /reload"]);
}

#[test]
fn restart_goes_to_members_that_wait_for_it() {
    let keys = captured!("pending.keys").replacen("\"pending_restart\":true,", "", 1);
    let (url, api) = member_api(&[(200, "restarted"), (503, "postgres is still starting")]);
    let (mut session, printed) = Session::fixed(&[at(&keys, &url)], "");
    restart(&mut session, &Restart { pending: true, ..restart_options() }).unwrap();
    assert!(printed.text().ends_with(
        "-+\nSuccess: restart on member beta\n\
         Failed: restart for member gamma, status code=503, (postgres is still starting)\n"
    ));
    let request = r#"POST /restart {"restart_pending":true}"#;
    assert_eq!(api.join().unwrap(), [request, request]);
}

#[test]
fn restart_asks_as_patronictl_does() {
    let (url, _api) = member_api(&[(200, "restarted")]);
    let (mut session, printed) = Session::fixed(&[at(captured!("healthy.keys"), &url)], "y\n\n");
    let options = Restart {
        members: vec!["gamma".to_owned()],
        scheduled: Some("now".to_owned()),
        force: false,
        ..restart_options()
    };
    restart(&mut session, &options).unwrap();
    assert!(printed.text().ends_with(
        "-+\nAre you sure you want to restart members gamma? [y/N]: Restart if the PostgreSQL \
         version is less than provided (e.g. 9.5.2)  []: Success: restart on member gamma\n"
    ));
}

#[test]
fn a_forced_schedule_replaces_the_old_one() {
    let planned =
        r#""scheduled_restart":{"schedule":"2100-01-01T00:00:00+00:00"},"tags":{"zone":"z2"}"#;
    let keys = captured!("healthy.keys").replace(r#""tags":{"zone":"z2"}"#, planned);
    let (url, api) = member_api(&[(200, "deleted"), (202, "Restart scheduled")]);
    let (mut session, printed) = Session::fixed(&[at(&keys, &url)], "");
    let options = Restart {
        members: vec!["gamma".to_owned()],
        scheduled: Some("2101-01-01T00:00:00Z".to_owned()),
        ..restart_options()
    };
    restart(&mut session, &options).unwrap();
    assert!(printed.text().ends_with("-+\nSuccess: restart scheduled on member gamma\n"));
    assert_eq!(
        api.join().unwrap(),
        ["DELETE /restart", r#"POST /restart {"schedule":"2101-01-01T00:00:00+00:00"}"#]
    );
}

#[test]
fn refusals_equal_patronictls() {
    let (mut session, _) = Session::fixed(&[cluster(captured!("healthy.keys"))], "n\n");
    let options = Restart { members: vec!["nosuch".to_owned()], ..restart_options() };
    assert_eq!(refusal(restart(&mut session, &options)), "No 'any' among provided members");
    let mut options = Reinit {
        cluster: "demo".to_owned(),
        members: vec!["alpha".to_owned()],
        force: true,
        from_leader: false,
        wait: false,
    };
    assert_eq!(refusal(reinit(&mut session, &options)), "No replica among provided members");
    options = Reinit { members: vec!["beta".to_owned()], force: false, ..options };
    assert_eq!(refusal(reinit(&mut session, &options)), "Aborted reinitialize");
    let (mut session, _) = Session::fixed(&[cluster("")], "");
    let options = Restart { force: false, ..restart_options() };
    assert_eq!(refusal(restart(&mut session, &options)), "demo cluster doesn't have any members");
    let (mut session, _) = Session::fixed(&[cluster(captured!("paused.keys"))], "");
    let options = Restart { scheduled: Some("2100-01-01".to_owned()), ..restart_options() };
    assert_eq!(
        refusal(restart(&mut session, &options)),
        "Can't schedule restart in the paused state"
    );
}

#[test]
fn a_busy_member_is_reinitialized_after_a_question() {
    let (url, api) = member_api(&[
        (503, "restart already in progress"),
        (200, "reinitialize started"),
        (200, r#"{"state": "running"}"#),
    ]);
    let (mut session, printed) = Session::fixed(&[at(captured!("healthy.keys"), &url)], "y\ny\n");
    let options = Reinit {
        cluster: "demo".to_owned(),
        members: vec!["beta".to_owned()],
        force: false,
        from_leader: true,
        wait: true,
    };
    reinit(&mut session, &options).unwrap();
    let text = printed.text();
    assert!(
        text.ends_with(
            "Failed: reinitialize for member beta, status code=503, (restart already in progress)\n\
             Do you want to cancel it and reinitialize anyway? [y/N]: \
             Success: reinitialize for member beta\n\
             Waiting for reinitialize to complete on: beta\n\
             Reinitialize is completed on: beta\n"
        ),
        "{text}"
    );
    assert_eq!(
        api.join().unwrap(),
        [
            r#"POST /reinitialize {"force":false,"from_leader":true}"#,
            r#"POST /reinitialize {"force":true,"from_leader":true}"#,
            "GET /patroni",
        ]
    );
}

#[test]
fn progress_is_a_bar() {
    let status = json!({"vigil": {"basebackup": {"done_bytes": 5 << 20, "total_bytes": 20 << 20}}});
    let bar = "beta [#####...............] 25 % of 20 MB";
    assert_eq!(copied("beta", &status).as_deref(), Some(bar));
    assert_eq!(copied("beta", &json!({"vigil": {"basebackup": {"done_bytes": 1}}})), None);
    let empty = json!({"vigil": {"basebackup": {"done_bytes": 0, "total_bytes": 0}}});
    assert_eq!(copied("beta", &empty), None);
}

#[test]
fn flush_discards_what_is_planned() {
    let flush_options = |target| Flush {
        cluster: "demo".to_owned(),
        members: vec![],
        target,
        role: None,
        force: true,
    };
    let (mut session, printed) = Session::fixed(&[cluster(captured!("healthy.keys"))], "");
    flush(&mut session, &flush_options(Event::Switchover)).unwrap();
    flush(&mut session, &flush_options(Event::Restart)).unwrap();
    let text = printed.text();
    assert!(text.starts_with("No pending scheduled switchover\n"), "{text}");
    assert!(text.ends_with("No scheduled restart for member gamma\n"), "{text}");

    let planned = "failover\t{\"leader\":\"alpha\",\"scheduled_at\":\"2100-01-01T00:00:00+00:00\"}";
    let keys = captured!("healthy.keys").replace("failover\t{}", planned);
    let (url, api) = member_api(&[(200, "scheduled switchover deleted")]);
    let (mut session, printed) = Session::fixed(&[at(&keys, &url)], "");
    flush(&mut session, &flush_options(Event::Switchover)).unwrap();
    assert_eq!(printed.text(), "Success: scheduled switchover deleted\n");
    assert_eq!(api.join().unwrap(), ["DELETE /switchover"]);

    let (mut session, printed) = Session::fixed(&[at(&keys, "http://127.0.0.1:1/patroni")], "");
    flush(&mut session, &flush_options(Event::Switchover)).unwrap();
    assert!(printed.text().contains("falling back to DCS"));
    let put = crate::dcs::Write::Put(crate::dcs::Key::Failover, "{}".to_owned(), 0);
    assert_eq!(session.fixed_store().writes, [put]);
}
