//! A server and any client: the handshake, then requests, answered as a shell would.
//!
//! Input: which export is offered, how the stream is cut, the stream.

use super::pieces::Pieces;
use ferry_nbd::limits::{
    HANDSHAKE_BUFFER_BYTES, HANDSHAKE_REPLY_BYTES_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_SKIP_BYTES_MAX,
};
use ferry_nbd::server::{CloseReason, Decoded, Handshake, Negotiated, Outcome, Part, Request, TlsPolicy};
use ferry_nbd::{
    BlockSizes, ByteRange, CONTEXT_ALLOCATION, CONTEXT_CRC32C, Command, Errno, ExportInfo, ExportRefusal,
    Exports, Extent, HeaderStyle, ProtocolError,
};

/// Bit of the first byte: the export has a minimum block size of 512 bytes.
pub const SECTORS: u8 = 1;
/// Bit of the first byte: the export is read-only.
pub const READ_ONLY: u8 = 2;
/// Bit of the first byte: the export has metadata contexts.
pub const CONTEXTS: u8 = 4;
/// Bit of the first byte: the export has every ability, else it has few.
pub const ABLE: u8 = 8;
/// Bit of the first byte: nothing is told before TLS. What follows `NBD_OPT_STARTTLS` stands for what is decrypted.
pub const TLS: u8 = 16;
/// Size of the export in bytes.
pub const SIZE_BYTES: u64 = (5 << 30) + 512;

struct Shelf(ExportInfo);

impl Exports for Shelf {
    fn list(&self) -> Vec<String> {
        vec![self.0.name.clone(), String::new()]
    }

    fn find(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        match name {
            "" | "V" => Ok(self.0.clone()),
            "P" => Err(ExportRefusal::Policy("not for you".to_owned())),
            other => Err(ExportRefusal::Unknown(format!("there is no {other:?}"))),
        }
    }
}

/// Everything that a client can make happen.
#[derive(Debug, PartialEq)]
struct Seen {
    negotiated: Option<Negotiated>,
    decoded: Vec<Decoded>,
    sent: Vec<u8>,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    StreamOver,
    Closed(CloseReason),
    Disconnected,
    Broken(ProtocolError),
}

/// Any cut of the same bytes gives the same events, none a panic, and what passes the door is right.
pub fn run(bytes: &[u8]) {
    let [export, cuts, stream @ ..] = bytes else { return };
    let whole = serve(*export, Pieces::whole(stream));
    let cut = serve(*export, Pieces::cut(stream, *cuts));
    assert_eq!(whole, cut, "the cut of the stream changed its meaning");
}

fn export(bits: u8) -> ExportInfo {
    let mut export = ExportInfo::new("V", SIZE_BYTES);
    export.read_only = bits & READ_ONLY != 0;
    if bits & SECTORS != 0 {
        export.block_sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 20 };
    }
    if bits & CONTEXTS != 0 {
        export.contexts =
            vec![CONTEXT_ALLOCATION.to_owned(), CONTEXT_CRC32C.to_owned(), "ferry:dirty:7".to_owned()];
    }
    let able = bits & ABLE != 0;
    (export.can_fua, export.can_trim, export.can_cache, export.can_fast_zero) = (able, able, able, able);
    export
}

fn serve(bits: u8, mut stream: Pieces<'_>) -> Seen {
    let shelf = Shelf(export(bits));
    let mut seen = Seen { negotiated: None, decoded: Vec::new(), sent: Vec::new(), end: End::StreamOver };
    let (mut handshake, _greeting) =
        Handshake::new(if bits & TLS != 0 { TlsPolicy::Required } else { TlsPolicy::Off });
    let negotiated = loop {
        let advance = match handshake.advance(&stream.input, &shelf, &mut seen.sent) {
            Ok(advance) => advance,
            Err(error) => return Seen { end: End::Broken(error), ..seen },
        };
        stream.consume(advance.consumed);
        assert!(seen.sent.len() <= HANDSHAKE_REPLY_BYTES_MAX, "the handshake has no end");
        match advance.outcome {
            Outcome::Ready(negotiated) => break *negotiated,
            Outcome::Closed(reason) => return Seen { end: End::Closed(reason), ..seen },
            Outcome::StartTls => continue,
            Outcome::NeedMore => {
                assert!(stream.input.len() < HANDSHAKE_BUFFER_BYTES, "it asks for more than a buffer holds");
            }
        }
        if !stream.more() {
            return seen;
        }
    };
    seen.end = transmission(&negotiated, &mut stream, &mut seen.decoded, &mut seen.sent);
    seen.negotiated = Some(negotiated);
    seen
}

