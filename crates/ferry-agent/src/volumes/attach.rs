//! Frontends of volumes: asked of the volume's server, which remembers them.

use super::{Inner, Volumes, VolumesError, not_allowed, service};
use crate::records::VolumeRecord;
use ferry_api::{AttachedFrontend, Frontend, Ownership, VolumeKey};
use ferry_volume::control::{ControlError, Status};
use ferry_volume::{self as server, FrontendKind};
use std::time::Duration;
use tokio::time::Instant;

/// How long the kernel may take to let go of a device after the last process that saw its file system has ended: what was
/// not written yet is written then.
const LET_GO_MAX: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LET_GO_POLL: Duration = Duration::from_millis(5);

impl Volumes {
    /// Attaches a frontend (if none is given: a block device); its guest can use it when this answers.
    ///
    /// # Errors
    /// The copy is not ours, or its server cannot attach it.
    pub async fn attach(
        &self,
        key: VolumeKey,
        frontend: Option<Frontend>,
    ) -> Result<AttachedFrontend, VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        // A VM whose memory is still to come finds its disk where it stands by.
        let is_for_vm = frontend == Some(Frontend::VhostUserBlk);
        let stands_by = is_for_vm && matches!(record.ownership, Ownership::Prepared { .. });
        if record.ownership != Ownership::Ours && !stands_by {
            return Err(not_allowed(&record, "attached"));
        }
        let status = self.inner.serving(&record).await?;
        let frontend = frontend.unwrap_or_else(|| block_device(&status));
        let wanted = match frontend {
            Frontend::Fuse => server::Frontend::Fuse {},
            Frontend::Ublk => server::Frontend::Ublk {},
            Frontend::VhostUserBlk => server::Frontend::VhostUserBlk {},
        };
        let attached = self.inner.ask(key, move |client| client.attach(&wanted)).await;
        let address = attached.map_err(|error| refused(&record, frontend, error))?;
        Ok(AttachedFrontend { frontend, address: Some(address), error: None })
    }

    /// Takes a frontend, or all, away from the guest.
    ///
    /// # Errors
    /// Nobody serves the copy, or a guest still holds its device.
    pub async fn detach(&self, key: VolumeKey, frontend: Option<Frontend>) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if service::wanted(&record.ownership, false) == service::Service::None {
            return Err(not_allowed(&record, "detached"));
        }
        let status = self.inner.serving(&record).await?;
        for attached in frontends(&status) {
            let kind = match attached.frontend {
                Frontend::Fuse => FrontendKind::Fuse,
                Frontend::Ublk => FrontendKind::Ublk,
                Frontend::VhostUserBlk => FrontendKind::VhostUserBlk,
            };
            if frontend.is_none_or(|wanted| wanted == attached.frontend) {
                let detached = self.inner.ask(key, move |client| client.detach(kind)).await;
                detached.map_err(|error| refused(&record, attached.frontend, error))?;
            }
        }
        Ok(())
    }
}

impl Volumes {
    /// Takes the block device of a copy away as soon as nobody holds it. A copy that is not served, or has none, is well.
    ///
    /// # Errors
    /// Somebody still holds it after the longest time that this may take.
    pub async fn let_device_go(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        let until = Instant::now() + LET_GO_MAX;
        let Ok(status) = self.inner.status(key).await else { return Ok(()) };
        for attached in frontends(&status) {
            let kind = match attached.frontend {
                Frontend::Fuse => FrontendKind::Fuse,
                Frontend::Ublk => FrontendKind::Ublk,
                Frontend::VhostUserBlk => continue,
            };
            loop {
                match self.inner.ask(key, move |client| client.detach(kind)).await {
                    Ok(()) => break,
                    Err(VolumesError::Control(ControlError::Refused { .. })) if Instant::now() < until => {
                        tokio::time::sleep(LET_GO_POLL).await;
                    }
                    Err(error) => return Err(refused(&record, attached.frontend, error)),
                }
            }
        }
        Ok(())
    }
}

impl Volumes {
    /// The frontends of a copy that are block devices, if its server tells.
    pub async fn block_devices(&self, key: VolumeKey) -> Option<Vec<AttachedFrontend>> {
        let status = self.inner.status(key).await.ok()?;
        let is_device = |attached: &AttachedFrontend| attached.frontend != Frontend::VhostUserBlk;
        Some(frontends(&status).into_iter().filter(is_device).collect())
    }
}

/// The block device that a volume has; if it has none, the best one of this host.
fn block_device(status: &Status) -> Frontend {
    let is_device = |frontend: &Frontend| matches!(frontend, Frontend::Ublk | Frontend::Fuse);
    let attached = frontends(status).into_iter().map(|attached| attached.frontend).find(is_device);
    attached.unwrap_or_else(|| match server::probe_ublk() {
        Ok(_) => Frontend::Ublk,
        Err(_) => Frontend::Fuse,
    })
}

/// The frontends that a server has.
pub(super) fn frontends(status: &Status) -> Vec<AttachedFrontend> {
    let attached = |status: &server::FrontendStatus| AttachedFrontend {
        frontend: match status.frontend {
            server::Frontend::Fuse {} => Frontend::Fuse,
            server::Frontend::Ublk {} => Frontend::Ublk,
            server::Frontend::VhostUserBlk {} => Frontend::VhostUserBlk,
        },
        address: status.address.clone(),
        error: status.error.clone(),
    };
    status.frontends.iter().map(attached).collect()
}

fn refused(record: &VolumeRecord, frontend: Frontend, error: VolumesError) -> VolumesError {
    let VolumesError::Control(ControlError::Refused { reason }) = error else { return error };
    VolumesError::Frontend { name: record.name.clone(), frontend, reason }
}
