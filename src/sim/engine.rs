//! One queue of events over (time, sequence), and the tasks that wait in it. What the agent does
//! over time is written as `async` functions, polled by this queue and nothing else: to freeze an
//! agent is not to poll its tasks, to kill it is to drop them.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::world::World;

/// True time in nanoseconds since the start of the run: no member's clock.
pub type Time = u64;

pub type TaskId = u64;

pub type Act = Box<dyn FnOnce(&Sim)>;

enum What {
    Act(Act),
    Poll(TaskId),
}

struct Entry {
    at: Time,
    sequence: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

struct Task {
    /// The agent to which it belongs.
    owner: usize,
    /// Taken out while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// It was woken while its agent was frozen.
    held: bool,
}

struct Inner {
    now: Cell<Time>,
    sequence: Cell<u64>,
    queue: RefCell<BinaryHeap<Reverse<Entry>>>,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    current: Cell<TaskId>,
    world: RefCell<World>,
}

/// The run; clones are the same run.
#[derive(Clone)]
pub struct Sim(Rc<Inner>);

impl Sim {
    pub fn new(world: World) -> Sim {
        Sim(Rc::new(Inner {
            now: Cell::new(0),
            sequence: Cell::new(0),
            queue: RefCell::default(),
            tasks: RefCell::default(),
            current: Cell::new(0),
            world: RefCell::new(world),
        }))
    }

    pub fn now(&self) -> Time {
        self.0.now.get()
    }

    /// Uses the world for the length of the call.
    pub fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.0.world.borrow_mut();
        world.now = self.now();
        let result = f(&mut world);
        for (at, act) in std::mem::take(&mut world.outbox) {
            self.push(at, What::Act(act));
        }
        result
    }

    fn push(&self, at: Time, what: What) {
        let sequence = self.0.sequence.get();
        self.0.sequence.set(sequence + 1);
        let at = at.max(self.now());
        self.0.queue.borrow_mut().push(Reverse(Entry { at, sequence, what }));
    }

    pub fn after(&self, delay: Duration, act: impl FnOnce(&Sim) + 'static) {
        self.push(self.now() + delay.as_nanos() as u64, What::Act(Box::new(act)));
    }

    pub fn spawn(&self, owner: usize, future: impl Future<Output = ()> + 'static) -> TaskId {
        let id = self.0.sequence.get() + 1;
        let task = Task { owner, future: Some(Box::pin(future)), held: false };
        self.0.tasks.borrow_mut().insert(id, task);
        self.wake(id);
        id
    }

    pub fn wake(&self, task: TaskId) {
        self.push(self.now(), What::Poll(task));
    }

    /// Drops all tasks of an agent.
    pub fn kill_tasks(&self, owner: usize) {
        let gone: Vec<Task> = {
            let mut tasks = self.0.tasks.borrow_mut();
            let ids: Vec<TaskId> =
                tasks.iter().filter(|(_, t)| t.owner == owner).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| tasks.remove(id)).collect()
        };
        // Destructors may use the tables.
        drop(gone);
    }

    /// Polls what was woken while the agent was frozen.
    pub fn thaw_tasks(&self, owner: usize) {
        let mut woken = Vec::new();
        for (id, task) in self.0.tasks.borrow_mut().iter_mut() {
            if task.owner == owner && std::mem::take(&mut task.held) {
                woken.push(*id);
            }
        }
        woken.into_iter().for_each(|id| self.wake(id));
    }

    /// Takes the next event up to `until`; false when there is none.
    pub fn step(&self, until: Time) -> bool {
        let next = {
            let mut queue = self.0.queue.borrow_mut();
            match queue.peek() {
                Some(Reverse(entry)) if entry.at <= until => queue.pop(),
                _ => None,
            }
        };
        let Some(Reverse(entry)) = next else {
            self.0.now.set(until);
            return false;
        };
        self.0.now.set(entry.at);
        match entry.what {
            What::Act(act) => act(self),
            What::Poll(id) => self.poll(id),
        }
        true
    }

    fn poll(&self, id: TaskId) {
        let future = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else { return };
            let world = self.0.world.borrow();
            if world.members[task.owner].agent.is_none() {
                // It was killed at this very instant.
                return;
            }
            if world.agent_frozen(task.owner) {
                task.held = true;
                return;
            }
            task.future.take()
        };
        let Some(mut future) = future else { return };
        self.0.current.set(id);
        let done = future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        if done {
            self.0.tasks.borrow_mut().remove(&id);
        } else if let Some(task) = self.0.tasks.borrow_mut().get_mut(&id) {
            task.future = Some(future);
        }
    }

    /// Waits for true time to pass.
    pub async fn sleep(&self, delay: Duration) {
        let until = self.now() + delay.as_nanos() as u64;
        self.push(until, What::Poll(self.0.current.get()));
        std::future::poll_fn(|_| if self.now() >= until { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    fn poll_at(&self, at: Time) {
        self.push(at, What::Poll(self.0.current.get()));
    }
}

/// A place for one value that somebody waits for.
pub struct Slot<T>(Rc<RefCell<(Option<T>, Option<TaskId>)>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Slot<T> {
        Slot(self.0.clone())
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot(Rc::new(RefCell::new((None, None))))
    }
}

impl<T> Slot<T> {
    pub fn put(&self, sim: &Sim, value: T) {
        let mut slot = self.0.borrow_mut();
        slot.0 = Some(value);
        if let Some(task) = slot.1 {
            sim.wake(task);
        }
    }

    /// The value, or `None` when it did not come in time.
    pub async fn take(&self, sim: &Sim, within: Duration) -> Option<T> {
        let until = sim.now().saturating_add(within.as_nanos() as u64);
        sim.poll_at(until);
        std::future::poll_fn(|_| {
            let mut slot = self.0.borrow_mut();
            match slot.0.take() {
                Some(value) => Poll::Ready(Some(value)),
                None if sim.now() >= until => Poll::Ready(None),
                None => {
                    slot.1 = Some(sim.0.current.get());
                    Poll::Pending
                }
            }
        })
        .await
    }
}
