//! show-config and edit-config: the dynamic configuration.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{
    PATRONI_TTL_FLOOR_S, TTL_FLOOR_S, merge_patch, review_dynamic, to_yaml, yaml11,
};

use super::Failure;
use super::args::{EditConfig, ShowConfig};
use super::console::{Console, MAX_INPUT_BYTES};
use super::diff;
use super::session::Session;

/// `show-config`.
pub fn show(session: &mut Session, options: &ShowConfig) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    match session.read(&name)?.config {
        Some(config) => {
            session.console.print(&format!("{}\n", to_yaml(&parse_json(&config.value)?)))
        }
        None => Ok(()),
    }
}

/// `edit-config`.
pub fn edit(session: &mut Session, options: &EditConfig) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    let cluster = session.read(&name)?;
    let patroni = cluster.has_patroni();
    let Some(config) = cluster.config else {
        let text = format!("The config key does not exist in the cluster {name}");
        return Err(Failure::Message(text));
    };
    let before = parse_json(&config.value)?;
    let after = match requested(&mut session.console, &before, options)? {
        Some(after) => after,
        None => from_editor(&mut session.console, &before, &name)?,
    };
    if before == after {
        return if options.quiet { Ok(()) } else { session.console.say("Not changed") };
    }
    if !options.quiet {
        show_changes(&mut session.console, &before, &after)?;
    }
    // Patroni's tool stores whatever it is given, and so do we, but not in silence.
    let floor = if patroni { PATRONI_TTL_FLOOR_S } else { TTL_FLOOR_S };
    review_dynamic(&after, floor).iter().for_each(|why| eprintln!("warning: {why}"));
    let from_stdin =
        [&options.apply, &options.replace].iter().any(|file| is_stdin(file.as_deref()));
    if from_stdin && !options.force {
        return session.console.say("Use --force option to apply changes");
    }
    if !options.force && !session.console.confirm("Apply these changes?")? {
        return Ok(());
    }
    if !session.write_config(&name, &after, config.mod_revision)? {
        return Err(Failure::message("Config modification aborted due to concurrent changes"));
    }
    session.console.say("Configuration changed")
}

fn parse_json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::Message(format!("the config key in the store is not JSON: {error}"))
    })
}

/// What the command line makes of the configuration; `None`: it asks for no change.
fn requested(
    console: &mut Console,
    before: &Value,
    options: &EditConfig,
) -> Result<Option<Value>, Failure> {
    let mut after = None;
    if let Some(file) = &options.replace {
        let empty = Value::Object(Map::new());
        after = Some(merge_patch(&empty, &read_yaml(console, file)?).0);
    }
    if let Some(file) = &options.apply {
        let patch = read_yaml(console, file)?;
        after = Some(merge_patch(after.as_ref().unwrap_or(before), &patch).0);
    }
    let guc = |pair: &String| format!("postgresql.parameters.{}", pair.trim_start());
    for pair in options.set.iter().cloned().chain(options.pg.iter().map(guc)) {
        let mut value = after.unwrap_or_else(|| before.clone());
        set(&mut value, &pair)?;
        after = Some(value);
    }
    Ok(after)
}

/// Applies one `key.path=yaml`; null removes, and mappings that become empty go as well.
fn set(config: &mut Value, pair: &str) -> Result<(), Failure> {
    let Some((path, text)) = pair.split_once('=') else {
        return Err(Failure::Message(format!("Invalid parameter setting {pair}")));
    };
    let value = parse_yaml(text, "<value>")
        .map_err(|why| Failure::Message(format!("Invalid parameter setting {pair}: {why}")))?;
    let path = path.trim();
    // The names of PostgreSQL's parameters may contain dots.
    let keys: Vec<&str> = match path.strip_prefix("postgresql.parameters.") {
        Some(name) => vec!["postgresql", "parameters", name],
        None => path.split('.').collect(),
    };
    if keys.iter().any(|key| key.is_empty()) {
        return Err(Failure::Message(format!("Invalid parameter setting {pair}")));
    }
    set_path(config, &keys, value);
    Ok(())
}

fn set_path(config: &mut Value, keys: &[&str], value: Value) {
    if !config.is_object() {
        *config = Value::Object(Map::new());
    }
    let (Some((key, rest)), Some(fields)) = (keys.split_first(), config.as_object_mut()) else {
        return;
    };
    if rest.is_empty() && value.is_null() {
        fields.shift_remove(*key);
    } else if rest.is_empty() {
        fields.insert((*key).to_owned(), value);
    } else {
        let below = fields.entry(*key).or_insert(Value::Null);
        set_path(below, rest, value);
        if below.as_object().is_some_and(Map::is_empty) {
            fields.shift_remove(*key);
        }
    }
}

