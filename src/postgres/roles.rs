//! What we change in a running server: roles at bootstrap, replication slots.

use std::fmt::Write;
use std::time::Duration;

use super::session::{Session, SessionError, identifier, literal};
use crate::core::lsn::Lsn;
use crate::core::slots;

/// A role and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    pub password: Option<String>,
}

/// The roles of `postgresql.authentication`.
#[derive(Clone, PartialEq, Eq)]
pub struct Roles {
    /// The one that we are connected as; gets its password if it has one.
    pub superuser: Role,
    pub replication: Role,
    /// `None` where the superuser does the rewind.
    pub rewind: Option<Role>,
}

/// What pg_rewind calls on its source.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// Everything that would keep the text of a statement.
const QUIET: [(&str, &str); 5] = [
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_error_statement", "panic"),
    ("pg_stat_statements.track_utility", "off"),
    ("pgaudit.log", "none"),
];

impl Session {
    /// Creates the roles, or brings existing ones up to this; one transaction. Statements with
    /// passwords are kept out of the server's log and statistics.
    pub async fn create_users(
        &mut self,
        roles: &Roles,
        within: Duration,
    ) -> Result<(), SessionError> {
        let doing = "create roles";
        // A message of its own: the text of a message is logged before any of it is carried out.
        let quiet: String =
            QUIET.iter().map(|(name, off)| format!("SET {name} TO {off}; ")).collect();
        self.run(doing, &quiet, within).await?;
        let created = self.run(doing, &roles_sql(roles), within).await;
        let loud: String = QUIET.iter().map(|(name, _)| format!("RESET {name}; ")).collect();
        // The roles are what matters; a session that could not be reset is closed anyway.
        let _ = self.run(doing, &loud, within).await;
        created.map(|_| ())
    }

    /// Creates a physical slot if there is none of that name; whether it was created. With
    /// `reserve_now` it keeps WAL from now on instead of from its first use.
    pub async fn ensure_physical(
        &mut self,
        name: &str,
        reserve_now: bool,
        within: Duration,
    ) -> Result<bool, SessionError> {
        let doing = "create replication slot";
        self.check_slot_name(doing, name)?;
        let name = literal(name);
        let sql = format!(
            "SELECT pg_create_physical_replication_slot({name}, {reserve_now}) IS NOT NULL \
             WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {name})"
        );
        Ok(self.run(doing, &sql, within).await?.is_some())
    }

    /// Creates a logical slot in the database of this session, if there is none of that name.
    pub async fn ensure_logical(
        &mut self,
        name: &str,
        plugin: &str,
        within: Duration,
    ) -> Result<bool, SessionError> {
        let doing = "create logical replication slot";
        self.check_slot_name(doing, name)?;
        let (name, plugin) = (literal(name), literal(plugin));
        let sql = format!(
            "SELECT pg_create_logical_replication_slot({name}, {plugin}) IS NOT NULL \
             WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {name})"
        );
        Ok(self.run(doing, &sql, within).await?.is_some())
    }

    /// Moves an idle slot on, never back (11 and later); a logical one from its own database, where
    /// a standby does it, too.
    pub async fn advance_slot(
        &mut self,
        name: &str,
        to: Lsn,
        within: Duration,
    ) -> Result<(), SessionError> {
        let doing = "advance replication slot";
        self.check_slot_name(doing, name)?;
        let (name, to) = (literal(name), literal(&to.to_string()));
        let sql = format!(
            "SELECT pg_replication_slot_advance(slot_name, {to}) IS NOT NULL \
             FROM pg_replication_slots \
             WHERE slot_name = {name} AND NOT active \
             AND coalesce(confirmed_flush_lsn, restart_lsn) < {to}"
        );
        self.run(doing, &sql, within).await.map(|_| ())
    }

    /// Drops a slot that nobody uses; whether one was dropped. One in use stays and is no error.
    pub async fn drop_slot(&mut self, name: &str, within: Duration) -> Result<bool, SessionError> {
        let doing = "drop replication slot";
        self.check_slot_name(doing, name)?;
        let name = literal(name);
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) IS NOT NULL FROM pg_replication_slots \
             WHERE slot_name = {name} AND NOT active"
        );
        Ok(self.run(doing, &sql, within).await?.is_some())
    }

    fn check_slot_name(&self, doing: &'static str, name: &str) -> Result<(), SessionError> {
        if slots::is_valid(name) {
            return Ok(());
        }
        Err(self.unexpected(doing, format!("{name:?} is not a valid slot name")))
    }
}

/// The statements, as one message: that makes them one transaction.
fn roles_sql(roles: &Roles) -> String {
    let mut sql = String::new();
    if roles.superuser.password.is_some() {
        ensure_role(&mut sql, &roles.superuser, "SUPERUSER");
    }
    ensure_role(&mut sql, &roles.replication, "REPLICATION");
    let rewind = roles.rewind.as_ref().filter(|role| role.name != roles.superuser.name);
    if let Some(role) = rewind {
        if role.name != roles.replication.name {
            ensure_role(&mut sql, role, "");
        }
        for function in REWIND_FUNCTIONS {
            let name = identifier(&role.name);
            let _ = write!(sql, "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name}; ");
        }
    }
    sql
}

fn ensure_role(sql: &mut String, role: &Role, attributes: &str) {
    let name = identifier(&role.name);
    let password = role
        .password
        .as_ref()
        .map_or(String::new(), |password| format!(" PASSWORD {}", literal(password)));
    let options = format!("LOGIN {attributes}{password}");
    // Both branches as one DO block: CREATE ROLE knows no IF NOT EXISTS.
    let body = format!(
        "BEGIN IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = {}) THEN \
         ALTER ROLE {name} WITH {options}; ELSE CREATE ROLE {name} WITH {options}; END IF; END",
        literal(&role.name)
    );
    let _ = write!(sql, "DO {}; ", literal(&body));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_survive_strange_names_and_passwords() {
        let role = |name: &str, password: Option<&str>| Role {
            name: name.into(),
            password: password.map(Into::into),
        };
        let mut sql = String::new();
        ensure_role(&mut sql, &role("a\"b", Some("it's\\")), "REPLICATION");
        assert!(sql.contains("CREATE ROLE \"a\"\"b\" WITH LOGIN REPLICATION PASSWORD"), "{sql}");
        let roles = Roles {
            superuser: role("postgres", None),
            replication: role("replicator", Some("x")),
            rewind: Some(role("postgres", None)),
        };
        let sql = roles_sql(&roles);
        assert!(!sql.contains("GRANT") && !sql.contains("SUPERUSER"), "{sql}");
    }
}
