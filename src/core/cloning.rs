//! Which method makes the data directory of a replica: the configured ones in their order, the
//! built-in `basebackup` twice, as Patroni does; then all over again after a pause.

use std::time::Duration;

use super::settings::{BASEBACKUP, ReplicaMethod, Settings};
use super::time::Boot;

/// Attempts of the built-in method before the next one has its turn.
const BASEBACKUP_TRIES: u32 = 2;

/// Between two attempts of the built-in method, and after the first round through all of them.
const PAUSE: Duration = Duration::from_secs(5);

/// A source that stays away is asked once a minute.
const PAUSES_MAX: u32 = 12;

/// How far the attempts have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cloning {
    /// A copy was begun and has not succeeded: what is in the data directory is of no use, but
    /// for a method with `keep_data`.
    pub begun: bool,
    /// An operator wants a base backup of the leader and nothing else.
    pub from_leader: bool,
    /// Index of the method whose turn it is.
    method: usize,
    /// Failures of this method in a row.
    failures: u32,
    /// Rounds in which every method failed.
    rounds: u32,
    not_before: Option<Boot>,
}

impl Cloning {
    /// A new copy is wanted, whatever is in the data directory now.
    pub fn wanted(from_leader: bool) -> Cloning {
        Cloning { begun: true, from_leader, ..Cloning::default() }
    }

    /// After a success. A script that reports one and leaves nothing is not run in a tight loop.
    pub fn succeeded(now: Boot) -> Cloning {
        Cloning { not_before: Some(now.plus(PAUSE)), ..Cloning::default() }
    }

    pub fn waits(&self, now: Boot) -> bool {
        self.not_before.is_some_and(|at| now < at)
    }

    /// Whose turn it is, and the record that it runs. Without a source, only methods that need
    /// none have a turn.
    pub fn next(&self, settings: &Settings, has_source: bool) -> Option<(ReplicaMethod, Cloning)> {
        let begun = Cloning { begun: true, ..self.clone() };
        if self.from_leader {
            return has_source.then(|| (ReplicaMethod::default(), begun));
        }
        let from = |index| usable(settings, has_source, index);
        let (method, found) = from(self.method).or_else(|| from(0))?;
        let failures = if method == self.method { self.failures } else { 0 };
        Some((found.clone(), Cloning { method, failures, ..begun }))
    }

    /// The name of the method that runs.
    pub fn method<'a>(&self, settings: &'a Settings) -> &'a str {
        let configured = settings.replica_methods.get(self.method).filter(|_| !self.from_leader);
        configured.map_or(BASEBACKUP, |method| &method.name)
    }

    /// After a failure of the method whose turn it was.
    pub fn failed(&self, settings: &Settings, has_source: bool, now: Boot) -> Cloning {
        let mut next = Cloning { begun: true, not_before: None, ..self.clone() };
        next.failures += 1;
        if self.method(settings) == BASEBACKUP && next.failures < BASEBACKUP_TRIES {
            next.not_before = Some(now.plus(PAUSE));
            return next;
        }
        next.failures = 0;
        let following = usable(settings, has_source, self.method + 1);
        match following.filter(|_| !self.from_leader) {
            Some((method, _)) => next.method = method,
            None => {
                next.method = 0;
                next.rounds = next.rounds.saturating_add(1);
                next.not_before = Some(now.plus(PAUSE * next.rounds.min(PAUSES_MAX)));
            }
        }
        next
    }
}

/// The first method from this index on that can work.
fn usable(settings: &Settings, has_source: bool, from: usize) -> Option<(usize, &ReplicaMethod)> {
    let mut methods = settings.replica_methods.iter().enumerate().skip(from);
    methods.find(|(_, method)| has_source || method.no_leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(methods: &[&str]) -> Settings {
        let method = |name: &&str| ReplicaMethod {
            name: (*name).to_owned(),
            no_leader: *name == "archive",
            ..ReplicaMethod::default()
        };
        Settings { replica_methods: methods.iter().map(method).collect(), ..Settings::default() }
    }

    /// The names of the methods in the order in which they run if all fail, with the pauses.
    fn course(settings: &Settings, mut cloning: Cloning, has_source: bool) -> Vec<(String, u64)> {
        let now = Boot(0);
        let mut course = Vec::new();
        for _ in 0..5 {
            let (method, begun) = cloning.next(settings, has_source).expect("a method");
            cloning = begun.failed(settings, has_source, now);
            let pause = cloning.not_before.unwrap_or(now).since(now);
            course.push((method.name, pause.as_secs()));
        }
        course
    }

    #[test]
    fn in_order_the_built_in_one_twice_and_all_over_again() {
        let settings = settings(&["archive", "basebackup"]);
        let named = |course: [(&str, u64); 5]| course.map(|(name, pause)| (name.to_owned(), pause));
        let (a, b) = ("archive", "basebackup");
        let all = course(&settings, Cloning::default(), true);
        assert_eq!(all, named([(a, 0), (b, 5), (b, 5), (a, 0), (b, 5)]));
        let forced = course(&settings, Cloning::wanted(true), true);
        assert_eq!(forced, named([(b, 5), (b, 5), (b, 5), (b, 10), (b, 5)]));
        let alone = course(&settings, Cloning::default(), false);
        assert_eq!(alone, named([(a, 5), (a, 10), (a, 15), (a, 20), (a, 25)]));
    }

    #[test]
    fn without_a_source_only_those_that_need_none() {
        let cloning = Cloning::default();
        assert_eq!(cloning.next(&settings(&["basebackup"]), false), None);
        let found = cloning.next(&settings(&["basebackup", "archive"]), false);
        assert_eq!(found.expect("one").0.name, "archive");
        assert_eq!(Cloning::wanted(true).next(&settings(&["archive"]), false), None);
    }

    #[test]
    fn a_success_is_followed_by_a_pause() {
        let second = Duration::from_secs(1);
        let cloning = Cloning::succeeded(Boot(0));
        assert!(cloning.waits(Boot(0).plus(second)) && !cloning.begun);
        assert!(!cloning.waits(Boot(0).plus(second * 5)));
    }
}
