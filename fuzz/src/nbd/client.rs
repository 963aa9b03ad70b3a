//! A client with requests in flight, and any server.
//!
//! Input: how the handshake goes, how the stream is cut, how many requests (six bytes each), the stream.

use super::pieces::Pieces;
use ferry_nbd::client::{Event, Handshake, HandshakeError, Outcome, Session, Wanted};
use ferry_nbd::limits::{EXTENTS_PER_REPLY_MAX, HANDSHAKE_BUFFER_BYTES, REPLY_BUFFER_BYTES};
use ferry_nbd::{
    ByteRange, CONTEXT_ALLOCATION, CONTEXT_CRC32C, Command, ExportInfo, HeaderStyle, ProtocolError, wire,
};
use std::collections::BTreeMap;

/// First byte: an honest handshake, then simple replies from the stream.
pub const SIMPLE: u8 = 0;
/// First byte: an honest handshake, then structured replies from the stream.
pub const STRUCTURED: u8 = 1;
/// First byte: an honest handshake, then extended replies from the stream.
pub const EXTENDED: u8 = 2;
/// First byte: the handshake, too, is in the stream.
pub const FOREIGN: u8 = 3;
/// Bit of the first byte beside the above: the client wants TLS. What follows its beginning stands for what is decrypted.
pub const TLS: u8 = 4;
/// Bytes of one request in the input.
pub const REQUEST_BYTES: usize = 6;

const REQUESTS_MAX: u8 = 32;

/// Everything that a server can make happen.
#[derive(Debug, PartialEq)]
struct Seen {
    export: Option<ExportInfo>,
    asked: Vec<u8>,
    events: Vec<Event>,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    StreamOver,
    NoHandshake(HandshakeError),
    Broken(ProtocolError),
}

/// What is in flight, and of a read the bytes that were answered.
type InFlight = BTreeMap<u64, (Command, u64)>;

/// Any cut of the same bytes gives the same events, none a panic, and every event keeps what its type promises.
pub fn run(bytes: &[u8]) {
    let [how, cuts, count, rest @ ..] = bytes else { return };
    let requests_bytes = usize::from(count % REQUESTS_MAX) * REQUEST_BYTES;
    let Some((requests, stream)) = rest.split_at_checked(requests_bytes) else { return };
    let tls = how & TLS != 0;
    let stream = [honest_handshake(how % (FOREIGN + 1), tls).as_slice(), stream].concat();
    let whole = listen(tls, requests, Pieces::whole(&stream));
    let cut = listen(tls, requests, Pieces::cut(&stream, *cuts));
    assert_eq!(whole, cut, "the cut of the stream changed its meaning");
}

/// What a server sends whose client asks as ours does; nothing when the stream is to do it.
pub fn honest_handshake(style: u8, tls: bool) -> Vec<u8> {
    if style == FOREIGN {
        return Vec::new();
    }
    let mut bytes = [wire::MAGIC.to_be_bytes(), wire::OPTION_MAGIC.to_be_bytes()].concat();
    bytes.extend((wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).to_be_bytes());
    if tls {
        bytes.extend(option_reply(wire::OPT_STARTTLS, wire::REP_ACK, &[]));
    }
    let no_or_yes = |yes: bool| if yes { wire::REP_ACK } else { wire::REP_ERR_UNSUP };
    bytes.extend(option_reply(wire::OPT_EXTENDED_HEADERS, no_or_yes(style == EXTENDED), &[]));
    if style != EXTENDED {
        bytes.extend(option_reply(wire::OPT_STRUCTURED_REPLY, no_or_yes(style == STRUCTURED), &[]));
    }
    if style != SIMPLE {
        for (id, name) in [(1_u32, CONTEXT_ALLOCATION), (2, CONTEXT_CRC32C)] {
            let granted = [&id.to_be_bytes(), name.as_bytes()].concat();
            bytes.extend(option_reply(wire::OPT_SET_META_CONTEXT, wire::REP_META_CONTEXT, &granted));
        }
        bytes.extend(option_reply(wire::OPT_SET_META_CONTEXT, wire::REP_ACK, &[]));
    }
    let mut fact = wire::INFO_EXPORT.to_be_bytes().to_vec();
    fact.extend((1_u64 << 40).to_be_bytes());
    fact.extend((!wire::FLAG_READ_ONLY).to_be_bytes());
    bytes.extend(option_reply(wire::OPT_GO, wire::REP_INFO, &fact));
    bytes.extend(option_reply(wire::OPT_GO, wire::REP_ACK, &[]));
    bytes
}

