//! How the local server and its volumes bear up, and from when on that is a failure.
//!
//! All durations here were *watched*: the prober adds up its own waits, each no longer than its
//! deadline, so that neither a suspend nor a stall of the agent makes a server or a volume look
//! hung that had no chance to answer.

use std::fmt;
use std::time::Duration;

use super::lsn::Lsn;
use super::time::Boot;
use super::view::View;

/// What the probes found. Everything zero and empty: nothing is known to be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Health {
    /// For how long a new connection has not been answered, not even by a refusal.
    pub unanswered: Duration,
    /// For how long a small transaction, which waits for no standby, has not reached the disk.
    pub unwritten: Duration,
    /// The volume that is worst off.
    pub volume: Option<Ailing>,
    /// For how long a leader that needs the watchdog device has had none that takes its pings.
    pub unwatched: Duration,
}

/// A volume that does not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ailing {
    pub place: Place,
    pub illness: Illness,
    pub lasting: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    DataDirectory,
    /// `pg_wal`, where it is on a volume of its own.
    Wal,
}

/// In the order of their weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Illness {
    /// No space, or over the quota.
    Full,
    ReadOnly,
    /// Another error of this number (errno).
    Failing(i32),
    /// A write or its sync does not return.
    Hung,
}

/// `vigil.health`: from when on. Zero: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// For a new connection.
    pub answer: Duration,
    /// For a small transaction.
    pub write: Duration,
    /// For a volume that hangs, is full or read-only.
    pub storage: Duration,
    /// From the beginning of a leadership, and between two tries, to a hand-over for reasons of
    /// health: members that all hang on one storage must not pass the key around.
    pub hand_over_every: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            answer: Duration::from_secs(10),
            write: Duration::from_secs(30),
            storage: Duration::from_secs(30),
            hand_over_every: Duration::from_secs(300),
        }
    }
}

/// Where nobody can take over a restart is the last means: it is given this many times the limit.
pub const PATIENCE: u32 = 3;

/// Who has been silent for this long had better not become leader.
const UNFIT: Duration = Duration::from_secs(3);

/// A standby whose replay or receiver stands still for this long is shown.
const STANDS_STILL: Duration = Duration::from_secs(60);

impl fmt::Display for Ailing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::DataDirectory => "the volume of the data directory",
            Place::Wal => "the volume of pg_wal",
        };
        match self.illness {
            Illness::Full => write!(f, "{place} is full"),
            Illness::ReadOnly => write!(f, "{place} is read-only"),
            Illness::Failing(errno) => write!(f, "writing to {place} fails (errno {errno})"),
            Illness::Hung => write!(f, "{place} hangs"),
        }
    }
}

/// Whether something lasts longer than it may; a limit of zero is none.
pub fn exceeds(lasting: Duration, limit: Duration) -> bool {
    !limit.is_zero() && lasting >= limit
}

/// Why the server counts as hung: it was given `times` the limits.
pub fn silence(v: &View, times: u32) -> Option<String> {
    let (health, limits) = (&v.health, &v.settings.health);
    if exceeds(health.unanswered, limits.answer * times) {
        let s = health.unanswered.as_secs();
        return Some(format!("PostgreSQL has not answered a new connection for {s} s"));
    }
    exceeds(health.unwritten, limits.write * times).then(|| {
        let s = health.unwritten.as_secs();
        format!("PostgreSQL has not finished a small transaction for {s} s")
    })
}

/// Whether this member could do a leader's work as far as the probes tell.
pub fn fit(health: &Health) -> bool {
    health.volume.is_none() && health.unanswered < UNFIT
}

/// A position that does not move although there is more to come.
pub type Stuck = Option<(Lsn, Boot)>;

/// Since when the position has been where it is; `None` while there is nothing more to come.
pub fn stuck(old: Stuck, position: Option<Lsn>, goal: Option<Lsn>, now: Boot) -> Stuck {
    let position = position.filter(|at| Some(*at) < goal)?;
    old.filter(|(at, _)| *at == position).or(Some((position, now)))
}

/// Something that is wrong with this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stays the same as long as it lasts.
    pub what: String,
    pub lasting: Duration,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} s so far", self.what, self.lasting.as_secs())
    }
}

/// Everything that is wrong with this member, also what no rule acts upon.
pub fn findings(v: &View) -> Vec<Finding> {
    let health = &v.health;
    let since = |stuck: Stuck| stuck.map(|(at, since)| (at, v.now.since(since)));
    let silent = ("PostgreSQL does not answer new connections".to_owned(), health.unanswered);
    let stalled = ("a small transaction does not end".to_owned(), health.unwritten);
    let replay = since(v.memory.replay_stuck)
        .map(|(at, lasting)| (format!("replay stands still at {at}"), lasting));
    let receiver = since(v.memory.receive_stuck).map(|(at, lasting)| {
        (format!("nothing is received after {at}, the leader is further"), lasting)
    });
    let refused = v.server.refused.as_ref().or(v.server.unreached.as_ref());
    let refused = refused.map(|(_, since)| (v.server.not_ready(), v.now.since(*since)));
    let volume = health.volume.map(|ailing| (ailing.to_string(), ailing.lasting));
    let standing = replay.into_iter().chain(receiver).filter(|(_, d)| *d >= STANDS_STILL);
    let unwatched = "the watchdog device, which is required, does not take its pings".to_owned();
    let unwatched = (unwatched, health.unwatched);
    let probed =
        [silent, stalled, unwatched].into_iter().chain(refused).filter(|(_, d)| *d >= UNFIT);
    let all = probed.chain(volume).chain(standing);
    all.map(|(what, lasting)| Finding { what, lasting }).collect()
}
