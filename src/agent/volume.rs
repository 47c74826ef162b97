//! The volumes that PostgreSQL writes to, tried by a process of their own: a job of the supervisor
//! in the group of scripts, which nobody waits for. A thread would make the whole agent unkillable
//! where a disk hangs; this process may hang for ever.
//!
//! It reports through a page of shared memory and lives longer than an agent: what has begun to
//! hang before an agent's start is still seen to hang after it.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::core::health::{Ailing, Illness, Place};
use crate::core::time::Boot;
use crate::link::order::{Command, Job, JobKind, Order};
use crate::postgres::datadir;
use crate::sys::shared::Page;
use crate::sys::{clock, proc, process};

use super::drivers::{Drivers, Setup};
use super::events::Event;

/// Of the words below; written by the process once it has begun.
const LAYOUT_VERSION: u64 = 1;

// Words of the page. The agent writes STOP and EVERY_MS, the process all others.
const LAYOUT: usize = 0;
const STOP: usize = 1;
const EVERY_MS: usize = 2;
const PID: usize = 3;
/// When the try under way began, and where; 0: none is under way.
const BEGUN: usize = 4;
const BEGUN_PLACE: usize = 5;
/// Of each place these words from `PLACES` on.
const PLACES: usize = 8;
const PLACE_WORDS: usize = 8;
/// 0: never tried.
const TRIED_AT: usize = 0;
/// errno of the last try; 0: it went well.
const ERRNO: usize = 1;
/// Tries in a row with this outcome.
const TIMES: usize = 2;
const FREE: usize = 3;
const TOTAL: usize = 4;

const ALL: [Place; 2] = [Place::DataDirectory, Place::Wal];

/// What is written each time. Not zeroes, which some file systems do not store.
const BYTES: [u8; 8192] = [0xA5; 8192];

/// Less than this is full: PostgreSQL ends when it finds no room for a WAL segment, which has this
/// size unless initdb was told otherwise.
const FULL_BELOW_BYTES: u64 = 16 << 20;

/// How often the process looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A report that is older says nothing about now.
const REPORT_VALID: Duration = Duration::from_secs(120);

/// A try that lasts is worth a word from here on.
const SLOW: Duration = Duration::from_secs(2);

/// A process that did not begin within this is started again.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// Where the process of this data directory reports to.
pub fn page_path(user: u32, data_dir: &Path) -> PathBuf {
    let name: Vec<char> = data_dir.to_string_lossy().replace('/', "-").chars().collect();
    // The end tells more; a file's name has its limit.
    let end: String = name[name.len().saturating_sub(100)..].iter().collect();
    PathBuf::from(format!("/dev/shm/pgvigil-{user}-volumes{end}"))
}

/// The process. Ends when its parent does, or when it is told to.
pub fn probe(page: &Path, data_dir: &Path) -> i32 {
    process::set_name(c"pgvigil-volumes");
    let path = page;
    let page = match Page::named(path, false) {
        Ok(page) => page,
        Err(error) => {
            eprintln!("pgvigil: the volumes are not watched: {}: {error}", path.display());
            return 1;
        }
    };
    let parent = std::os::unix::process::parent_id();
    page.store(PID, u64::from(std::process::id()));
    page.store(BEGUN, 0);
    page.store(LAYOUT, LAYOUT_VERSION);
    let mut next = clock::boot();
    loop {
        if page.load(STOP) != 0 {
            return 0;
        }
        if std::os::unix::process::parent_id() != parent {
            // A successor of our supervisor puts another process into the page.
            if page.load(PID) == u64::from(std::process::id()) {
                let _ = std::fs::remove_file(path);
            }
            return 0;
        }
        let now = clock::boot();
        if now >= next {
            next = now.plus(Duration::from_millis(page.load(EVERY_MS).max(100)));
            round(&page, data_dir);
        }
        std::thread::sleep(next.since(now).min(LOOK_EVERY));
    }
}

/// One try on each volume. Whatever touches the volumes stands between the two stores to BEGUN.
fn round(page: &Page, data_dir: &Path) {
    let wal = data_dir.join("pg_wal");
    for (number, place) in ALL.into_iter().enumerate() {
        page.store(BEGUN_PLACE, number as u64);
        page.store(BEGUN, clock::boot().0.max(1));
        let folder = match place {
            Place::DataDirectory => Some(data_dir),
            Place::Wal => Some(&*wal).filter(|wal| device(wal) != device(data_dir)),
        };
        if let Some(folder) = folder {
            report(page, number, data_dir, folder);
        } else {
            page.store(PLACES + number * PLACE_WORDS + TRIED_AT, 0);
        }
        page.store(BEGUN, 0);
    }
}

fn device(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|about| about.dev())
}

