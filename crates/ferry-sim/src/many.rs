//! Many simulations, as many at a time as there are processors. Each has a thread of its own, and nothing in common.

use crate::{Options, Outcome, run};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

/// Runs all of them and tells of each, in the order in which they end.
pub fn run_all(all: impl Iterator<Item = Options> + Send, mut hear: impl FnMut(Options, Outcome)) {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let all = Mutex::new(all);
    let next = || all.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for _ in 0..at_once {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                while let Some(options) = next() {
                    if tell.send((options, run(options))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        told.into_iter().for_each(|(options, outcome)| hear(options, outcome));
    });
}
