//! What the agent does to the directory of a volume: make it, look what it is, delete it.

use super::VolumesError;
use super::shrink;
use super::view::phase as phase_of;
use crate::config::{volume_dir, volumes_dir};
use crate::host::Host;
use crate::records::VolumeRecord;
use ferry_api::{Ownership, VolumeKey};
use ferry_crossing::service::{self, Deletion};
use ferry_volume::control::Phase;
use ferry_volume::directory::SERVER_LOG;
use ferry_volume::{CreateOptions, SourceUri};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the name of a directory that is being deleted ends with.
pub(crate) const LEFTOVER: &str = ".deleted";
/// Unit in which the system counts the space of a file, in bytes.
const STAT_BLOCK_BYTES: u64 = 512;
/// How much of the end of a log is read to quote it, in bytes.
const LOG_TAIL_BYTES: u64 = 4096;

/// Makes the directory of a copy; done already if a complete one is there.
pub(crate) fn make(state_dir: &Path, record: &VolumeRecord) -> Result<(), VolumesError> {
    let dir = volume_dir(state_dir, record.key());
    let parent = dir.parent().expect("a volume's directory lies in the state directory");
    fs::create_dir_all(parent).map_err(io("make", parent))?;
    let source = record.source.as_ref().map(|source| source.uri.parse::<SourceUri>()).transpose()?;
    let phase = match record.ownership {
        Ownership::Ours => Phase::Open,
        Ownership::Prepared { .. }
        | Ownership::Reserved { .. }
        | Ownership::Sealed { .. }
        | Ownership::HandedOver { .. }
        | Ownership::Retired { .. } => Phase::Standby,
    };
    // Only a move makes a copy of a later generation, and always from the one before.
    let born_from = record.generation.0.checked_sub(1).filter(|before| *before > 0 && source.is_some());
    let options = CreateOptions {
        dir,
        id: record.id.to_string(),
        size_bytes: record.size_bytes,
        region_bytes: record.region_bytes,
        generation: record.generation.0,
        phase,
        source,
        born_from,
        base: None,
        device: record.store.clone(),
        direct: record.direct,
    };
    ferry_volume::create(&options).map_err(|cause| VolumesError::Make { key: record.key(), cause })
}

/// Whether a copy may be deleted, by its record, by what lies in its directory, by whether a fence bars it,
/// and by whether another copy here reads it.
pub(super) fn deletion(
    host: &dyn Host,
    record: &VolumeRecord,
    barred: bool,
    is_base: bool,
) -> Result<Deletion, VolumesError> {
    let unreadable = |cause| VolumesError::Make { key: record.key(), cause };
    let last = host.last_state(record.key()).map_err(unreadable)?;
    Ok(service::deletion(&record.ownership, last.map(|last| phase_of(last.phase)), barred, is_base))
}

/// The copies whose directories lie in a state directory.
pub(crate) fn copies(state_dir: &Path) -> io::Result<Vec<VolumeKey>> {
    let entries = match fs::read_dir(volumes_dir(state_dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        keys.extend(entry?.file_name().to_str().and_then(|name| name.parse::<VolumeKey>().ok()));
    }
    Ok(keys)
}

/// Takes the directory out of the way, so that nothing finds it any more, durably. Tells where it is now.
pub(crate) fn set_aside(dir: &Path) -> Result<PathBuf, VolumesError> {
    let mut leftover = dir.as_os_str().to_owned();
    leftover.push(LEFTOVER);
    let leftover = PathBuf::from(leftover);
    let moved = match fs::rename(dir, &leftover) {
        // What is left of an earlier copy of this name is in the way; nobody deletes it now, or this would wait.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
            remove_tree(&leftover)?;
            fs::rename(dir, &leftover)
        }
        moved => moved,
    };
    match moved {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(leftover),
        Err(e) => return Err(io("move away", dir)(e)),
    }
    let parent = dir.parent().expect("a volume's directory lies in the state directory");
    File::open(parent).and_then(|d| d.sync_all()).map_err(io("make durable", parent))?;
    Ok(leftover)
}

/// Unmaps what a copy had on a block device, while the records still keep others from that. One that was never made has
/// left nothing there that is ours to take.
pub(super) async fn give_back_device(record: &VolumeRecord) {
    let (Some(device), true) = (record.store.clone(), record.made) else { return };
    let (key, size_bytes) = (record.key(), record.size_bytes);
    let discarding = tokio::task::spawn_blocking(move || ferry_volume::discard(&device, size_bytes));
    if let Err(error) = discarding.await.expect("discarding does not panic") {
        let error = ferry_api::ApiError::because(ferry_api::ErrorCode::Internal, &error);
        tracing::warn!(volume = %key, %error, "what the volume had on its device is left there; blkdiscard clears it");
    }
}

/// Removes what deletions that were cut off left behind.
pub(crate) fn remove_leftovers(state_dir: &Path) -> Result<(), VolumesError> {
    let volumes = volumes_dir(state_dir);
    fs::create_dir_all(&volumes).map_err(io("make", &volumes))?;
    for entry in fs::read_dir(&volumes).map_err(io("read", &volumes))? {
        let path = entry.map_err(io("read", &volumes))?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(LEFTOVER.as_bytes()) {
            remove_tree(&path)?;
        }
    }
    Ok(())
}

/// The last line of a server's log, to be quoted.
pub(crate) fn last_words(dir: &Path) -> String {
    let read = || {
        let mut file = File::open(dir.join(SERVER_LOG))?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        io::Result::Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    let tail = read().unwrap_or_default();
    let last = tail.lines().rev().find(|line| !line.trim().is_empty());
    // A server that refuses says so as any program does, in its own name.
    let sentence = |line: &str| line.trim().trim_start_matches("ferry: ").to_owned();
    last.map_or_else(|| "it said nothing".to_owned(), sentence)
}

/// Removes the directory of a copy, if it is there.
pub(crate) fn remove_tree(dir: &Path) -> Result<(), VolumesError> {
    if dir.exists()
        && let Err(reason) = ferry_volume::clear_devices(dir)
    {
        // What follows tells what is in the way.
        tracing::warn!(dir = %dir.display(), reason, "a block device is left on a volume that is deleted");
    }
    if let Err(error) = shrink::files(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "a copy cannot be given back bit by bit; it goes at once");
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io("remove", dir)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> VolumesError + 'a {
    move |cause| VolumesError::Io { doing, path: path.to_owned(), cause }
}

/// Bytes that the files of a volume occupy; 0 if there are none.
pub(crate) fn occupied_bytes(dir: &Path) -> io::Result<u64> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut blocks = 0;
    for entry in entries {
        match entry?.metadata() {
            Ok(found) => blocks += found.blocks(),
            // Replaced by its next version meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(blocks * STAT_BLOCK_BYTES)
}
