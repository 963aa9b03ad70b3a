//! What arrives from the source is summed as it arrives; the sums are kept beside the map (`arrived.sums`).
//!
//! ```text
//!  fetched ─▶ leaf of its region      guest writes ─▶ region marked, before the write may reach the disk
//!  said to be zero ─▶ a constant      sync of the store ─▶ sync of the sums, so that the map never knows more
//!  whole? what never arrived, because the guest wrote there first, is asked of the source ─▶ the root is known
//! ```
//!
//! Invariants: what the map calls local, and did arrive, is in the sums; a region that the guest changes is marked before
//! the change is handed to the kernel, so nothing but a power loss can lose the mark (see [`crate::sums_file`]).

use super::source::Failure;
use super::{Purpose, Server};
use crate::buffer::Buffer;
use crate::directory::DirectoryError;
use crate::store::Store;
use crate::sums_file::{ARRIVED, SumsFile, boot};
use ferry_engine::sums::codec::SumsOf;
use ferry_engine::{Blocks, ByteRange, Errno, MapState, OpId, RequestKind, SourceExtent, Sums};
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// Checksums that the source is asked for at a time.
const ASKED_MAX: usize = 16;
/// Parts that never arrived which are looked up at a time.
const GAPS_AT_ONCE: usize = 256;
/// The engine's operations have numbers without this bit; ours have it.
const OURS: u64 = 1 << 63;

/// The sums of what arrived, and what is done about them.
pub(super) struct Arrivals {
    file: Option<SumsFile>,
    /// Something arrived since the file was last made durable.
    fresh: bool,
    /// The sync of the store beside which the file is made durable, and how it ended meanwhile.
    syncing: Option<OpId>,
    synced: Option<Result<(), Errno>>,
    gaps: VecDeque<Blocks>,
    asked: BTreeMap<OpId, Blocks>,
    next_op: u64,
    /// Why the source does not tell the rest.
    refusal: Option<String>,
}

impl Arrivals {
    /// The sums of the copy in this store: of one that reads from a source, or did.
    ///
    /// # Errors
    /// A file operation failed.
    pub(super) fn open(store: &Store, of: SumsOf, state: &MapState) -> Result<Self, DirectoryError> {
        let (dir, geometry) = (&store.dir, state.geometry());
        let mut file = SumsFile::open(dir, ARRIVED, of, geometry)?;
        if file.is_none() && state.has_source {
            let mut sums = Sums::new(geometry);
            if state.truth.bytes_local() > 0 || !store.noted.is_empty() {
                sums.make_gappy();
            }
            file = Some(SumsFile::make(dir, ARRIVED, of, sums)?);
        }
        if let Some(file) = &mut file {
            // Durable before the guest can write: or a power loss would not be noticed.
            file.sums.open(boot());
            let opened = file.tell().and_then(|()| file.sync());
            opened.map_err(DirectoryError::io("append to", &dir.join(ARRIVED)))?;
        }
        Ok(Self {
            file,
            fresh: false,
            syncing: None,
            synced: None,
            gaps: VecDeque::new(),
            asked: BTreeMap::new(),
            next_op: 0,
            refusal: None,
        })
    }

    /// What is known of what arrived; none for a copy that never had a source.
    pub(super) fn sums(&self) -> Option<&Sums> {
        self.file.as_ref().map(|file| &file.sums)
    }

    /// Why what never arrived stays unknown, if the source refused to tell it.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// From now on the source is asked again for what it refused.
    pub(super) fn forgive(&mut self) {
        self.refusal = None;
    }

    /// Whether the source could tell something that never arrived.
    pub(super) fn lacks_sums(&self) -> bool {
        self.refusal.is_none() && self.sums().is_some_and(|sums| !sums.is_whole())
    }

    /// Lets the sums learn something, and tells the file.
    pub(super) fn learn(&mut self, learn: impl FnOnce(&mut Sums)) {
        let Some(file) = &mut self.file else { return };
        learn(&mut file.sums);
        if let Err(e) = file.tell() {
            self.lose(&e);
        }
    }

