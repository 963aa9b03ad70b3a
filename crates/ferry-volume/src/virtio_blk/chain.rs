//! The descriptors of one request as two streams of bytes: what the guest gave us to read, what it gave us to write.
//!
//! A driver may cut a request into descriptors wherever it likes (VIRTIO 1.2, 2.7.4), so nothing here knows which
//! descriptor holds what.

use super::SEGMENTS_MAX;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

/// Most descriptors of a request: its data, the header and the status.
const PIECES_MAX: usize = SEGMENTS_MAX as usize + 2;
/// Bytes of a descriptor: u64 address, u32 length, u16 flags, u16 next (little-endian; VIRTIO 1.2, 2.7.5).
const DESCRIPTOR_BYTES: u32 = 16;

/// The range is not in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest named memory that it does not have")]
pub struct Unmapped;

/// The guest's memory, by guest-physical address.
pub trait GuestMemory {
    /// Copies bytes out of the guest.
    ///
    /// # Errors
    /// A part of the range is not in the guest's memory; what `into` holds then means nothing.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped>;

    /// Copies bytes into the guest.
    ///
    /// # Errors
    /// A part of the range is not in the guest's memory; some of the bytes may have been written.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unmapped>;
}

/// Why a chain of descriptors cannot even be answered. The queue that holds it is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// More descriptors than a request can have; perhaps they go round in circles.
    #[error("a request has more than {PIECES_MAX} descriptors")]
    TooLong,
    /// A descriptor to read follows one to write (VIRTIO 1.2, 2.7.4.2).
    #[error("a request has a descriptor to read from after one to write to")]
    OutOfOrder,
    /// The bytes together, or an address with its length, exceed what numbers can hold.
    #[error("the descriptors of a request are longer than any memory")]
    TooLarge,
    /// A descriptor, or its number, is not in the table of descriptors.
    #[error("a request names a descriptor that is not there")]
    NoDescriptor,
    /// A table of indirect descriptors within another, with a wrong length, or with a descriptor after it
    /// (VIRTIO 1.2, 2.7.5.3.1).
    #[error("a request has a table of indirect descriptors that cannot be")]
    Indirect,
    /// There is no byte to write the status to.
    #[error("a request has no room for its status")]
    NoStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    address: u64,
    len: u32,
}

/// A stream of bytes that lies in pieces in the guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scatter {
    pieces: Vec<Piece>,
    len: u32,
}

