//! dsn and query: PostgreSQL of a member.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use postgres::types::Type;
use postgres::{Client, Config, SimpleQueryMessage};
use serde_json::{Map, Value, json};

use crate::api::cluster::address;
use crate::api::json;
use crate::config::to_yaml;
use crate::core::cluster::{Cluster, Member};
use crate::postgres::tls::Terms;

use super::args::{Dsn, Query, Role};
use super::output::{Format, separated, text_rows};
use super::schedule;
use super::selection;
use super::session::Session;
use super::table::Table;
use super::{Failure, pgpass};

const CONNECT_MAX: Duration = Duration::from_secs(5);

/// `dsn`.
pub fn dsn(session: &mut Session, options: &Dsn) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    exclusive(options.role, options.member.as_deref())?;
    let cluster = session.read(&name)?;
    let member = suitable(&cluster, options.role, options.member.as_deref());
    let endpoint = member.and_then(|member| address(&member.conn_url));
    let Some((host, port)) = endpoint else {
        return Err(Failure::message("Can not find a suitable member"));
    };
    session.console.say(&format!("host={} port={}", host.to_lowercase(), port.unwrap_or(5432)))
}

fn exclusive(role: Option<Role>, member: Option<&str>) -> Result<(), Failure> {
    if role.is_some() && member.is_some() {
        return Err(Failure::message("--role and --member are mutually exclusive options"));
    }
    Ok(())
}

/// The first member with this name or role; the leader if neither is given.
fn suitable<'a>(
    cluster: &'a Cluster,
    role: Option<Role>,
    member: Option<&str>,
) -> Option<&'a Member> {
    let default = if member.is_some() { Role::Any } else { Role::Leader };
    let mut members = selection::with_role(cluster, role.unwrap_or(default)).into_iter();
    members.find(|m| member.is_none_or(|name| m.name == name))
}

/// What came back: rows with their columns, or one line for people (no columns).
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    columns: Option<Vec<String>>,
    rows: Vec<Vec<Value>>,
}

impl Outcome {
    fn line(message: String) -> Outcome {
        Outcome { columns: None, rows: vec![vec![json!(schedule::now()), json!(message)]] }
    }

    fn render(&self, format: Format, delimiter: &str) -> String {
        let rows = text_rows(&self.rows);
        match (format, &self.columns) {
            (Format::Pretty, columns) => {
                let heads: Option<Vec<(String, bool)>> = columns
                    .as_ref()
                    .map(|names| names.iter().map(|name| (name.clone(), false)).collect());
                Table { title: None, heads: heads.as_deref(), rows: &rows }.render()
            }
            (Format::Json, Some(columns)) => {
                format!("{}\n", json::python(&objects(columns, &self.rows)))
            }
            (Format::Yaml | Format::Yml, Some(columns)) => {
                format!("{}\n", to_yaml(&objects(columns, &self.rows)))
            }
            (_, columns) => separated(columns.clone(), &rows, delimiter),
        }
    }
}

fn objects(columns: &[String], rows: &[Vec<Value>]) -> Value {
    let object = |row: &Vec<Value>| {
        let fields: Map<String, Value> = columns.iter().cloned().zip(row.clone()).collect();
        Value::Object(fields)
    };
    Value::Array(rows.iter().map(object).collect())
}

/// `query`.
pub fn query(session: &mut Session, options: &Query) -> Result<(), Failure> {
    let name = session.scope(options.cluster.as_deref())?;
    exclusive(options.role, options.member.as_deref())?;
    let sql = match (&options.command, &options.file) {
        (Some(_), Some(_)) => {
            return Err(Failure::message("--file and --command are mutually exclusive options"));
        }
        (None, None) => {
            return Err(Failure::message("You need to specify either --command or --file"));
        }
        (Some(command), None) => command.clone(),
        (None, Some(file)) if file.as_os_str() == "-" => {
            session.console.rest().map_err(|error| Failure::Message(format!("-: {error}")))?
        }
        (None, Some(file)) => fs::read_to_string(file)
            .map_err(|error| Failure::Message(format!("{}: {error}", file.display())))?,
    };
    let password = if options.password { Some(session.console.secret("Password")?) } else { None };
    let interval = options.watch.interval()?;
    let mut client = None;
    loop {
        if client.is_none() {
            let cluster = session.read(&name)?;
            client = connect(&cluster, options, password.as_deref());
        }
        let outcome = match &mut client {
            Some(client) => run(client, &sql),
            None => Outcome::line(unavailable(options)),
        };
        if client.as_ref().is_some_and(Client::is_closed) {
            client = None;
        }
        session.console.print(&outcome.render(options.format, &options.delimiter))?;
        match interval {
            Some(interval) => thread::sleep(interval),
            None => return Ok(()),
        }
    }
}

