//! `synchronous_standby_names`: rendered as Patroni renders it, parsed as PostgreSQL does; and
//! which `/sync` it goes with.

use std::collections::BTreeSet;

use super::cluster::SyncState;

/// How many of the names must confirm a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Those that stand first in the list.
    First,
    /// Any of them (quorum).
    Any,
}

/// The meaning of a non-empty `synchronous_standby_names`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncNames {
    pub kind: Kind,
    pub count: u32,
    /// Names without their quotes; `*` is any standby.
    pub names: Vec<String>,
}

impl SyncNames {
    /// Whether these names and this key intersect: everybody who can win a race under the key has,
    /// or has heard from, a standby that every commit waited for.
    ///
    /// A commit under k of the names S is on the leader and on at least k of S. A winner under
    /// (voters V, quorum q) is at least as advanced as q other voters: together at least q+1 of
    /// V. If |S ∪ V| <= k + q, k of S and q+1 of V have at least one in common, and the winner has
    /// what that one has. (Patroni's condition, too: both kinds of members keep the same key.) With
    /// no voters nobody but the leader itself wins.
    pub fn covers(&self, key: &SyncState) -> bool {
        key.standbys.is_empty()
            || (!self.is_any() && self.union(&key.standbys) <= self.count + key.quorum)
    }

    /// `*`: any standby at all, hence none that could be named.
    pub fn is_any(&self) -> bool {
        self.names.iter().any(|name| name == "*")
    }

    /// How many are in these names or among the others.
    pub fn union(&self, others: &[String]) -> u32 {
        let all: BTreeSet<&String> = self.names.iter().chain(others).collect();
        u32::try_from(all.len()).unwrap_or(u32::MAX)
    }

    /// Text of the parameter.
    pub fn text(&self) -> String {
        render(self.kind, &self.names, self.count)
    }
}

/// PostgreSQL's own words in this place, which need quotes as names.
const WORDS: [&str; 2] = ["any", "first"];

/// Text of the parameter: one name stands alone, several as `2 (a,b)`, a quorum as `ANY 1 (a,b)`.
/// No names with a count of at least one mean "any standby" (strict mode with nobody there).
pub fn render(kind: Kind, names: &[String], count: u32) -> String {
    let list = match names {
        [] if count == 0 => return String::new(),
        [] => "*".to_owned(),
        names if names.iter().any(|name| name == "*") => "*".to_owned(),
        names => names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(","),
    };
    match kind {
        Kind::Any => format!("ANY {} ({list})", count.max(1)),
        Kind::First if names.len() > 1 && list != "*" => format!("{} ({list})", count.max(1)),
        Kind::First => list,
    }
}

fn quote(name: &str) -> String {
    let mut bytes = name.bytes();
    let plain = bytes.next().is_some_and(|b| matches!(b, b'a'..=b'z' | b'_'))
        && bytes.all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        && !WORDS.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Sign(char),
}

/// Parses the parameter; `None` if it is empty (or blank) or PostgreSQL would refuse it.
pub fn parse(text: &str) -> Option<SyncNames> {
    let tokens = tokens(text)?;
    let (kind, rest) = match tokens.as_slice() {
        [Token::Word(word), rest @ ..] if rest.len() > 2 && word.eq_ignore_ascii_case("any") => {
            (Some(Kind::Any), rest)
        }
        [Token::Word(word), rest @ ..] if rest.len() > 2 && word.eq_ignore_ascii_case("first") => {
            (Some(Kind::First), rest)
        }
        all => (None, all),
    };
    match rest {
        [Token::Word(count), Token::Sign('('), list @ .., Token::Sign(')')] => {
            let count = count.parse().ok().filter(|count| *count > 0)?;
            Some(SyncNames { kind: kind.unwrap_or(Kind::First), count, names: names(list)? })
        }
        list if kind.is_none() => {
            Some(SyncNames { kind: Kind::First, count: 1, names: names(list)? })
        }
        _ => None,
    }
}

fn names(list: &[Token]) -> Option<Vec<String>> {
    list.split(|token| *token == Token::Sign(','))
        .map(|part| match part {
            [Token::Word(name) | Token::Quoted(name)] => Some(name.clone()),
            [Token::Sign('*')] => Some("*".to_owned()),
            _ => None,
        })
        .collect()
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => {}
            '(' | ')' | ',' | '*' => tokens.push(Token::Sign(c)),
            '"' => {
                let mut name = String::new();
                loop {
                    match chars.next()? {
                        '"' if chars.next_if_eq(&'"').is_some() => name.push('"'),
                        '"' => break,
                        other => name.push(other),
                    }
                }
                tokens.push(Token::Quoted(name));
            }
            c if is_word(c) => {
                let mut name = c.to_string();
                while let Some(c) = chars.next_if(|c| is_word(*c)) {
                    name.push(c);
                }
                tokens.push(Token::Word(name));
            }
            _ => return None,
        }
    }
    Some(tokens)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn renders_as_patroni_does_and_reads_it_back() {
        let cases = [
            (Kind::First, list(&["beta"]), 1, "beta"),
            (Kind::First, list(&["node-1"]), 1, "\"node-1\""),
            (Kind::First, list(&["a", "B"]), 2, "2 (a,\"B\")"),
            (Kind::First, list(&[]), 1, "*"),
            (Kind::First, list(&["any"]), 1, "\"any\""),
            (Kind::Any, list(&["a", "x\"y"]), 1, "ANY 1 (a,\"x\"\"y\")"),
        ];
        for (kind, names, count, want) in cases {
            let text = render(kind, &names, count);
            assert_eq!(text, want);
            let names = if names.is_empty() { list(&["*"]) } else { names };
            assert_eq!(parse(&text), Some(SyncNames { kind, count, names }), "{text}");
        }
        assert_eq!(render(Kind::First, &[], 0), "");
    }

    #[test]
    fn parses_other_spellings_and_refuses_the_rest() {
        let first = parse("FIRST 2 ( s1 , \"S 2\", s3 )").expect("valid");
        assert_eq!((first.kind, first.count), (Kind::First, 2));
        assert_eq!(first.names, list(&["s1", "S 2", "s3"]));
        assert_eq!(parse("a, b").map(|s| s.count), Some(1));
        for bad in ["", "  ", "a,,b", "0 (a)", "ANY (a)", "\"a", "2 (a", "a b", ";"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
