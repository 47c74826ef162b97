//! A real supervisor whose agent is this test: the agent process passes on
//! what comes from either side.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind,
    connect, listen, recv, recvmsg, send, socket,
};
use pgvigil::core::cluster::Tenure;
use pgvigil::link::order::{
    Command, Configure, Confirmation, Envelope, Order, Watchdog, WatchdogMode,
};
use pgvigil::link::state::State;
use pgvigil::link::{self, decode, encode};
use pgvigil::supervisor::{Options, memory_path, run};
use pgvigil::sys::{clock, fd, proc, process};
use pgvigil::watchdog::discover::Choice;
use pgvigil::watchdog::held;

const OPTIONS: &str = "RIG_OPTIONS";
const SOCKET: &str = "RIG_SOCKET";
const PATIENCE: Duration = Duration::from_secs(15);
/// In the rig's directory: what stands in for a watchdog device, and for systemd.
const PIPE: &str = "dog";
const HIDDEN: &str = "dog-hidden";
const NOTIFY: &str = "notify";

/// Runs only in a process that a rig started.
#[test]
fn as_supervisor() {
    let Ok(text) = std::env::var(OPTIONS) else { return };
    let mut lines = text.lines().map(String::from);
    let mut next = || lines.next().filter(|line| !line.is_empty());
    let cgroup = next().map(PathBuf::from);
    let user = next();
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_string();
    let agent = [&program, "--exact", "supervisor::rig::as_agent", "--test-threads=1"];
    let watchdog = next().map(|pipe| held::Options {
        choice: Choice { device: Some(pipe.into()), identity: None },
        testing: true,
    });
    let options = Options { agent: agent.map(String::from).into(), cgroup, user, watchdog };
    std::process::exit(run(options));
}

/// Runs only in a process that a supervisor started: passes on what comes from either side.
#[test]
fn as_agent() {
    let Ok(path) = std::env::var(SOCKET) else { return };
    let Ok(generation) = std::env::var(link::GENERATION) else { return };
    let link = fd::inherited(link::LINK_FD).unwrap();
    let rig = seqpacket();
    connect(rig.as_raw_fd(), &UnixAddr::new(path.as_str()).unwrap()).unwrap();
    let hello = format!("{generation} {}", std::process::id());
    send(rig.as_raw_fd(), hello.as_bytes(), MsgFlags::empty()).unwrap();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let fds = [link.as_fd(), rig.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds.clone(), PollTimeout::NONE).unwrap();
        for (from, to) in [(&link, &rig), (&rig, &link)] {
            match recv(from.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => std::process::exit(0),
                Ok(n) => drop(send(to.as_raw_fd(), &buffer[..n], MsgFlags::MSG_NOSIGNAL)),
                Err(_) => {}
            }
        }
    }
}