fn unavailable(options: &Query) -> String {
    match (&options.member, options.role) {
        (Some(member), _) => format!("No connection to member {member} is available"),
        (None, role) => {
            let role = role.unwrap_or(Role::Leader).word();
            format!("No connection to role {role} is available")
        }
    }
}

/// A connection to a member that is what was asked for; why there is none goes to standard error.
fn connect(cluster: &Cluster, options: &Query, password: Option<&str>) -> Option<Client> {
    let member = suitable(cluster, options.role, options.member.as_deref())?;
    let warn = |why: String| eprintln!("warning: member {}: {why}", member.name);
    let (host, port) = address(&member.conn_url)?;
    let port = port.unwrap_or(5432);
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let user = options.username.clone().or_else(|| variable("PGUSER")).or_else(os_user)?;
    let database = options.dbname.clone().or_else(|| database(&member.conn_url));
    let database = database.or_else(|| variable("PGDATABASE")).unwrap_or_else(|| user.clone());
    let mut config = Config::new();
    config.host(host).port(port).user(&user).dbname(&database);
    config.application_name("Patroni ctl").connect_timeout(CONNECT_MAX);
    let password = password.map(str::to_owned).or_else(|| variable("PGPASSWORD"));
    let entry = pgpass::Wanted { host, port, database: &database, user: &user };
    if let Some(password) = password.or_else(|| pgpass::find(&pgpass_file()?, &entry)) {
        config.password(password);
    }
    let given = libpq_options();
    let terms = Terms::new(host, &given);
    config.ssl_mode(terms.mode());
    config.channel_binding(terms.binding()).ssl_negotiation(terms.negotiation());
    let connector = terms.connector().map_err(|error| warn(error.to_string())).ok()?;
    let mut client = config.connect(connector).map_err(|error| warn(cause(&error))).ok()?;
    let row = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]);
    let in_recovery: bool = row.and_then(|row| row.try_get(0)).map_err(|e| warn(cause(&e))).ok()?;
    let fits = match options.role {
        Some(Role::Primary) => !in_recovery,
        Some(Role::Replica | Role::Standby | Role::StandbyLeader) => in_recovery,
        Some(Role::Leader | Role::Any) | None => true,
    };
    if !fits {
        let mode = if in_recovery { "in recovery" } else { "not in recovery" };
        warn(format!("is {mode}"));
    }
    fits.then_some(client)
}

/// The error with what lies behind it: postgres's own text is only its kind.
fn cause(error: &postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What the environment tells libpq of TLS. Source: PostgreSQL's documentation, "Environment
/// Variables".
fn libpq_options() -> BTreeMap<String, String> {
    let known = [
        ("sslmode", "PGSSLMODE"),
        ("sslrootcert", "PGSSLROOTCERT"),
        ("sslcert", "PGSSLCERT"),
        ("sslkey", "PGSSLKEY"),
        ("channel_binding", "PGCHANNELBINDING"),
        ("sslnegotiation", "PGSSLNEGOTIATION"),
    ];
    let given = |(option, variable): (&str, &str)| {
        Some((option.to_owned(), env::var(variable).ok().filter(|value| !value.is_empty())?))
    };
    known.into_iter().filter_map(given).collect()
}

fn os_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()?.map(|user| user.name)
}

