//! Which requests are under way, in memory that the VMM keeps when we die: a server that is started again takes up
//! what the one before it had not answered. No request is lost, and one that is done twice is the same request.
//!
//! For each queue, at a multiple of 64 bytes (little-endian; vhost-user protocol, "Inflight I/O tracking", split
//! virtqueues):
//!
//! ```text
//!   0 u64 features (unused)   8 u16 version   10 u16 descriptors   12 u16 last head answered   14 u16 used index
//!  16 for each descriptor:  u8 under way   u8[5] unused   u16 head answered before   u64 order
//! ```
//!
//! The region comes from the VMM, so nothing in it is believed: numbers that cannot be are left out.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

const HEADER_BYTES: u64 = 16;
const ENTRY_BYTES: u64 = 16;
const ALIGN_BYTES: u64 = 64;
const VERSION: u16 = 1;

/// The table of requests under way.
pub(super) struct Inflight {
    map: GuestMemoryMmap,
    queues: u16,
    queue_size: u16,
    next_order: u64,
}

/// The limits that a table must keep.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) queues: u16,
    pub(super) queue_size: u16,
}

impl Shape {
    fn stride(self) -> u64 {
        (HEADER_BYTES + ENTRY_BYTES * u64::from(self.queue_size)).next_multiple_of(ALIGN_BYTES)
    }

    fn bytes(self) -> u64 {
        self.stride() * u64::from(self.queues)
    }

    /// The shape that the VMM wants, if it is one that we can serve.
    pub(super) fn of(wanted: &VhostUserInflight, most: Self) -> io::Result<Self> {
        let shape = Self { queues: wanted.num_queues, queue_size: wanted.queue_size };
        let fits = |wanted: u16, most: u16| (1..=most).contains(&wanted);
        if !fits(shape.queues, most.queues) || !fits(shape.queue_size, most.queue_size) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more queues, or longer ones, than there are",
            ));
        }
        Ok(shape)
    }
}

/// A fresh, empty table for the VMM to keep.
pub(super) fn create(shape: Shape) -> io::Result<(VhostUserInflight, File)> {
    let file = memfd_create("ferry-inflight", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, shape.bytes())?;
    Ok((VhostUserInflight::new(shape.bytes(), 0, shape.queues, shape.queue_size), File::from(file)))
}

