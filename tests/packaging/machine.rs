//! A server with a systemd of its own: this machine's Debian as a container, see machine.sh. Real
//! units, real control groups and real packages, but the kernel and its devices are the host's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgvigil::sys::cgroup;

use crate::lab::wait::wait_until;

const BOOT_WITHIN: Duration = Duration::from_secs(60);
const SYSTEMD: &str = "/lib/systemd/systemd";

pub struct Machine {
    pub name: &'static str,
    directory: tempfile::TempDir,
    group: PathBuf,
    holder: Child,
    /// Its process 1.
    init: i32,
}

impl Machine {
    /// Boots it; `fill` puts files into what is /mnt in there. `Err`: it cannot be done here.
    pub fn boot(name: &'static str, fill: impl FnOnce(&Path)) -> Result<Machine, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("a container needs root".to_owned());
        }
        if !Path::new(SYSTEMD).exists() {
            return Err(format!("there is no {SYSTEMD}: packaging/setup.sh package"));
        }
        let group = cgroup::own().map_err(|error| error.to_string())?;
        let group = group.join(format!("pgvigil-{name}-{}", std::process::id()));
        fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        for part in ["payload", "system"] {
            fs::create_dir(directory.path().join(part)).unwrap();
        }
        fill(&directory.path().join("payload"));
        let log = fs::File::create(directory.path().join("console")).unwrap();
        let script = format!("{}/tests/packaging/machine.sh", env!("CARGO_MANIFEST_DIR"));
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.display());
        let mut holder = Command::new("bash");
        holder.args(["-c", &enter, "machine", "unshare", "--cgroup", "--mount", "--uts", "--ipc"]);
        // Where this machine is a chroot, / may be no mount.
        holder.args(["--propagation=unchanged", "--net", "--pid", "--fork", "--kill-child"]);
        holder.arg(&script);
        holder.arg(directory.path()).arg(name).stdin(Stdio::null());
        holder.stdout(log.try_clone().unwrap()).stderr(log);
        let holder = holder.spawn().unwrap();
        let mut machine = Machine { name, directory, group, holder, init: 0 };
        machine.init = wait_until("the container", BOOT_WITHIN, || machine.find_init())?;
        wait_until("systemd in the container", BOOT_WITHIN, || {
            let state = machine.try_run("systemctl is-system-running").1;
            (["running", "degraded"].contains(&state.trim())).then_some(())
        });
        Ok(machine)
    }

    /// A cable to another one; `addresses` (with their prefix length) are the two ends' own.
    pub fn wire(&self, other: &Machine, addresses: [String; 2]) {
        let [here, there] = [self.init, other.init].map(|init| init.to_string());
        let mut link = Command::new("ip");
        link.args(["link", "add", "eth0", "netns", &here, "type", "veth"]);
        link.args(["peer", "name", "eth0", "netns", &there]);
        let (code, said) = crate::rig::output(&mut link);
        assert_eq!(code, Some(0), "{said}");
        for (machine, address) in [self, other].into_iter().zip(addresses) {
            machine.run(&format!("ip addr add {address} dev eth0 && ip link set eth0 up"));
        }
    }

    /// `Err`: machine.sh could not do it here.
    fn find_init(&mut self) -> Option<Result<i32, String>> {
        if let Ok(Some(status)) = self.holder.try_wait() {
            let said = fs::read_to_string(self.directory.path().join("console"));
            return Some(Err(format!("machine.sh: {status}: {}", said.unwrap_or_default())));
        }
        let holder = self.holder.id();
        let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).ok()?;
        let init: i32 = children.split_whitespace().next()?.parse().ok()?;
        let exe = fs::read_link(format!("/proc/{init}/exe")).ok()?;
        exe.ends_with("systemd").then_some(Ok(init))
    }

    /// Exit code and output of a bash command in there, as root.
    pub fn try_run(&self, command: &str) -> (Option<i32>, String) {
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--target={}", self.init));
        enter.args(["--cgroup", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]);
        enter.args(["timeout", "100", "bash", "-c", &format!("exec 2>&1; {command}")]);
        enter.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        enter.env("HOME", "/root").current_dir("/");
        crate::rig::output(&mut enter)
    }

    /// The output of a command that must succeed.
    #[track_caller]
    pub fn run(&self, command: &str) -> String {
        let (code, said) = self.try_run(command);
        assert_eq!(code, Some(0), "{command}\n{said}\n{}", self.journal());
        said.trim().to_owned()
    }

    /// Waits for a command to succeed; its output.
    #[track_caller]
    pub fn wait(&self, what: &str, within: Duration, command: &str) -> String {
        let begun = std::time::Instant::now();
        loop {
            match self.try_run(command) {
                (Some(0), said) => return said.trim().to_owned(),
                (_, said) if begun.elapsed() > within => {
                    panic!("waited {within:?} in vain for {what}\n{said}\n{}", self.journal())
                }
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Its last lines.
    pub fn journal(&self) -> String {
        self.try_run("journalctl -q --no-pager -o short-precise | grep -v 'not count' | tail -n 90")
            .1
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its process 1 goes with it, and with that one all others.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for _ in 0..200 {
            let events = fs::read_to_string(self.group.join("cgroup.events")).unwrap_or_default();
            if !events.contains("populated 1") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        remove_groups(&self.group);
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