fn transmission(
    negotiated: &Negotiated,
    stream: &mut Pieces<'_>,
    decoded: &mut Vec<Decoded>,
    sent: &mut Vec<u8>,
) -> End {
    let header_bytes = negotiated.request_header_bytes();
    loop {
        while stream.input.len() < header_bytes {
            if !stream.more() {
                return End::StreamOver;
            }
        }
        let header = match negotiated.decode(&stream.input[..header_bytes]) {
            Ok(header) => header,
            Err(error) => return End::Broken(error),
        };
        stream.consume(header_bytes);
        decoded.push(header);
        let payload_bytes = match header {
            Decoded::Request(Request { command: Command::Disconnect, .. }) => return End::Disconnected,
            Decoded::Request(request) => {
                check_door(negotiated, &request.command);
                answer(negotiated, &request, sent);
                request.command.payload_bytes()
            }
            Decoded::Refused(refused) => {
                assert!(refused.payload_bytes <= PAYLOAD_SKIP_BYTES_MAX);
                negotiated.refuse(&refused, sent);
                refused.payload_bytes
            }
        };
        if !stream.skip(payload_bytes) {
            return End::StreamOver;
        }
    }
}

/// What nobody behind the door checks again.
fn check_door(negotiated: &Negotiated, command: &Command) {
    let export = &negotiated.export;
    if let Some(range) = command.range() {
        let minimum = u64::from(export.block_sizes.minimum);
        assert!(range.len_bytes() > 0 && range.end() <= export.size_bytes, "{command:?}");
        assert!(range.offset().is_multiple_of(minimum) && range.len_bytes().is_multiple_of(minimum));
    }
    let payload_bytes_max = u64::from(export.block_sizes.maximum.min(PAYLOAD_BYTES_MAX));
    let (allowed, fua) = match *command {
        Command::Read { range, dont_fragment } => {
            let fragments = negotiated.style != HeaderStyle::Simple;
            (range.len_bytes() <= payload_bytes_max && (fragments || !dont_fragment), false)
        }
        Command::Write { range, fua } => (range.len_bytes() <= payload_bytes_max && !export.read_only, fua),
        Command::Trim { fua, .. } => (export.can_trim && !export.read_only, fua),
        Command::WriteZeroes { fua, fast, .. } => {
            (export.can_write_zeroes && !export.read_only && (export.can_fast_zero || !fast), fua)
        }
        Command::Cache { .. } => (export.can_cache, false),
        Command::Flush => (export.can_flush, false),
        Command::BlockStatus { .. } => {
            (!negotiated.contexts.is_empty() && negotiated.style != HeaderStyle::Simple, false)
        }
        Command::Disconnect => (true, false),
    };
    assert!(allowed && (export.can_fua || !fua), "{command:?} passed the door");
}

/// Answers in every way that the style allows, the cookie choosing.
fn answer(negotiated: &Negotiated, request: &Request, sent: &mut Vec<u8>) {
    let reply = negotiated.reply(request);
    if request.cookie % 4 == 3 {
        return reply.error(Errno::Io, "the disk is gone", sent);
    }
    match request.command {
        Command::Read { range, dont_fragment } => {
            let half_bytes = range.len_bytes() / 2;
            let halves = ByteRange::new(range.offset(), half_bytes)
                .zip(ByteRange::new(range.offset() + half_bytes, range.len_bytes() - half_bytes));
            match halves {
                Some((first, second)) if negotiated.style != HeaderStyle::Simple && !dont_fragment => {
                    reply.data(first, Part::More, sent);
                    reply.hole(second, Part::Last, sent);
                }
                Some(_) | None => reply.data(range, Part::Last, sent),
            }
        }
        Command::BlockStatus { range, .. } => {
            let extents = [Extent { len_bytes: range.len_bytes(), flags: 3 }];
            for context in &negotiated.contexts {
                reply.block_status(context.id, &extents, Part::More, sent);
            }
            reply.done(sent);
        }
        Command::Write { .. }
        | Command::Disconnect
        | Command::Flush
        | Command::Trim { .. }
        | Command::Cache { .. }
        | Command::WriteZeroes { .. } => reply.done(sent),
    }
}
