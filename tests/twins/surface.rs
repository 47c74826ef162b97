//! What Patroni's own tables name (its validator's schema, its environment, its click commands),
//! pgvigil's tables name, too: nothing of it is an unknown key, variable, command or option.

use std::process::Command;

use pgvigil::cli::grammar;
use pgvigil::config::keys::{DYNAMIC, Key, Kind, LOCAL};
use pgvigil::config::knows_variable;

use crate::lab::pypi;

/// Makes a section of what has none of its own in our tables.
const FREE: &[&str] = &["parameters"];

fn has_key(path: &str) -> bool {
    let path = path.split('.').collect::<Vec<_>>();
    match path.as_slice() {
        ["bootstrap", "dcs", below @ ..] => has(DYNAMIC, below),
        path => has(LOCAL, path),
    }
}

fn has(keys: &[Key], path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    let Some(key) = keys.iter().find(|key| key.name == *first) else { return false };
    match key.kind {
        Kind::Section(below) | Kind::Open(below) => has(below, rest),
        Kind::Any => true,
        _ => rest.is_empty() || FREE.contains(first),
    }
}

fn has_option(grammar: &clap::Command, command: &str, option: &str) -> bool {
    let command = match command {
        "-" => Some(grammar),
        name => grammar.find_subcommand(name),
    };
    // That of all commands.
    let all = || grammar.get_arguments().filter(|argument| argument.is_global_set());
    command.is_some_and(|command| {
        command.get_arguments().chain(all()).any(|argument| {
            let long = option.strip_prefix("--");
            let longs = argument.get_long_and_visible_aliases().unwrap_or_default();
            let hidden = argument.get_all_aliases().unwrap_or_default();
            let short = option.strip_prefix('-').filter(|_| long.is_none());
            let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
            long.is_some_and(|long| longs.contains(&long) || hidden.contains(&long))
                || shorts.iter().any(|own| short == Some(&*own.to_string()))
        })
    })
}

#[test]
fn nothing_of_patronis_is_unknown() {
    let directory = tempfile::tempdir().expect("a directory");
    let python = match pypi::patroni(directory.path()) {
        Ok(command) => command[0].clone(),
        Err(reason) => {
            println!("twins: SKIPPED, Patroni cannot be had from PyPI: {reason}");
            return;
        }
    };
    let output = Command::new(python).args(["-c", include_str!("surface.py")]).output();
    let output = output.expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let grammar = grammar();
    let (mut unknown, mut seen) = (Vec::new(), [0; 4]);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (kind, known) = match words.as_slice() {
            ["key", path] => (0, has_key(path)),
            ["variable", name] => (1, knows_variable(name)),
            ["command", name] => (2, grammar.find_subcommand(name).is_some()),
            ["option", command, option] => (3, has_option(&grammar, command, option)),
            other => panic!("{other:?}"),
        };
        seen[kind] += 1;
        if !known {
            unknown.push(line);
        }
    }
    println!("twins: keys, variables, commands and options of Patroni: {seen:?}");
    assert!(seen[0] > 150 && seen[1] > 80 && seen[2] > 15 && seen[3] > 80, "{text}");
    assert!(unknown.is_empty(), "{unknown:#?}");
    // The comparison can fail.
    assert!(!has_key("postgresql.nosuch") && !has_key("bootstrap.dcs.nosuch"));
    assert!(!has_option(&grammar, "list", "--nosuch") && !has_option(&grammar, "nosuch", "-c"));
    assert!(!knows_variable("PATRONI_RESTAPI_NOSUCH"));
}