fn report(page: &Page, number: usize, data_dir: &Path, folder: &Path) {
    let word = |at: usize| PLACES + number * PLACE_WORDS + at;
    let mut errno = match datadir::try_write(data_dir, folder, &BYTES) {
        Ok(true) => 0,
        Ok(false) => return page.store(word(TRIED_AT), 0),
        Err(error) => errno_of(&error),
    };
    if let Ok(volume) = statvfs(folder) {
        let free = volume.blocks_available() * volume.fragment_size();
        page.store(word(FREE), free);
        page.store(word(TOTAL), volume.blocks() * volume.fragment_size());
        if errno == 0 && free < FULL_BELOW_BYTES {
            errno = libc::ENOSPC as u64;
        }
    }
    let again = page.load(word(TRIED_AT)) != 0 && page.load(word(ERRNO)) == errno;
    let times = if again { page.load(word(TIMES)).saturating_add(1) } else { 1 };
    page.store(word(ERRNO), errno);
    page.store(word(TIMES), times);
    page.store(word(TRIED_AT), clock::boot().0);
}

/// Some other error than none.
fn errno_of(error: &io::Error) -> u64 {
    let known = error.raw_os_error().filter(|errno| *errno > 0);
    let short = (error.kind() == ErrorKind::WriteZero).then_some(libc::ENOSPC);
    known.or(short).unwrap_or(libc::EIO) as u64
}

/// What is free on the volume of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub place: Place,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// How long a try has been seen to hang.
#[derive(Debug, Default)]
struct Watched {
    begun: u64,
    lasting: Duration,
    looked_at: Boot,
}

impl Watched {
    /// Adds up what passed between looks of ours, each look counted for no more than two: after a
    /// suspend, or a stall of the agent, the process gets its time to end the try. Only a process
    /// that waits in the kernel hangs; one that is stopped, or gets no CPU, does not.
    fn look(&mut self, begun: u64, waits: bool, now: Boot) {
        if begun == 0 || begun != self.begun {
            (self.begun, self.lasting) = (begun, Duration::ZERO);
        } else if waits {
            self.lasting += now.since(self.looked_at).min(LOOK_EVERY * 2);
        }
        self.looked_at = now;
    }
}