fn is_stdin(file: Option<&Path>) -> bool {
    file == Some(Path::new("-"))
}

fn read_yaml(console: &mut Console, file: &Path) -> Result<Value, Failure> {
    let text = if is_stdin(Some(file)) {
        console.rest()
    } else {
        fs::metadata(file).and_then(|metadata| match metadata.len() {
            0..=MAX_INPUT_BYTES => fs::read_to_string(file),
            _ => Err(std::io::Error::other("too large for a configuration")),
        })
    };
    let shown = file.display().to_string();
    let text = text.map_err(|error| Failure::Message(format!("{shown}: {error}")))?;
    mapping(&text, &shown)
}

fn mapping(text: &str, file: &str) -> Result<Value, Failure> {
    let value = parse_yaml(text, file).map_err(Failure::Message)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Failure::Message(format!("{file}: the configuration has to be a YAML mapping")))
    }
}

fn parse_yaml(text: &str, file: &str) -> Result<Value, String> {
    match yaml11::parse(text, &Arc::from(file)) {
        Ok(document) => Ok(document.root.to_value()),
        Err(error) => {
            let at = &error.at;
            Err(format!("{}:{}:{}: {}", at.file, at.line, at.column, error.message))
        }
    }
}

fn show_changes(console: &mut Console, before: &Value, after: &Value) -> Result<(), Failure> {
    for line in diff::unified(&to_yaml(before), &to_yaml(after)) {
        let colour = match line.chars().next() {
            Some('+') => "\x1b[32m",
            Some('-') => "\x1b[31m",
            Some('@') => "\x1b[36m",
            _ => "",
        };
        if console.terminal && !colour.is_empty() {
            console.say(&format!("{colour}{line}\x1b[0m"))?;
        } else {
            console.say(&line)?;
        }
    }
    Ok(())
}

/// Lets the operator edit the configuration in a file, again if it is no YAML afterwards.
fn from_editor(console: &mut Console, before: &Value, cluster: &str) -> Result<Value, Failure> {
    let file = Scratch::new(cluster, &to_yaml(before))?;
    let editor = editor()?;
    let shown = file.0.display().to_string();
    loop {
        run_editor(&editor, &file.0)?;
        let text = fs::read_to_string(&file.0);
        let text = text.map_err(|error| Failure::Message(format!("{shown}: {error}")))?;
        match mapping(&text, &shown) {
            Err(Failure::Message(why)) => {
                eprintln!("{why}");
                if !console.confirm("Edit again?")? {
                    return Err(Failure::message("the configuration was not changed"));
                }
            }
            result => return result,
        }
    }
}

fn run_editor(editor: &str, file: &Path) -> Result<(), Failure> {
    // $EDITOR may hold options, as `emacs -nw` does.
    let mut words = editor.split_whitespace();
    let Some(program) = words.next() else {
        return Err(Failure::message("EDITOR is empty"));
    };
    let status = process::Command::new(program)
        .args(words)
        .arg(file)
        .stdin(Stdio::inherit())
        .status()
        .map_err(|error| Failure::Message(format!("{program}: {error}")))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Message(format!("Editor exited with return code {code}"))),
        None => Err(Failure::message("Editor was ended by a signal")),
    }
}

fn editor() -> Result<String, Failure> {
    if let Some(editor) = env::var("EDITOR").ok().filter(|editor| !editor.trim().is_empty()) {
        return Ok(editor);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let there = |name: &&&str| env::split_paths(&path).any(|dir| dir.join(name).is_file());
    match ["editor", "vi"].iter().find(there) {
        Some(name) => Ok(name.to_string()),
        None => Err(Failure::message(
            "EDITOR environment variable is not set. editor or vi are not available",
        )),
    }
}

/// A file that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cluster: &str, text: &str) -> Result<Scratch, Failure> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let name: String =
            cluster.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let unique = crate::sys::clock::boot().0;
        let path = env::temp_dir().join(format!("{name}-config-{}-{unique}.yaml", process::id()));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Failure::Message(format!("{}: {error}", path.display())))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind it does no harm; there is nobody to tell.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
#[path = "configuration_tests.rs"]
mod tests;
