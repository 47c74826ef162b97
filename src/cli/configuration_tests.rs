use serde_json::json;

use super::super::samples::{captured, cluster};
use super::*;

fn edit_line(before: &Value, pairs: &[&str]) -> Result<Value, Failure> {
    let mut value = before.clone();
    pairs.iter().try_for_each(|pair| set(&mut value, pair)).map(|()| value)
}

#[test]
fn paths_nest_except_below_parameters() {
    let before = json!({"ttl": 20, "postgresql": {"parameters": {"work_mem": "4MB"}}});
    let cases: [(&[&str], Value); 6] = [
        (&["ttl=25"], json!({"ttl": 25, "postgresql": {"parameters": {"work_mem": "4MB"}}})),
        (&["postgresql.parameters.work_mem=null"], json!({"ttl": 20})),
        (
            &["postgresql.parameters.auto_explain.log_min_duration=1s", "ttl=null"],
            json!({"postgresql": {"parameters":
                {"work_mem": "4MB", "auto_explain.log_min_duration": "1s"}}}),
        ),
        (
            &["slots.logi.type=logical", "postgresql=null", "ttl=null"],
            json!({"slots": {"logi": {"type": "logical"}}}),
        ),
        (&["ttl.deep=1", "postgresql="], json!({"ttl": {"deep": 1}})),
        (&["nothing=null"], before.clone()),
    ];
    for (pairs, expected) in cases {
        assert_eq!(edit_line(&before, pairs).unwrap(), expected, "{pairs:?}");
    }
    for bad in ["foo", "=1", "a..b=1", "log_line_prefix=%m [%p] "] {
        match edit_line(&before, &[bad]) {
            Err(Failure::Message(text)) => {
                assert!(text.starts_with(&format!("Invalid parameter setting {bad}")), "{text}");
            }
            other => panic!("{bad}: {other:?}"),
        }
    }
}

fn run(line: &EditConfig, input: &str) -> (String, Result<(), Failure>, Vec<crate::dcs::Write>) {
    let keys = captured!("healthy.keys").replace(":60,", ":50,");
    let (mut session, printed) = Session::fixed(&[cluster(&keys)], input);
    let result = edit(&mut session, line);
    (printed.text(), result, std::mem::take(&mut session.fixed_store().writes))
}

fn options() -> EditConfig {
    EditConfig {
        cluster: None,
        quiet: false,
        set: vec![],
        pg: vec![],
        apply: None,
        replace: None,
        force: true,
    }
}

#[test]
fn transcripts_equal_patronictls() {
    let line = EditConfig { pg: vec!["max_connections=60".to_owned()], ..options() };
    let (text, result, writes) = run(&line, "");
    assert_eq!(
        text,
        "--- \n+++ \n@@ -2,7 +2,7 @@\n maximum_lag_on_failover: 1048576\n postgresql:\n   \
         parameters:\n-    max_connections: 50\n+    max_connections: 60\n     wal_level: \
         logical\n   use_pg_rewind: true\n retry_timeout: 5\nConfiguration changed\n"
    );
    assert!(result.is_ok());
    let stored = concat!(
        r#"{"loop_wait":3,"maximum_lag_on_failover":1048576,"postgresql":{"parameters":"#,
        r#"{"max_connections":60,"wal_level":"logical"},"use_pg_rewind":true},"#,
        r#""retry_timeout":5,"ttl":20}"#
    );
    assert_eq!(writes, [crate::dcs::Write::Put(crate::dcs::Key::Config, stored.to_owned(), 0)]);

    let line = EditConfig { set: vec!["ttl=20".to_owned()], ..options() };
    assert_eq!(run(&line, "").0, "Not changed\n");
    let line = EditConfig { quiet: true, set: vec!["ttl=30".to_owned()], ..options() };
    assert_eq!(run(&line, "").0, "Configuration changed\n");
    let line = EditConfig { set: vec!["ttl=30".to_owned()], force: false, ..options() };
    let (text, _, writes) = run(&line, "n\n");
    assert!(text.ends_with("-ttl: 20\n+ttl: 30\nApply these changes? [y/N]: "), "{text}");
    assert!(writes.is_empty());
}

#[test]
fn files_are_merged_or_replace() {
    let stdin = || Some("-".into());
    let line = EditConfig { apply: stdin(), force: false, ..options() };
    assert_eq!(run(&line, "loop_wait: 3\n").0, "Not changed\n");
    let (text, _, writes) = run(&line, "loop_wait: 4\n");
    assert!(text.ends_with("Use --force option to apply changes\n"), "{text}");
    assert!(writes.is_empty());
    let line = EditConfig { replace: stdin(), ..options() };
    let (_, _, writes) = run(&line, "ttl: 30\nloop_wait: null\n");
    let stored = "{\"ttl\":30}".to_owned();
    assert_eq!(writes, [crate::dcs::Write::Put(crate::dcs::Key::Config, stored, 0)]);
    for bad in ["- a list", "", "a: [", "just text"] {
        let (_, result, writes) = run(&line, bad);
        assert!(matches!(result, Err(Failure::Message(_))), "{bad}");
        assert!(writes.is_empty());
    }
}

#[test]
fn concurrent_changes_and_a_missing_key_are_refused() {
    let line = EditConfig { set: vec!["ttl=30".to_owned()], quiet: true, ..options() };
    let (mut session, _) = Session::fixed(&[cluster(captured!("healthy.keys"))], "");
    session.fixed_store().refuse = true;
    let text = "Config modification aborted due to concurrent changes";
    assert!(matches!(edit(&mut session, &line), Err(Failure::Message(t)) if t == text));
    let (mut session, _) = Session::fixed(&[cluster("")], "");
    let text = "The config key does not exist in the cluster demo";
    assert!(matches!(edit(&mut session, &line), Err(Failure::Message(t)) if t == text));
}