/// Keeps the process running, and tells the loop what it reports.
pub async fn watch(drivers: Arc<Drivers>) {
    let setup = drivers.setup();
    let path = own_page(&setup);
    let mut page = match Page::named(&path, true) {
        Ok(page) => page,
        Err(error) => {
            tracing::error!("the volumes are not watched: {}: {error}", path.display());
            return;
        }
    };
    page.store(STOP, 0);
    let mut watched = Watched::default();
    let mut started_at = Boot(0);
    let mut told = (None, Vec::new());
    loop {
        let limit = drivers.setup().settings().health.storage;
        page.store(EVERY_MS, every(limit).as_millis() as u64);
        let now = clock::boot();
        let found = if limit.is_zero() {
            page.store(STOP, 1);
            (None, Vec::new())
        } else {
            keep_running(&drivers, &mut page, &path, &mut started_at).await;
            let begun = page.load(BEGUN);
            // Of no interest between two tries.
            let waits = begun != 0
                && proc::stat(page.load(PID) as i32).is_some_and(|s| "DS".contains(s.state));
            watched.look(begun, waits, now);
            read(&page, &watched, limit, now)
        };
        if found != told {
            let (worst, rooms) = found.clone();
            if drivers.events.send(Event::Volumes { worst, rooms }).await.is_err() {
                return;
            }
            told = found;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ten tries until the limit; each is a sync, which other writers of the volume may feel.
fn every(limit: Duration) -> Duration {
    (limit / 10).clamp(Duration::from_millis(500), Duration::from_secs(5))
}

fn own_page(setup: &Setup) -> PathBuf {
    page_path(nix::unistd::geteuid().as_raw(), &setup.data_dir())
}

/// At the orderly end.
pub fn stop(setup: &Setup) {
    let path = own_page(setup);
    if let Ok(page) = Page::named(&path, false) {
        page.store(STOP, 1);
        let _ = std::fs::remove_file(path);
    }
}

/// One that was started by an earlier agent goes on; another build's is replaced.
async fn keep_running(drivers: &Drivers, page: &mut Page, path: &Path, started_at: &mut Boot) {
    let now = clock::boot();
    let state = drivers.supervisor.state();
    let mut jobs = state.jobs.iter();
    let job = jobs.find(|j| j.ended.is_none() && j.id & 0xFF == u64::from(JOB_MARK)).map(|j| j.id);
    let begins = now.since(*started_at) < BEGINS_WITHIN;
    let fits = page.load(LAYOUT) == LAYOUT_VERSION && page.load(STOP) == 0;
    let order = match job {
        Some(_) if fits || begins => return,
        Some(id) => Order::CancelJob { id },
        None if begins => return,
        None => {
            *started_at = now;
            // An end that was refused has removed the file.
            if let Ok(there) = Page::named(path, true) {
                *page = there;
            }
            page.store(STOP, 0);
            page.store(LAYOUT, 0);
            page.store(PID, 0);
            let data_dir = drivers.setup().data_dir();
            let words = ["/proc/self/exe", "probe-volumes"].map(str::to_owned);
            let paths = [path, &*data_dir].map(|path| path.to_string_lossy().into_owned());
            let argv = words.into_iter().chain(paths).collect();
            let id = drivers.next_job(None) | u64::from(JOB_MARK);
            let command = Command { argv, ..Command::default() };
            Order::RunJob(Job { id, kind: JobKind::Script, command })
        }
    };
    if let Err(error) = drivers.supervisor.order(order).await {
        tracing::warn!("the volumes are not watched: {error}");
    }
}

/// In the lowest byte of the job's id, where that of a data job has its work.
const JOB_MARK: u8 = 0x10;

/// The worst that is reported, and what is free.
fn read(page: &Page, watched: &Watched, limit: Duration, now: Boot) -> (Option<Ailing>, Vec<Room>) {
    let (mut ailing, mut rooms) = (Vec::new(), Vec::new());
    for (number, place) in ALL.into_iter().enumerate() {
        let word = |at: usize| page.load(PLACES + number * PLACE_WORDS + at);
        let hangs = watched.begun != 0 && page.load(BEGUN_PLACE) == number as u64;
        if hangs && watched.lasting >= SLOW {
            ailing.push(Ailing { place, illness: Illness::Hung, lasting: watched.lasting });
        }
        let tried_at = Boot(word(TRIED_AT));
        if tried_at == Boot(0) || now.since(tried_at) > REPORT_VALID {
            continue;
        }
        rooms.push(Room { place, free_bytes: word(FREE), total_bytes: word(TOTAL) });
        if let Some(illness) = illness(word(ERRNO) as i32) {
            let times = u32::try_from(word(TIMES)).unwrap_or(u32::MAX);
            ailing.push(Ailing { place, illness, lasting: every(limit).saturating_mul(times) });
        }
    }
    (ailing.into_iter().max_by_key(|a| (a.illness, a.lasting)), rooms)
}

fn illness(errno: i32) -> Option<Illness> {
    match errno {
        0 => None,
        libc::ENOSPC | libc::EDQUOT => Some(Illness::Full),
        libc::EROFS => Some(Illness::ReadOnly),
        other => Some(Illness::Failing(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_hangs_only_while_we_watch_it_wait() {
        let at = |ms: u64| Boot(1_000_000_000_000 + ms * 1_000_000);
        let mut watched = Watched::default();
        watched.look(7, true, at(0));
        watched.look(7, true, at(1000));
        assert_eq!(watched.lasting, Duration::from_secs(1));
        // Stopped, or without a CPU; then a suspend of an hour.
        watched.look(7, false, at(2000));
        watched.look(7, true, at(3_602_000));
        assert_eq!(watched.lasting, Duration::from_secs(3));
        watched.look(8, true, at(3_603_000));
        assert_eq!(watched.lasting, Duration::ZERO);
        watched.look(0, true, at(3_604_000));
        watched.look(0, true, at(3_605_000));
        assert_eq!(watched.lasting, Duration::ZERO);
    }

    #[test]
    fn reports_what_is_wrong_through_the_page() {
        let page = Page::anonymous().expect("a page");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("pg_wal")).expect("made");
        round(&page, directory.path());
        let (limit, now) = (Duration::from_secs(30), clock::boot());
        let fine = Watched::default();
        let (worst, rooms) = read(&page, &fine, limit, now);
        let places: Vec<Place> = rooms.iter().map(|room| room.place).collect();
        assert_eq!((worst, places), (None, vec![Place::DataDirectory]));
        assert!(rooms[0].total_bytes >= rooms[0].free_bytes && rooms[0].free_bytes > 0);

        page.store(PLACES + ERRNO, libc::EROFS as u64);
        page.store(PLACES + TIMES, 4);
        let lasting = every(limit) * 4;
        let ailing = Ailing { place: Place::DataDirectory, illness: Illness::ReadOnly, lasting };
        assert_eq!(read(&page, &fine, limit, now).0, Some(ailing));
        let hung = Watched { begun: 9, lasting: SLOW, looked_at: now };
        page.store(BEGUN_PLACE, 1);
        let worst = read(&page, &hung, limit, now).0.expect("two ailments");
        assert_eq!((worst.place, worst.illness), (Place::Wal, Illness::Hung));
        let later = now.plus(REPORT_VALID * 2);
        assert_eq!(read(&page, &fine, limit, later), (None, Vec::new()));
    }
}
