//! A real etcd on free loopback ports in a directory of its own, for as long as a value lives.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::rig::free_port;

/// A cluster of etcd members, killed and removed on drop.
pub struct Etcd {
    members: Vec<Member>,
    arguments: Vec<Vec<String>>,
    directory: TempDir,
    tls: Option<Tls>,
}

/// Paths of an authority's certificate, and of a certificate and its key for servers and clients.
pub struct Tls {
    pub cacert: String,
    pub cert: String,
    pub key: String,
}

struct Member {
    url: String,
    process: Option<Child>,
}

impl Etcd {
    /// Starts the members and waits until they have a leader.
    pub fn start(size: usize) -> Etcd {
        Etcd::start_in(size, directory(), None)
    }

    /// Starts a single member that speaks TLS and asks its clients for certificates.
    pub fn start_with_tls() -> Etcd {
        let directory = directory();
        let tls = certificates(&directory);
        Etcd::start_in(1, directory, Some(tls))
    }

    fn start_in(size: usize, directory: TempDir, tls: Option<Tls>) -> Etcd {
        let ports: Vec<u16> = (0..size * 2).map(|_| free_port()).collect();
        let (clients, peers) = ports.split_at(size);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client = |n: usize| format!("{scheme}://127.0.0.1:{}", clients[n]);
        let peer = |n: usize| format!("http://127.0.0.1:{}", peers[n]);
        let all: Vec<String> = (0..size).map(|n| format!("m{n}={}", peer(n))).collect();
        let arguments = |n: usize| {
            let mut arguments = vec![
                format!("--name=m{n}"),
                format!("--data-dir={}", directory.path().join(format!("m{n}")).display()),
                format!("--listen-client-urls={}", client(n)),
                format!("--advertise-client-urls={}", client(n)),
                format!("--listen-peer-urls={}", peer(n)),
                format!("--initial-advertise-peer-urls={}", peer(n)),
                format!("--initial-cluster={}", all.join(",")),
                format!("--initial-cluster-token=test-{}", clients[0]),
                "--logger=zap".into(),
                "--log-level=error".into(),
            ];
            if let Some(tls) = &tls {
                arguments.push("--client-cert-auth=true".into());
                arguments.push(format!("--trusted-ca-file={}", tls.cacert));
                arguments.push(format!("--cert-file={}", tls.cert));
                arguments.push(format!("--key-file={}", tls.key));
            }
            arguments
        };
        let members = (0..size).map(|n| Member { url: client(n), process: None }).collect();
        let arguments = (0..size).map(arguments).collect();
        let mut etcd = Etcd { members, arguments, directory, tls };
        (0..size).for_each(|n| etcd.start_member(n));
        etcd.wait_for_leader();
        etcd
    }

    /// The files of a member that speaks TLS.
    pub fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("started with TLS")
    }

    /// Client URLs of all members.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    /// Where the members speak to each other.
    pub fn peers(&self) -> Vec<String> {
        let option = "--listen-peer-urls=";
        let words = self.arguments.iter().flatten();
        words.filter_map(|word| word.strip_prefix(option)).map(str::to_owned).collect()
    }

    /// Starts a member that was killed, on its old data.
    pub fn start_member(&mut self, n: usize) {
        let log = self.directory.path().join(format!("m{n}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let process = Command::new("etcd")
            .args(&self.arguments[n])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("etcd starts (Debian: apt install etcd-server)");
        self.members[n].process = Some(process);
    }

    /// SIGKILL.
    pub fn kill_member(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            process.kill().expect("SIGKILL");
            process.wait().expect("an exit");
        }
    }

    /// SIGSTOP: the member keeps its connections and says nothing.
    pub fn stop_member(&self, n: usize) {
        self.signal(n, Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn continue_member(&self, n: usize) {
        self.signal(n, Signal::SIGCONT);
    }

    fn signal(&self, n: usize, signal: Signal) {
        let process = self.members[n].process.as_ref().expect("a running member");
        kill(Pid::from_raw(process.id().try_into().expect("a pid")), signal).expect("a signal");
    }

    /// What `etcdctl` prints, trimmed, or its complaint.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        self.etcdctl_at(&self.urls().join(","), arguments)
    }

    fn etcdctl_at(&self, endpoints: &str, arguments: &[&str]) -> Result<String, String> {
        let files = self.tls.iter().flat_map(|tls| {
            [("--cacert", &tls.cacert), ("--cert", &tls.cert), ("--key", &tls.key)]
        });
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(files.map(|(name, path)| format!("{name}={path}")))
            .args(["--dial-timeout=1s", "--command-timeout=2s", "--endpoints", endpoints])
            .args(arguments)
            .output()
            .expect("etcdctl runs (Debian: apt install etcd-client)");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_string();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// The member that leads, waited for.
    pub fn leader(&self) -> usize {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(leader) = (0..self.members.len()).find(|&n| self.leads(n)) {
                return leader;
            }
            assert!(Instant::now() < patience, "etcd elects no leader");
        }
    }

    fn leads(&self, n: usize) -> bool {
        let arguments = ["endpoint", "status", "-w", "fields"];
        let status = self.etcdctl_at(&self.members[n].url, &arguments).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split(" : ").nth(1)).map(str::to_string)
        };
        let leader = field("\"Leader\"");
        leader.is_some() && leader == field("\"MemberID\"")
    }

    fn wait_for_leader(&self) {
        let patience = Instant::now() + Duration::from_secs(60);
        while let Err(complaint) = self.etcdctl(&["get", "any"]) {
            assert!(Instant::now() < patience, "etcd does not come up: {complaint}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

fn directory() -> TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a directory in /var/tmp")
}

/// An authority, and a certificate signed by it for 127.0.0.1.
fn certificates(directory: &TempDir) -> Tls {
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    let (cacert, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let new = "req -new -newkey rsa:2048 -nodes -subj";
    openssl(&format!("{new} /CN=authority -x509 -days 2 -out {cacert} -keyout {}", path("ca.key")));
    openssl(&format!("{new} /CN=etcd -out {} -keyout {key}", path("request")));
    openssl(&format!(
        "x509 -req -in {} -CA {cacert} -CAkey {} -CAcreateserial -days 1 -extfile {} -out {cert}",
        path("request"),
        path("ca.key"),
        path("names")
    ));
    Tls { cacert, cert, key }
}

fn openssl(command: &str) {
    let output = Command::new("openssl").args(command.split(' ')).output();
    let output = output.expect("openssl runs (Debian: apt install openssl)");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
