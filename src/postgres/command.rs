//! Command lines of PostgreSQL's programs. Nothing is run here: the supervisor executes them as
//! they are, without a shell, standard input from /dev/null. Passwords never stand in an
//! argument: connection strings name a passfile.

fn option(name: &str, value: &str) -> String {
    format!("--{name}={value}")
}

/// What the postmaster is started with, beside its configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postmaster<'a> {
    pub postgres: &'a str,
    pub data_dir: &'a str,
    /// Absolute path of postgresql.conf.
    pub config_file: &'a str,
    /// Where it listens, its cluster's name, and what the whole cluster must agree on, in Patroni's
    /// order. Command line beats files, so nobody can change them for one member.
    pub controlled: &'a [(String, String)],
}

/// The server, in Patroni's order of arguments.
pub fn postmaster(server: &Postmaster) -> Vec<String> {
    let mut argv = vec![
        server.postgres.to_owned(),
        "-D".to_owned(),
        server.data_dir.to_owned(),
        option("config-file", server.config_file),
    ];
    argv.extend(server.controlled.iter().map(|(name, value)| option(name, value)));
    argv
}

/// A new cluster. `options` are ready (`--encoding=UTF8`); `password_file` holds the password of
/// `username` in its first line.
pub fn initdb(
    initdb: &str,
    data_dir: &str,
    options: &[String],
    username: Option<&str>,
    password_file: Option<&str>,
) -> Vec<String> {
    let mut argv = vec![initdb.to_owned(), option("pgdata", data_dir)];
    argv.extend_from_slice(options);
    argv.extend(username.map(|name| option("username", name)));
    argv.extend(password_file.map(|path| option("pwfile", path)));
    argv
}

/// A copy of a running server into an empty directory.
pub fn pg_basebackup(
    pg_basebackup: &str,
    data_dir: &str,
    conninfo: &str,
    options: &[String],
) -> Vec<String> {
    let mut argv = vec![
        pg_basebackup.to_owned(),
        option("pgdata", data_dir),
        "-X".to_owned(),
        "stream".to_owned(),
        option("dbname", conninfo),
    ];
    argv.extend_from_slice(options);
    argv
}

/// How to rewind a stopped data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind<'a> {
    pub pg_rewind: &'a str,
    pub data_dir: &'a str,
    /// The leader, as a role that may read its files.
    pub source_conninfo: &'a str,
    /// WAL that is missing here comes from the archive (needs a `restore_command`).
    pub restore_target_wal: bool,
    /// Where postgresql.conf is, if not in the data directory (PostgreSQL 15 and later).
    pub config_file: Option<&'a str>,
    pub options: &'a [String],
}

/// Bring a diverged data directory back into the leader's history.
pub fn pg_rewind(rewind: &Rewind) -> Vec<String> {
    let mut argv = vec![
        rewind.pg_rewind.to_owned(),
        option("target-pgdata", rewind.data_dir),
        option("source-server", rewind.source_conninfo),
    ];
    if rewind.restore_target_wal {
        argv.push("--restore-target-wal".to_owned());
    }
    argv.extend(rewind.config_file.map(|path| option("config-file", path)));
    argv.extend_from_slice(rewind.options);
    argv
}

/// Promote a standby; does not wait for the end of recovery.
pub fn promote(pg_ctl: &str, data_dir: &str) -> Vec<String> {
    [pg_ctl, "promote", "-D", data_dir, "--no-wait"].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(argv: &[String]) -> String {
        argv.join(" ")
    }

    #[test]
    fn server_is_started_as_patroni_does() {
        let controlled =
            [("listen_addresses", "127.0.0.1"), ("port", "5432"), ("wal_level", "logical")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let argv = postmaster(&Postmaster {
            postgres: "postgres",
            data_dir: "/d",
            config_file: "/d/postgresql.conf",
            controlled: &controlled,
        });
        assert_eq!(
            text(&argv),
            "postgres -D /d --config-file=/d/postgresql.conf --listen_addresses=127.0.0.1 \
             --port=5432 --wal_level=logical"
        );
    }

    #[test]
    fn other_programs() {
        let options = ["--max-rate=100M".to_owned()];
        assert_eq!(
            text(&pg_basebackup("pg_basebackup", "/d", "host=a b", &options)),
            "pg_basebackup --pgdata=/d -X stream --dbname=host=a b --max-rate=100M"
        );
        assert_eq!(
            text(&initdb("initdb", "/d", &["--data-checksums".into()], Some("su"), Some("/p"))),
            "initdb --pgdata=/d --data-checksums --username=su --pwfile=/p"
        );
        let rewind = Rewind {
            pg_rewind: "pg_rewind",
            data_dir: "/d",
            source_conninfo: "host=a",
            restore_target_wal: true,
            config_file: Some("/c/postgresql.conf"),
            options: &["--debug".to_owned()],
        };
        assert_eq!(
            text(&pg_rewind(&rewind)),
            "pg_rewind --target-pgdata=/d --source-server=host=a --restore-target-wal \
             --config-file=/c/postgresql.conf --debug"
        );
        assert_eq!(text(&promote("pg_ctl", "/d")), "pg_ctl promote -D /d --no-wait");
    }
}
