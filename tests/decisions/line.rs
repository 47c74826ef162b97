//! One line of a case: a subject, and words that are flags (`nofailover`, `no-streaming`) or values
//! (`timeline=2`).

use std::time::Duration;

use pgvigil_core::core::cluster::Tenure;
use pgvigil_core::core::database::ControlState;
use pgvigil_core::core::guard::Phase;
use pgvigil_core::core::lsn::Lsn;
use pgvigil_core::core::settings::SyncMode;
use pgvigil_core::core::time::{Boot, Wall};

pub struct Line {
    at: String,
    words: Vec<String>,
    /// The view's own, against which ages count.
    pub now: Boot,
}

impl Line {
    pub fn new(at: &str, text: &str) -> Line {
        Line { at: at.to_owned(), words: words(text), now: Boot(0) }
    }

    #[track_caller]
    pub fn wrong(&self, what: &str) -> ! {
        panic!("{}: {what}", self.at)
    }

    /// The next word, whatever it is.
    pub fn next(&mut self) -> String {
        if self.words.is_empty() {
            self.wrong("a word is missing");
        }
        self.words.remove(0)
    }

    /// Whether the next word is this one; it is taken then.
    pub fn is(&mut self, word: &str) -> bool {
        let found = self.words.first().is_some_and(|w| w == word);
        if found {
            self.words.remove(0);
        }
        found
    }

    /// The value of this name, if it is given.
    pub fn take<T: Value>(&mut self, name: &str) -> Option<T> {
        let given = |word: &String| {
            word == name
                || word.strip_prefix("no-") == Some(name)
                || word.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
        };
        let word = self.words.remove(self.words.iter().position(given)?);
        let text = match word.split_once('=') {
            Some((_, text)) => text,
            None if word == name => "yes",
            None => "no",
        };
        let value = T::read(text, self.now);
        Some(value.unwrap_or_else(|| self.wrong(&format!("{name}: what is \"{text}\"?"))))
    }

    /// Every word was understood.
    pub fn end(&self) {
        if !self.words.is_empty() {
            self.wrong(&format!("what is {:?}?", self.words));
        }
    }
}

/// Split at spaces, but not inside of double quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("one at least").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What can stand behind a `=`. An instant is an age: `2s` is two seconds ago, `+2s` ahead.
pub trait Value: Sized {
    fn read(text: &str, now: Boot) -> Option<Self>;
}

impl<T: Value> Value for Option<T> {
    fn read(text: &str, now: Boot) -> Option<Option<T>> {
        if text == "none" { Some(None) } else { T::read(text, now).map(Some) }
    }
}

macro_rules! parsed {
    ($($kind:ty),*) => {$(
        impl Value for $kind {
            fn read(text: &str, _: Boot) -> Option<$kind> {
                text.parse().ok()
            }
        }
    )*};
}

parsed!(u32, u64, i32, i64, String, Lsn);

impl Value for bool {
    fn read(text: &str, _: Boot) -> Option<bool> {
        named(text, &[("yes", true), ("no", false)])
    }
}

impl Value for Duration {
    fn read(text: &str, _: Boot) -> Option<Duration> {
        if let Some(ms) = text.strip_suffix("ms") {
            return ms.parse().ok().map(Duration::from_millis);
        }
        text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
    }
}

impl Value for Boot {
    fn read(text: &str, now: Boot) -> Option<Boot> {
        match text.strip_prefix('+') {
            _ if text == "now" => Some(now),
            Some(ahead) => Some(now.plus(Duration::read(ahead, now)?)),
            None => Some(now.minus(Duration::read(text, now)?)),
        }
    }
}

/// `+10s`: in ten seconds; `-10s`: ten seconds ago; seen from the view's first instant.
impl Value for Wall {
    fn read(text: &str, now: Boot) -> Option<Wall> {
        let micros = |rest| i64::try_from(Duration::read(rest, now)?.as_micros()).ok();
        match text.strip_prefix('-') {
            Some(rest) => Some(Wall(super::view::WALL.0 - micros(rest)?)),
            None => Some(Wall(super::view::WALL.0 + micros(text.trim_start_matches('+'))?)),
        }
    }
}

impl Value for Tenure {
    fn read(text: &str, _: Boot) -> Option<Tenure> {
        let (lease_id, mod_revision) = text.split_once('/')?;
        Some(Tenure { lease_id: lease_id.parse().ok()?, mod_revision: mod_revision.parse().ok()? })
    }
}

impl Value for Vec<String> {
    fn read(text: &str, _: Boot) -> Option<Vec<String>> {
        Some(text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect())
    }
}

impl Value for SyncMode {
    fn read(text: &str, _: Boot) -> Option<SyncMode> {
        let modes = [("yes", SyncMode::On), ("off", SyncMode::Off), ("quorum", SyncMode::Quorum)];
        named(text, &modes)
    }
}

impl Value for Phase {
    fn read(text: &str, _: Boot) -> Option<Phase> {
        named(
            text,
            &[
                ("idle", Phase::Idle),
                ("candidate", Phase::Candidate),
                ("leading", Phase::Leading),
                ("frozen", Phase::Frozen),
                ("killing", Phase::Killing),
                ("fenced", Phase::Fenced),
                ("sealed", Phase::Sealed),
                ("paused", Phase::Paused),
            ],
        )
    }
}

/// As pg_controldata prints them.
impl Value for ControlState {
    fn read(text: &str, _: Boot) -> Option<ControlState> {
        named(
            text,
            &[
                ("starting up", ControlState::StartingUp),
                ("shut down", ControlState::ShutDown),
                ("shut down in recovery", ControlState::ShutDownInRecovery),
                ("shutting down", ControlState::ShuttingDown),
                ("in crash recovery", ControlState::InCrashRecovery),
                ("in archive recovery", ControlState::InArchiveRecovery),
                ("in production", ControlState::InProduction),
            ],
        )
    }
}

fn named<T: Copy>(text: &str, names: &[(&str, T)]) -> Option<T> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}
