//! The only clock reads of the program.

use nix::time::{ClockId, clock_gettime};

use crate::core::time::{Boot, Wall};

/// Now on CLOCK_BOOTTIME: for deadlines and ages.
pub fn boot() -> Boot {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("invariant: BOOTTIME can be read");
    Boot(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Now on the wall clock: for people's schedules and for log lines, never for a deadline.
pub fn wall() -> Wall {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("invariant: REALTIME can be read");
    Wall(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000)
}

/// CLOCK_MONOTONIC in microseconds: what systemd wants to hear with RELOADING=1.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("invariant: MONOTONIC can be read");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

/// How the kernel corrects the clocks now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    pub synchronized: bool,
    /// Correction of the rate, parts per million.
    pub rate_ppm: i64,
    /// Bound of the wall clock's error, as its daemon claims.
    pub max_error_us: i64,
}

/// Reads it; adjusts nothing.
pub fn discipline() -> std::io::Result<Discipline> {
    // SAFETY: all fields of `timex` may be zero; with no modes set adjtimex(2) only reads.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut timex), timex)
    };
    if state < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // `freq` counts in 2^-16 ppm; a tick is 10 ms of CLOCK_MONOTONIC in microseconds.
    let rate_ppm = timex.freq / 65_536 + (timex.tick - 10_000) * 100;
    Ok(Discipline {
        synchronized: state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0,
        rate_ppm,
        max_error_us: timex.maxerror,
    })
}

/// `at` in the local time zone, as Patroni's log prints it: `2026-11-21 12:38:37,123`.
pub fn local(at: Wall) -> String {
    let seconds: libc::time_t = at.0.div_euclid(1_000_000);
    // SAFETY: all fields of `tm` may be zero; localtime_r fills it and keeps no pointer.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut tm);
        tm
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02},{:03}",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
        at.0.rem_euclid(1_000_000) / 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward_and_print() {
        let before = boot();
        assert!(boot() >= before);
        assert!(wall().0 > 1_600_000_000_000_000);
        let text = local(Wall(1_234_567));
        assert!(text.ends_with(":01,234") && text.len() == 23, "{text}");
    }
}
