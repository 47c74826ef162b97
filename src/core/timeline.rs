//! Timelines: the history of a leader, and whether a member may follow it.

use std::fmt;

use super::lsn::Lsn;

/// PostgreSQL's history files grow by one short line per promotion; more than this is not one.
const SWITCHES_MAX: usize = 100_000;

/// WAL pages are 8 KiB unless PostgreSQL was built otherwise; a page begins with a short header,
/// the first page of a segment file with a long one.
const PAGE_BYTES: u64 = 8192;
const SHORT_PAGE_HEADER_BYTES: u64 = 24;
const LONG_PAGE_HEADER_BYTES: u64 = 40;
/// Record header 24, data header 2, `CheckPoint` 88 bytes (PostgreSQL 13 to 18).
const CHECKPOINT_RECORD_BYTES: u64 = 114;

/// One line of a history file: `timeline` was left at `lsn` for the next one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Switch {
    pub timeline: u32,
    /// First position that no longer belongs to `timeline`.
    pub lsn: Lsn,
    pub reason: String,
}

/// The ancestors of one timeline, oldest first. Timeline 1 has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct History(pub Vec<Switch>);

/// A line that PostgreSQL would not have written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryError {
    pub line: usize,
    pub what: &'static str,
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline history, line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for HistoryError {}

impl History {
    /// Parses the file `<timeline>.history`; all ancestors must be older than `timeline`.
    pub fn parse(text: &str, timeline: u32) -> Result<History, HistoryError> {
        let mut switches: Vec<Switch> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let fail = |what| HistoryError { line: index + 1, what };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let switch = parse_switch(line).map_err(fail)?;
            if switch.timeline >= timeline {
                return Err(fail("an ancestor is not older than the timeline itself"));
            }
            if switches.last().is_some_and(|last| last.timeline >= switch.timeline) {
                return Err(fail("timelines are not in increasing order"));
            }
            if switches.len() >= SWITCHES_MAX {
                return Err(fail("too many lines"));
            }
            switches.push(switch);
        }
        Ok(History(switches))
    }
}

fn parse_switch(line: &str) -> Result<Switch, &'static str> {
    let mut words = line.splitn(3, char::is_whitespace);
    let timeline = words.next().unwrap_or("").parse().map_err(|_| "no timeline number")?;
    if timeline == 0 {
        return Err("timeline 0 does not exist");
    }
    let lsn = words.next().unwrap_or("").parse().map_err(|_| "no WAL position")?;
    Ok(Switch { timeline, lsn, reason: words.next().unwrap_or("").trim().to_owned() })
}

/// How a member's position relates to the leader's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// On the leader's own timeline. (A position ahead of the leader's own is for the caller to
    /// notice: the history says nothing about it.)
    Same,
    /// Behind the point at which the leader's history left the member's timeline.
    CanFollow,
    /// The member has WAL that is not in the leader's history.
    Diverged {
        /// Where the leader left the member's timeline; `None` when the leader's history does
        /// not know that timeline at all.
        fork_lsn: Option<Lsn>,
    },
}

/// Relates a position to the leader's timeline and its history. `my_lsn` is the end of the last
/// record that the member has: replayed or received for a standby, [`checkpoint_end`] for a
/// primary that was shut down cleanly.
pub fn relation(
    my_timeline: u32,
    my_lsn: Lsn,
    leader_timeline: u32,
    leader_history: &History,
) -> Relation {
    if my_timeline == leader_timeline {
        return Relation::Same;
    }
    match leader_history.0.iter().find(|switch| switch.timeline == my_timeline) {
        None => Relation::Diverged { fork_lsn: None },
        Some(switch) if my_lsn <= switch.lsn => Relation::CanFollow,
        Some(switch) => Relation::Diverged { fork_lsn: Some(switch.lsn) },
    }
}

/// End of the checkpoint record that begins at `start`: after a clean shutdown this is the end
/// of the log, the position that a successor must have before it may take over and at which it
/// will leave the timeline. Holds for PostgreSQL 13 to 18 with WAL pages of 8 KiB.
pub fn checkpoint_end(start: Lsn, wal_segment_bytes: u32) -> Lsn {
    let segment_bytes = u64::from(wal_segment_bytes).max(PAGE_BYTES);
    let room = PAGE_BYTES - start.0 % PAGE_BYTES;
    let end = if CHECKPOINT_RECORD_BYTES <= room {
        start.0.saturating_add(align(CHECKPOINT_RECORD_BYTES))
    } else {
        let page = start.0.saturating_add(room);
        let header = if page.is_multiple_of(segment_bytes) {
            LONG_PAGE_HEADER_BYTES
        } else {
            SHORT_PAGE_HEADER_BYTES
        };
        page.saturating_add(header).saturating_add(align(CHECKPOINT_RECORD_BYTES - room))
    };
    Lsn(end)
}

/// Rounds up to eight bytes (MAXALIGN).
fn align(bytes: u64) -> u64 {
    bytes.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History::parse("1\t0/3000148\tno recovery target\n\n# note\n2\t0/5000000\twhy not\n", 3)
            .expect("valid")
    }

    #[test]
    fn parses_what_postgresql_writes() {
        let h = history();
        assert_eq!(h.0.len(), 2);
        assert_eq!(h.0[0].lsn, Lsn(0x0300_0148));
        assert_eq!(h.0[1].reason, "why not");
        assert_eq!(History::parse("", 1), Ok(History::default()));
        let bad = [
            ("1", 2),
            ("x\t0/1\t", 2),
            ("0\t0/1\t", 2),
            ("2\t0/1\ta", 2),
            ("2\t0/1\ta\n1\t0/2\tb", 4),
            ("-1\t0/1\ta", 4),
        ];
        for (text, timeline) in bad {
            assert!(History::parse(text, timeline).is_err(), "{text:?}");
        }
    }

    #[test]
    fn relates_positions_to_the_leaders_history() {
        let fork = |lsn| Relation::Diverged { fork_lsn: Some(Lsn(lsn)) };
        let cases = [
            (3, 0x9000000, Relation::Same),
            (2, 0x5000000, Relation::CanFollow),
            (2, 0x5000001, fork(0x5000000)),
            (1, 0x3000148, Relation::CanFollow),
            (1, 0x3000149, fork(0x3000148)),
            (4, 0, Relation::Diverged { fork_lsn: None }),
        ];
        for (timeline, lsn, want) in cases {
            assert_eq!(relation(timeline, Lsn(lsn), 3, &history()), want, "{timeline} {lsn:x}");
        }
    }

    #[test]
    fn finds_the_end_of_a_checkpoint_record() {
        let segment = 16 * 1024 * 1024;
        let cases = [
            (0x0300_0028, 0x0300_00A0),
            // Ends 2 bytes before the page does; alignment reaches the boundary.
            (0x0300_1F88, 0x0300_2000),
            // 8 bytes fit, 106 go behind a short header, aligned to 112.
            (0x0300_1FF8, 0x0300_2000 + 24 + 112),
            (0x03FF_FFF8, 0x0400_0000 + 40 + 112),
        ];
        for (start, end) in cases {
            assert_eq!(checkpoint_end(Lsn(start), segment), Lsn(end), "{start:x}");
        }
        assert_eq!(checkpoint_end(Lsn(u64::MAX), 0), Lsn(u64::MAX));
    }
}
