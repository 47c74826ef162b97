//! Command-line tools of both products, run at the client's host as `postgres`.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use super::net::Host;
use super::{Lab, Product, run_as_postgres};

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
        let mut command = self.patronictl(product);
        command.extend(["-c".to_owned(), file]);
        command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.at_client(&command, input)
    }

    /// The start of the command line.
    fn patronictl(&mut self, product: Product) -> Vec<String> {
        let program = self.program(product)[0].clone();
        match product {
            // The script's first line names the directory in which it was installed.
            Product::Patroni => vec![program.clone(), program.replace("/python", "/patronictl")],
            Product::Pgvigil => {
                let link = self.directory().join("patronictl");
                if !link.exists() {
                    symlink(program, &link).expect("a link");
                }
                vec![link.display().to_string()]
            }
        }
    }

    /// Any command at the client's host.
    pub fn at_client(&self, command: &[String], input: &str) -> Said {
        let mut command = run_as_postgres(&self.network.path(Host::Client), None, command);
        // Python's click refuses to work without a locale that knows UTF-8.
        let command = command.env("LANG", "C.UTF-8").stdin(Stdio::piped());
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
