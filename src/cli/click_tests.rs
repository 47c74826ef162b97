use super::super::args::Role;
use super::super::output::Format;
use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn command(line: &str) -> Command {
    match parse(words(line)) {
        Ok(Parsed::Command(options)) => options.command,
        Ok(Parsed::Help(text)) => panic!("{line}: {text}"),
        Err(failure) => panic!("{line}: {failure:?}"),
    }
}

#[test]
fn complaints_are_clicks() {
    let cases = [
        (
            "patronictl nosuch",
            "Usage: patronictl [OPTIONS] COMMAND [ARGS]...\n\
             Try 'patronictl --help' for help.\n\nError: No such command 'nosuch'.\n",
        ),
        (
            "/usr/bin/patronictl restart",
            "Usage: patronictl restart [OPTIONS] CLUSTER_NAME [MEMBER_NAMES]...\n\
             Try 'patronictl restart --help' for help.\n\n\
             Error: Missing argument 'CLUSTER_NAME'.\n",
        ),
        (
            "patronictl flush demo foo",
            "Usage: patronictl flush [OPTIONS] CLUSTER_NAME [MEMBER_NAMES]...\n\
             \x20                       {restart|switchover}\n\
             Try 'patronictl flush --help' for help.\n\n\
             Error: Invalid value for '{restart|switchover}': 'foo' is not one of 'restart', \
             'switchover'.\n",
        ),
        (
            "patronictl list --nosuch",
            "Usage: patronictl list [OPTIONS] [CLUSTER_NAMES]...\n\
             Try 'patronictl list --help' for help.\n\nError: No such option: --nosuch\n",
        ),
        (
            "patronictl list -f xml",
            "Usage: patronictl list [OPTIONS] [CLUSTER_NAMES]...\n\
             Try 'patronictl list --help' for help.\n\n\
             Error: Invalid value for '--format' / '-f': 'xml' is not one of 'pretty', 'tsv', \
             'json', 'yaml', 'yml'.\n",
        ),
        (
            "patronictl history demo more",
            "Usage: patronictl history [OPTIONS] [CLUSTER_NAME]\n\
             Try 'patronictl history --help' for help.\n\n\
             Error: Got unexpected extra argument (more)\n",
        ),
        (
            "patronictl query -c",
            "Usage: patronictl query [OPTIONS] [CLUSTER_NAME]\n\
             Try 'patronictl query --help' for help.\n\n\
             Error: Option '--command' requires an argument.\n",
        ),
    ];
    for (line, expected) in cases {
        match parse(words(line)) {
            Err(Failure::Usage(text)) => assert_eq!(text, expected, "{line}"),
            _ => panic!("{line} was accepted"),
        }
    }
}

#[test]
fn command_lines_mean_what_they_mean_to_click() {
    let Command::Flush(flush) = command("ctl flush demo a b switchover --force") else { panic!() };
    assert_eq!((flush.members.len(), flush.target, flush.force), (2, Event::Switchover, true));
    let Command::Flush(flush) = command("ctl flush demo restart") else { panic!() };
    assert_eq!((flush.members.len(), flush.target), (0, Event::Restart));
    let Command::List(list) = command("ctl -k -c x.yml list -et -f json a b -w 0.5") else {
        panic!()
    };
    assert!(list.extended && list.timestamp && list.format == Format::Json);
    assert_eq!((list.clusters.len(), list.watch.watch_secs), (2, Some(0.5)));
    let line = "ctl switchover demo --primary a --candidate -b --scheduled 2100-01-01";
    let Command::Switchover(switchover) = command(line) else { panic!() };
    assert_eq!(switchover.leader.as_deref(), Some("a"));
    assert_eq!(switchover.candidate.as_deref(), Some("-b"));
    let Command::EditConfig(edit) = command("ctl edit-config -s a=1 -s b=2 -p c=3 --apply -")
    else {
        panic!()
    };
    assert_eq!((edit.set.len(), edit.pg.len()), (2, 1));
    let Command::Restart(restart) = command("ctl restart demo -r standby-leader --any") else {
        panic!()
    };
    assert_eq!((restart.role, restart.any), (Some(Role::StandbyLeader), true));
}

#[test]
fn help_is_no_error() {
    for line in ["ctl --help", "ctl list --help"] {
        assert!(matches!(parse(words(line)), Ok(Parsed::Help(text)) if text.contains("--help")));
    }
    Options::command().debug_assert();
}
