//! The numbers of the spec (proto.md, "Values"), by their names there without the leading `NBD_`.
//!
//! Invariant: nothing here is a choice of ours.

/// "NBDMAGIC", the first 8 bytes of a server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": newstyle greeting, and head of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Oldstyle greeting.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Head of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Head of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Head of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Head of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Head of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Head of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of the server's greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes of the client's flags.
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Bytes of an option's head.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes of an option reply's head.
pub const OPTION_REPLY_HEADER_BYTES: usize = 20;
/// Bytes of the answer to `NBD_OPT_EXPORT_NAME` without its zeroes.
pub const EXPORT_NAME_REPLY_BYTES: usize = 10;
/// Zeroes after that answer unless both ends agreed to none.
pub const EXPORT_NAME_ZEROES_BYTES: usize = 124;
/// Bytes of a compact request.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request.
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// Bytes of a simple reply.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a structured reply chunk's head.
pub const STRUCTURED_REPLY_BYTES: usize = 20;
/// Bytes of an extended reply chunk's head.
pub const EXTENDED_REPLY_BYTES: usize = 32;

/// Handshake flag of both ends: option haggling is well defined.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag of both ends: no 124 zeroes after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Transmission flag: the other flags mean something.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: the export cannot be written.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: `NBD_CMD_FLUSH` is served.
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: `NBD_CMD_FLAG_FUA` is honoured.
pub const FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: `NBD_CMD_TRIM` is served.
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: `NBD_CMD_WRITE_ZEROES` is served.
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: `NBD_CMD_FLAG_DF` is honoured.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: a flush covers all connections.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: `NBD_CMD_CACHE` is served.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: `NBD_CMD_FLAG_FAST_ZERO` is honoured.
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

/// Option: choose the export and transmit; no way to refuse but to close.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: leave politely.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option: encrypt.
pub const OPT_STARTTLS: u32 = 5;
/// Option: tell about an export.
pub const OPT_INFO: u32 = 6;
/// Option: tell about an export and transmit.
pub const OPT_GO: u32 = 7;
/// Option: answers may come in chunks.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: which metadata contexts are there.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: choose metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;
/// Option: 64-bit lengths.
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// Option reply: done.
pub const REP_ACK: u32 = 1;
/// Option reply: an export's name.
pub const REP_SERVER: u32 = 2;
/// Option reply: a fact about an export.
pub const REP_INFO: u32 = 3;
/// Option reply: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Set in every option reply that is an error.
pub const REP_FLAG_ERROR: u32 = 1 << 31;
/// Option error: the option is unknown.
pub const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR | 1;
/// Option error: not allowed.
pub const REP_ERR_POLICY: u32 = REP_FLAG_ERROR | 2;
/// Option error: malformed.
pub const REP_ERR_INVALID: u32 = REP_FLAG_ERROR | 3;
/// Option error: TLS first.
pub const REP_ERR_TLS_REQD: u32 = REP_FLAG_ERROR | 5;
/// Option error: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR | 6;
/// Option error: the server is about to go.
pub const REP_ERR_SHUTDOWN: u32 = REP_FLAG_ERROR | 7;
/// Option error: the client must ask for block sizes.
pub const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_FLAG_ERROR | 8;
/// Option error: too long.
pub const REP_ERR_TOO_BIG: u32 = REP_FLAG_ERROR | 9;
/// Option error: extended headers first.
pub const REP_ERR_EXT_HEADER_REQD: u32 = REP_FLAG_ERROR | 10;

/// Fact: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Fact: the canonical name.
pub const INFO_NAME: u16 = 1;
/// Fact: a description.
pub const INFO_DESCRIPTION: u16 = 2;
/// Fact: block sizes.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write.
pub const CMD_WRITE: u16 = 1;
/// Command: leave.
pub const CMD_DISC: u16 = 2;
/// Command: make durable.
pub const CMD_FLUSH: u16 = 3;
/// Command: discard.
pub const CMD_TRIM: u16 = 4;
/// Command: read ahead.
pub const CMD_CACHE: u16 = 5;
/// Command: write zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: describe.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: durable when answered.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag: zeroes stay allocated.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag: one chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag: one extent.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag: zeroes only if fast.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// Command flag of extended requests: the length is that of a payload.
pub const CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// Reply flag: the last chunk.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;

/// Chunk: nothing, only done.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Chunk: data of a read.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk: zeroes of a read.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk: block status, 32 bits.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk: block status, 64 bits.
pub const REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// Set in every chunk type that is an error.
pub const REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
/// Chunk: an error.
pub const REPLY_TYPE_ERROR: u16 = REPLY_TYPE_FLAG_ERROR | 1;
/// Chunk: an error at an offset.
pub const REPLY_TYPE_ERROR_OFFSET: u16 = REPLY_TYPE_FLAG_ERROR | 2;

/// `base:allocation`: nothing is allocated here.
pub const STATE_HOLE: u32 = 1 << 0;
/// `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// The port of NBD over TCP.
pub const PORT_DEFAULT: u16 = 10809;
