//! Why the agent must stop: said once, to all who wait for it.
//!
//! They are woken in the order in which they began to wait. A watch channel wakes those who wait for one value in an
//! order of its own choosing, which no simulation could do again.

use std::pin::pin;
use std::sync::OnceLock;
use tokio::sync::Notify;

/// A reason to stop, once there is one. The first one stays.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    reason: OnceLock<String>,
    said: Notify,
}

impl Failure {
    /// Says it, unless a reason was said before.
    pub(crate) fn say(&self, reason: String) {
        if self.reason.set(reason).is_ok() {
            self.said.notify_waiters();
        }
    }

    /// The reason, if there is one.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Resolves with the reason when there is one.
    pub(crate) async fn told(&self) -> &str {
        let mut said = pin!(self.said.notified());
        // From here on nothing that is said is missed.
        said.as_mut().enable();
        if self.reason().is_none() {
            said.await;
        }
        self.reason().expect("it is said before those who wait are woken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_is_told_to_those_who_wait_and_to_those_who_come_later() {
        let failure = Failure::default();
        let mut waits = pin!(failure.told());
        tokio::select! {
            biased;
            reason = &mut waits => panic!("nothing was said: {reason}"),
            () = std::future::ready(()) => {}
        }
        failure.say("the disk is full".to_owned());
        failure.say("something else".to_owned());
        assert_eq!(waits.await, "the disk is full");
        assert_eq!(failure.told().await, "the disk is full");
    }
}
