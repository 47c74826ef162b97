//! Samples captured from Patroni 4.1.4 and what nobody should write.

use super::*;
use crate::core::cluster::{
    FailoverRequest, Handover, HistoryEntry, Member, PauseRecord, Status, SyncState, Tags,
};
use crate::core::database::PendingParameter;
use crate::core::lsn::Lsn;
use crate::core::time::Wall;

const LEADER: &str = r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"running","role":"primary","version":"4.1.4","tags":{"zone":"z0"},"xlog_location":67108960,"timeline":1}"#;
const REPLICA: &str = r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8009/patroni","state":"running","role":"replica","version":"4.1.4","tags":{"clonefrom":true,"zone":"z1"},"xlog_location":67108960,"replay_lsn":67108960,"receive_lsn":67108960,"replication_state":"streaming","timeline":1}"#;
const STARTING: &str = r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"stopped","role":"uninitialized","version":"4.1.4","tags":{"zone":"z0"}}"#;
const EVERYTHING: &str = r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"running","role":"primary","version":"4.1.4","proxy_url":"postgres://127.0.0.1:6432/postgres","checkpoint_after_promote":false,"tags":{"zone":"z0"},"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"50","new_value":"60"}},"xlog_location":67108960,"timeline":3,"scheduled_restart":{"schedule":"2100-01-01T00:00:00+00:00"},"pause":true,"vigil":{"version":"0.1.0","protocol":1}}"#;

fn entry(name: &str, value: &str) -> Entry {
    let key = Key::parse(name).unwrap();
    Entry { key, value: value.into(), mod_revision: 7, lease_id: 5 }
}

fn read(name: &str, value: &str) -> Cluster {
    cluster(&[entry(name, value)])
}

fn member(text: &str) -> Member {
    read("members/alpha", text).members.remove("alpha").unwrap()
}