/// One reply to an option.
pub fn option_reply(option: u32, reply: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for number in [option, reply, payload.len() as u32] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

fn listen(tls: bool, requests: &[u8], mut stream: Pieces<'_>) -> Seen {
    let contexts = vec![CONTEXT_ALLOCATION.to_owned(), CONTEXT_CRC32C.to_owned()];
    let wanted = Wanted { export: "V".to_owned(), contexts, tls };
    let mut handshake = Handshake::new(wanted).expect("these names are short");
    let mut seen = Seen { export: None, asked: Vec::new(), events: Vec::new(), end: End::StreamOver };
    let mut session = loop {
        let advance = match handshake.advance(&stream.input, &mut seen.asked) {
            Ok(advance) => advance,
            Err(error) => return Seen { end: End::NoHandshake(error), ..seen },
        };
        stream.consume(advance.consumed);
        match advance.outcome {
            Outcome::Ready(session) => break *session,
            Outcome::StartTls => continue,
            Outcome::NeedMore => {
                assert!(stream.input.len() < HANDSHAKE_BUFFER_BYTES, "it asks for more than a buffer holds");
            }
        }
        if !stream.more() {
            return seen;
        }
    };
    check_export(session.export());
    seen.export = Some(session.export().clone());
    let mut in_flight = ask(&mut session, requests, &mut seen.asked);
    seen.end = transmission(&mut session, &mut in_flight, &mut stream, &mut seen.events);
    seen
}

fn check_export(export: &ExportInfo) {
    let sizes = export.block_sizes;
    assert!(export.size_bytes <= i64::MAX as u64);
    assert!(sizes.minimum.is_power_of_two() && sizes.minimum <= sizes.preferred, "{sizes:?}");
    assert!(sizes.preferred <= sizes.maximum && sizes.maximum.is_multiple_of(sizes.minimum), "{sizes:?}");
}

/// Sends what the bytes say and the session takes.
fn ask(session: &mut Session, requests: &[u8], asked: &mut Vec<u8>) -> InFlight {
    let mut in_flight = InFlight::new();
    for &[kind, flags, cookie, offset, shift, len] in requests.as_chunks::<REQUEST_BYTES>().0 {
        let len_bytes = u64::from(len) << (shift & 15);
        let range = ByteRange::new(u64::from(offset) << (shift >> 4), len_bytes);
        let Some(range) = range else { continue };
        let flag = |bit: u8| flags & bit != 0;
        let command = match kind % 8 {
            0 => Command::Read { range, dont_fragment: flag(1) },
            1 => Command::Write { range, fua: flag(1) },
            2 => Command::Flush,
            3 => Command::Trim { range, fua: flag(1) },
            4 => Command::Cache { range },
            5 => Command::WriteZeroes { range, fua: flag(1), no_hole: flag(2), fast: flag(4) },
            6 => Command::BlockStatus { range, only_one: flag(1) },
            _ => Command::Disconnect,
        };
        let cookie = u64::from(cookie);
        let before = asked.len();
        match session.request(cookie, command, asked) {
            Ok(()) if command == Command::Disconnect => {}
            Ok(()) => assert_eq!(in_flight.insert(cookie, (command, 0)), None, "a cookie twice"),
            Err(_) => assert_eq!(asked.len(), before, "a request that was refused was sent"),
        }
    }
    in_flight
}

fn transmission(
    session: &mut Session,
    in_flight: &mut InFlight,
    stream: &mut Pieces<'_>,
    events: &mut Vec<Event>,
) -> End {
    loop {
        let progress = match session.advance(&stream.input) {
            Ok(progress) => progress,
            Err(error) => return End::Broken(error),
        };
        stream.consume(progress.consumed);
        let Some(event) = progress.event else {
            assert!(stream.input.len() < REPLY_BUFFER_BYTES, "it asks for more than a buffer holds");
            if stream.more() {
                continue;
            }
            return End::StreamOver;
        };
        check_event(session, in_flight, &event);
        assert_eq!(session.in_flight(), in_flight.len());
        let payload_bytes = match event {
            Event::Data { range, .. } => range.len_bytes(),
            Event::Hole { .. } | Event::BlockStatus { .. } | Event::Done { .. } => 0,
        };
        events.push(event);
        if !stream.skip(payload_bytes) {
            return End::StreamOver;
        }
    }
}

fn check_event(session: &Session, in_flight: &mut InFlight, event: &Event) {
    match event {
        Event::Data { cookie, range } | Event::Hole { cookie, range } => {
            let (command, answered_bytes) = in_flight.get_mut(cookie).expect("data of a request in flight");
            let Command::Read { range: asked, .. } = *command else { panic!("data for {command:?}") };
            assert!(asked.contains(*range), "{range:?} of {asked:?}");
            *answered_bytes += range.len_bytes();
            assert!(*answered_bytes <= asked.len_bytes(), "bytes were answered twice");
        }
        Event::BlockStatus { cookie, context_id, extents } => {
            let (command, _) = in_flight.get(cookie).expect("extents of a request in flight");
            let Command::BlockStatus { range, .. } = *command else { panic!("extents for {command:?}") };
            assert!(session.contexts().iter().any(|context| context.id == *context_id));
            assert!(extents.len() <= EXTENTS_PER_REPLY_MAX);
            assert!(extents.iter().all(|extent| extent.len_bytes > 0));
            assert!(extents.iter().map(|extent| extent.len_bytes).sum::<u64>() <= range.len_bytes());
            assert_ne!(session.style(), HeaderStyle::Simple);
        }
        Event::Done { cookie, result } => {
            let (command, answered_bytes) = in_flight.remove(cookie).expect("the one end of a request");
            if let (Command::Read { range, .. }, Ok(())) = (command, result) {
                assert_eq!(answered_bytes, range.len_bytes(), "a read ended well without all of its bytes");
            }
        }
    }
}
