//! What every command needs: the configuration, the store, the members' REST API, the console.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use tokio::runtime::{self, Runtime};

use crate::api::client::Client;
use crate::api::json;
use crate::core::cluster::{Cluster, FailoverRequest, Member};
use crate::dcs::documents::{compact, failover_json};
use crate::dcs::{Compare, Dcs, DcsError, Key, Options, Write};

use super::Failure;
use super::args::Global;
use super::console::Console;

/// One read or write of the store, all endpoints included.
const STORE_MAX: Duration = Duration::from_secs(10);
/// A question to a member.
const QUESTION_MAX: Duration = Duration::from_secs(10);
/// A command to a member: a restart takes as long as recovery does, and the member itself ends
/// the wait after an hour.
const COMMAND_MAX: Duration = Duration::from_secs(3600);

/// A member's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// Where clusters are read from and written to.
enum Store {
    Etcd {
        options: Options,
        namespace: String,
    },
    #[cfg(test)]
    Fixed(test::Fixed),
}

/// One run of the program.
pub struct Session {
    pub console: Console,
    store: Store,
    scope: Option<String>,
    client: Client,
    runtime: Runtime,
}

impl Session {
    /// Reads the configuration; connects to nothing yet.
    pub fn open(global: &Global, console: Console) -> Result<Session, Failure> {
        if global.group.is_some() {
            return Err(Failure::message("--group: Citus clusters are not supported"));
        }
        let config = super::context::load(global)?;
        Ok(Session {
            console,
            store: Store::Etcd { options: config.store, namespace: config.namespace },
            scope: config.scope,
            client: config.client,
            runtime: runtime()?,
        })
    }

    /// The cluster's name: given on the command line or configured.
    pub fn scope(&self, given: Option<&str>) -> Result<String, Failure> {
        match given.or(self.scope.as_deref()) {
            Some(scope) => Ok(scope.to_owned()),
            None => Err(Failure::message(
                "Missing argument 'CLUSTER_NAME': the configuration names no scope either",
            )),
        }
    }

    /// The configured cluster, if any.
    pub fn configured_scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// The cluster as the store knows it now.
    pub fn read(&mut self, scope: &str) -> Result<Cluster, Failure> {
        match &mut self.store {
            Store::Etcd { options, namespace } => {
                let options = options.clone();
                let dcs = dcs(options, namespace, scope)?;
                self.runtime.block_on(dcs.read(STORE_MAX)).map_err(store_failed)
            }
            #[cfg(test)]
            Store::Fixed(fixed) => Ok(fixed.next()),
        }
    }

    fn commit(
        &mut self,
        scope: &str,
        compares: &[Compare],
        writes: &[Write],
    ) -> Result<bool, Failure> {
        match &mut self.store {
            Store::Etcd { options, namespace } => {
                let options = options.clone();
                let dcs = dcs(options, namespace, scope)?;
                let committed = self.runtime.block_on(dcs.commit(compares, writes, STORE_MAX));
                committed.map(|committed| committed.succeeded).map_err(store_failed)
            }
            #[cfg(test)]
            Store::Fixed(fixed) => Ok(fixed.commit(compares, writes)),
        }
    }

    /// Writes `/config` if it is still at this revision; false: somebody else changed it.
    pub fn write_config(
        &mut self,
        scope: &str,
        config: &Value,
        mod_revision: i64,
    ) -> Result<bool, Failure> {
        let compare = Compare::ModRevision(Key::Config, mod_revision);
        self.commit(scope, &[compare], &[Write::Put(Key::Config, compact(config), 0)])
    }

    /// Asks the cluster for a switchover or failover by way of the store.
    pub fn write_failover(
        &mut self,
        scope: &str,
        request: &FailoverRequest,
    ) -> Result<(), Failure> {
        let write = Write::Put(Key::Failover, failover_json(request), 0);
        self.commit(scope, &[], &[write]).map(drop)
    }

