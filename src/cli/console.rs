//! The user's terminal or pipe: what is said and asked, with the semantics of Python's click,
//! because scripts feed answers to `patronictl` through stdin.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use super::Failure;

/// Standard input and output, or what a test puts in their place.
pub struct Console {
    input: Box<dyn BufRead>,
    out: Box<dyn Write>,
    /// Output is a terminal: colour and clearing the screen make sense.
    pub terminal: bool,
}

impl Console {
    /// The process's own standard input and output.
    pub fn stdio() -> Console {
        Console {
            input: Box::new(io::stdin().lock()),
            out: Box::new(io::stdout().lock()),
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Prints text as it is. Error: nobody reads our output any more.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(|_| Failure::OutputClosed)
    }

    /// Prints one line.
    pub fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.print(&format!("{line}\n"))
    }

    /// Asks until there is an answer; an empty one takes the default. End of input aborts.
    pub fn prompt(&mut self, question: &str, default: Option<&str>) -> Result<String, Failure> {
        let text = match default {
            Some(default) => format!("{question} [{default}]: "),
            None => format!("{question}: "),
        };
        loop {
            self.print(&text)?;
            let answer = self.line()?;
            match default {
                _ if !answer.is_empty() => return Ok(answer),
                Some(default) => return Ok(default.to_owned()),
                None => {}
            }
        }
    }

    /// Asks a question whose default is "no".
    pub fn confirm(&mut self, question: &str) -> Result<bool, Failure> {
        loop {
            self.print(&format!("{question} [y/N]: "))?;
            match self.line()?.trim().to_lowercase().as_str() {
                "y" | "yes" => return Ok(true),
                "n" | "no" | "" => return Ok(false),
                _ => self.say("Error: invalid input")?,
            }
        }
    }

    /// Asks without showing the answer, when the input is a terminal. The question goes to
    /// standard error: what follows on standard output is data.
    pub fn secret(&mut self, question: &str) -> Result<String, Failure> {
        loop {
            eprint!("{question}: ");
            let hidden = Echo::off();
            let answer = self.line();
            if hidden.is_some() {
                eprintln!();
            }
            drop(hidden);
            let answer = answer?;
            if !answer.is_empty() {
                return Ok(answer);
            }
        }
    }

    /// Everything that is left on standard input.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut text = String::new();
        (&mut self.input).take(MAX_INPUT_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        let read = (&mut self.input).take(MAX_INPUT_BYTES).read_line(&mut line);
        match read {
            Ok(0) | Err(_) => Err(Failure::Aborted),
            Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }
}

/// More than any configuration or answer; less than what would hurt.
pub const MAX_INPUT_BYTES: u64 = 16 << 20;

/// Terminal echo of standard input, switched on again when dropped.
struct Echo {
    before: nix::sys::termios::Termios,
}

impl Echo {
    fn off() -> Option<Echo> {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent).ok()?;
        Some(Echo { before })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        // Nothing can be done if the terminal is gone.
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
pub mod test {
    use std::cell::RefCell;
    use std::io::Cursor;
    use std::rc::Rc;

    use super::*;

    /// Collects what was printed.
    #[derive(Clone, Default)]
    pub struct Printed(Rc<RefCell<Vec<u8>>>);

    impl Printed {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console with this input.
    pub fn console(input: &str) -> (Console, Printed) {
        let printed = Printed::default();
        let input = Box::new(Cursor::new(input.as_bytes().to_vec()));
        (Console { input, out: Box::new(printed.clone()), terminal: false }, printed)
    }

    #[test]
    fn prompts_as_click_does() {
        let (mut console, printed) = console("\n\nx\nwhat\nYES\n\n");
        assert_eq!(console.prompt("Primary", Some("alpha")).unwrap(), "alpha");
        assert_eq!(console.prompt("Name", None).unwrap(), "x");
        assert!(console.confirm("Sure?").unwrap());
        assert!(!console.confirm("Sure?").unwrap());
        assert!(matches!(console.confirm("Sure?"), Err(Failure::Aborted)));
        assert_eq!(
            printed.text(),
            "Primary [alpha]: Name: Name: Sure? [y/N]: Error: invalid input\n\
             Sure? [y/N]: Sure? [y/N]: Sure? [y/N]: "
        );
    }
}
