//! `pgvigil::dcs` against a real etcd.

use std::future::Future;
use std::time::{Duration, Instant};

use pgvigil::dcs::{Compare, Dcs, DcsError, Key, Options, Write};

use crate::etcd::Etcd;

const WITHIN: Duration = Duration::from_secs(3);

fn dcs(etcd: &Etcd) -> Dcs {
    Dcs::new(options(etcd)).unwrap()
}

fn options(etcd: &Etcd) -> Options {
    Options { endpoints: etcd.urls(), prefix: "/service/demo/".into(), ..Options::default() }
}

pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn take(name: &str, lease: i64) -> ([Compare; 1], [Write; 1]) {
    ([Compare::Absent(Key::Leader)], [Write::Put(Key::Leader, name.into(), lease)])
}

/// Waits until `check` holds; a bound for broken code only.
pub async fn until<C: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> C) {
    let patience = Instant::now() + seconds(30);
    while !check().await {
        assert!(Instant::now() < patience, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_lease_is_granted_kept_confirmed_and_expires() {
    let etcd = Etcd::start(1);
    run(async {
        let dcs = dcs(&etcd);
        let short = dcs.grant(Duration::from_millis(300), WITHIN).await.unwrap();
        assert_eq!(short.ttl, seconds(2), "raised to what etcd's election timeout needs");
        let lease = dcs.grant(Duration::from_millis(2500), WITHIN).await.unwrap();
        assert_eq!(lease.ttl, seconds(3), "rounded up");

        let (compares, writes) = take("alpha", lease.id);
        let taken = dcs.commit(&compares, &writes, WITHIN).await.unwrap();
        assert!(taken.succeeded);
        let renewed = dcs.keep_alive(lease.id, WITHIN).await.unwrap().expect("the lease lives");
        assert_eq!(renewed.ttl, lease.ttl);
        assert!(renewed.sent_at > lease.sent_at);
        let read = dcs.leader(WITHIN).await.unwrap();
        let key = read.key.expect("a leader");
        assert_eq!((key.name.as_str(), key.lease_id), ("alpha", lease.id));
        assert_eq!(key.mod_revision, taken.revision);
        assert_eq!((read.raft_term, read.cluster_id), (renewed.raft_term, renewed.cluster_id));
        assert!(read.raft_term > 0 && read.cluster_id > 0 && read.revision == taken.revision);

        // Nobody renews: the key goes, not before the last renewal's time is over.
        until("the lease expires", async || dcs.leader(WITHIN).await.unwrap().key.is_none()).await;
        assert!(pgvigil::sys::clock::boot().since(renewed.sent_at) >= lease.ttl);
        assert_eq!(dcs.keep_alive(lease.id, WITHIN).await, Ok(None));
        let (compares, writes) = take("alpha", lease.id);
        let error = dcs.commit(&compares, &writes, WITHIN).await.unwrap_err();
        assert!(matches!(error, DcsError::LeaseNotFound { maybe_applied: false, .. }), "{error}");
    });
}

#[test]
fn transactions_hold_their_conditions_and_etcdctl_reads_the_same() {
    let etcd = Etcd::start(1);
    run(async {
        let (one, two) = (dcs(&etcd), dcs(&etcd));
        let ours = one.grant(seconds(60), WITHIN).await.unwrap().id;
        let theirs = two.grant(seconds(60), WITHIN).await.unwrap().id;

        // A race of two has one winner, and the loser's answer is no.
        let (absent, alpha) = take("alpha", ours);
        let (_, beta) = take("beta", theirs);
        let (a, b) =
            tokio::join!(one.commit(&absent, &alpha, WITHIN), two.commit(&absent, &beta, WITHIN));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(a.succeeded != b.succeeded);
        let (winner, lease, revision) =
            if a.succeeded { ("alpha", ours, a.revision) } else { ("beta", theirs, b.revision) };
        assert_eq!(
            etcd.etcdctl(&["get", "--print-value-only", "/service/demo/leader"]),
            Ok(winner.into())
        );

        // Every compare, failing and holding.
        let note = [Write::Put(Key::Handover, "{}".into(), 0)];
        let cases = [
            (Compare::Absent(Key::Leader), false),
            (Compare::Absent(Key::Sync), true),
            (Compare::ModRevision(Key::Leader, revision), true),
            (Compare::ModRevision(Key::Leader, revision + 1), false),
            (Compare::Lease(Key::Leader, lease), true),
            (Compare::Lease(Key::Leader, lease + 1), false),
            (Compare::Value(Key::Leader, winner.into()), true),
            (Compare::Value(Key::Leader, "gamma".into()), false),
        ];
        for (compare, expected) in cases {
            let committed =
                one.commit(std::slice::from_ref(&compare), &note, WITHIN).await.unwrap();
            assert_eq!(committed.succeeded, expected, "{compare:?}");
        }

        let member = r#"{"state":"running"}"#;
        let writes = [
            Write::Put(Key::Member("alpha".into()), member.into(), ours),
            Write::Put(Key::Initialize, String::new(), 0),
            Write::Delete(Key::Handover),
        ];
        let written = one.commit(&[], &writes, WITHIN).await.unwrap();
        assert_eq!((written.succeeded, written.deleted), (true, 1));
        let printed = etcd.etcdctl(&["get", "--print-value-only", "/service/demo/members/alpha"]);
        assert_eq!(printed, Ok(member.into()));
        etcd.etcdctl(&["put", "/service/demo/initialize", "77"]).unwrap();
        etcd.etcdctl(&["put", "/service/demo2/leader", "neighbour"]).unwrap();

        let cluster = two.read(WITHIN).await.unwrap();
        assert_eq!(cluster.leader.as_ref().unwrap().name, winner);
        assert_eq!(cluster.members["alpha"].mod_revision, written.revision);
        assert_eq!(cluster.members["alpha"].lease_id, ours);
        assert!(cluster.members["alpha"].is_running() && cluster.handover.is_none());
        let id = pgvigil::core::cluster::Initialize::Done("77".into());
        assert_eq!(cluster.initialize, id);

        etcd.etcdctl(&["lease", "revoke", &format!("{ours:x}")]).unwrap();
        assert!(one.read(WITHIN).await.unwrap().members.is_empty());
    });
}

/// Everything that a leader needs, each within its deadline.
async fn works(dcs: &Dcs, lease: i64, value: &str) {
    let began = Instant::now();
    let renewed = dcs.keep_alive(lease, WITHIN).await.unwrap();
    assert!(renewed.is_some() && began.elapsed() < WITHIN);
    let began = Instant::now();
    dcs.read(WITHIN).await.unwrap();
    dcs.leader(WITHIN).await.unwrap();
    assert!(began.elapsed() < WITHIN * 2);
    let began = Instant::now();
    let config = [Write::Put(Key::Config, value.into(), 0)];
    assert!(dcs.commit(&[], &config, WITHIN).await.unwrap().succeeded);
    dcs.grant(seconds(60), WITHIN).await.unwrap();
    assert!(began.elapsed() < WITHIN * 2);
}

#[test]
fn one_of_three_members_may_be_silent_or_dead() {
    let mut etcd = Etcd::start(3);
    run(async {
        let dcs = dcs(&etcd);
        let lease = dcs.grant(seconds(60), WITHIN).await.unwrap().id;
        works(&dcs, lease, "0").await;
        for victim in [etcd.leader(), 0] {
            etcd.stop_member(victim);
            // A client that has just begun, and one that was connected to the victim.
            let fresh = Dcs::new(options(&etcd)).unwrap();
            let changes = fresh.watch();
            // A vote that is split is repeated: how long an election takes is etcd's affair.
            until("a leader of etcd", async || dcs.leader(WITHIN).await.is_ok()).await;
            works(&dcs, lease, "1").await;
            works(&fresh, lease, "2").await;
            until("the watch moves on", async || *changes.borrow() > 0).await;
            let before = Instant::now();
            works(&dcs, lease, "3").await;
            assert!(before.elapsed() < seconds(1), "the silent member is remembered");
            etcd.continue_member(victim);
        }
        let leader = etcd.leader();
        etcd.kill_member(leader);
        until("a leader of etcd", async || dcs.leader(WITHIN).await.is_ok()).await;
        works(&dcs, lease, "4").await;
        works(&Dcs::new(options(&etcd)).unwrap(), lease, "5").await;
        etcd.start_member(leader);
    });
}

#[test]
fn a_commit_that_nobody_answers_is_not_called_a_refusal() {
    let mut etcd = Etcd::start(1);
    run(async {
        let dcs = dcs(&etcd);
        let lease = dcs.grant(seconds(60), WITHIN).await.unwrap().id;
        etcd.stop_member(0);
        let (compares, writes) = take("alpha", lease);
        let (began, within) = (Instant::now(), Duration::from_millis(600));
        let error = dcs.commit(&compares, &writes, within).await.unwrap_err();
        assert!(matches!(error, DcsError::Timeout { .. }) && error.maybe_applied(), "{error}");
        let error = dcs.keep_alive(lease, within).await.unwrap_err();
        assert!(matches!(error, DcsError::Timeout { .. }), "{error}");
        assert!(began.elapsed() < within * 3);
        etcd.continue_member(0);
        dcs.leader(WITHIN).await.unwrap();

        etcd.kill_member(0);
        dcs.leader(within).await.unwrap_err();
        let error = dcs.commit(&compares, &writes, within).await.unwrap_err();
        assert!(matches!(error, DcsError::Unreachable { .. }), "{error}");
        assert!(!error.maybe_applied(), "no connection, no request: {error}");
        etcd.start_member(0);
        dcs.leader(seconds(20)).await.unwrap();
    });
}

#[test]
fn mute_and_closed_endpoints_cost_their_share_only() {
    let etcd = Etcd::start(1);
    // Accepts connections (the kernel does) and never says a word, as a half-open one does.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = {
        let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        bound.local_addr().unwrap()
    };
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    let endpoints = vec![mute_url, format!("http://{closed}"), etcd.urls().remove(0)];
    let fresh = || Dcs::new(Options { endpoints: endpoints.clone(), ..options(&etcd) }).unwrap();
    run(async {
        let began = Instant::now();
        fresh().read(WITHIN).await.unwrap();
        assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());
        let lease = fresh().grant(seconds(60), WITHIN).await.unwrap().id;
        works(&fresh(), lease, "1").await;

        // Taken, and then refused: a refusal counts only if nobody may have applied the same.
        let (compares, writes) = take("alpha", lease);
        assert!(fresh().commit(&compares, &writes, WITHIN).await.unwrap().succeeded);
        let dcs = fresh();
        let error = dcs.commit(&compares, &writes, WITHIN).await.unwrap_err();
        assert!(matches!(error, DcsError::Unclear { .. }) && error.maybe_applied(), "{error}");
        dcs.read(WITHIN).await.unwrap();
        assert!(!dcs.commit(&compares, &writes, WITHIN).await.unwrap().succeeded);
        // "The lease is gone" counts when nobody contradicts.
        assert_eq!(fresh().keep_alive(lease + 1, WITHIN).await, Ok(None));
    });
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let etcd = Etcd::start_with_tls();
    run(async {
        let tls = etcd.tls();
        let some = |path: &String| Some(path.clone());
        let ours = Options {
            cacert: some(&tls.cacert),
            cert: some(&tls.cert),
            key: some(&tls.key),
            ..options(&etcd)
        };
        let read = async |options: Options| {
            Dcs::new(options).unwrap().read(Duration::from_millis(1500)).await
        };
        Dcs::new(ours.clone()).unwrap().read(WITHIN).await.unwrap();
        let missing = Some("/nonexistent.pem".to_string());
        let failing = [
            (Options { cert: None, key: None, ..ours.clone() }, ""),
            (Options { cacert: None, ..ours.clone() }, "certificate"),
            (Options { cacert: missing, ..ours.clone() }, "/nonexistent.pem"),
        ];
        for (options, reason) in failing {
            let error = read(options).await.unwrap_err();
            assert!(matches!(error, DcsError::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    });
}

#[test]
fn the_watch_is_a_hint_that_survives_everything() {
    let mut etcd = Etcd::start(1);
    run(async {
        let dcs = dcs(&etcd);
        let mut changes = dcs.watch();
        changes.changed().await.unwrap();
        let mut seen = *changes.borrow_and_update();

        let put = |key: Key, value: &str| {
            let (dcs, writes) = (dcs.clone(), [Write::Put(key, value.into(), 0)]);
            async move { dcs.commit(&[], &writes, WITHIN).await.unwrap().revision }
        };
        let alpha = || Key::Member("alpha".into());
        put(alpha(), r#"{"state":"running","xlog_location":1}"#).await;
        until("a new member is a change", async || *changes.borrow() > seen).await;
        seen = *changes.borrow_and_update();
        // Positions are none. The events come in order, so the failover key is the only one seen.
        put(alpha(), r#"{"state":"running","xlog_location":2}"#).await;
        put(Key::Status, r#"{"optime":2}"#).await;
        put(Key::Failover, "{}").await;
        until("a request is a change", async || *changes.borrow() > seen).await;
        assert_eq!(*changes.borrow_and_update(), seen + 1);

        // A compaction and a restart: the watch comes back and says so.
        let revision = put(Key::Failover, "{}").await;
        etcd.etcdctl(&["compact", &revision.to_string()]).unwrap();
        until("the last put is seen", async || *changes.borrow() > seen + 1).await;
        seen = *changes.borrow_and_update();
        etcd.kill_member(0);
        etcd.start_member(0);
        until("the watch is back", async || *changes.borrow() > seen).await;
        seen = *changes.borrow_and_update();
        put(Key::Config, "{}").await;
        until("a change after it", async || *changes.borrow() > seen).await;
    });
}

#[test]
fn users_and_passwords() {
    let etcd = Etcd::start(1);
    let user = |password: &str| {
        let (username, password) = (Some("root".into()), Some(password.into()));
        Dcs::new(Options { username, password, ..options(&etcd) }).unwrap()
    };
    run(async {
        // Credentials are configured first, authentication is switched on later.
        let early = user("secret");
        early.read(WITHIN).await.unwrap();
        etcd.etcdctl(&["user", "add", "root:secret"]).unwrap();
        etcd.etcdctl(&["user", "grant-role", "root", "root"]).unwrap();
        etcd.etcdctl(&["auth", "enable"]).unwrap();
        let refused = |error: DcsError| matches!(error, DcsError::Refused { .. });
        assert!(refused(user("wrong").read(WITHIN).await.unwrap_err()));
        assert!(refused(dcs(&etcd).read(WITHIN).await.unwrap_err()));
        let known = user("secret");
        let lease = known.grant(seconds(60), WITHIN).await.unwrap().id;
        assert!(known.keep_alive(lease, WITHIN).await.unwrap().is_some());
        let (compares, writes) = take("alpha", lease);
        assert!(known.commit(&compares, &writes, WITHIN).await.unwrap().succeeded);
        until("it logs in", async || early.read(WITHIN).await.is_ok()).await;
    });
}
