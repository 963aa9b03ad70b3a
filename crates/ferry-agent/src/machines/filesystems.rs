//! Volumes as file systems of their machines: made once, handed to the machine as devices, and let go when it has stopped.
//!
//! Invariant: a file system is made only on a volume that was created empty to have one, before any machine ever had it;
//! the records say so before the first byte is written and after the last.

use super::{Inner, MachinesError};
use crate::drivers::{Holds, MountedVolume};
use crate::records::{Change, FilesystemMark, MachineRecord};
use ferry_api::{AttachedFrontend, VolumeName};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Why a volume cannot be mounted for its machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFilesystem {
    /// There is none, and it is not known that the volume is empty.
    #[error(
        "volume {name} holds no ext4 file system, and none is made on a volume that may hold something; make one \
         with `mkfs.ext4 $(ferry volume attach {name})` or create the machine with an empty volume"
    )]
    Missing {
        /// The volume.
        name: VolumeName,
    },
    /// It says that it has errors.
    #[error(
        "the file system of volume {name} needs repair, which is not done unasked; look at what \
         `e2fsck -f {}` says while the machine is stopped", device.display()
    )]
    NeedsRepair {
        /// The volume.
        name: VolumeName,
        /// Its block device.
        device: PathBuf,
    },
}

/// What is to be done with a volume before its machine mounts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    /// Make a file system, then mount it.
    Make,
    /// Mount what is there.
    Mount,
    /// There is nothing to mount.
    Missing,
    /// Have it repaired first.
    Repair,
}

/// Decides that. Pure.
fn todo(mark: Option<FilesystemMark>, holds: Holds) -> Todo {
    match (mark, holds) {
        (_, Holds::Ext4 { has_errors: true, .. }) => Todo::Repair,
        (_, Holds::Ext4 { .. }) => Todo::Mount,
        (Some(FilesystemMark::Blank | FilesystemMark::Making), Holds::Nothing) => Todo::Make,
        (None | Some(FilesystemMark::Made), Holds::Nothing | Holds::Unknown)
        // Also what was cut off while it was made: somebody may have written there since.
        | (Some(FilesystemMark::Blank | FilesystemMark::Making), Holds::Unknown) => Todo::Missing,
    }
}

/// How the block devices of a machine that runs stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Devices {
    /// Those that it has mounted are there.
    Kept,
    /// One of them went with its volume's server: all that the machine asks of it fails from now on.
    Lost,
    /// That is not known yet.
    Unknown,
}

/// How the device that a machine has mounted stands, by those that its volume's server has now, if that tells. Pure.
fn stands(mounted: &Path, now: Option<&[AttachedFrontend]>) -> Devices {
    match now {
        None | Some([]) => Devices::Unknown,
        Some(now) if now.iter().any(|device| device.address.as_deref() == Some(mounted)) => Devices::Kept,
        Some(now) if now.iter().any(|device| device.address.is_none() && device.error.is_none()) => {
            Devices::Unknown
        }
        Some(_) => Devices::Lost,
    }
}

impl Inner {
    /// How the block devices stand that a machine has mounted that runs.
    pub(super) async fn devices(&self, record: &MachineRecord) -> Devices {
        let mounted = self.host.driver(record.spec.driver.kind()).devices(&self.dir(record.id));
        let volumes = record.volumes.iter().zip(record.volume_keys());
        let volumes = volumes.filter(|(volume, _)| record.spec.mounts.contains_key(&volume.name));
        let mut all = Devices::Kept;
        for ((_, key), mounted) in volumes.zip(mounted) {
            match stands(&mounted, self.volumes.block_devices(key).await.as_deref()) {
                Devices::Kept => {}
                Devices::Lost => return Devices::Lost,
                Devices::Unknown => all = Devices::Unknown,
            }
        }
        all
    }

