//! Parsing by clap, with usage, help and complaints laid out as Python's click does it.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, ValueEnum};

use super::Failure;
use super::args::{Command, Event, Options};

/// What the command line asks for.
pub enum Parsed {
    Command(Box<Options>),
    Help(String),
}

/// Parses a command line, the program's name first.
pub fn parse(args: Vec<OsString>) -> Result<Parsed, Failure> {
    let name = program(&args);
    let parsed =
        command(&name).try_get_matches_from(&args).and_then(|m| Options::from_arg_matches(&m));
    let sentence = match parsed {
        Ok(mut options) => match resolve(&mut options.command) {
            Ok(()) => return Ok(Parsed::Command(Box::new(options))),
            Err(sentence) => sentence,
        },
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Parsed::Help(error.to_string()));
        }
        Err(error) => sentence(&error),
    };
    Err(Failure::Usage(complaint(&name, &args, &sentence)))
}

/// Takes the target of `flush` from the end of the names.
fn resolve(command: &mut Command) -> Result<(), String> {
    let Command::Flush(flush) = command else { return Ok(()) };
    let Some(word) = flush.members.pop() else {
        return Err(format!("Missing argument '{TARGET}'. Choose from:\n\trestart,\n\tswitchover"));
    };
    flush.target = Event::from_str(&word, false).map_err(|_| {
        format!("Invalid value for '{TARGET}': '{word}' is not one of 'restart', 'switchover'.")
    })?;
    Ok(())
}

const TARGET: &str = "{restart|switchover}";

/// The name in messages: `pgvigil ctl` and links to the program keep theirs.
fn program(args: &[OsString]) -> String {
    let name = args.first().and_then(|path| Path::new(path).file_name());
    name.map_or_else(|| "pgvigilctl".into(), |name| name.to_string_lossy().into_owned())
}

/// What is wrong, as click says it: usage, where to find help, one sentence.
fn complaint(name: &str, args: &[OsString], sentence: &str) -> String {
    let named = |command: &&clap::Command| args.iter().skip(1).any(|a| a == command.get_name());
    let whole = command(name);
    let (path, usage) = match whole.get_subcommands().find(named) {
        Some(command) => {
            let path = format!("{name} {}", command.get_name());
            let usage = usage(&path, command);
            (path, usage)
        }
        None => (name.to_owned(), format!("{name} [OPTIONS] COMMAND [ARGS]...")),
    };
    format!("Usage: {usage}\nTry '{path} --help' for help.\n\nError: {sentence}\n")
}

/// All commands, with help as click lays it out.
fn command(name: &str) -> clap::Command {
    const HELP: &str = "Usage: {usage}\n\n  {about}\n\nOptions:\n{options}\n";
    let whole = Options::command().bin_name(name.to_owned());
    whole
        .help_template(
            "Usage: {usage}\n\n  {about}\n\nOptions:\n{options}\n\nCommands:\n{subcommands}\n",
        )
        .override_usage(format!("{name} [OPTIONS] COMMAND [ARGS]..."))
        .mut_subcommands(|command| {
            let usage = usage(&format!("{name} {}", command.get_name()), &command);
            command.help_template(HELP).override_usage(usage)
        })
}

/// A command's path, options and positional arguments.
fn usage(path: &str, command: &clap::Command) -> String {
    let argument = |argument: &clap::Arg| {
        let name = argument.get_value_names().and_then(|names| names.first());
        let name = name.map_or_else(String::new, |name| name.to_string());
        let many = matches!(argument.get_action(), clap::ArgAction::Append);
        match (argument.is_required_set(), many) {
            (true, _) => format!(" {name}"),
            (false, false) => format!(" [{name}]"),
            (false, true) => format!(" [{name}]..."),
        }
    };
    let mut usage = format!("{path} [OPTIONS]");
    usage.extend(command.get_positionals().map(argument));
    if command.get_name() == "flush" {
        // Wrapped as click does it.
        let indent = "Usage: ".len() + path.len() + 1;
        usage.push_str(&format!("\n{:indent$}{TARGET}", ""));
    }
    usage
}

fn sentence(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let bare = |text: String| text.trim_matches(['<', '>', '[', ']', '.']).to_owned();
    let option = |text: String| text.split([' ', '<']).next().unwrap_or_default().to_owned();
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            format!("No such command '{}'.", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingSubcommand => "Missing command.".to_owned(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "Missing command.".to_owned(),
        ErrorKind::MissingRequiredArgument => {
            let names = context(ContextKind::InvalidArg);
            let first = names.split_whitespace().next().unwrap_or_default();
            format!("Missing argument '{}'.", bare(first.to_owned()))
        }
        ErrorKind::UnknownArgument => {
            let argument = context(ContextKind::InvalidArg);
            if argument.starts_with('-') {
                format!("No such option: {argument}")
            } else {
                format!("Got unexpected extra argument ({argument})")
            }
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let (what, value) =
                (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
            let name = if what.starts_with('-') { option(what) } else { bare(what) };
            let choices = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) if !valid.is_empty() => valid.clone(),
                _ if value.is_empty() => return format!("Option '{name}' requires an argument."),
                _ if name == "--group" => {
                    return format!(
                        "Invalid value for '{name}': '{value}' is not a valid integer."
                    );
                }
                _ => return format!("Invalid value for '{name}': '{value}' is not a valid value."),
            };
            let choices: Vec<String> = choices.iter().map(|c| format!("'{c}'")).collect();
            let choices = choices.join(", ");
            // Both forms of the option.
            let short = match name.as_str() {
                "--format" => " / '-f'",
                "--role" => " / '-r'",
                _ => "",
            };
            format!("Invalid value for '{name}'{short}: '{value}' is not one of {choices}.")
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    }
}

#[cfg(test)]
#[path = "click_tests.rs"]
mod tests;
