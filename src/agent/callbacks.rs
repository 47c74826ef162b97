//! Which callback is due: the server came, went, was restarted, or changed its role. Patroni's
//! names and occasions; nobody waits for them.

use std::sync::Arc;

use super::drivers::Drivers;
use super::hooks;
use super::publish::leads_standby;
use super::world::World;

/// What the user's scripts were told last.
#[derive(Debug, Default)]
pub struct Callbacks {
    /// Pid and role of the server that was reported as running.
    running: Option<(i32, &'static str)>,
    /// Role of the last one reported, while none runs.
    role: Option<&'static str>,
    restarting: bool,
}

impl Callbacks {
    pub fn look(&mut self, world: &World, drivers: &Arc<Drivers>) {
        let probe = world.probe();
        let now = world.link.postmaster.zip(probe).map(|(postmaster, (probe, _))| {
            let role = match probe.in_recovery {
                true if leads_standby(world) => "standby_leader",
                true => "replica",
                false => "primary",
            };
            (postmaster.pid, role)
        });
        let gone = world.link.postmaster.is_none();
        self.restarting |= world.memory.restarting;
        let Some((action, role)) = self.due(now, gone) else { return };
        let calling = drivers.clone();
        let call = tokio::spawn(async move { hooks::callback(&calling, action, role).await });
        drivers.keep_call(call);
    }

    fn due(
        &mut self,
        now: Option<(i32, &'static str)>,
        gone: bool,
    ) -> Option<(&'static str, &'static str)> {
        match (self.running, now) {
            (None, Some((pid, role))) => {
                self.running = Some((pid, role));
                let before = self.role.replace(role);
                let restarted = std::mem::take(&mut self.restarting);
                Some(match before {
                    Some(before) if before != role => ("on_role_change", role),
                    Some(_) if restarted => ("on_restart", role),
                    _ => ("on_start", role),
                })
            }
            (Some((pid, before)), Some((new_pid, role))) => {
                self.running = Some((new_pid, role));
                self.role = Some(role);
                if before != role {
                    Some(("on_role_change", role))
                } else if pid != new_pid {
                    let restarted = std::mem::take(&mut self.restarting);
                    Some((if restarted { "on_restart" } else { "on_start" }, role))
                } else {
                    None
                }
            }
            (Some((_, role)), None) if gone => {
                self.running = None;
                (!self.restarting).then_some(("on_stop", role))
            }
            (Some(_), None) | (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occasions() {
        let mut c = Callbacks::default();
        assert_eq!(c.due(None, true), None);
        assert_eq!(c.due(Some((1, "primary")), false), Some(("on_start", "primary")));
        assert_eq!(c.due(Some((1, "primary")), false), None);
        assert_eq!(c.due(None, false), None, "a probe that is missing is no stop");
        assert_eq!(c.due(None, true), Some(("on_stop", "primary")));
        assert_eq!(c.due(Some((2, "replica")), false), Some(("on_role_change", "replica")));
        assert_eq!(c.due(Some((2, "primary")), false), Some(("on_role_change", "primary")));
        c.restarting = true;
        assert_eq!(c.due(None, true), None);
        assert_eq!(c.due(Some((3, "primary")), false), Some(("on_restart", "primary")));
    }
}
