//! Logs: Patroni's line layout on stderr, or the journal when stderr is connected to it.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::sys::clock;

/// Starts logging for this process. `level` is one of Patroni's words; other crates are heard
/// from WARNING on only. Calling it twice has no effect.
pub fn start(level: &str) {
    let filter = format!("warn,pgvigil={}", directive(level));
    let filter = || EnvFilter::new(&filter);
    let journal = if stderr_is_journal() { tracing_journald::layer().ok() } else { None };
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .event_format(PatroniLine)
            .with_filter(filter())
    });
    let journal = journal.map(|layer| layer.with_field_prefix(None).with_filter(filter()));
    // A second start (tests) finds a subscriber in place and leaves it there.
    let _ = tracing_subscriber::registry().with(stderr).with(journal).try_init();
}

fn directive(level: &str) -> &'static str {
    match level.to_ascii_uppercase().as_str() {
        "DEBUG" => "debug",
        "WARN" | "WARNING" => "warn",
        "ERROR" | "FATAL" | "CRITICAL" => "error",
        _ => "info",
    }
}

/// systemd sets JOURNAL_STREAM=device:inode to what it connected; systemd.exec(5) tells to compare.
fn stderr_is_journal() -> bool {
    let Ok(wanted) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(fd) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(meta) = std::fs::File::from(fd).metadata() else { return false };
    wanted == format!("{}:{}", meta.dev(), meta.ino())
}

/// `2026-11-21 10:21:16,639 INFO: no action. …`, local time, as Patroni's default format.
struct PatroniLine;

impl<S, N> FormatEvent<S, N> for PatroniLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(out, "{} {level}: {}{}", clock::local(clock::wall()), line.message, line.fields)
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            // The rule is for the journal and for `explain`; Patroni's line has no such field.
            "rule" => {}
            name => self.fields += &format!(" {name}={value:?}"),
        }
    }
}
