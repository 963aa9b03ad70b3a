//! Whether a machine is well: tried again and again while it runs, and told to whoever asks. Nothing is done about it here.

use super::Inner;
use crate::drivers::Launch;
use crate::mutex::locked;
use crate::records::ProcessMark;
use ferry_api::{Health, HealthCheck};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long after a try the next one begins at most, while it is not known yet how a machine is.
const START_INTERVAL_MS: u64 = 500;

/// What came of the tries so far. Pure.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tally {
    health: Health,
    /// Failures in a row that count.
    failed: u32,
}

impl Tally {
    fn new() -> Self {
        Self { health: Health::Starting { why: None }, failed: 0 }
    }

    /// Counts a try that ended `ran_ms` after the start of the machine.
    fn count(&mut self, check: &HealthCheck, tried: Result<(), String>, ran_ms: u64, now_ms: u64) {
        match (tried, &self.health) {
            (Ok(()), Health::Healthy { .. }) => self.failed = 0,
            (Ok(()), _) => *self = Self { health: Health::Healthy { since_ms: now_ms }, failed: 0 },
            (Err(why), Health::Starting { .. }) if ran_ms < check.start_period_ms => {
                self.health = Health::Starting { why: Some(why) };
            }
            (Err(why), known) => {
                self.failed = self.failed.saturating_add(1);
                self.health = match known {
                    Health::Unhealthy { since_ms, .. } => Health::Unhealthy { since_ms: *since_ms, why },
                    _ if self.failed >= check.failures.get() => Health::Unhealthy { since_ms: now_ms, why },
                    Health::Healthy { since_ms } => Health::Healthy { since_ms: *since_ms },
                    Health::Starting { .. } => Health::Starting { why: Some(why) },
                };
            }
        }
    }

    fn pause(&self, check: &HealthCheck) -> Duration {
        Duration::from_millis(match self.health {
            Health::Starting { .. } => check.interval_ms.min(START_INTERVAL_MS),
            Health::Healthy { .. } | Health::Unhealthy { .. } => check.interval_ms,
        })
    }
}

/// Tries how a machine is until it is dropped.
#[derive(Debug)]
pub(super) struct Nurse {
    known: Arc<Mutex<Health>>,
    _task: JoinSet<()>,
}

impl Nurse {
    /// Begins to look after the machine that runs as `mark` says, if its spec asks for that.
    pub(super) fn begin(inner: &Arc<Inner>, launch: Launch, mark: ProcessMark) -> Option<Self> {
        let check = launch.spec.health.clone()?;
        let mut tally = Tally::new();
        let known = Arc::new(Mutex::new(tally.health.clone()));
        let (inner, told) = (Arc::clone(inner), Arc::clone(&known));
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let tried =
                    inner.host.driver(launch.spec.driver.kind()).try_health(&launch, &mark, &check).await;
                let now_ms = inner.host.now_ms();
                let before = tally.health.clone();
                tally.count(&check, tried, now_ms.saturating_sub(mark.started_at_ms), now_ms);
                tell_change(&launch, &before, &tally.health);
                *locked(&told) = tally.health.clone();
                tokio::time::sleep(tally.pause(&check)).await;
            }
        });
        Some(Self { known, _task: task })
    }

    /// How the machine is.
    pub(super) fn health(&self) -> Health {
        locked(&self.known).clone()
    }
}

fn tell_change(launch: &Launch, before: &Health, now: &Health) {
    match (before, now) {
        (Health::Unhealthy { .. }, Health::Unhealthy { .. }) => {}
        (_, Health::Unhealthy { why, .. }) => {
            tracing::warn!(machine = %launch.name, why, "a machine runs and is not well");
        }
        (Health::Unhealthy { .. } | Health::Starting { .. }, Health::Healthy { .. }) => {
            tracing::info!(machine = %launch.name, "a machine is well");
        }
        (_, Health::Healthy { .. } | Health::Starting { .. }) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::Probe;

    fn check() -> HealthCheck {
        let probe = Probe::Command(vec!["true".to_owned()]);
        HealthCheck { start_period_ms: 100, failures: 2.try_into().unwrap(), ..probe.into() }
    }

    fn bad() -> Result<(), String> {
        Err("no".to_owned())
    }

    #[test]
    fn failures_while_it_starts_do_not_count_and_success_does() {
        let mut tally = Tally::new();
        for ran_ms in [10, 50, 99] {
            tally.count(&check(), bad(), ran_ms, ran_ms);
        }
        assert_eq!(tally, Tally { health: Health::Starting { why: Some("no".to_owned()) }, failed: 0 });
        tally.count(&check(), Ok(()), 99, 99);
        assert_eq!(tally.health, Health::Healthy { since_ms: 99 });
    }

    #[test]
    fn enough_failures_in_a_row_make_it_unhealthy_and_one_success_well_again() {
        let mut tally = Tally::new();
        tally.count(&check(), bad(), 100, 1);
        tally.count(&check(), Ok(()), 200, 2);
        tally.count(&check(), bad(), 300, 3);
        assert_eq!(tally.health, Health::Healthy { since_ms: 2 });
        tally.count(&check(), bad(), 400, 4);
        tally.count(&check(), Err("still no".to_owned()), 500, 5);
        assert_eq!(tally.health, Health::Unhealthy { since_ms: 4, why: "still no".to_owned() });
        tally.count(&check(), Ok(()), 600, 6);
        assert_eq!(tally, Tally { health: Health::Healthy { since_ms: 6 }, failed: 0 });
    }

    #[test]
    fn it_is_tried_soon_again_until_it_is_known_how_the_machine_is() {
        let mut tally = Tally::new();
        assert_eq!(tally.pause(&check()), Duration::from_millis(START_INTERVAL_MS));
        tally.count(&check(), Ok(()), 1, 1);
        assert_eq!(tally.pause(&check()), Duration::from_secs(10));
    }
}
