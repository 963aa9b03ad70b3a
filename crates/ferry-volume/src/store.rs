//! The store of one volume: its bytes in a sparse file, and the map that says which of them are the truth.
//!
//! Invariant: whatever the data file holds in ranges that are remote is punched out before the engine sees the
//! store, so a remote range of the file is always a hole. (After a power loss it may hold a write whose bit never became
//! durable; such a write was never acknowledged as flushed. What a killed server had answered is noted, see [`notes`].) A block device cannot tell its holes: there the engine is
//! told that remote ranges may hold anything, see [`device`].

mod device;
mod direct;
mod growth;
mod notes;
mod room;

use crate::SourceUri;
use crate::base::Base;
use crate::buffer::Pool;
use crate::control::Phase;
use crate::directory::{self, DATA, DirectoryError, DirectoryLock, MAP, StoreConfig, VolumeConfig};
use crate::extents::file_extents;
use crate::ring::Descriptor;
pub use device::discard;
pub use direct::check_direct_io;
pub(crate) use direct::{DirectIo, UNIT_BYTES, whole_units};
use ferry_engine::notes::NotesError;
use ferry_engine::{Blocks, Geometry, GeometryError, MapError, MapLog, MapState, Residence, Truth, map};
use notes::Notes;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Largest unit of copying, in bytes: what fits one buffer.
pub const REGION_BYTES_MAX: u32 = crate::buffer::BUFFER_BYTES_MAX as u32;
/// Unit of copying where nobody says otherwise, in bytes.
pub const REGION_BYTES_DEFAULT: u32 = 1 << 20;
/// Stretches of the data file looked at in one go.
const EXTENTS_AT_ONCE: usize = 1024;
/// Zeroes written at a time, in bytes.
const ZEROES_BYTES: usize = 1 << 20;

/// Why a volume's store could not be made or opened. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The map is damaged or not one.
    #[error("the map {} is refused: {cause}", path.display())]
    Map {
        /// The map file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: MapError,
    },
    /// The notes of unflushed writes hold and cannot be read.
    #[error("the notes {} are refused: {cause}", path.display())]
    Notes {
        /// The file of notes.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: NotesError,
    },
    /// Size or region size cannot be.
    #[error("the volume cannot be made: {0}")]
    Geometry(#[from] GeometryError),
    /// The id is no ULID.
    #[error("{id:?} is not a volume id; ids are ULIDs such as 01JD9Z6M4Q5R6S7T8V9WAXBYCZ")]
    BadId {
        /// What was given.
        id: String,
    },
    /// The block device cannot hold it.
    #[error("the volume cannot lie on {}: {reason}", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// There is no direct I/O where it is wanted.
    #[error("a volume in {} cannot have direct I/O: {reason}", path.display())]
    Direct {
        /// The file, device or directory.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// Two files of the volume tell different stories.
    #[error("{} does not belong to its volume.json: {what} differs ({map} here, {config} there); restore the one that is wrong", path.display())]
    Mismatch {
        /// The map or data file.
        path: PathBuf,
        /// Which fact.
        what: &'static str,
        /// What the file says.
        map: String,
        /// What `volume.json` says.
        config: String,
    },
}

/// What a new volume shall be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its directory; made with its parents' last step.
    pub dir: PathBuf,
    /// Its id (a ULID).
    pub id: String,
    /// Its size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Unit of copying in bytes, a power of two from 4 KiB to 32 MiB.
    pub region_bytes: u32,
    /// Its generation.
    pub generation: u64,
    /// [`Phase::Standby`] or [`Phase::Open`].
    pub phase: Phase,
    /// Where its blocks come from. Without one it is all local, and zero.
    pub source: Option<SourceUri>,
    /// The generation that its source is sealed at, if it shall be known for as long as the copy lives in what it differs
    /// from that. Without a source there is no such thing.
    pub born_from: Option<u64>,
    /// What its source was itself made from, if that can be read, too.
    pub base: Option<Base>,
    /// The block device that shall hold its bytes, all for itself. Without one they lie in a file of the directory.
    pub device: Option<PathBuf>,
    /// Whether its bytes pass by the page cache.
    pub direct: bool,
}

