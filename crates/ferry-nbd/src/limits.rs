//! Our own limits: what one peer may cost us. The spec's numbers are in [`crate::wire`].

/// Bytes of one read or write: what we accept, and what we promise to send at most (proto.md, "Block size
/// constraints", names 32 MiB as what any server should take).
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Bytes of a write's payload that a server still skips to answer the write with an error; beyond it the connection
/// is closed, because reading on would cost more than a new connection.
pub const PAYLOAD_SKIP_BYTES_MAX: u64 = 2 * PAYLOAD_BYTES_MAX as u64;

/// Bytes of any string in the protocol: export names, context names, descriptions, messages (proto.md, "Values").
pub const STRING_BYTES_MAX: usize = 4096;

/// Bytes of one option's payload that a server accepts.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;

/// Bytes of one option's payload that a server skips and answers with `NBD_REP_ERR_TOO_BIG`; beyond it the
/// connection is closed.
pub const OPTION_SKIP_BYTES_MAX: u32 = 1 << 20;

/// Options that one client may send before it must be in transmission.
pub const OPTIONS_MAX: u32 = 1024;

/// Bytes that a server sends in one handshake.
pub const HANDSHAKE_REPLY_BYTES_MAX: usize = 8 << 20;

/// Metadata contexts of one export, and queries of one option.
pub const CONTEXTS_MAX: usize = 64;

/// Bytes of one option reply's payload that a client accepts.
pub const OPTION_REPLY_BYTES_MAX: u32 = 16 << 10;

/// Replies that a client accepts to one option.
pub const OPTION_REPLIES_MAX: u32 = 1024;

/// Bytes that a handshake buffer of either side must be able to hold: one whole option or option reply.
pub const HANDSHAKE_BUFFER_BYTES: usize = OPTION_BYTES_MAX as usize + 64;

/// Bytes that a client's reply buffer must be able to hold: any header with the small payload parsed with it.
pub const REPLY_BUFFER_BYTES: usize = 8 << 10;

/// Bytes of an error chunk's payload that a client accepts.
pub const ERROR_CHUNK_BYTES_MAX: u32 = STRING_BYTES_MAX as u32 + 64;

/// Extents that a client keeps of one block status reply. The rest is skipped: the answer then covers less than
/// asked, as any answer may.
pub const EXTENTS_PER_REPLY_MAX: usize = 64 << 10;

/// Extents that a server should send in one block status reply; a client asks again for the rest.
pub const EXTENTS_PER_REPLY_SENT_MAX: usize = 4096;

/// Content chunks that a client accepts out of order in one read.
pub const READ_PIECES_MAX: usize = 4096;

/// Requests that one client session may have in flight.
pub const IN_FLIGHT_MAX: usize = 4096;
