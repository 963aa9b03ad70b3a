//! One operation of the engine at the source: the requests it takes, and what came of them so far.

use super::source::{Failure, FetchEnd, Outcome};
use crate::buffer::{BUFFER_BYTES_MAX, Buffer, Pool};
use ferry_engine::{OpId, SourceExtent, Urgency};
use ferry_nbd::client::Session;
use ferry_nbd::wire::STATE_ZERO;
use ferry_nbd::{BlockSizes, ByteRange, CONTEXT_ALLOCATION, Extent};

/// A checksum that the source was asked for.
struct Check {
    cookie: u64,
    range: ByteRange,
    crc32c: Option<u32>,
}

enum Kind {
    /// Bytes of the source into a buffer.
    Fetch { checks: Vec<Check> },
    /// Bytes of a raw file into a buffer: so many are there already.
    File { done: usize },
    /// Which parts are zero.
    Query { extents: Vec<SourceExtent> },
    /// The checksum of a range, without its bytes.
    Sum { crc32c: Option<u32> },
}

pub(super) struct Task {
    kind: Kind,
    buffer: Buffer,
    /// Offset at the source of the buffer's first byte.
    start: u64,
    /// Where in the buffer, or in the extents, the wanted range begins.
    lead: u64,
    /// Length of the wanted range.
    len: u64,
    /// Bytes of the buffer that the source has; the rest was zeroed.
    source_len: u64,
    /// Offset at the source beyond which the volume is zero whatever the source holds there.
    limit: u64,
    /// Whether any byte came as data.
    has_data: bool,
    /// Requests without an end.
    requests: usize,
    errno: Option<i32>,
    /// Who waits for it.
    urgency: Urgency,
}

/// Whether all requests of a task have ended.
pub(super) enum Standing {
    /// Some are under way.
    Partial,
    /// All have ended.
    Whole,
}

impl Task {
    /// A fetch over NBD, and the parts in which it must be asked for. Without parts it is whole: all of it lies
    /// beyond the source's end, where a volume reads as zeroes.
    pub(super) fn fetch(
        offset: u64,
        len: usize,
        source_bytes: u64,
        sizes: BlockSizes,
        pool: &Pool,
    ) -> (Self, Vec<ByteRange>) {
        let asked_end = (offset + len as u64).min(source_bytes);
        let wanted = ByteRange::new(offset, asked_end.saturating_sub(offset));
        let aligned = wanted.map(|w| sizes.align_out(w, source_bytes));
        let (start, source_len) = aligned.map_or((offset, 0), |a| (a.offset(), a.len_bytes()));
        let lead = offset - start;
        let buffer = pool.take((lead as usize + len).max(source_len as usize));
        buffer.zero(source_len as usize, buffer.len() - source_len as usize);
        let mut parts = Vec::new();
        let longest = u64::from(sizes.maximum).min(BUFFER_BYTES_MAX as u64);
        let longest = longest - longest % u64::from(sizes.minimum.max(1));
        let mut at = 0;
        while at < source_len {
            let part = longest.min(source_len - at);
            parts.extend(ByteRange::new(start + at, part));
            at += part;
        }
        (Self::new(Kind::Fetch { checks: Vec::new() }, buffer, start, lead, len as u64, source_len), parts)
    }

    /// A read of a raw file.
    pub(super) fn file(offset: u64, len: usize, file_bytes: u64, buffer: Buffer) -> Self {
        let source_len = file_bytes.saturating_sub(offset).min(len as u64);
        buffer.zero(source_len as usize, len - source_len as usize);
        Self::new(Kind::File { done: 0 }, buffer, offset, 0, len as u64, source_len)
    }

