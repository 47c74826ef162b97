//! The encoding of every type that crosses the link: one line a type.

use super::codec::{Malformed, Wire};
use super::order::{
    Command, Configure, Confirmation, Envelope, Job, JobKind, Order, PgSignal, Watchdog,
    WatchdogMode,
};
use super::state::{
    Budget, Counters, Device, Exit, ExitStatus, Group, JobState, Means, Postmaster, Refusal, State,
    Timeout,
};
use crate::core::budget::Grade;
use crate::core::cluster::Tenure;
use crate::core::guard::Phase;

/// A struct: its fields, one after the other.
macro_rules! fields {
    ($($t:ident { $($field:ident),* })*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut Vec<u8>) {
                let $t { $($field),* } = self;
                $($field.put(out);)*
            }
            fn get(from: &mut &[u8]) -> Result<$t, Malformed> {
                $(let $field = Wire::get(from)?;)*
                Ok($t { $($field),* })
            }
        }
    )*};
}

/// An enum: a byte for the variant, then its fields. Every variant must be named, or it does not
/// compile.
macro_rules! variants {
    ($($t:ident {
        $($tag:literal $name:ident $(($inner:ident))? $({ $($field:ident),* })?),*
    })*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($t::$name $(($inner))? $({ $($field),* })? => {
                        out.push($tag);
                        $($inner.put(out);)?
                        $($($field.put(out);)*)?
                    })*
                }
            }
            fn get(from: &mut &[u8]) -> Result<$t, Malformed> {
                match u8::get(from)? {
                    $($tag => {
                        $(let $inner = Wire::get(from)?;)?
                        $($(let $field = Wire::get(from)?;)*)?
                        Ok($t::$name $(($inner))? $({ $($field),* })?)
                    })*
                    _ => Err(Malformed),
                }
            }
        }
    )*};
}

fields! {
    Envelope { generation, seq, order }
    Configure { data_dir, ttl, rho_ppm, freeze_max, postgres_path, watchdog }
    Watchdog { mode, grade, margin_s, election }
    Confirmation { tenure, cluster_id, raft_term, sent_at, ttl, next }
    Tenure { lease_id, mod_revision }
    Command { argv, env, cwd, output }
    Job { id, kind, command }
    Refusal { seq, reason }
    Budget { ttl, exclusive, t1, g, k, watch }
    Timeout { set, reset }
    Device {
        required, node, identity, trouble, armed, timeout, endless, kept, boot_status, pings,
        withheld, failed, margin_min
    }
    Group { means, populated, frozen }
    Postmaster { pid, start_ticks, started_at, adopted, permitted }
    Exit { pid, at, status, permitted }
    JobState { id, kind, ended }
    Counters { freezes, thaws, kills, agent_starts }
    State {
        generation, seq_seen, refused, phase, tenure, sent_at, deadline, burned, budget, group,
        postmaster, last_exit, jobs, stop_requested, reloads, capsule, counters, watchdog
    }
}