/// Makes a volume's directory. Repeating it with the same options is fine and changes nothing; what an earlier
/// attempt left unfinished is made anew.
///
/// # Errors
/// Something else is there, the options cannot be, or a file operation failed.
pub fn create(options: &CreateOptions) -> Result<(), StoreError> {
    let CreateOptions { dir, id, size_bytes, region_bytes, generation, phase, source, .. } = options;
    let CreateOptions { born_from, base, device, direct, .. } = options;
    directory::check_socket_paths(dir)?;
    let volume_id = parse_id(id)?;
    if *region_bytes > REGION_BYTES_MAX {
        let reason = format!("regions have at most {REGION_BYTES_MAX} bytes");
        let (size_bytes, region_bytes) = (*size_bytes, *region_bytes);
        return Err(DirectoryError::BadGeometry { size_bytes, region_bytes, reason }.into());
    }
    let geometry = Geometry::new(*size_bytes, u64::from(*region_bytes))?;
    let mut config = VolumeConfig::new(id.clone(), *size_bytes, *region_bytes, *generation);
    config.source.clone_from(source);
    config.born_from = born_from.filter(|_| source.is_some());
    config.base = base.clone().filter(|base| source.is_some() && base.is_plausible(id));
    config.store = StoreConfig { device: device.clone(), direct: *direct };
    fs::create_dir_all(dir).map_err(DirectoryError::io("create", dir))?;
    let _lock = directory::lock(dir)?;
    if dir.join(directory::CONFIG).exists() {
        return match VolumeConfig::read(dir)? {
            found
                if (&found.id, found.size_bytes, found.generation, &found.store)
                    == (id, *size_bytes, *generation, &config.store) =>
            {
                // An earlier attempt may have ended just before this.
                Ok(directory::sync_dir(dir.parent().unwrap_or(dir))?)
            }
            found => {
                let found = format!(
                    "volume {} of {} bytes at generation {}",
                    found.id, found.size_bytes, found.generation
                );
                Err(DirectoryError::Taken { path: dir.clone(), found }.into())
            }
        };
    }
    match device {
        Some(device) => device::prepare(device, *size_bytes, &config.store, source.is_none())?,
        None => make_data(dir, *size_bytes, &config.store)?,
    }
    let state = MapState::fresh(volume_id, geometry, *generation, phase.to_map(), source.is_some());
    let state = if config.born_from.is_some() { state.born() } else { state };
    directory::replace_file(dir, MAP, &map::compact(&state).0)?;
    config.write(dir)?;
    directory::sync_dir(dir.parent().unwrap_or(dir))?;
    Ok(())
}

/// The guest's bytes are for nobody else on this host.
fn make_data(dir: &Path, size_bytes: u64, store: &StoreConfig) -> Result<(), StoreError> {
    if store.direct {
        check_direct_io(dir)?;
    }
    let path = dir.join(DATA);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let file = file.map_err(DirectoryError::io("create", &path))?;
    file.set_len(bytes_of_store(size_bytes, store)).map_err(DirectoryError::io("size", &path))?;
    Ok(file.sync_all().map_err(DirectoryError::io("make durable", &path))?)
}

/// How many bytes a volume of this size has in its store.
const fn bytes_of_store(size_bytes: u64, store: &StoreConfig) -> u64 {
    if store.direct { whole_units(size_bytes) } else { size_bytes }
}

fn parse_id(id: &str) -> Result<[u8; 16], StoreError> {
    let parsed: Result<ulid::Ulid, _> = id.parse();
    parsed.map(|ulid| ulid.to_bytes()).map_err(|_| StoreError::BadId { id: id.to_owned() })
}

/// An open store.
pub(crate) struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) config: VolumeConfig,
    pub(crate) data: Descriptor,
    /// The same file opened once more, for what is copied in through the page cache: a failed writeback that is noticed
    /// here is still told to the next flush, which asks through `data`.
    pub(crate) copies: Descriptor,
    /// Set where all I/O goes past the page cache: then only in whole units.
    pub(crate) direct: Option<DirectIo>,
    pub(crate) map: Descriptor,
    pub(crate) log: MapLog,
    pub(crate) map_has_durable_name: bool,
    /// Up to where the map has room on the disk, as far as that was kept; see [`room`].
    map_room_end: u64,
    pub(crate) notes: Notes,
    /// What a server before this one noted: it is local, too.
    pub(crate) noted: Vec<Blocks>,
    _lock: DirectoryLock,
}

/// What the map of a volume says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastState {
    /// How the volume last stood.
    pub phase: Phase,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Bytes that are only at its source, at most: what arrived lately may not be in the map yet.
    pub bytes_remote: u64,
}

