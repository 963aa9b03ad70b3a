//! Round trips: what a client asks is what the server reads, what the server answers is what the client sees, through
//! any wire; and garbled bytes end in an error, not in a panic.

mod common;

use common::{SIZE_BYTES, done, ends, failed, header, range, read, watch};
use ferry_nbd::client::{Event, RequestError, Session};
use ferry_nbd::limits::{PAYLOAD_BYTES_MAX, PAYLOAD_SKIP_BYTES_MAX};
use ferry_nbd::server::{Decoded, Negotiated, Part, Request};
use ferry_nbd::{ByteRange, Command, Errno, Extent, HeaderStyle, ProtocolError, wire};
use proptest::prelude::*;

fn any_style() -> impl Strategy<Value = HeaderStyle> {
    prop_oneof![Just(HeaderStyle::Simple), Just(HeaderStyle::Structured), Just(HeaderStyle::Extended)]
}

fn any_range(len_bytes_max: u64) -> impl Strategy<Value = ByteRange> {
    (1..=len_bytes_max)
        .prop_flat_map(|len_bytes| (0..=SIZE_BYTES - len_bytes, Just(len_bytes)))
        .prop_map(|(offset, len_bytes)| range(offset, len_bytes))
}

fn any_command() -> impl Strategy<Value = Command> {
    let flag = any::<bool>;
    let (payload, long) = (u64::from(PAYLOAD_BYTES_MAX), 0xffff_0000);
    prop_oneof![
        (any_range(payload), flag())
            .prop_map(|(range, dont_fragment)| Command::Read { range, dont_fragment }),
        (any_range(payload), flag()).prop_map(|(range, fua)| Command::Write { range, fua }),
        Just(Command::Disconnect),
        Just(Command::Flush),
        (any_range(long), flag()).prop_map(|(range, fua)| Command::Trim { range, fua }),
        any_range(long).prop_map(|range| Command::Cache { range }),
        (any_range(long), flag(), flag(), flag())
            .prop_map(|(range, fua, no_hole, fast)| Command::WriteZeroes { range, fua, no_hole, fast }),
        (any_range(long), flag()).prop_map(|(range, only_one)| Command::BlockStatus { range, only_one }),
    ]
}

/// One answer to a request as the server's shell might give it.
#[derive(Clone, Debug)]
struct Script {
    len_bytes: u64,
    /// Where a read is cut, as parts of its length; odd pieces are holes.
    cuts: Vec<u64>,
    backwards: bool,
    fails: bool,
    ends_apart: bool,
    extents: Vec<(u32, u32)>,
    is_status: bool,
}

fn any_script() -> impl Strategy<Value = Script> {
    let extents = proptest::collection::vec((1..1u32 << 20, any::<u32>()), 1..40);
    let flags = any::<[bool; 4]>();
    (1..2000u64, proptest::collection::vec(0..2000u64, 0..6), flags, extents).prop_map(
        |(len_bytes, cuts, [backwards, fails, ends_apart, is_status], extents)| Script {
            len_bytes,
            cuts,
            backwards,
            fails,
            ends_apart,
            extents,
            is_status,
        },
    )
}

impl Script {
    fn command(&self, style: HeaderStyle, cookie: u64) -> Command {
        if self.is_status && style != HeaderStyle::Simple {
            Command::BlockStatus { range: range(cookie * 10_000, 100 << 20), only_one: false }
        } else {
            read(cookie * 10_000, self.len_bytes)
        }
    }

