//! Callbacks and hooks: which ones a member calls on the same occasion, in which order, with which
//! arguments, and what of our variables they see.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::Book;
use crate::cluster::leader;
use crate::lab::Product::{Patroni, Pgvigil};
use crate::lab::wait::{let_pass, wait_until};
use crate::lab::{Lab, Product};
use crate::mixed::{SOON, arrange, switch_to};

/// Nothing more is called after so long a silence: members look once a second.
const QUIET: Duration = Duration::from_secs(2);

const NOTE: &str = "#!/bin/sh\nfile=$1; shift\n\
                    echo \"$* PATRONI_*: $(env | grep -c ^PATRONI_)\" >> \"$file\"\n";

pub fn call_everything(lab: &mut Lab, book: &mut Book) {
    prepare(lab);
    for leads in [Patroni, Pgvigil] {
        arrange(lab, 2, leads);
        println!("twins: {leads:?} leads");
        for number in lab.numbers() {
            forget(lab);
            let answer = lab.ask_within(number, "POST", "/restart", "{}", SOON);
            assert_eq!(answer.map(|answer| answer.status), Some(200));
            note(lab, book, "a restart", number);
        }
        forget(lab);
        let change = format!(r#"{{"postgresql": {{"parameters": {{"work_mem": "{}kB"}}}}}}"#, {
            if leads == Patroni { 2048 } else { 3072 }
        });
        let leading = leader(lab);
        lab.ask_within(leading, "PATCH", "/config", &change, SOON).expect("an answer");
        lab.numbers().for_each(|number| note(lab, book, "a changed parameter", number));
    }
    switched(lab, book);
    for number in lab.numbers().filter(|&number| number != leader(lab)).collect::<Vec<_>>() {
        forget(lab);
        let before = lab.member(number).postmaster();
        lab.ask_within(number, "POST", "/reinitialize", "", SOON).expect("an answer");
        let member = lab.member(number);
        wait_until("another postmaster", SOON, || {
            member.postmaster().filter(|_| member.postmaster() != before)
        });
        note(lab, book, "a new copy", number);
        forget(lab);
        assert!(lab.member(number).stop(SOON).success(), "m{number}");
        lab.member(number).start();
        note(lab, book, "an end and a start", number);
    }
}

/// Whoever leads at last is a Patroni.
fn switched(lab: &mut Lab, book: &mut Book) {
    arrange(lab, 2, Patroni);
    let (first, third) = {
        let leading = leader(lab);
        let mut others = lab.numbers().filter(|&number| number != leading);
        let other = others.find(|&number| lab.product(number) == Patroni);
        (leading, other.expect("another Patroni"))
    };
    let ours = lab.numbers().find(|&n| lab.product(n) == Pgvigil).expect("a pgvigil");
    for (to, bystander) in [(ours, third), (first, third), (third, ours)] {
        forget(lab);
        let old = leader(lab);
        switch_to(lab, to, Patroni);
        note(lab, book, "a switchover, who led", old);
        note(lab, book, "a switchover, who leads", to);
        note(lab, book, "a switchover, who looks on", bystander);
    }
}

fn calls(lab: &Lab, number: u8) -> PathBuf {
    lab.directory().join(format!("calls.{number}"))
}

fn prepare(lab: &mut Lab) {
    let script = lab.directory().join("note");
    fs::write(&script, NOTE).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    for number in lab.numbers() {
        let file = calls(lab, number);
        fs::write(&file, "").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("chmod");
        let line = format!("{} {}", script.display(), file.display());
        let callbacks = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];
        let callbacks = callbacks.map(|action| format!("    {action}: {line}\n")).concat();
        let hooks = ["before_stop", "pre_promote"].map(|hook| format!("  {hook}: {line} {hook}\n"));
        let section = format!("\npostgresql:\n  callbacks:\n{callbacks}{}", hooks.concat());
        lab.member(number).configure(|text| {
            assert_eq!(text.matches("\npostgresql:\n").count(), 1, "{text}");
            text.replace("\npostgresql:\n", &section)
        });
        lab.ask_within(number, "POST", "/reload", "", SOON).expect("an answer");
    }
    // A restart of each shows that the scripts are known.
    for number in lab.numbers() {
        wait_until("the scripts in force", SOON, || {
            lab.ask_within(number, "POST", "/restart", "{}", SOON)?;
            lab.wait_healthy("restarted", SOON);
            fs::read_to_string(calls(lab, number)).ok().filter(|text| text.contains("on_restart"))
        });
    }
}

fn forget(lab: &Lab) {
    lab.numbers().for_each(|number| fs::write(calls(lab, number), "").expect("a file"));
}

/// What was called on this occasion, when all has become quiet.
fn note(lab: &Lab, book: &mut Book, occasion: &str, number: u8) {
    let view = lab.wait_healthy(occasion, SOON);
    let role = if view.leader().map(|l| l.number) == Some(number) { "leader" } else { "replica" };
    let text = || fs::read_to_string(calls(lab, number)).expect("the calls");
    let mut said = text();
    loop {
        let_pass(QUIET);
        let now = text();
        if now == said {
            break;
        }
        said = now;
    }
    let product: Product = lab.product(number);
    book.note(&format!("scripts, {role}"), occasion, product, &said);
}