/// What the volume in `dir` last was, by its map; none if no volume was made there. Changes nothing. Where that matters
/// whoever asks sees to it that no server changes it meanwhile.
///
/// # Errors
/// The map cannot be read or is damaged.
pub fn last_state(dir: &Path) -> Result<Option<LastState>, StoreError> {
    let path = dir.join(MAP);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(DirectoryError::io("read", &path))?,
    };
    let (state, _) = map::decode(&bytes).map_err(|cause| StoreError::Map { path, cause })?;
    let size_bytes = state.geometry().size_bytes();
    // The last block of a volume may be a part of one.
    let bytes_remote = size_bytes - state.truth.bytes_local().min(size_bytes);
    Ok(Some(LastState { phase: Phase::of_map(state.phase), size_bytes, bytes_remote }))
}

/// Opens the store in `dir` for this process alone.
///
/// # Errors
/// Another process has it, or it is damaged; it is left as it was.
pub(crate) fn open(dir: &Path) -> Result<(Store, MapState), StoreError> {
    directory::check_socket_paths(dir)?;
    let lock = directory::lock(dir)?;
    directory::remove_side_files(dir)?;
    // Behind the lock: a server that is about to end may still change it.
    let mut config = VolumeConfig::read(dir)?;
    let map_path = dir.join(MAP);
    let bytes = fs::read(&map_path).map_err(DirectoryError::io("read", &map_path))?;
    let (state, log) =
        map::decode(&bytes).map_err(|cause| StoreError::Map { path: map_path.clone(), cause })?;
    check_pair(&map_path, &state, &config)?;
    let (notes, noted) = Notes::open(dir, &state)?;
    let mut truth = state.truth.clone();
    noted.iter().for_each(|&blocks| drop(truth.mark_local(blocks)));
    let (data_path, data, direct) = match &config.store.device {
        Some(device) => {
            let (data, direct) = device::open(device, state.geometry().size_bytes(), &config.store)?;
            let device = device.clone();
            growth::settle_description(dir, state.geometry().size_bytes(), &mut config)?;
            (device, data, direct)
        }
        None => {
            let path = dir.join(DATA);
            let data = open_rw(&path)?;
            let direct = config.store.direct.then(|| direct::switch(&data, &path)).transpose()?;
            growth::settle(dir, state.geometry().size_bytes(), &data, &mut config)?;
            punch_remote(&data, &truth, &config.store)
                .map_err(DirectoryError::io("clear the remote ranges of", &path))?;
            (path, data, direct)
        }
    };
    let map = open_rw(&map_path)?;
    // A frame that was being appended when the power went is cut off, so that the next one follows the last whole one.
    map.set_len(log.bytes_valid()).map_err(DirectoryError::io("cut", &map_path))?;
    let (data, map) = (Rc::new(OwnedFd::from(data)), Rc::new(OwnedFd::from(map)));
    let copies = match direct {
        Some(_) => data.clone(),
        None => Rc::new(OwnedFd::from(open_rw(&data_path)?)),
    };
    let mut store = Store {
        dir: dir.to_owned(),
        config,
        data,
        copies,
        direct,
        map,
        log,
        map_has_durable_name: true,
        map_room_end: 0,
        notes,
        noted,
        _lock: lock,
    };
    store.keep_map_room();
    Ok((store, state))
}

fn open_rw(path: &Path) -> Result<File, DirectoryError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(DirectoryError::io("open", path))
}

/// Map and description were written by the same hand: assert it, on every opening.
fn check_pair(path: &Path, state: &MapState, config: &VolumeConfig) -> Result<(), StoreError> {
    let mismatch = |what, map: String, config: String| {
        Err(StoreError::Mismatch { path: path.to_owned(), what, map, config })
    };
    let geometry = state.geometry();
    if state.volume_id != parse_id(&config.id)? {
        return mismatch(
            "the volume's id",
            ulid::Ulid::from_bytes(state.volume_id).to_string(),
            config.id.clone(),
        );
    }
    // Larger: a growth was cut off, see `growth`.
    if geometry.size_bytes() < config.size_bytes {
        return mismatch("the size", geometry.size_bytes().to_string(), config.size_bytes.to_string());
    }
    if state.generation != config.generation {
        return mismatch("the generation", state.generation.to_string(), config.generation.to_string());
    }
    Ok(())
}

