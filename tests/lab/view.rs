//! `GET /cluster`, read for what a scenario asks.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub number: u8,
    pub role: String,
    pub state: String,
    pub timeline: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub members: Vec<Line>,
    pub paused: bool,
}

impl View {
    pub fn parse(document: &Value) -> Option<View> {
        let lines = document["members"].as_array()?.iter().map(|member| {
            Some(Line {
                number: member["name"].as_str()?.strip_prefix('m')?.parse().ok()?,
                role: member["role"].as_str()?.to_owned(),
                state: member["state"].as_str()?.to_owned(),
                timeline: member["timeline"].as_u64(),
            })
        });
        let paused = document["pause"].as_bool().unwrap_or(false);
        Some(View { members: lines.collect::<Option<_>>()?, paused })
    }

    pub fn leader(&self) -> Option<&Line> {
        self.members.iter().find(|line| line.role == "leader")
    }

    /// All members are there, one leads, all others stream on its timeline; with a synchronous
    /// standby if one is wanted.
    pub fn is_healthy(&self, members: usize, synchronous: bool) -> bool {
        let Some(leader) = self.leader() else { return false };
        let follows = |line: &&Line| {
            line.number != leader.number
                && line.state == "streaming"
                && line.timeline == leader.timeline
        };
        let synchronized = self.members.iter().any(|line| line.role == "sync_standby");
        leader.state == "running"
            && self.members.iter().filter(follows).count() + 1 == members
            && (synchronized || !synchronous)
    }
}
