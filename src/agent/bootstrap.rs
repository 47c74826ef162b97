//! A new cluster: the race for `/initialize`, initdb, roles, and publication. The leader key is
//! taken before the new server starts as a primary, so that the rule "no primary without an armed
//! deadline" has no exception.

use std::time::Duration;

use crate::config::CustomBootstrap;
use crate::core::cluster::{Initialize, NewestTimeline};
use crate::core::view::{View, Work};
use crate::dcs::{Compare, Key, Write, documents};
use crate::link::order::{Command, Order, PgSignal};
use crate::postgres::roles::{Role, Roles};
use crate::postgres::{datadir, durable, files};

use super::drivers::{Drivers, Setup};
use super::events::Fact;
use super::executor::{ActionError, run_data_job};
use super::hooks;
use super::inspect::BOOTSTRAP_MARKER;
use super::server;
use super::sql;
use super::store::{commit, under};

/// What the marker of a bootstrap by the user's own command says.
const CUSTOM: &[u8] = b"custom";

const ROLES_WITHIN: Duration = Duration::from_secs(10);

/// The empty `/initialize` on our lease: it vanishes with us, so that a bootstrap that dies does
/// not block the cluster.
pub async fn race(d: &Drivers, facts: &mut Vec<Fact>) -> Result<(), ActionError> {
    let setup = d.setup();
    server::check_binaries(&setup)?;
    let settings = setup.settings();
    let lease = d.leases.renew(settings.ttl, settings.retry_timeout).await?;
    let write = Write::Put(Key::Initialize, String::new(), lease.id);
    let won = commit(d, &[Compare::Absent(Key::Initialize)], &[write]).await?;
    if won {
        facts.push(Fact::BootstrapWon);
    }
    facts.push(d.cluster_fact().await?);
    Ok(())
}

pub async fn initdb(d: &Drivers) -> Result<(), ActionError> {
    let setup = d.setup();
    let command = match &setup.local.bootstrap.custom {
        Some(custom) => custom_command(&setup, custom),
        None => server::initdb(&setup)?,
    };
    run_data_job(d, Work::Initdb, command).await
}

/// `<command> --scope --datadir --<option>=<value>…`, as Patroni calls it.
fn custom_command(setup: &Setup, custom: &CustomBootstrap) -> Command {
    tracing::info!("Running custom bootstrap script: {}", custom.command);
    let ours = [("scope", &setup.local.scope), ("datadir", &setup.local.postgresql.data_dir)];
    let others = custom.options.iter().filter(|(name, _)| ours.iter().all(|(own, _)| own != name));
    let others = others.map(|(name, value)| (name.as_str(), value));
    let ours = ours.into_iter().filter(|_| !custom.no_params);
    let mut command = hooks::command(&custom.command, &[]);
    command.argv.extend(ours.chain(others).map(|(name, value)| format!("--{name}={value}")));
    command
}

/// The user's own bootstrap whose cluster is not finished yet.
pub fn custom_under_way(setup: &Setup) -> Option<&CustomBootstrap> {
    let marker = std::fs::read(setup.data_dir().join(BOOTSTRAP_MARKER)).ok()?;
    setup.local.bootstrap.custom.as_ref().filter(|_| marker == CUSTOM)
}

/// Gives the right to bootstrap back and keeps what initdb left for inspection.
pub async fn abort(d: &Drivers, v: &View, facts: &mut Vec<Fact>) -> Result<(), ActionError> {
    let dir = d.setup().data_dir();
    if dir.exists() {
        let kept = datadir::move_aside(&dir)?;
        tracing::error!(
            "the bootstrap came to nothing; the data directory was renamed to {}",
            kept.display()
        );
    }
    if let Some(lease) = v.store.lease {
        // Only our own: another member may have the right by now.
        let ours = Compare::Lease(Key::Initialize, lease.id);
        commit(d, &[ours], &[Write::Delete(Key::Initialize)]).await?;
    }
    facts.push(Fact::GiveUp("Failed to bootstrap cluster".to_owned()));
    Ok(())
}