fn seqpacket() -> OwnedFd {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

fn launch(dir: &Path, cgroup: Option<&Path>) -> Child {
    launch_with(dir, cgroup, None)
}

/// `kept`: a descriptor that systemd kept, as it would give it back.
fn launch_with(dir: &Path, cgroup: Option<&Path>, kept: Option<OwnedFd>) -> Child {
    // A shell, because the number of the process must be known to the program in it.
    let script = if kept.is_some() {
        "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=watchdog; exec \"$@\" 3<&0 </dev/null"
    } else {
        "exec \"$@\""
    };
    let mut program = Program::new("/bin/sh");
    program.args(["-c", script, "sh"]).arg(own_program(dir));
    start(program, dir, cgroup, kept)
}

/// This program where postgres can read it: the clone may be in a home that it may not enter.
fn own_program(dir: &Path) -> PathBuf {
    let path = dir.join("program");
    if !path.exists() {
        let own = std::env::current_exe().unwrap();
        fs::hard_link(&own, &path).or_else(|_| fs::copy(&own, &path).map(drop)).unwrap();
    }
    path
}

/// As postgres, who may look at other users' processes but not signal them.
fn launch_onlooker(dir: &Path) -> Child {
    let mut program = Program::new("setpriv");
    program.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    program.args(["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace", "--"]);
    program.arg(own_program(dir));
    start(program, dir, None, None)
}

fn start(mut program: Program, dir: &Path, cgroup: Option<&Path>, kept: Option<OwnedFd>) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    let cgroup = cgroup.map_or("", |path| path.to_str().unwrap());
    let (pipe, notify) = (dir.join(PIPE), dir.join(NOTIFY));
    let pipe = if notify.exists() { pipe.display().to_string() } else { String::new() };
    // The test's harness has a thread beside that of the supervisor, whose own program has none:
    // it is to take no signals. The supervisor lets them in.
    // SAFETY: one system call.
    unsafe { program.pre_exec(|| process::hold_signals(true)) };
    program
        .args(["--exact", "supervisor::rig::as_supervisor", "--test-threads=1", "--nocapture"])
        .env(OPTIONS, format!("{cgroup}\npostgres\n{pipe}"))
        .env(SOCKET, dir.join("rig"))
        .envs(notify.exists().then_some(("NOTIFY_SOCKET", notify)))
        .current_dir("/")
        .stdin(kept.map_or(Stdio::null(), Stdio::from))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The other end of an agent.
pub struct Link {
    socket: OwnedFd,
    pub generation: u32,
    pub agent_pid: i32,
    seq: u64,
    pub state: State,
}

pub struct Rig {
    pub dir: PathBuf,
    pub cgroup: Option<PathBuf>,
    pub child: Child,
    listener: UnixListener,
    dog: Option<fs::File>,
    notify: Option<UnixDatagram>,
}

pub fn sh(script: &str) -> Command {
    let argv = ["/bin/sh", "-c", script].map(String::from).into();
    Command { argv, ..Command::default() }
}

pub fn tenure(n: i64) -> Tenure {
    Tenure { lease_id: n, mod_revision: n }
}

/// A renewal that was sent now.
pub fn confirmation(n: i64) -> Order {
    let (tenure, ttl, sent_at) = (tenure(n), Duration::from_secs(60), clock::boot());
    Order::Confirm(Confirmation { tenure, cluster_id: 1, raft_term: 1, sent_at, ttl, next: None })
}

pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "in vain waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Rig {
    /// A directory of user postgres with a fresh supervisor; `None`: not root, so it cannot run.
    pub fn new(name: &str, grouped: bool) -> Option<Rig> {
        Rig::launched(name, grouped, false, launch)
    }

    /// One whose supervisor has no control groups and may see what it may not signal.
    pub fn onlooker(name: &str) -> Option<Rig> {
        Rig::launched(name, false, false, |dir, _| launch_onlooker(dir))
    }

    /// With a watchdog device, and a service manager that keeps descriptors.
    pub fn watched(name: &str) -> Option<Rig> {
        Rig::launched(name, true, true, launch)
    }

    /// The same, and the device is not there before [`Rig::show_device`].
    pub fn watched_later(name: &str) -> Option<Rig> {
        Rig::launched(name, true, true, |dir, cgroup| {
            fs::rename(dir.join(PIPE), dir.join(HIDDEN)).unwrap();
            launch(dir, cgroup)
        })
    }

    /// With a device that can be opened and takes nothing.
    pub fn badly_watched(name: &str) -> Option<Rig> {
        Rig::launched(name, true, true, |dir, cgroup| {
            fs::remove_file(dir.join(PIPE)).unwrap();
            std::os::unix::fs::symlink("/dev/full", dir.join(PIPE)).unwrap();
            launch(dir, cgroup)
        })
    }

    pub fn show_device(&self) {
        fs::rename(self.dir.join(HIDDEN), self.dir.join(PIPE)).unwrap();
    }

    fn launched(
        name: &str,
        grouped: bool,
        watched: bool,
        launch: impl FnOnce(&Path, Option<&Path>) -> Child,
    ) -> Option<Rig> {
        if !process::is_root() {
            println!("skipped: needs root to make control groups and to become postgres");
            return None;
        }
        let name = format!("{name}-{}", std::process::id());
        let dir = PathBuf::from(format!("/var/tmp/pgvigil-test-{name}"));
        fs::create_dir_all(dir.join("data")).unwrap();
        let user = process::user("postgres").unwrap();
        for path in [&dir, &dir.join("data")] {
            std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .unwrap();
        }
        let mount = pgvigil::sys::cgroup::own().unwrap();
        let cgroup = grouped.then(|| mount.join(format!("pgvigil-test-{name}")));
        let listener = seqpacket();
        bind(listener.as_raw_fd(), &UnixAddr::new(&dir.join("rig")).unwrap()).unwrap();
        listen(&listener, Backlog::new(8).unwrap()).unwrap();
        let listener = UnixListener::from(listener);
        std::os::unix::fs::chown(dir.join("rig"), Some(user.uid.as_raw()), None).unwrap();
        let (dog, notify) = (dir.join(PIPE), dir.join(NOTIFY));
        let notify = watched.then(|| {
            nix::unistd::mkfifo(&dog, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
            let socket = UnixDatagram::bind(&notify).unwrap();
            for path in [&dog, &notify] {
                std::os::unix::fs::chown(path, Some(user.uid.as_raw()), None).unwrap();
            }
            socket
        });
        let dog = watched.then(|| {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&dog).unwrap()
        });
        let child = launch(&dir, cgroup.as_deref());
        Some(Rig { dir, cgroup, child, listener, dog, notify })
    }

    /// What the watchdog device was told since the last look.
    pub fn told(&mut self) -> String {
        let mut buffer = [0; 4096];
        let length = self.dog.as_mut().unwrap().read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The descriptor that systemd was given to keep.
    pub fn stored(&self) -> OwnedFd {
        let socket = self.notify.as_ref().unwrap();
        until("FDSTORE=1", || {
            let (mut text, mut space) = ([0; 256], nix::cmsg_space!(std::os::fd::RawFd));
            let mut text = [std::io::IoSliceMut::new(&mut text)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<()>(socket.as_raw_fd(), &mut text, Some(&mut space), flags);
            let rights = message.ok()?.cmsgs().ok()?.find_map(|c| match c {
                ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                _ => None,
            })?;
            // SAFETY: it was received a moment ago, for nobody else.
            Some(unsafe { OwnedFd::from_raw_fd(rights) })
        })
    }

    /// Killed; another one at once, with what systemd kept.
    pub fn crash_with(&mut self, kept: OwnedFd) {
        self.signal(libc::SIGKILL);
        self.exit_code();
        self.child = launch_with(&self.dir, self.cgroup.as_deref(), Some(kept));
    }

    /// Another supervisor, for the data directory of `first` by its orders.
    pub fn second(_first: &Rig, name: &str) -> Rig {
        Rig::new(name, true).expect("the first one had what it needs")
    }

    pub fn restart(&mut self) {
        self.child = launch(&self.dir, self.cgroup.as_deref());
    }

    /// What outlives a supervisor.
    pub fn memory(&self) -> PathBuf {
        let user = process::user("postgres").unwrap().uid.as_raw();
        memory_path(user, &self.dir.join("data"))
    }

    /// Killed, as by the kernel, and another one at once.
    pub fn crash(&mut self) {
        self.signal(libc::SIGKILL);
        self.exit_code();
        self.restart();
    }

    /// Orders of a program that passes for a postmaster.
    pub fn postmaster(&self, script: &str) -> Command {
        let path = self.dir.join("postgres");
        if !path.exists() {
            fs::copy("/bin/sh", &path).unwrap();
        }
        let argv = [path.to_str().unwrap(), "-c", script].map(String::from).into();
        Command { argv, ..Command::default() }
    }

    pub fn data_dir(&self) -> String {
        self.dir.join("data").to_str().unwrap().to_string()
    }

    /// The next agent's end.
    pub fn link(&mut self) -> Link {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(15_000u16)).unwrap();
        assert_eq!(ready, 1, "no agent came; log:\n{}", self.log());
        let (stream, _) = self.listener.accept().unwrap();
        let socket = OwnedFd::from(stream);
        let mut text = [0; 64];
        let length = recv(socket.as_raw_fd(), &mut text, MsgFlags::empty()).unwrap();
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let (generation, pid) = text.split_once(' ').unwrap();
        Link {
            socket,
            generation: generation.parse().unwrap(),
            agent_pid: pid.parse().unwrap(),
            seq: 0,
            state: State::default(),
        }
    }

    pub fn configured(&mut self, ttl_s: u64, freeze_max_s: u64) -> Link {
        let mut link = self.link();
        link.ok(self.configure(ttl_s, freeze_max_s));
        link
    }

    pub fn configure(&self, ttl_s: u64, freeze_max_s: u64) -> Order {
        self.configure_device(ttl_s, freeze_max_s, false)
    }

    pub fn configure_device(&self, ttl_s: u64, freeze_max_s: u64, required: bool) -> Order {
        Order::Configure(Configure {
            data_dir: self.data_dir(),
            ttl: Duration::from_secs(ttl_s),
            rho_ppm: 10_000,
            freeze_max: Duration::from_secs(freeze_max_s),
            postgres_path: "/usr/lib/postgresql/15/bin/postgres".into(),
            watchdog: Watchdog {
                mode: if required { WatchdogMode::Required } else { WatchdogMode::Automatic },
                election: Duration::from_secs(1),
                ..Watchdog::default()
            },
        })
    }

    pub fn group(&self, name: &str) -> PathBuf {
        self.cgroup.as_ref().unwrap().join(name)
    }

    pub fn pids(&self, group: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.group(group).join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// A fork of our supervisor: the same environment.
    pub fn sentinel(&self) -> Vec<i32> {
        let ours = format!("{SOCKET}={}", self.dir.join("rig").display());
        let is_ours = |pid: i32| {
            let named = fs::read_to_string(format!("/proc/{pid}/comm"));
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            named.is_ok_and(|name| name == "pgvigil-sentine\n")
                && environ.split(|byte| *byte == 0).any(|line| line == ours.as_bytes())
        };
        proc::all().iter().map(|stat| stat.pid).filter(|pid| is_ours(*pid)).collect()
    }

    pub fn events(&self) -> String {
        fs::read_to_string(self.group("postgres").join("cgroup.events")).unwrap().replace('\n', " ")
    }

    pub fn is(&self, events: &str) -> Option<()> {
        self.events().contains(events).then_some(())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Until the postmaster is what it was to become: one whose parent dies before that gives up.
    pub fn wait_for_postmaster(&self, link: &Link) -> i32 {
        let pid = link.state.postmaster.expect("a postmaster").pid;
        let ours = own_program(&self.dir);
        until("the postmaster's program", || (proc::exe(pid)? != ours).then_some(pid))
    }

    pub fn signal(&self, signal: i32) {
        process::kill(self.child.id() as i32, signal);
    }

    pub fn exit_code(&mut self) -> i32 {
        until("the supervisor's end", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the supervisor:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            // What was killed leaves its group a moment later.
            for _ in 0..1000 {
                for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
                    let _ = fs::remove_dir(entry.path());
                }
                if fs::remove_dir(cgroup).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_file(self.memory());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Link {
    pub fn send(&mut self, order: Order) -> u64 {
        self.seq += 1;
        let envelope = Envelope { generation: self.generation, seq: self.seq, order };
        send(self.socket.as_raw_fd(), &encode(&envelope).unwrap(), MsgFlags::empty()).unwrap();
        self.seq
    }

    /// Waits for a state of which this is true.
    #[track_caller]
    pub fn see(&mut self, what: &str, mut seen: impl FnMut(&State) -> bool) {
        let start = Instant::now();
        while !seen(&self.state) {
            assert!(start.elapsed() < PATIENCE, "in vain waited for: {what}; {:?}", self.state);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(200u8)).unwrap() == 1 {
                let mut buffer = vec![0; 1 << 17];
                let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
                assert!(length > 0, "the supervisor closed the link waiting for: {what}");
                self.state = decode(&buffer[..length]).unwrap();
            }
        }
    }

    /// Sends an order and waits until it is carried out.
    #[track_caller]
    pub fn ok(&mut self, order: Order) {
        let seq = self.send(order.clone());
        self.see("the order's end", |state| state.seq_seen >= seq);
        let refused = self.state.refused.as_ref().filter(|refusal| refusal.seq == seq);
        assert_eq!(refused, None, "{order:?}");
    }

    /// Sends an order that is to be refused, and returns why it was.
    #[track_caller]
    pub fn refused(&mut self, order: Order) -> String {
        let seq = self.send(order.clone());
        self.see("the order's end", |state| state.seq_seen >= seq);
        let refused = self.state.refused.as_ref().filter(|refusal| refusal.seq == seq);
        refused.unwrap_or_else(|| panic!("not refused: {order:?}")).reason.clone()
    }

    pub fn confirm(&mut self, n: i64) {
        self.ok(confirmation(n));
    }

    pub fn lead(&mut self) {
        self.ok(Order::Campaign);
        self.confirm(1);
    }
}