    /// The pieces of a read in the order in which they are answered, and whether each is a hole.
    fn pieces(&self, asked: ByteRange) -> Vec<(ByteRange, bool)> {
        let mut cuts: Vec<u64> =
            self.cuts.iter().map(|cut| asked.offset() + cut % asked.len_bytes()).collect();
        cuts.extend([asked.offset(), asked.end()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces: Vec<_> =
            cuts.windows(2).zip(0..).map(|(cut, i)| (range(cut[0], cut[1] - cut[0]), i % 2 == 1)).collect();
        if self.backwards {
            pieces.reverse();
        }
        pieces
    }

    /// The chunks of the answer, and what the client should see of each.
    fn chunks(&self, negotiated: &Negotiated, request: &Request) -> Vec<(Vec<u8>, Vec<Event>)> {
        let cookie = request.cookie;
        let reply = negotiated.reply(request);
        let mut chunks = Vec::new();
        let simple = negotiated.style == HeaderStyle::Simple;
        let closes = self.fails || self.ends_apart;
        let part = |is_last: bool| if is_last && !closes { Part::Last } else { Part::More };
        match request.command {
            Command::Read { range: asked, .. } if simple && !self.fails => {
                let mut out = Vec::new();
                reply.data(asked, Part::Last, &mut out);
                out.extend((asked.offset()..asked.end()).map(|at| at as u8));
                return vec![(out, vec![Event::Data { cookie, range: asked }, done(cookie)])];
            }
            Command::Read { range: asked, .. } if !simple => {
                let pieces = self.pieces(asked);
                for (i, (piece, is_hole)) in pieces.iter().enumerate() {
                    let mut out = Vec::new();
                    let part = part(i + 1 == pieces.len());
                    let range = *piece;
                    if *is_hole {
                        reply.hole(range, part, &mut out);
                        chunks.push((out, vec![Event::Hole { cookie, range }]));
                    } else {
                        reply.data(range, part, &mut out);
                        out.extend((range.offset()..range.end()).map(|at| at as u8));
                        chunks.push((out, vec![Event::Data { cookie, range }]));
                    }
                }
            }
            Command::BlockStatus { .. } => {
                let extents: Vec<Extent> = (self.extents.iter())
                    .map(|(len_bytes, flags)| Extent {
                        len_bytes: (*len_bytes).into(),
                        flags: (*flags).into(),
                    })
                    .collect();
                for (i, context) in negotiated.contexts.iter().enumerate() {
                    let mut out = Vec::new();
                    reply.block_status(
                        context.id,
                        &extents,
                        part(i + 1 == negotiated.contexts.len()),
                        &mut out,
                    );
                    let (context_id, extents) = (context.id, extents.clone());
                    chunks.push((out, vec![Event::BlockStatus { cookie, context_id, extents }]));
                }
            }
            // A failing read with simple replies: the error below is all there is.
            Command::Read { .. } => {}
            Command::Write { .. }
            | Command::Disconnect
            | Command::Flush
            | Command::Trim { .. }
            | Command::Cache { .. }
            | Command::WriteZeroes { .. } => unreachable!("scripts read and ask for block status"),
        }
        let mut out = Vec::new();
        if self.fails {
            reply.error(Errno::Io, "tired", &mut out);
            chunks.push((out, vec![failed(cookie, Errno::Io, if simple { "" } else { "tired" })]));
        } else if closes {
            reply.done(&mut out);
            chunks.push((out, vec![done(cookie)]));
        } else if let Some((_, events)) = chunks.last_mut() {
            events.push(done(cookie));
        }
        chunks
    }
}

/// A session with every script's request in flight, the server's bytes with the answers' chunks interleaved by `order`,
/// and the events that they are.
fn perform(style: HeaderStyle, scripts: &[Script], order: &[usize]) -> (Session, Vec<u8>, Vec<Event>) {
    let (mut session, negotiated) = ends(style);
    let mut answers = Vec::new();
    for (script, cookie) in scripts.iter().zip(1..) {
        let command = script.command(style, cookie);
        session.request(cookie, command, &mut Vec::new()).expect("it is offered");
        answers.push(script.chunks(&negotiated, &Request { cookie, command }).into_iter());
    }
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    let mut turns = order.iter().copied().cycle();
    while !answers.is_empty() {
        let turn = turns.next().unwrap_or(0) % answers.len();
        match answers[turn].next() {
            Some((chunk, seen)) => {
                bytes.extend(chunk);
                events.extend(seen);
            }
            None => drop(answers.remove(turn)),
        }
    }
    (session, bytes, events)
}

fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1..60usize, 1..8)
}

