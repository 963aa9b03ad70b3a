//! What one end may ask of the other: commands and the byte ranges they are about, the same for server and client.

/// Bytes of an export from `offset` on. Never empty, and its end fits in 63 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    offset: u64,
    len_bytes: u64,
}

impl ByteRange {
    /// The range, or nothing if it is empty or ends beyond 2^63 - 1 bytes.
    pub fn new(offset: u64, len_bytes: u64) -> Option<ByteRange> {
        let end = offset.checked_add(len_bytes)?;
        (len_bytes > 0 && end <= i64::MAX as u64).then_some(ByteRange { offset, len_bytes })
    }

    /// First byte.
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// Length in bytes, at least one.
    pub fn len_bytes(self) -> u64 {
        self.len_bytes
    }

    /// The byte after the last.
    pub fn end(self) -> u64 {
        self.offset + self.len_bytes
    }

    /// Whether `other` lies wholly inside.
    pub fn contains(self, other: ByteRange) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }
}

/// How requests and replies look on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderStyle {
    /// Compact requests, simple replies: a read is answered whole or not at all, and there is no block status.
    Simple,
    /// Compact requests, replies in chunks.
    Structured,
    /// Extended requests, extended replies in chunks: 64-bit lengths.
    Extended,
}

/// One request, without its cookie and payload. proto.md, "Request types".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// `NBD_CMD_READ`. With `dont_fragment` the answer is one chunk.
    Read {
        /// What to read.
        range: ByteRange,
        /// `NBD_CMD_FLAG_DF`.
        dont_fragment: bool,
    },
    /// `NBD_CMD_WRITE`; `range.len_bytes()` bytes of payload follow the header.
    Write {
        /// What to write.
        range: ByteRange,
        /// Answer only when it is durable.
        fua: bool,
    },
    /// `NBD_CMD_DISC`: the client goes; there is no reply.
    Disconnect,
    /// `NBD_CMD_FLUSH`: all writes answered before are durable when this is answered.
    Flush,
    /// `NBD_CMD_TRIM`: the bytes are not needed any more.
    Trim {
        /// What is not needed.
        range: ByteRange,
        /// Answer only when it is durable.
        fua: bool,
    },
    /// `NBD_CMD_CACHE`: the client will read this soon.
    Cache {
        /// What to bring near.
        range: ByteRange,
    },
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes {
        /// What becomes zero.
        range: ByteRange,
        /// Answer only when it is durable.
        fua: bool,
        /// `NBD_CMD_FLAG_NO_HOLE`: the space stays allocated.
        no_hole: bool,
        /// `NBD_CMD_FLAG_FAST_ZERO`: answer ENOTSUP at once rather than write zeroes slowly.
        fast: bool,
    },
    /// `NBD_CMD_BLOCK_STATUS`, for all contexts of the session.
    BlockStatus {
        /// What to describe.
        range: ByteRange,
        /// `NBD_CMD_FLAG_REQ_ONE`: one extent for each context is enough.
        only_one: bool,
    },
}

impl Command {
    /// Bytes that follow the header of this request.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Command::Write { range, .. } => range.len_bytes(),
            Command::Read { .. }
            | Command::Disconnect
            | Command::Flush
            | Command::Trim { .. }
            | Command::Cache { .. }
            | Command::WriteZeroes { .. }
            | Command::BlockStatus { .. } => 0,
        }
    }

    /// The bytes it is about, if it is about any.
    pub fn range(&self) -> Option<ByteRange> {
        match *self {
            Command::Read { range, .. }
            | Command::Write { range, .. }
            | Command::Trim { range, .. }
            | Command::Cache { range }
            | Command::WriteZeroes { range, .. }
            | Command::BlockStatus { range, .. } => Some(range),
            Command::Disconnect | Command::Flush => None,
        }
    }
}
