//! What lies and runs on a host that is, or was, an agent's: directories by their place, processes by what they were told.
//!
//! Invariant: a process is taken for this agent's only if it names this agent's own state directory, and sees the same
//! files as the agent; so neither another agent's processes nor a container's with the same paths are ever meant.

use crate::config::volumes_dir;
use crate::drivers::mark_of;
use crate::host::now_ms;
use crate::records::ProcessMark;
use crate::volumes::files::{LEFTOVER, occupied_bytes};
use crate::volumes::percent_encoded;
use ferry_api::{MachineId, VolumeKey};
use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Where `ferry-volume` mounts the frontend that needs that, in the directory of a volume.
const MOUNT_OF_OURS: &str = "fuse";
/// The variables by which a machine knows what it is and where its disks are.
const MACHINE_VARIABLE: &[u8] = b"FERRY_MACHINE_ID=";
const VOLUME_VARIABLE: &[u8] = b"FERRY_VOLUME_";
/// How a volume server is told which volume it serves.
const SERVER_WORD: &[u8] = b"volume-server";
const DIR_WORD: &[u8] = b"--dir";

/// What is in the directories of volumes and machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lying {
    /// Directories of copies, and whatever else is beside them.
    pub volumes: Vec<Place>,
    /// Directories of copies whose deletion was cut off, or is under way.
    pub half_deleted: Vec<Place>,
    /// Directories of machines.
    pub machines: Vec<MachinePlace>,
}

/// Something in the directory of volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub path: PathBuf,
    /// The copy that it is named after.
    pub copy: Option<VolumeKey>,
    /// Whether it, or something in it, lies somewhere else: a link, or another filesystem.
    pub is_elsewhere: bool,
    /// When it was last changed, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Bytes that its files occupy.
    pub bytes: u64,
}

/// The directory of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePlace {
    /// Where, and so on.
    pub place: Place,
    /// The machine.
    pub machine: MachineId,
    /// Whether there is more in it than files of Ferry's own.
    pub holds_files: bool,
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Volume servers, with the copies that they serve.
    pub servers: Vec<(ProcessMark, VolumeKey)>,
    /// Processes of machines.
    pub machines: Vec<MachineProcess>,
}

/// A process of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineProcess {
    /// Which process.
    pub mark: ProcessMark,
    /// The machine.
    pub machine: MachineId,
    /// Its disks.
    pub disks: BTreeSet<VolumeKey>,
}

/// Looks at the directories of volumes and machines in a state directory; `own` are the files that a machine has of Ferry's.
pub(crate) fn lying(state_dir: &Path, own: &[&str]) -> io::Result<Lying> {
    let mut lying = Lying::default();
    for path in entries(&volumes_dir(state_dir))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (stem, found) = match name.strip_suffix(LEFTOVER) {
            Some(stem) => (stem, &mut lying.half_deleted),
            None => (name.as_str(), &mut lying.volumes),
        };
        let copy = stem.parse().ok();
        found.extend(place(path, copy)?);
    }
    for path in entries(&state_dir.join("machines"))? {
        let machine = path.file_name().and_then(|name| name.to_str()?.parse::<MachineId>().ok());
        let (Some(machine), Some(place)) = (machine, place(path, None)?) else { continue };
        let holds_files = match place.is_elsewhere {
            true => true,
            false => entries(&place.path)?.iter().any(|path| !own.iter().any(|own| path.ends_with(own))),
        };
        lying.machines.push(MachinePlace { place, machine, holds_files });
    }
    Ok(lying)
}

/// What is in a directory, in order; nothing if it is not there.
pub(crate) fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// What is at a path; none if it went away meanwhile.
pub(crate) fn place(path: PathBuf, copy: Option<VolumeKey>) -> io::Result<Option<Place>> {
    let found = match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let is_elsewhere = is_elsewhere(&path, &found)?;
    let bytes = if found.is_dir() && !is_elsewhere { occupied_bytes(&path)? } else { 0 };
    let since_ms = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let since_ms = since_ms.and_then(|since| u64::try_from(since.as_millis()).ok());
    Ok(Some(Place { path, copy, is_elsewhere, since_ms, bytes }))
}

