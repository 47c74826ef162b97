//! What a running PostgreSQL tells of itself.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use postgres::{Client, Config, NoTls};

use super::super::Failure;
use super::draft::{Draft, Login};

const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Where things are, and who asks.
const PLACES: &str = "select current_setting('data_directory'), current_setting('config_file'), \
                      current_setting('port')::int4, current_setting('server_version_num')::int4, \
                      current_user::text, current_setting('cluster_name')";

/// What was set on purpose, but for what pgvigil sets itself.
const PARAMETERS: &str = "select name, current_setting(name) from pg_settings \
     where source in ('configuration file', 'command line', 'environment variable') \
     and name not in ('listen_addresses', 'port', 'cluster_name', 'data_directory', 'hba_file', \
     'ident_file', 'config_file', 'external_pid_file', 'primary_conninfo', 'primary_slot_name', \
     'synchronous_standby_names', 'hot_standby', 'transaction_read_only')";

/// pg_hba.conf and pg_ident.conf as the server reads them.
const FILES: &str = "select pg_read_file(current_setting('hba_file')), \
                     pg_read_file(current_setting('ident_file'))";

/// Fills in what the server at this connection string (or URL) says, without one the server that
/// libpq would find; its passwords nobody knows.
pub fn describe(dsn: Option<&str>, draft: Draft) -> Result<Draft, Failure> {
    let named = dsn.unwrap_or("no --dsn is given, and by the variables PG* or the usual socket");
    let failed = |error: postgres::Error| {
        let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
        Failure::message(format!("{named}: {error}{cause}"))
    };
    let mut config = dsn.map_or_else(|| Ok(nearest()), Config::from_str).map_err(failed)?;
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_MAX);
    }
    let password = config.get_password().map(|p| String::from_utf8_lossy(p).into_owned());
    let mut client = config.connect(NoTls).map_err(failed)?;
    let row = client.query_one(PLACES, &[]).map_err(failed)?;
    let (data_dir, config_file): (String, String) = (row.get(0), row.get(1));
    let (port, version): (i32, i32) = (row.get(2), row.get(3));
    let (user, cluster): (String, String) = (row.get(4), row.get(5));
    let config_dir = Path::new(&config_file).parent().map(|dir| dir.display().to_string());
    let mut draft = Draft {
        config_dir: config_dir.filter(|dir| *dir != data_dir),
        bin_dir: programs(version / 10_000).unwrap_or(draft.bin_dir),
        port: u16::try_from(port).unwrap_or(draft.port),
        superuser: Login {
            username: user,
            password: password.unwrap_or_else(|| "CHANGE ME".to_owned()),
        },
        data_dir,
        ..draft
    };
    // Debian's are called 15/main.
    if !cluster.is_empty() {
        draft.scope = cluster.replace('/', "-");
    }
    for login in [&mut draft.replication, &mut draft.rewind] {
        "CHANGE ME".clone_into(&mut login.password);
    }
    for row in client.query(PARAMETERS, &[]).map_err(failed)? {
        draft.parameters.insert(row.get(0), row.get(1));
    }
    (draft.pg_hba, draft.pg_ident) = rules(&mut client).map_err(failed)?;
    Ok(draft)
}

/// Where libpq looks for a server that is not named: the variables, else Debian's directory of
/// sockets and PostgreSQL's own.
fn nearest() -> Config {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let port = variable("PGPORT").and_then(|port| port.parse().ok()).unwrap_or(5432_u16);
    let places = ["/var/run/postgresql", "/tmp"].into_iter();
    let socket = |place: &&str| Path::new(place).join(format!(".s.PGSQL.{port}")).exists();
    let place = places.clone().find(socket).unwrap_or("localhost");
    let mut config = Config::new();
    config.host(&variable("PGHOST").unwrap_or_else(|| place.to_owned())).port(port);
    config.dbname(&variable("PGDATABASE").unwrap_or_else(|| "postgres".to_owned()));
    if let Some(user) = variable("PGUSER") {
        config.user(&user);
    }
    if let Some(password) = variable("PGPASSWORD") {
        config.password(password);
    }
    config
}

fn rules(client: &mut Client) -> Result<(Vec<String>, Vec<String>), postgres::Error> {
    let row = client.query_one(FILES, &[])?;
    let lines = |text: String| {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    };
    Ok((lines(row.get(0)), lines(row.get(1))))
}

/// Debian's or PGDG's place of this version, if it is there.
fn programs(major: i32) -> Option<String> {
    let places = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")];
    places.into_iter().find(|place| Path::new(place).join("postgres").exists())
}
