//! `pgvigil check-config FILE`: everything that is wrong with a configuration, at once.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::diagnostics::Diagnostic;
use super::dynamic::TTL_FLOOR_S;
use super::effective::{Role, effective};
use super::load::load;

/// Prints every finding on a line of its own; 0: the configuration can be run, 1: it cannot.
///
/// # Errors
/// When `out` cannot be written.
pub fn check_config(
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
    out: &mut dyn Write,
) -> io::Result<u8> {
    let loaded = match load(path, env) {
        Ok(loaded) => loaded,
        Err(findings) => {
            print(&findings, out)?;
            return Ok(1);
        }
    };
    print(&loaded.warnings, out)?;
    let dcs = &loaded.local.bootstrap.dcs;
    for warning in effective(&loaded.local, dcs, Role::Replica, TTL_FLOOR_S).1 {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(0)
}

fn print(findings: &[Diagnostic], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        writeln!(out, "{}: {finding}", finding.kind())?;
    }
    Ok(())
}
