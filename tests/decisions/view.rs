//! Words to views. Every case begins with `seen by NAME`, which is the healthy cluster as that
//! member sees it: alpha leads, beta and gamma stream from it. What follows says what is different.

use std::sync::Arc;
use std::time::Duration;

use pgvigil_core::core::cloning::Cloning;
use pgvigil_core::core::cluster::{
    Cluster, FailoverRequest, Handover, HistoryEntry, Initialize, Keyed, LeaderKey, Member,
    NewestTimeline, PauseRecord, SyncState, Tags, Tenure,
};
use pgvigil_core::core::database::{
    ControlData, ControlState, DataDir, Probe, WalReceiver, WalSender,
};
use pgvigil_core::core::decision::Upstream;
use pgvigil_core::core::failsafe::Bound;
use pgvigil_core::core::guard::Phase;
use pgvigil_core::core::health::{Ailing, Illness, Place};
use pgvigil_core::core::lsn::Lsn;
use pgvigil_core::core::settings::{ReplicaMethod, Settings, StandbyCluster};
use pgvigil_core::core::slot_copies::LeaderSlots;
use pgvigil_core::core::time::{Boot, Wall};
use pgvigil_core::core::timeline::{History, Switch};
use pgvigil_core::core::trust::Doubt;
use pgvigil_core::core::view::{
    DataJob, GuardView, LastExit, Memory, OwnLease, PeerAnswer, Postmaster, Seen, Server, Store,
    View, Wishes, Work,
};

use super::line::Line;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
const NOW: Boot = Boot(1_000_000_000_000_000);
pub const WALL: Wall = Wall(1_000_000_000_000);
const TENURE: Tenure = Tenure { lease_id: 7, mod_revision: 70 };
const TTL: Duration = Duration::from_secs(30);
const TIMELINE: u32 = 2;
/// Where everybody's WAL ends.
const END: Lsn = Lsn(0x1000);
const CHECKPOINT: Lsn = Lsn(0x900);
const PID: i32 = 5;
/// Revisions of keys that a line writes without saying which.
const REVISION: i64 = 30;

/// Sets those of the named fields for which the line has a word.
macro_rules! fields {
    ($line:expr, $target:expr, $($field:ident)*) => {{$(
        if let Some(value) = $line.take(stringify!($field)) {
            $target.$field = value;
        }
    )*}};
}

pub fn change(slot: &mut Option<View>, mut line: Line) {
    let subject = line.next();
    if subject == "seen" {
        if !line.is("by") || slot.is_some() {
            line.wrong("`seen by NAME` is the first line of a case");
        }
        let name = line.next();
        if !NAMES.contains(&name.as_str()) {
            line.wrong("the members are alpha, beta and gamma");
        }
        *slot = Some(healthy(&name));
        return line.end();
    }
    let Some(view) = slot else { line.wrong("a case begins with `seen by NAME`") };
    line.now = view.now;
    match subject.as_str() {
        "candidates" => {}
        "health" => health(view, &mut line),
        "wait" => view.now = view.now.plus(duration(&mut line)),
        "settings" => settings(&mut view.settings, &mut line),
        "tags" => tags(&mut view.tags, &mut line),
        "store" => store(&mut view.store, &mut line),
        "lease" => view.store.lease = lease(&mut line),
        "next-lease" => view.store.next_lease = lease(&mut line),
        "guard" => guard(&mut view.guard, &mut line),
        "postgres" => postgres(view, &mut line),
        "probe" => probe(view, &mut line),
        "sender" => sender(view, &mut line),
        "exit" => exit(&mut view.server, &mut line),
        "data" => data(&mut view.server, &mut line),
        "leader-history" => view.server.leader_history = Some(leader_history(&mut line)),
        "leader-slots" => view.server.leader_slots = Some(leader_slots(&mut line)),
        "job" => view.job = Some(job(&mut line)),
        "asked" => asked(view, &mut line),
        "peer" => peer(view, &mut line),
        "operator" => fields!(line, view.wishes, restart reinitialize from_leader stop),
        "memory" => {
            memory(&mut view.memory, &mut line);
            let under = view.cluster().map(Cluster::lately_led);
            view.memory.vacant_under = view.memory.vacant_since.and(under);
        }
        _ => in_store(view, &subject, &mut line),
    }
    line.end();
}