/// Makes every remote range of the data file a hole.
fn punch_remote(data: &File, truth: &Truth, store: &StoreConfig) -> io::Result<()> {
    for (range, residence) in truth.byte_runs(truth.geometry().all_bytes()) {
        if residence == Residence::Local {
            continue;
        }
        // Ranges are of whole blocks, except for the end of the volume.
        let (mut at, end) = (range.offset(), bytes_of_store(range.end(), store));
        while at < end {
            for extent in file_extents(data, at, end, EXTENTS_AT_ONCE)? {
                let start = extent.start - extent.start % UNIT_BYTES;
                if extent.data {
                    clear(data, start, whole_units(extent.end).min(end) - start)?;
                }
                at = extent.end;
            }
        }
    }
    Ok(())
}

/// Makes a range read as zeroes, on filesystems and devices without holes too.
pub(crate) fn clear(data: &File, offset: u64, len: u64) -> io::Result<()> {
    match fallocate(data, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => write_zeroes(data, offset, len),
        Err(e) => Err(e.into()),
    }
}

fn write_zeroes(data: &File, offset: u64, len: u64) -> io::Result<()> {
    // Memory that direct I/O takes, too.
    let zeroes = Pool::new().take(ZEROES_BYTES);
    let mut done = 0;
    while done < len {
        let step = zeroes.len().min((len - done) as usize);
        zeroes.with_bytes(0, step, |zeroes| data.write_all_at(zeroes, offset + done))?;
        done += step as u64;
    }
    Ok(())
}

impl Store {
    /// Replaces the map by a fresh one that says the same, once its log has grown too long.
    ///
    /// # Errors
    /// A file operation failed, or the map cannot be read back. Former or fresh, the map in use says the same.
    pub(crate) fn compact_map(&mut self) -> Result<(), StoreError> {
        if !self.log.wants_compaction() {
            return Ok(());
        }
        let path = self.dir.join(MAP);
        let bytes = fs::read(&path).map_err(DirectoryError::io("read", &path))?;
        let (state, _) =
            map::decode(&bytes).map_err(|cause| StoreError::Map { path: path.clone(), cause })?;
        let (fresh, log) = map::compact(&state);
        let file = directory::put_in_place(&self.dir, MAP, &fresh)?;
        // From here on this is the map, whatever fails after it: nobody would find again what the former is told.
        self.map = Rc::new(OwnedFd::from(file));
        self.log = log;
        self.map_room_end = 0;
        self.map_has_durable_name = false;
        Ok(self.name_map()?)
    }

    /// Makes sure that a crash brings back the map that is in use, not the one before its compaction. Nothing that
    /// the map is told is durable before that.
    ///
    /// # Errors
    /// A file operation failed; ask again.
    pub(crate) fn name_map(&mut self) -> Result<(), DirectoryError> {
        if !self.map_has_durable_name {
            directory::sync_dir(&self.dir)?;
            self.map_has_durable_name = true;
        }
        Ok(())
    }

    /// Takes back a frame that could not be made durable.
    pub(crate) fn cut_map(&mut self, log: MapLog) -> io::Result<()> {
        self.log = log;
        self.map_room_end = 0;
        rustix::fs::ftruncate(&*self.map, log.bytes_valid()).map_err(io::Error::from)
    }

    /// Changes what `volume.json` says, durably.
    ///
    /// # Errors
    /// A file operation failed; nothing has changed.
    pub(crate) fn describe(&mut self, change: impl FnOnce(&mut VolumeConfig)) -> Result<(), DirectoryError> {
        let mut config = self.config.clone();
        change(&mut config);
        if config != self.config {
            config.write(&self.dir)?;
            self.config = config;
        }
        Ok(())
    }

    /// Whether ranges that are remote may hold anything.
    pub(crate) fn may_hold_anything(&self) -> bool {
        self.config.store.device.is_some()
    }

    /// Where a read that covers up to `end` must end: direct I/O reads whole units.
    pub(crate) const fn read_end(&self, end: u64) -> u64 {
        bytes_of_store(end, &self.config.store)
    }

    /// The last offset up to `at` at which a read may begin.
    pub(crate) const fn read_start(&self, at: u64) -> u64 {
        if self.direct.is_some() { at - at % UNIT_BYTES } else { at }
    }

    /// Bytes the data file occupies on its filesystem. A device does not tell what it holds: there it is all of the volume.
    pub(crate) fn bytes_allocated(&self) -> u64 {
        if self.config.store.device.is_some() {
            return self.config.size_bytes;
        }
        rustix::fs::fstat(&*self.data).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }
}

/// Says that the server is ready, to whoever started it, on standard output.
pub(crate) fn say_ready() {
    // Nobody may be listening; that is fine.
    let _ = io::stdout().write_all(b"ready\n").and_then(|()| io::stdout().flush());
}
