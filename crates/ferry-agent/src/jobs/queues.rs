//! The queues of this worker's jobs: who is at work and who waits is decided in [`ferry_fsm::Queue`], here the one
//! whose turn it is gets to know.
//!
//! Invariant: a job has a place from when it is due until it ends, but none while it waits for a person, or while all that it lacks
//! cannot be read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_api::JobId;
use ferry_fsm::Queue;
use tokio::sync::watch;

/// All queues, each with the most jobs that work at once. One that has no limit lets everybody in.
#[derive(Debug, Default)]
pub struct Queues {
    limits: BTreeMap<String, usize>,
    lines: Mutex<BTreeMap<String, Line>>,
}

#[derive(Debug)]
struct Line {
    queue: Queue<JobId>,
    /// How those that wait are told that it is their turn.
    calls: HashMap<JobId, watch::Sender<bool>>,
}

/// A job's place in a queue: at work or waiting. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Place {
    queues: Arc<Queues>,
    queue: String,
    job: JobId,
    turn: watch::Receiver<bool>,
}

/// How a queue stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueFigures {
    /// Its name.
    pub(crate) name: String,
    /// How many jobs work at once; none: as many as there are.
    pub(crate) limit: Option<usize>,
    /// How many work.
    pub(crate) at_work: usize,
    /// How many wait for their turn.
    pub(crate) waiting: usize,
}

impl Queues {
    /// Queues with these limits, by name.
    pub fn new(limits: impl IntoIterator<Item = (String, usize)>) -> Self {
        Self { limits: limits.into_iter().collect(), lines: Mutex::default() }
    }

    /// A job waits for its turn; it became due at `due_ms` (milliseconds since 1970).
    pub(super) fn join(self: &Arc<Self>, queue: &str, job: JobId, due_ms: u64) -> Place {
        self.enter(queue, job, |line| line.join(job, due_ms))
    }

    /// A job that had its turn goes on.
    pub(super) fn come_back(self: &Arc<Self>, queue: &str, job: JobId) -> Place {
        let place = self.enter(queue, job, |line| line.come_back(job));
        self.with(queue, |line| line.call(job));
        place
    }

    /// The place of a job among those that wait, from 1.
    pub(super) fn place(&self, queue: &str, job: JobId) -> Option<u64> {
        let place = self.with(queue, |line| line.queue.place(job))?;
        u64::try_from(place).ok()
    }

    /// How each queue stands that has a limit or was ever used.
    pub(super) fn figures(&self) -> Vec<QueueFigures> {
        let lines = self.locked();
        let names: BTreeSet<&String> = self.limits.keys().chain(lines.keys()).collect();
        let figures = names.into_iter().map(|name| {
            let queue = lines.get(name).map(|line| &line.queue);
            QueueFigures {
                name: name.clone(),
                limit: self.limits.get(name).copied(),
                at_work: queue.map_or(0, Queue::at_work),
                waiting: queue.map_or(0, Queue::waiting),
            }
        });
        figures.collect()
    }

    fn enter(self: &Arc<Self>, queue: &str, job: JobId, enter: impl FnOnce(&mut Queue<JobId>)) -> Place {
        let (call, turn) = watch::channel(false);
        self.with(queue, |line| {
            line.calls.insert(job, call);
            enter(&mut line.queue);
            line.admit();
        });
        Place { queues: Arc::clone(self), queue: queue.to_owned(), job, turn }
    }

    fn with<T>(&self, queue: &str, act: impl FnOnce(&mut Line) -> T) -> T {
        let mut lines = self.locked();
        if let Some(line) = lines.get_mut(queue) {
            return act(line);
        }
        let limit = self.limits.get(queue).copied().unwrap_or(usize::MAX);
        let line = Line { queue: Queue::new(limit), calls: HashMap::new() };
        act(lines.entry(queue.to_owned()).or_insert(line))
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Line>> {
        // Also after a panic elsewhere: no act leaves a line halfway.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn admit(&mut self) {
        while let Some(job) = self.queue.admit() {
            self.call(job);
        }
    }

    fn call(&mut self, job: JobId) {
        if let Some(call) = self.calls.get(&job) {
            call.send_replace(true);
        }
    }
}

impl Place {
    /// Resolves when it is the job's turn. May be dropped and asked again.
    pub(super) async fn turn(&mut self) {
        // The call is only dropped together with the place.
        let _ = self.turn.wait_for(|is_turn| *is_turn).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queues.with(&self.queue, |line| {
            line.calls.remove(&self.job);
            line.queue.leave(self.job);
            line.admit();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_leaves_lets_the_next_one_in() {
        let queues = Arc::new(Queues::new([("moves".to_owned(), 1)]));
        let (a, b, c) = (JobId::fresh(), JobId::fresh(), JobId::fresh());
        let mut first = queues.join("moves", a, 1);
        let mut third = queues.join("moves", b, 3);
        let mut second = queues.join("moves", c, 2);
        first.turn().await;
        let figures = QueueFigures { name: "moves".to_owned(), limit: Some(1), at_work: 1, waiting: 2 };
        assert_eq!(queues.figures(), [figures]);
        assert_eq!((queues.place("moves", c), queues.place("moves", b)), (Some(1), Some(2)));
        drop(first);
        second.turn().await;
        assert_eq!((queues.place("moves", c), queues.place("moves", b)), (None, Some(1)));
        drop(second);
        third.turn().await;
    }

    #[tokio::test]
    async fn a_queue_nobody_limited_lets_everybody_in_and_one_that_comes_back_never_waits() {
        let queues = Arc::new(Queues::new([("moves".to_owned(), 1)]));
        let mut anywhere = [queues.join("other", JobId::fresh(), 1), queues.join("other", JobId::fresh(), 1)];
        for place in &mut anywhere {
            place.turn().await;
        }
        let mut at_work =
            [queues.come_back("moves", JobId::fresh()), queues.come_back("moves", JobId::fresh())];
        for place in &mut at_work {
            place.turn().await;
        }
    }
}