fn is_elsewhere(path: &Path, found: &Metadata) -> io::Result<bool> {
    let parent = path.parent().expect("it was found in a directory").metadata()?;
    if !found.is_dir() || found.dev() != parent.dev() {
        return Ok(true);
    }
    for inner in entries(path)? {
        // A dead filesystem of ours does not even answer.
        if inner.file_name() != Some(MOUNT_OF_OURS.as_ref())
            && inner.symlink_metadata().is_ok_and(|inner| inner.dev() != found.dev())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks at the processes of the host.
pub(crate) fn running(state_dir: &Path) -> io::Result<Running> {
    let own_files = fs::read_link("/proc/self/ns/mnt")?;
    let mut running = Running::default();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Of one that has ended meanwhile, or is another user's, nothing can be read: it is none of ours.
        if fs::read_link(entry.path().join("ns/mnt")).ok().as_ref() != Some(&own_files) {
            continue;
        }
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        if has_ended(&read("stat")) {
            continue;
        }
        // Before anything else is read, so that a number that was given on is noticed.
        let Some(mark) = mark_of(pid)? else { continue };
        if let Some(copy) = served_by(&read("cmdline"), state_dir) {
            running.servers.push((mark, copy));
        } else if let Some((machine, disks)) = machine_of(&read("environ"), state_dir) {
            let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if !disks.is_empty() || is_in(&cwd, &state_dir.join("machines")) {
                running.machines.push(MachineProcess { mark, machine, disks });
            }
        }
    }
    Ok(running)
}

/// Whether a process that has this `/proc/PID/stat` only waits for its parent to hear of its end.
pub(crate) fn has_ended(stat: &[u8]) -> bool {
    // The command's name is in parentheses and may itself contain any character.
    let after_name = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    matches!(after_name.trim_ascii_start().first(), None | Some(b'Z' | b'X'))
}

/// A directory that was removed is told as its path and a remark.
fn is_in(cwd: &Path, machines: &Path) -> bool {
    cwd.parent() == Some(machines)
}

/// The copy that a process with these words serves out of this state directory.
fn served_by(words: &[u8], state_dir: &Path) -> Option<VolumeKey> {
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    if !words.contains(&SERVER_WORD) {
        return None;
    }
    let at = words.iter().position(|word| *word == DIR_WORD)?;
    let dir = Path::new(std::ffi::OsStr::from_bytes(words.get(at + 1)?));
    let name = dir.strip_prefix(volumes_dir(state_dir)).ok()?;
    name.to_str()?.parse().ok()
}

/// The machine that a process with these variables belongs to, and its disks in this state directory.
fn machine_of(variables: &[u8], state_dir: &Path) -> Option<(MachineId, BTreeSet<VolumeKey>)> {
    let variables: Vec<&[u8]> = variables.split(|byte| *byte == 0).collect();
    let id = variables.iter().find_map(|variable| variable.strip_prefix(MACHINE_VARIABLE))?;
    let machine = std::str::from_utf8(id).ok()?.parse().ok()?;
    let place = format!("{}/", percent_encoded(&volumes_dir(state_dir).to_string_lossy()));
    let disk = |variable: &&[u8]| {
        let uri = std::str::from_utf8(variable.strip_prefix(VOLUME_VARIABLE)?).ok()?;
        let (_, path) = uri.split_once(&place)?;
        path.split('/').next()?.parse::<VolumeKey>().ok()
    };
    Some((machine, variables.iter().filter_map(disk).collect()))
}

/// When a process was started, in milliseconds since 1970, by the clock as it is now.
pub(crate) fn started_at_ms(mark: &ProcessMark) -> Option<u64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    let up_ms = seconds.parse::<u64>().ok()? * 1000 + hundredths.parse::<u64>().ok()? * 10;
    let begun_ms = mark.start_ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second();
    Some(now_ms().saturating_sub(up_ms.saturating_sub(begun_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Generation, VolumeId};

    fn key() -> VolumeKey {
        VolumeKey { id: VolumeId::fresh(), generation: Generation(2) }
    }

    #[test]
    fn a_volume_server_is_known_by_the_directory_that_it_was_told() {
        let key = key();
        let line = |dir: &str| format!("/usr/bin/ferry\0volume-server\0--dir\0{dir}\0").into_bytes();
        let of = |dir: &str| served_by(&line(dir), Path::new("/state"));
        assert_eq!(of(&format!("/state/volumes/{key}")), Some(key));
        assert_eq!(of(&format!("/other/volumes/{key}")), None);
        assert_eq!(of(&format!("/state/volumes/{key}/deeper")), None);
        let other = format!("rsync\0--dir\0/state/volumes/{key}\0").into_bytes();
        assert_eq!(served_by(&other, Path::new("/state")), None);
    }

    #[test]
    fn a_process_of_a_machine_is_known_by_its_variables_and_its_disks_by_their_place() {
        let (key, machine) = (key(), MachineId::fresh());
        let variables = format!(
            "PATH=/bin\0FERRY_MACHINE_ID={machine}\0FERRY_VOLUME_DATA=nbd+unix:///?socket=/a%20b/volumes/{key}/guest.sock\0"
        );
        let of = |dir: &str| machine_of(variables.as_bytes(), Path::new(dir));
        assert_eq!(of("/a b"), Some((machine, BTreeSet::from([key]))));
        assert_eq!(of("/b"), Some((machine, BTreeSet::new())), "another agent's");
        assert_eq!(machine_of(b"PATH=/bin\0", Path::new("/a b")), None);
    }

    #[test]
    fn a_process_that_nobody_has_heard_the_end_of_does_not_run() {
        assert!(!has_ended(b"7 (a) Z (b) S 1 7") && has_ended(b"7 (sleep) Z 1 7") && has_ended(b""));
    }

    #[test]
    fn links_and_names_that_are_no_copies_are_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes_dir(dir.path());
        let (linked, plain, gone) = (key(), key(), key());
        fs::create_dir_all(volumes.join(plain.to_string())).unwrap();
        fs::create_dir_all(volumes.join(format!("{gone}{LEFTOVER}"))).unwrap();
        fs::create_dir_all(volumes.join("notes")).unwrap();
        std::os::unix::fs::symlink("/", volumes.join(linked.to_string())).unwrap();
        let found = lying(dir.path(), &["machine.log"]).unwrap();
        let told: BTreeSet<_> = found.volumes.iter().map(|place| (place.copy, place.is_elsewhere)).collect();
        assert_eq!(told, BTreeSet::from([(None, false), (Some(plain), false), (Some(linked), true)]));
        assert_eq!(found.half_deleted[0].copy, Some(gone));
    }

    #[test]
    fn this_process_was_started_before_now() {
        let mark = mark_of(std::process::id()).unwrap().unwrap();
        let started_ms = started_at_ms(&mark).unwrap();
        assert!(started_ms <= now_ms() && now_ms() - started_ms < 24 * 3_600_000, "{started_ms}");
    }
}
