//! The four output formats, spelled as Python's json and PyYAML spell them.

use clap::ValueEnum;
use serde_json::Value;

use crate::api::json;
use crate::config::{to_yaml, units};

use super::table::Table;

/// `-f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Pretty,
    Tsv,
    Json,
    Yaml,
    Yml,
}

/// One result: column names, whether the column is aligned to the right, and cells.
/// An empty text is an empty cell.
pub struct Listing<'a> {
    pub title: Option<&'a str>,
    pub columns: Vec<(&'static str, bool)>,
    pub rows: Vec<Vec<Value>>,
    /// JSON and YAML leave out empty cells.
    pub omit_empty: bool,
}

impl Listing<'_> {
    /// The text to print, ended by a line break.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Pretty => self.pretty(),
            Format::Tsv => {
                let heads = self.columns.iter().map(|(name, _)| name.to_string()).collect();
                separated(Some(heads), &text_rows(&self.rows), "\t")
            }
            Format::Json => format!("{}\n", json::python(&self.objects())),
            Format::Yaml | Format::Yml => {
                format!("{}\n", to_yaml(&self.objects()))
            }
        }
    }

    fn pretty(&self) -> String {
        let heads: Vec<(String, bool)> =
            self.columns.iter().map(|(name, right)| (name.to_string(), *right)).collect();
        let rows = text_rows(&self.rows);
        Table { title: self.title, heads: Some(&heads), rows: &rows }.render()
    }

    fn objects(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let cells = self.columns.iter().zip(row);
            let kept = cells.filter(|(_, cell)| !self.omit_empty || cell.as_str() != Some(""));
            Value::Object(kept.map(|((name, _), cell)| (name.to_string(), cell.clone())).collect())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

/// Lines of cells with a delimiter between them.
pub fn separated(heads: Option<Vec<String>>, rows: &[Vec<String>], delimiter: &str) -> String {
    let lines = heads.iter().chain(rows);
    lines.map(|cells| format!("{}\n", cells.join(delimiter))).collect()
}

/// Cells as Python's `str` writes them.
pub fn text_rows(rows: &[Vec<Value>]) -> Vec<Vec<String>> {
    rows.iter().map(|row| row.iter().map(python_text).collect()).collect()
}

/// A value as Python's `str` writes it, or as JSON if it has parts.
fn python_text(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => json::python(value),
        scalar => units::python_text(scalar),
    }
}

/// A value in YAML's flow style, keys sorted: `{clonefrom: true, zone: z1}`.
pub fn flow_yaml(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow_yaml).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let field = |(key, value): (&String, &Value)| {
                format!("{}: {}", flow_scalar(&Value::String(key.clone())), flow_yaml(value))
            };
            let fields: Vec<String> = fields.into_iter().map(field).collect();
            format!("{{{}}}", fields.join(", "))
        }
        scalar => flow_scalar(scalar),
    }
}

/// A scalar as in block style, quoted where only flow style needs it.
fn flow_scalar(scalar: &Value) -> String {
    let block = to_yaml(&serde_json::json!({ "k": scalar }));
    let text = block.trim_start_matches("k:").trim();
    let quoted = text.starts_with(['\'', '"']);
    if !quoted && text.contains([',', '?', '[', ']', '{', '}', ':']) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flow_style_is_pyyamls() {
        let tags = json!({"zone": "z1", "clonefrom": true, "n": 5, "t": "5", "u": "a,b", "e": ""});
        assert_eq!(flow_yaml(&tags), "{clonefrom: true, e: '', n: 5, t: '5', u: 'a,b', zone: z1}");
        assert_eq!(flow_yaml(&json!({"l": ["a:b", {}]})), "{l: ['a:b', {}]}");
    }
}
