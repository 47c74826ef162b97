//! The two lines into a virtual machine: QMP for its hardware, and the shell on its virtio port
//! (`vm-shell` in image.sh) for what runs in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::lab::wait::wait_until;

/// A device's own act, as QEMU tells it.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it happened, by QEMU's own stamp, on this machine's monotonic clock.
    pub at: Instant,
    pub name: String,
}

/// The machine protocol: commands, and a record of all events.
pub struct Qmp {
    stream: UnixStream,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Qmp {
    pub fn connect(path: &Path) -> Qmp {
        let stream = connect(path);
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let (lines, record) = (BufReader::new(stream.try_clone().expect("a socket")), &events);
        let record = record.clone();
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let message: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(name) = message["event"].as_str() {
                    let event = Event { at: stamp(&message["timestamp"]), name: name.to_owned() };
                    record.lock().expect("events").push(event);
                }
            }
        });
        let qmp = Qmp { stream, events };
        qmp.send("qmp_capabilities");
        qmp
    }

    pub fn send(&self, command: &str) {
        let line = format!("{}\n", json!({ "execute": command }));
        (&self.stream).write_all(line.as_bytes()).expect("QMP");
    }

    /// Events of this name from then on, oldest first.
    pub fn events(&self, name: &str, since: Instant) -> Vec<Event> {
        let events = self.events.lock().expect("events");
        events.iter().filter(|event| event.name == name && event.at >= since).cloned().collect()
    }
}

/// QEMU stamps with the wall clock; both clocks are read here at one instant.
fn stamp(timestamp: &Value) -> Instant {
    let part = |name: &str| timestamp[name].as_u64().unwrap_or_default();
    let wall = Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"));
    let age = SystemTime::now().duration_since(UNIX_EPOCH + wall).unwrap_or_default();
    Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
}

/// What a command in the guest ended with.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: i32,
    pub output: String,
}

/// Commands for the guest, one at a time.
pub struct Shell {
    stream: UnixStream,
    answers: Mutex<mpsc::Receiver<(String, Answer)>>,
    /// The boot id that each boot said when its shell began.
    boots: Arc<Mutex<Vec<String>>>,
    tag: AtomicU64,
}

impl Shell {
    pub fn connect(path: &Path) -> Shell {
        let stream = connect(path);
        let (sender, answers) = mpsc::channel();
        let boots: Arc<Mutex<Vec<String>>> = Arc::default();
        let (bytes, said) = (stream.try_clone().expect("a socket"), boots.clone());
        thread::spawn(move || read_messages(bytes, &sender, &said));
        Shell { stream, answers: Mutex::new(answers), boots, tag: AtomicU64::new(0) }
    }

    /// How often the guest has come up, as far as its shell.
    pub fn boots(&self) -> usize {
        self.boots.lock().expect("boots").len()
    }

    /// Runs a bash command as root. `None`: no answer in time, perhaps because the machine is
    /// gone. What it starts in the background must not keep its output open.
    pub fn run(&self, command: &str, within: Duration) -> Option<Answer> {
        let answers = self.answers.lock().expect("answers");
        let tag = self.tag.fetch_add(1, Ordering::Relaxed).to_string();
        let until = Instant::now() + within;
        (&self.stream).write_all(format!("{tag}\0{command}\0").as_bytes()).ok()?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (of, answer) = answers.recv_timeout(left).ok()?;
            if of == tag {
                return Some(answer);
            }
        }
    }
}

/// Messages of three fields. A reset cuts one off anywhere; the next boot's first one is marked.
fn read_messages(
    stream: UnixStream,
    answers: &mpsc::Sender<(String, Answer)>,
    boots: &Mutex<Vec<String>>,
) {
    let mut fields: Vec<String> = Vec::new();
    let mut bytes = Vec::new();
    let mut stream = BufReader::new(stream);
    while stream.read_until(0, &mut bytes).is_ok_and(|read| read > 0) {
        let field = String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(&bytes));
        if field == "\u{2}hello" {
            fields.clear();
        }
        fields.push(field.into_owned());
        bytes.clear();
        if let [tag, status, output] = &fields[..] {
            if tag == "\u{2}hello" {
                boots.lock().expect("boots").push(output.clone());
            } else {
                let status = status.parse().unwrap_or(-1);
                let answer = Answer { status, output: output.clone() };
                let _ = answers.send((tag.clone(), answer));
            }
            fields.clear();
        }
    }
}

/// QEMU's remote debugger: the one way to take interrupts from a processor without a module that
/// would have to fit the guest's kernel.
pub struct Debugger {
    stream: UnixStream,
}

/// Numbers of the registers in QEMU's description of x86-64.
const RIP: u8 = 16;
const EFLAGS: u8 = 17;
/// `IF` of EFLAGS; bit 1 is always set.
const INTERRUPTS_OFF: u32 = 0x2;
/// `jmp .`
const LOOP: &str = "ebfe";

impl Debugger {
    /// Attaching stops the machine, and its clock with it.
    pub fn attach(path: &Path) -> Debugger {
        let mut debugger = Debugger { stream: connect(path) };
        let limit = Some(Duration::from_secs(10));
        debugger.stream.set_read_timeout(limit).expect("a time limit");
        // QEMU answers for single registers only to those who have read their description.
        debugger.ask("qXfer:features:read:target.xml:0,ffb");
        debugger
    }

    /// Each processor in turn: an endless loop where it stands, interrupts off. Then the machine
    /// goes on, and does nothing any more.
    pub fn hang(mut self, processors: u8) {
        for processor in 1..=processors {
            self.ask(&format!("Hg{processor:x}"));
            let address = little_endian(&self.ask(&format!("p{RIP:x}")));
            let written = self.ask(&format!("M{address:x},2:{LOOP}"));
            assert_eq!(written, "OK", "the loop at {address:x} of processor {processor}");
            let flags = hex(&INTERRUPTS_OFF.to_le_bytes());
            assert_eq!(self.ask(&format!("P{EFLAGS:x}={flags}")), "OK", "EFLAGS");
            let read = little_endian(&self.ask(&format!("p{EFLAGS:x}")));
            assert_eq!(read & 0x200, 0, "interrupts are off on processor {processor}");
        }
        self.ask("D");
    }

    fn ask(&mut self, command: &str) -> String {
        let sum = command.bytes().fold(0u8, u8::wrapping_add);
        self.stream.write_all(format!("${command}#{sum:02x}").as_bytes()).expect("debugger");
        loop {
            let answer = self.packet();
            // That the machine stopped is said unasked.
            if !answer.starts_with('T') {
                return answer;
            }
        }
    }

    fn packet(&mut self) -> String {
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        let mut inside = false;
        loop {
            self.stream.read_exact(&mut byte).expect("an answer of the debugger");
            match byte[0] {
                b'$' => inside = true,
                b'#' if inside => break,
                other if inside => bytes.push(other),
                _ => {}
            }
        }
        self.stream.read_exact(&mut [0; 2]).expect("its checksum");
        self.stream.write_all(b"+").expect("debugger");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn little_endian(text: &str) -> u64 {
    let bytes = (0..text.len() / 2).map(|i| u64::from_str_radix(&text[2 * i..2 * i + 2], 16));
    bytes.enumerate().fold(0, |sum, (i, byte)| sum | byte.expect("hexadecimal") << (8 * i))
}

fn connect(path: &Path) -> UnixStream {
    wait_until("QEMU's socket", Duration::from_secs(30), || UnixStream::connect(path).ok())
}
