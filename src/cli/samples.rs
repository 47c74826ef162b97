//! Captured clusters and members that answer from a script, for tests.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use crate::core::cluster::Cluster;
use crate::dcs::Key;
use crate::dcs::documents::{self, Entry};

/// A file of `tests/data/patronictl`.
macro_rules! captured {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/patronictl/", $name))
    };
}
pub(crate) use captured;

/// The cluster that these keys make: one a line, name and value with a tab between them.
pub fn cluster(keys: &str) -> Cluster {
    let entry = |line: &str| {
        let (name, value) = line.split_once('\t').unwrap();
        let key = Key::parse(name).unwrap();
        Entry { key, value: value.as_bytes().to_vec(), mod_revision: 7, lease_id: 0 }
    };
    let entries: Vec<Entry> = keys.lines().map(entry).collect();
    documents::cluster(&entries)
}

/// A member's REST API: gives the scripted answers in their order, one a connection. The requests
/// come back from `join`, first line and body.
pub fn member_api(answers: &[(u16, &str)]) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/patroni", listener.local_addr().unwrap());
    let answers: Vec<(u16, String)> = answers.iter().map(|(s, t)| (*s, t.to_string())).collect();
    let serve = move || {
        let mut requests = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            requests.push(read_request(&mut stream));
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
        requests
    };
    (url, thread::spawn(serve))
}

fn read_request(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the request broke off");
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header =
            |line: &str| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok();
        let length: usize = head.lines().find_map(header).unwrap_or(0);
        if body.len() >= length {
            let first = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
            return format!("{first} {body}").trim().to_owned();
        }
    }
}
