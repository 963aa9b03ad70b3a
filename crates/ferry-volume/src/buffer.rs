//! Buffers that the kernel reads and writes while we wait.
//!
//! A [`Buffer`] is a counted handle on page-aligned memory. Each operation in flight holds a handle, so memory that
//! the kernel may still touch is never freed or reused, whatever happens to the connection that wanted it. Bytes
//! are only reached by copying in and out or within a closure; the engine's rule that overlapping operations never
//! run at the same time is what keeps the kernel and us from the same bytes.
#![allow(unsafe_code, reason = "memory shared with the kernel by io_uring has no safe owner")]

use crate::lent::Lent;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment of every buffer, in bytes: what direct I/O wants.
const ALIGN_BYTES: usize = 4096;
/// Largest buffer the pool hands out, in bytes (the largest NBD payload).
pub(crate) const BUFFER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most memory the pool keeps for reuse, in bytes.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Size classes: powers of two from 4 KiB to 32 MiB.
const CLASSES: usize = 14;

struct Kept {
    free: RefCell<[Vec<NonNull<u8>>; CLASSES]>,
    kept_bytes: Cell<usize>,
}

/// Where buffers come from and go back to.
#[derive(Clone)]
pub(crate) struct Pool(Rc<Kept>);

struct Memory {
    start: NonNull<u8>,
    owner: Owner,
}

enum Owner {
    Pool {
        class: usize,
        pool: Pool,
    },
    /// Memory of another thread.
    Lender {
        _lent: Lent,
    },
}

/// A handle on a piece of memory; clones share it.
#[derive(Clone)]
pub(crate) struct Buffer {
    memory: Rc<Memory>,
    len: usize,
}

fn class_of(len: usize) -> usize {
    len.max(ALIGN_BYTES).next_power_of_two().trailing_zeros() as usize - ALIGN_BYTES.trailing_zeros() as usize
}

fn layout_of(class: usize) -> Layout {
    Layout::from_size_align(ALIGN_BYTES << class, ALIGN_BYTES).expect("size classes are valid layouts")
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Kept { free: RefCell::new(Default::default()), kept_bytes: Cell::new(0) }))
    }

    /// A buffer of `len` bytes. What is in it is some earlier content or zeroes.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        assert!(len <= BUFFER_BYTES_MAX, "a buffer of {len} bytes was asked for");
        let class = class_of(len);
        let reused = self.0.free.borrow_mut()[class].pop();
        let start = match reused {
            Some(start) => {
                self.0.kept_bytes.set(self.0.kept_bytes.get() - (ALIGN_BYTES << class));
                start
            }
            None => {
                let layout = layout_of(class);
                // SAFETY: the layout is never of size zero.
                let fresh = unsafe { alloc_zeroed(layout) };
                NonNull::new(fresh).unwrap_or_else(|| handle_alloc_error(layout))
            }
        };
        let owner = Owner::Pool { class, pool: self.clone() };
        Buffer { memory: Rc::new(Memory { start, owner }), len }
    }

    /// Gives what is kept for reuse back to the system: for the end of work that will not come again.
    pub(crate) fn shrink(&self) {
        self.0.give_back();
    }
}

impl Kept {
    /// Frees what is kept for reuse.
    fn give_back(&self) {
        for (class, free) in self.free.borrow_mut().iter_mut().enumerate() {
            for start in free.drain(..) {
                // SAFETY: allocated by `take` with the layout of this class, and owned by nobody else.
                unsafe { dealloc(start.as_ptr(), layout_of(class)) }
            }
        }
        self.kept_bytes.set(0);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Owner::Pool { class, pool } = &self.owner else { return };
        let bytes = ALIGN_BYTES << class;
        let pool = &pool.0;
        if pool.kept_bytes.get() + bytes <= KEPT_BYTES_MAX {
            pool.kept_bytes.set(pool.kept_bytes.get() + bytes);
            pool.free.borrow_mut()[*class].push(self.start);
        } else {
            // SAFETY: allocated by `take` with this layout; the last handle is gone.
            unsafe { dealloc(self.start.as_ptr(), layout_of(*class)) }
        }
    }
}

impl Buffer {
    /// A buffer on memory that is lent; given back when the last handle is gone.
    pub(crate) fn borrow(lent: Lent) -> Self {
        let (start, len) = (lent.start(), lent.len());
        Self { memory: Rc::new(Memory { start, owner: Owner::Lender { _lent: lent } }), len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of byte `at`, for the kernel; `len` bytes from there are inside.
    pub(crate) fn address(&self, at: usize, len: usize) -> *mut u8 {
        self.check(at, len);
        // SAFETY: checked to be inside the allocation.
        unsafe { self.memory.start.as_ptr().add(at) }
    }

    pub(crate) fn copy_in(&self, at: usize, bytes: &[u8]) {
        let to = self.address(at, bytes.len());
        // SAFETY: inside the allocation; `bytes` is not part of it, since no reference to it is ever given out
        // beyond `with_bytes`, which does not nest.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    pub(crate) fn copy_from(&self, at: usize, other: &Buffer, other_at: usize, len: usize) {
        let (to, from) = (self.address(at, len), other.address(other_at, len));
        // SAFETY: both inside their allocations; `copy` allows them to be the same one.
        unsafe { std::ptr::copy(from, to, len) }
    }

    pub(crate) fn zero(&self, at: usize, len: usize) {
        // SAFETY: inside the allocation.
        unsafe { std::ptr::write_bytes(self.address(at, len), 0, len) }
    }

    /// Looks at `len` bytes from `at`; the kernel must not be writing them.
    pub(crate) fn with_bytes<R>(&self, at: usize, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: inside the allocation, initialised since it was zeroed, and not written meanwhile: one thread
        // runs us, and the kernel has no operation on these bytes (the caller's duty).
        look(unsafe { std::slice::from_raw_parts(self.address(at, len), len) })
    }

    /// Works on `len` bytes from `at` in place; the kernel must not be touching them.
    pub(crate) fn with_bytes_mut<R>(&self, at: usize, len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: as in `with_bytes`; nobody else looks, since no reference ever leaves a closure and closures on one
        // buffer do not nest (the caller's duty).
        work(unsafe { std::slice::from_raw_parts_mut(self.address(at, len), len) })
    }

    fn check(&self, at: usize, len: usize) {
        let end = at.checked_add(len).expect("buffer positions are small");
        assert!(end <= self.len, "bytes {at}..{end} of a buffer of {} were asked for", self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_hold_what_they_are_asked_for() {
        for len in [0, 1, 4096, 4097, 1 << 20, BUFFER_BYTES_MAX] {
            assert!(ALIGN_BYTES << class_of(len) >= len);
        }
        assert_eq!(class_of(BUFFER_BYTES_MAX), CLASSES - 1);
    }

    #[test]
    fn memory_is_reused_only_after_the_last_handle_is_gone() {
        let pool = Pool::new();
        let buffer = pool.take(5000);
        let address = buffer.address(0, 1);
        let held = buffer.clone();
        drop(buffer);
        assert_ne!(pool.take(5000).address(0, 1), address);
        drop(held);
        assert_eq!(pool.take(5000).address(0, 1), address);
    }

    #[test]
    #[should_panic(expected = "were asked for")]
    fn bytes_outside_a_buffer_cannot_be_reached() {
        Pool::new().take(100).copy_in(90, &[0; 20]);
    }
}