    /// Attaches the volumes that a machine mounts, and makes file systems where there shall be some and are none; answers how long
    /// making them took.
    pub(super) async fn to_mount(
        &self,
        record: &MachineRecord,
    ) -> Result<(Vec<MountedVolume>, Duration), MachinesError> {
        let (mut mounted, mut making) = (Vec::new(), Duration::ZERO);
        for (volume, key) in record.volumes.iter().zip(record.volume_keys()) {
            let Some(mount) = record.spec.mounts.get(&volume.name) else { continue };
            let failed = |cause| MachinesError::Volume { name: volume.name.clone(), cause: Box::new(cause) };
            let attached = self.volumes.attach(key, None).await.map_err(failed)?;
            let device = attached.address.expect("a frontend that was attached has an address");
            let mark = self.records.volume(key).await?.and_then(|record| record.filesystem);
            match todo(mark, self.host.look(device.clone()).await?) {
                Todo::Mount => {}
                Todo::Make => {
                    let begun = Instant::now();
                    self.mark(key, FilesystemMark::Making).await?;
                    self.host.make_filesystem(device.clone(), record.spec.clone()).await?;
                    self.volumes.flush(key).await.map_err(failed)?;
                    making += begun.elapsed();
                }
                Todo::Missing => return Err(NoFilesystem::Missing { name: volume.name.clone() }.into()),
                Todo::Repair => {
                    return Err(NoFilesystem::NeedsRepair { name: volume.name.clone(), device }.into());
                }
            }
            if mark.is_some_and(|mark| mark < FilesystemMark::Made) {
                self.mark(key, FilesystemMark::Made).await?;
            }
            mounted.push(MountedVolume { device, mount: mount.clone() });
        }
        Ok((mounted, making))
    }

    async fn mark(&self, key: ferry_api::VolumeKey, mark: FilesystemMark) -> Result<(), MachinesError> {
        Ok(self.records.change(vec![Change::Filesystem { key, mark }]).await?)
    }

    /// Waits until nothing of a machine that has ended holds the devices of its volumes, and takes them away: then its
    /// file systems are unmounted, and all of them is with the volumes' servers.
    pub(super) async fn unmounted(&self, record: &MachineRecord) -> Result<(), MachinesError> {
        for (volume, key) in record.volumes.iter().zip(record.volume_keys()) {
            if record.spec.mounts.contains_key(&volume.name) {
                let gone = self.volumes.let_device_go(key).await;
                let failed =
                    |cause| MachinesError::Volume { name: volume.name.clone(), cause: Box::new(cause) };
                gone.map_err(failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FilesystemMark::{Blank, Made, Making};

    const FRESH: Holds = Holds::Ext4 { has_errors: false, was_mounted: false };
    const USED: Holds = Holds::Ext4 { has_errors: false, was_mounted: true };

    #[test]
    fn a_file_system_is_made_only_where_nobody_can_have_written() {
        assert_eq!(todo(Some(Blank), Holds::Nothing), Todo::Make);
        for mark in [None, Some(Made)] {
            for holds in [Holds::Nothing, Holds::Unknown] {
                assert_eq!(todo(mark, holds), Todo::Missing);
            }
        }
        assert_eq!(todo(Some(Blank), Holds::Unknown), Todo::Missing);
        for mark in [None, Some(Blank), Some(Making), Some(Made)] {
            assert_eq!(todo(mark, USED), Todo::Mount);
        }
    }

    #[test]
    fn one_that_was_cut_off_is_made_again_only_where_nothing_is_yet() {
        assert_eq!(todo(Some(Making), Holds::Nothing), Todo::Make);
        assert_eq!(todo(Some(Making), Holds::Unknown), Todo::Missing);
        for mark in [Blank, Making] {
            assert_eq!(todo(Some(mark), FRESH), Todo::Mount);
        }
    }

    #[test]
    fn a_device_is_lost_once_its_volumes_server_has_another_one_or_says_why_it_has_none() {
        let device = |address: Option<&str>, error: Option<&str>| AttachedFrontend {
            frontend: ferry_api::Frontend::Fuse,
            address: address.map(PathBuf::from),
            error: error.map(str::to_owned),
        };
        let of = |now: Option<&[AttachedFrontend]>| stands(Path::new("/dev/loop1"), now);
        assert_eq!(of(Some(&[device(Some("/dev/loop1"), None)])), Devices::Kept);
        assert_eq!(
            of(Some(&[device(Some("/dev/loop2"), None), device(Some("/dev/loop1"), None)])),
            Devices::Kept
        );
        assert_eq!(of(Some(&[device(Some("/dev/loop2"), None)])), Devices::Lost);
        assert_eq!(of(Some(&[device(None, Some("no loop device"))])), Devices::Lost);
        assert_eq!(of(Some(&[device(None, None)])), Devices::Unknown, "it is being made");
        assert_eq!([of(Some(&[])), of(None)], [Devices::Unknown; 2]);
    }

    #[test]
    fn one_with_errors_is_never_mounted() {
        let sick = Holds::Ext4 { has_errors: true, was_mounted: true };
        for mark in [None, Some(Blank), Some(Making), Some(Made)] {
            assert_eq!(todo(mark, sick), Todo::Repair);
        }
    }
}
