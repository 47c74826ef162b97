//! Dispatch: which of the programs in this one file is wanted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Write, stdout};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgvigil::cli::program::{self, Command, Member};
use pgvigil::sys::{journal, kernel, process};
use pgvigil::{agent, cli, config, leftover, sim, supervisor};

fn main() {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().map(PathBuf::from).unwrap_or_default();
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == "pgvigilctl" || name == "patronictl" {
        std::process::exit(cli::run(args));
    }
    if let Some(name) = process::not_utf8("PATRONI") {
        eprintln!("error: {name}: the value of this environment variable is not UTF-8");
        std::process::exit(1);
    }
    let parsed = program::parse(&name, args);
    std::process::exit(match parsed.command {
        Some(Command::Ctl { args }) => cli::run(with_name("pgvigil ctl", args)),
        Some(Command::Sim { scenario: Some(file), .. }) => sim::run_scenario(&file),
        Some(Command::Sim { seed, seeds, .. }) => sim::run_seeds(seed.unwrap_or(0), seeds),
        Some(Command::CheckConfig { config }) => {
            let config = config.as_deref().or(config::service_file(&environment()));
            printed(config::check_config, config)
        }
        Some(Command::Doctor { config, format }) => {
            let environment = environment();
            let config = config.as_deref().or(config::service_file(&environment));
            cli::doctor(config, &environment, format == "json")
        }
        Some(Command::GenerateConfig { dsn }) => cli::generate(dsn.as_deref()),
        Some(Command::Init { config, dsn }) => cli::init(&config, dsn.as_deref(), &environment()),
        Some(Command::Import { config }) => printed(config::import, config.as_deref()),
        Some(Command::Watchdog { command }) => cli::watchdog::run(&command),
        Some(Command::SelfCheck { config }) => {
            name_output("pgvigil");
            i32::from(loaded(config.as_deref()).is_none())
        }
        Some(Command::ProbeVolumes { page, data_dir }) => agent::probe_volumes(&page, &data_dir),
        Some(Command::FenceLeftover { config }) => {
            let result = leftover::result(|name| std::env::var(name).unwrap_or_default());
            let local = in_force(config.as_deref());
            let device = local.as_ref().and_then(agent::device);
            leftover::fence(configured(config.as_deref()), &result, device)
        }
        Some(Command::TakeIn { config }) => leftover::take_in(configured(config.as_deref())),
        Some(Command::Agent { config }) => {
            name_output("pgvigil");
            agent::run(config, environment())
        }
        None => in_place_of_a_member(&parsed.member).unwrap_or_else(|| supervise(parsed.member)),
    });
}

fn with_name(name: &str, args: Vec<OsString>) -> Vec<OsString> {
    std::iter::once(name.into()).chain(args).collect()
}

/// The variables that are configuration.
fn environment() -> BTreeMap<String, String> {
    process::variables("PATRONI").collect()
}

/// What scripts ask `patroni` for; the exit code.
fn in_place_of_a_member(member: &Member) -> Option<i32> {
    cli::as_patroni(&member.patroni, member.config.as_deref(), &environment())
}

type Printer = fn(Option<&Path>, &BTreeMap<String, String>, &mut dyn Write) -> std::io::Result<u8>;

fn printed(printer: Printer, path: Option<&Path>) -> i32 {
    match printer(path, &environment(), &mut stdout()) {
        Ok(code) => i32::from(code),
        Err(error) => {
            eprintln!("pgvigil: cannot print: {error}");
            1
        }
    }
}

/// The configuration that can be read, else what was accepted last.
fn in_force(config: Option<&Path>) -> Option<config::Local> {
    let loaded = config::load(config, &environment()).ok();
    loaded.or_else(|| agent::kept(config)).map(|loaded| loaded.local)
}

/// Where PostgreSQL is, by that configuration.
fn configured(config: Option<&Path>) -> Option<supervisor::Descent> {
    let local = in_force(config)?.postgresql;
    leftover::known(&local.data_dir, local.bin_name.get("postgres"))
}

/// Under which name the journal shows what this process and its children print.
fn name_output(identifier: &str) {
    if let Err(error) = journal::rename_stderr(identifier) {
        eprintln!("pgvigil: no stream to the journal for {identifier}: {error}");
    }
}

/// The configuration, if nothing keeps this program from running it here; says what does.
fn loaded(config: Option<&Path>) -> Option<config::Loaded> {
    let missing = kernel::missing();
    for (name, since, error) in &missing {
        eprintln!("pgvigil: needs {name} (Linux {since} and later): {error}");
    }
    if !missing.is_empty() {
        return None;
    }
    let loaded = config::load(config, &environment());
    let problems = loaded.as_ref().err().into_iter().flatten();
    problems.for_each(|problem| eprintln!("{}: {problem}", problem.kind()));
    loaded.ok()
}

fn supervise(member: Member) -> i32 {
    let config = member.config.as_deref();
    // Where nothing runs, a configuration that is wrong is refused before anything is prepared. A
    // supervisor that died left its PostgreSQL a few seconds: that is no time for an administrator.
    let Some(loaded) = loaded(config).or_else(|| left_behind(config)) else { return 1 };
    let user = member.user.or_else(|| owner(Path::new(&loaded.local.postgresql.data_dir)));
    let config = member.config.map(|path| path.to_string_lossy().into_owned());
    let mut options = supervisor::Options::new(config);
    options.cgroup = member.cgroup;
    options.user = user;
    options.watchdog = agent::device(&loaded.local);
    // From here on nothing of ours goes to stderr: it is PostgreSQL's, its tools' and scripts'.
    name_output("postgres");
    supervisor::run(options)
}

/// What was accepted last, if a PostgreSQL runs by it.
fn left_behind(config: Option<&Path>) -> Option<config::Loaded> {
    let kept = agent::kept(config).filter(|_| kernel::missing().is_empty())?;
    let postgresql = &kept.local.postgresql;
    let known = leftover::known(&postgresql.data_dir, postgresql.bin_name.get("postgres"))?;
    if known.find().is_empty() {
        return None;
    }
    eprintln!("pgvigil: PostgreSQL runs: going on with the configuration that was accepted last");
    Some(kept)
}

/// The owner of an existing data directory, unless that is root: PostgreSQL refuses root.
fn owner(data_dir: &Path) -> Option<String> {
    let uid = std::fs::metadata(data_dir).ok()?.uid();
    (uid != 0).then(|| uid.to_string())
}
