//! What every byte may read as, now and after a crash.
//!
//! Byte values are small numbers, so that the values allowed for a byte fit in 128 bits. Values below
//! [`GUEST_VALUE_MIN`] are the source's, each guest write has a value of its own, and [`GARBAGE`] is never allowed.

use std::collections::BTreeMap;

use ferry_engine::{ByteRange, RequestId};

pub const GUEST_VALUE_MIN: u8 = 10;
pub const GARBAGE: u8 = 127;

pub struct Oracle {
    pub now: Vec<u128>,
    pub durable: Vec<u128>,
    source: Vec<u8>,
    writes: BTreeMap<RequestId, Write>,
    reads: BTreeMap<RequestId, Read>,
    flushes: BTreeMap<RequestId, Vec<u128>>,
}

struct Write {
    range: ByteRange,
    mask: u128,
    fua: bool,
    /// Writes that overlapped in space and time: any of them may have won.
    rivals: Vec<(ByteRange, u128)>,
}

struct Read {
    range: ByteRange,
    /// What each byte may be.
    allowed: Vec<u128>,
    /// Whether a write of the byte has ended since the read began: the read says nothing of what it is now.
    overtaken: Vec<bool>,
}

/// How a write that failed may have left its bytes.
pub enum Failed<'a> {
    /// It never reached the store.
    Untouched,
    /// It may have reached the store; says for a byte whether it is remote now.
    Touched(&'a dyn Fn(u64) -> bool),
}

impl Oracle {
    pub fn new(source: &[u8]) -> Oracle {
        let now: Vec<u128> = source.iter().map(|&value| 1 << value).collect();
        Oracle {
            durable: now.clone(),
            now,
            source: source.to_vec(),
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            flushes: BTreeMap::new(),
        }
    }

    /// The volume has this size from now on; what is new is zero.
    pub fn grown(&mut self, size_bytes: usize) {
        let masks = [&mut self.now, &mut self.durable].into_iter().chain(self.flushes.values_mut());
        masks.for_each(|masks| masks.resize(size_bytes, 1));
        self.source.resize(size_bytes, 0);
    }

    pub fn read_issued(&mut self, id: RequestId, range: ByteRange) {
        let allowed = self.now[span(range)].to_vec();
        let overtaken = vec![false; allowed.len()];
        self.reads.insert(id, Read { range, allowed, overtaken });
    }

    /// What a read has given stays, also when the process is killed, unless it is written anew.
    pub fn read_done(&mut self, id: RequestId, bytes: Option<&[u8]>) {
        let read = self.reads.remove(&id).unwrap();
        let Some(bytes) = bytes else { return };
        for (index, at) in span(read.range).enumerate() {
            let (value, mask) = (bytes[index], read.allowed[index]);
            assert!(mask >> value & 1 == 1, "byte {at} reads as {value}, allowed {mask:#b}");
            let under_way = self.writes.values().filter(|write| span(write.range).contains(&at));
            let stays = under_way.fold(1 << value, |mask, write| mask | write.mask);
            if !read.overtaken[index] && self.now[at] & stays != 0 {
                self.now[at] &= stays;
            }
        }
    }

    /// A write of these bytes has ended, one way or another.
    fn overtake(&mut self, range: ByteRange) {
        for read in self.reads.values_mut() {
            for at in read.range.intersect(range).into_iter().flat_map(span) {
                read.overtaken[at - usize::try_from(read.range.offset()).unwrap()] = true;
            }
        }
    }

    pub fn write_issued(&mut self, id: RequestId, range: ByteRange, value: u8, fua: bool) {
        let mask = 1 << value;
        let mut rivals = Vec::new();
        for other in self.writes.values_mut().filter(|other| other.range.intersect(range).is_some()) {
            other.rivals.push((range, mask));
            rivals.push((other.range, other.mask));
        }
        self.writes.insert(id, Write { range, mask, fua, rivals });
        for at in span(range) {
            self.now[at] |= mask;
            self.durable[at] |= mask;
            self.flushes.values_mut().for_each(|snapshot| snapshot[at] |= mask);
        }
        for read in self.reads.values_mut() {
            for at in read.range.intersect(range).into_iter().flat_map(span) {
                read.allowed[at - usize::try_from(read.range.offset()).unwrap()] |= mask;
            }
        }
    }