    /// A question about zeroes, and the range to ask about; none when the server cannot be asked.
    pub(super) fn query(offset: u64, len: u64, session: &Session, pool: &Pool) -> Option<(Self, ByteRange)> {
        session.context_id(CONTEXT_ALLOCATION)?;
        let source_bytes = session.export().size_bytes;
        let unit = u64::from(session.export().block_sizes.minimum.max(1));
        let most = session.range_bytes_max() - session.range_bytes_max() % unit;
        let end = (offset + len).min(source_bytes).min(offset.saturating_add(most - unit));
        let wanted = ByteRange::new(offset, end.saturating_sub(offset))?;
        let aligned = session.export().block_sizes.align_out(wanted, source_bytes);
        if !aligned.len_bytes().is_multiple_of(unit) {
            return None;
        }
        let lead = offset - aligned.offset();
        let kind = Kind::Query { extents: Vec::new() };
        Some((Self::new(kind, pool.take(0), aligned.offset(), lead, len, aligned.len_bytes()), aligned))
    }

    /// A question about a checksum.
    pub(super) fn sum(range: ferry_engine::ByteRange, pool: &Pool) -> Self {
        let (offset, len) = (range.offset(), range.len_bytes());
        Self::new(Kind::Sum { crc32c: None }, pool.take(0), offset, 0, len, len)
    }

    fn new(kind: Kind, buffer: Buffer, start: u64, lead: u64, len: u64, source_len: u64) -> Self {
        Self {
            kind,
            buffer,
            start,
            lead,
            len,
            source_len,
            limit: u64::MAX,
            urgency: Urgency::Background,
            has_data: false,
            requests: 0,
            errno: None,
        }
    }

