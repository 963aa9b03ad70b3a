//! Volumes as disks of their machines: the sockets by which a VM comes to them.

use super::{Inner, MachinesError};
use crate::drivers::Disk;
use crate::records::MachineRecord;
use ferry_api::{Driver, Frontend, MachineSpec, QemuDisk};

/// Whether a machine comes to its volumes by vhost-user-blk.
fn wants_vhost(spec: &MachineSpec) -> bool {
    match &spec.driver {
        Driver::Qemu(qemu) => qemu.disk == QemuDisk::VhostUserBlk,
        Driver::CloudHypervisor(_) | Driver::Firecracker(_) => true,
        Driver::Process(_) | Driver::Oci(_) => false,
    }
}

impl Inner {
    /// The disks of a machine, each with a server behind its sockets.
    pub(super) async fn disks(&self, record: &MachineRecord) -> Result<Vec<Disk>, MachinesError> {
        let mut disks = Vec::new();
        for (volume, key) in record.volumes.iter().zip(record.volume_keys()) {
            let vhost = match wants_vhost(&record.spec) {
                true => {
                    let attached = self.volumes.attach(key, Some(Frontend::VhostUserBlk)).await;
                    let failed =
                        |cause| MachinesError::Volume { name: volume.name.clone(), cause: Box::new(cause) };
                    attached.map_err(failed)?.address
                }
                false => None,
            };
            disks.push(Disk { volume: key.id, nbd: self.volumes.guest_socket(key), vhost });
        }
        Ok(disks)
    }
}
