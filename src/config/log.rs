//! The section `log`: levels, Python's %-format, JSON, a file with rotation.

use std::collections::BTreeMap;

use serde_json::Value;

use super::diagnostics::Report;
use super::reader::Reader;
use super::tree::Position;
use super::units;

/// How this process logs. The journal, if stderr is connected to it, gets every record with its
/// fields whatever stands here but the level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`.
    pub level: String,
    pub form: LogForm,
    /// strftime, local time; `None`: `2026-11-21 10:21:16,639`.
    pub date_format: Option<String>,
    /// Leave out lines that only repeat the decision before.
    pub deduplicate: bool,
    /// Instead of stderr.
    pub file: Option<LogFile>,
}

impl Default for Log {
    fn default() -> Log {
        let form = LogForm::Plain(pieces(FORMAT).unwrap_or_default());
        Log { level: "INFO".into(), form, date_format: None, deduplicate: false, file: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogForm {
    Plain(Vec<Piece>),
    /// What, and under which name; then what is the same in every line.
    Json {
        fields: Vec<(Attribute, String)>,
        fixed: BTreeMap<String, String>,
    },
}

/// `patroni.log` in this directory, as log shippers expect it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    pub dir: String,
    pub mode: Option<u32>,
    /// Older ones that are kept: `patroni.log.1`, …
    pub keep: usize,
    /// Greatest size in bytes; 0: no rotation.
    pub size: u64,
    /// Records that may wait for the disk; more are dropped and counted.
    pub queue: usize,
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Field { attribute: Attribute, left: bool, zeros: bool, width: usize, most: Option<usize> },
}

/// Python's name of what a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    Asctime,
    Created,
    Filename,
    FuncName,
    Levelname,
    Levelno,
    Lineno,
    Message,
    Module,
    Msecs,
    Name,
    Pathname,
    Process,
    ProcessName,
    Thread,
    ThreadName,
}

const ATTRIBUTES: &[(&str, Attribute)] = &[
    ("asctime", Attribute::Asctime),
    ("created", Attribute::Created),
    ("filename", Attribute::Filename),
    ("funcName", Attribute::FuncName),
    ("levelname", Attribute::Levelname),
    ("levelno", Attribute::Levelno),
    ("lineno", Attribute::Lineno),
    ("message", Attribute::Message),
    ("module", Attribute::Module),
    ("msecs", Attribute::Msecs),
    ("name", Attribute::Name),
    ("pathname", Attribute::Pathname),
    ("process", Attribute::Process),
    ("processName", Attribute::ProcessName),
    ("thread", Attribute::Thread),
    ("threadName", Attribute::ThreadName),
];

const FORMAT: &str = "%(asctime)s %(levelname)s: %(message)s";

fn attribute(name: &str) -> Result<Attribute, String> {
    let found = ATTRIBUTES.iter().find(|(known, _)| *known == name);
    found.map(|(_, attribute)| *attribute).ok_or_else(|| {
        let known: Vec<&str> = ATTRIBUTES.iter().map(|(name, _)| *name).collect();
        format!("`{name}` is no attribute of a record: {}", known.join(", "))
    })
}

/// A Python %-format in its parts.
fn pieces(format: &str) -> Result<Vec<Piece>, String> {
    let mut all = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let (name, after) =
            rest.strip_prefix('(').and_then(|r| r.split_once(')')).ok_or_else(|| {
                format!("`%{rest}` is not understood: `%(name)s`, or `%%` for a percent sign")
            })?;
        let attribute = attribute(name)?;
        let flags = after.trim_start_matches(['-', '0', '+', ' ', '#']);
        let set = &after[..after.len() - flags.len()];
        let digits = flags.trim_start_matches(|c: char| c.is_ascii_digit());
        let width = flags[..flags.len() - digits.len()].parse().unwrap_or(0).min(WIDTH_MAX);
        let (most, after) = match digits.strip_prefix('.') {
            Some(precision) => {
                let after = precision.trim_start_matches(|c: char| c.is_ascii_digit());
                (precision[..precision.len() - after.len()].parse().ok(), after)
            }
            None => (None, digits),
        };
        rest = after.strip_prefix(['s', 'd', 'i', 'f', 'r']).ok_or_else(|| {
            format!("after `%({name})` a letter is missing, such as in `%({name})s`")
        })?;
        if !text.is_empty() {
            all.push(Piece::Text(std::mem::take(&mut text)));
        }
        let (left, zeros) = (set.contains('-'), set.contains('0'));
        all.push(Piece::Field { attribute, left, zeros, width, most });
    }
    text.push_str(rest);
    if !text.is_empty() {
        all.push(Piece::Text(text));
    }
    Ok(all)
}