    /// The server ends; everything else of it has ended.
    pub(super) fn close(&mut self) {
        self.learn(Sums::close);
        if let Some(Err(e)) = self.file.as_ref().map(SumsFile::sync) {
            self.lose(&e);
        }
    }

    /// A mark that cannot be written is as bad as none: nothing is claimed any more.
    fn lose(&mut self, error: &io::Error) {
        tracing::error!(%error, "the checksums of what arrived cannot be kept: this copy cannot be verified any more");
        if let Some(file) = self.file.take() {
            file.remove();
        }
    }

    fn next_gap(&mut self) -> Option<Blocks> {
        if self.gaps.is_empty()
            && self.asked.is_empty()
            && let Some(sums) = self.file.as_ref().map(|file| &file.sums)
        {
            let mut at = 0;
            while let Some(region) = sums.first_unknown(at).filter(|_| self.gaps.len() < GAPS_AT_ONCE) {
                self.gaps.extend(sums.gaps(sums.blocks_of(region)));
                at = region + 1;
            }
        }
        self.gaps.pop_front()
    }
}

impl Server {
    /// A guest asks for something; what it changes is marked first.
    pub(super) fn note_request(&mut self, kind: &RequestKind) {
        let (RequestKind::Write { range, .. }
        | RequestKind::Trim { range, .. }
        | RequestKind::WriteZeroes { range, .. }) = kind
        else {
            return;
        };
        let Some(file) = &mut self.ledger.arrivals.file else { return };
        let blocks = file.sums.geometry().blocks_touched(*range);
        if file.sums.changes(blocks)
            && let Err(e) = file.tell()
        {
            self.ledger.arrivals.lose(&e);
        }
    }

    /// These bytes came from the source; the first of them is at `lead` in the buffer, and `crc32c` is that of all.
    pub(super) fn note_arrival(&mut self, range: ByteRange, buffer: &Buffer, lead: usize, crc32c: u32) {
        let Some(file) = &mut self.ledger.arrivals.file else { return };
        let geometry = file.sums.geometry();
        let Some(blocks) = geometry.blocks_covered(range).and_then(|b| b.intersect(geometry.all_blocks()))
        else {
            return;
        };
        file.sums.arrived(blocks, |part| {
            let part = geometry.bytes_of(part);
            let at = lead + (part.offset() - range.offset()) as usize;
            match part == range {
                true => crc32c,
                false => buffer.with_bytes(at, part.len_bytes() as usize, crc32c::crc32c),
            }
        });
        self.ledger.arrivals.fresh |= file.sums.has_news();
    }

    /// These blocks of one region were copied ahead; no checksum: they are zero.
    pub(super) fn note_copied(&mut self, blocks: Blocks, crc32c: Option<u32>) {
        let Some(file) = &mut self.ledger.arrivals.file else { return };
        match crc32c {
            Some(crc32c) => file.sums.arrived(blocks, |_| crc32c),
            None => file.sums.zeroes(blocks),
        }
        self.ledger.arrivals.fresh |= file.sums.has_news();
    }

    /// The source says that these bytes are zero.
    pub(super) fn note_zeroes(&mut self, range: ByteRange) {
        let Some(file) = &mut self.ledger.arrivals.file else { return };
        let geometry = file.sums.geometry();
        if let Some(blocks) = geometry.blocks_covered(range).and_then(|b| b.intersect(geometry.all_blocks()))
        {
            file.sums.zeroes(blocks);
            self.ledger.arrivals.fresh |= file.sums.has_news();
        }
    }

