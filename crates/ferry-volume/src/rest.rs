//! A check of a sealed copy that nobody serves: one that was handed over and is kept as a base.

use crate::control::{Check, CheckState};
use crate::extents::file_extents;
use crate::ring::Descriptor;
use crate::store::{self, Store, StoreError};
use crate::sums_file::{self, SEALED, SumsFile};
use ferry_engine::sums::codec::SumsOf;
use ferry_engine::{Phase, Sums};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The most that is read a second, in bytes: others use the disk.
const BYTES_PER_S: u64 = 400 << 20;
/// How often it is told how far the check is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// What direct I/O wants buffers to be aligned to, in bytes.
const ALIGN_BYTES: usize = 4096;

/// Holds every region of the sealed copy in `dir` against its receipt, and tells from time to time how far that is. No
/// server may have the copy open, and none can open it meanwhile.
///
/// # Errors
/// The copy cannot be opened.
pub fn check_at_rest(dir: &Path, tell: &dyn Fn(&Check)) -> Result<(), StoreError> {
    let (store, state) = store::open(dir)?;
    let of = SumsOf { volume_id: state.volume_id, generation: state.generation };
    let kept = match state.phase {
        Phase::Sealed => SumsFile::open(dir, SEALED, of, state.geometry())?,
        Phase::Standby | Phase::Open => None,
    };
    let Some(kept) = kept else {
        let reason = "nobody asked for the receipt of this copy, so there is nothing to hold it against";
        let state = CheckState::Failed { reason: reason.to_owned() };
        tell(&Check { state, ..Check::default() });
        return Ok(());
    };
    let (sums, count) = (kept.sums, state.geometry().region_count());
    let mut check = Check { regions: count, ..Check::default() };
    let past_the_cache = sums_file::past_the_cache(&store.data);
    let mut told = Instant::now();
    for region in 0..count {
        let range = sums.geometry().bytes_of(sums.blocks_of(region));
        match (sums.leaf(region), sum(&store, &past_the_cache, &sums, region, &mut check)) {
            (_, Err(error)) => {
                let reason = format!("the copy cannot be read at byte {}: {error}", range.offset());
                check.state = CheckState::Failed { reason };
                tell(&check);
                return Ok(());
            }
            (None, Ok(_)) => check.regions_unknown += 1,
            (Some(leaf), Ok(here)) if leaf == here => check.regions_equal += 1,
            (Some(_), Ok(_)) => check.differs(range.offset(), range.len_bytes(), false),
        }
        if told.elapsed() >= TELL_EVERY {
            tell(&check);
            told = Instant::now();
        }
    }
    check.state = CheckState::Done;
    if check.is_whole() {
        check.root = sums_file::root(&sums, of.generation, 0..count);
    }
    tell(&check);
    Ok(())
}

/// The checksum of what lies in a region now.
fn sum(
    store: &Store,
    past_the_cache: &Descriptor,
    sums: &Sums,
    region: u64,
    check: &mut Check,
) -> io::Result<u32> {
    let range = sums.geometry().bytes_of(sums.blocks_of(region));
    let stretch = file_extents(&*store.data, range.offset(), range.end(), 1)?;
    if stretch.first().is_some_and(|first| !first.data && first.end == range.end()) {
        return Ok(sums.zero_leaf(region));
    }
    let began = Instant::now();
    let len = range.len_bytes() as usize;
    let read_len = (store.read_end(range.end()) - range.offset()) as usize;
    let mut memory = vec![0; read_len + ALIGN_BYTES];
    let lead = memory.as_ptr().align_offset(ALIGN_BYTES);
    let bytes = &mut memory[lead..lead + read_len];
    let mut done = 0;
    while done < len {
        let at = range.offset() + done as u64;
        let count = match rustix::io::pread(&**past_the_cache, &mut bytes[done..], at) {
            // What is no multiple of the disk's sectors cannot be read past the cache.
            Err(_) | Ok(0) => rustix::io::pread(&*store.data, &mut bytes[done..], at)?,
            Ok(count) => count,
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done += count;
    }
    check.bytes_read += range.len_bytes();
    let fair = Duration::from_nanos(range.len_bytes() * 1_000_000_000 / BYTES_PER_S);
    std::thread::sleep(fair.saturating_sub(began.elapsed()));
    Ok(crc32c::crc32c(&bytes[..len]))
}
