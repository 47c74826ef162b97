//! Patroni and pgvigil side by side: the same question to a member of each, or by the
//! command-line tool of each, in the same state of one cluster. After masking what no two moments
//! have in common (times, positions, names) the answers must be equal, except for what
//! [`differences`] lists; docs/COMPATIBILITY.md shows that list.

mod ctl;
mod differences;
mod mask;
mod rest;
mod scripts;
mod start;
mod surface;

use std::collections::{BTreeMap, BTreeSet};

use differences::{COMMAND_LINE, Difference, LINES_DIFFER, REST, SCRIPTS, SIGNALS_DIFFER};

use crate::cluster::impossible;
use crate::docs;
use crate::lab::Product::{Patroni, Pgvigil};
use crate::lab::{Lab, Product, Settings};
use crate::mixed::arrange;

#[test]
fn rest() {
    compare("REST", REST, rest::ask_everything);
}

#[test]
fn command_line() {
    compare("command line", COMMAND_LINE, ctl::run_everything);
}

#[test]
fn scripts() {
    compare("scripts", SCRIPTS, scripts::call_everything);
}

fn compare(what: &str, meant: &'static [Difference], ask: fn(&mut Lab, &mut Book)) {
    // No time is judged here, and a Patroni that waits for etcd in vain stops its PostgreSQL.
    let settings = Settings { ttl: 30, retry_timeout: 10, ..Settings::default() };
    if let Some(reason) = impossible(&settings) {
        println!("twins: SKIPPED, {reason}");
        return;
    }
    let mut lab = Lab::new(settings);
    for (number, product) in [(1, Patroni), (2, Pgvigil), (3, Patroni)] {
        lab.set_product(number, product);
        let tags = "tags:\n  clonefrom: false\n  nofailover: false\n  zone: a\n";
        lab.member(number).configure(|text| format!("{text}{tags}"));
    }
    lab.bootstrap();
    // From here on nobody writes: positions stay what they are.
    lab.stop_writing();
    arrange(&mut lab, 2, Patroni);
    let mut book = Book { meant, ..Book::default() };
    ask(&mut lab, &mut book);
    book.judge(what);
}

/// What was asked in which circumstances, and what each product answered.
#[derive(Default)]
struct Book {
    meant: &'static [Difference],
    answers: BTreeMap<(String, String), BTreeMap<Product, String>>,
    met: BTreeSet<&'static str>,
    compared: usize,
}

impl Book {
    /// Writes an answer down. Of several members of one product the first counts.
    fn note(&mut self, circumstances: &str, question: &str, product: Product, answer: &str) {
        let key = (circumstances.to_owned(), mask::mask(question));
        let mut text = mask::mask(answer);
        for difference in self.meant {
            if let Some(mended) = (difference.mend)(question, product, &text) {
                self.met.insert(difference.id);
                text = mended;
            }
        }
        self.answers.entry(key).or_default().entry(product).or_insert(text);
    }

    /// Fails with every answer that differs, and every difference that is none.
    fn judge(&mut self, what: &str) {
        let mut wrong = self.compare();
        let idle = self.meant.iter().filter(|d| !self.met.contains(d.id));
        let idle =
            idle.map(|d| format!("the difference {} was not met: it is none any more", d.id));
        wrong.extend(idle);
        println!("twins: {what}: {} questions were answered by both", self.compared);
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    /// Every pair that is not equal, and every question that only one was asked.
    fn compare(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for ((circumstances, question), answers) in &self.answers {
            let heading = format!("==== {circumstances}: {question}");
            let (Some(patroni), Some(pgvigil)) = (answers.get(&Patroni), answers.get(&Pgvigil))
            else {
                wrong.push(format!("{heading}\nonly {:?} answered", answers.keys()));
                continue;
            };
            self.compared += 1;
            if patroni != pgvigil {
                wrong.push(format!("{heading}\n{}", difference(patroni, pgvigil)));
            }
        }
        wrong
    }
}

/// The parts of which the two are not agreed: lines, and the fields of JSON.
fn difference(patroni: &str, pgvigil: &str) -> String {
    let parts = |text: &str| text.replace(", \"", ",\n\"");
    let (theirs, ours) = (parts(patroni), parts(pgvigil));
    let missing = theirs.lines().filter(|part| !ours.lines().any(|other| other == *part));
    let added = ours.lines().filter(|part| !theirs.lines().any(|other| other == *part));
    let missing = missing.map(|part| format!("patroni: {part}"));
    let mut parts: Vec<String> = missing.chain(added.map(|p| format!("pgvigil: {p}"))).collect();
    if parts.is_empty() {
        parts = vec![format!("patroni: {patroni:?}"), format!("pgvigil: {pgvigil:?}")];
    }
    parts.join("\n")
}

#[test]
fn the_differences_are_documented() {
    let wanted: Vec<String> = REST
        .iter()
        .chain(COMMAND_LINE)
        .chain(SCRIPTS)
        .chain(LINES_DIFFER)
        .chain(SIGNALS_DIFFER)
        .map(|d| format!("| `{}` | {} | {} | {} |", d.id, d.at, d.what, d.why))
        .collect();
    let page = "docs/COMPATIBILITY.md";
    docs::same(&docs::rows(&docs::read(page), "## Where the answers differ"), &wanted, page);
}
