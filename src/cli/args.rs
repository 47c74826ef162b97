//! The command line: patronictl's commands and options. `click` parses it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::output::Format;

/// Command-line interface for interacting with Patroni and pgvigil clusters
#[derive(Debug, Parser)]
#[command(
    name = "pgvigilctl",
    disable_help_subcommand = true,
    subcommand_value_name = "COMMAND [ARGS]..."
)]
pub struct Options {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Default, Args)]
pub struct Global {
    /// Configuration of a member [default: PATRONICTL_CONFIG_FILE, else
    /// ~/.config/patroni/patronictl.yaml, else the variables PATRONI_*, else
    /// /etc/pgvigil/pgvigil.yml]
    #[arg(short, long, value_name = "TEXT")]
    pub config_file: Option<PathBuf>,
    /// Where etcd is, in place of the configuration's: etcd3://HOST:2379
    #[arg(short, long, alias = "dcs", value_name = "TEXT", allow_hyphen_values = true)]
    pub dcs_url: Option<String>,
    /// Allow connections to SSL sites without certs
    #[arg(short = 'k', long)]
    pub insecure: bool,
    /// Citus group
    #[arg(long, global = true, hide = true, value_name = "INTEGER")]
    pub group: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Demote cluster to a standby cluster
    DemoteCluster(DemoteCluster),
    /// Generate a dsn for the provided member, defaults to a dsn of the leader
    Dsn(Dsn),
    /// Edit cluster configuration
    EditConfig(EditConfig),
    /// Tell what a member decided last and why
    Explain(Members),
    /// Failover to a replica
    Failover(Failover),
    /// Discard scheduled events
    Flush(Flush),
    /// Show the history of failovers/switchovers
    History(History),
    /// List the members of a cluster, or of several
    List(List),
    /// Pause a cluster: nobody fails over, and what ends is not started again
    Pause(Pause),
    /// Promote cluster, make it run standalone
    PromoteCluster(PromoteCluster),
    /// Query the PostgreSQL of a member
    Query(Query),
    /// Reinitialize cluster member
    Reinit(Reinit),
    /// Reload cluster member configuration
    Reload(Reload),
    /// Remove what etcd knows of a cluster
    Remove(Remove),
    /// Restart cluster member
    Restart(Restart),
    /// End a pause
    Resume(Pause),
    /// Show cluster configuration
    ShowConfig(ShowConfig),
    /// Switchover to a replica
    Switchover(Switchover),
    /// Show who streams from whom
    Topology(Topology),
    /// Print the Patroni release that is offered, with CLUSTER_NAME also that of each member
    Version(Members),
}

/// `-r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Leader,
    Primary,
    StandbyLeader,
    Replica,
    Standby,
    Any,
}

impl Role {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Primary => "primary",
            Role::StandbyLeader => "standby-leader",
            Role::Replica => "replica",
            Role::Standby => "standby",
            Role::Any => "any",
        }
    }
}

#[derive(Debug, Default, Args)]
pub struct Watch {
    /// Auto update the screen every 2 seconds
    #[arg(short = 'W')]
    pub watch_2s: bool,
    /// Auto update the screen every X seconds
    #[arg(short = 'w', long = "watch", value_name = "FLOAT")]
    pub watch_secs: Option<f64>,
}

#[derive(Debug, Args)]
pub struct List {
    #[arg(value_name = "CLUSTER_NAMES")]
    pub clusters: Vec<String>,
    /// Show some extra information
    #[arg(short, long)]
    pub extended: bool,
    /// Print timestamp
    #[arg(short, long)]
    pub timestamp: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "pretty")]
    pub format: Format,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct Topology {
    #[arg(value_name = "CLUSTER_NAMES")]
    pub clusters: Vec<String>,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct History {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "pretty")]
    pub format: Format,
}