/// After initdb and before the first start: the marker, the configuration, `bootstrap.pg_hba`.
pub fn prepare(d: &Drivers) -> Result<(), ActionError> {
    let setup = d.setup();
    let dir = setup.data_dir();
    let custom = setup.local.bootstrap.custom.as_ref();
    let marker = if custom.is_some() { CUSTOM } else { b"" };
    durable::write(&dir.join(BOOTSTRAP_MARKER), marker, None)?;
    durable::remove(&server::password_file(&setup))?;
    if setup.primary.pg_hba.is_none() && !setup.local.bootstrap.pg_hba.is_empty() {
        files::append_hba(&server::places(&setup), &setup.local.bootstrap.pg_hba)?;
    }
    if let Some(custom) = custom {
        files::restore_configuration(&server::places(&setup))?;
        files::backup_configuration(&server::places(&setup))?;
        if !custom.recovery_conf.is_empty() {
            files::set_standby(&dir, false)?;
            durable::write(&dir.join("recovery.signal"), b"", None)?;
        } else if !custom.keep_existing_recovery_conf {
            files::set_standby(&dir, false)?;
        }
    }
    Ok(())
}

/// Roles, `post_bootstrap`, then configuration and identifier in one transaction; each step may
/// be repeated.
pub async fn finish(d: &Drivers, v: &View, facts: &mut Vec<Fact>) -> Result<(), ActionError> {
    let setup = d.setup();
    let mut session = sql::local(&setup, ROLES_WITHIN).await?;
    session.create_users(&roles(&setup), ROLES_WITHIN).await?;
    if let Err(error) = hooks::post_bootstrap(d).await {
        tracing::error!("post_bootstrap: {error}");
        facts.push(Fact::BootstrapFailed);
        return Ok(());
    }
    if setup.local.bootstrap.custom.is_some() {
        server::end_custom_bootstrap(&setup)?;
        d.supervisor.order(Order::Signal(PgSignal::Reload)).await?;
    }
    publish(d, v, true).await?;
    durable::remove(&setup.data_dir().join(BOOTSTRAP_MARKER))?;
    facts.push(d.cluster_fact().await?);
    facts.push(Fact::Inspect);
    Ok(())
}

/// An existing server becomes a cluster: its identifier and `bootstrap.dcs` are published.
pub async fn adopt(d: &Drivers, v: &View, facts: &mut Vec<Fact>) -> Result<(), ActionError> {
    publish(d, v, v.cluster().is_some_and(|c| c.config.is_none())).await?;
    facts.push(d.cluster_fact().await?);
    Ok(())
}

async fn publish(d: &Drivers, v: &View, with_config: bool) -> Result<(), ActionError> {
    let (Some(control), Some(tenure)) = (v.control(), v.guard.tenure) else {
        let text = "neither identifier nor tenure is known".to_owned();
        return Err(ActionError::Precondition(text));
    };
    let identifier = control.system_identifier.to_string();
    // What an earlier cluster of this name left says nothing about this one.
    let leader_mod_revision = tenure.mod_revision;
    let newest = NewestTimeline { number: control.timeline, leader_mod_revision };
    let mut writes = vec![
        Write::Put(Key::Initialize, identifier.clone(), 0),
        Write::Put(Key::Timeline, documents::timeline_json(newest), 0),
    ];
    if with_config && v.cluster().is_none_or(|c| c.config.is_none()) {
        let document = documents::compact(&d.setup().dynamic);
        writes.push(Write::Put(Key::Config, document, 0));
    }
    let unchanged = match v.cluster().map(|c| &c.initialize) {
        None | Some(Initialize::Absent) => Compare::Absent(Key::Initialize),
        Some(Initialize::InProgress { lease_id }) => Compare::Lease(Key::Initialize, *lease_id),
        Some(Initialize::Done(id)) if *id == identifier => {
            Compare::Value(Key::Initialize, id.clone())
        }
        Some(Initialize::Done(id)) => {
            let text = format!("/initialize names another cluster: {id}, not {identifier}");
            return Err(ActionError::Precondition(text));
        }
    };
    let [revision, lease] = under(tenure);
    if !commit(d, &[revision, lease, unchanged], &writes).await? {
        let text = "the leader key or /initialize changed during the bootstrap".to_owned();
        return Err(ActionError::Precondition(text));
    }
    Ok(())
}

fn roles(setup: &Setup) -> Roles {
    let pg = &setup.local.postgresql;
    let role = |user: &crate::config::DbUser| Role {
        name: user.username.clone(),
        password: user.password.clone(),
    };
    let own_rewind = pg.rewind.username != pg.superuser.username;
    Roles {
        superuser: role(&pg.superuser),
        replication: role(&pg.replication),
        rewind: own_rewind.then(|| role(&pg.rewind)),
    }
}
