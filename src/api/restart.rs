//! Commands that concern this member alone: restart and reinitialize, as far as they are pure.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::core::time::Wall;

use super::snapshot::{Reply, Snapshot};
use super::{peer, quantity, schedule};

/// What `POST /restart` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartPlan {
    /// `primary`, `standby_leader` or `replica`: restart only if that is the member's role.
    pub role: Option<String>,
    /// `server_version_num`: restart only a server older than this.
    pub older_than: Option<u32>,
    /// Restart only if parameters wait for it.
    pub if_pending: bool,
    pub timeout: Option<Duration>,
    pub schedule: Option<Wall>,
    /// The request as it is published while it waits, `schedule` in ISO 8601.
    published: Map<String, Value>,
}

impl RestartPlan {
    /// Whether the conditions hold. `server_version` is 0 when the server does not answer.
    pub fn matches(&self, role: &str, server_version: u32, pending: bool) -> bool {
        self.role.as_ref().is_none_or(|wanted| wanted == role)
            && self.older_than.is_none_or(|limit| server_version < limit)
            && (!self.if_pending || pending)
    }

    /// The object `scheduled_restart` of the member document. It is void once the server was
    /// started anew, hence the start time.
    pub fn published(&self, postmaster_start_time: &str) -> Value {
        let mut out = self.published.clone();
        out.insert("postmaster_start_time".to_owned(), json!(postmaster_start_time));
        Value::Object(out)
    }
}

/// `POST /restart`.
pub fn parse_restart(body: &Value, paused: bool, now: Wall) -> Result<RestartPlan, Reply> {
    let fields = body.as_object().ok_or_else(|| Reply::error(400))?;
    if paused && fields.contains_key("schedule") {
        return Err(Reply::text(500, "Can't schedule restart in the paused state"));
    }
    let mut plan = RestartPlan { published: fields.clone(), ..RestartPlan::default() };
    for (key, value) in fields {
        match key.as_str() {
            "schedule" => {
                let at = schedule::parse(value, "restart", now)?;
                plan.schedule = Some(at);
                plan.published[key] = json!(schedule::iso(at));
            }
            "role" => match value.as_str() {
                Some(role @ ("primary" | "standby_leader" | "replica")) => {
                    plan.role = Some(role.to_owned());
                }
                _ => {
                    let text =
                        "PostgreSQL role should be either primary, standby_leader, or replica";
                    return Err(Reply::text(400, text));
                }
            },
            "postgres_version" => plan.older_than = Some(version(value)?),
            "timeout" => {
                let seconds = seconds(value)?;
                plan.timeout = Some(Duration::from_secs(seconds));
                plan.published[key] = json!(seconds);
            }
            "restart_pending" => plan.if_pending = true,
            other => {
                let text = format!("Unknown filter for the scheduled restart: {other}");
                return Err(Reply::text(400, text));
            }
        }
    }
    Ok(plan)
}

fn seconds(value: &Value) -> Result<u64, Reply> {
    let parsed = quantity::seconds(&plain(value)).and_then(|s| u64::try_from(s).ok());
    parsed
        .filter(|s| *s > 0)
        .ok_or_else(|| Reply::text(400, "Timeout should be a positive number of seconds"))
}

/// `15.2` and `9.5.2` as `server_version_num`.
fn version(value: &Value) -> Result<u32, Reply> {
    let text = plain(value);
    let parts: Result<Vec<u32>, _> = text.split('.').map(|part| part.trim().parse()).collect();
    let Ok(parts) = parts else {
        return Err(Reply::text(400, format!("Invalid PostgreSQL version: {text}")));
    };
    let number = match parts[..] {
        [major, minor] if (10..1000).contains(&major) && minor < 100 => major * 10_000 + minor,
        [a, b, c] if a < 1000 && b < 100 && c < 100 => a * 10_000 + b * 100 + c,
        _ => {
            let form = "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted";
            return Err(Reply::text(400, format!("{form}: {text}")));
        }
    };
    Ok(number)
}

/// Text as it is, anything else as JSON writes it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A restart was planned.
pub fn scheduled() -> Reply {
    Reply::text(202, "Restart scheduled")
}

/// One restart at a time can be planned.
pub fn already_scheduled() -> Reply {
    Reply::text(409, "Another restart is already scheduled")
}

/// `RestartPlan::matches` said no.
pub fn conditions_not_satisfied() -> Reply {
    Reply::text(503, "restart conditions are not satisfied")
}

/// The server was restarted and answers.
pub fn done() -> Reply {
    Reply::text(200, "restarted successfully")
}

/// The server was started and did not answer within the time allowed.
pub fn still_starting() -> Reply {
    Reply::text(503, "postgres is still starting")
}

/// The server could not be started; Patroni says no reason.
pub fn failed(why: &str) -> Reply {
    Reply::text(503, format!("restart failed: {why}"))
}

/// The answer to `DELETE /restart`.
pub fn deleted(was_scheduled: bool) -> Reply {
    if was_scheduled {
        Reply::text(200, "scheduled restart deleted")
    } else {
        Reply::text(404, "no restarts are scheduled")
    }
}