variants! {
    Order {
        1 Configure(inner),
        2 Retune { ttl },
        3 Campaign,
        4 Withdraw,
        5 Confirm(inner),
        6 LeaseLost { tenure },
        7 StartStandby(inner),
        8 StartPrimary(inner),
        9 Promote(inner),
        10 Signal(inner),
        11 Fence { reason },
        12 Sealed,
        13 Release { tenure },
        14 Pause { tenure, revision },
        15 Resume,
        16 RunJob(inner),
        17 CancelJob { id },
        18 Adopt { pid, standby },
        19 Capsule(inner),
        20 Heartbeat { status, ready },
        21 Reloaded { reload },
        22 Goodbye { failed },
        23 Leave,
        24 Extend { tenure, sent_at }
    }
    JobKind { 1 Data, 2 Script }
    WatchdogMode { 1 Off, 2 Automatic, 3 Required }
    Grade { 1 A, 2 B }
    PgSignal { 1 Reload, 2 SmartStop, 3 FastStop, 4 ImmediateStop }
    Means { 1 ControlGroup, 2 Descent, 3 NotFenceable }
    ExitStatus { 1 Code(inner), 2 Signal(inner), 3 Unknown }
    Phase {
        1 Idle, 2 Candidate, 3 Leading, 4 Frozen, 5 Killing, 6 Fenced, 7 Sealed, 8 Paused
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{DATAGRAM_MAX, decode, encode};
    use super::*;
    use crate::core::time::Boot;
    use std::time::Duration;

    fn orders() -> Vec<Order> {
        let tenure = Tenure { lease_id: -7, mod_revision: 9 };
        let ttl = Duration::from_millis(30_001);
        let command = Command {
            argv: vec!["/bin/true".into(), "ä b".into()],
            env: vec![("A".into(), "b=c".into())],
            cwd: Some("/".into()),
            output: None,
        };
        vec![
            Order::Configure(Configure {
                data_dir: "/d".into(),
                ttl,
                rho_ppm: 10_000,
                freeze_max: Duration::ZERO,
                postgres_path: "postgres".into(),
                watchdog: Watchdog {
                    grade: Some(Grade::B),
                    margin_s: Some(-1),
                    ..Watchdog::default()
                },
            }),
            Order::Retune { ttl },
            Order::Campaign,
            Order::Withdraw,
            Order::Confirm(Confirmation {
                tenure,
                cluster_id: u64::MAX,
                raft_term: 3,
                sent_at: Boot(5),
                ttl,
                next: Some(-8),
            }),
            Order::LeaseLost { tenure },
            Order::Extend { tenure, sent_at: Boot(3) },
            Order::StartStandby(command.clone()),
            Order::StartPrimary(Command::default()),
            Order::Promote(command.clone()),
            Order::Signal(PgSignal::ImmediateStop),
            Order::Fence { reason: "a reason".into() },
            Order::Sealed,
            Order::Release { tenure },
            Order::Pause { tenure, revision: i64::MIN },
            Order::Resume,
            Order::RunJob(Job { id: 4, kind: JobKind::Data, command }),
            Order::CancelJob { id: 4 },
            Order::Adopt { pid: 77, standby: true },
            Order::Capsule(vec![0, 255]),
            Order::Heartbeat { status: "fine".into(), ready: true },
            Order::Reloaded { reload: 2 },
            Order::Goodbye { failed: true },
            Order::Leave,
        ]
    }

    fn state() -> State {
        State {
            generation: 2,
            seq_seen: 3,
            refused: Some(Refusal { seq: 3, reason: "no".into() }),
            phase: Phase::Sealed,
            tenure: Some(Tenure { lease_id: 1, mod_revision: 2 }),
            sent_at: Some(Boot(1)),
            deadline: Some(Boot(2)),
            burned: None,
            budget: Budget::new(Duration::from_secs(10), 10_000).ok(),
            group: Group { means: Means::NotFenceable, populated: true, frozen: true },
            postmaster: Some(Postmaster {
                pid: 4,
                start_ticks: 5,
                started_at: Boot(6),
                adopted: true,
                permitted: true,
            }),
            last_exit: Some(Exit {
                pid: 3,
                at: Boot(1),
                status: ExitStatus::Signal(9),
                permitted: false,
            }),
            jobs: vec![JobState { id: 1, kind: JobKind::Script, ended: Some(ExitStatus::Code(1)) }],
            stop_requested: true,
            reloads: 4,
            capsule: b"lease".to_vec(),
            counters: Counters { freezes: 1, thaws: 2, kills: 3, agent_starts: 4 },
            watchdog: Device { node: "/dev/x".into(), boot_status: Some(32), ..Device::default() },
        }
    }

    #[test]
    fn everything_comes_back_and_nothing_else_is_accepted() {
        for state in [state(), State::default()] {
            only_exactly(&state);
        }
        for (seq, order) in orders().into_iter().enumerate() {
            only_exactly(&Envelope { generation: 1, seq: seq as u64, order });
        }
    }

    fn only_exactly<T: Wire + PartialEq + std::fmt::Debug>(message: &T) {
        let bytes = encode(message).unwrap();
        assert_eq!(decode::<T>(&bytes).as_ref(), Ok(message));
        for end in 0..bytes.len() {
            assert!(decode::<T>(&bytes[..end]).is_err());
        }
        assert!(decode::<T>(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn no_input_panics() {
        let mut seed = 0x9E37_79B9_7F4A_7C15u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let good: Vec<Vec<u8>> = orders()
            .into_iter()
            .map(|order| encode(&Envelope { generation: 1, seq: 1, order }).unwrap())
            .chain([encode(&state()).unwrap()])
            .collect();
        for _ in 0..20_000 {
            let mut bytes = good[random() as usize % good.len()].clone();
            for _ in 0..=random() % 4 {
                let place = random() as usize % bytes.len();
                bytes[place] = random() as u8;
            }
            // Whatever is accepted has exactly one encoding: the bytes themselves.
            if let Ok(envelope) = decode::<Envelope>(&bytes) {
                assert_eq!(encode(&envelope).unwrap(), bytes);
            }
            if let Ok(state) = decode::<State>(&bytes) {
                assert_eq!(encode(&state).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn too_long_is_refused_on_both_sides() {
        let order = Order::Capsule(vec![0; DATAGRAM_MAX]);
        assert!(encode(&Envelope { generation: 1, seq: 1, order }).is_err());
        assert!(decode::<State>(&vec![0; DATAGRAM_MAX + 1]).is_err());
    }
}
