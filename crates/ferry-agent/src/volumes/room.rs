//! How much room a worker has for volumes, and who may have it.
//!
//! Volumes are sparse, so room counts bytes in use and not sizes:
//! - a volume takes what its files occupy;
//! - a clone takes what it will occupy once it is hydrated (as its source told), from the moment it is reserved;
//! - what guests will write later is not set aside: a disk that fills up reaches the guest as `ENOSPC`;
//! - with a configured limit, no single volume may be larger than the limit, since it could never be filled.

use super::{Volumes, VolumesError};
use crate::host::Host;
use crate::records::VolumeRecord;
use ferry_api::{Ownership, Room, VolumeName};
use std::path::Path;

/// Why there is no room for a volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The volume is larger than all room there is.
    #[error(
        "volume {name} of {size_bytes} bytes is larger than the {limit_bytes} bytes this worker has room for \
         (room_bytes); choose another worker or raise the limit"
    )]
    Larger {
        /// The volume.
        name: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// What it needs is more than what is free.
    #[error(
        "the volumes need {needed_bytes} bytes and this worker has {free_bytes} bytes free; \
         choose another worker or make room"
    )]
    Full {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
}

impl Volumes {
    /// Whether volumes in files of this worker can have direct I/O.
    pub async fn has_direct_io(&self) -> bool {
        self.inner.host.has_direct_io().await
    }
}

/// Refuses volumes for which there is no room.
pub(super) fn check(room: &Room, volumes: &[VolumeRecord]) -> Result<(), NoRoom> {
    // What lies on a device of its own needs none of the room.
    for volume in volumes.iter().filter(|volume| volume.store.is_none()) {
        check_limit(room.limit_bytes, &volume.name, volume.size_bytes)?;
    }
    let needed_bytes = volumes.iter().map(|volume| volume.bytes_expected).fold(0, u64::saturating_add);
    if needed_bytes > room.free_bytes {
        return Err(NoRoom::Full { needed_bytes, free_bytes: room.free_bytes });
    }
    Ok(())
}

/// Refuses a volume that would be larger than all room there is.
pub(super) fn check_limit(
    limit_bytes: Option<u64>,
    name: &VolumeName,
    size_bytes: u64,
) -> Result<(), NoRoom> {
    match limit_bytes {
        Some(limit_bytes) if size_bytes > limit_bytes => {
            Err(NoRoom::Larger { name: name.to_string(), size_bytes, limit_bytes })
        }
        Some(_) | None => Ok(()),
    }
}

/// Measures the room there is beside `volumes`.
pub(super) fn measure(
    host: &dyn Host,
    state_dir: &Path,
    limit_bytes: Option<u64>,
    volumes: &[VolumeRecord],
) -> Result<Room, VolumesError> {
    let failed = |cause| VolumesError::Io { doing: "measure the room in", path: state_dir.to_owned(), cause };
    let (mut used, mut handed_over, mut promised) = (0_u64, 0_u64, 0_u64);
    for volume in volumes {
        let occupied = host.occupied_bytes(volume.key()).map_err(failed)?;
        used = used.saturating_add(occupied);
        if matches!(volume.ownership, Ownership::HandedOver { .. } | Ownership::Retired { .. }) {
            handed_over = handed_over.saturating_add(occupied);
        }
        promised = promised.saturating_add(volume.bytes_expected.saturating_sub(occupied));
    }
    let available = host.available_bytes().map_err(failed)?;
    let left = limit_bytes.map_or(available, |limit| available.min(limit.saturating_sub(used)));
    Ok(Room {
        limit_bytes,
        used_bytes: used,
        handed_over_bytes: handed_over,
        promised_bytes: promised,
        free_bytes: left.saturating_sub(promised),
    })
}