impl Scatter {
    /// Bytes in the stream.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        self.len
    }

    fn push(&mut self, address: u64, len: u32) -> Result<(), Broken> {
        address.checked_add(u64::from(len)).ok_or(Broken::TooLarge)?;
        self.len = self.len.checked_add(len).ok_or(Broken::TooLarge)?;
        if len > 0 {
            self.pieces.push(Piece { address, len });
        }
        Ok(())
    }

    /// Takes the last byte off the stream and gives its address.
    pub(super) fn take_last_byte(&mut self) -> Option<u64> {
        let last = self.pieces.last_mut()?;
        last.len -= 1;
        self.len -= 1;
        let address = last.address + u64::from(last.len);
        if last.len == 0 {
            self.pieces.pop();
        }
        Some(address)
    }

    /// Splits the stream in front of byte `at`; none when it is shorter.
    pub(super) fn split(mut self, at: u32) -> Option<(Self, Self)> {
        let mut front = Self::default();
        while front.len < at {
            let missing = at - front.len;
            let first = self.pieces.first_mut()?;
            let len = missing.min(first.len);
            front.pieces.push(Piece { address: first.address, len });
            front.len += len;
            self.len -= len;
            first.address += u64::from(len);
            first.len -= len;
            if first.len == 0 {
                self.pieces.remove(0);
            }
        }
        Some((front, self))
    }

    /// Copies the beginning of the stream out of the guest.
    ///
    /// # Errors
    /// [`Unmapped`].
    ///
    /// # Panics
    /// `into` is longer than the stream.
    pub fn copy_out(&self, memory: &dyn GuestMemory, into: &mut [u8]) -> Result<(), Unmapped> {
        assert!(into.len() <= self.len as usize, "more is read than the guest offered");
        let mut rest = into;
        for piece in &self.pieces {
            let (now, later) = rest.split_at_mut(rest.len().min(piece.len as usize));
            memory.read(piece.address, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies bytes into the beginning of the stream.
    ///
    /// # Errors
    /// [`Unmapped`].
    ///
    /// # Panics
    /// `bytes` are more than the stream has room for.
    pub fn copy_in(&self, memory: &dyn GuestMemory, bytes: &[u8]) -> Result<(), Unmapped> {
        assert!(bytes.len() <= self.len as usize, "more is written than the guest has room for");
        let mut rest = bytes;
        for piece in &self.pieces {
            let (now, later) = rest.split_at(rest.len().min(piece.len as usize));
            memory.write(piece.address, now)?;
            rest = later;
        }
        Ok(())
    }
}

/// The descriptors of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub(super) readable: Scatter,
    pub(super) writable: Scatter,
    descriptors: usize,
}

struct Descriptor {
    address: u64,
    len: u32,
    flags: u32,
    next: u16,
}

impl Descriptor {
    fn read(memory: &dyn GuestMemory, table: u64, index: u16) -> Result<Self, Broken> {
        let mut copy = [0; DESCRIPTOR_BYTES as usize];
        let address = table.checked_add(u64::from(index) * u64::from(DESCRIPTOR_BYTES));
        memory.read(address.ok_or(Broken::NoDescriptor)?, &mut copy).map_err(|_| Broken::NoDescriptor)?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = copy;
        Ok(Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u32::from(u16::from_le_bytes([f0, f1])),
            next: u16::from_le_bytes([n0, n1]),
        })
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl Chain {
    /// Follows the descriptors from number `head` on, in a table at `table` with `size` of them.
    ///
    /// # Errors
    /// No driver that follows the rules makes such a chain.
    pub fn walk(memory: &dyn GuestMemory, table: u64, size: u16, head: u16) -> Result<Self, Broken> {
        let (mut table, mut size, mut index, mut is_indirect) = (table, u32::from(size), head, false);
        let mut chain = Self::default();
        loop {
            if u32::from(index) >= size {
                return Err(Broken::NoDescriptor);
            }
            let descriptor = Descriptor::read(memory, table, index)?;
            if descriptor.has(VRING_DESC_F_INDIRECT) {
                let is_table = descriptor.len > 0 && descriptor.len.is_multiple_of(DESCRIPTOR_BYTES);
                if is_indirect || !is_table || descriptor.has(VRING_DESC_F_NEXT) {
                    return Err(Broken::Indirect);
                }
                (table, size) = (descriptor.address, descriptor.len / DESCRIPTOR_BYTES);
                (index, is_indirect) = (0, true);
                continue;
            }
            chain.push(descriptor.address, descriptor.len, descriptor.has(VRING_DESC_F_WRITE))?;
            if !descriptor.has(VRING_DESC_F_NEXT) {
                return Ok(chain);
            }
            index = descriptor.next;
        }
    }

    /// Adds a range, and whether we may write to it (and only that).
    pub(super) fn push(&mut self, address: u64, len: u32, writable: bool) -> Result<(), Broken> {
        self.descriptors += 1;
        if self.descriptors > PIECES_MAX {
            return Err(Broken::TooLong);
        }
        match writable {
            true => self.writable.push(address, len),
            false if self.writable.len == 0 => self.readable.push(address, len),
            false => Err(Broken::OutOfOrder),
        }
    }

    /// The address of the byte for the status.
    pub(super) fn take_status(&mut self) -> Result<u64, Broken> {
        self.writable.take_last_byte().ok_or(Broken::NoStatus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scatter(pieces: &[(u64, u32)]) -> Scatter {
        let mut scatter = Scatter::default();
        pieces.iter().for_each(|&(address, len)| scatter.push(address, len).unwrap());
        scatter
    }

    #[test]
    fn a_stream_is_split_anywhere_and_nothing_is_lost() {
        let whole = [(100, 5), (0, 0), (50, 1), (7, 10)];
        for at in 0..=16 {
            let (front, back) = scatter(&whole).split(at).unwrap();
            assert_eq!((front.len_bytes(), back.len_bytes()), (at, 16 - at));
            let bytes = |s: &Scatter| -> Vec<u64> {
                s.pieces.iter().flat_map(|p| p.address..p.address + u64::from(p.len)).collect()
            };
            assert_eq!([bytes(&front), bytes(&back)].concat(), bytes(&scatter(&whole)));
        }
        assert!(scatter(&whole).split(17).is_none());
    }

    #[test]
    fn the_status_is_the_last_byte_wherever_it_lies() {
        let mut chain = Chain::default();
        chain.push(0, 16, false).unwrap();
        chain.push(4096, 513, true).unwrap();
        chain.push(0, 0, true).unwrap();
        assert_eq!(chain.take_status(), Ok(4096 + 512));
        assert_eq!(chain.writable.len_bytes(), 512);
    }

    /// A table of descriptors at address 0.
    struct Table(Vec<u8>);

    const NEXT: u16 = VRING_DESC_F_NEXT as u16;
    const WRITE: u16 = VRING_DESC_F_WRITE as u16;
    const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

    impl Table {
        fn of(descriptors: &[(u64, u32, u16, u16)]) -> Self {
            let bytes = |&(address, len, flags, next): &(u64, u32, u16, u16)| {
                [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                    .concat()
            };
            Self(descriptors.iter().flat_map(bytes).collect())
        }

        fn walk(&self, size: u16) -> Result<Chain, Broken> {
            Chain::walk(self, 0, size, 0)
        }
    }

    impl GuestMemory for Table {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
            let at = usize::try_from(address).map_err(|_| Unmapped)?;
            let bytes = self.0.get(at..).and_then(|rest| rest.get(..into.len())).ok_or(Unmapped)?;
            into.copy_from_slice(bytes);
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), Unmapped> {
            Err(Unmapped)
        }
    }

    #[test]
    fn a_chain_goes_where_its_descriptors_point_directly_or_not() {
        let direct =
            Table::of(&[(10, 16, NEXT, 2), (90, 9, 0, 0), (20, 5, NEXT | WRITE, 3), (30, 1, WRITE, 0)]);
        let chain = direct.walk(4).unwrap();
        assert_eq!(
            (&chain.readable, &chain.writable),
            (&scatter(&[(10, 16)]), &scatter(&[(20, 5), (30, 1)]))
        );
        let inner = [(20, 5, NEXT | WRITE, 2), (0, 0, 0, 0), (30, 1, WRITE, 0)];
        let indirect = Table::of(&[&[(10, 16, NEXT, 1), (32, 48, INDIRECT, 0)], &inner[..]].concat());
        let through_a_table = indirect.walk(2).unwrap();
        assert_eq!((through_a_table.readable, through_a_table.writable), (chain.readable, chain.writable));
    }

    #[test]
    fn a_chain_that_breaks_the_rules_is_refused() {
        let broken =
            |descriptors: &[(u64, u32, u16, u16)], size| Table::of(descriptors).walk(size).unwrap_err();
        assert_eq!(broken(&[(0, 1, NEXT, 0)], 1), Broken::TooLong);
        assert_eq!(broken(&[(0, 1, NEXT | WRITE, 1), (0, 1, 0, 0)], 2), Broken::OutOfOrder);
        assert_eq!(broken(&[(0, u32::MAX, NEXT, 1), (0, 1, 0, 0)], 2), Broken::TooLarge);
        assert_eq!(broken(&[(u64::MAX, 1, 0, 0)], 1), Broken::TooLarge);
        assert_eq!(broken(&[(0, 1, NEXT, 1)], 1), Broken::NoDescriptor);
        assert_eq!(broken(&[(0, 1, NEXT, 1)], 2), Broken::NoDescriptor);
        assert_eq!(broken(&[(u64::MAX - 8, 32, INDIRECT, 0)], 1), Broken::NoDescriptor);
        assert_eq!(broken(&[(0, 16, INDIRECT, 0)], 1), Broken::Indirect);
        assert_eq!(broken(&[(16, 16, INDIRECT | NEXT, 1), (0, 1, 0, 0)], 2), Broken::Indirect);
        assert_eq!(broken(&[(16, 0, INDIRECT, 0)], 1), Broken::Indirect);
        assert_eq!(broken(&[(16, 17, INDIRECT, 0)], 1), Broken::Indirect);
        assert_eq!(Table::of(&[(0, 16, 0, 0)]).walk(1).unwrap().take_status(), Err(Broken::NoStatus));
    }
}
