//! Logs: Patroni's line layout (or the one that is configured) on stderr or in a file, and the
//! journal with fields when stderr is connected to it.

mod file;
mod record;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use crate::config::Log;
use crate::sys::journal;

use file::FileWriter;
use record::Record;

/// What a reload can change.
struct InForce {
    log: Log,
    file: Option<FileWriter>,
}

/// Scope and member, in the journal's fields.
static IDENTITY: OnceLock<[(&str, String); 2]> = OnceLock::new();

static IN_FORCE: Mutex<Option<Arc<InForce>>> = Mutex::new(None);

type SetLevel = Box<dyn Fn(&str) + Send + Sync>;
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Whose records these are; to be called before [`start`], once.
pub fn identify(scope: &str, member: &str) {
    let fields = [("PGVIGIL_SCOPE", scope.to_owned()), ("PGVIGIL_MEMBER", member.to_owned())];
    // The scope of a running member does not change.
    let _ = IDENTITY.set(fields);
}

/// Starts logging for this process, or takes another configuration into force. Other crates are
/// heard from WARNING on only.
pub fn start(log: &Log) {
    apply(log);
    if SET_LEVEL.get().is_some() {
        return;
    }
    let journal = if journal::is_stderr() { tracing_journald::layer().ok() } else { None };
    let journal = journal.map(|layer| {
        // Its own guess is the program's name: `exe`, of /proc/self/exe.
        let layer = layer.with_syslog_identifier("pgvigil".to_owned()).with_field_prefix(None);
        layer.with_custom_fields(IDENTITY.get().into_iter().flatten().map(|(k, v)| (*k, v)))
    });
    let (filter, lines) = reload::Layer::new(filter(&log.level));
    let (journal_filter, records) = reload::Layer::new(self::filter(&log.level));
    let lines_layer = Lines { stderr: journal.is_none() }.with_filter(filter);
    let journal = journal.map(|layer| layer.with_filter(journal_filter));
    // A second start (tests) finds a subscriber in place and leaves it there.
    let begun = tracing_subscriber::registry().with(lines_layer).with(journal).try_init();
    if begun.is_ok() {
        let set = move |level: &str| {
            // An error says that the subscriber is gone: nobody logs any more.
            let _ = lines.reload(self::filter(level));
            let _ = records.reload(self::filter(level));
        };
        let _ = SET_LEVEL.set(Box::new(set));
    }
}

fn apply(log: &Log) {
    let mut slot = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.as_ref().is_some_and(|known| known.log == *log) {
        return;
    }
    let file = log.file.as_ref().and_then(|file| match FileWriter::open(file) {
        Ok(writer) => Some(writer),
        Err(error) => {
            // A log that cannot be kept where it should be is kept where it can be.
            let _ = writeln!(io::stderr(), "log.dir {}: {error}; logging to stderr", file.dir);
            None
        }
    });
    *slot = Some(Arc::new(InForce { log: log.clone(), file }));
    drop(slot);
    if let Some(set) = SET_LEVEL.get() {
        set(&log.level);
    }
}

fn filter(level: &str) -> EnvFilter {
    let directive = match level {
        "DEBUG" => "debug",
        "WARNING" => "warn",
        "ERROR" | "CRITICAL" => "error",
        _ => "info",
    };
    EnvFilter::new(format!("warn,pgvigil={directive}"))
}

/// Writes lines to the file, or to stderr if that is not the journal, which has them already.
struct Lines {
    stderr: bool,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let slot = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(now) = slot else { return };
        if now.file.is_none() && !self.stderr {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let message = format!("{}{}", said.message, said.fields);
        let line = Record::new(event.metadata(), message).line(&now.log);
        match &now.file {
            Some(file) => file.write(line),
            // Nobody is left to tell when stderr is gone.
            None => drop(io::stderr().write_all(line.as_bytes())),
        }
    }
}

#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            // For the journal; Patroni's line has no such fields.
            "message_id" => {}
            name if name.starts_with("pgvigil_") => {}
            name => self.fields += &format!(" {name}={value:?}"),
        }
    }
}
