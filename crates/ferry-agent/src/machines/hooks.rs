//! Telling a machine of its moves: the commands that its spec has for that, run where it is.
//!
//! Invariant: a hook ends in its time, with all that it has started in the machine's name, also when nobody waits for it any more.

use super::{Machines, MachinesError};
use crate::records::{MachineRecord, ProcessMark};
use ferry_api::{Hook, HookName, HookRun, MachineId, Notice};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long after the end of a try the next one begins, of a hook that is tried again.
const AGAIN: Duration = Duration::from_millis(100);

impl Machines {
    /// Runs a hook of a machine; none if it has no such hook, or does not run here. That of a machine that has arrived is tried
    /// again until it succeeds or its time is over, as long as the machine is to run here: what serves in it may have to start first.
    ///
    /// # Errors
    /// The machine is not here, or the records cannot be read.
    pub async fn tell(&self, machine: MachineId, notice: &Notice) -> Result<Option<HookRun>, MachinesError> {
        let begun = Instant::now();
        let tried = loop {
            let record = self.record(machine).await?;
            let Some(hook) = record.spec.hooks.get(notice.hook) else { return Ok(None) };
            let end = begun + Duration::from_millis(hook.limit_ms());
            let is_patient = notice.hook == HookName::AfterMove && record.shall_run();
            let tried = match &record.process {
                Some(mark) => self.try_hook(&record, mark, hook, notice, end).await?,
                // It has ended by itself, and is about to be started again.
                None if is_patient => Err("the machine does not run".to_owned()),
                None => return Ok(None),
            };
            match is_patient && tried.is_err() && Instant::now() + AGAIN < end {
                true => sleep_until(Instant::now() + AGAIN).await,
                false => break tried,
            }
        };
        let run = HookRun { hook: notice.hook, took_ms: in_ms(begun.elapsed()), failure: tried.err() };
        match &run.failure {
            None => tracing::info!(%machine, hook = %run.hook, took_ms = run.took_ms, "a hook succeeded"),
            Some(why) => tracing::warn!(%machine, hook = %run.hook, why, "a hook did not succeed"),
        }
        Ok(Some(run))
    }

    /// One try.
    async fn try_hook(
        &self,
        record: &MachineRecord,
        mark: &ProcessMark,
        hook: &Hook,
        notice: &Notice,
        end: Instant,
    ) -> Result<Result<(), String>, MachinesError> {
        if hook.freeze {
            return Ok(self.freeze_and_flush(record, end).await);
        }
        let mut launch = self.inner.launch(record, Vec::new(), Vec::new())?;
        launch.env.extend(words(notice, hook.limit_ms()));
        let driver = self.inner.host.driver(record.spec.driver.kind());
        let check = hook.as_try();
        let late = |_| Err(format!("{} took longer than {} ms", check.probe, check.timeout_ms));
        Ok(timeout_at(end, driver.try_health(&launch, mark, &check)).await.unwrap_or_else(late))
    }
}

/// What the hook finds in its environment.
fn words(notice: &Notice, limit_ms: u64) -> [(String, String); 5] {
    [
        ("FERRY_HOOK", notice.hook.to_string()),
        ("FERRY_HOOK_TIMEOUT_MS", limit_ms.to_string()),
        ("FERRY_MOVE_JOB", notice.job.to_string()),
        ("FERRY_MOVE_FROM", notice.from.to_string()),
        ("FERRY_MOVE_TO", notice.to.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

fn in_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
