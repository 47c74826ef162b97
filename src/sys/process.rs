//! Starting, signalling and reaping processes.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, User};

use super::proc;

/// What to start. Everything is prepared here: between fork and exec nothing is allocated.
#[derive(Debug)]
pub struct Spec<'a> {
    /// `argv[0]` is the path of the program, used as it is.
    pub argv: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub env: &'a [CString],
    pub cwd: Option<&'a CStr>,
    /// The child opens it for its stdout and stderr (append); `None`: our stderr for both.
    pub output: Option<&'a CStr>,
    /// Directory of a control group. The child moves itself before it does anything else, and not
    /// by CLONE_INTO_CGROUP: Linux 6.18 kills a child that is born into a group which was killed
    /// at any time before (it compares the kill counters of two different groups).
    pub group: Option<BorrowedFd<'a>>,
    /// A descriptor of ours that the child gets under this number (above 2).
    pub inherit: Option<(BorrowedFd<'a>, RawFd)>,
    /// Written to `oom_score_adj`, if the kernel permits.
    pub oom_score_adj: &'a CStr,
}

/// A process and the descriptor that becomes readable when it ends.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// See [`proc::Stat`].
    pub start_ticks: u64,
}

impl Child {
    /// The process that has this pid now. First the descriptor, then the look: what it tells is of
    /// the process that the descriptor holds.
    pub fn of(pid: i32) -> io::Result<Child> {
        let pidfd = pidfd_open(pid)?;
        let stat = proc::stat(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok(Child { pid, pidfd, start_ticks: stat.start_ticks })
    }

    /// The process that had this pid and started then, if it is still there.
    pub fn find(pid: i32, start_ticks: u64) -> Option<Child> {
        Child::of(pid).ok().filter(|child| child.start_ticks == start_ticks)
    }
}

/// Exit code of a child that could not become its program.
pub const NOT_EXECUTED: i32 = 127;

/// Starts a process in a session of its own. Does not wait for the exec: a program that cannot be
/// executed ends with [`NOT_EXECUTED`] and a line on its stderr. Until the child has moved itself,
/// its group does not count it.
pub fn spawn(spec: &Spec<'_>) -> io::Result<Child> {
    let argv = pointers(spec.argv);
    let env = pointers(spec.env);
    // Until its handlers are reset the child must see no signal: our handlers write into our pipe.
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let parent = nix::unistd::getpid().as_raw();
    // SAFETY: the child runs only async-signal-safe calls until its exec.
    let started = match unsafe { libc::fork() } {
        ..0 => Err(io::Error::last_os_error()),
        0 => become_program(spec, &argv, &env, parent),
        // Nobody has reaped it yet, so the pid is its own.
        pid => Child::of(pid),
    };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    started
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// In the child, all signals blocked.
fn become_program(
    spec: &Spec<'_>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    parent: i32,
) -> ! {
    // SAFETY: only async-signal-safe calls (signal-safety(7)); every pointer was made before the
    // fork from a C string or a null-terminated array that lives in the parent's copied memory.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::setsid();
        if let Some(group) = spec.group {
            // A child outside its group could not be fenced: it must not become its program.
            let procs = libc::openat(group.as_raw_fd(), c"cgroup.procs".as_ptr(), libc::O_WRONLY);
            if libc::write(procs, c"0".as_ptr().cast(), 1) != 1 {
                give_up(c"cannot enter the control group of ", spec);
            }
        }
        // Whoever saw the parent dead and the group empty before this look has seen the last of
        // it: either the parent is dead here, too, or the group is not empty from before its death.
        if libc::getppid() != parent {
            give_up(c"the supervisor is gone, not starting ", spec);
        }
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        if file >= 0 {
            libc::write(file, spec.oom_score_adj.as_ptr().cast(), spec.oom_score_adj.count_bytes());
            libc::close(file);
        }
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
        libc::dup2(null, 0);
        let output = match spec.output {
            None => 2,
            Some(path) => {
                libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT, 0o600)
            }
        };
        if output < 0 || libc::dup2(output, 1) < 0 || libc::dup2(output, 2) < 0 {
            give_up(c"cannot open the output file of ", spec);
        }
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32);
        if let Some((fd, number)) = spec.inherit {
            if fd.as_raw_fd() == number {
                libc::fcntl(number, libc::F_SETFD, 0);
            } else {
                libc::dup2(fd.as_raw_fd(), number);
            }
        }
        if spec.cwd.is_some_and(|cwd| libc::chdir(cwd.as_ptr()) < 0) {
            give_up(c"cannot enter the working directory of ", spec);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::execve(argv[0], argv.as_ptr(), env.as_ptr());
        give_up(c"cannot execute ", spec)
    }
}