fn base(port: u16, api: u16) -> MemberDocument {
    MemberDocument {
        conn_url: format!("postgres://127.0.0.1:{port}/postgres"),
        api_url: format!("http://127.0.0.1:{api}/patroni"),
        state: "running".into(),
        role: "primary".into(),
        version: "4.1.4".into(),
        tags: object(r#"{"zone":"z0"}"#),
        ..MemberDocument::default()
    }
}

#[test]
fn members_are_written_as_captured() {
    let at = Some(Lsn(67_108_960));
    let leader = MemberDocument { xlog_location: at, timeline: Some(1), ..base(5432, 8008) };
    let replica = MemberDocument {
        role: "replica".into(),
        tags: object(r#"{"clonefrom":true,"zone":"z1"}"#),
        xlog_location: at,
        replay_lsn: at,
        receive_lsn: at,
        replication_state: Some("streaming".into()),
        timeline: Some(1),
        ..base(5433, 8009)
    };
    let starting = MemberDocument {
        state: "stopped".into(),
        role: "uninitialized".into(),
        ..base(5432, 8008)
    };
    let everything = MemberDocument {
        proxy_url: Some("postgres://127.0.0.1:6432/postgres".into()),
        awaits_checkpoint: true,
        pending_restart: vec![PendingParameter {
            name: "max_connections".into(),
            old_value: "50".into(),
            new_value: "60".into(),
        }],
        xlog_location: at,
        timeline: Some(3),
        scheduled_restart: Some(serde_json::json!({"schedule": "2100-01-01T00:00:00+00:00"})),
        pause: true,
        vigil_version: Some("0.1.0".into()),
        ..base(5432, 8008)
    };
    assert_eq!(member_json(&leader), LEADER);
    assert_eq!(member_json(&replica), REPLICA);
    assert_eq!(member_json(&starting), STARTING);
    assert_eq!(member_json(&everything), EVERYTHING);
    let reset = serde_json::json!({"by": "watchdog"});
    let text = member_json(&MemberDocument { last_reset: Some(reset), ..everything });
    let own = r#""vigil":{"version":"0.1.0","protocol":1,"last_reset":{"by":"watchdog"}}}"#;
    assert!(text.ends_with(own) && member(&text).vigil, "{text}");
}

#[test]
fn members_are_read_as_captured() {
    let replica = member(REPLICA);
    assert_eq!(replica.conn_url, "postgres://127.0.0.1:5433/postgres");
    assert_eq!(replica.api_url, "http://127.0.0.1:8009/patroni");
    assert!(replica.is_running() && replica.role == "replica" && replica.version == "4.1.4");
    assert_eq!(replica.receive_lsn, Some(Lsn(67_108_960)));
    assert_eq!(replica.replay_lsn, Some(Lsn(67_108_960)));
    assert_eq!(replica.replication_state.as_deref(), Some("streaming"));
    assert_eq!((replica.timeline, replica.lease_id, replica.mod_revision), (Some(1), 5, 7));
    assert_eq!(replica.raw, REPLICA);
    assert!(replica.tags.clonefrom && !replica.vigil && !replica.pause);
    assert_eq!(replica.tags.published["zone"], r#""z1""#);

    let everything = member(EVERYTHING);
    assert!(everything.vigil && everything.pause);
    assert_eq!(everything.checkpoint_after_promote, Some(false));
}

#[test]
fn members_of_any_shape_are_read() {
    for text in ["", "null", "[]", "7", "{", "\"x\"", r#"{"state":1,"tags":[],"timeline":-1}"#] {
        let read = member(text);
        assert_eq!((read.state.as_str(), read.timeline), ("", None), "{text}");
        assert_eq!(read.tags, Tags::default(), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(member(&deep).state, "");
    let huge = format!(r#"{{"state":"{}"}}"#, "x".repeat(DOCUMENT_BYTES_MAX));
    assert_eq!((member(&huge).state.as_str(), member(&huge).raw.len()), ("", 0));
    let invalid = Entry { value: vec![0xff, 0xfe], ..entry("members/alpha", "") };
    assert_eq!(cluster(&[invalid]).members["alpha"].raw, "");
}

#[test]
fn members_of_the_first_releases_are_connection_urls() {
    let url = "postgres://u:p@127.0.0.1:5432/postgres?\
        application_name=http%3A//127.0.0.1:8008/patroni";
    let read = member(url);
    assert_eq!(read.conn_url, "postgres://u:p@127.0.0.1:5432/postgres");
    assert_eq!(read.api_url, "http://127.0.0.1:8008/patroni");
    assert_eq!(member("postgres://h/d?application_name=%").api_url, "%");
    assert_eq!(member("postgres://h/d").conn_url, "postgres://h/d");
}

#[test]
fn tags_have_patronis_meaning() {
    let cases = [
        ("{}", (false, 1, false, 1)),
        (r#"{"nofailover":true}"#, (true, 0, false, 1)),
        (r#"{"nofailover":"yes","failover_priority":5}"#, (true, 0, false, 1)),
        (r#"{"nofailover":false,"failover_priority":0}"#, (false, 1, false, 1)),
        (r#"{"failover_priority":"3","nosync":1}"#, (false, 3, true, 0)),
        (r#"{"failover_priority":0,"sync_priority":-1}"#, (true, 0, true, 0)),
        (r#"{"failover_priority":{},"nosync":[]}"#, (false, 1, false, 1)),
    ];
    for (text, expected) in cases {
        let tags = tags(&object(text));
        let read = (tags.nofailover, tags.failover_priority, tags.nosync, tags.sync_priority);
        assert_eq!(read, expected, "{text}");
    }
}

#[test]
fn status_is_read_and_written_as_captured() {
    let text = r#"{"optime":67443952,"slots":{"alpha":67443952,"phys":67443304},"retain_slots":["alpha","beta","gamma"]}"#;
    let status = read("status", text).status;
    assert_eq!(status.optime, Some(Lsn(67_443_952)));
    assert_eq!(status.slots["phys"], Lsn(67_443_304));
    assert_eq!(status_json(&status), text);
    assert_eq!(status_json(&Status::default()), "{}");

    assert_eq!(read("status", "42").status.optime, Some(Lsn(42)));
    assert_eq!(read("optime/leader", "42").status.optime, Some(Lsn(42)));
    let both = cluster(&[entry("optime/leader", "1"), entry("status", text)]);
    assert_eq!(both.status.optime, Some(Lsn(67_443_952)));
    for bad in ["", "null", "[1]", r#"{"optime":-1,"slots":7,"retain_slots":{}}"#] {
        assert_eq!(read("status", bad).status, Status::default(), "{bad}");
    }
}

#[test]
fn failover_requests_survive_all_their_spellings() {
    let text = r#"{"leader":"alpha","member":"beta","scheduled_at":"2100-01-01T00:00:00+00:00"}"#;
    let request = |leader: &str, candidate: &str, at: Option<i64>| {
        let name = |name: &str| Some(name).filter(|n| !n.is_empty()).map(Into::into);
        let scheduled_at = at.map(Wall);
        FailoverRequest { leader: name(leader), candidate: name(candidate), scheduled_at }
    };
    let new_year = 4_102_444_800_000_000;
    let cases = [
        (text, request("alpha", "beta", Some(new_year))),
        (
            r#"{"scheduled_at":"2100-01-01T01:00:00.5+01:00"}"#,
            request("", "", Some(new_year + 500_000)),
        ),
        (r#"{"candidate":"beta","scheduled_at":null}"#, request("", "beta", None)),
        ("alpha:beta", request("alpha", "beta", None)),
        (":beta", request("", "beta", None)),
        ("alpha", request("alpha", "", None)),
        ("{}", request("", "", None)),
        ("null", request("", "", None)),
        ("", request("", "", None)),
        (r#"{"leader":7,"member":[]}"#, request("", "", None)),
        (r#"{"member":"beta""#, request("", "", None)),
        // A time that cannot be read must not become "now".
        (r#"{"member":"beta","scheduled_at":"tomorrow"}"#, request("", "", None)),
        (r#"{"member":"beta","scheduled_at":12}"#, request("", "", None)),
    ];
    for (text, expected) in cases {
        let read = read("failover", text).failover.unwrap();
        assert_eq!((read.value, read.mod_revision), (expected, 7), "{text}");
    }
    assert_eq!(failover_json(&request("alpha", "beta", Some(new_year))), text);
    assert_eq!(failover_json(&request("", "alpha", None)), r#"{"member":"alpha"}"#);
    assert_eq!(failover_json(&FailoverRequest::default()), "{}");
    let fraction = failover_json(&request("", "", Some(new_year + 1)));
    assert_eq!(fraction, r#"{"scheduled_at":"2100-01-01T00:00:00.000001+00:00"}"#);
}

#[test]
fn sync_is_read_and_written_as_captured() {
    let text = r#"{"leader":"gamma","quorum":0,"sync_standby":"alpha,beta"}"#;
    let state = read("sync", text).sync.unwrap().value;
    assert!(state.contains("gamma") && state.contains("alpha") && state.contains("beta"));
    assert_eq!(sync_json(&state), text);
    let unsorted = SyncState { standbys: vec!["beta".into(), "alpha".into()], ..state };
    assert_eq!(sync_json(&unsorted), text);
    let alone = r#"{"leader":"gamma","quorum":0,"sync_standby":null}"#;
    assert_eq!(sync_json(&read("sync", alone).sync.unwrap().value), alone);
    for empty in ["{}", "null", "", r#"{"sync_standby":"alpha"}"#, r#"{"leader":1}"#] {
        assert_eq!(read("sync", empty).sync.unwrap().value, SyncState::default(), "{empty}");
    }
}

#[test]
fn history_is_read_and_written_as_captured() {
    let text = r#"[[1,67442504,"no recovery target specified","2026-11-21T10:24:12.236934+00:00","beta"],[2,67442600,"x"]]"#;
    let history = read("history", text).history;
    assert_eq!(history.len(), 2);
    assert_eq!(history[0].new_leader.as_deref(), Some("beta"));
    assert_eq!(history_json(&history), text);
    assert_eq!(history_json(&[]), "[]");
    let damaged = read("history", r#"[1,[],["1"],[4294967296,1,"x"],[3,4,5,6,7]]"#).history;
    let kept = HistoryEntry { timeline: 3, lsn: Lsn(4), ..HistoryEntry::default() };
    assert_eq!(damaged, [kept]);
    assert_eq!(read("history", "{}").history, []);
}

#[test]
fn whatever_stands_in_a_pause_record_is_one() {
    let since = "2026-11-21T10:20:36+00:00";
    let mut record = PauseRecord {
        leader: "alpha".into(),
        since: Some(Wall(1_795_256_436_000_000)),
        stopped: false,
    };
    let text = pause_json(&record);
    assert_eq!(text, format!(r#"{{"leader":"alpha","since":"{since}"}}"#));
    assert_eq!(read("vigil/pause", &text).pause_record.unwrap().value, record);
    record.stopped = true;
    let text = pause_json(&record);
    assert_eq!(read("vigil/pause", &text).pause_record.unwrap().value, record);
    for text in ["", "x", "[]", r#"{"leader":1,"stopped":"yes"}"#] {
        let found = read("vigil/pause", text).pause_record.unwrap().value;
        assert_eq!(found, PauseRecord::default(), "{text}");
    }
}

#[test]
fn half_a_handover_note_is_none() {
    let note = Handover {
        from: "alpha".into(),
        to: "beta".into(),
        lsn: Lsn(67_443_952),
        leader_mod_revision: 12,
    };
    let text = handover_json(&note);
    assert_eq!(text, r#"{"from":"alpha","to":"beta","lsn":67443952,"leader_mod_revision":12}"#);
    assert_eq!(read("vigil/handover", &text).handover.unwrap().value, note);
    for half in ["{}", "", "null", r#"{"from":"alpha","to":"beta","lsn":1}"#] {
        assert_eq!(read("vigil/handover", half).handover, None, "{half}");
    }
}

#[test]
fn the_small_keys() {
    let leader = read("leader", "alpha").leader.unwrap();
    assert_eq!((leader.name.as_str(), leader.lease_id, leader.mod_revision), ("alpha", 5, 7));
    assert_eq!(read("leader", "").leader, None);
    let damaged = Entry { value: vec![0xff], ..entry("leader", "") };
    assert!(cluster(&[damaged]).leader.is_some());
    assert_eq!(cluster(&[]).initialize, Initialize::Absent);
    assert_eq!(read("initialize", "").initialize, Initialize::InProgress { lease_id: 5 });
    assert_eq!(read("initialize", "77").initialize, Initialize::Done("77".into()));
    assert_eq!(read("config", r#"{"ttl":20}"#).config.unwrap().value, r#"{"ttl":20}"#);
}

#[test]
fn only_ascii_is_written() {
    let text = serde_json::json!({ "ä": "€\u{1f600}\u{7f}\n\"" });
    assert_eq!(compact(&text), r#"{"\u00e4":"\u20ac\ud83d\ude00\u007f\n\""}"#);
}

#[test]
fn positions_alone_are_no_change() {
    let moved = REPLICA.replace("67108960", "67109999");
    assert!(moved_only(REPLICA.as_bytes(), moved.as_bytes()));
    let stopped = moved.replace("running", "stopped");
    assert!(!moved_only(REPLICA.as_bytes(), stopped.as_bytes()));
    assert!(!moved_only(b"", REPLICA.as_bytes()));
}
