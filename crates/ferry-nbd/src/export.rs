//! What is offered: an export's size, abilities, block sizes and metadata contexts, the same for both ends.

use crate::command::ByteRange;
use crate::limits::PAYLOAD_BYTES_MAX;

/// The context of holes and zeroes; its flags are [`crate::wire::STATE_HOLE`] and [`crate::wire::STATE_ZERO`].
pub const CONTEXT_ALLOCATION: &str = "base:allocation";

/// Our context of checksums: a block status over a range answers one extent whose flags are the CRC-32C of the
/// range's bytes.
pub const CONTEXT_CRC32C: &str = "ferry:crc32c";

/// Our context of heat: a block status answers one extent for each run of the volume that the guest touched equally often;
/// its flags are the class, 0 for nothing to 8.
pub const CONTEXT_HEAT: &str = "ferry:heat";

/// The beginning of our contexts of changes, which the number of a mark ends: `ferry:dirty:7`. A block status answers the
/// runs of the volume that may have changed since the mark ([`STATE_CHANGED`]) or have not (0).
pub const CONTEXT_DIRTY: &str = "ferry:dirty:";

/// The beginning of our contexts of what a sealed copy was made from, which a generation ends: `ferry:base:1`. A block status
/// answers the runs of the volume that may differ from the copy of that generation ([`STATE_CHANGED`]) or do not (0).
pub const CONTEXT_BASE: &str = "ferry:base:";

/// The status flag of [`CONTEXT_DIRTY`] and [`CONTEXT_BASE`]: this may be another than it was.
pub const STATE_CHANGED: u64 = 1;

/// Everything both ends know about an export when the handshake is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its name, at most [`crate::limits::STRING_BYTES_MAX`] bytes. On a client: the name that was asked for.
    pub name: String,
    /// A line for people; may be empty.
    pub description: String,
    /// Size in bytes, at most 2^63 - 1.
    pub size_bytes: u64,
    /// Writes, trims and zeroes are refused.
    pub read_only: bool,
    /// `NBD_CMD_FLUSH` is served. Without it a write is as durable as it gets when it is answered.
    pub can_flush: bool,
    /// Writes may ask to be durable when answered.
    pub can_fua: bool,
    /// `NBD_CMD_TRIM` is served.
    pub can_trim: bool,
    /// `NBD_CMD_WRITE_ZEROES` is served.
    pub can_write_zeroes: bool,
    /// `NBD_CMD_FLAG_FAST_ZERO` is honoured.
    pub can_fast_zero: bool,
    /// `NBD_CMD_CACHE` is served.
    pub can_cache: bool,
    /// A flush on one connection covers the writes of all connections.
    pub can_multi_conn: bool,
    /// Which requests the server wants.
    pub block_sizes: BlockSizes,
    /// Names of its metadata contexts. On a client: those that were granted.
    pub contexts: Vec<String>,
}

impl ExportInfo {
    /// A writable export with every ability but multi-conn and fast zeroes, any alignment and no contexts. Change
    /// the fields that differ.
    pub fn new(name: impl Into<String>, size_bytes: u64) -> ExportInfo {
        ExportInfo {
            name: name.into(),
            description: String::new(),
            size_bytes,
            read_only: false,
            can_flush: true,
            can_fua: true,
            can_trim: true,
            can_write_zeroes: true,
            can_fast_zero: false,
            can_cache: true,
            can_multi_conn: false,
            block_sizes: BlockSizes::default(),
            contexts: Vec::new(),
        }
    }
}

/// Block size constraints, in bytes. proto.md, "Block size constraints".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Every offset and length must be a multiple of it; a power of two, at most 64 KiB.
    pub minimum: u32,
    /// Requests should be multiples of it; a power of two, at least 512.
    pub preferred: u32,
    /// The longest read or write. Other commands may be longer.
    pub maximum: u32,
}

impl BlockSizes {
    /// The smallest range that holds `range` and that the server accepts. At the end of the export it stays inside
    /// `size_bytes`, even if that is no multiple of the minimum.
    pub fn align_out(&self, range: ByteRange, size_bytes: u64) -> ByteRange {
        let unit = u64::from(self.minimum.max(1));
        let offset = range.offset() - range.offset() % unit;
        let limit = size_bytes.min(i64::MAX as u64).max(range.end());
        let end = range.end().div_ceil(unit).saturating_mul(unit).min(limit);
        ByteRange::new(offset, end - offset)
            .expect("it holds a range, and ends within that or within the export")
    }
}

impl Default for BlockSizes {
    /// Any alignment, 4 KiB preferred, [`PAYLOAD_BYTES_MAX`] at most.
    fn default() -> BlockSizes {
        BlockSizes { minimum: 1, preferred: 4096, maximum: PAYLOAD_BYTES_MAX }
    }
}

/// A negotiated metadata context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The number that stands for it on this connection.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// One descriptor of a block status reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Bytes it describes, never zero. With compact headers at most 2^32 - 1.
    pub len_bytes: u64,
    /// What the context says about them. With compact headers only 32 bits.
    pub flags: u64,
}

/// What a server offers at the moment.
pub trait Exports {
    /// Names to list. May be empty, also when there are exports.
    fn list(&self) -> Vec<String>;

    /// The export of a name, or why it is not to be had.
    fn find(&self, name: &str) -> Result<ExportInfo, ExportRefusal>;
}

/// Why an export is not to be had. The message is shown to the person on the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportRefusal {
    /// There is none of that name (`NBD_REP_ERR_UNKNOWN`).
    Unknown(String),
    /// There is one, but not for this client or not now (`NBD_REP_ERR_POLICY`).
    Policy(String),
    /// The server is about to go (`NBD_REP_ERR_SHUTDOWN`).
    ShuttingDown(String),
}

impl ExportRefusal {
    /// The words for the person on the other end.
    pub fn message(&self) -> &str {
        match self {
            ExportRefusal::Unknown(message)
            | ExportRefusal::Policy(message)
            | ExportRefusal::ShuttingDown(message) => message,
        }
    }
}