proptest! {
    #[test]
    fn what_a_client_asks_is_what_the_server_reads(style in any_style(), command in any_command()) {
        let (mut session, negotiated) = ends(style);
        let mut out = Vec::new();
        match session.request(5, command, &mut out) {
            Err(error) => {
                prop_assert_eq!(error, RequestError::NotOffered("block status"));
                prop_assert_eq!(style, HeaderStyle::Simple);
            }
            Ok(()) => {
                prop_assert_eq!(out.len(), negotiated.request_header_bytes());
                let Ok(Decoded::Request(request)) = negotiated.decode(&out) else {
                    return Err(TestCaseError::fail("a sound request was refused"));
                };
                let mut expected = command;
                if let (Command::Read { dont_fragment, .. }, HeaderStyle::Simple) = (&mut expected, style) {
                    *dont_fragment = false; // a simple reply is never fragmented
                }
                prop_assert_eq!(request, Request { cookie: 5, command: expected });
            }
        }
    }

    #[test]
    fn a_request_that_passes_the_door_is_sound(
        style in any_style(),
        flags in prop_oneof![Just(0u16), 0..64u16, any::<u16>()],
        kind in prop_oneof![0..9u16, any::<u16>()],
        offset in prop_oneof![0..SIZE_BYTES, any::<u64>()],
        len_bytes in prop_oneof![0..1u64 << 26, any::<u64>()],
    ) {
        let (_, negotiated) = ends(style);
        let mut bytes = header(flags, kind, offset, len_bytes as u32);
        if style == HeaderStyle::Extended {
            bytes[..4].copy_from_slice(&wire::EXTENDED_REQUEST_MAGIC.to_be_bytes());
            bytes.truncate(24);
            bytes.extend(len_bytes.to_be_bytes());
        }
        match negotiated.decode(&bytes) {
            Ok(Decoded::Request(request)) => {
                let inside = request.command.range().is_none_or(|range| range.end() <= SIZE_BYTES);
                prop_assert!(inside);
                prop_assert!(request.command.payload_bytes() <= PAYLOAD_BYTES_MAX.into());
            }
            Ok(Decoded::Refused(refused)) => {
                prop_assert!(refused.payload_bytes <= PAYLOAD_SKIP_BYTES_MAX);
                let mut out = Vec::new();
                negotiated.refuse(&refused, &mut out);
                prop_assert!(!out.is_empty());
            }
            Err(error) => {
                let too_long = matches!(error, ProtocolError::PayloadTooLong { .. });
                prop_assert!(too_long, "{}", error);
            }
        }
    }

    #[test]
    fn a_server_survives_any_header(style in any_style(), bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let (_, negotiated) = ends(style);
        prop_assert!(negotiated.decode(&bytes).is_err());
    }

    #[test]
    fn what_a_server_answers_is_what_the_client_sees_through_any_wire(
        style in any_style(),
        scripts in proptest::collection::vec(any_script(), 1..6),
        order in proptest::collection::vec(0..6usize, 1..20),
        sizes in any_sizes(),
    ) {
        let (mut session, bytes, expected) = perform(style, &scripts, &order);
        let (events, payload, error) = watch(&mut session, &bytes, &sizes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(&events, &expected);
        prop_assert_eq!(session.in_flight(), 0);
        let mut rest = &payload[..];
        for event in &events {
            if let Event::Data { range, .. } = event {
                let (data, after) = rest.split_at(range.len_bytes() as usize);
                prop_assert!(data.iter().zip(range.offset()..).all(|(byte, at)| *byte == at as u8));
                rest = after;
            }
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_client_survives_garbled_replies_and_sees_the_same_however_they_are_cut(
        style in any_style(),
        scripts in proptest::collection::vec(any_script(), 1..4),
        order in proptest::collection::vec(0..6usize, 1..20),
        garble in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut_off in any::<prop::sample::Index>(),
        sizes in any_sizes(),
    ) {
        let (session, mut bytes, _) = perform(style, &scripts, &order);
        for (at, byte) in &garble {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes.truncate(cut_off.index(bytes.len()) + 1);
        let whole = watch(&mut session.clone(), &bytes, &[]);
        let cut = watch(&mut session.clone(), &bytes, &sizes);
        prop_assert_eq!(&whole.0, &cut.0);
        prop_assert_eq!(&whole.2, &cut.2);
        let ends = whole.0.iter().filter(|event| matches!(event, Event::Done { .. })).count();
        prop_assert!(ends <= scripts.len());
    }

    #[test]
    fn a_client_survives_any_bytes(style in any_style(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut session, _) = ends(style);
        session.request(0, read(0, 100), &mut Vec::new()).unwrap();
        let _ = watch(&mut session, &bytes, &[]);
        let (mut session, _) = ends(HeaderStyle::Structured);
        session.request(0, read(0, 100), &mut Vec::new()).unwrap();
        let mut begun = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        begun.extend(&bytes);
        let _ = watch(&mut session, &begun, &[]);
    }
}