/// In the child: says why on stderr and ends.
fn give_up(why: &CStr, spec: &Spec<'_>) -> ! {
    for text in [c"pgvigil: ", why, spec.argv.first().map_or(c"", |a| a), c"\n"] {
        // SAFETY: async-signal-safe, and the text lives.
        unsafe { libc::write(2, text.as_ptr().cast(), text.count_bytes()) };
    }
    // SAFETY: _exit has no conditions.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

/// A copy of this process that runs `body` and ends; only for a process whose other threads, if
/// any, never allocate and never take a lock (nobody would release it in the child).
pub fn fork(body: impl FnOnce()) -> io::Result<Child> {
    // SAFETY: the caller is as good as single-threaded, so the child may do what the parent may.
    match unsafe { libc::fork() } {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            body();
            // SAFETY: _exit has no conditions; destructors of the parent's values must not run.
            unsafe { libc::_exit(0) }
        }
        pid => Child::of(pid),
    }
}

/// Closes every descriptor above 2 but these, whoever owns them: for a forked copy that goes on
/// with a few descriptors only and never returns to its owners.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| *fd as u32).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            // SAFETY: closing is safe; that nobody uses the numbers is the caller's promise.
            unsafe { libc::close_range(first, fd - 1, 0) };
        }
        first = fd.saturating_add(1);
    }
}

/// A descriptor of the process that has this pid now.
fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the result is checked and then owned (it is close-on-exec).
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}

/// Sends a signal to the process of the descriptor: never to another that got its pid.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: a plain system call on an open descriptor; a null siginfo is permitted.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Signals a child of [`spawn`] and its whole process group, which a child that was forked a moment
/// ago has not made yet.
pub fn signal_all(child: &Child, number: i32) {
    // That it has ended is no error here.
    let _ = signal(child.pidfd.as_fd(), number);
    kill(-child.pid, number);
}

/// Signals a process by number, or, with a negative number, a process group. That it is gone, or
/// another's, is no error here: whoever must know looks again.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: no memory is passed. 0, 1 and -1 would mean ourselves, init, everybody.
    if !(-1..=1).contains(&pid) {
        unsafe { libc::kill(pid, signal) };
    }
}

/// Whether we may signal this process.
pub fn may_signal(pid: i32) -> bool {
    // SAFETY: no memory is passed; signal 0 only asks.
    pid > 1 && unsafe { libc::kill(pid, 0) } == 0
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
    /// It was not our child.
    Unknown,
}

/// The end of a child whose pidfd is readable; `None`: it still runs.
pub fn reap(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitStatus::Signal(signal as i32)),
        Ok(_) => None,
        Err(_) => is_readable(pidfd).then_some(ExitStatus::Unknown),
    }
}

/// Reaps the children for which `known` is false (orphans that came to us as subreaper), up to
/// the first known one, which its owner reaps by its pidfd.
pub fn reap_orphans(known: impl Fn(i32) -> bool) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, look) {
        match status.pid() {
            Some(pid) if !known(pid.as_raw()) => drop(waitpid(pid, Some(WaitPidFlag::WNOHANG))),
            _ => break,
        }
    }
}

/// Whether a read would not block now (or the process of a pidfd has ended).
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}

/// Gives up root for good: groups, gid and uid of this user (a name or a number).
pub fn become_user(user: &User) -> io::Result<()> {
    let name = CString::new(user.name.as_bytes())?;
    nix::unistd::initgroups(&name, user.gid)?;
    nix::unistd::setresgid(user.gid, user.gid, user.gid)?;
    nix::unistd::setresuid(user.uid, user.uid, user.uid)?;
    // A change of the user makes a process undumpable: its /proc files, control group included,
    // would belong to root.
    nix::sys::prctl::set_dumpable(true)?;
    Ok(())
}

