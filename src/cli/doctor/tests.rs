use super::machine::{slew_rate, stands_over};
use super::service::{scheduling, settings, unit_name};
use super::*;

#[test]
fn the_worst_line_is_the_exit_code() {
    let good = Check::good("clock", "synchronised");
    let warning = Check::warning("etcd", "old", "upgrade");
    let bad = Check::bad("ports", "in use", "stop it");
    for (checks, code, last) in [
        (vec![good.clone()], 0, "All is well.\n"),
        (vec![warning.clone(), good.clone()], 3, "It works, with 1 warning.\n"),
        (vec![bad.clone(), warning, good], 1, "1 bad, 1 warning.\n"),
        (vec![bad], 1, "1 bad, 0 warnings.\n"),
    ] {
        assert_eq!(exit_code(&checks), code);
        let text = text_of(&checks);
        assert!(text.ends_with(last), "{text}");
        let document: serde_json::Value = serde_json::from_str(&json_of(&checks)).expect("JSON");
        assert_eq!(document["checks"].as_array().map(Vec::len), Some(checks.len()));
    }
    let text = text_of(&[Check::warning("etcd", "old", "upgrade")]);
    assert!(text.starts_with("warning etcd           old\n                       -> upgrade\n"));
}

#[test]
fn a_process_moves_to_another_group_by_leave_of_what_stands_over_both() {
    for (from, to, over) in [
        ("/cg/user.slice/a", "/cg/system.slice/pgvigil.service", "/cg"),
        ("/cg/system.slice/b", "/cg/system.slice/pgvigil.service", "/cg/system.slice"),
        ("/cg/member", "/cg/member", "/cg/member"),
        ("/cg/member/agent", "/cg/member", "/cg/member"),
    ] {
        assert_eq!(stands_over(from.as_ref(), to.as_ref()), Path::new(over), "{from} {to}");
    }
}

#[test]
fn a_units_settings_are_judged() {
    let right = "LoadState=loaded\nActiveState=active\nDelegate=yes\nKillMode=process\n\
                 Restart=always\nLimitMEMLOCK=infinity\n";
    assert_eq!(settings("u", right)[0].verdict, Verdict::Good);
    let wrong = settings("u", &right.replace("Delegate=yes", "Delegate=no"));
    assert_eq!(wrong[0].verdict, Verdict::Warning);
    assert!(wrong[0].what.contains("Delegate=no instead of yes"), "{}", wrong[0].what);
    assert!(settings("u", "LoadState=not-found\n")[0].what.contains("there is no u"));
    let failed = settings("u", &right.replace("=active", "=failed"));
    assert_eq!(failed[0].verdict, Verdict::Warning);
}

#[test]
fn the_unit_is_this_members() {
    let group =
        "1:cpu:/\n0::/system.slice/system-pgvigil.slice/pgvigil@15-main.service/supervisor\n";
    for (groups, config, wanted) in [
        (Some(group), None, "pgvigil@15-main.service"),
        (Some("0::/user.slice\n"), Some("/etc/pgvigil/pgvigil.yml"), "pgvigil.service"),
        (None, Some("/etc/pgvigil/a.yml"), "pgvigil@a.service"),
        (None, Some("/root/a.yml"), "pgvigil.service"),
        (None, None, "pgvigil.service"),
    ] {
        assert_eq!(unit_name(groups, config.map(Path::new)), wanted);
    }
}

#[test]
fn small_formats_are_read() {
    assert_eq!(slew_rate("pool x\nmaxslewrate 1000.5\n# maxslewrate 5\n"), Some(1001));
    assert_eq!(slew_rate("pool x\n"), None);
    let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
    let stat = format!("1 (a b) {}", fields.join(" "));
    assert_eq!(scheduling(&stat), Some((41, 40)));
    assert_eq!(scheduling("nothing"), None);
}
