//! The names of the keys below a cluster's prefix: Patroni's, and three of our own.

/// A key below the prefix `/<namespace>/<scope>/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Leader,
    /// `members/<name>`.
    Member(String),
    Initialize,
    Config,
    Status,
    /// `optime/leader`: the position alone, for members older than Patroni 2.1.0.
    OptimeLeader,
    Failover,
    Sync,
    History,
    Failsafe,
    /// `vigil/handover`, unknown to Patroni: the sealed leader's note for its successor.
    Handover,
    /// `vigil/pause`, unknown to Patroni: the leader's record that its deadline is suspended.
    PauseRecord,
    /// `vigil/timeline`, unknown to Patroni: the greatest timeline number that was given out.
    Timeline,
}

const MEMBERS: &str = "members/";

impl Key {
    /// Every key but the members'.
    pub const FIXED: [Key; 12] = [
        Key::Leader,
        Key::Initialize,
        Key::Config,
        Key::Status,
        Key::OptimeLeader,
        Key::Failover,
        Key::Sync,
        Key::History,
        Key::Failsafe,
        Key::Handover,
        Key::PauseRecord,
        Key::Timeline,
    ];

    /// The key's name below the prefix.
    pub fn name(&self) -> String {
        match self {
            Key::Leader => "leader".into(),
            Key::Member(name) => format!("{MEMBERS}{name}"),
            Key::Initialize => "initialize".into(),
            Key::Config => "config".into(),
            Key::Status => "status".into(),
            Key::OptimeLeader => "optime/leader".into(),
            Key::Failover => "failover".into(),
            Key::Sync => "sync".into(),
            Key::History => "history".into(),
            Key::Failsafe => "failsafe".into(),
            Key::Handover => "vigil/handover".into(),
            Key::PauseRecord => "vigil/pause".into(),
            Key::Timeline => "vigil/timeline".into(),
        }
    }

    /// The key that has this name below the prefix; `None` for what is not ours to read (a Citus
    /// group, a stray key).
    pub fn parse(name: &str) -> Option<Key> {
        let Some(member) = name.strip_prefix(MEMBERS) else {
            return Key::FIXED.into_iter().find(|key| key.name() == name);
        };
        (!member.is_empty() && !member.contains('/')).then(|| Key::Member(member.into()))
    }

    /// The key as the store knows it.
    pub(super) fn path(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_as_its_key() {
        let names: std::collections::BTreeSet<String> = Key::FIXED.iter().map(Key::name).collect();
        assert_eq!(names.len(), Key::FIXED.len());
        let keys = Key::FIXED.into_iter().chain([Key::Member("alpha".into())]);
        for key in keys {
            assert_eq!(Key::parse(&key.name()), Some(key));
        }
    }

    #[test]
    fn foreign_names_are_nobodys_key() {
        for name in ["", "members/", "members/a/b", "0/leader", "Leader", "leader/"] {
            assert_eq!(Key::parse(name), None, "{name}");
        }
    }
}
