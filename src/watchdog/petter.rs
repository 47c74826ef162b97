//! The thread that enters the driver. A ping may take seconds (a BMC), so the supervisor's loop
//! never does it itself: it sends commands and gets reports, both over a socket pair and without
//! waiting. The thread allocates nothing and takes no lock, so that the loop may fork at any time.
//!
//! It decides nothing but this: a ping with proof is not given once the proof is older than it may
//! be (`Budget::proof`). It looks after it has woken up, right before it enters the driver.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::device::{Device, Failure, Step};
use crate::core::time::Boot;
use crate::sys::{clock, fd, process, realtime};

const STACK_BYTES: usize = 128 * 1024;
/// A device that cannot be stopped is pinged so often while nobody wants it to count.
const IDLE_EVERY: Duration = Duration::from_millis(500);
/// Numbers in a message.
const WORDS: usize = 6;

/// What the device is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Arm {
        timeout_s: u32,
    },
    /// `proof`: when the renewal was sent, and how old it may be.
    Ping {
        timeout_s: u32,
        proof: Option<(Boot, Duration)>,
    },
    Disarm,
    /// For good; the thread ends.
    Close,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Armed {
        at: Boot,
    },
    Pinged {
        at: Boot,
    },
    /// The proof had grown too old.
    Withheld,
    Failed(Failure),
    /// `endless`: it cannot be stopped, and is pinged on.
    Disarmed {
        endless: bool,
    },
    Closed,
}

/// How the thread runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Real-time priority, if it is granted.
    pub priority: i32,
    /// Bound to one processor, which the sentinel keeps away from: softdog's timer lives where the
    /// pinging thread runs and dies with that processor.
    pub pin: bool,
}

/// The loop's end.
#[derive(Debug)]
pub struct Petter {
    link: OwnedFd,
    seq: u64,
}

impl Petter {
    /// Starts the thread, which owns the device from now on.
    pub fn start(device: Device, options: Options) -> io::Result<Petter> {
        let (ours, theirs) = fd::seqpacket_pair()?;
        // Signals are the loop's.
        process::without_signals(|| {
            let thread = std::thread::Builder::new().name("pgvigil-petter".into());
            thread.stack_size(STACK_BYTES).spawn(move || serve(device, &theirs, options))
        })??;
        Ok(Petter { link: ours, seq: 0 })
    }

    /// Never waits. An error: the thread is so far behind that its inbox is full.
    pub fn send(&mut self, command: Command) -> io::Result<()> {
        self.seq += 1;
        let words = encode(self.seq, command);
        send(
            self.link.as_raw_fd(),
            &bytes(words),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        )?;
        Ok(())
    }

    /// The next report, and whether it answers the last command.
    pub fn take(&mut self) -> Option<(Report, bool)> {
        let words = receive(&self.link).ok()?;
        Some((report_of(words)?, words[0] == self.seq))
    }

    /// Waits for the answer to the last command; only at the start and at the end of a process.
    pub fn wait(&mut self, within: Duration) -> Option<Report> {
        let until = clock::boot().plus(within);
        loop {
            match self.take() {
                Some((report, true)) => return Some(report),
                Some(_) => {}
                None => {
                    let left = until.since(clock::boot());
                    if left.is_zero() || !readable(&self.link, Some(left)) {
                        return None;
                    }
                }
            }
        }
    }
}

impl AsFd for Petter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

fn serve(mut device: Device, link: &OwnedFd, options: Options) {
    // Where these are not granted it works all the same.
    let _ = realtime::prioritize(options.priority);
    if options.pin {
        let _ = realtime::bind(realtime::Processors::First);
    }
    let mut wanted = false;
    loop {
        let idles = device.is_endless() && !wanted;
        if !readable(link, idles.then_some(IDLE_EVERY)) {
            if idles {
                device.idle();
            }
            continue;
        }
        let words = match receive(link) {
            Ok(words) => words,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            // The loop is gone. At this priority to try again would stop the processor.
            Err(_) => return,
        };
        let Some(command) = command_of(words) else { continue };
        let report = obey(&mut device, command);
        wanted = matches!(command, Command::Arm { .. } | Command::Ping { .. });
        let answer = bytes(encode_report(words[0], report));
        let _ = send(link.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL);
        if command == Command::Close {
            return;
        }
    }
}