fn duration(line: &mut Line) -> Duration {
    let word = line.next();
    <Duration as super::line::Value>::read(&word, line.now)
        .unwrap_or_else(|| line.wrong("a length of time like 2s or 200ms"))
}

fn healthy(name: &str) -> View {
    let leads = name == NAMES[0];
    let state = if leads { ControlState::InProduction } else { ControlState::InArchiveRecovery };
    View {
        now: NOW,
        wall: WALL,
        name: name.to_owned(),
        tags: Tags::default(),
        settings: Settings { ttl: TTL, ..Settings::default() },
        store: Store {
            cluster: Some(Seen { value: Arc::new(cluster()), at: NOW }),
            lease: Some(OwnLease {
                id: if leads { TENURE.lease_id } else { 8 },
                ttl: TTL,
                asked: TTL,
                renewed_at: NOW,
            }),
            ..Store::default()
        },
        guard: GuardView {
            phase: if leads { Phase::Leading } else { Phase::Idle },
            tenure: leads.then_some(TENURE),
            sent_at: leads.then_some(NOW),
            fresh: Duration::from_secs(2),
            fenceable: true,
            populated: true,
            ..GuardView::default()
        },
        server: Server {
            data_dir: Some(DataDir::Cluster { version: 15, control: control(state) }),
            standby_signal: !leads,
            postmaster: Some(Postmaster {
                pid: PID,
                started_at: Boot(0),
                permitted: leads,
                stopping_since: None,
            }),
            probe: Some(Seen { value: Arc::new(answer(leads)), at: NOW }),
            upstream: (!leads).then(|| conn_url(NAMES[0])),
            ..Server::default()
        },
        health: Default::default(),
        job: None,
        peers: Default::default(),
        peers_asked_at: None,
        wishes: Wishes::default(),
        memory: Memory::default(),
    }
}

fn control(state: ControlState) -> ControlData {
    ControlData {
        system_identifier: 1,
        state,
        checkpoint_lsn: CHECKPOINT,
        redo_lsn: CHECKPOINT,
        timeline: TIMELINE,
        min_recovery_lsn: Lsn(0),
        min_recovery_timeline: 0,
        wal_log_hints: true,
        data_checksums: true,
        wal_segment_bytes: 16 << 20,
        checkpoint_time: 0,
    }
}

fn answer(primary: bool) -> Probe {
    let receiver = WalReceiver { status: "streaming".to_owned(), ..WalReceiver::default() };
    Probe {
        in_recovery: !primary,
        timeline: TIMELINE,
        flush_lsn: primary.then_some(END),
        receive_lsn: (!primary).then_some(END),
        replay_lsn: (!primary).then_some(END),
        wal_receiver: (!primary).then_some(receiver),
        checkpointer_idle: true,
        ..Probe::default()
    }
}

fn conn_url(name: &str) -> String {
    format!("postgres://{name}:5432/postgres")
}

fn api_url(name: &str) -> String {
    format!("http://{name}:8008/patroni")
}

fn member(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        conn_url: conn_url(name),
        api_url: api_url(name),
        state: "running".to_owned(),
        role: if name == NAMES[0] { "primary" } else { "replica" }.to_owned(),
        version: pgvigil_core::core::PATRONI_VERSION.to_owned(),
        timeline: Some(TIMELINE),
        xlog_location: Some(END),
        vigil: true,
        ..Member::default()
    }
}

fn cluster() -> Cluster {
    let Tenure { lease_id, mod_revision } = TENURE;
    Cluster {
        revision: 100,
        initialize: Initialize::Done("1".to_owned()),
        leader: Some(LeaderKey { name: NAMES[0].to_owned(), lease_id, mod_revision }),
        members: NAMES.map(|name| (name.to_owned(), member(name))).into(),
        newest_timeline: Some(Keyed {
            value: NewestTimeline { number: TIMELINE, leader_mod_revision: 1 },
            mod_revision: 60,
        }),
        ..Cluster::default()
    }
}

fn settings(s: &mut Settings, line: &mut Line) {
    fields!(
        line, s,
        ttl loop_wait retry_timeout maximum_lag_on_failover_bytes primary_start_timeout
        primary_stop_timeout synchronous_mode synchronous_mode_strict paused check_timeline
        use_pg_rewind remove_data_directory_on_rewind_failure
        remove_data_directory_on_diverged_timelines freeze_max allow_unfenced failsafe_mode
    );
    if let Some(far) = line.take::<String>("standby_cluster") {
        let upstream = || Upstream { name: "remote".to_owned(), conn_url: far.clone() };
        let section = || StandbyCluster { upstream: Some(upstream()), ..StandbyCluster::default() };
        s.standby_cluster = (far != "no").then(section);
    }
    if let Some(name) = line.take::<String>("method") {
        let (no_leader, keep_data) = (line.take("no_leader"), line.take("keep_data"));
        s.replica_methods = vec![ReplicaMethod {
            name,
            no_leader: no_leader.unwrap_or(false),
            keep_data: keep_data.unwrap_or(false),
        }];
    }
}