    /// The source says which bytes from `offset` on are zero.
    pub(super) fn note_extents(&mut self, offset: u64, extents: &[SourceExtent]) {
        let size_bytes = self.store.config.size_bytes;
        let mut at = offset;
        // Neighbours of one kind are one run: an edge within a block is none.
        let mut zero_from = None;
        for &SourceExtent { len_bytes, zero } in extents {
            let end = at.saturating_add(len_bytes).min(size_bytes);
            match (zero, zero_from) {
                (true, None) => zero_from = Some(at),
                (false, Some(start)) => {
                    ByteRange::between(start, at).into_iter().for_each(|range| self.note_zeroes(range));
                    zero_from = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
            at = end;
        }
        let rest = zero_from.and_then(|start| ByteRange::between(start, at));
        rest.into_iter().for_each(|range| self.note_zeroes(range));
    }

    /// Makes the sums durable beside the store, if anything arrived since the last time.
    pub(super) fn sync_arrivals(&mut self, beside: OpId) {
        if !std::mem::take(&mut self.ledger.arrivals.fresh) {
            return;
        }
        self.ledger.arrivals.learn(|_| {});
        if let Some(file) = &self.ledger.arrivals.file {
            self.ledger.arrivals.syncing = Some(beside);
            self.ring.sync_data(&file.descriptor(), Purpose::SumsSynced);
        }
    }

    /// An operation on the store ended. Gives it back unless it has to wait for the sums.
    pub(super) fn hold_back(
        &mut self,
        op: OpId,
        result: Result<(), Errno>,
    ) -> Option<(OpId, Result<(), Errno>)> {
        if self.ledger.arrivals.syncing != Some(op) {
            return Some((op, result));
        }
        self.ledger.arrivals.synced = Some(result);
        None
    }

    /// The sums are durable; gives the operation that waited for them, if it has ended meanwhile.
    pub(super) fn arrivals_synced(&mut self, result: io::Result<u32>) -> Option<(OpId, Result<(), Errno>)> {
        if let Err(e) = result {
            self.ledger.arrivals.lose(&e);
        }
        let op = self.ledger.arrivals.syncing.take()?;
        self.ledger.arrivals.synced.take().map(|result| (op, result))
    }

    /// When all is local: asks the source for the checksums of what never arrived; leaves it when there is nothing to
    /// ask any more.
    pub(super) fn ask_for_gaps(&mut self) {
        if !self.engine.status().complete {
            return;
        }
        if self.sources.is_empty() {
            return;
        }
        if !self.ledger.arrivals.lacks_sums() {
            return self.leave_source();
        }
        if self.sources.none_tells_checksums() {
            self.ledger.arrivals.refusal = Some("its source does not tell checksums".to_owned());
            return self.leave_source();
        }
        if !self.sources.has_teller() {
            return;
        }
        while self.ledger.arrivals.asked.len() < ASKED_MAX
            && let Some(gap) = self.ledger.arrivals.next_gap()
        {
            let Some(file) = &self.ledger.arrivals.file else { return };
            let geometry = file.sums.geometry();
            let op = OpId::from_u64(OURS | self.ledger.arrivals.next_op);
            self.ledger.arrivals.next_op += 1;
            let part = self.sources.sum(op, geometry.bytes_of(gap), &self.pool, &mut self.ring);
            let part = geometry.blocks_touched(part);
            // One answer tells of that part; the rest is looked up again.
            let rest = Blocks::between(part.end(), gap.end());
            rest.into_iter().for_each(|rest| self.ledger.arrivals.gaps.push_front(rest));
            self.ledger.arrivals.asked.insert(op, part);
        }
    }

    /// The source told the checksum of something that never arrived, or failed to.
    pub(super) fn gap_told(&mut self, op: OpId, end: Result<u32, Failure>) {
        let Some(gap) = self.ledger.arrivals.asked.remove(&op) else { return };
        match end {
            Ok(crc32c) => self.ledger.arrivals.learn(|sums| sums.told(gap, crc32c)),
            // Asked again when the source is back.
            Err(Failure::Disconnected) => self.ledger.arrivals.gaps.clear(),
            Err(Failure::Errno(_) | Failure::Checksum) => {
                self.ledger.arrivals.gaps.clear();
                self.ledger.arrivals.refusal =
                    Some("its source failed to tell the checksum of what never arrived".to_owned());
            }
        }
        self.ask_for_gaps();
    }
}
