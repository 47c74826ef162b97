//! The commands of written scenarios.

use std::fmt::Write as _;
use std::time::Duration;

use crate::core::guard::Phase;
use crate::core::lsn::Lsn;
use crate::core::settings::{Settings, SyncMode};

use super::engine::{Sim, Time};
use super::postgres::Disk;
use super::scenario::{PATIENCE, Stage};
use super::strike;
use super::watchdog::Kind;
use super::world::{Host, SECOND, World, ms};

pub const HELP: &str = "commands:
  before the start: members N | tag MEMBER NAME VALUE | set NAME VALUE |
             watchdog hardware|software|stay_down | start
  time:      wait SECONDS | until CONDITION | expect CONDITION
             conditions: leader MEMBER, nobody leads, calm, MEMBER writable, MEMBER frozen,
             MEMBER standby, MEMBER down, fences N, lost N, pause below SECONDS, requests ended,
             MEMBER leads (its deadline runs), leader key written (from then on)
  programs:  kill agent|supervisor|record|postmaster|backends MEMBER
             freeze agent|supervisor|host MEMBER SECONDS | hang postgres MEMBER SECONDS
             stall supervisor MEMBER EFFECTS SECONDS | replace supervisor MEMBER
             crash MEMBER | boot MEMBER | empty MEMBER | slow freezes MEMBER SECONDS
             volume MEMBER full|read-only|hangs SECONDS
  network:   cut A B SECONDS | cut A > B SECONDS | isolate MEMBER SECONDS
             (A and B: members, or store) | lag MEMBER on|off
             late requests|answers MEMBER SECONDS LENGTH
             (between it and the store, for so many seconds)
  store:     store refuses|silent SECONDS | store elects | store stale MEMBER SECONDS
             store backup | store restore
  clocks:    clock MEMBER steps SECONDS | clock MEMBER runs PPM SECONDS
  operators: switchover [MEMBER] | failover MEMBER | pause | resume | set NAME VALUE
             restart|reinit|stop|launch|remove MEMBER | delete leader key
  list       what everybody does";

pub type Done = Result<(), String>;