fn tags(tags: &mut Tags, line: &mut Line) {
    fields!(line, tags, nofailover failover_priority nosync clonefrom replicatefrom);
}

fn store(store: &mut Store, line: &mut Line) {
    if line.is("unread") {
        store.cluster = None;
    }
    if let (Some(at), Some(seen)) = (line.take("read"), &mut store.cluster) {
        seen.at = at;
    }
    if let Some(since) = line.take("silent") {
        store.failing_since = since;
    }
    fields!(line, store.failsafe, settled promised_at started_at);
    if let Some(to) = line.take("bound") {
        let until = line.take("until").unwrap_or(line.now);
        store.failsafe.bound = Some(Bound { to, until });
    }
    if let Some(why) = line.take::<String>("doubted") {
        store.doubt = Some(Doubt { why, since: Boot(0), cluster_id: 2 });
    }
}

fn lease(line: &mut Line) -> Option<OwnLease> {
    if line.is("none") {
        return None;
    }
    let mut lease = OwnLease { id: 7, ttl: TTL, asked: TTL, renewed_at: line.now };
    fields!(line, lease, id ttl asked renewed_at);
    Some(lease)
}

fn guard(guard: &mut GuardView, line: &mut Line) {
    fields!(line, guard, phase tenure burned fenceable populated);
    if let Some(confirmed) = line.take("confirmed") {
        guard.sent_at = confirmed;
    }
    if let Some(deadline) = line.take("deadline") {
        guard.deadline = deadline;
    }
}

/// `none`: nothing is left of it. `dead`: its children are. `silent`: it does not answer.
fn postgres(view: &mut View, line: &mut Line) {
    let server = &mut view.server;
    let (none, dead) = (line.is("none"), line.is("dead"));
    if none || dead {
        (server.postmaster, server.probe) = (None, None);
        view.guard.populated = dead;
        return;
    }
    if line.is("silent") {
        server.probe = None;
    }
    if line.is("standby") || line.is("primary") {
        line.wrong("what it is stands in `probe`");
    }
    view.guard.populated = true;
    let mut there = server.postmaster.unwrap_or(Postmaster {
        pid: PID,
        started_at: view.now,
        permitted: false,
        stopping_since: None,
    });
    fields!(line, there, pid permitted);
    if let Some(since) = line.take("stopping") {
        there.stopping_since = since;
    }
    server.postmaster = Some(there);
}

fn probe(view: &mut View, line: &mut Line) {
    let primary = line.is("primary");
    if primary || line.is("standby") {
        view.server.probe = Some(Seen { value: Arc::new(answer(primary)), at: view.now });
    }
    let Some(seen) = &mut view.server.probe else { line.wrong("it does not answer") };
    fields!(line, seen, at);
    let probe = Arc::make_mut(&mut seen.value);
    fields!(line, probe, timeline synchronous_standby_names checkpointer_idle);
    fields!(line, probe, flush_lsn receive_lsn replay_lsn);
    if let Some(streaming) = line.take("streaming") {
        probe.wal_receiver = answer(false).wal_receiver.filter(|_| streaming);
    }
}

fn sender(view: &mut View, line: &mut Line) {
    let mut row = WalSender {
        application_name: line.next(),
        state: "streaming".to_owned(),
        sync_state: "async".to_owned(),
        flush_lsn: Some(END),
        ..WalSender::default()
    };
    fields!(line, row, state sync_state flush_lsn);
    let Some(seen) = &mut view.server.probe else { line.wrong("the server does not answer") };
    let senders = &mut Arc::make_mut(&mut seen.value).wal_senders;
    senders.retain(|known| known.application_name != row.application_name);
    senders.push(row);
}

fn exit(server: &mut Server, line: &mut Line) {
    let mut exit = LastExit { pid: PID, at: line.now, permitted: true, clean: true };
    fields!(line, exit, pid at permitted clean);
    server.last_exit = Some(exit);
}

