//! One member: the program under test at its own host, with its own directory and, by choice, its
//! own control group.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::net::{Host, Network};
use super::process::{self, child_with, control_groups, lives, signal};
use super::volume::Volume;
use super::wait::wait_until;
use super::{Means, Product, Settings, config, make_directory, postgres_user, run_as_postgres};

pub struct Member {
    pub number: u8,
    pub product: Product,
    directory: PathBuf,
    volume: Option<Volume>,
    wal_volume: Option<Volume>,
    /// The program and its first arguments.
    program: Vec<String>,
    control_group: Option<PathBuf>,
    namespace: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// Writes the configuration; starts nothing.
    pub fn new(
        settings: &Settings,
        number: u8,
        base: &Path,
        program: &[String],
        network: &Network,
    ) -> Member {
        let host = Host::Member(number);
        let directory = base.join(format!("m{number}"));
        make_directory(&directory);
        let volume = settings.health.map(|_| Volume::new(&directory, "volume"));
        let wal_volume = settings.wal_apart.then(|| Volume::new(&directory, "wal"));
        let text = config::render(settings, number, &directory);
        fs::write(directory.join("config.yml"), text).expect("configuration");
        let control_group = match settings.means {
            Means::ControlGroup => Some(make_control_group(&network.unique_name(host))),
            Means::Descent => None,
        };
        let (product, program) = (settings.product, program.to_vec());
        let namespace = network.path(host);
        Member {
            number,
            product,
            directory,
            volume,
            wal_volume,
            program,
            control_group,
            namespace,
            child: None,
        }
    }

    /// What its next start runs.
    pub fn set_program(&mut self, product: Product, program: &[String]) {
        assert!(self.child.is_none(), "{} runs", self.name());
        (self.product, self.program) = (product, program.to_vec());
    }

    /// Changes its configuration file, for its next start.
    pub fn configure(&self, change: impl Fn(&str) -> String) {
        let text = fs::read_to_string(self.configuration()).expect("its configuration");
        fs::write(self.configuration(), change(&text)).expect("its configuration");
    }

    pub fn configuration(&self) -> PathBuf {
        self.directory.join("config.yml")
    }

    pub fn name(&self) -> String {
        format!("m{}", self.number)
    }

    pub fn host(&self) -> Host {
        Host::Member(self.number)
    }

    pub fn data_directory(&self) -> PathBuf {
        self.volume.as_ref().map_or(&*self.directory, Volume::place).join("data")
    }

    /// What the member and its PostgreSQL wrote to standard output and error.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name());
        let log = File::options().create(true).append(true).open(self.directory.join("log"));
        let log = log.expect("log file");
        // Patroni knows no control groups: it runs beside them, as another unit would.
        let group = self.control_group.as_ref().filter(|_| self.product == Product::Pgvigil);
        let mut command = self.program.clone();
        if let Some(path) = group {
            command.extend(["--cgroup".to_owned(), path.display().to_string()]);
        }
        command.push(self.configuration().display().to_string());
        let mut command = run_as_postgres(&self.namespace, group.map(PathBuf::as_path), &command);
        let command = command.current_dir(&self.directory).stdin(Stdio::null());
        let command = command.stdout(log.try_clone().expect("log file")).stderr(log);
        self.child = Some(command.spawn().expect("the member's program"));
    }

    /// The main process: pgvigil's supervisor, or Patroni.
    pub fn supervisor(&self) -> i32 {
        let child = self.child.as_ref().expect("a started member");
        i32::try_from(child.id()).expect("a pid")
    }

    /// pgvigil's agent.
    pub fn agent(&self) -> Option<i32> {
        child_with(self.supervisor(), |arguments| {
            arguments.get(1).is_some_and(|argument| argument == "agent")
        })
    }

    /// The postmaster, if it lives.
    pub fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data_directory().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok().filter(|&pid| lives(pid))
    }

    pub fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("a laboratory with volumes")
    }

    /// The one that `pg_wal` lies on.
    pub fn wal_volume(&self) -> &Volume {
        self.wal_volume.as_ref().expect("a laboratory with volumes for pg_wal")
    }

    pub fn calm_volumes(&self) {
        self.volume.iter().chain(&self.wal_volume).for_each(Volume::calm);
    }

    /// Every process in the group of PostgreSQL.
    pub fn postgres_pids(&self) -> Vec<i32> {
        let group = self.control_group.as_ref().expect("a control group").join("postgres");
        let pids = fs::read_to_string(group.join("cgroup.procs")).expect("cgroup.procs");
        pids.lines().filter_map(|line| line.parse().ok()).collect()
    }

    pub fn signal_postmaster(&self, wanted: Signal) {
        signal(self.postmaster().expect("a postmaster"), wanted);
    }

    /// SIGKILL to the main process alone; returns when it is gone.
    pub fn kill_supervisor(&mut self) {
        let mut child = self.child.take().expect("a started member");
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
    }

    /// The main process ended or is made to end with everything else at this host, what is in
    /// memory included.
    pub fn reap(&mut self) {
        let memory = pgvigil::supervisor::memory_path(postgres_user().0, &self.data_directory());
        let _ = fs::remove_file(memory);
        let page = pgvigil::agent::volume_page(postgres_user().0, &self.data_directory());
        let _ = fs::remove_file(page);
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, as systemd stops it; returns when it has ended.
    pub fn stop(&mut self, limit: Duration) -> std::process::ExitStatus {
        signal(self.supervisor(), Signal::SIGTERM);
        let mut child = self.child.take().expect("a started member");
        wait_until("an orderly stop", limit, || child.try_wait().expect("wait"))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.reap();
        if let Some(path) = &self.control_group {
            process::remove_control_group(path);
        }
    }
}

/// A group handed over to `postgres` as systemd's `Delegate=yes` would.
fn make_control_group(name: &str) -> PathBuf {
    let path = control_groups().expect("control groups of version 2").join(name);
    fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (uid, gid) = postgres_user();
    chown(&path, Some(uid), Some(gid)).expect("chown");
    for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(path.join(file), Some(uid), Some(gid)).expect("chown");
    }
    path
}
