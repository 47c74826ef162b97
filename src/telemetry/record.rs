//! One record as a line: Python's attributes of it, in a %-format or as JSON.

use serde_json::{Map, Value, json};
use tracing::{Level, Metadata};

use crate::config::{Attribute, Log, LogForm, Piece};
use crate::core::time::Wall;
use crate::sys::clock;

/// What is logged, with all that a format may ask for.
pub struct Record {
    at: Wall,
    level: Level,
    /// `pgvigil::agent::turn`.
    target: String,
    file: String,
    line: u32,
    message: String,
}

impl Record {
    pub fn new(of: &Metadata<'_>, message: String) -> Record {
        Record {
            at: clock::wall(),
            level: *of.level(),
            target: of.target().to_owned(),
            file: of.file().unwrap_or_default().to_owned(),
            line: of.line().unwrap_or(0),
            message,
        }
    }

    /// The line, with its end.
    pub fn line(&self, log: &Log) -> String {
        match &log.form {
            LogForm::Plain(pieces) => {
                let mut line = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => line.push_str(text),
                        Piece::Field { attribute, left, zeros, width, most } => {
                            let text = plain(&self.value(*attribute, log));
                            let text: String =
                                text.chars().take(most.unwrap_or(usize::MAX)).collect();
                            line.push_str(&match (left, zeros) {
                                (true, _) => format!("{text:<width$}"),
                                (false, true) => format!("{text:0>width$}"),
                                (false, false) => format!("{text:>width$}"),
                            });
                        }
                    }
                }
                line + "\n"
            }
            LogForm::Json { fields, fixed } => {
                let mut map = Map::new();
                for (attribute, name) in fields {
                    map.insert(name.clone(), self.value(*attribute, log));
                }
                map.extend(fixed.iter().map(|(name, text)| (name.clone(), json!(text))));
                format!("{}\n", Value::Object(map))
            }
        }
    }

    fn value(&self, attribute: Attribute, log: &Log) -> Value {
        let file = || self.file.rsplit('/').next().unwrap_or_default().to_owned();
        let thread = std::thread::current();
        match attribute {
            Attribute::Asctime => json!(self.time(log)),
            Attribute::Created => {
                json!(format!("{}.{:06}", self.at.0 / 1_000_000, self.at.0 % 1_000_000))
            }
            Attribute::Filename => json!(file()),
            // Rust's records do not know the function that they stand in.
            Attribute::FuncName => json!(""),
            Attribute::Levelname => json!(self.level().0),
            Attribute::Levelno => json!(self.level().1),
            Attribute::Lineno => json!(self.line),
            Attribute::Message => json!(self.message),
            Attribute::Module => json!(file().trim_end_matches(".rs")),
            Attribute::Msecs => json!(self.at.0.rem_euclid(1_000_000) / 1000),
            Attribute::Name => json!(self.target.replace("::", ".")),
            Attribute::Pathname => json!(self.file),
            Attribute::Process => json!(std::process::id()),
            Attribute::ProcessName => json!("MainProcess"),
            Attribute::Thread => json!(format!("{:?}", thread.id())),
            Attribute::ThreadName => json!(thread.name().unwrap_or("MainThread")),
        }
    }

    /// Python's word and number.
    fn level(&self) -> (&'static str, u8) {
        match self.level {
            Level::ERROR => ("ERROR", 40),
            Level::WARN => ("WARNING", 30),
            Level::INFO => ("INFO", 20),
            Level::DEBUG | Level::TRACE => ("DEBUG", 10),
        }
    }

    fn time(&self, log: &Log) -> String {
        let Some(format) = &log.date_format else { return clock::local(self.at) };
        let at = jiff::Timestamp::from_microsecond(self.at.0).unwrap_or_default();
        let zoned = at.to_zoned(jiff::tz::TimeZone::system());
        // A format that jiff does not know in whole is no reason to lose the line.
        jiff::fmt::strtime::format(format, &zoned).unwrap_or_else(|_| clock::local(self.at))
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn record() -> Record {
        Record {
            at: Wall(1_795_256_476_639_000),
            level: Level::WARN,
            target: "pgvigil::agent::turn".into(),
            file: "src/agent/turn.rs".into(),
            line: 7,
            message: "it is \"so\"".into(),
        }
    }

    #[test]
    fn lines_are_laid_out_as_configured() {
        let line = record().line(&Log::default());
        assert!(line.ends_with(",639 WARNING: it is \"so\"\n") && line.len() == 44, "{line:?}");
        let field = |attribute, left, width| Piece::Field {
            attribute,
            left,
            zeros: !left,
            width,
            most: Some(7),
        };
        let form = LogForm::Plain(vec![
            field(Attribute::Levelname, true, 9),
            Piece::Text("|".into()),
            field(Attribute::Lineno, false, 3),
            Piece::Text("|".into()),
            field(Attribute::Name, true, 0),
        ]);
        let plain = Log { form, ..Log::default() };
        assert_eq!(record().line(&plain), "WARNING  |007|pgvigil\n");
        let fields = vec![
            (Attribute::Message, "message".to_owned()),
            (Attribute::Levelno, "no".to_owned()),
            (Attribute::Asctime, "at".to_owned()),
        ];
        let fixed = BTreeMap::from([("app".to_owned(), "pg".to_owned())]);
        let json = Log {
            form: LogForm::Json { fields, fixed },
            date_format: Some("%Y".into()),
            ..Log::default()
        };
        let want = "{\"message\":\"it is \\\"so\\\"\",\"no\":30,\"at\":\"2026\",\"app\":\"pg\"}\n";
        assert_eq!(record().line(&json), want);
    }
}
