//! libpq connection strings, both spellings.

use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    #[error("connection string: no '=' after {0:?}")]
    NoEquals(String),
    #[error("connection string: a quoted value does not end")]
    OpenQuote,
    #[error("connection URL: {0}")]
    Url(&'static str),
}

/// A keyword/value string in the order given; values are quoted only where needed.
pub fn build<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        let separator = if text.is_empty() { "" } else { " " };
        text.push_str(separator);
        text.push_str(key.as_ref());
        text.push('=');
        text.push_str(&quote(value.as_ref()));
    }
    text
}

fn quote(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
    if value.is_empty() || escaped != value || value.contains(char::is_whitespace) {
        format!("'{escaped}'")
    } else {
        escaped
    }
}

/// Where a standby streams from, as `primary_conninfo` needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream<'a> {
    pub host: &'a str,
    pub port: u16,
    pub user: Option<&'a str>,
    pub passfile: Option<&'a str>,
    /// The member's name: `synchronous_standby_names` refers to it.
    pub application_name: Option<&'a str>,
    /// `sslmode` and the other options of `authentication.replication`.
    pub options: &'a BTreeMap<String, String>,
}

impl Upstream<'_> {
    /// The pairs in Patroni's order; options win over the defaults.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let set = |key: &str, default: &str| {
            let value = self.options.get(key).map_or(default, String::as_str);
            (key.to_owned(), value.to_owned())
        };
        let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut pairs = vec![set("dbname", "postgres")];
        pairs.extend(self.user.map(|user| own("user", user)));
        pairs.extend(self.passfile.map(|path| own("passfile", path)));
        pairs.push(own("host", self.host));
        pairs.push(own("port", &self.port.to_string()));
        pairs.push(set("sslmode", "prefer"));
        pairs.extend(self.application_name.map(|name| own("application_name", name)));
        pairs.push(set("gssencmode", "prefer"));
        pairs.push(set("channel_binding", "prefer"));
        for (key, value) in self.options {
            if !pairs.iter().any(|(known, _)| known == key) && key != "password" {
                pairs.push(own(key, value));
            }
        }
        pairs
    }

    pub fn conninfo(&self) -> String {
        build(&self.pairs())
    }
}

/// Parses either spelling. A host list of a URL stays one comma-separated value.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, ConninfoError> {
    let url = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    match url {
        Some(rest) => parse_url(rest),
        None => parse_pairs(text),
    }
}

fn parse_pairs(text: &str) -> Result<BTreeMap<String, String>, ConninfoError> {
    let mut pairs = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| ConninfoError::NoEquals(rest.chars().take(40).collect()))?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(ConninfoError::NoEquals(key.chars().take(40).collect()));
        }
        let (value, after) = parse_value(after.trim_start())?;
        pairs.insert(key.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn parse_value(text: &str) -> Result<(String, &str), ConninfoError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(ConninfoError::OpenQuote) } else { Ok((value, "")) }
}

fn parse_url(rest: &str) -> Result<BTreeMap<String, String>, ConninfoError> {
    let mut pairs = BTreeMap::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            pairs.insert(key.to_owned(), value);
        }
    };
    put("user", decode(user)?);
    put("password", decode(password)?);
    put("dbname", decode(database)?);
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = split_port(host)?;
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    put("host", if names.iter().all(String::is_empty) { String::new() } else { names.join(",") });
    put("port", if ports.iter().all(String::is_empty) { String::new() } else { ports.join(",") });
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or(ConninfoError::Url("an option has no '='"))?;
        put(&decode(key)?, decode(value)?);
    }
    Ok(pairs)
}

/// `host`, `host:port`, `[::1]:port`.
fn split_port(host: &str) -> Result<(&str, &str), ConninfoError> {
    let Some(inside) = host.strip_prefix('[') else {
        return Ok(host.split_once(':').unwrap_or((host, "")));
    };
    let (name, port) =
        inside.split_once(']').ok_or(ConninfoError::Url("an IPv6 address does not end"))?;
    match (port, port.strip_prefix(':')) {
        ("", _) => Ok((name, "")),
        (_, Some(port)) => Ok((name, port)),
        _ => Err(ConninfoError::Url("text between an IPv6 address and its port")),
    }
}

fn decode(text: &str) -> Result<String, ConninfoError> {
    let bad = ConninfoError::Url("a percent sign that does not start a UTF-8 character");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad) };
        bytes.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(bytes).map_err(|_| bad)
}

/// `postgres://host:port/postgres`, as members publish it.
pub fn url(host: &str, port: u16, database: &str) -> String {
    let mut text = String::from("postgres://");
    let bracket = host.contains(':') && !host.starts_with('[');
    let (open, close) = if bracket { ("[", "]") } else { ("", "") };
    write!(text, "{open}{host}{close}:{port}/{database}").expect("invariant: String never fails");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_conninfo_is_patronis() {
        let options = BTreeMap::from([("sslmode".to_owned(), "require".to_owned())]);
        let upstream = Upstream {
            host: "127.0.0.1",
            port: 5432,
            user: Some("replicator"),
            passfile: Some("/home/pg pass"),
            application_name: Some("beta"),
            options: &options,
        };
        let text = upstream.conninfo();
        assert_eq!(
            text,
            "dbname=postgres user=replicator passfile='/home/pg pass' host=127.0.0.1 port=5432 \
             sslmode=require application_name=beta gssencmode=prefer channel_binding=prefer"
        );
        let parsed = parse(&text).expect("valid");
        assert_eq!(parsed.len(), 9);
        assert_eq!(parsed["passfile"], "/home/pg pass");
    }

    #[test]
    fn values_survive_quoting() {
        for value in ["", "plain", "a b", "it's", "back\\slash", "a'\\ b", "ü"] {
            let text = build(&[("k", value), ("x", "1")]);
            let parsed = parse(&text).expect("valid");
            assert_eq!(parsed["k"], value, "{text}");
            assert_eq!(parsed["x"], "1");
        }
        assert_eq!(parse("host=a  port = 1"), parse("port='1' host=a"));
        for bad in ["host", "=x", "a b=c", "k='x"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn urls() {
        let parsed = parse("postgres://u%40:p%3A@[::1]:5433/db?sslmode=require&x=a%20b");
        let parsed = parsed.expect("valid");
        let want = [
            ("dbname", "db"),
            ("host", "::1"),
            ("password", "p:"),
            ("port", "5433"),
            ("sslmode", "require"),
            ("user", "u@"),
            ("x", "a b"),
        ];
        assert_eq!(parsed, want.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(parse("postgresql://a,b:2/").expect("valid")["port"], ",2");
        for bad in ["postgres://%zz", "postgres://[::1", "postgres://[::1]x", "postgres:///?a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(url("::1", 5432, "postgres"), "postgres://[::1]:5432/postgres");
    }
}
