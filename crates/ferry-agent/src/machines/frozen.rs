//! Freezing the file systems of a machine for a moment.
//!
//! Invariant: what was frozen is thawed, whoever gives up waiting for it, and also by the next agent, or by that of the worker where it goes on.

use super::{Inner, Machines};
use crate::drivers::GuestError;
use crate::moments;
use crate::records::MachineRecord;
use ferry_api::{ApiError, ErrorCode, Hook, HookName, MachineId, OnHookFailure};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long after a thaw that failed the next one is tried.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a thaw is waited for. It is tried on after that.
const THAW_MAX: Duration = Duration::from_secs(30);

/// A machine whose file systems are frozen, or may be: it is thawed when this goes.
pub(crate) struct Frozen {
    inner: Arc<Inner>,
    machine: MachineId,
    is_thawed: bool,
}

impl Frozen {
    /// Thaws it, and returns when it is.
    pub(crate) async fn thaw(mut self) {
        self.is_thawed = timeout(THAW_MAX, self.inner.thawed(self.machine)).await.is_ok();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.is_thawed {
            let (inner, machine) = (Arc::clone(&self.inner), self.machine);
            tokio::spawn(async move { inner.thawed(machine).await });
        }
    }
}

impl Machines {
    /// Freezes the file systems of a machine, flushes its volumes, and thaws them, all but the last until `end`. The error says in words
    /// what came between.
    pub(super) async fn freeze_and_flush(&self, record: &MachineRecord, end: Instant) -> Result<(), String> {
        let frozen = self.freeze(record, end).await?;
        let flushed = timeout_at(end, self.inner.flush_volumes(record)).await;
        frozen.thaw().await;
        flushed.map_err(|_| late())?
    }

    async fn freeze(&self, record: &MachineRecord, end: Instant) -> Result<Frozen, String> {
        let inner = Arc::clone(&self.inner);
        let freezes = inner.host.driver(record.spec.driver.kind()).freezes(&inner.dir(record.id));
        let freezes = freezes.ok_or("what runs it cannot freeze file systems")?;
        // From here on: it may freeze later than anybody waits for it.
        let frozen = Frozen { inner, machine: record.id, is_thawed: false };
        timeout_at(end, freezes.freeze()).await.map_err(|_| late())?.map_err(|error| error.to_string())?;
        moments::frozen().await;
        Ok(frozen)
    }

    /// Freezes a machine for a fork of a volume of it, if it runs and is frozen for its moves: in the time that these give it, and what becomes of the fork
    /// if that fails is what becomes of a move.
    ///
    /// # Errors
    /// It is not frozen, and asks for no fork then.
    pub(crate) async fn freeze_for_fork(&self, machine: MachineId) -> Result<Option<Frozen>, ApiError> {
        let record = self.record(machine).await?;
        let freezes = |hook: &&Hook| hook.freeze && record.process.is_some();
        let Some(hook) = record.spec.hooks.get(HookName::Quiesce).filter(freezes) else { return Ok(None) };
        match self.freeze(&record, Instant::now() + Duration::from_millis(hook.limit_ms())).await {
            Ok(frozen) => Ok(Some(frozen)),
            Err(why) if hook.on_failure == OnHookFailure::Abort => {
                let message = format!("machine {} cannot be frozen for the fork: {why}", record.name);
                Err(ApiError::new(ErrorCode::Unavailable, message))
            }
            Err(why) => {
                tracing::warn!(machine = %record.name, why, "a machine is forked without being frozen");
                Ok(None)
            }
        }
    }
}

fn late() -> String {
    "freezing its file systems took longer than it may".to_owned()
}

impl Inner {
    async fn flush_volumes(&self, record: &MachineRecord) -> Result<(), String> {
        for key in record.volume_keys() {
            self.volumes.flush(key).await.map_err(|error| ApiError::from(error).message)?;
        }
        Ok(())
    }

    /// Has a machine that freezes for its moves thawed, if it is frozen. Nobody has to wait for it.
    pub(super) fn thaw(inner: &Arc<Self>, record: &MachineRecord) {
        if record.spec.hooks.iter().any(|(_, hook)| hook.freeze) {
            drop(Frozen { inner: Arc::clone(inner), machine: record.id, is_thawed: false });
        }
    }

    /// Tries until it is done, it is refused, or the machine does not run here any more.
    async fn thawed(&self, machine: MachineId) {
        loop {
            let Ok(Some(record)) = self.records.machine(machine).await else { return };
            let freezes = self.host.driver(record.spec.driver.kind()).freezes(&self.dir(machine));
            let Some(freezes) = freezes.filter(|_| record.process.is_some()) else { return };
            match freezes.thaw().await {
                Ok(()) => return,
                Err(error @ GuestError::Refuses { .. }) => {
                    return tracing::warn!(machine = %record.name, %error, "a machine may be frozen; thaw it from inside");
                }
                Err(error) => {
                    tracing::debug!(machine = %record.name, %error, "a machine cannot be thawed yet")
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