    /// Clears `/failover` if it is still at this revision; false: somebody else changed it.
    pub fn clear_failover(&mut self, scope: &str, mod_revision: i64) -> Result<bool, Failure> {
        let compare = Compare::ModRevision(Key::Failover, mod_revision);
        let empty = failover_json(&FailoverRequest::default());
        self.commit(scope, &[compare], &[Write::Put(Key::Failover, empty, 0)])
    }

    /// Deletes every key of the cluster, if its leader key did not change since it was read.
    pub fn delete(&mut self, scope: &str, cluster: &Cluster) -> Result<bool, Failure> {
        let unchanged = match &cluster.leader {
            Some(leader) => Compare::ModRevision(Key::Leader, leader.mod_revision),
            None => Compare::Absent(Key::Leader),
        };
        let members = cluster.members.keys().cloned().map(Key::Member);
        let keys = members.chain(Key::FIXED);
        let writes: Vec<Write> = keys.map(Write::Delete).collect();
        self.commit(scope, &[unchanged], &writes)
    }

    /// Asks a member over its REST API, below whatever path its `api_url` has.
    pub fn request(
        &mut self,
        member: &Member,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let base = member.api_url.rsplit_once('/').map_or("", |(base, _)| base);
        let url = format!("{base}/{path}");
        let within = if method == Method::POST { COMMAND_MAX } else { QUESTION_MAX };
        let exchange = self.client.request(method, &url, body, within);
        let answer = self.runtime.block_on(exchange).map_err(|error| {
            let chain = anyhow::Error::new(error);
            Failure::Message(format!("{chain:#}"))
        })?;
        let text = match answer.body {
            Value::String(text) => text,
            document => json::python(&document),
        };
        Ok(Answer { status: answer.status, text })
    }

    /// Says on standard error that a member did not answer and another one is asked.
    pub fn inaccessible(&self, member: &Member, failure: &Failure) {
        if let Failure::Message(text) = failure {
            eprintln!("warning: {text}");
        }
        eprintln!("warning: Member {} is not accessible", member.name);
    }
}

fn runtime() -> Result<Runtime, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Message(format!("cannot start the event loop: {error}")))
}

fn dcs(options: Options, namespace: &str, scope: &str) -> Result<Dcs, Failure> {
    let namespace = namespace.trim_matches('/');
    let prefix = format!("/{namespace}/{scope}/").replace("//", "/");
    Dcs::new(Options { prefix, ..options }).map_err(store_failed)
}

fn store_failed(error: DcsError) -> Failure {
    Failure::Message(error.to_string())
}

#[cfg(test)]
pub mod test {
    use super::super::console::test::{Printed, console};
    use super::*;
    use crate::config::CtlTls;

    /// A store in memory: answers reads one after the other, the last one for ever.
    #[derive(Default)]
    pub struct Fixed {
        pub reads: Vec<Cluster>,
        pub writes: Vec<Write>,
        pub refuse: bool,
    }

    impl Fixed {
        pub fn next(&mut self) -> Cluster {
            if self.reads.len() > 1 { self.reads.remove(0) } else { self.reads[0].clone() }
        }

        pub fn commit(&mut self, _: &[Compare], writes: &[Write]) -> bool {
            self.writes.extend_from_slice(writes);
            !self.refuse
        }
    }

    impl Session {
        /// A session of cluster `demo` that reads these clusters and this input.
        pub fn fixed(reads: &[Cluster], input: &str) -> (Session, Printed) {
            let (console, printed) = console(input);
            let store = Store::Fixed(Fixed { reads: reads.to_vec(), ..Fixed::default() });
            let scope = Some("demo".to_owned());
            let runtime = runtime().unwrap();
            let client = Client::new(None, &CtlTls::default()).unwrap();
            (Session { console, store, scope, client, runtime }, printed)
        }

        /// What was written to the store.
        pub fn fixed_store(&mut self) -> &mut Fixed {
            match &mut self.store {
                Store::Fixed(fixed) => fixed,
                Store::Etcd { .. } => panic!("not a test's session"),
            }
        }
    }
}