fn data(server: &mut Server, line: &mut Line) {
    if line.is("empty") {
        (server.data_dir, server.standby_signal) = (Some(DataDir::Empty), false);
    } else if line.is("unknown") {
        server.data_dir = None;
    } else if let Some(reason) = line.take("unusable") {
        server.data_dir = Some(DataDir::Unusable { reason });
    }
    fields!(line, server, standby_signal promoting half_rewound bootstrapping stay_down);
    fields!(line, server, running_pid shm_attached upstream);
    let state = line.take("state");
    if let Some(state) = state {
        let fresh = || DataDir::Cluster { version: 15, control: control(state) };
        match &mut server.data_dir {
            Some(DataDir::Cluster { control, .. }) => control.state = state,
            other => *other = Some(fresh()),
        }
    }
    if let Some(DataDir::Cluster { control, .. }) = &mut server.data_dir {
        fields!(line, control, system_identifier timeline checkpoint_lsn wal_log_hints);
        fields!(line, control, data_checksums min_recovery_lsn min_recovery_timeline);
    }
}

/// `timeline=3 left=2@0/800`: the ancestors and where each was left.
/// `fetched=logi asked=1s`
fn leader_slots(line: &mut Line) -> Seen<LeaderSlots> {
    let fetched = line.take::<String>("fetched").into_iter().collect();
    let value = LeaderSlots { fetched, ..LeaderSlots::default() };
    Seen { value, at: line.take("asked").unwrap_or(NOW) }
}

fn leader_history(line: &mut Line) -> (u32, History) {
    let timeline = line.take("timeline").unwrap_or(TIMELINE);
    let left: Vec<String> = line.take("left").unwrap_or_default();
    let switches = left.iter().map(|text| {
        let (timeline, lsn) = text.split_once('@').unwrap_or_else(|| line.wrong("left=1@0/800"));
        let wrong = || -> ! { line.wrong("left=1@0/800") };
        Switch {
            timeline: timeline.parse().unwrap_or_else(|_| wrong()),
            lsn: lsn.parse().unwrap_or_else(|_| wrong()),
            reason: String::new(),
        }
    });
    (timeline, History(switches.collect()))
}

fn job(line: &mut Line) -> DataJob {
    let work = match line.next().as_str() {
        "initdb" => Work::Initdb,
        "basebackup" => Work::BaseBackup,
        "rewind" => Work::Rewind,
        _ => line.wrong("initdb, basebackup or rewind"),
    };
    let succeeded = match line.next().as_str() {
        "running" => None,
        "succeeded" => Some(true),
        "failed" => Some(false),
        _ => line.wrong("running, succeeded or failed"),
    };
    DataJob { id: 1, work, succeeded }
}

fn standby() -> PeerAnswer {
    PeerAnswer {
        reachable: true,
        in_recovery: true,
        position: Some(END),
        fresh: true,
        timeline: Some(TIMELINE),
        failover_priority: 1,
        vigil: true,
        ..PeerAnswer::default()
    }
}

/// When the other members were asked; all that are registered answered as healthy standbys.
fn asked(view: &mut View, line: &mut Line) {
    let word = line.next();
    view.peers_asked_at = match word.as_str() {
        "never" => None,
        age => <Boot as super::line::Value>::read(age, view.now),
    };
    let others: Vec<String> = view.others().map(|m| m.name.clone()).collect();
    for name in others {
        view.peers.entry(name).or_insert_with(standby);
    }
}

fn peer(view: &mut View, line: &mut Line) {
    let name = line.next();
    let peer = view.peers.entry(name).or_insert_with(standby);
    if line.is("silent") {
        *peer = PeerAnswer::default();
    }
    fields!(line, peer, in_recovery position fresh timeline nofailover failover_priority);
    fields!(line, peer, watchdog_failed vigil);
}

/// `volume=hung lasting=60s`: the data directory's.
fn health(view: &mut View, line: &mut Line) {
    fields!(line, view.health, unanswered unwritten unwatched);
    let Some(illness) = line.take::<String>("volume") else { return };
    let illness = match illness.as_str() {
        "full" => Illness::Full,
        "read-only" => Illness::ReadOnly,
        "hung" => Illness::Hung,
        _ => line.wrong("full, read-only or hung"),
    };
    let lasting = line.take("lasting").unwrap_or_default();
    view.health.volume = Some(Ailing { place: Place::DataDirectory, illness, lasting });
}

