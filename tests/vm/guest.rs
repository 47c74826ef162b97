//! One virtual machine under QEMU.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::wire::{Answer, Debugger, Event, Qmp, Shell};
use crate::lab::net::{Host, Network};
use crate::lab::wait::wait_until;

/// Debian with systemd boots in half a minute here; a busy machine needs several times that.
const BOOT_WITHIN: Duration = Duration::from_secs(600);
/// The longest wait for a command in the guest.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
const BIOS_WITHIN: Duration = Duration::from_secs(5);
const MEMORY_MIB: u32 = 1024;
const DATA_DISK_BYTES: u64 = 2 << 30;

/// What a machine is made of.
pub struct Hardware<'a> {
    /// From image.sh.
    pub image: &'a Path,
    /// A tar archive, the third disk.
    pub payload: &'a Path,
    pub processors: u8,
}

pub struct Guest {
    pub number: u8,
    processors: u8,
    directory: PathBuf,
    child: Child,
    qmp: Qmp,
    shell: Shell,
}

impl Guest {
    /// Switches the machine on; does not wait for it.
    pub fn start(hardware: &Hardware<'_>, number: u8, base: &Path, network: &Network) -> Guest {
        let host = Host::Member(number);
        let directory = base.join(format!("vm{number}"));
        fs::create_dir(&directory).expect("a directory");
        let disk = File::create(directory.join("data.raw")).expect("a data disk");
        disk.set_len(DATA_DISK_BYTES).expect("a data disk");
        let (namespace, port) = network.tap(host);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.display())).arg("qemu-system-x86_64");
        command.args(arguments(hardware, number, &port, &directory));
        // The throw-away copy of the disk lies with the rest of the laboratory.
        command.env("TMPDIR", &directory).stdin(Stdio::null());
        let log = File::create(directory.join("qemu.log")).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().expect("qemu-system-x86_64 (packaging/setup.sh vm)");
        let qmp = Qmp::connect(&directory.join("qmp"));
        let shell = Shell::connect(&directory.join("shell"));
        Guest { number, processors: hardware.processors, directory, child, qmp, shell }
    }

    /// Waits until the machine has come up `count` times since it was switched on.
    pub fn wait_booted(&self, count: usize) {
        wait_until(&format!("boot {count} of m{}", self.number), BOOT_WITHIN, || {
            (self.shell.boots() >= count).then_some(())
        });
    }

    pub fn boots(&self) -> usize {
        self.shell.boots()
    }

    /// The output of a bash command, run as root, that must succeed.
    pub fn run(&self, command: &str) -> String {
        let Answer { status, output } = self
            .try_run(command)
            .unwrap_or_else(|| panic!("m{}: no answer to {command}", self.number));
        assert_eq!(status, 0, "m{}: {command}\n{output}", self.number);
        output
    }

    pub fn try_run(&self, command: &str) -> Option<Answer> {
        self.shell.run(command, ANSWER_WITHIN)
    }

    /// The journal, or the console of a machine that does not answer any more.
    pub fn log(&self) -> String {
        let journal = "journalctl -q --no-pager -o short-monotonic -n 3000";
        let answer = self.shell.run(journal, Duration::from_secs(30));
        answer.map_or_else(|| self.console(), |answer| answer.output)
    }

    /// Resets of the machine, whatever their cause. After one that it did not ask for, the BIOS
    /// resets the machine once more, at once: that one does not count.
    pub fn resets(&self, since: Instant) -> Vec<Event> {
        let mut resets = self.qmp.events("RESET", since);
        resets.dedup_by(|later, earlier| later.at - earlier.at < BIOS_WITHIN);
        resets
    }

    /// An emulated device's expiry; softdog is no device.
    pub fn watchdog_events(&self, since: Instant) -> Vec<Event> {
        self.qmp.events("WATCHDOG", since)
    }

    /// How often softdog said that it resets the machine.
    pub fn softdog_bites(&self) -> usize {
        self.console().matches("softdog: Initiating system reboot").count()
    }

    /// All processors loop with interrupts off from now on.
    pub fn hang(&self) {
        Debugger::attach(&self.directory.join("gdb")).hang(self.processors);
    }

    /// What the kernel and systemd wrote to the serial port; with `LAB_LOGS`, the journal, too: a
    /// reset takes the last minutes of that from the disk.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.directory.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(hardware: &Hardware<'_>, number: u8, port: &str, directory: &Path) -> Vec<String> {
    let Hardware { image, payload, processors } = hardware;
    let (image, here, payload) = (image.display(), directory.display(), payload.display());
    let address = Host::Member(number).address();
    let forward = match std::env::var_os("LAB_LOGS") {
        Some(_) => " systemd.journald.forward_to_console=1",
        None => "",
    };
    let kernel = format!(
        "root=/dev/vda rw fsck.mode=skip console=ttyS0 quiet net.ifnames=0 mitigations=off \
         systemd.show_status=false systemd.hostname=m{number} vm.address={address}/24{forward}"
    );
    let accelerator = accelerator(hardware.image);
    let lines = format!(
        "-nodefaults
-no-user-config
-display none
-machine pc,accel={accelerator}
-cpu max
-smp {processors}
-m {MEMORY_MIB}
-kernel {image}/vmlinuz
-initrd {image}/initrd.img
-drive file={image}/disk.ext4,format=raw,if=virtio,snapshot=on,cache=unsafe
-drive file={here}/data.raw,format=raw,if=virtio,cache=unsafe
-drive file={payload},format=raw,if=virtio,readonly=on
-netdev tap,id=net,ifname={port},script=no,downscript=no
-device virtio-net-pci,netdev=net,mac=02:00:00:00:01:{number:02x}
-device virtio-rng-pci
-device virtio-serial-pci
-chardev socket,id=shell,path={here}/shell,server=on,wait=off
-device virtserialport,chardev=shell,name=shell
-serial file:{here}/console
-qmp unix:{here}/qmp,server=on,wait=off
-gdb unix:{here}/gdb,server=on,wait=off
-device i6300esb
-action watchdog=reset"
    );
    let arguments = lines.lines().flat_map(|line| line.splitn(2, ' ').map(str::to_owned));
    arguments.chain(["-append".to_owned(), kernel]).collect()
}

/// KVM where it boots a kernel, else software emulation. A /dev/kvm may be there and not work.
fn accelerator(image: &Path) -> &'static str {
    static FOUND: OnceLock<&str> = OnceLock::new();
    FOUND.get_or_init(|| {
        let found = if boots_with_kvm(image) { "kvm" } else { "tcg" };
        println!("virtual machines: accel={found}");
        found
    })
}

/// A kernel without a root file system says so and panics, and the machine ends at the reset that
/// follows.
fn boots_with_kvm(image: &Path) -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let kernel = image.join("vmlinuz").display().to_string();
    let line = "10 qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -m 256 \
                -machine pc,accel=kvm -cpu max -serial stdio -append";
    let output = Command::new("timeout")
        .args(line.split_whitespace())
        .args(["console=ttyS0 quiet panic=-1", "-kernel", &kernel])
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("Kernel panic"))
}