pub fn seconds(word: &str) -> Result<Duration, String> {
    let ms = word.parse::<u64>().map(|s| s.saturating_mul(1000));
    ms.map(Duration::from_millis).map_err(|_| format!("'{word}' is no number of seconds"))
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

pub fn obey(stage: &mut Stage, words: &[&str]) -> Done {
    match words {
        ["members", n] if stage.sim.is_none() => {
            stage.plan.members = number::<usize>(n)?.clamp(1, 7);
            Ok(())
        }
        ["tag", member, name, value] if stage.sim.is_none() => tag(stage, member, name, value),
        ["set", name, value] if stage.sim.is_none() => set(&mut stage.plan.settings, name, value),
        ["watchdog", "stay_down"] if stage.sim.is_none() => {
            stage.plan.stay_down = true;
            Ok(())
        }
        ["watchdog", kind] if stage.sim.is_none() => {
            stage.plan.watchdog = match *kind {
                "hardware" => Some(Kind::Hardware),
                "software" => Some(Kind::Software),
                _ => return Err(format!("no watchdog is '{kind}'")),
            };
            Ok(())
        }
        ["start"] if stage.sim.is_none() => start(stage),
        _ => match stage.sim.clone() {
            Some(sim) => after_start(stage, &sim, words),
            None => Err(format!("'{}' is no command before the start", words.join(" "))),
        },
    }
}

fn tag(stage: &mut Stage, member: &str, name: &str, value: &str) -> Done {
    let index = member.bytes().next().map_or(0, |b| usize::from(b.saturating_sub(b'a')));
    if member.len() != 1 || index >= stage.plan.members {
        return Err(format!("there is no member '{member}'"));
    }
    stage.plan.tags.resize_with(stage.plan.members, Default::default);
    let tags = &mut stage.plan.tags[index];
    match name {
        "nofailover" => tags.nofailover = value == "true",
        "nosync" => tags.nosync = value == "true",
        "clonefrom" => tags.clonefrom = value == "true",
        "failover_priority" => {
            tags.failover_priority = number(value)?;
            tags.nofailover = tags.failover_priority <= 0;
        }
        "replicatefrom" => tags.replicatefrom = Some(value.to_owned()),
        _ => return Err(format!("no tag '{name}' here")),
    }
    Ok(())
}

fn set(s: &mut Settings, name: &str, value: &str) -> Done {
    let on = matches!(value, "on" | "true");
    match name {
        "ttl" => s.ttl = seconds(value)?,
        "loop_wait" => s.loop_wait = seconds(value)?,
        "retry_timeout" => s.retry_timeout = seconds(value)?,
        "freeze_max" => s.freeze_max = seconds(value)?,
        "primary_start_timeout" => s.primary_start_timeout = seconds(value)?,
        "primary_stop_timeout" => s.primary_stop_timeout = seconds(value)?,
        "maximum_lag_on_failover" => s.maximum_lag_on_failover_bytes = number(value)?,
        "synchronous_mode" => {
            s.synchronous_mode = match value {
                "quorum" => SyncMode::Quorum,
                _ if on => SyncMode::On,
                _ => SyncMode::Off,
            };
        }
        "synchronous_mode_strict" => s.synchronous_mode_strict = on,
        "use_pg_rewind" => s.use_pg_rewind = on,
        "failsafe_mode" => s.failsafe_mode = on,
        "answer_timeout" => s.health.answer = seconds(value)?,
        "storage_timeout" => s.health.storage = seconds(value)?,
        "hand_over_every" => s.health.hand_over_every = seconds(value)?,
        "remove_data_directory_on_diverged_timelines" => {
            s.remove_data_directory_on_diverged_timelines = on;
        }
        "remove_data_directory_on_rewind_failure" => {
            s.remove_data_directory_on_rewind_failure = on;
        }
        _ => return Err(format!("no setting '{name}' here")),
    }
    Ok(())
}

/// Everybody starts, one after the other, and the log begins when all is calm.
fn start(stage: &mut Stage) -> Done {
    let sim = stage.build();
    for m in 0..stage.plan.members {
        let delay = ms(400 * m as u64);
        sim.after(delay, move |sim| sim.with(|w| w.start_supervisor(m)));
    }
    if !stage.until(PATIENCE, World::is_calm) {
        stage.fail("the cluster did not come to rest".to_owned());
        return Ok(());
    }
    stage.until(10 * SECOND, |_| false);
    sim.with(|w| {
        w.checks.longest_pause = 0;
        w.transcript = Some(Vec::new());
    });
    Ok(())
}

fn after_start(stage: &mut Stage, sim: &Sim, words: &[&str]) -> Done {
    match words {
        ["wait", length] => {
            let length = seconds(length)?.as_nanos() as Time;
            stage.until(length, |_| false);
        }
        ["until", condition @ ..] => {
            let condition = Condition::read(sim, condition)?;
            if !stage.until(PATIENCE, |w| condition.holds(w)) {
                stage.fail(format!("not within {} s: {condition:?}", PATIENCE / SECOND));
            }
        }
        ["expect", condition @ ..] => {
            let condition = Condition::read(sim, condition)?;
            if !sim.with(|w| condition.holds(w)) {
                stage.fail(format!("{condition:?}"));
            }
        }
        ["list"] => {
            let text = sim.with(|w| w.list());
            stage.answer.push_str(&text);
        }
        ["set", name, value] => {
            let mut wrong = Ok(());
            sim.with(|w| w.configure_cluster(|s| wrong = set(s, name, value)));
            wrong?;
        }
        words => {
            let refused = strike::strike(sim, words)?;
            if let Err(reason) = refused {
                let _ = writeln!(stage.answer, "         refused: {reason}");
            }
        }
    }
    Ok(())
}

/// What is waited for, or expected.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Leader(usize),
    NobodyLeads,
    Calm,
    Writable(usize),
    Leads(usize),
    Frozen(usize),
    Standby(usize),
    Down(usize),
    Fences(u64),
    Lost(u64),
    PauseBelow(Duration),
    RequestsEnded,
    /// Its revision is not this one any more.
    LeaderKeyWritten(i64),
}