/// Some members, or all, of one cluster.
#[derive(Debug, Args)]
pub struct Members {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    #[arg(value_name = "MEMBER_NAMES")]
    pub members: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ShowConfig {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
}

#[derive(Debug, Args)]
pub struct EditConfig {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// Do not show changes
    #[arg(short, long)]
    pub quiet: bool,
    /// Set specific configuration value. Can be specified multiple times
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub set: Vec<String>,
    /// Set specific PostgreSQL parameter value. Shorthand for -s postgresql.parameters.
    /// Can be specified multiple times
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub pg: Vec<String>,
    /// Apply configuration from file. Use - for stdin.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub apply: Option<PathBuf>,
    /// Apply configuration from file, replacing existing configuration. Use - for stdin.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub replace: Option<PathBuf>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Switchover {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// The name of the current leader
    #[arg(long, visible_alias = "primary", value_name = "TEXT", allow_hyphen_values = true)]
    pub leader: Option<String>,
    /// The name of the candidate
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub candidate: Option<String>,
    /// Timestamp of a scheduled switchover in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub scheduled: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Failover {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// The name of the candidate
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub candidate: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Pause {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// Wait until it is applied on all nodes
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct DemoteCluster {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
    /// Address of the remote node
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub host: Option<String>,
    /// Port of the remote node
    #[arg(long, value_name = "INTEGER")]
    pub port: Option<u16>,
    /// Command to restore WAL records from the remote primary
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub restore_command: Option<String>,
    /// Name of the slot on the remote node to use for replication
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub primary_slot_name: Option<String>,
}

#[derive(Debug, Args)]
pub struct PromoteCluster {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Restart {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: String,
    #[arg(value_name = "MEMBER_NAMES")]
    pub members: Vec<String>,
    /// Restart only members with this role
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    /// Restart a single member only
    #[arg(long)]
    pub any: bool,
    /// Timestamp of a scheduled restart in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub scheduled: Option<String>,
    /// Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub pg_version: Option<String>,
    /// Restart if pending
    #[arg(long)]
    pub pending: bool,
    /// Return error and fail over if necessary when restarting takes longer than this.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub timeout: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Reload {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: String,
    #[arg(value_name = "MEMBER_NAMES")]
    pub members: Vec<String>,
    /// Reload only members with this role
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Reinit {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: String,
    #[arg(value_name = "MEMBER_NAMES")]
    pub members: Vec<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
    /// Get basebackup from leader
    #[arg(long)]
    pub from_leader: bool,
    /// Wait until reinitialization completes
    #[arg(long)]
    pub wait: bool,
}

/// What `flush` discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Event {
    Restart,
    Switchover,
}

#[derive(Debug, Args)]
pub struct Flush {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: String,
    #[arg(value_name = "MEMBER_NAMES")]
    pub members: Vec<String>,
    /// The last positional argument, which clap cannot tell from the names before it.
    #[arg(skip = Event::Restart)]
    pub target: Event,
    /// Flush only members with this role
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Query {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// Output format (pretty, tsv, json, yaml)
    #[arg(long, value_enum, default_value = "tsv")]
    pub format: Format,
    /// Execute the SQL commands from this file
    #[arg(short, long, value_name = "FILENAME", allow_hyphen_values = true)]
    pub file: Option<PathBuf>,
    /// force password prompt
    #[arg(long)]
    pub password: bool,
    /// database user name
    #[arg(short = 'U', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub username: Option<String>,
    #[command(flatten)]
    pub watch: Watch,
    /// The role of the query
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    /// Query a specific member
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub member: Option<String>,
    /// The column delimiter
    #[arg(long, value_name = "TEXT", default_value = "\t", allow_hyphen_values = true)]
    pub delimiter: String,
    /// The SQL commands to execute
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub command: Option<String>,
    /// database name to connect to
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub dbname: Option<String>,
}

#[derive(Debug, Args)]
pub struct Dsn {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: Option<String>,
    /// Give a dsn of any member with this role
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    /// Generate a dsn for this member
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub member: Option<String>,
}

#[derive(Debug, Args)]
pub struct Remove {
    #[arg(value_name = "CLUSTER_NAME")]
    pub cluster: String,
    /// Output format
    #[arg(short, long, value_enum, default_value = "pretty")]
    pub format: Format,
}