    /// What lies beyond `limit` is zero, whatever the source holds there: a volume that has grown ended there when it
    /// was made.
    pub(super) fn within(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// Who waits for what it fetches.
    pub(super) fn urgent(self, urgency: Urgency) -> Self {
        Self { urgency, ..self }
    }

    /// A request of this task was sent.
    pub(super) fn asked(&mut self) {
        self.requests += 1;
    }

    /// A request for the checksum of `range` was sent.
    pub(super) fn asked_checksum(&mut self, cookie: u64, range: ByteRange) {
        self.requests += 1;
        if let Kind::Fetch { checks } = &mut self.kind {
            checks.push(Check { cookie, range, crc32c: None });
        }
    }

    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Where the bytes of `range` belong.
    pub(super) fn landing(&mut self, range: ByteRange) -> (Buffer, usize) {
        self.has_data = true;
        (self.buffer.clone(), (range.offset() - self.start) as usize)
    }

    pub(super) fn hole(&mut self, range: ByteRange) {
        self.buffer.zero((range.offset() - self.start) as usize, range.len_bytes() as usize);
    }

    pub(super) fn extents(&mut self, cookie: u64, found: &[Extent]) {
        match &mut self.kind {
            Kind::Fetch { checks } => {
                let Some(check) = checks.iter_mut().find(|c| c.cookie == cookie) else { return };
                if let [one] = found
                    && one.len_bytes == check.range.len_bytes()
                {
                    check.crc32c = u32::try_from(one.flags).ok();
                }
            }
            Kind::Query { extents } => {
                let zero = |e: &Extent| e.flags & u64::from(STATE_ZERO) != 0;
                extents.extend(found.iter().map(|e| SourceExtent { len_bytes: e.len_bytes, zero: zero(e) }));
            }
            Kind::Sum { crc32c } => {
                if let [one] = found
                    && one.len_bytes == self.len
                {
                    *crc32c = u32::try_from(one.flags).ok();
                }
            }
            Kind::File { .. } => {}
        }
    }

    pub(super) fn request_ended(&mut self, result: Result<(), i32>) {
        self.requests -= 1;
        self.errno = self.errno.or(result.err());
    }

    pub(super) fn standing(&self) -> Standing {
        match self.requests {
            0 => Standing::Whole,
            _ => Standing::Partial,
        }
    }

    /// What is still to be read of a raw file: position in the buffer, length, offset in the file.
    pub(super) fn file_rest(&self) -> Option<(usize, usize, u64)> {
        let Kind::File { done } = self.kind else { return None };
        let left = self.source_len as usize - done;
        (left > 0).then_some((done, left, self.start + done as u64))
    }

    pub(super) fn file_progress(&mut self, count: usize) {
        self.has_data = true;
        if let Kind::File { done } = &mut self.kind {
            *done += count;
        }
    }

    /// What the engine is told when the task failed as a whole.
    pub(super) fn failed(self, op: OpId, failure: Failure) -> Outcome {
        let range = self.wanted();
        match self.kind {
            Kind::Fetch { .. } | Kind::File { .. } => {
                Outcome::Fetched { op, range, end: FetchEnd::Failed(failure) }
            }
            Kind::Query { .. } => Outcome::Extents { op, offset: range.offset(), end: Err(failure) },
            Kind::Sum { .. } => Outcome::Summed { op, end: Err(failure) },
        }
    }

    /// What was wanted, without what is only asked for because the source wants it so.
    fn wanted(&self) -> ferry_engine::ByteRange {
        let wanted = ferry_engine::ByteRange::new(self.start + self.lead, self.len);
        wanted.expect("what is asked for is not empty")
    }

    /// What the engine is told when all requests have ended.
    pub(super) fn end(mut self, op: OpId) -> Outcome {
        if let Some(errno) = self.errno {
            return self.failed(op, Failure::Errno(errno));
        }
        let range = self.wanted();
        match &mut self.kind {
            Kind::Query { extents } => {
                let extents = skip_lead(std::mem::take(extents), self.lead);
                Outcome::Extents { op, offset: range.offset(), end: Ok(extents) }
            }
            Kind::Sum { crc32c } => Outcome::Summed { op, end: crc32c.ok_or(Failure::Checksum) },
            Kind::Fetch { checks } => {
                let checks = std::mem::take(checks);
                let end = self.checked(&checks);
                Outcome::Fetched { op, range, end }
            }
            Kind::File { .. } => Outcome::Fetched { op, range, end: self.content(false, None) },
        }
    }

    fn checked(self, checks: &[Check]) -> FetchEnd {
        let mut whole = None;
        for check in checks {
            let at = (check.range.offset() - self.start) as usize;
            let here = self.buffer.with_bytes(at, check.range.len_bytes() as usize, crc32c::crc32c);
            if check.crc32c != Some(here) {
                return FetchEnd::Mismatch { came: here };
            }
            whole = (self.lead == 0 && check.range.len_bytes() == self.len).then_some(here);
        }
        self.content(!checks.is_empty(), whole)
    }

    /// `crc32c`: of all that was wanted, where it is known.
    fn content(self, verified: bool, crc32c: Option<u32>) -> FetchEnd {
        let (lead, len) = (self.lead as usize, self.len as usize);
        let end = self.start + self.lead + self.len;
        let beyond = end.saturating_sub(self.limit).min(self.len) as usize;
        self.buffer.zero(lead + len - beyond, beyond);
        let crc32c = crc32c.filter(|_| beyond == 0);
        let zero = !self.has_data || self.buffer.with_bytes(lead, len, is_zero);
        let sum = || self.buffer.with_bytes(lead, len, crc32c::crc32c);
        match zero {
            true => FetchEnd::Zeroes { verified },
            false => {
                let crc32c = crc32c.unwrap_or_else(sum);
                let (buffer, urgency) = (self.buffer, self.urgency);
                FetchEnd::Data { buffer, lead, crc32c, verified, urgency, bytes_from_base: 0 }
            }
        }
    }
}

/// Drops the first `lead` bytes of a list of stretches.
fn skip_lead(extents: Vec<SourceExtent>, mut lead: u64) -> Vec<SourceExtent> {
    let mut kept = Vec::with_capacity(extents.len());
    for SourceExtent { len_bytes, zero } in extents {
        let dropped = lead.min(len_bytes);
        lead -= dropped;
        if len_bytes > dropped {
            kept.push(SourceExtent { len_bytes: len_bytes - dropped, zero });
        }
    }
    kept
}

/// Whether all bytes are zero. By chunks that the compiler turns into vector instructions, leaving at the first
/// chunk that is not zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(256);
    chunks.all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && bytes.chunks_exact(256).remainder().iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: BlockSizes = BlockSizes { minimum: 65536, preferred: 65536, maximum: 131_072 };

