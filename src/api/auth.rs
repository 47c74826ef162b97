//! Who may change something: addresses first, then the certificate, then name and password, as
//! Patroni checks them.

use std::fmt;
use std::hint::black_box;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Names in the list are looked up by few requests at a time: strangers cause these look-ups.
static LOOKUPS: Semaphore = Semaphore::const_new(4);
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// A name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl Credentials {
    /// The value of the header `Authorization`.
    pub fn header(&self) -> String {
        format!("Basic {}", base64(format!("{}:{}", self.username, self.password).as_bytes()))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The rules for requests that change something. The default lets everybody in.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Empty and without `include_members`: every address may.
    pub allowlist: Vec<Allowed>,
    /// The hosts of the members' `api_url` may, too.
    pub include_members: bool,
    pub credentials: Option<Credentials>,
    /// A client certificate is needed (`restapi.verify_client`).
    pub certificate: bool,
}

impl Access {
    /// Whether this address may ask. `members` are the hosts of the members' `api_url`; `None`:
    /// they shall not count, as if `include_members` were off.
    pub async fn admits(&self, peer: IpAddr, members: Option<&[String]>) -> bool {
        let members = members.filter(|_| self.include_members);
        if self.allowlist.is_empty() && members.is_none() {
            return true;
        }
        let peer = peer.to_canonical();
        let mut names = Vec::new();
        for allowed in &self.allowlist {
            match allowed {
                Allowed::Network(network) if network.contains(peer) => return true,
                Allowed::Network(_) => {}
                Allowed::Host(name) => names.push(name.as_str()),
            }
        }
        for host in members.unwrap_or_default() {
            match host.parse::<IpAddr>() {
                Ok(address) if address.to_canonical() == peer => return true,
                Ok(_) => {}
                Err(_) => names.push(host),
            }
        }
        !names.is_empty() && timeout(LOOKUP_MAX, resolves(&names, peer)).await.unwrap_or(false)
    }

    /// `Err` is Patroni's text for a header that does not prove the credentials.
    pub fn authenticates(&self, header: Option<&[u8]>) -> Result<(), &'static str> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let given = header.ok_or("no auth header received")?;
        if same(given, credentials.header().as_bytes()) { Ok(()) } else { Err("not authenticated") }
    }
}

async fn resolves(names: &[&str], peer: IpAddr) -> bool {
    let Ok(_permit) = LOOKUPS.acquire().await else { return false };
    for name in names {
        if let Ok(mut found) = tokio::net::lookup_host((*name, 0)).await
            && found.any(|address| address.ip().to_canonical() == peer)
        {
            return true;
        }
    }
    false
}

/// One entry of `restapi.allowlist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    Network(Network),
    /// Looked up when a request comes.
    Host(String),
}

/// An address with the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn contains(self, peer: IpAddr) -> bool {
        match (self.address, peer) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                shifted(u128::from(a.to_bits() ^ b.to_bits()), 32 - self.bits) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                shifted(a.to_bits() ^ b.to_bits(), 128 - self.bits) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn shifted(difference: u128, by: u8) -> u128 {
    difference.checked_shr(u32::from(by)).unwrap_or(0)
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("restapi.allowlist: {0:?} is neither an address, a network (10.0.0.0/8) nor a host name")]
pub struct AllowedParseError(String);

impl FromStr for Allowed {
    type Err = AllowedParseError;

    fn from_str(text: &str) -> Result<Allowed, AllowedParseError> {
        let error = || AllowedParseError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = match (address.parse::<IpAddr>(), bits) {
            (Ok(address), _) => address,
            (Err(_), None) if is_host_name(text) => return Ok(Allowed::Host(text.to_owned())),
            (Err(_), _) => return Err(error()),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |b| b.parse::<u8>().map_err(|_| error()))?;
        if bits > most {
            return Err(error());
        }
        Ok(Allowed::Network(Network { address, bits }))
    }
}

fn is_host_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.len() <= 253 && text.chars().all(allowed)
}

/// Compares in a time that tells nothing but the lengths.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && black_box(a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y))) == 0
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * i)) as usize & 63];
            out.push(if i > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_base64() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("\u{ff}>?", "w78+Pw==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn checks_name_and_password() {
        let credentials = Credentials { username: "admin".into(), password: "s:x".into() };
        assert!(!format!("{credentials:?}").contains("s:x"));
        let access = Access { credentials: Some(credentials.clone()), ..Access::default() };
        let good = credentials.header();
        assert_eq!(access.authenticates(Some(good.as_bytes())), Ok(()));
        assert_eq!(access.authenticates(None), Err("no auth header received"));
        for bad in ["", "Basic", "Basic ", &good[..good.len() - 1], &good.replace("Basic", "basic")]
        {
            assert_eq!(access.authenticates(Some(bad.as_bytes())), Err("not authenticated"));
        }
        assert_eq!(Access::default().authenticates(None), Ok(()));
    }

    #[tokio::test]
    async fn admits_listed_addresses_and_members() {
        let list = |entries: &[&str]| Access {
            allowlist: entries.iter().map(|e| e.parse().unwrap()).collect(),
            ..Access::default()
        };
        let cases: [(&[&str], &str, bool); 9] = [
            (&[], "10.0.0.1", true),
            (&["10.0.0.0/8"], "10.9.9.9", true),
            (&["10.0.0.0/8"], "11.0.0.1", false),
            (&["10.0.0.1"], "::ffff:10.0.0.1", true),
            (&["10.0.0.1"], "10.0.0.2", false),
            (&["0.0.0.0/0"], "::1", false),
            (&["::/0"], "::1", true),
            (&["fe80::/10"], "febf::1", true),
            (&["fe80::/10"], "fec0::1", false),
        ];
        for (entries, peer, expected) in cases {
            let admitted = list(entries).admits(peer.parse().unwrap(), Some(&[])).await;
            assert_eq!(admitted, expected, "{entries:?} {peer}");
        }
        let members = Access { include_members: true, ..Access::default() };
        let hosts = ["10.0.0.1".to_owned()];
        assert!(members.admits("10.0.0.1".parse().unwrap(), Some(&hosts)).await);
        assert!(!members.admits("10.0.0.2".parse().unwrap(), Some(&hosts)).await);
        assert!(members.admits("10.0.0.2".parse().unwrap(), None).await);
    }

    #[test]
    fn refuses_what_is_no_address() {
        for bad in ["", "10.0.0.0/33", "10.0.0.0/x", "host/8", "a b", "::/129"] {
            assert!(bad.parse::<Allowed>().is_err(), "{bad:?}");
        }
        assert_eq!("db1.example".parse(), Ok(Allowed::Host("db1.example".into())));
    }
}
