//! The small third process: fences by the shared deadline if nobody else did.
//!
//! It has no socket, no child and no state: only the first words of the supervisor's memory, where
//! the deadline is written before anything is permitted, and the means to freeze and to kill. Its
//! trigger is what the group does past the deadline, not anybody's death. It never thaws. A
//! supervisor that comes after a dead one writes its deadlines there, too, and keeps the sentinel.

use std::ffi::CStr;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use super::groups::Reach;
use crate::core::budget::SENTINEL;
use crate::core::time::Boot;
use crate::sys::process::{self, Child};
use crate::sys::shared::Page;
use crate::sys::{clock, realtime};

const NAME: &CStr = c"pgvigil-sentinel";
/// The page's layout; a sentinel may be older than its supervisor.
const VERSION: u64 = 1;
const WORD_VERSION: usize = 0;
/// BOOTTIME nanoseconds, 0: no deadline.
const WORD_DEADLINE: usize = 1;
const WORD_KILL_BY: usize = 2;
const WORD_FREEZE_MAX: usize = 3;

/// A deadline is at least a second away when it is written, so a sleep of this length sees it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at a group that is being fenced.
const FENCE_EVERY: Duration = Duration::from_millis(20);
/// What a freeze is given before the group is killed.
const FREEZE_GRACE: Duration = Duration::from_millis(200);

/// The supervisor's side of the page.
pub fn publish(page: &Page, deadline: Option<Boot>, kill_by: Boot, freeze_max: Duration) {
    page.store(WORD_VERSION, VERSION);
    page.store(WORD_FREEZE_MAX, u64::try_from(freeze_max.as_nanos()).unwrap_or(u64::MAX));
    page.store(WORD_KILL_BY, kill_by.0);
    // Last: whoever reads the new deadline reads what belongs to it.
    page.store(WORD_DEADLINE, deadline.map_or(0, |deadline| deadline.0.max(1)));
}

/// Forks it. Only for the single-threaded supervisor.
pub fn start(page: &Page, reach: &Reach<'_>) -> io::Result<Child> {
    let supervisor = std::process::id() as i32;
    process::fork(|| {
        process::set_name(NAME);
        process::new_session();
        let keep = match reach {
            Reach::Group(group) => group.descriptors(),
            Reach::Descent(_) => Vec::new(),
        };
        // Above all the agent's socket and the lock, which must end with the supervisor.
        process::close_all_but(&keep);
        // Where it is not granted the sentinel works all the same, if memory permits.
        let _ = realtime::lock_memory();
        let _ = realtime::prioritize(super::PRIORITY);
        // Softdog's timer lives on the petter's processor: were that one to hang with interrupts
        // off, this process is on another and fences; were this one's to hang, the timer fires.
        let _ = realtime::bind(realtime::Processors::AllButFirst);
        watch(page, reach, supervisor);
    })
}

fn watch(page: &Page, reach: &Reach<'_>, supervisor: i32) {
    let mut fencing_since = None;
    loop {
        let orphaned = process::parent() != supervisor;
        let now = clock::boot();
        let deadline = Some(Boot(page.load(WORD_DEADLINE))).filter(|deadline| deadline.0 != 0);
        match deadline.map(|deadline| deadline.plus(SENTINEL)) {
            Some(act_at) if now >= act_at => {
                let since = *fencing_since.get_or_insert(now);
                let state = reach.look();
                if state.populated {
                    fence(page, reach, state.frozen, since, now);
                }
                if orphaned && !state.populated {
                    return;
                }
                sleep(FENCE_EVERY);
            }
            act_at => {
                fencing_since = None;
                // Not before the deadline is past: what was permitted under it may be on its way.
                if orphaned && act_at.is_none() && !reach.look().populated {
                    return;
                }
                sleep(act_at.map_or(LOOK_EVERY, |at| at.since(now).min(LOOK_EVERY)));
            }
        }
    }
}

fn fence(page: &Page, reach: &Reach<'_>, frozen: bool, since: Boot, now: Boot) {
    let freeze_max = Duration::from_nanos(page.load(WORD_FREEZE_MAX));
    let kill_by = Boot(page.load(WORD_KILL_BY)).max(since.plus(FREEZE_GRACE));
    let cannot_freeze = matches!(reach, Reach::Descent(_));
    // Errors cannot be told to anybody; the next look tries again.
    if cannot_freeze || now >= since.plus(freeze_max) || (!frozen && now >= kill_by) {
        let _ = reach.kill();
    } else if !frozen {
        let _ = reach.freeze();
    }
}