fn memory(m: &mut Memory, line: &mut Line) {
    fields!(line, m, vacant_since bootstrap_won bootstrap_failed starting_since rewind_failed);
    fields!(line, m, copied_at job_done restarting reinitializing handover_since);
    fields!(line, m, shut_down_since sync_names sync_names_set stopped_pid promotion_asked);
    fields!(line, m, started demoted_because cancelled sync_wrote quit_at woken_for);
    fields!(line, m, not_streaming_since led_since gave_up_at yielding);
    if let Some(crashes) = line.take::<u32>("crashes") {
        m.crashes = (0..crashes).map(|_| line.now).collect();
    }
    if let Some(to) = line.take("switchover") {
        m.switchover = Some(pgvigil_core::core::view::Switchover { to, since: line.now });
    }
    if let Some(begun) = line.take("cloning") {
        m.cloning = if begun { Cloning::wanted(false) } else { Cloning::default() };
    }
}

/// What the store holds.
fn in_store(view: &mut View, subject: &str, line: &mut Line) {
    let Some(seen) = &mut view.store.cluster else { line.wrong("the store was not read") };
    let c = Arc::make_mut(&mut seen.value);
    let revision = line.take("revision");
    let absent = line.is("none");
    match subject {
        "key" => c.leader = (!absent).then(|| key(line, revision)),
        "initialize" if absent => c.initialize = Initialize::Absent,
        "initialize" if line.is("begun") => {
            let lease_id = line.take("lease").unwrap_or_default();
            c.initialize = Initialize::InProgress { lease_id };
        }
        "initialize" => c.initialize = Initialize::Done(line.next()),
        "member" => in_members(c, line, revision),
        "status" => fields!(line, c.status, optime),
        "failsafe" if absent => c.failsafe = None,
        "failsafe" => {
            let named: Vec<String> = line.take("members").unwrap_or_default();
            let url = |name: String| (name.clone(), api_url(&name));
            c.failsafe = keyed(named.into_iter().map(url).collect(), revision);
        }
        "history" => {
            let timeline = line.next().parse().unwrap_or_else(|_| line.wrong("a timeline"));
            c.history.push(HistoryEntry { timeline, ..HistoryEntry::default() });
        }
        "sync" if absent => c.sync = None,
        "sync" => {
            let mut value = SyncState::default();
            fields!(line, value, leader standbys quorum);
            c.sync = keyed(value, revision);
        }
        "failover" if absent => c.failover = None,
        "failover" => {
            let mut value = FailoverRequest::default();
            fields!(line, value, leader candidate scheduled_at);
            c.failover = keyed(value, revision);
        }
        "handover" => {
            let mut value = Handover { leader_mod_revision: 70, ..Handover::default() };
            fields!(line, value, from to lsn leader_mod_revision);
            c.handover = keyed(value, revision);
        }
        "timeline" if absent => c.newest_timeline = None,
        "timeline" => {
            let mut value = NewestTimeline { number: TIMELINE, leader_mod_revision: 1 };
            fields!(line, value, number leader_mod_revision);
            c.newest_timeline = keyed(value, revision);
        }
        "record" if absent => c.pause_record = None,
        "record" => {
            let mut value = PauseRecord { since: Some(WALL), ..PauseRecord::default() };
            fields!(line, value, leader stopped);
            c.pause_record = keyed(value, revision);
        }
        _ => line.wrong(&format!("what is \"{subject}\"?")),
    }
}

fn keyed<T>(value: T, revision: Option<i64>) -> Option<Keyed<T>> {
    Some(Keyed { value, mod_revision: revision.unwrap_or(REVISION) })
}

fn key(line: &mut Line, revision: Option<i64>) -> LeaderKey {
    let name = line.next();
    let lease_id = line.take("lease").unwrap_or(if name == NAMES[0] { 7 } else { 8 });
    LeaderKey { name, lease_id, mod_revision: revision.unwrap_or(80) }
}

fn in_members(c: &mut Cluster, line: &mut Line, revision: Option<i64>) {
    let name = line.next();
    if line.is("gone") {
        c.members.remove(&name);
        return;
    }
    let m = c.members.entry(name.clone()).or_insert_with(|| member(&name));
    m.mod_revision = revision.unwrap_or(m.mod_revision);
    fields!(line, m, state role timeline xlog_location version vigil checkpoint_after_promote);
    tags(&mut m.tags, line);
}