    /// Whether this write, trim or zeroing changes anything.
    pub fn expects(&self, id: RequestId) -> bool {
        self.writes.contains_key(&id)
    }

    pub fn write_done(&mut self, id: RequestId) {
        let write = self.writes.remove(&id).unwrap();
        self.overtake(write.range);
        for at in span(write.range) {
            let rivals = write.rivals.iter().filter(|(range, _)| span(*range).contains(&at));
            self.now[at] = rivals.fold(write.mask, |mask, (_, rival)| mask | rival);
            if write.fua {
                self.durable[at] &= self.now[at];
            }
        }
    }

    pub fn write_failed(&mut self, id: RequestId, failed: &Failed<'_>) {
        let write = self.writes.remove(&id).unwrap();
        self.overtake(write.range);
        for at in span(write.range) {
            match failed {
                Failed::Untouched if write.mask >= 1 << GUEST_VALUE_MIN => {
                    self.now[at] &= !write.mask;
                    self.durable[at] &= !write.mask;
                }
                Failed::Touched(is_remote) if is_remote(at as u64) => {
                    let others = self.writes.values().filter(|other| span(other.range).contains(&at));
                    self.now[at] = others.fold(1 << self.source[at], |mask, other| mask | other.mask);
                    self.durable[at] = self.now[at];
                }
                Failed::Untouched | Failed::Touched(_) => {}
            }
        }
    }

    pub fn flush_issued(&mut self, id: RequestId) {
        self.flushes.insert(id, self.now.clone());
    }

    pub fn flush_done(&mut self, id: RequestId, ok: bool) {
        let snapshot = self.flushes.remove(&id).unwrap();
        if ok {
            self.durable.iter_mut().zip(snapshot).for_each(|(durable, mask)| *durable &= mask);
        }
    }

    /// All that was acknowledged is durable, and nothing else is under way.
    pub fn sealed(&mut self) {
        assert!(self.writes.is_empty(), "no write is under way in a sealed volume");
        self.durable.iter_mut().zip(&self.now).for_each(|(durable, now)| *durable &= now);
    }

    /// These ranges were only at the source, which was given up. Guests may have written there meanwhile.
    pub fn abandoned(&mut self, ranges: &[ByteRange]) {
        for range in ranges {
            for at in span(*range) {
                let under_way = self.writes.values().filter(|write| span(write.range).contains(&at));
                self.now[at] = under_way.fold(1, |mask, write| mask | write.mask);
                self.durable[at] = self.now[at];
                self.source[at] = 0;
                self.flushes.values_mut().for_each(|snapshot| snapshot[at] = self.now[at]);
            }
            self.overtake(*range);
            for read in self.reads.values_mut() {
                for at in read.range.intersect(*range).into_iter().flat_map(span) {
                    read.allowed[at - usize::try_from(read.range.offset()).unwrap()] |= 1;
                }
            }
        }
    }

    pub fn crashed(&mut self) {
        self.writes.clear();
        self.reads.clear();
        self.flushes.clear();
        self.now.clone_from(&self.durable);
    }

    /// The process was killed: all that was answered is there, and of all that was under way any part.
    pub fn killed(&mut self) {
        self.writes.clear();
        self.reads.clear();
        self.flushes.clear();
    }

    pub fn is_quiet(&self) -> bool {
        self.writes.is_empty() && self.reads.is_empty() && self.flushes.is_empty()
    }
}

pub fn span(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.offset()).unwrap()..usize::try_from(range.end()).unwrap()
}