/// Wider than any screen.
const WIDTH_MAX: usize = 1000;

/// Reads the section; what is wrong in the format is an error of the configuration.
pub fn read(section: Reader, whole: &Position, report: &mut Report) -> Log {
    let json = section.text("type").is_some_and(|kind| kind.eq_ignore_ascii_case("json"));
    let format = section.value("format").unwrap_or_else(|| Value::from(FORMAT));
    let fixed = section.text_map("static_fields");
    let form = match json {
        true => fields(&format).map(|fields| LogForm::Json { fields, fixed }),
        false => match format.as_str() {
            Some(text) => pieces(text).map(LogForm::Plain),
            None => Err("must be one text; a list is for `type: json`".to_owned()),
        },
    };
    let form = form.unwrap_or_else(|why| {
        report.error(&section.at("format", whole), "log.format", why);
        Log::default().form
    });
    let number = |key: &str| section.integer(key, "").and_then(|n| u64::try_from(n).ok());
    let file = section.text("dir").map(|dir| LogFile {
        dir,
        mode: number("mode").and_then(|mode| u32::try_from(mode).ok()),
        keep: number("file_num").unwrap_or(4).min(1000) as usize,
        size: number("file_size").unwrap_or(25_000_000),
        queue: number("max_queue_size").unwrap_or(1000).clamp(1, 1_000_000) as usize,
    });
    Log {
        level: level(section.text("level")),
        form,
        date_format: section.text("dateformat"),
        deduplicate: section.boolean("deduplicate_heartbeat_logs").unwrap_or(false),
        file,
    }
}

/// Fields of a JSON record: those of a %-format, or a list of names and renamings.
fn fields(format: &Value) -> Result<Vec<(Attribute, String)>, String> {
    let named = |name: &str, shown: &str| attribute(name).map(|a| (a, shown.to_owned()));
    match format {
        Value::Array(list) => {
            let mut all = Vec::new();
            for entry in list {
                match entry {
                    Value::String(name) => all.push(named(name, name)?),
                    Value::Object(map) => {
                        for (name, shown) in map {
                            all.push(named(name, &units::text(shown).unwrap_or_default())?);
                        }
                    }
                    other => return Err(format!("{other} is no name of a field")),
                }
            }
            Ok(all)
        }
        other => {
            let text = other.as_str().ok_or("must be a text or a list")?;
            let fields = pieces(text)?.into_iter().filter_map(|piece| match piece {
                Piece::Field { attribute, .. } => {
                    let name = ATTRIBUTES.iter().find(|(_, a)| *a == attribute)?.0;
                    Some((attribute, name.to_owned()))
                }
                Piece::Text(_) => None,
            });
            Ok(fields.collect())
        }
    }
}

fn level(text: Option<String>) -> String {
    match text.unwrap_or_default().to_uppercase().as_str() {
        "WARN" => "WARNING",
        "FATAL" => "CRITICAL",
        word @ ("DEBUG" | "WARNING" | "ERROR" | "CRITICAL") => word,
        _ => "INFO",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats_are_pythons() {
        let all = pieces("%(asctime)s [%(levelname)-8s] 100%% %(lineno)05d").expect("valid");
        assert_eq!(all.len(), 5, "{all:?}");
        assert_eq!(all[1], Piece::Text(" [".into()));
        let level = Piece::Field {
            attribute: Attribute::Levelname,
            left: true,
            zeros: false,
            width: 8,
            most: None,
        };
        assert_eq!(all[2], level);
        assert_eq!(all[3], Piece::Text("] 100% ".into()));
        assert!(matches!(all[4], Piece::Field { zeros: true, width: 5, .. }));
        for bad in ["%(levelname)", "%(nosuch)s", "%s", "%(message", "50%"] {
            assert!(pieces(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_takes_a_list_with_renamings_or_a_format() {
        let list = fields(&json!(["message", {"levelname": "level"}])).expect("valid");
        let want = [(Attribute::Message, "message".into()), (Attribute::Levelname, "level".into())];
        assert_eq!(list, want);
        assert_eq!(fields(&json!(FORMAT)).expect("valid").len(), 3);
        assert!(fields(&json!([1])).is_err() && fields(&json!(7)).is_err());
    }
}
