//! Memory that a frontend's thread fills and lends to the server for one request. It begins on a page, as direct I/O
//! wants it.
//!
//! What is large is mapped by itself, outside of the allocator, and some of it is kept for the next request: memory that
//! one thread takes and another gives back would otherwise pile up in the allocator's heaps.
#![allow(unsafe_code, reason = "memory that begins on a page and crosses threads has no safe owner")]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::convert::Infallible;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Alignment of what is lent, in bytes.
const ALIGN_BYTES: usize = 4096;
/// Up to so many bytes the allocator gives.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Unit of what is mapped, in bytes: the longest request of most guests.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that are kept for the next requests.
const SPARE_BLOCKS_MAX: usize = 8;

static SPARE: Mutex<Vec<Pages>> = Mutex::new(Vec::new());

/// Memory lent to the server; given back when it is dropped.
pub(crate) struct Lent {
    pages: Pages,
    len: usize,
}

impl Lent {
    /// Lends a copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let copied = Self::filled(bytes.len(), |into| {
            into.copy_from_slice(bytes);
            Ok::<(), Infallible>(())
        });
        copied.expect("a copy cannot fail")
    }

    /// Lends `len` bytes once `fill` has filled them. Before that they are zeroes or some earlier content.
    pub(crate) fn filled<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let pages = Pages::take(len);
        // SAFETY: there is room for so many bytes, all were zeroed or written once, and nobody else knows them.
        fill(unsafe { std::slice::from_raw_parts_mut(pages.start.as_ptr(), len) })?;
        Ok(Self { pages, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.pages.start
    }
}

/// Memory with one owner: `bytes` from `start`, mapped if they are more than [`SMALL_BYTES_MAX`].
struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: memory belongs to no thread.
unsafe impl Send for Pages {}

impl Pages {
    fn take(len: usize) -> Self {
        if len <= SMALL_BYTES_MAX {
            let bytes = len.max(1);
            // SAFETY: the layout is not of size zero.
            let fresh = unsafe { alloc_zeroed(layout_of(bytes)) };
            let start = NonNull::new(fresh).unwrap_or_else(|| handle_alloc_error(layout_of(bytes)));
            return Self { start, bytes };
        }
        let bytes = len.next_multiple_of(BLOCK_BYTES);
        let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let kept = if bytes == BLOCK_BYTES { spare() } else { None };
        kept.unwrap_or_else(|| Self::map(bytes))
    }

    fn map(bytes: usize) -> Self {
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let fresh = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, kind) };
        let start = fresh.ok().and_then(|start| NonNull::new(start.cast()));
        Self { start: start.unwrap_or_else(|| handle_alloc_error(layout_of(bytes))), bytes }
    }
}

fn layout_of(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGN_BYTES).expect("a request's length has a layout")
}

impl Drop for Pages {
    fn drop(&mut self) {
        let Self { start, bytes } = *self;
        if bytes <= SMALL_BYTES_MAX {
            // SAFETY: allocated in `take` with this layout, and nobody else knows it.
            return unsafe { dealloc(start.as_ptr(), layout_of(bytes)) };
        }
        if bytes == BLOCK_BYTES {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < SPARE_BLOCKS_MAX {
                return spare.push(Self { start, bytes });
            }
        }
        // SAFETY: mapped in `map` with this length, and nobody else knows it. Unmapping what is mapped cannot fail.
        let _ = unsafe { munmap(start.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;

    #[test]
    fn what_is_lent_of_any_length_begins_on_a_page_and_holds_what_it_was_filled_with() {
        for len in [1, 100, 4096, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, BLOCK_BYTES, BLOCK_BYTES + 1] {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let all: Vec<Lent> = (0..2 * SPARE_BLOCKS_MAX).map(|_| Lent::copy_of(&bytes)).collect();
            for lent in all {
                assert_eq!((lent.len(), lent.start().as_ptr() as usize % ALIGN_BYTES), (len, 0));
                let buffer = Buffer::borrow(lent);
                let held = buffer.clone();
                drop(buffer);
                held.with_bytes(0, len, |seen| assert!(seen == bytes, "{len} bytes"));
            }
        }
        assert!(SPARE.lock().unwrap().len() <= SPARE_BLOCKS_MAX);
    }

    #[test]
    fn nothing_is_lent_that_could_not_be_filled() {
        assert!(Lent::filled(BLOCK_BYTES, |_| Err("no")).is_err());
    }
}
