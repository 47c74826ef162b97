//! pgvigilctl: patronictl's command lines, texts, prompts and exit codes, and `explain`, ours.
//!
//! Commands are functions of the session and their own options; what a cluster looks like is
//! computed from one read of the store (`core::cluster::Cluster`), never from the members' answers.

mod actions;
mod args;
mod click;
mod configuration;
mod console;
mod context;
mod diff;
mod doctor;
mod handover;
mod inform;
mod members;
mod output;
mod patroni;
mod pause;
mod pgpass;
pub mod program;
mod query;
#[cfg(test)]
mod samples;
mod schedule;
mod selection;
mod session;
mod setup;
mod standby;
mod table;
pub mod watchdog;

use std::ffi::OsString;

pub use doctor::run as doctor;
pub use patroni::run as as_patroni;
pub use setup::{generate, init};

use args::Command;
use click::Parsed;
use console::Console;
use session::Session;

/// Why a command ended early.
#[derive(Debug)]
enum Failure {
    /// A refusal or an error: `Error: <text>`, exit code 1.
    Message(String),
    /// No such command line: text as it is, exit code 2.
    Usage(String),
    /// The input ended before a question was answered.
    Aborted,
    /// Nobody reads our output any more.
    OutputClosed,
}

impl Failure {
    fn message(text: impl Into<String>) -> Failure {
        Failure::Message(text.into())
    }

    /// Says it on standard error; the exit code.
    fn report(&self) -> i32 {
        match self {
            Failure::Message(text) => eprintln!("Error: {text}"),
            Failure::Usage(text) => {
                eprint!("{text}");
                return 2;
            }
            Failure::Aborted => eprintln!("Aborted!"),
            Failure::OutputClosed => {}
        }
        1
    }
}

/// The grammar of the command line: commands and their options.
pub fn grammar() -> clap::Command {
    <args::Options as clap::CommandFactory>::command()
}

/// Runs one command line, the program's name first. The exit code: 0 done (also when a member
/// refused and its answer was shown), 1 refused or failed, 2 no such command line.
pub fn run(args: Vec<OsString>) -> i32 {
    let mut console = Console::stdio();
    let parsed = match click::parse(args) {
        Ok(Parsed::Help(text)) => return exit_code(console.print(&text)),
        Ok(Parsed::Command(options)) => options,
        Err(failure) => return failure.report(),
    };
    let result = Session::open(&parsed.global, console)
        .and_then(|mut session| dispatch(&mut session, &parsed.command));
    exit_code(result)
}

fn exit_code(result: Result<(), Failure>) -> i32 {
    result.map_or_else(|failure| failure.report(), |()| 0)
}

fn dispatch(session: &mut Session, command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => inform::list(session, options),
        Command::Topology(options) => inform::topology(session, options),
        Command::History(options) => inform::history(session, options),
        Command::Version(options) => inform::version(session, options),
        Command::Explain(options) => inform::explain(session, options),
        Command::ShowConfig(options) => configuration::show(session, options),
        Command::EditConfig(options) => configuration::edit(session, options),
        Command::Switchover(options) => handover::switchover(session, options),
        Command::Failover(options) => handover::failover(session, options),
        Command::Pause(options) => pause::toggle(session, options, true),
        Command::Resume(options) => pause::toggle(session, options, false),
        Command::Restart(options) => actions::restart(session, options),
        Command::Reload(options) => actions::reload(session, options),
        Command::Reinit(options) => actions::reinit(session, options),
        Command::Flush(options) => actions::flush(session, options),
        Command::Query(options) => query::query(session, options),
        Command::DemoteCluster(options) => standby::demote(session, options),
        Command::PromoteCluster(options) => standby::promote(session, options),
        Command::Dsn(options) => query::dsn(session, options),
        Command::Remove(options) => inform::remove(session, options),
    }
}
