//! Replacing the supervisor in place: same pid, same children, a new program. It finds its state
//! where a successor after a crash would.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::children::{Helper, Prepared};
use super::record::{DATA_DIR, LOCK_FD, WATCHDOG_FD};
use super::watch::Supervisor;
use crate::core::time::Boot;
use crate::link::order::Command;
use crate::link::state::ExitStatus;
use crate::sys::{clock, fd, proc, process};

/// How long the new program may take for its self-check.
const CHECK_MAX: Duration = Duration::from_secs(10);

impl Supervisor {
    /// First the new program must show that it runs here, with the configuration that stands there.
    pub fn begin_replacement(&mut self, now: Boot) {
        if self.check.is_some() {
            return;
        }
        let started = program().and_then(|path| {
            let argv = [vec![path, "self-check".into()], self.options.agent[2..].to_vec()].concat();
            let command = Command { argv, ..Command::default() };
            let prepared = Prepared::new(&command).map_err(io::Error::other)?;
            prepared.spawn(self.groups.as_ref().map(|groups| groups.scripts.dir()), None, c"0")
        });
        match started {
            Ok(child) => self.check = Some(Helper { child, until: now.plus(CHECK_MAX) }),
            Err(error) => self.log.critical(&format!("replacement refused: {error}")),
        }
    }

    pub fn tend_check(&mut self, now: Boot) {
        let Some(check) = &self.check else { return };
        let status = process::reap(check.child.pidfd.as_fd());
        if status.is_none() && now < check.until {
            return;
        }
        process::signal_all(&check.child, libc::SIGKILL);
        if status == Some(ExitStatus::Code(0)) {
            let error = self.replace();
            self.log.critical(&format!("replacement failed, this program stays: {error}"));
        } else {
            self.log.critical(&format!("replacement refused: self-check ended with {status:?}"));
        }
        // Not before: no other replacement begins in the midst of this one.
        self.check = None;
    }

    /// Executes the file that stands at this program's path now. Returns only if that failed; then
    /// everything is as before. The lock goes over; the agent's link ends here.
    fn replace(&mut self) -> io::Error {
        let error = self.execute().unwrap_or_else(|error| error);
        let _ = process::hold_signals(false);
        if let Some(member) = &self.member {
            let _ = fd::keep_over_exec(member.lock.as_fd(), false);
        }
        if let Some(file) = self.dog.file() {
            let _ = fd::keep_over_exec(file.as_fd(), false);
        }
        error
    }

    fn execute(&mut self) -> io::Result<io::Error> {
        process::hold_signals(true)?;
        // What came before this stands in pipes that end here: it goes into the record. What comes
        // from now on waits for the new program.
        self.take_signals(clock::boot());
        self.record();
        let (path, argv, env) = self.image()?;
        Ok(process::exec(&path, &argv, &env))
    }

    fn image(&self) -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
        let mut handed: Vec<(OsString, OsString)> = Vec::new();
        if let Some(member) = &self.member {
            if !member.memory.outlives() {
                return Err(io::Error::other("there is no file in /dev/shm for the state"));
            }
            fd::keep_over_exec(member.lock.as_fd(), true)?;
            let number = member.lock.as_raw_fd().to_string();
            let data_dir = member.descent.data_dir.clone();
            handed = vec![(DATA_DIR.into(), data_dir.into()), (LOCK_FD.into(), number.into())];
        }
        if let Some(file) = self.dog.file() {
            fd::keep_over_exec(file.as_fd(), true)?;
            handed.push((WATCHDOG_FD.into(), file.as_raw_fd().to_string().into()));
        }
        let argv = std::env::args_os().map(|a| CString::new(a.as_bytes()));
        // The numbers of LISTEN_FDS are those of the first program in this process.
        let ours = |name: &[u8]| name.starts_with(b"PGVIGIL_") || name.starts_with(b"LISTEN_");
        let others = std::env::vars_os().filter(|(name, _)| !ours(name.as_bytes()));
        let env = others
            .chain(handed)
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
        let (argv, env) = (argv.collect::<Result<_, _>>()?, env.collect::<Result<_, _>>()?);
        Ok((CString::new(program()?)?, argv, env))
    }
}

/// The path of this program; after an upgrade another file stands there.
fn program() -> io::Result<String> {
    let path = proc::exe(std::process::id() as i32).and_then(|p| p.to_str().map(String::from));
    path.ok_or_else(|| io::Error::other("the path of this program cannot be read"))
}
