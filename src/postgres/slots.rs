//! Names of replication slots.

/// PostgreSQL's limit (NAMEDATALEN - 1).
const NAME_MAX: usize = 63;

/// The physical slot of a member, by Patroni's rule: lower case; `-` and `.` become `_`; any
/// other character outside `[a-z0-9_]` becomes `u` and its code point in at least four decimal
/// digits; at most 63 characters. Different members may end up with the same name.
pub fn slot_name(member: &str) -> String {
    let mut name = String::new();
    for c in member.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => name.push(c),
            '-' | '.' => name.push('_'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.truncate(NAME_MAX);
    name
}

/// Whether PostgreSQL accepts this as the name of a slot.
pub fn is_valid(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_patronis_rule() {
        let cases = [
            ("alpha", "alpha"),
            ("PG-node.1", "pg_node_1"),
            ("a b", "au0032b"),
            ("é", "u0233"),
            ("😀", "u128512"),
        ];
        for (member, want) in cases {
            assert_eq!(slot_name(member), want);
            assert!(is_valid(&slot_name(member)));
        }
        assert_eq!(slot_name(&"x".repeat(80)).len(), 63);
        assert!(!is_valid("") && !is_valid("A") && !is_valid(&"x".repeat(64)));
    }
}
