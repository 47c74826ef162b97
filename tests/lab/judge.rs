//! What a record of acknowledged rows says about a cluster. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One row whose commit a client saw acknowledged; times since the writers began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub member: u8,
    pub seq: i64,
    /// PostgreSQL's timeline on which the row was written.
    pub timeline: u32,
    pub sent: Duration,
    pub acked: Duration,
}

/// The verdict on a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub acked: usize,
    /// Acknowledged by an earlier primary after a later one had acknowledged its first.
    pub overlap: usize,
    /// Acknowledged and not in the table at the end.
    pub lost: usize,
    /// The longest time without an acknowledgement by anybody.
    pub gap: Duration,
}

/// Judges the rows acknowledged from `from` until `until`; `present` is the table on the primary,
/// read after `until`.
pub fn judge(acks: &[Ack], present: &BTreeSet<i64>, from: Duration, until: Duration) -> Verdict {
    let window: Vec<Ack> =
        acks.iter().copied().filter(|ack| ack.acked >= from && ack.acked <= until).collect();
    Verdict {
        acked: window.len(),
        overlap: overlap(&window),
        lost: window.iter().filter(|ack| !present.contains(&ack.seq)).count(),
        gap: longest_gap(&window, from, until),
    }
}

/// A reign is one member on one timeline; a row is an overlap when another member's later reign
/// had already acknowledged.
fn overlap(acks: &[Ack]) -> usize {
    let mut first: BTreeMap<(u32, u8), Duration> = BTreeMap::new();
    for ack in acks {
        let begun = first.entry((ack.timeline, ack.member)).or_insert(ack.acked);
        *begun = ack.acked.min(*begun);
    }
    let overlaps = |ack: &&Ack| {
        let own = first[&(ack.timeline, ack.member)];
        first
            .iter()
            .any(|((_, member), &begun)| *member != ack.member && begun > own && ack.acked > begun)
    };
    acks.iter().filter(overlaps).count()
}

fn longest_gap(acks: &[Ack], from: Duration, until: Duration) -> Duration {
    let mut instants: Vec<Duration> = acks.iter().map(|ack| ack.acked).collect();
    instants.extend([from, until]);
    instants.sort_unstable();
    instants.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(member: u8, timeline: u32, at_ms: u64) -> Ack {
        let acked = Duration::from_millis(at_ms);
        Ack { member, seq: at_ms as i64, timeline, sent: acked, acked }
    }

    fn verdict(acks: &[Ack], present: &[i64]) -> Verdict {
        let present = present.iter().copied().collect();
        judge(acks, &present, Duration::ZERO, Duration::from_millis(1000))
    }

    #[test]
    fn a_clean_hand_over_and_back_has_no_overlap() {
        let acks = [ack(1, 1, 100), ack(2, 2, 300), ack(1, 3, 900)];
        let expected = Verdict { acked: 3, overlap: 0, lost: 0, gap: Duration::from_millis(600) };
        assert_eq!(verdict(&acks, &[100, 300, 900]), expected);
    }

    #[test]
    fn rows_of_a_deposed_primary_are_overlap_even_on_one_timeline() {
        let later = [ack(1, 1, 100), ack(2, 2, 300), ack(1, 1, 301), ack(1, 1, 400)];
        assert_eq!(verdict(&later, &[]).overlap, 2);
        let twins = [ack(1, 2, 100), ack(2, 2, 300), ack(1, 2, 400)];
        assert_eq!(verdict(&twins, &[]).overlap, 1);
        let restarted = [ack(1, 1, 100), ack(1, 2, 300), ack(1, 1, 301)];
        assert_eq!(verdict(&restarted, &[]).overlap, 0, "one member is never two writers");
    }

    #[test]
    fn lost_rows_and_silence_are_counted() {
        let found = verdict(&[ack(1, 1, 100), ack(1, 1, 200)], &[200]);
        assert_eq!((found.lost, found.gap), (1, Duration::from_millis(800)));
        assert_eq!(verdict(&[], &[]).gap, Duration::from_millis(1000));
    }

    #[test]
    fn rows_outside_of_the_window_do_not_count() {
        let found = judge(&[ack(1, 1, 100)], &BTreeSet::new(), Duration::from_millis(101), {
            Duration::from_millis(500)
        });
        assert_eq!((found.acked, found.lost), (0, 0));
    }
}