fn database(conn_url: &str) -> Option<String> {
    let path = conn_url.split_once("://")?.1.split_once('/')?.1;
    let name = path.split(['?', '#']).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn pgpass_file() -> Option<PathBuf> {
    match env::var_os("PGPASSFILE") {
        Some(file) => Some(file.into()),
        None => Some(PathBuf::from(env::var_os("HOME")?).join(".pgpass")),
    }
}

/// Runs the commands; the result is that of the last one, as with Python's driver.
fn run(client: &mut Client, sql: &str) -> Outcome {
    // Texts arrive without types. Types are known for a single command only: several together
    // cannot be prepared, and then everything is shown as text.
    let types: Option<Vec<Type>> = client
        .prepare(sql)
        .ok()
        .map(|statement| statement.columns().iter().map(|c| c.type_().clone()).collect());
    let messages = match client.simple_query(sql) {
        Ok(messages) => messages,
        Err(error) => {
            return Outcome::line(match error.code() {
                Some(state) => format!("ERROR, SQLSTATE: {}", state.code()),
                None => cause(&error),
            });
        }
    };
    let mut outcome = Outcome::default();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                let names = columns.iter().map(|column| column.name().to_owned()).collect();
                outcome = Outcome { columns: Some(names), rows: Vec::new() };
            }
            SimpleQueryMessage::Row(row) => {
                let cell = |i| {
                    let type_ = types.as_ref().and_then(|types| types.get(i));
                    row.get(i).map_or(Value::Null, |text| value(text, type_))
                };
                outcome.rows.push((0..row.len()).map(cell).collect());
            }
            _ => {}
        }
    }
    outcome
}

/// A text of PostgreSQL as Python's driver understands it.
fn value(text: &str, type_: Option<&Type>) -> Value {
    match type_ {
        Some(t) if *t == Type::BOOL => json!(text == "t"),
        Some(t) if [Type::INT2, Type::INT4, Type::INT8, Type::OID].contains(t) => {
            text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
        }
        Some(t) if [Type::FLOAT4, Type::FLOAT8].contains(t) => {
            text.parse::<f64>().map_or_else(|_| json!(text), |number| json!(number))
        }
        Some(t) if [Type::JSON, Type::JSONB].contains(t) => {
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        }
        // Python writes the minutes of an offset that PostgreSQL leaves out.
        Some(t) if *t == Type::TIMESTAMPTZ && text.rfind(['+', '-']) == Some(text.len() - 3) => {
            json!(format!("{text}:00"))
        }
        _ => json!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_captured_results() {
        let outcome = Outcome {
            columns: Some(["a", "b", "c"].map(str::to_owned).to_vec()),
            rows: vec![vec![json!(1), Value::Null, json!(true)]],
        };
        assert_eq!(outcome.render(Format::Tsv, "\t"), "a\tb\tc\n1\tNone\tTrue\n");
        assert_eq!(outcome.render(Format::Json, "\t"), "[{\"a\": 1, \"b\": null, \"c\": true}]\n");
        assert_eq!(
            outcome.render(Format::Pretty, "\t"),
            "+---+------+------+\n| a | b    | c    |\n+---+------+------+\n\
             | 1 | None | True |\n+---+------+------+\n"
        );
        assert_eq!(outcome.render(Format::Yaml, "\t"), "- a: 1\n  b: null\n  c: true\n\n");
        let line = Outcome::line("ERROR, SQLSTATE: 42703".to_owned()).render(Format::Json, "\t");
        assert_eq!(line.split_once('\t').unwrap().1, "ERROR, SQLSTATE: 42703\n");
    }

    #[test]
    fn values_are_pythons() {
        let cases = [
            ("t", Some(Type::BOOL), json!(true)),
            ("42", Some(Type::INT8), json!(42)),
            ("1", Some(Type::FLOAT8), json!(1.0)),
            ("NaN", Some(Type::NUMERIC), json!("NaN")),
            ("{\"a\": 1}", Some(Type::JSONB), json!({"a": 1})),
            ("2026-11-21 10:20:36+00", Some(Type::TIMESTAMPTZ), json!("2026-11-21 10:20:36+00:00")),
            (
                "2026-11-21 10:20:36+03:30",
                Some(Type::TIMESTAMPTZ),
                json!("2026-11-21 10:20:36+03:30"),
            ),
            ("t", None, json!("t")),
        ];
        for (text, type_, expected) in cases {
            assert_eq!(value(text, type_.as_ref()), expected, "{text}");
        }
    }
}
