//! Freezing the file systems of a machine for a moment.
//!
//! Invariant: what was frozen is thawed, whoever gives up waiting for it, and also by the next agent, or by that of the worker where it goes on.

use super::{Inner, Machines};
use crate::drivers::GuestError;
use crate::records::MachineRecord;
use ferry_api::{ApiError, MachineId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long after a thaw that failed the next one is tried.
const AGAIN: Duration = Duration::from_secs(1);

impl Machines {
    /// Freezes the file systems of a machine, flushes its volumes, and thaws them; not begun, or cut short, at `end`. The error says in words what
    /// came between.
    pub(super) async fn freeze_and_flush(&self, record: &MachineRecord, end: Instant) -> Result<(), String> {
        let (inner, record) = (Arc::clone(&self.inner), record.clone());
        // On its own: whoever does not wait for it any more leaves nothing frozen.
        let doing = tokio::spawn(async move {
            let freezes = inner.host.driver(record.spec.driver.kind()).freezes(&inner.dir(record.id));
            let freezes = freezes.ok_or("what runs it cannot freeze file systems")?;
            let frozen = timeout_at(end, freezes.freeze()).await;
            let flushed = match &frozen {
                Ok(Ok(())) => timeout_at(end, inner.flush_volumes(&record)).await,
                Ok(Err(_)) | Err(_) => Ok(Ok(())),
            };
            Inner::thaw(&inner, &record);
            let late = || "freezing its file systems took longer than it may".to_owned();
            frozen.map_err(|_| late())?.map_err(|error| error.to_string())?;
            flushed.map_err(|_| late())?
        });
        doing.await.unwrap_or_else(|error| Err(format!("it was broken off: {error}")))
    }
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
        if !record.spec.hooks.iter().any(|(_, hook)| hook.freeze) {
            return;
        }
        let (inner, id) = (Arc::clone(inner), record.id);
        tokio::spawn(async move { inner.thawed(id).await });
    }

    /// Tries until it is done, it is refused, or the machine does not run here any more.
    async fn thawed(&self, id: MachineId) {
        loop {
            let Ok(Some(record)) = self.records.machine(id).await else { return };
            if record.process.is_none() {
                return;
            }
            let Some(freezes) = self.host.driver(record.spec.driver.kind()).freezes(&self.dir(id)) else {
                return;
            };
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
