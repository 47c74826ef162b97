//! A volume of its own for a member's data: a file system in a file, which can be made to hang, to
//! fill up, and to turn read-only by the kernel's own doing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{make_directory, owner_of_postgres};

/// Sparse: only what is written takes room.
const SIZE: &str = "700M";

pub struct Volume {
    image: PathBuf,
    place: PathBuf,
}

impl Volume {
    pub fn new(directory: &Path, name: &str) -> Volume {
        let image = directory.join(format!("{name}.img"));
        let volume = Volume { image, place: directory.join(name) };
        make_directory(&volume.place);
        run("truncate", &["--size", SIZE, text(&volume.image)]);
        run("mkfs.ext4", &["-q", "-m", "0", text(&volume.image)]);
        volume.mount();
        owner_of_postgres(&volume.place);
        volume
    }

    pub fn place(&self) -> &Path {
        &self.place
    }

    fn mount(&self) {
        let options = "loop,errors=remount-ro";
        run("mount", &["-o", options, text(&self.image), text(&self.place)]);
    }

    /// Every write and sync waits from here on, in state D.
    pub fn hang(&self) {
        run("fsfreeze", &["--freeze", text(&self.place)]);
    }

    pub fn go_on(&self) {
        run("fsfreeze", &["--unfreeze", text(&self.place)]);
    }

    /// The same where it may not hang at all.
    pub fn calm(&self) {
        let _ = Command::new("fsfreeze").args(["--unfreeze", text(&self.place)]).output();
    }

    /// Takes all the room but for a few blocks.
    pub fn fill(&self) {
        let output = Command::new("df").args(["--output=avail", text(&self.place)]).output();
        let output = String::from_utf8_lossy(&output.expect("df").stdout).into_owned();
        let free = output.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
        let kib = free.expect("a number of KiB").saturating_sub(64).to_string() + "K";
        run("fallocate", &["--length", &kib, text(&self.place.join("filler"))]);
    }

    pub fn empty(&self) {
        fs::remove_file(self.place.join("filler")).expect("the filler");
    }

    /// What ext4 does on finding its own metadata damaged.
    pub fn damage(&self) {
        let output = Command::new("findmnt").args(["-no", "SOURCE", text(&self.place)]).output();
        let output = output.expect("findmnt").stdout;
        let source = String::from_utf8_lossy(&output).trim().to_owned();
        let name = source.rsplit('/').next().unwrap_or_default();
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        fs::write(&trigger, "a test").unwrap_or_else(|e| panic!("{trigger}: {e}"));
    }

    /// As an administrator would, once nobody uses it.
    pub fn repair(&self) {
        run("umount", &[text(&self.place)]);
        // 1: errors were corrected.
        let status = Command::new("e2fsck").args(["-fy", text(&self.image)]).output();
        let status = status.expect("e2fsck").status;
        assert!(status.code().is_some_and(|code| code <= 1), "e2fsck: {status}");
        self.mount();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        release(&self.place);
    }
}

/// Unmounts what is mounted at or below a directory, hung or not.
pub fn release(directory: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.filter(|place| Path::new(place).starts_with(directory)) {
        // It fails where nothing hangs.
        let _ = Command::new("fsfreeze").args(["--unfreeze", place]).output();
        run("umount", &["--lazy", place]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), error.trim());
}

/// Why no such volume can be made here.
pub fn impossible() -> Option<String> {
    let needed = ["mkfs.ext4", "mount", "fsfreeze", "fallocate", "findmnt", "e2fsck"];
    let there = |name: &&str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|d| Path::new(d).join(name).exists())
    };
    if let Some(missing) = needed.iter().find(|name| !there(name)) {
        return Some(format!("there is no {missing}"));
    }
    (!Path::new("/dev/loop-control").exists()).then(|| "there are no loop devices".to_owned())
}
