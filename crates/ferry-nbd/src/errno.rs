//! How a request may fail: the error numbers that may cross the wire. proto.md, "Error values".

use std::fmt;

/// An error number of the protocol. Unknown numbers count as [`Errno::Invalid`], as the spec says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// `NBD_EPERM`: not allowed, for example a write to a read-only export.
    NotPermitted,
    /// `NBD_EIO`: the data could not be read or written.
    Io,
    /// `NBD_ENOMEM`: no memory.
    NoMemory,
    /// `NBD_EINVAL`: the request is wrong.
    Invalid,
    /// `NBD_ENOSPC`: no space left.
    NoSpace,
    /// `NBD_EOVERFLOW`: too long for one unfragmented reply.
    Overflow,
    /// `NBD_ENOTSUP`: not supported, for example zeroes that would not be fast.
    NotSupported,
    /// `NBD_ESHUTDOWN`: the server is about to go.
    Shutdown,
}

impl Errno {
    /// The number on the wire, which is also Linux' number.
    pub fn to_wire(self) -> u32 {
        match self {
            Errno::NotPermitted => 1,
            Errno::Io => 5,
            Errno::NoMemory => 12,
            Errno::Invalid => 22,
            Errno::NoSpace => 28,
            Errno::Overflow => 75,
            Errno::NotSupported => 95,
            Errno::Shutdown => 108,
        }
    }

    /// The error of a number from the wire.
    pub fn from_wire(number: u32) -> Errno {
        match number {
            1 => Errno::NotPermitted,
            5 => Errno::Io,
            12 => Errno::NoMemory,
            28 => Errno::NoSpace,
            75 => Errno::Overflow,
            95 => Errno::NotSupported,
            108 => Errno::Shutdown,
            _ => Errno::Invalid,
        }
    }

    /// The nearest error of the protocol for a Linux errno of a local operation. What has no near one is `Io`.
    pub fn from_linux(errno: i32) -> Errno {
        const EACCES: i32 = 13;
        const EFBIG: i32 = 27;
        const EROFS: i32 = 30;
        const EDQUOT: i32 = 122;
        match errno {
            1 | EACCES | EROFS => Errno::NotPermitted,
            12 => Errno::NoMemory,
            22 => Errno::Invalid,
            28 | EFBIG | EDQUOT => Errno::NoSpace,
            75 => Errno::Overflow,
            95 => Errno::NotSupported,
            108 => Errno::Shutdown,
            _ => Errno::Io,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Errno::NotPermitted => "operation not permitted (EPERM)",
            Errno::Io => "input/output error (EIO)",
            Errno::NoMemory => "out of memory (ENOMEM)",
            Errno::Invalid => "invalid request (EINVAL)",
            Errno::NoSpace => "no space left (ENOSPC)",
            Errno::Overflow => "too long for one reply (EOVERFLOW)",
            Errno::NotSupported => "not supported (ENOTSUP)",
            Errno::Shutdown => "the server is shutting down (ESHUTDOWN)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_wire_and_unknown_numbers_are_invalid() {
        for errno in [
            Errno::NotPermitted,
            Errno::Io,
            Errno::NoMemory,
            Errno::Invalid,
            Errno::NoSpace,
            Errno::Overflow,
            Errno::NotSupported,
            Errno::Shutdown,
        ] {
            assert_eq!(Errno::from_wire(errno.to_wire()), errno);
            assert_eq!(Errno::from_linux(errno.to_wire() as i32), errno);
        }
        assert_eq!(Errno::from_wire(0), Errno::Invalid);
        assert_eq!(Errno::from_wire(4711), Errno::Invalid);
        assert_eq!(Errno::from_linux(4711), Errno::Io);
    }
}
