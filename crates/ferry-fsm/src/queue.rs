//! A queue: at most so many jobs at work at once, the others in the order in which they became due.
//!
//! Invariant: the queue holds nothing that is not in the journals. A job that was let in and has not ended is at work,
//! one that is due and was not is waiting; so a restart finds the same queue. A job that comes back to work (after a
//! restart, or when a person resumes it) never waits again, even if that makes more than the limit for a while.

use std::collections::{BTreeMap, BTreeSet};

/// Who is at work and who waits. `I` is the id of a job.
#[derive(Debug, Clone)]
pub struct Queue<I> {
    limit: usize,
    at_work: BTreeSet<I>,
    waiting: BTreeSet<(u64, I)>,
    due: BTreeMap<I, u64>,
}

impl<I: Ord + Copy> Queue<I> {
    /// An empty queue that lets `limit` jobs work at once; 0 is taken as 1, since a queue that lets nobody in never
    /// ends.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), at_work: BTreeSet::new(), waiting: BTreeSet::new(), due: BTreeMap::new() }
    }

    /// A job waits for its turn; it became due at `due_ms` (milliseconds since the Unix epoch). Among those due at the
    /// same time the lower id goes first.
    pub fn join(&mut self, job: I, due_ms: u64) {
        if !self.at_work.contains(&job) && !self.due.contains_key(&job) {
            self.due.insert(job, due_ms);
            self.waiting.insert((due_ms, job));
        }
    }

    /// A job that had its turn is at work again.
    pub fn come_back(&mut self, job: I) {
        self.forget_waiting(job);
        self.at_work.insert(job);
    }

    /// A job ended, waits for a person or for what cannot be read, or no longer waits for its turn.
    pub fn leave(&mut self, job: I) {
        self.forget_waiting(job);
        self.at_work.remove(&job);
    }

    /// Lets the next one in, if there is room; it is at work from now on.
    pub fn admit(&mut self) -> Option<I> {
        if self.at_work.len() >= self.limit {
            return None;
        }
        let (_, job) = self.waiting.first().copied()?;
        self.come_back(job);
        Some(job)
    }

    /// The place of a job among those that wait, from 1.
    pub fn place(&self, job: I) -> Option<usize> {
        let due_ms = *self.due.get(&job)?;
        Some(self.waiting.range(..=(due_ms, job)).count())
    }

    /// How many are at work.
    pub fn at_work(&self) -> usize {
        self.at_work.len()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn forget_waiting(&mut self, job: I) {
        if let Some(due_ms) = self.due.remove(&job) {
            self.waiting.remove(&(due_ms, job));
        }
    }
}
