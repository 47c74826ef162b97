//! The command line of `pgvigil` itself.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::core::PATRONI_VERSION;

/// PostgreSQL high availability: supervises a member of a cluster, as `patroni CONFIG` does.
#[derive(Parser)]
#[command(name = "pgvigil", version, args_conflicts_with_subcommands = true)]
pub struct Pgvigil {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub member: Member,
}

#[derive(Args)]
pub struct Member {
    /// Configuration: a file, or a directory of *.yml and *.yaml files (a file with the name of a
    /// subcommand is written ./NAME). Without one, the variables PATRONI_* are the configuration
    pub config: Option<PathBuf>,
    /// Control group of this member (version 2); as root, made if need be and handed to the user;
    /// default: the one it is in
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Whom to become when started as root; default: the owner of the data directory
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    #[command(flatten)]
    pub patroni: Patroni,
}

/// What scripts ask the program `patroni` for in place of a member.
#[derive(Args)]
#[command(next_help_heading = "Options of Patroni's")]
pub struct Patroni {
    /// Check CONFIG as check-config does, and that its ports are free; standard output stays empty
    #[arg(long, group = "task")]
    pub validate_config: bool,
    /// Write a configuration with new passwords to CONFIG, or print it, as generate-config does
    #[arg(long, group = "task")]
    pub generate_sample_config: bool,
    /// The same, of the PostgreSQL that runs there: by --dsn, else by the variables PG*
    #[arg(long, group = "task")]
    pub generate_config: bool,
    /// For --generate-config: connection string or URL of a superuser
    #[arg(long, value_name = "DSN")]
    pub dsn: Option<String>,
    /// For --validate-config: the ports may be in use
    #[arg(short, long)]
    pub ignore_listen_port: bool,
    /// For --validate-config: print CONFIG as it is with the variables PATRONI_*
    #[arg(short, long)]
    pub print: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Look at a cluster and steer it; the same as pgvigilctl
    #[command(disable_help_flag = true)]
    Ctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check a configuration and print every problem with its place; exit 0: it can be run
    CheckConfig {
        /// As for a member: a file, a directory, or nothing for the variables PATRONI_*, and
        /// without those /etc/pgvigil/pgvigil.yml
        config: Option<PathBuf>,
    },
    /// Whether this server protects its member, and by what; exit 0: all is well, 3: it works with
    /// warnings, 1: something is bad
    Doctor {
        /// As for a member: a file, a directory, or nothing for the variables PATRONI_*, and
        /// without those /etc/pgvigil/pgvigil.yml
        config: Option<PathBuf>,
        /// How to print it
        #[arg(short, long, value_name = "FORMAT", default_value = "pretty",
              value_parser = ["pretty", "json"])]
        format: String,
    },
    /// Print a configuration: what this machine tells, with new passwords
    GenerateConfig {
        /// For a PostgreSQL that runs already, whose settings are kept: connection string or URL of
        /// a superuser
        #[arg(long, value_name = "DSN")]
        dsn: Option<String>,
    },
    /// Ask for what a configuration needs, write it, check it, and look with doctor
    Init {
        /// The file to be made
        #[arg(default_value = "/etc/pgvigil/pgvigil.yml")]
        config: PathBuf,
        /// For a PostgreSQL that runs already, whose settings are kept: connection string or URL of
        /// a superuser
        #[arg(long, value_name = "DSN")]
        dsn: Option<String>,
    },
    /// Tell what a configuration of Patroni means here, and the steps; changes nothing
    Import {
        /// As for a member: a file, a directory, or nothing for the variables PATRONI_*
        config: Option<PathBuf>,
    },
    /// Play simulated clusters under faults; exit 0: all promises were kept, 1: one was broken
    #[command(arg_required_else_help = true)]
    Sim {
        /// A written scenario: plays it and prints it with its log
        #[arg(conflicts_with_all = ["seed", "seeds"])]
        scenario: Option<PathBuf>,
        /// Play this seed and print what happens; with --seeds the first one
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        /// Play so many seeds and print what was seen, and each that breaks a promise
        #[arg(long, value_name = "COUNT")]
        seeds: Option<u64>,
    },
    /// The watchdog devices of this machine: list, test, calibrate; release after a reset
    Watchdog {
        #[command(subcommand)]
        command: super::watchdog::Command,
    },
    /// Exit 0: this program runs here, and with this configuration; asked by a running supervisor
    /// before this file takes its place
    #[command(hide = true)]
    SelfCheck { config: Option<PathBuf> },
    /// Writes to the volumes again and again, started by the agent
    #[command(hide = true)]
    ProbeVolumes { page: PathBuf, data_dir: PathBuf },
    /// For ExecStopPost=: kill the PostgreSQL that a stop could not end (see $SERVICE_RESULT)
    #[command(hide = true)]
    FenceLeftover {
        /// As for a member: a file, a directory, or nothing for the variables PATRONI_*
        config: Option<PathBuf>,
    },
    /// For ExecStartPre=+: move a PostgreSQL that runs already into this control group
    #[command(hide = true)]
    TakeIn {
        /// As for a member: a file, a directory, or nothing for the variables PATRONI_*
        config: Option<PathBuf>,
    },
    /// Process 2, started by the supervisor
    #[command(hide = true)]
    Agent { config: Option<PathBuf> },
}

/// Reads the command line, the program's name first. Under the name `patroni` the version is the
/// one whose behaviour is offered: that is what scripts compare. Ends the process where no more was
/// asked for than help or version (code 0), and with code 2 where the line is none of ours.
pub fn parse(name: &str, args: Vec<OsString>) -> Pgvigil {
    let mut command = Pgvigil::command();
    if name == "patroni" {
        command = command.name("patroni").version(PATRONI_VERSION);
    }
    let matches = command.get_matches_from(args);
    Pgvigil::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Both programs as clap knows them, for man pages and completions.
pub fn commands() -> [clap::Command; 2] {
    [Pgvigil::command(), super::grammar()]
}
