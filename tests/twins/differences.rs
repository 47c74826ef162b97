//! Where pgvigil's answers differ from Patroni's, and are meant to.

use super::mask;
use crate::lab::Product;

pub struct Difference {
    pub id: &'static str,
    /// What is asked.
    pub at: &'static str,
    pub what: &'static str,
    pub why: &'static str,
    /// The answer without the difference; `None` where it does not occur. What it does not
    /// recognize it leaves alone, so that anything else is still found.
    pub mend: fn(&str, Product, &str) -> Option<String>,
}

pub const REST: &[Difference] = &[
    Difference {
        id: "vigil",
        at: "status documents",
        what: "the object `vigil` stands last",
        why: "what only pgvigil knows: fencing, the rule that fired, its own version",
        mend: |_, product, text| ours(product).and_then(|()| mask::without_vigil(text)),
    },
    Difference {
        id: "patroni_master",
        at: "`/metrics`",
        what: "`patroni_master` stands beside `patroni_primary`, with the same value",
        why: "rules and dashboards of Patroni 3 still ask for it",
        mend: |_, product, text| {
            ours(product).and_then(|()| mask::without_metrics(text, |n| n == "patroni_master"))
        },
    },
    Difference {
        id: "own metrics",
        at: "`/metrics`",
        what: "metrics that begin with `pgvigil_` stand last",
        why: "what only pgvigil knows: the fence, the watchdog device, volumes",
        mend: |_, product, text| {
            ours(product).and_then(|()| mask::without_metrics(text, |n| n.starts_with("pgvigil_")))
        },
    },
    Difference {
        id: "newer metrics",
        at: "`/metrics`",
        what: "`patroni_failsafe_mode_enabled`, `patroni_failsafe_member`, \
               `patroni_failover_priority` are there",
        why: "Patroni has them after 4.1.5",
        mend: |_, product, text| {
            let names = ["failsafe_mode_enabled", "failsafe_member", "failover_priority"];
            let named = |metric: &str| {
                metric.strip_prefix("patroni_").is_some_and(|name| names.contains(&name))
            };
            ours(product).and_then(|()| mask::without_metrics(text, named))
        },
    },
    Difference {
        id: "replication_state",
        at: "`/replica?replication_state=…`",
        what: "a replica in another state is refused with 503",
        why: "Patroni has the parameter after 4.1.5; before, it ignores it",
        mend: |question, product, text| {
            let asked = question == "GET /replica?replication_state=other";
            let rest = text.strip_prefix("503").filter(|_| asked && product == Product::Pgvigil)?;
            // Of a leader the answer is 503 without it, too.
            text.contains("\"role\": \"replica\"").then(|| format!("200{rest}"))
        },
    },
];

pub const SCRIPTS: &[Difference] = &[Difference {
    id: "on_stop",
    at: "callback of the old leader in a switchover",
    what: "the role is always `primary`",
    why: "Patroni says `demoted` where it gave the key up before its server had ended",
    mend: |question, product, text| {
        let roles: &[&str] =
            if product == Product::Pgvigil { &["primary"] } else { &["primary", "demoted"] };
        let mut said = roles.iter().map(|role| format!("on_stop {role} "));
        let said = said.find(|said| text.contains(said))?;
        (question == "a switchover, who led").then(|| text.replace(&said, "on_stop <role> "))
    },
}];

pub const COMMAND_LINE: &[Difference] = &[
    Difference {
        id: "help",
        at: "`--help`",
        what: "another layout; the commands and options are the same, `explain` is there",
        why: "it is made by another library; no script reads it",
        mend: |question, _, _| question.contains("--help").then(|| "<help>".to_owned()),
    },
    Difference {
        id: "warnings",
        at: "any command",
        what: "lines that begin with `warning: ` on standard error",
        why: "Patroni passes over what these tell, a name that is no member's for one",
        mend: |_, product, text| {
            let kept: Vec<&str> =
                text.split('\n').filter(|line| !line.starts_with("warning: ")).collect();
            let kept = kept.join("\n");
            (product == Product::Pgvigil && kept != text).then_some(kept)
        },
    },
    Difference {
        id: "unknown option",
        at: "an option that does not exist",
        what: "`No such option: --x`, with today's click `No such option '--x'.`",
        why: "Patroni's text is click's, and changes with click's version",
        mend: |_, product, text| {
            let (before, after) = text.split_once("No such option: ")?;
            let (option, rest) = after.split_once('\n')?;
            ours(product).map(|()| format!("{before}No such option '{option}'.\n{rest}"))
        },
    },
];

pub const LINES_DIFFER: &[Difference] = &[Difference {
    id: "etcd out of reach",
    at: "`patroni --validate-config`",
    what: "a configuration is right also while its etcd does not answer",
    why: "the member starts with it, and waits; `pgvigil doctor` asks etcd, too",
    mend: |question, product, text| {
        let accepted = text.starts_with("exit 0,") && question == "--validate-config FAR";
        (accepted && product == Product::Pgvigil).then(|| text.replacen("exit 0", "exit 1", 1))
    },
}];

pub const SIGNALS_DIFFER: &[Difference] = &[Difference {
    id: "SIGUSR2",
    at: "a signal to the service",
    what: "the program is replaced in place; member, PostgreSQL and lease go on",
    why: "Patroni does not know the signal and is ended by it",
    mend: |question, product, text| {
        let goes_on = question == "SIGUSR2" && text.starts_with("it goes on,");
        (goes_on && product == Product::Pgvigil)
            .then(|| text.replacen("it goes on", "killed by SIGUSR2", 1))
    },
}];

fn ours(product: Product) -> Option<()> {
    (product == Product::Pgvigil).then_some(())
}