/// The answer to a restart or reinitialize while `action` (`restart`, `reinitialize`) is running.
pub fn already_in_progress(action: &str) -> Reply {
    Reply::text(503, format!("{action} already in progress"))
}

/// What `POST /reinitialize` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReinitializePlan {
    /// Cancel whatever is going on with the data directory.
    pub force: bool,
    /// Copy from the leader even if a member is tagged `clonefrom`.
    pub from_leader: bool,
}

/// Nothing is checked but the form; `check_reinitialize` looks at the cluster.
pub fn parse_reinitialize(body: &Value) -> ReinitializePlan {
    let flag = |key: &str| peer::boolean(&body[key]).unwrap_or(false);
    ReinitializePlan { force: flag("force"), from_leader: flag("from_leader") }
}

/// Whether this member may throw its data away: another one has to lead.
pub fn check_reinitialize(snapshot: &Snapshot) -> Result<(), Reply> {
    let leader = snapshot.cluster.as_ref().and_then(|c| c.leader.as_ref());
    match leader.map(|l| l.name.as_str()) {
        None | Some("") => Err(Reply::text(503, "Cluster has no leader, can not reinitialize")),
        Some(name) if name == snapshot.name => {
            Err(Reply::text(503, "I am the leader, can not reinitialize"))
        }
        Some(_) => Ok(()),
    }
}

/// The answer to a `POST /reinitialize` that was begun.
pub fn reinitialize_started() -> Reply {
    Reply::text(200, "reinitialize started")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const NOW: Wall = Wall(1_795_256_543_000_000);

    #[test]
    fn refuses_restarts_with_patronis_words() {
        let cases = [
            (
                json!({"role": "bogus"}),
                400,
                "PostgreSQL role should be either primary, standby_leader, or replica",
            ),
            (
                json!({"postgres_version": "15"}),
                400,
                "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 15",
            ),
            (json!({"postgres_version": "x.y"}), 400, "Invalid PostgreSQL version: x.y"),
            (json!({"timeout": "-1"}), 400, "Timeout should be a positive number of seconds"),
            (json!({"timeout": 0}), 400, "Timeout should be a positive number of seconds"),
            (json!({"foo": 1}), 400, "Unknown filter for the scheduled restart: foo"),
            (
                json!({"schedule": "2000-01-01T00:00:00Z"}),
                422,
                "Cannot schedule restart in the past",
            ),
            (
                json!({"schedule": "2100-01-01T00:00:00"}),
                400,
                "Timezone information is mandatory for the scheduled restart",
            ),
        ];
        for (body, status, text) in cases {
            let reply = parse_restart(&body, false, NOW).unwrap_err();
            assert_eq!(reply, Reply::text(status, text), "{body}");
        }
        let paused = parse_restart(&json!({"schedule": "2100-01-01T00:00:00Z"}), true, NOW);
        let text = "Can't schedule restart in the paused state";
        assert_eq!(paused.unwrap_err(), Reply::text(500, text));
    }

    #[test]
    fn restarts_under_conditions() {
        let plan = |body: Value| parse_restart(&body, false, NOW).unwrap();
        let cases = [
            (json!({}), "primary", 150_018, false, true),
            (json!({"role": "primary"}), "replica", 150_018, false, false),
            (json!({"postgres_version": "15.2"}), "replica", 150_018, false, false),
            (json!({"postgres_version": "16.0"}), "replica", 150_018, false, true),
            (json!({"postgres_version": "9.5.2"}), "replica", 90_501, false, true),
            (json!({"restart_pending": false}), "replica", 150_018, false, false),
            (json!({"restart_pending": true}), "replica", 150_018, true, true),
        ];
        for (body, role, version, pending, expected) in cases {
            assert_eq!(plan(body.clone()).matches(role, version, pending), expected, "{body}");
        }
        let body = json!({
            "schedule": "2100-01-01T00:00:00Z", "postgres_version": "16.0", "timeout": "2min",
        });
        let expected = json!({
            "schedule": "2100-01-01T00:00:00+00:00", "postgres_version": "16.0", "timeout": 120,
            "postmaster_start_time": "T",
        });
        assert_eq!(plan(body).published("T").to_string(), expected.to_string());
    }

    #[test]
    fn reinitialize_needs_another_leader() {
        assert_eq!(check_reinitialize(&samples::replica()), Ok(()));
        let refused = check_reinitialize(&samples::leader()).unwrap_err();
        assert_eq!(refused, Reply::text(503, "I am the leader, can not reinitialize"));
        let unled = Snapshot { cluster: None, ..samples::leader() };
        let text = "Cluster has no leader, can not reinitialize";
        assert_eq!(check_reinitialize(&unled), Err(Reply::text(503, text)));
        let plan = parse_reinitialize(&json!({"force": "on"}));
        assert_eq!(plan, ReinitializePlan { force: true, from_leader: false });
    }
}
