//! Copying a volume whose guest still writes into one that stands by: rounds, each of what the guest has changed since the
//! mark before, and in the end what of it is right.
//!
//! ```text
//!  mark 1 ─▶ copy all ─▶ mark 2 ─▶ copy what has changed since 1 ─▶ ... ─▶ sealed: all but what has changed since n is right
//! ```
//! Invariant: outside of what the source says has changed since [`Held::since`], the store holds what the source holds. A
//! round that fails leaves that as it was, since the next one, or the end, asks about the same time again.

mod held;

pub(crate) use held::{Held, Right};

use crate::client::{BlockClient, BlockError};
use crate::server::is_zero;
use crate::store;
use crate::tls::Credentials;
use crate::writeback::{Stretch, Writeback};
use ferry_engine::{BLOCK_BYTES, Blocks, ByteRange, Geometry};
use ferry_nbd::wire::STATE_ZERO;
use ferry_nbd::{CONTEXT_ALLOCATION, CONTEXT_DIRTY, Uri};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Connections that copy at a time.
const LINKS: usize = 4;
/// How long the source may be silent while it owes an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest sleep for the sake of the pace: whoever ends the copying waits no longer.
const NAP: Duration = Duration::from_millis(50);

/// Why a round, or the end, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrecopyError {
    /// The source.
    #[error("the source cannot be read: {0}")]
    Source(#[from] BlockError),
    /// It has another size now.
    #[error("the source has {bytes} bytes now; begin the move anew")]
    Size {
        /// How many.
        bytes: u64,
    },
    /// The mark is not kept there.
    #[error("the source does not know what has changed since mark {mark}; begin anew")]
    Unmarked {
        /// Which.
        mark: u64,
    },
    /// The store.
    #[error("what was read cannot be kept: {0}")]
    Store(#[from] io::Error),
    /// The volume is opened, or its server ends.
    #[error("it was ended")]
    Over,
}

/// Where it is copied from and to.
pub(crate) struct Copier {
    pub(crate) uri: Uri,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) data: File,
    pub(crate) geometry: Geometry,
}

/// What those who copy and those who watch them share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Set when nothing may be written to the store any more. Whoever writes holds it meanwhile.
    over: RwLock<bool>,
    pub(crate) bytes_to_copy: AtomicU64,
    pub(crate) bytes_copied: AtomicU64,
    /// The most that may be copied a second; zero: as much as goes.
    pub(crate) bytes_per_s: AtomicU64,
    /// What has been copied since when at this pace.
    paced: Mutex<(u64, Instant, u64)>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            over: RwLock::new(false),
            bytes_to_copy: zero(),
            bytes_copied: zero(),
            bytes_per_s: zero(),
            paced: Mutex::new((0, Instant::now(), 0)),
        }
    }

    /// From when this returns nothing is written to the store any more.
    pub(crate) fn end(&self) {
        *self.over.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn unless_over<T>(&self, act: impl FnOnce() -> io::Result<T>) -> Result<T, PrecopyError> {
        let over = self.over.read().unwrap_or_else(PoisonError::into_inner);
        if *over { Err(PrecopyError::Over) } else { Ok(act()?) }
    }

    /// Waits until so much more may be copied.
    fn pace(&self, bytes: u64) -> Result<(), PrecopyError> {
        loop {
            let rate = self.bytes_per_s.load(Ordering::Relaxed);
            let Some(rate) = NonZeroU64::new(rate) else { return Ok(()) };
            {
                let mut paced = self.paced.lock().unwrap_or_else(PoisonError::into_inner);
                if paced.0 != rate.get() {
                    *paced = (rate.get(), Instant::now(), 0);
                }
                let earned = u128::from(rate.get()) * paced.1.elapsed().as_millis() / 1_000;
                if u128::from(paced.2) <= earned {
                    paced.2 += bytes;
                    return Ok(());
                }
            }
            self.unless_over(|| Ok(()))?;
            std::thread::sleep(NAP);
        }
    }
}

