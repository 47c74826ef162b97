use super::super::samples::{captured, cluster};
use super::*;

const PRETTY: Layout = Layout::List(Format::Pretty);

fn check(keys: &str, extended: bool, layout: Layout, expected: &str) {
    let text = render(&cluster(keys), "demo", extended, layout);
    assert_eq!(text, expected, "\n{text}\n---\n{expected}");
}

#[test]
fn tables_equal_patronictls() {
    check(captured!("healthy.keys"), true, PRETTY, captured!("healthy.extended"));
    check(captured!("pending.keys"), false, PRETTY, captured!("pending.list"));
    check(captured!("paused.keys"), false, PRETTY, captured!("paused.list"));
    check(captured!("switched.keys"), false, PRETTY, captured!("switched.list"));
    assert_eq!(render(&Cluster::default(), "nosuch", false, PRETTY), captured!("nosuch.list"));
}

#[test]
fn other_formats_equal_patronictls() {
    let list = |format| Layout::List(format);
    let healthy = captured!("healthy.keys");
    check(healthy, false, list(Format::Yaml), captured!("healthy.yaml"));
    check(healthy, true, list(Format::Tsv), captured!("healthy.tsv"));
    check(healthy, true, list(Format::Json), captured!("healthy.json"));
    check(captured!("pending.keys"), false, list(Format::Json), captured!("pending.json"));
}

/// The switched cluster moved on to gamma as leader on timeline `timeline` at position `lsn`.
fn led_by_gamma(timeline: u32, lsn: u64) -> String {
    let beta = r#""tags":{"clonefrom":true,"zone":"z1"}"#;
    let streaming = r#""replication_state":"streaming""#;
    captured!("switched.keys")
        .replace("67442960", &lsn.to_string())
        .replace("\"timeline\":2", &format!("\"timeline\":{timeline}"))
        .replace("leader\tbeta", "leader\tgamma")
        .replace(
            &format!(r#"{beta},"xlog_location":{lsn}"#),
            &format!(
                r#"{beta},"xlog_location":{lsn},"replay_lsn":{lsn},"receive_lsn":{lsn},{streaming}"#
            ),
        )
}

#[test]
fn planned_switchovers_stand_below_the_table() {
    let planned =
        r#"{"leader":"gamma","member":"alpha","scheduled_at":"2100-01-01T00:00:00+00:00"}"#;
    let keys = led_by_gamma(3, 0x405_1B50).replace("failover\t{}", &format!("failover\t{planned}"));
    check(&keys, false, PRETTY, captured!("scheduled.list"));
}

#[test]
fn synchronous_standbys_have_their_roles() {
    let keys = led_by_gamma(3, 0x405_1B80)
        .replace("\"ttl\":20", "\"ttl\":20,\"synchronous_mode\":true")
        + "sync\t{\"leader\":\"gamma\",\"quorum\":0,\"sync_standby\":\"alpha\"}\n";
    check(&keys, false, PRETTY, captured!("sync.list"));
    let keys = led_by_gamma(3, 0x405_1C18)
        .replace("\"ttl\":20", "\"ttl\":20,\"synchronous_mode\":\"quorum\"")
        + "sync\t{\"leader\":\"gamma\",\"quorum\":1,\"sync_standby\":\"alpha,beta\"}\n";
    check(&keys, false, PRETTY, captured!("quorum.list"));
}

#[test]
fn a_standby_cluster_has_a_standby_leader() {
    let keys = led_by_gamma(3, 0x405_1D68)
        .replace("\"ttl\":20", "\"ttl\":20,\"standby_cluster\":{\"host\":\"127.0.0.1\"}")
        .replace("\"replication_state\":\"streaming\",", "")
        .replace(",\"replication_state\":\"streaming\"", "");
    check(&keys, false, PRETTY, captured!("standby.list"));
}

#[test]
fn topology_is_a_tree() {
    check(captured!("paused.keys"), false, Layout::Topology, captured!("paused.topology"));
    let tags = concat!(
        r#"{"clonefrom":true,"nofailover":true,"noloadbalance":true,"nosync":true,"#,
        r#""replicatefrom":"alpha","zone":"z1"}"#
    );
    let keys = led_by_gamma(4, 0x405_1E80).replace(r#"{"clonefrom":true,"zone":"z1"}"#, tags);
    check(&keys, false, PRETTY, captured!("tags.list"));
    check(&keys, false, Layout::Topology, captured!("tags.topology"));
}

#[test]
fn topology_loses_nobody() {
    let tagged = |name: &str, from: &str| {
        format!(
            "members/{name}\t{{\"state\":\"running\",\"tags\":{{\"replicatefrom\":\"{from}\"}}}}\n"
        )
    };
    let leaderless = tagged("a", "b") + &tagged("b", "c") + &tagged("c", "b") + &tagged("d", "x");
    let text = render(&cluster(&leaderless), "demo", false, Layout::Topology);
    let names: Vec<&str> =
        text.lines().skip(3).map(|l| l.split('|').nth(1).unwrap_or("").trim_end()).collect();
    assert_eq!(names, [" + d", " + a", " + b", " + c", ""]);
}

#[test]
fn positions_of_members_that_report_none_are_unknown() {
    let keys = concat!(
        "leader\talpha\n",
        "members/alpha\t",
        r#"{"conn_url":"postgres://h/postgres","state":"stopped","role":"demoted"}"#,
        "\nmembers/beta\t",
        r#"{"conn_url":"postgres://[::1]:5432/postgres","state":"stopped","receive_lsn":0}"#,
    );
    let text = render(&cluster(keys), "demo", false, Layout::List(Format::Tsv));
    assert_eq!(
        text,
        "Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag\tReplay LSN\tReplay Lag\n\
         demo\talpha\th\tLeader\tstopped\t\t\t\t\t\n\
         demo\tbeta\t::1\tReplica\tstopped\t\tunknown\t\tunknown\t\n"
    );
}

#[test]
fn lags_round_half_to_even() {
    const HALF: u64 = 512 << 10;
    for (bytes, expected) in [(0, 0), (HALF, 0), (HALF + 1, 1), (3 * HALF, 2), (5 * HALF, 2)] {
        assert_eq!(megabytes(bytes), expected, "{bytes}");
    }
}

#[test]
fn long_reasons_are_hidden_in_tables_only() {
    let long = "x".repeat(60);
    let change = |new: &str| format!(r#"{{"old_value":"1","new_value":"{new}"}}"#);
    let reasons = format!(r#"{{"a":{},"b":{}}}"#, change("2"), change(&long));
    let document = format!(r#"{{"pending_restart":true,"pending_restart_reason":{reasons}}}"#);
    let cluster = cluster(&format!("members/m\t{document}\n"));
    let table = render(&cluster, "demo", false, PRETTY);
    assert!(table.contains("| a: 1->2 ") && table.contains("| b: [hidden - too long] "), "{table}");
    let json = render(&cluster, "demo", false, Layout::List(Format::Json));
    assert!(json.contains(&format!(r#""a: 1->2\nb: 1->{long}""#)), "{json}");
}
