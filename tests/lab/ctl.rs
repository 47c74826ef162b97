//! Other programs of the laboratory: the command-line tools of both products, run at the client's
//! host as `postgres`, and what runs beside the members.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::net::Host;
use super::{Lab, PASSWORD, Product, postgres_user, run_as_postgres};

/// Python's click refuses to work without a locale that knows it.
const UTF_8: &str = "C.UTF-8";

/// Patroni's tool, loaded once: Python needs half a second for it.
pub struct Patronictl {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Patronictl {
    fn run(&mut self, arguments: &[&str], told: &str) -> Said {
        writeln!(self.input, "{}", json!([arguments, told])).expect("a pipe");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let text = |field: &str| said[field].as_str().expect("a text").to_owned();
        let code = said["code"].as_i64().and_then(|code| i32::try_from(code).ok());
        Said { code, out: text("out"), err: text("err") }
    }
}

impl Drop for Patronictl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command printed, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Lab {
    /// Patroni's `patronictl`, or ours under that name, with the configuration of the first member.
    pub fn ctl(&mut self, product: Product, arguments: &[&str]) -> Said {
        self.ctl_told(product, arguments, "")
    }

    /// ... with answers to its questions.
    pub fn ctl_told(&mut self, product: Product, arguments: &[&str], input: &str) -> Said {
        let file = self.member(1).configuration().display().to_string();
        let arguments = [&["-c", file.as_str()], arguments].concat();
        let program = self.program(product)[0].clone();
        match product {
            Product::Patroni => self.patronictl(&program).run(&arguments, input),
            Product::Pgvigil => {
                let link = self.directory().join("patronictl");
                if !link.exists() {
                    symlink(program, &link).expect("a link");
                }
                let mut command = vec![link.display().to_string()];
                command.extend(arguments.iter().map(|&argument| argument.to_owned()));
                self.at_client(&command, input)
            }
        }
    }

    fn patronictl(&mut self, python: &str) -> &mut Patronictl {
        if self.patronictl.is_none() {
            let script = self.directory().join("patronictl.py");
            fs::write(&script, include_str!("patronictl.py")).expect("a file");
            let command = [python.to_owned(), script.display().to_string()];
            let path = self.network.path(Host::Client);
            let mut command = run_as_postgres(&path, None, &command);
            let command = command.env("LANG", UTF_8).env("PGPASSFILE", self.passwords());
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().expect("python");
            let input = child.stdin.take().expect("a pipe");
            let output = BufReader::new(child.stdout.take().expect("a pipe"));
            self.patronictl = Some(Patronictl { child, input, output });
        }
        self.patronictl.as_mut().expect("just made")
    }

    /// The superuser's password, for `query`.
    fn passwords(&self) -> PathBuf {
        let file = self.directory().join("passwords");
        if !file.exists() {
            fs::write(&file, format!("*:*:*:postgres:{PASSWORD}\n")).expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
            let (uid, gid) = postgres_user();
            std::os::unix::fs::chown(&file, Some(uid), Some(gid)).expect("chown");
        }
        file
    }

    /// Any command at the client's host.
    pub fn at_client(&self, command: &[String], input: &str) -> Said {
        let mut command = run_as_postgres(&self.network.path(Host::Client), None, command);
        let command = command.env("LANG", UTF_8).env("PGPASSFILE", self.passwords());
        let command = command.stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A program that refuses at once reads nothing.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("its end");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A program beside the members, ended when it is dropped.
pub struct Beside {
    child: Child,
    log: PathBuf,
}

impl Beside {
    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.log());
        }
    }
}

impl Lab {
    /// Starts a program at a host, as root: it may change the host's addresses.
    pub fn beside(&self, host: Host, name: &str, command: &[String]) -> Beside {
        let log = self.directory().join(format!("{name}-{host}.log"));
        let file = File::create(&log).expect("a log");
        let mut full = Command::new("nsenter");
        full.arg(format!("--net={}", self.network.path(host).display())).args(command);
        full.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        full.env("HOME", self.directory()).current_dir(self.directory()).stdin(Stdio::null());
        full.stdout(file.try_clone().expect("a log")).stderr(file);
        Beside { child: full.spawn().expect("nsenter"), log }
    }
}