impl Copier {
    /// The first round: copies all that is not zero. `mark` was set before.
    pub(crate) fn copy_all(&self, mark: u64, shared: &Shared) -> Result<Held, PrecopyError> {
        // An earlier attempt may have left something.
        shared.unless_over(|| punch(&self.data, self.geometry.all_bytes()))?;
        let mut held = Held::nothing(self.geometry, mark);
        let regions = self.regions_with_data()?;
        self.copy(&regions, &mut held, shared, false)?;
        self.data.sync_data()?;
        Ok(held)
    }

    /// A later round: copies what has changed since `held`; `mark` was set before.
    pub(crate) fn catch_up(&self, held: &mut Held, mark: u64, shared: &Shared) -> Result<(), PrecopyError> {
        let changes = self.changes(held.since)?;
        let parts: Vec<Blocks> = changes.iter().flat_map(|run| self.geometry.by_region(*run)).collect();
        parts.iter().for_each(|part| held.will_change(*part));
        self.copy(&parts, held, shared, true)?;
        self.data.sync_data()?;
        held.since = mark;
        Ok(())
    }

    /// The source is sealed: gives what of the store is right. The rest may hold anything: a machine waits, and many small holes
    /// take long to make.
    pub(crate) fn what_is_right(&self, held: &Held) -> Result<Vec<Right>, PrecopyError> {
        let changes = self.changes(held.since)?;
        held.right(&changes, |blocks| self.sum(blocks))
    }

    fn connect(&self, context: Option<&str>) -> Result<BlockClient, PrecopyError> {
        let client = match context {
            Some(context) => BlockClient::connect_for(&self.uri, context, self.credentials.as_ref()),
            None => BlockClient::connect(&self.uri, self.credentials.as_ref()),
        }?;
        client.set_patience(Some(PATIENCE))?;
        let bytes = client.size_bytes();
        if bytes != self.geometry.size_bytes() {
            return Err(PrecopyError::Size { bytes });
        }
        Ok(client)
    }

    /// What has changed since a mark, in order, as whole blocks.
    fn changes(&self, mark: u64) -> Result<Vec<Blocks>, PrecopyError> {
        let mut client = self.connect(Some(&format!("{CONTEXT_DIRTY}{mark}")))?;
        let changes = client.changes(mark)?.ok_or(PrecopyError::Unmarked { mark })?;
        let blocks = changes.into_iter().filter_map(|range| {
            ByteRange::new(range.offset(), range.len_bytes()).map(|range| self.geometry.blocks_touched(range))
        });
        Ok(blocks.collect())
    }

