//! A value that others wait for. Those who wait go on in the order in which they came; tokio's own `watch` wakes them in
//! any order, and nothing here may depend on that.

use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// A value, and who waits for it to be another.
#[derive(Debug)]
pub struct Told<T> {
    value: Mutex<T>,
    news: Notify,
}

impl<T: Clone> Told<T> {
    /// A value that nobody waits for yet.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { value: Mutex::new(value), news: Notify::const_new() }
    }

    /// It is this from now on.
    pub fn tell(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
        self.news.notify_waiters();
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> T {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns it once it is as wanted.
    pub async fn wait_for(&self, is_wanted: impl Fn(&T) -> bool) -> T {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let value = self.get();
            if is_wanted(&value) {
                return value;
            }
            news.await;
        }
    }
}