    #[test]
    fn a_fetch_is_asked_for_in_parts_that_the_source_accepts() {
        let (task, parts) = Task::fetch(4096, 200_000, 1 << 20, SIZES, &Pool::new());
        assert_eq!(task.lead, 4096);
        assert!(
            parts.iter().all(|p| p.offset().is_multiple_of(65536) && p.len_bytes().is_multiple_of(65536))
        );
        assert!(parts.iter().all(|p| p.len_bytes() <= 131_072));
        assert_eq!(parts.iter().map(|p| p.len_bytes()).sum::<u64>(), 262_144);
    }

    #[test]
    fn what_lies_beyond_the_end_of_the_source_reads_as_zeroes() {
        let sizes = BlockSizes::default();
        let pool = Pool::new();
        let (task, parts) = Task::fetch(4096, 4096, 5000, sizes, &pool);
        assert_eq!(parts.iter().map(|p| p.len_bytes()).sum::<u64>(), 904);
        task.buffer.with_bytes(904, 4096 - 904, |bytes| assert!(is_zero(bytes)));
        assert!(Task::fetch(8192, 4096, 5000, sizes, &pool).1.is_empty());
    }

    #[test]
    fn what_a_larger_source_holds_beyond_the_volume_is_not_the_volumes() {
        let (task, parts) = Task::fetch(4096, 4096, 1 << 20, BlockSizes::default(), &Pool::new());
        let mut task = task.within(4096 + 512);
        task.landing(parts[0]).0.copy_in(0, &[7; 4096]);
        let FetchEnd::Data { buffer, lead, .. } = task.content(false, None) else { panic!("there is data") };
        buffer.with_bytes(lead, 512, |bytes| assert_eq!(bytes, [7; 512]));
        buffer.with_bytes(lead + 512, 4096 - 512, |bytes| assert!(is_zero(bytes)));
    }

    #[test]
    fn a_checksum_that_differs_or_is_missing_fails_the_fetch() {
        let pool = Pool::new();
        for (crc, fails) in [(Some(crc32c::crc32c(&[7; 4096])), false), (Some(1), true), (None, true)] {
            let (mut task, parts) = Task::fetch(0, 4096, 4096, BlockSizes::default(), &pool);
            task.asked();
            task.asked_checksum(2, parts[0]);
            task.landing(parts[0]).0.copy_in(0, &[7; 4096]);
            if let Some(crc) = crc {
                task.extents(2, &[Extent { len_bytes: 4096, flags: u64::from(crc) }]);
            }
            task.request_ended(Ok(()));
            task.request_ended(Ok(()));
            let end = task.end(OpId::from_u64(1));
            let failed = matches!(end, Outcome::Fetched { end: FetchEnd::Mismatch { .. }, .. });
            assert_eq!(failed, fails);
        }
    }

    #[test]
    fn zeroes_are_found_wherever_they_end() {
        assert!(is_zero(&[0; 1000]));
        for at in [0, 255, 256, 767, 768, 999] {
            let mut bytes = [0; 1000];
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "byte {at}");
        }
    }

    #[test]
    fn the_part_before_the_wanted_range_is_dropped_from_the_extents() {
        let extent = |(len_bytes, zero)| SourceExtent { len_bytes, zero };
        let extents = [(4096, true), (8192, false), (4096, true)].map(extent);
        assert_eq!(skip_lead(extents.to_vec(), 8192), [(4096, false), (4096, true)].map(extent));
    }
}
