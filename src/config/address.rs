//! Addresses: `host:port`, IPv6 in brackets or not, several hosts before one port.

use std::fmt;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    /// With brackets around an IPv6 address, as in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Splits `host[,host…]:port`; the hosts come without brackets, and may be empty.
///
/// # Errors
/// Says what is wrong, without the key's name.
pub fn parse(text: &str) -> Result<(Vec<String>, u16), String> {
    let Some((hosts, port)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` has no port: write host:port"));
    };
    let number = port.trim().parse::<u32>();
    let number = number.map_err(|_| format!("`{port}` is not a port number: write host:port"))?;
    let port = u16::try_from(number).ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| format!("port {number} is out of range (1 to 65535)"))?;
    Ok((hosts.split(',').map(bare).collect(), port))
}

/// One host with a port, or with `default` if the text has none.
///
/// # Errors
/// As `parse`; also more than one host.
pub fn endpoint(text: &str, default: Option<u16>) -> Result<Endpoint, String> {
    let lone = |host: &str| host.starts_with('[') && host.ends_with(']') || !host.contains(':');
    if let Some(port) = default.filter(|_| lone(text.trim())) {
        return Ok(Endpoint { host: bare(text), port });
    }
    let (mut hosts, port) = parse(text)?;
    match (hosts.pop(), hosts.is_empty()) {
        (Some(host), true) => Ok(Endpoint { host, port }),
        _ => Err(format!("`{text}` names several hosts, one is needed")),
    }
}

fn bare(host: &str) -> String {
    host.trim().trim_start_matches('[').trim_end_matches(']').to_owned()
}
