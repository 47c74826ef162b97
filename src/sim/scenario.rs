//! Written scenarios: a file of commands, each followed by what came of it. Lines that begin with
//! `> ` are commands, `#` a remark, all others are the log, which is written anew when the file is
//! played. No dice: every delay is the middle of what it can be, so that a line of the log changes
//! only when what happens changes.

use std::fmt::Write as _;

use super::command;
use super::defect::Defect;
use super::engine::{Sim, Time};
use super::fault::Faults;
use super::prng::Prng;
use super::run::advance;
use super::world::{Plan, SECOND, World};
use crate::core::cluster::Tags;
use crate::core::settings::Settings;

/// A wait that does not end is a fault of the scenario, or of what it shows.
pub const PATIENCE: Time = 300 * SECOND;

/// What came of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// The file with the log of this run.
    pub text: String,
    /// Broken promises and expectations that did not hold; none: good.
    pub failures: Vec<String>,
}

/// What a scenario is made of before its `start`, and what runs after it.
pub struct Stage {
    pub plan: Plan,
    pub sim: Option<Sim>,
    pub events: u64,
    pub failures: Vec<String>,
    /// The answer of the present command, behind the log.
    pub answer: String,
}

/// Plays a file. `Err`: a command that is none, with its line.
pub fn play(text: &str) -> Result<Played, String> {
    play_with(text, None)
}

/// The same with something wrong on purpose.
pub fn play_with(text: &str, defect: Option<Defect>) -> Result<Played, String> {
    let plan = Plan {
        members: 3,
        tags: Vec::new(),
        settings: Settings { use_pg_rewind: true, ..Settings::default() },
        faults: Faults::default(),
        watchdog: None,
        stay_down: false,
        defect,
    };
    let (failures, answer) = (Vec::new(), String::new());
    let mut stage = Stage { plan, sim: None, events: 0, failures, answer };
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') || line.is_empty() {
            let _ = writeln!(out, "{line}");
        }
        let Some(words) = line.strip_prefix("> ") else { continue };
        let _ = writeln!(out, "{line}");
        let words: Vec<&str> = words.split_whitespace().collect();
        command::obey(&mut stage, &words).map_err(|what| {
            let line = number + 1;
            format!("line {line}: {what}\n{}", command::HELP)
        })?;
        out.push_str(&stage.log());
    }
    stage.end(&mut out);
    Ok(Played { text: out, failures: stage.failures })
}

impl Stage {
    /// The members of the plan, none of which was started.
    pub fn build(&mut self) -> Sim {
        self.plan.tags.resize(self.plan.members, Tags::default());
        let world = World::new(self.plan.clone(), Prng::still(), true);
        let sim = Sim::new(world);
        self.sim = Some(sim.clone());
        sim
    }

    /// Lets time pass; false: it did not come to that.
    pub fn until(&mut self, within: Time, enough: impl Fn(&World) -> bool) -> bool {
        let Some(sim) = self.sim.clone() else { return false };
        let end = sim.now() + within;
        let enough = |w: &World| enough(w) || !w.checks.violations.is_empty();
        sim.with(|w| enough(w)) || advance(&sim, end, &mut self.events, enough)
    }

    pub fn fail(&mut self, what: String) {
        let _ = writeln!(self.answer, "         FAILED: {what}");
        self.failures.push(what);
    }

    /// The log since the last command, and the answer.
    fn log(&mut self) -> String {
        let mut text = String::new();
        if let Some(sim) = &self.sim {
            let lines = sim.with(|w| w.transcript.as_mut().map(std::mem::take));
            for line in lines.unwrap_or_default() {
                let _ = writeln!(text, "{line}");
            }
        }
        text.push_str(&std::mem::take(&mut self.answer));
        text
    }

    fn end(&mut self, out: &mut String) {
        let Some(sim) = &self.sim else { return };
        let broken = sim.with(|w| std::mem::take(&mut w.checks.violations));
        for violation in broken {
            let what = format!("BROKEN at {} ms: {}", violation.at / 1_000_000, violation.what);
            let _ = writeln!(out, "{what}");
            self.failures.push(what);
        }
    }
}