fn obey(device: &mut Device, command: Command) -> Report {
    match command {
        Command::Arm { timeout_s } => match device.arm(timeout_s) {
            Ok(()) => Report::Armed { at: clock::boot() },
            Err(failure) => {
                device.disarm();
                Report::Failed(failure)
            }
        },
        Command::Ping { proof: Some((sent_at, g)), .. } if clock::boot().since(sent_at) > g => {
            Report::Withheld
        }
        Command::Ping { timeout_s, .. } => match device.ping(timeout_s) {
            Ok(()) => Report::Pinged { at: clock::boot() },
            Err(failure) => Report::Failed(failure),
        },
        Command::Disarm => Report::Disarmed { endless: !device.disarm() },
        Command::Close => {
            device.close();
            Report::Closed
        }
    }
}

/// False: not within this time.
fn readable(link: &OwnedFd, within: Option<Duration>) -> bool {
    let timeout =
        within.map_or(PollTimeout::NONE, |d| PollTimeout::try_from(d).unwrap_or(PollTimeout::MAX));
    poll(&mut [PollFd::new(link.as_fd(), PollFlags::POLLIN)], timeout) == Ok(1)
}

type Words = [u64; WORDS];

fn bytes(words: Words) -> [u8; WORDS * 8] {
    let mut out = [0; WORDS * 8];
    for (to, word) in out.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
    out
}

fn receive(link: &OwnedFd) -> Result<Words, Errno> {
    let mut buffer = [0; WORDS * 8];
    if recv(link.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)? != buffer.len() {
        return Err(Errno::EPIPE);
    }
    let mut words = [0; WORDS];
    for (to, from) in words.iter_mut().zip(buffer.as_chunks().0) {
        *to = u64::from_le_bytes(*from);
    }
    Ok(words)
}

fn encode(seq: u64, command: Command) -> Words {
    match command {
        Command::Arm { timeout_s } => [seq, 1, timeout_s.into(), 0, 0, 0],
        Command::Ping { timeout_s, proof: None } => [seq, 2, timeout_s.into(), 0, 0, 0],
        Command::Ping { timeout_s, proof: Some((sent_at, g)) } => {
            let g = u64::try_from(g.as_nanos()).unwrap_or(u64::MAX);
            [seq, 2, timeout_s.into(), 1, sent_at.0, g]
        }
        Command::Disarm => [seq, 3, 0, 0, 0, 0],
        Command::Close => [seq, 4, 0, 0, 0, 0],
    }
}

fn command_of([_, kind, timeout_s, proven, sent_at, g]: Words) -> Option<Command> {
    let timeout_s = u32::try_from(timeout_s).ok()?;
    let proof = (proven == 1).then_some((Boot(sent_at), Duration::from_nanos(g)));
    match kind {
        1 => Some(Command::Arm { timeout_s }),
        2 => Some(Command::Ping { timeout_s, proof }),
        3 => Some(Command::Disarm),
        4 => Some(Command::Close),
        _ => None,
    }
}

const STEPS: [Step; 5] =
    [Step::SetTimeout, Step::OtherTimeout, Step::Enable, Step::NotActive, Step::Ping];