impl Condition {
    fn read(sim: &Sim, words: &[&str]) -> Result<Condition, String> {
        let member = |name: &str| {
            let found = sim.with(|w| w.find(name));
            found.ok_or_else(|| format!("there is no member '{name}'"))
        };
        Ok(match words {
            ["leader", name] => Condition::Leader(member(name)?),
            ["nobody", "leads"] => Condition::NobodyLeads,
            ["calm"] => Condition::Calm,
            ["fences", n] => Condition::Fences(number(n)?),
            ["lost", n] => Condition::Lost(number(n)?),
            ["pause", "below", length] => Condition::PauseBelow(seconds(length)?),
            ["requests", "ended"] => Condition::RequestsEnded,
            ["leader", "key", "written"] => {
                Condition::LeaderKeyWritten(sim.with(|w| w.leader_revision()))
            }
            [name, "leads"] => Condition::Leads(member(name)?),
            [name, "writable"] => Condition::Writable(member(name)?),
            [name, "frozen"] => Condition::Frozen(member(name)?),
            [name, "standby"] => Condition::Standby(member(name)?),
            [name, "down"] => Condition::Down(member(name)?),
            _ => return Err(format!("'{}' is no condition", words.join(" "))),
        })
    }

    fn holds(&self, w: &World) -> bool {
        let server = |m: usize| w.members[m].server.as_ref();
        match *self {
            Condition::Leader(m) => w.leader_name().as_ref() == Some(&w.members[m].name),
            Condition::NobodyLeads => w.leader_name().is_none(),
            Condition::Calm => w.is_calm(),
            Condition::Writable(m) => w.server_moves(m) && server(m).is_some_and(|s| s.writable()),
            Condition::Leads(m) => w.phase(m) == Phase::Leading,
            Condition::Frozen(m) => w.members[m].frozen && server(m).is_some(),
            Condition::Standby(m) => server(m).is_some_and(|s| s.ready && s.recovery),
            Condition::Down(m) => server(m).is_none(),
            Condition::Fences(n) => w.checks.fences == n,
            Condition::Lost(n) => w.checks.lost == n,
            Condition::PauseBelow(length) => w.checks.longest_pause < length.as_nanos() as Time,
            Condition::RequestsEnded => w.unfinished().is_none(),
            Condition::LeaderKeyWritten(before) => ![0, before].contains(&w.leader_revision()),
        }
    }
}

impl World {
    fn leader_revision(&self) -> i64 {
        self.store.cluster().leader.as_ref().map_or(0, |key| key.mod_revision)
    }

    /// As `pgvigilctl list`, by somebody who sees everything.
    fn list(&self) -> String {
        let mut text = String::new();
        let leader = self.leader_name();
        for (m, member) in self.members.iter().enumerate() {
            let holds = if leader.as_ref() == Some(&member.name) { "leader" } else { "" };
            let state = match (member.host, &member.server, &member.disk) {
                (Host::Down, ..) => "host is down",
                (_, None, Disk::Empty) => "no data",
                (_, None, Disk::Rubbish) => "an unfinished copy",
                (_, None, Disk::Data(_)) => "stopped",
                (_, Some(_), _) if !self.server_moves(m) => "stands still",
                (_, Some(s), _) if !s.ready => "starting",
                (_, Some(s), _) if s.writable() => "primary",
                (_, Some(s), _) if s.streaming => "streaming",
                (_, Some(_), _) => "running",
            };
            let (timeline, position) = member
                .disk
                .dir()
                .map_or((0, Lsn(0)), |dir| (self.wal.number(dir.end.branch), Lsn(dir.end.lsn)));
            let phase = format!("{:?}", self.phase(m));
            let name = &member.name;
            let _ = writeln!(
                text,
                "         {name} {holds:<6} {state:<18} {phase:<9} timeline {timeline} \
                 at {position}",
            );
        }
        let longest = self.checks.longest_pause / 1_000_000;
        let (acknowledged, lost) = (self.checks.acknowledged, self.checks.lost);
        let _ = writeln!(
            text,
            "         {acknowledged} commits acknowledged, {lost} of them lost; longest pause \
             {}.{:03} s",
            longest / 1000,
            longest % 1000
        );
        text
    }
}