/// Looks a user up, by name or number.
pub fn user(name: &str) -> io::Result<User> {
    let found = match name.parse() {
        Ok(uid) => User::from_uid(nix::unistd::Uid::from_raw(uid))?,
        Err(_) => User::from_name(name)?,
    };
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no user {name:?}")))
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The parent's pid; 1 or a subreaper's once the parent is dead.
pub fn parent() -> i32 {
    Pid::parent().as_raw()
}

/// Orphans of our descendants come to us instead of to PID 1.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Leaves the session and process group of the parent, so that no signal to them comes here.
pub fn new_session() {
    let _ = nix::unistd::setsid();
}

/// Holds all signals back (`true`: an exec follows, whose program has no handlers yet) or takes
/// them again.
pub fn hold_signals(hold: bool) -> io::Result<()> {
    let how = if hold { SigmaskHow::SIG_SETMASK } else { SigmaskHow::SIG_UNBLOCK };
    Ok(sigprocmask(how, Some(&SigSet::all()), None)?)
}

/// Runs `body` with all signals held back; a thread that it starts never gets any.
pub fn without_signals<T>(body: impl FnOnce() -> T) -> io::Result<T> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let result = body();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Ok(result)
}

/// Our environment, without variables that are not UTF-8: the operator's shell may have any, and
/// nothing of ours or of PostgreSQL's needs them.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)))
}

/// Those of [`environment`] with this prefix.
pub fn variables(prefix: &str) -> impl Iterator<Item = (String, String)> {
    environment().filter(move |(name, _)| name.starts_with(prefix))
}

/// The first variable with this prefix that [`environment`] leaves out.
pub fn not_utf8(prefix: &str) -> Option<String> {
    let lost = |(n, v): &(OsString, OsString)| n.to_str().is_none() || v.to_str().is_none();
    let names = std::env::vars_os().filter(lost).map(|(n, _)| n.to_string_lossy().into_owned());
    names.into_iter().find(|name| name.starts_with(prefix))
}

/// The name that `ps` shows (15 bytes).
pub fn set_name(name: &CStr) {
    // It is a courtesy: nothing depends on it.
    let _ = nix::sys::prctl::set_name(name);
}

/// Replaces this process by a program. Returns only on failure.
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    match nix::unistd::execve(path, argv, env) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        argv: &[&str],
        output: Option<&CStr>,
        inherit: Option<(BorrowedFd<'_>, RawFd)>,
    ) -> Child {
        let argv: Vec<CString> = argv.iter().map(|a| CString::new(*a).unwrap()).collect();
        let spec = Spec {
            argv: &argv,
            env: &[c"A=b c".into()],
            cwd: Some(c"/usr"),
            output,
            group: None,
            inherit,
            oom_score_adj: c"0",
        };
        spawn(&spec).unwrap()
    }

    fn wait(child: &Child) -> ExitStatus {
        loop {
            let mut fds =
                [nix::poll::PollFd::new(child.pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
            if let Some(ended) = reap(child.pidfd.as_fd()) {
                return ended;
            }
        }
    }

    #[test]
    fn starts_signals_and_reaps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out");
        let output = CString::new(file.to_str().unwrap()).unwrap();
        let (ours, theirs) = super::super::fd::seqpacket_pair().unwrap();
        let script = "pwd; echo $A; ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj >&7";
        let child = run(&["/bin/sh", "-c", script], Some(&output), Some((theirs.as_fd(), 7)));
        assert_eq!(wait(&child), ExitStatus::Code(0));
        // 0, 1, 2, 7 and the directory itself: nothing of the test's other threads leaked.
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "/usr\nb c\n5\n");
        let mut answer = [0; 8];
        let length = nix::unistd::read(&ours, &mut answer).unwrap();
        assert_eq!(&answer[..length], b"0\n");
        let child = run(&["/nowhere/at/all"], Some(&output), None);
        assert_eq!(wait(&child), ExitStatus::Code(NOT_EXECUTED));
        assert!(
            std::fs::read_to_string(&file).unwrap().ends_with("cannot execute /nowhere/at/all\n")
        );
        let child = run(&["/bin/sleep", "1000"], Some(&output), None);
        assert_eq!(reap(child.pidfd.as_fd()), None);
        assert!(Child::find(child.pid, child.start_ticks).is_some());
        assert!(Child::find(child.pid, child.start_ticks + 1).is_none());
        signal(child.pidfd.as_fd(), libc::SIGTERM).unwrap();
        assert_eq!(wait(&child), ExitStatus::Signal(libc::SIGTERM));
        assert!(signal(child.pidfd.as_fd(), 0).is_err());
    }
}