fn encode_report(seq: u64, report: Report) -> Words {
    match report {
        Report::Armed { at } => [seq, 1, at.0, 0, 0, 0],
        Report::Pinged { at } => [seq, 2, at.0, 0, 0, 0],
        Report::Withheld => [seq, 3, 0, 0, 0, 0],
        Report::Failed(Failure { step, number }) => {
            let step = STEPS.iter().position(|known| *known == step).unwrap_or_default();
            [seq, 4, step as u64, u64::from(number.cast_unsigned()), 0, 0]
        }
        Report::Disarmed { endless } => [seq, 5, endless.into(), 0, 0, 0],
        Report::Closed => [seq, 6, 0, 0, 0, 0],
    }
}

fn report_of([_, kind, first, second, ..]: Words) -> Option<Report> {
    match kind {
        1 => Some(Report::Armed { at: Boot(first) }),
        2 => Some(Report::Pinged { at: Boot(first) }),
        3 => Some(Report::Withheld),
        4 => {
            let step = *STEPS.get(usize::try_from(first).ok()?)?;
            let number = u32::try_from(second).ok()?.cast_signed();
            Some(Report::Failed(Failure { step, number }))
        }
        5 => Some(Report::Disarmed { endless: first == 1 }),
        6 => Some(Report::Closed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::tests::Fake;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn start(fake: &Fake) -> Petter {
        let device = Device::new(Box::new(fake.clone())).unwrap().0;
        Petter::start(device, Options { priority: 1, pin: true }).unwrap()
    }

    fn ask(petter: &mut Petter, command: Command) -> Report {
        petter.send(command).unwrap();
        petter.wait(PATIENCE).unwrap()
    }

    #[test]
    fn the_thread_does_what_it_is_told_and_reports() {
        let fake = Fake::default();
        let mut petter = start(&fake);
        let before = clock::boot();
        let armed = ask(&mut petter, Command::Arm { timeout_s: 4 });
        assert!(matches!(armed, Report::Armed { at } if at >= before));
        let fresh = Some((clock::boot(), PATIENCE));
        let ping = |proof| Command::Ping { timeout_s: 4, proof };
        assert!(matches!(ask(&mut petter, ping(fresh)), Report::Pinged { .. }));
        assert!(matches!(ask(&mut petter, ping(None)), Report::Pinged { .. }));
        let old = Some((clock::boot().minus(Duration::from_millis(2)), Duration::from_millis(1)));
        assert_eq!(ask(&mut petter, ping(old)), Report::Withheld);
        assert_eq!(ask(&mut petter, Command::Disarm), Report::Disarmed { endless: false });
        assert_eq!(fake.calls(), "t4EkkkD");
        fake.0.lock().unwrap().dead = true;
        let report = ask(&mut petter, Command::Arm { timeout_s: 4 });
        assert_eq!(report, Report::Failed(Failure { step: Step::Ping, number: libc::EIO }));
        assert_eq!(ask(&mut petter, Command::Close), Report::Closed);
        assert_eq!(fake.calls(), "t4EkDDV", "disarmed again after the failure, then closed");
    }

    #[test]
    fn only_the_last_command_is_answered_by_what_counts() {
        let fake = Fake::default();
        let mut petter = start(&fake);
        petter.send(Command::Arm { timeout_s: 4 }).unwrap();
        petter.send(Command::Disarm).unwrap();
        assert_eq!(petter.wait(PATIENCE), Some(Report::Disarmed { endless: false }));
    }

    #[test]
    fn what_cannot_be_stopped_is_pinged_while_nobody_wants_it() {
        let fake = Fake::with(|inner| (inner.nowayout, inner.active) = (true, true));
        let mut petter = start(&fake);
        assert_eq!(ask(&mut petter, Command::Disarm), Report::Disarmed { endless: true });
        let until = clock::boot().plus(PATIENCE);
        while !fake.0.lock().unwrap().calls.starts_with("Dkk") {
            assert!(clock::boot() < until);
            std::thread::sleep(Duration::from_millis(20));
        }
        ask(&mut petter, Command::Arm { timeout_s: 4 });
        fake.calls();
        std::thread::sleep(IDLE_EVERY * 2);
        assert_eq!(fake.calls(), "", "by proof only from here on");
    }
}