    /// The regions that are not all zero, by what the source says of its holes.
    fn regions_with_data(&self) -> Result<Vec<Blocks>, PrecopyError> {
        let mut client = self.connect(Some(CONTEXT_ALLOCATION))?;
        let size_bytes = self.geometry.size_bytes();
        let mut regions: Vec<Blocks> = Vec::new();
        let mut at = 0;
        while at < size_bytes {
            let from = at;
            let whole = ferry_nbd::Extent { len_bytes: size_bytes - at, flags: 0 };
            let extents = client.block_status(CONTEXT_ALLOCATION, at)?.unwrap_or_else(|| vec![whole]);
            for extent in extents {
                let len = extent.len_bytes.min(size_bytes - at);
                let data = ByteRange::new(at, len).filter(|_| extent.flags & u64::from(STATE_ZERO) == 0);
                let touched = data.map(|data| self.geometry.blocks_touched(data));
                for part in touched.into_iter().flat_map(|run| self.geometry.by_region(run)) {
                    let region = self.geometry.blocks_of_region(part.first() / self.geometry.region_blocks());
                    if regions.last() != Some(&region) {
                        regions.push(region);
                    }
                }
                at += len;
            }
            if at == from {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
        }
        Ok(regions)
    }

    /// Copies these parts, each within a region, over several connections.
    fn copy(
        &self,
        parts: &[Blocks],
        held: &mut Held,
        shared: &Shared,
        punches: bool,
    ) -> Result<(), PrecopyError> {
        let bytes = |blocks: &Blocks| self.geometry.bytes_of(*blocks).len_bytes();
        shared.bytes_copied.store(0, Ordering::Relaxed);
        shared.bytes_to_copy.store(parts.iter().map(bytes).sum(), Ordering::Relaxed);
        let next = AtomicUsize::new(0);
        let (held, writeback) = (Mutex::new(held), Mutex::new(Writeback::default()));
        let work = || {
            let mut client = None;
            while let Some(&part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let client = match &mut client {
                    Some(client) => client,
                    none => none.insert(self.connect(None)?),
                };
                let sums = self.copy_part(client, part, shared, punches)?;
                held.lock().unwrap_or_else(PoisonError::into_inner).copied(part, &sums);
                self.write_back(part, &writeback);
            }
            Ok(())
        };
        let ended: Vec<Result<(), PrecopyError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..LINKS.min(parts.len())).map(|_| scope.spawn(work)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        ended.into_iter().collect()
    }

    /// Copies a part; gives the checksums of its blocks.
    fn copy_part(
        &self,
        client: &mut BlockClient,
        part: Blocks,
        shared: &Shared,
        punches: bool,
    ) -> Result<Vec<u32>, PrecopyError> {
        let range = self.geometry.bytes_of(part);
        shared.pace(range.len_bytes())?;
        let mut bytes = vec![0; range.len_bytes() as usize];
        client.read_at(range.offset(), &mut bytes)?;
        for run in runs(&bytes) {
            let offset = range.offset() + run.start as u64;
            let run = &bytes[run];
            match (is_zero(run), punches) {
                (false, _) => shared.unless_over(|| self.data.write_all_at(run, offset))?,
                (true, true) => {
                    let hole = ByteRange::new(offset, run.len() as u64);
                    hole.map_or(Ok(()), |hole| shared.unless_over(|| punch(&self.data, hole)))?;
                }
                // It is a hole still.
                (true, false) => {}
            }
        }
        shared.bytes_copied.fetch_add(range.len_bytes(), Ordering::Relaxed);
        Ok(bytes.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect())
    }

    /// Has the disk take what was copied as it comes, so that neither the end of the round nor a flush of another guest of
    /// this worker meets all of it. It stays in the page cache as long as there is room: the machine that comes reads it at once.
    fn write_back(&self, part: Blocks, writeback: &Mutex<Writeback>) {
        let range = self.geometry.bytes_of(part);
        let stretch = Stretch { offset: range.offset(), len: range.len_bytes() as u32, cached: true };
        stretch.begin(&self.data);
        let before = writeback.lock().unwrap_or_else(PoisonError::into_inner).begun(stretch);
        before.into_iter().rev().for_each(|stretch| stretch.finish(&self.data));
    }

    /// The checksum of blocks as they lie in the store; none: they are zero.
    fn sum(&self, blocks: Blocks) -> Result<Option<u32>, PrecopyError> {
        let range = self.geometry.bytes_of(blocks);
        let mut bytes = vec![0; range.len_bytes() as usize];
        self.data.read_exact_at(&mut bytes, range.offset())?;
        Ok((!is_zero(&bytes)).then(|| crc32c::crc32c(&bytes)))
    }
}

/// Stretches of whole blocks that are zero, or in which no block is.
fn runs(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<(bool, std::ops::Range<usize>)> = Vec::new();
    let mut at = 0;
    for block in bytes.chunks(BLOCK_BYTES as usize) {
        let (zero, end) = (is_zero(block), at + block.len());
        match runs.last_mut() {
            Some((is, run)) if *is == zero => run.end = end,
            _ => runs.push((zero, at..end)),
        }
        at = end;
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

fn punch(data: &File, range: ByteRange) -> io::Result<()> {
    store::clear(data, range.offset(), range.len_bytes())
}
