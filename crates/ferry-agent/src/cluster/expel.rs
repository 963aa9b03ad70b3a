//! Whoever belongs to the cluster no longer reads no volume here, whatever its server was told before.

use super::Cluster;
use crate::volumes::Volumes;
use ferry_api::WorkerName;
use std::collections::{BTreeMap, BTreeSet};

impl Cluster {
    /// Tells the volumes who was revoked, now and whenever that changes, for ever.
    pub(crate) async fn expel_from(self, volumes: Volumes) {
        let mut changed = self.watch();
        loop {
            changed.borrow_and_update();
            if let Err(error) = volumes.expel(self.revoked()).await {
                tracing::warn!(%error, "volumes are not told who was revoked");
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// The names of which nobody is a member any more. One that was taken again is a member's.
    fn revoked(&self) -> BTreeSet<WorkerName> {
        let last: BTreeMap<WorkerName, bool> =
            self.members().into_iter().map(|member| (member.name, member.is_revoked)).collect();
        last.into_iter().filter(|(_, is_revoked)| *is_revoked).map(|(name, _)| name).collect()
    }
}
