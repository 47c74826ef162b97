//! Where PostgreSQL's programs are, and which version they have.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of PostgreSQL that we run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    Postgres,
    Initdb,
    PgCtl,
    PgBasebackup,
    PgRewind,
}

impl Tool {
    /// The usual file name, and the key below `bin_name`.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Postgres => "postgres",
            Tool::Initdb => "initdb",
            Tool::PgCtl => "pg_ctl",
            Tool::PgBasebackup => "pg_basebackup",
            Tool::PgRewind => "pg_rewind",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("{name} not found in {places}; install PostgreSQL or set postgresql.bin_dir")]
    Missing { name: String, places: String },
    #[error("cannot run {path}: {reason}")]
    Run { path: PathBuf, reason: String },
    #[error("{path} --version answered {answer:?}, which names no version")]
    Version { path: PathBuf, answer: String },
    #[error("{path} is PostgreSQL {major}; pgvigil works with 13 to 18")]
    Unsupported { path: PathBuf, major: u32 },
}

/// `postgresql.bin_dir` and `postgresql.bin_name` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binaries {
    bin_dir: String,
    names: BTreeMap<String, String>,
}

impl Binaries {
    /// An empty `bin_dir` means the search path. `names` maps usual names to local ones.
    pub fn new(bin_dir: &str, names: &BTreeMap<String, String>) -> Binaries {
        Binaries { bin_dir: bin_dir.to_owned(), names: names.clone() }
    }

    /// Absolute path of a program that exists and may be executed.
    pub fn path(&self, tool: Tool) -> Result<PathBuf, BinaryError> {
        let name = self.names.get(tool.name()).map_or(tool.name(), String::as_str);
        let search = std::env::var_os("PATH").unwrap_or_default();
        let (folders, places) = if self.bin_dir.is_empty() {
            let folders: Vec<PathBuf> = std::env::split_paths(&search).collect();
            (folders, format!("PATH ({})", search.to_string_lossy()))
        } else {
            (vec![PathBuf::from(&self.bin_dir)], self.bin_dir.clone())
        };
        folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| is_executable(path))
            .and_then(|path| std::path::absolute(path).ok())
            .ok_or(BinaryError::Missing { name: name.to_owned(), places })
    }

    /// Major version of the server program. Runs `postgres --version` and waits for it.
    pub fn major_version(&self) -> Result<u32, BinaryError> {
        let path = self.path(Tool::Postgres)?;
        let output = Command::new(&path)
            .arg("--version")
            .output()
            .map_err(|e| BinaryError::Run { path: path.clone(), reason: e.to_string() })?;
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match parse_major(&answer) {
            None => Err(BinaryError::Version { path, answer }),
            Some(major @ 13..=18) => Ok(major),
            Some(major) => Err(BinaryError::Unsupported { path, major }),
        }
    }
}

/// The programs must be executable by us; a wrong owner shows when they are run.
fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`, also `18beta1` and `19devel`.
fn parse_major(answer: &str) -> Option<u32> {
    let number = answer.split(") ").nth(1)?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 19devel", Some(19)),
            ("postgres (PostgreSQL) ", None),
            ("", None),
        ];
        for (answer, want) in cases {
            assert_eq!(parse_major(answer), want, "{answer}");
        }
    }

    #[test]
    fn a_missing_program_is_named_with_its_place() {
        let names = BTreeMap::from([("pg_rewind".to_owned(), "pg_rewind-x".to_owned())]);
        let error = Binaries::new("/nowhere/bin", &names).path(Tool::PgRewind).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("pg_rewind-x not found in /nowhere/bin"), "{text}");
        let found = Binaries::new("/bin", &BTreeMap::from([("postgres".into(), "sh".into())]));
        assert_eq!(found.path(Tool::Postgres).expect("there"), PathBuf::from("/bin/sh"));
    }
}
