//! `pgvigil generate-config` and `pgvigil init`: a configuration from what this machine tells, from
//! a PostgreSQL that runs, and from answers.

mod draft;
mod running;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::Path;

use draft::{Draft, Login, access};

use super::Failure;
use super::console::Console;
use crate::config;
use crate::sys::process;

/// As whom the packaged service runs.
const USER: &str = "postgres";

/// What a configuration is to describe.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// What is installed here, for a new cluster.
    Machine,
    /// The server at this connection string.
    Server(&'a str),
    /// The server that libpq would find: by the variables PG*, or by the usual socket.
    Nearest,
}

impl<'a> Source<'a> {
    fn of(dsn: Option<&'a str>) -> Source<'a> {
        dsn.map_or(Source::Machine, Source::Server)
    }
}

/// `generate-config`: prints a configuration; of a running server with `dsn`. The exit code.
pub fn generate(dsn: Option<&str>) -> i32 {
    generate_to(Source::of(dsn), None)
}

/// Prints a configuration, or makes a file of it in place of what was there. The exit code.
pub fn generate_to(source: Source, path: Option<&Path>) -> i32 {
    let mut console = Console::stdio();
    exit_code(found(source).and_then(|draft| match path {
        Some(path) => write(path, &draft.render(), OpenOptions::new().create(true).truncate(true)),
        None => console.print(&draft.render()),
    }))
}

/// `init`: asks, writes `path`, checks it, and looks with `doctor`. The exit code is doctor's.
pub fn init(path: &Path, dsn: Option<&str>, environment: &BTreeMap<String, String>) -> i32 {
    // Doctor takes standard input again, so it must be free by then.
    let prepared = prepare(path, dsn, &mut Console::stdio());
    match prepared {
        Ok(()) => {
            let code = super::doctor(Some(path), environment, false);
            let next = "When that is as it should be: systemctl enable --now pgvigil";
            if path == Path::new(config::SERVICE_FILE) {
                println!("{next}");
            }
            code
        }
        failed => exit_code(failed),
    }
}

fn exit_code(result: Result<(), Failure>) -> i32 {
    result.map_or_else(|failure| failure.report(), |()| 0)
}

fn found(source: Source) -> Result<Draft, Failure> {
    let draft = Draft::guess();
    match source {
        Source::Machine => Ok(draft),
        Source::Server(dsn) => running::describe(Some(dsn), draft),
        Source::Nearest => running::describe(None, draft),
    }
}

fn prepare(path: &Path, dsn: Option<&str>, console: &mut Console) -> Result<(), Failure> {
    if path.exists() {
        let text = format!("{} is there already: name another file", path.display());
        return Err(Failure::message(text));
    }
    let mut draft = found(Source::of(dsn))?;
    ask(&mut draft, dsn.is_some(), console)?;
    write(path, &draft.render(), OpenOptions::new().create_new(true))?;
    console.say(&format!("\n{} is written. What check-config says:", path.display()))?;
    let mut findings = Vec::new();
    let checked = config::check_config(Some(path), &BTreeMap::new(), &mut findings);
    console.print(&String::from_utf8_lossy(&findings))?;
    if !matches!(checked, Ok(0)) {
        return Err(Failure::message(format!("mend {}, then: pgvigil doctor", path.display())));
    }
    console.say("It can be run. What doctor says:\n")
}

/// What this machine cannot know.
fn ask(draft: &mut Draft, runs: bool, console: &mut Console) -> Result<(), Failure> {
    text(console, "Cluster (the same for all its members)", &mut draft.scope)?;
    text(console, "Member (another name on each server)", &mut draft.name)?;
    text(console, "Address at which the others and clients reach this server", &mut draft.address)?;
    if draft.address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        let only = format!("warning: {} is within this server: no other can join", draft.address);
        console.say(&only)?;
    }
    let mut etcd = draft.etcd.join(",");
    text(console, "etcd, host:port of each server, with commas", &mut etcd)?;
    draft.etcd = etcd.split(',').map(|host| host.trim().to_owned()).collect();
    if runs {
        return logins(draft, console);
    }
    text(console, "Data directory", &mut draft.data_dir)?;
    text(
        console,
        "Directory of PostgreSQL's programs (empty: the search path)",
        &mut draft.bin_dir,
    )?;
    let mut addresses = "samenet".to_owned();
    text(console, "Who may connect: an address range, samenet or all", &mut addresses)?;
    draft.pg_hba = access(&addresses);
    if console.confirm("Does this cluster have members already?")? {
        return logins(draft, console);
    }
    console.say("Three passwords were made up; give the other members the same, from the file.")
}

/// A value that Enter leaves as it is.
fn text(console: &mut Console, question: &str, value: &mut String) -> Result<(), Failure> {
    *value = console.prompt(question, Some(value.as_str()))?.trim().to_owned();
    Ok(())
}

/// The passwords are those of the server that is there.
fn logins(draft: &mut Draft, console: &mut Console) -> Result<(), Failure> {
    for login in [&mut draft.superuser, &mut draft.replication, &mut draft.rewind] {
        let Login { username, password } = login;
        *username = console.prompt("User", Some(username))?;
        *password = console.secret(&format!("Password of {username}"))?;
    }
    Ok(())
}

/// For the service's user and root alone: it has passwords.
fn write(path: &Path, text: &str, options: &mut OpenOptions) -> Result<(), Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::message(format!("{}: {what}: {error}", path.display()))
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| failed("its directory", error))?;
    }
    let file = options.write(true).mode(0o640).open(path);
    let mut file = file.map_err(|error| failed("cannot be made", error))?;
    if process::is_root()
        && let Ok(user) = process::user(USER)
    {
        let given = chown(path, None, Some(user.gid.as_raw()));
        given.map_err(|error| failed("cannot be given to the group of postgres", error))?;
    }
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| failed("cannot be written", error))
}

#[cfg(test)]
mod tests {
    use super::super::console::test::console;
    use super::*;

    #[test]
    fn answers_go_into_the_file_and_an_old_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etc/pgvigil.yml");
        let answers =
            "shop\nnode1\n10.0.0.5\ne1:2379, e2:2379\n/srv/pg\n\nall\ny\n\nsuper\n\nrepl\n\nrew\n";
        let (mut asked, printed) = console(answers);
        prepare(&path, None, &mut asked).unwrap();
        assert!(printed.text().contains("It can be run"), "{}", printed.text());
        let local = config::load(Some(&path), &BTreeMap::new()).unwrap().local;
        assert_eq!((local.scope.as_str(), local.name.as_str()), ("shop", "node1"));
        assert_eq!(local.etcd.endpoints, ["http://e1:2379", "http://e2:2379"]);
        assert_eq!(local.postgresql.data_dir, "/srv/pg");
        assert_eq!(local.postgresql.rewind.password, Some("rew".to_owned()));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o640);
        let before = fs::read(&path).unwrap();
        let (mut asked, _) = console(answers);
        assert!(prepare(&path, None, &mut asked).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}
