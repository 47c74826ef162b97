//! The members of the etcd cluster.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::net::{Host, Network};
use super::{http, make_directory, run_as_postgres};

pub struct Etcd {
    number: u8,
    of: u8,
    directory: PathBuf,
    namespace: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    pub fn new(number: u8, of: u8, base: &std::path::Path, network: &Network) -> Etcd {
        let directory = base.join(format!("etcd{number}"));
        make_directory(&directory);
        let namespace = network.path(Host::Etcd(number));
        Etcd { number, of, directory, namespace, child: None }
    }

    pub fn name(&self) -> String {
        Host::Etcd(self.number).to_string()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// Starts it, or starts it again with what it had on disk.
    pub fn start(&mut self) {
        let url = |n: u8, port: u16| format!("http://{}", Host::Etcd(n).socket(port));
        let all: Vec<String> =
            (1..=self.of).map(|n| format!("{}={}", Host::Etcd(n), url(n, 2380))).collect();
        let arguments = [
            ("name", self.name()),
            ("data-dir", self.directory.display().to_string()),
            ("listen-peer-urls", url(self.number, 2380)),
            ("initial-advertise-peer-urls", url(self.number, 2380)),
            ("listen-client-urls", url(self.number, 2379)),
            ("advertise-client-urls", url(self.number, 2379)),
            ("initial-cluster", all.join(",")),
            ("initial-cluster-token", "lab".to_owned()),
        ];
        let mut command = vec!["etcd".to_owned()];
        command.extend(arguments.map(|(name, value)| format!("--{name}={value}")));
        let log = File::options().create(true).append(true).open(self.log_file());
        let mut command = run_as_postgres(&self.namespace, None, &command);
        let command =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("log file"));
        self.child = Some(command.spawn().expect("etcd (Debian: etcd-server)"));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a running etcd");
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
    }

    /// Whether this one leads the Raft group; `None`: no answer, or no leader is known.
    pub fn leads(&self, network: &Network) -> Option<bool> {
        let server = Host::Etcd(self.number).socket(2379);
        let ask = || {
            let path = "/v3/maintenance/status";
            http::request(server, "POST", path, "{}", Duration::from_secs(1)).ok()
        };
        let status = network.at(Host::Client, ask)?.json();
        let leader = status["leader"].as_str()?;
        (leader != "0").then(|| status["header"]["member_id"].as_str() == Some(leader))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
