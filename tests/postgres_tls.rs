//! Sessions with a real server that demands TLS, or refuses it, by libpq's options.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use pgvigil::postgres::session::{Session, SessionError, Target};

use crate::lab::process::signal;
use crate::lab::wait::wait_until;
use crate::rig::{as_postgres, bin_dir, free_port, make_directory, output};

/// libpq's options; a value with a dot is a file of the server's directory.
type Options = [(&'static str, &'static str)];

const WITHIN: Duration = Duration::from_secs(10);
const HBA: &str = "local all all trust
hostssl all strict 127.0.0.1/32 scram-sha-256
hostnossl all plain 127.0.0.1/32 trust
hostssl all named 127.0.0.1/32 cert
";
const ROLES: &str = "CREATE ROLE strict LOGIN PASSWORD 'secret'; CREATE ROLE plain LOGIN; \
                     CREATE ROLE named LOGIN";

struct Server {
    directory: std::path::PathBuf,
    port: u16,
    child: Child,
    _base: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(self.child.id() as i32, Signal::SIGQUIT);
        let _ = self.child.wait();
    }
}

fn run(command: &[&str]) {
    let (code, text) = output(&mut as_postgres(command));
    assert_eq!(code, Some(0), "{command:?}: {text}");
}

/// What administrators make with one command: it says CA:TRUE and signs itself.
fn certificate(directory: &Path, name: &str) {
    let file = |ending: &str| directory.join(format!("{name}.{ending}")).display().to_string();
    let (key, crt, subject) = (file("key"), file("crt"), format!("/CN={name}"));
    let arguments = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -addext";
    let mut command: Vec<&str> = arguments.split(' ').collect();
    command.extend(["subjectAltName=IP:127.0.0.1", "-subj", &subject]);
    command.extend(["-keyout", &key, "-out", &crt]);
    run(&command);
}

impl Server {
    fn start() -> Server {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        let base = tempfile::Builder::new().permissions(mode).tempdir_in("/var/tmp").unwrap();
        let directory = base.path().join("server");
        make_directory(&directory);
        let (data, place) = (directory.join("data"), directory.display().to_string());
        let data_dir = data.display().to_string();
        run(&[&format!("{}/initdb", bin_dir()), "-N", "-A", "trust", "-D", &data_dir]);
        certificate(&directory, "db");
        certificate(&directory, "named");
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let port = free_port();
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={place}"),
            format!("port={port}"),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={place}/db.crt"),
            format!("ssl_key_file={place}/db.key"),
            format!("ssl_ca_file={place}/named.crt"),
        ];
        let postgres = format!("{}/postgres", bin_dir());
        let mut command = vec![postgres.as_str(), "-D", &data_dir];
        command.extend(settings.iter().flat_map(|setting| ["-c", setting]));
        let mut command = as_postgres(&command);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { directory, port, child, _base: base };
        let psql = [format!("{}/psql", bin_dir()), port.to_string()];
        wait_until("the server", WITHIN, || {
            let command = [&psql[0], "-h", &place, "-p", &psql[1], "-XAtc", ROLES, "postgres"];
            (output(&mut as_postgres(&command)).0 == Some(0)).then_some(())
        });
        server
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn connect(&self, user: &str, options: &Options) -> Result<Session, SessionError> {
        let options = options.iter().map(|(name, value)| {
            let value = if value.contains('.') { self.file(value) } else { (*value).to_owned() };
            ((*name).to_owned(), value)
        });
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: user.to_owned(),
            password: Some("secret".to_owned()),
            database: "postgres".to_owned(),
            statement_timeout: WITHIN,
            options: options.collect::<BTreeMap<_, _>>(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Session::connect(&target, WITHIN))
    }
}

#[test]
fn sessions_use_tls_as_libpq_would() {
    let server = Server::start();
    let bound = [("channel_binding", "require"), ("sslmode", "require")];
    let full = [("sslmode", "verify-full"), ("sslrootcert", "db.crt")];
    let known = [("sslcert", "named.crt"), ("sslkey", "named.key")];
    let direct_is_newer = [("sslmode", "prefer"), ("sslnegotiation", "direct")];
    let cases: [(&str, &Options); 6] = [
        ("strict", &[]),
        ("strict", &bound),
        ("strict", &full),
        ("strict", &direct_is_newer),
        ("plain", &[]),
        ("named", &known),
    ];
    for (user, options) in cases {
        let session = server.connect(user, options);
        assert!(session.is_ok(), "{user} {options:?}: {:?}", session.err());
    }
    let no_rule = "no pg_hba.conf entry";
    let wrong = [("sslmode", "verify-ca"), ("sslrootcert", "named.crt")];
    let prefers = [("sslrootcert", "named.crt")];
    let missing = [("sslmode", "verify-full"), ("sslrootcert", "none.crt")];
    let refused: [(&str, &Options, &str); 6] = [
        ("strict", &[("sslmode", "disable")], no_rule),
        ("plain", &[("sslmode", "require")], no_rule),
        ("strict", &wrong, "certificate"),
        ("strict", &prefers, "certificate"),
        ("strict", &missing, "sslrootcert: "),
        ("named", &[], "connection requires a valid client certificate"),
    ];
    for (user, options, reason) in refused {
        let error = server.connect(user, options).err().expect("a refusal").to_string();
        assert!(error.contains(reason), "{user} {options:?}: {error}");
    }
}
