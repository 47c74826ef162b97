//! What is wrong with a configuration and where: all of it at once.

use std::fmt;

use super::tree::Position;
use super::yaml11::YamlError;

/// One finding. Display is `file:line:col: path: message`, without the parts that do not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Otherwise a warning.
    pub error: bool,
    /// The file, or the environment variable.
    pub file: String,
    /// From 1; 0: no place within `file`.
    pub line: usize,
    pub column: usize,
    /// The key, such as `postgresql.listen`; empty for the whole.
    pub path: String,
    /// Never repeats the value of a secret.
    pub message: String,
}

impl Diagnostic {
    /// What stands before it in a terminal.
    pub fn kind(&self) -> &'static str {
        if self.error { "error" } else { "warning" }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            write!(f, " ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)
    }
}

impl From<YamlError> for Diagnostic {
    fn from(e: YamlError) -> Diagnostic {
        finding(true, &e.at, "", e.message)
    }
}

fn finding(error: bool, at: &Position, path: &str, message: String) -> Diagnostic {
    Diagnostic {
        error,
        file: at.file.to_string(),
        line: at.line,
        column: at.column,
        path: path.to_owned(),
        message,
    }
}

/// Collects findings.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Diagnostic>,
}

impl Report {
    pub fn error(&mut self, at: &Position, path: &str, message: impl Into<String>) {
        self.findings.push(finding(true, at, path, message.into()));
    }

    pub fn warn(&mut self, at: &Position, path: &str, message: impl Into<String>) {
        self.findings.push(finding(false, at, path, message.into()));
    }

    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|d| d.error)
    }

    /// In the order of the files: errors and warnings as a reader meets them.
    pub fn sorted(mut self) -> Vec<Diagnostic> {
        self.findings.sort_by(|a, b| {
            (&a.file, a.line, a.column, &a.path).cmp(&(&b.file, b.line, b.column, &b.path))
        });
        self.findings
    }
}