impl Inflight {
    /// Maps a table that the VMM kept.
    pub(super) fn map(kept: &VhostUserInflight, shape: Shape, file: File) -> io::Result<Self> {
        if kept.mmap_size < shape.bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the table of requests is too short"));
        }
        let region = (GuestAddress(0), shape.bytes() as usize, Some(FileOffset::new(file, kept.mmap_offset)));
        let map = GuestMemoryMmap::from_ranges_with_files([region]).map_err(io::Error::other)?;
        Ok(Self { map, queues: shape.queues, queue_size: shape.queue_size, next_order: 0 })
    }

    fn shape(&self) -> Shape {
        Shape { queues: self.queues, queue_size: self.queue_size }
    }

    fn header(&self, queue: usize, at: u64) -> GuestAddress {
        GuestAddress(self.shape().stride() * queue as u64 + at)
    }

    fn entry(&self, queue: usize, head: u16, at: u64) -> GuestAddress {
        self.header(queue, HEADER_BYTES + ENTRY_BYTES * u64::from(head) + at)
    }

    // The mapping is as long as the shape, and whoever asks has checked queue and head: these cannot fail.
    fn load16(&self, at: GuestAddress) -> u16 {
        u16::from_le(self.map.load(at, Ordering::Acquire).expect("the table is mapped"))
    }

    fn store16(&self, at: GuestAddress, value: u16) {
        self.map.store(value.to_le(), at, Ordering::Release).expect("the table is mapped");
    }

    fn is_under_way(&self, queue: usize, head: u16) -> bool {
        self.map.load::<u8>(self.entry(queue, head, 0), Ordering::Acquire).expect("the table is mapped") != 0
    }

    fn set_under_way(&self, queue: usize, head: u16, under_way: bool) {
        let at = self.entry(queue, head, 0);
        self.map.store(u8::from(under_way), at, Ordering::Release).expect("the table is mapped");
    }

    fn covers(&self, queue: usize, head: u16) -> bool {
        queue < usize::from(self.queues) && head < self.queue_size
    }

    /// A queue of `size` descriptors starts, whose used index is `used`: the heads that were not answered, in the order
    /// in which they were asked.
    pub(super) fn start(&mut self, queue: usize, size: u16, used: u16) -> Vec<u16> {
        if queue >= usize::from(self.queues) {
            return Vec::new();
        }
        let (version, kept_used) = (self.header(queue, 8), self.header(queue, 14));
        if self.load16(version) != VERSION {
            self.store16(self.header(queue, 10), self.queue_size);
            self.store16(kept_used, used);
            self.store16(version, VERSION);
            return Vec::new();
        }
        // What was put into the used ring last may not have been taken off the table.
        let unsure = used.wrapping_sub(self.load16(kept_used)).min(self.queue_size);
        let mut head = self.load16(self.header(queue, 12));
        for _ in 0..unsure {
            if head >= self.queue_size {
                break;
            }
            self.set_under_way(queue, head, false);
            head = self.load16(self.entry(queue, head, 6));
        }
        self.store16(kept_used, used);
        let mut found: Vec<(u64, u16)> = (0..self.queue_size.min(size))
            .filter(|&head| self.is_under_way(queue, head))
            .map(|head| {
                let order = self.map.load(self.entry(queue, head, 8), Ordering::Relaxed);
                (u64::from_le(order.expect("the table is mapped")), head)
            })
            .collect();
        found.sort_unstable();
        let last = found.last().map_or(0, |(order, _)| order.wrapping_add(1));
        self.next_order = self.next_order.max(last);
        found.into_iter().map(|(_, head)| head).collect()
    }

    /// A request begins.
    pub(super) fn begin(&mut self, queue: usize, head: u16) {
        if self.covers(queue, head) {
            let order = self.next_order.to_le();
            self.next_order = self.next_order.wrapping_add(1);
            self.map
                .store(order, self.entry(queue, head, 8), Ordering::Release)
                .expect("the table is mapped");
            self.set_under_way(queue, head, true);
        }
    }

    /// A request is about to be put into the used ring.
    pub(super) fn ending(&self, queue: usize, head: u16) {
        if self.covers(queue, head) {
            let last = self.header(queue, 12);
            self.store16(self.entry(queue, head, 6), self.load16(last));
            self.store16(last, head);
        }
    }

    /// It was put there, and the ring's used index is now `used`.
    pub(super) fn ended(&self, queue: usize, head: u16, used: u16) {
        if self.covers(queue, head) {
            self.set_under_way(queue, head, false);
            self.store16(self.header(queue, 14), used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { queues: 2, queue_size: 8 };

    fn table() -> (VhostUserInflight, File) {
        create(SHAPE).unwrap()
    }

    fn mapped((kept, file): &(VhostUserInflight, File)) -> Inflight {
        Inflight::map(kept, SHAPE, file.try_clone().unwrap()).unwrap()
    }

    #[test]
    fn what_was_not_answered_is_found_again_in_the_order_in_which_it_was_asked() {
        let kept = table();
        let mut before = mapped(&kept);
        assert!(before.start(1, 8, 100).is_empty());
        for head in [5, 2, 7, 0] {
            before.begin(1, head);
        }
        before.ending(1, 2);
        before.ended(1, 2, 101);
        let mut after = mapped(&kept);
        assert_eq!(after.start(1, 8, 101), [5, 7, 0]);
        assert!(after.start(0, 8, 0).is_empty());
        after.begin(1, 2);
        assert_eq!(mapped(&kept).start(1, 8, 101), [5, 7, 0, 2], "the order goes on");
    }

    #[test]
    fn what_was_answered_and_not_yet_taken_off_is_not_done_again() {
        let kept = table();
        let mut before = mapped(&kept);
        before.start(0, 8, 65535);
        before.begin(0, 3);
        before.begin(0, 4);
        before.ending(0, 3);
        // It died here: the used ring has it, and its index has gone round.
        assert_eq!(mapped(&kept).start(0, 8, 0), [4]);
        // It died before the used ring had it.
        let kept = table();
        let mut before = mapped(&kept);
        before.start(0, 8, 65535);
        before.begin(0, 3);
        before.ending(0, 3);
        assert_eq!(mapped(&kept).start(0, 8, 65535), [3]);
    }

    #[test]
    fn a_table_full_of_nonsense_harms_nobody() {
        let (kept, file) = table();
        let nonsense = vec![0xff; kept.mmap_size as usize];
        std::os::unix::fs::FileExt::write_all_at(&file, &nonsense, 0).unwrap();
        for at in [8, 8 + SHAPE.stride()] {
            std::os::unix::fs::FileExt::write_all_at(&file, &VERSION.to_le_bytes(), at).unwrap();
        }
        let mut nonsense = mapped(&(kept, file));
        assert_eq!(nonsense.start(0, 4, 3), [0, 1, 2, 3]);
        nonsense.begin(0, 200);
        nonsense.begin(9, 0);
        assert!(nonsense.start(9, 8, 0).is_empty());
    }

    #[test]
    fn a_table_of_an_impossible_shape_is_refused() {
        for (queues, queue_size) in [(0, 8), (3, 8), (2, 0), (2, 9)] {
            assert!(Shape::of(&VhostUserInflight::new(1 << 20, 0, queues, queue_size), SHAPE).is_err());
        }
        let (mut kept, file) = table();
        kept.mmap_size = 10;
        assert!(Inflight::map(&kept, SHAPE, file).is_err());
    }
}
