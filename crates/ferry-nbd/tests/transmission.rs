//! Transmission: what passes each door, and that neither end believes a liar.

mod common;

use common::{SIZE_BYTES, done, ends, ends_of, failed, header, range, read, volume, watch};
use ferry_nbd::client::{Event, RequestError};
use ferry_nbd::limits::{
    EXTENTS_PER_REPLY_MAX, IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_SKIP_BYTES_MAX, READ_PIECES_MAX,
};
use ferry_nbd::server::{Decoded, Negotiated, Part, Request};
use ferry_nbd::{Command, Errno, Extent, HeaderStyle, ProtocolError, wire};

/// What the server says to one header, as errno and payload to skip.
fn refusal(negotiated: &Negotiated, header: &[u8]) -> Option<(Errno, u64)> {
    match negotiated.decode(header).expect("the header is whole") {
        Decoded::Request(_) => None,
        Decoded::Refused(refused) => {
            assert_eq!(refused.cookie, 7);
            Some((refused.errno, refused.payload_bytes))
        }
    }
}

// --- the server's door ---

#[test]
fn requests_that_must_not_be_done_are_refused_with_the_specs_errno() {
    let (_, writable) = ends(HeaderStyle::Structured);
    let end = SIZE_BYTES - 4;
    for (header, errno, payload_bytes) in [
        (header(0, wire::CMD_READ, 0, 0), Errno::Invalid, 0),
        (header(0, wire::CMD_READ, end, 8), Errno::Invalid, 0),
        (header(0, wire::CMD_READ, u64::MAX, 8), Errno::Invalid, 0),
        (header(0, wire::CMD_READ, 0, PAYLOAD_BYTES_MAX + 1), Errno::Invalid, 0),
        (header(wire::CMD_FLAG_DF, wire::CMD_READ, 0, PAYLOAD_BYTES_MAX + 1), Errno::Overflow, 0),
        (header(wire::CMD_FLAG_NO_HOLE, wire::CMD_READ, 0, 8), Errno::Invalid, 0),
        (header(0, wire::CMD_WRITE, end, 8), Errno::NoSpace, 8),
        (header(0, wire::CMD_WRITE, 0, PAYLOAD_BYTES_MAX + 1), Errno::Invalid, PAYLOAD_BYTES_MAX as u64 + 1),
        (header(wire::CMD_FLAG_PAYLOAD_LEN, wire::CMD_WRITE, 0, 8), Errno::Invalid, 8),
        (header(0, wire::CMD_WRITE_ZEROES, end, 8), Errno::NoSpace, 0),
        (header(0, wire::CMD_TRIM, end, 8), Errno::Invalid, 0),
        (header(0, wire::CMD_FLUSH, 8, 0), Errno::Invalid, 0),
        (header(0, wire::CMD_CACHE, end, 8), Errno::Invalid, 0),
        (header(1 << 15, wire::CMD_BLOCK_STATUS, 0, 8), Errno::Invalid, 0),
        (header(0, 8, 0, 8), Errno::Invalid, 0),
        (header(0, u16::MAX, 0, 8), Errno::Invalid, 0),
    ] {
        assert_eq!(refusal(&writable, &header), Some((errno, payload_bytes)), "{header:?}");
    }
    assert_eq!(refusal(&writable, &header(wire::CMD_FLAG_FUA, wire::CMD_READ, 0, 8)), None);
}

#[test]
fn an_export_gives_only_what_it_offers() {
    let mut export = volume();
    export.read_only = true;
    export.can_cache = false;
    export.can_flush = false;
    export.contexts.clear();
    let (_, negotiated) = ends_of(export, HeaderStyle::Structured);
    for (kind, errno) in [
        (wire::CMD_WRITE, Errno::NotPermitted),
        (wire::CMD_TRIM, Errno::NotPermitted),
        (wire::CMD_WRITE_ZEROES, Errno::NotPermitted),
        (wire::CMD_CACHE, Errno::Invalid),
        (wire::CMD_FLUSH, Errno::Invalid),
        (wire::CMD_BLOCK_STATUS, Errno::Invalid),
    ] {
        let payload_bytes = if kind == wire::CMD_WRITE { 8 } else { 0 };
        assert_eq!(refusal(&negotiated, &header(0, kind, 0, 8)), Some((errno, payload_bytes)), "{kind}");
    }
    let mut export = volume();
    export.block_sizes.minimum = 512;
    let (_, negotiated) = ends_of(export, HeaderStyle::Structured);
    assert_eq!(refusal(&negotiated, &header(0, wire::CMD_READ, 8, 512)), Some((Errno::Invalid, 0)));
    assert_eq!(refusal(&negotiated, &header(0, wire::CMD_READ, 512, 8)), Some((Errno::Invalid, 0)));
    assert_eq!(refusal(&negotiated, &header(0, wire::CMD_READ, 512, 512)), None);
}

#[test]
fn a_stream_that_lost_its_meaning_is_an_error() {
    let (_, negotiated) = ends(HeaderStyle::Structured);
    let too_long = header(0, wire::CMD_WRITE, 0, u32::MAX);
    let len_bytes = u32::MAX.into();
    assert_eq!(negotiated.decode(&too_long), Err(ProtocolError::PayloadTooLong { len_bytes }));
    assert!(len_bytes > PAYLOAD_SKIP_BYTES_MAX);
    let bad = ProtocolError::BadMagic { place: "a request", found: 0 };
    assert_eq!(negotiated.decode(&[0; 28]), Err(bad));
    let short = &header(0, wire::CMD_READ, 0, 8)[..27];
    assert_eq!(negotiated.decode(short), Err(ProtocolError::Malformed("a request's header")));
    assert!(negotiated.decode(&[]).is_err());
}

// --- the client's door ---

#[test]
fn a_client_does_not_send_what_the_server_did_not_offer() {
    let mut export = volume();
    export.read_only = true;
    export.block_sizes.minimum = 512;
    let (mut session, _) = ends_of(export, HeaderStyle::Simple);
    let mut out = Vec::new();
    let mut ask = |command| session.request(1, command, &mut out).unwrap_err();
    let block = range(0, 512);
    assert!(matches!(ask(Command::Write { range: block, fua: false }), RequestError::NotOffered(_)));
    assert!(matches!(ask(Command::Trim { range: block, fua: false }), RequestError::NotOffered(_)));
    assert!(matches!(
        ask(Command::BlockStatus { range: block, only_one: false }),
        RequestError::NotOffered("block status")
    ));
    assert!(matches!(ask(read(1, 512)), RequestError::Unaligned { minimum_bytes: 512 }));
    assert!(matches!(ask(read(SIZE_BYTES, 512)), RequestError::BeyondEnd { .. }));
    assert!(matches!(ask(read(0, 33 << 20)), RequestError::TooLong { .. }));
    let long = Command::Cache { range: range(0, 1 << 33) };
    assert!(matches!(ask(long), RequestError::TooLong { .. }));
    assert!(out.is_empty());
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn a_cookie_is_in_flight_once_and_flights_are_limited() {
    let (mut session, _) = ends(HeaderStyle::Structured);
    let mut out = Vec::new();
    session.request(1, Command::Flush, &mut out).unwrap();
    assert_eq!(session.request(1, Command::Flush, &mut out), Err(RequestError::CookieInUse(1)));
    for cookie in 2..=IN_FLIGHT_MAX as u64 {
        session.request(cookie, Command::Flush, &mut out).unwrap();
    }
    let full = session.request(0, Command::Flush, &mut out);
    assert_eq!(full, Err(RequestError::TooManyInFlight(IN_FLIGHT_MAX)));
    session.request(0, Command::Disconnect, &mut out).unwrap();
    assert_eq!(session.in_flight(), IN_FLIGHT_MAX);
}

#[test]
fn ranges_grow_to_what_the_server_accepts_and_stay_inside_the_export() {
    let mut sizes = volume().block_sizes;
    sizes.minimum = 4096;
    assert_eq!(sizes.align_out(range(4095, 2), 1 << 20), range(0, 8192));
    assert_eq!(sizes.align_out(range(4096, 4096), 1 << 20), range(4096, 4096));
    assert_eq!(sizes.align_out(range(8300, 100), 8500), range(8192, 308));
}

// --- liars ---

/// A session with one read in flight of 100 bytes at 1000, shown `reply` appended by `answer`.
fn lie(style: HeaderStyle, answer: impl Fn(&Negotiated, &Request, &mut Vec<u8>)) -> Option<ProtocolError> {
    let (mut session, negotiated) = ends(style);
    let command = read(1000, 100);
    session.request(9, command, &mut Vec::new()).expect("it is offered");
    let mut bytes = Vec::new();
    answer(&negotiated, &Request { cookie: 9, command }, &mut bytes);
    watch(&mut session, &bytes, &[]).2
}

#[test]
fn a_read_is_answered_wholly_and_once_or_the_server_is_not_believed() {
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let short = lie(style, |negotiated, request, out| {
            negotiated.reply(request).hole(range(1000, 99), Part::Last, out);
        });
        assert_eq!(short, Some(ProtocolError::ShortRead { asked_bytes: 100, answered_bytes: 99 }));
        let empty = lie(style, |negotiated, request, out| negotiated.reply(request).done(out));
        assert_eq!(empty, Some(ProtocolError::ShortRead { asked_bytes: 100, answered_bytes: 0 }));
        let twice = lie(style, |negotiated, request, out| {
            negotiated.reply(request).hole(range(1010, 20), Part::More, out);
            negotiated.reply(request).hole(range(1000, 11), Part::More, out);
        });
        assert_eq!(twice, Some(ProtocolError::ChunkOutside { offset: 1000, len_bytes: 11 }));
        let by_one_byte = lie(style, |negotiated, request, out| {
            negotiated.reply(request).hole(range(1000, 11), Part::More, out);
            negotiated.reply(request).hole(range(1010, 90), Part::Last, out);
        });
        assert_eq!(by_one_byte, Some(ProtocolError::ChunkOutside { offset: 1010, len_bytes: 90 }));
        for outside in [range(999, 2), range(1099, 2), range(0, 1), range(1100, 1)] {
            let (offset, len_bytes) = (outside.offset(), outside.len_bytes());
            let error = lie(style, |negotiated, request, out| {
                negotiated.reply(request).data(outside, Part::Last, out);
            });
            assert_eq!(error, Some(ProtocolError::ChunkOutside { offset, len_bytes }));
        }
    }
}

#[test]
fn a_read_in_too_many_scattered_pieces_is_not_taken() {
    let (mut session, negotiated) = ends(HeaderStyle::Structured);
    let command = read(0, PAYLOAD_BYTES_MAX.into());
    session.request(9, command, &mut Vec::new()).unwrap();
    let mut bytes = Vec::new();
    for piece in 0..=READ_PIECES_MAX as u64 {
        let reply = negotiated.reply(&Request { cookie: 9, command });
        reply.hole(range(2 * piece, 1), Part::More, &mut bytes);
    }
    let (events, _, error) = watch(&mut session, &bytes, &[]);
    assert_eq!(events.len(), READ_PIECES_MAX);
    assert_eq!(error, Some(ProtocolError::TooManyPieces(READ_PIECES_MAX)));
}

#[test]
fn a_block_status_with_more_extents_than_are_kept_answers_less_than_asked() {
    let (mut session, negotiated) = ends(HeaderStyle::Structured);
    let command = Command::BlockStatus { range: range(0, 1 << 20), only_one: false };
    session.request(1, command, &mut Vec::new()).unwrap();
    let extents = vec![Extent { len_bytes: 1, flags: 0 }; EXTENTS_PER_REPLY_MAX + 3];
    let mut bytes = Vec::new();
    negotiated.reply(&Request { cookie: 1, command }).block_status(1, &extents, Part::Last, &mut bytes);
    let (events, _, error) = watch(&mut session, &bytes, &[1000]);
    let extents = extents[..EXTENTS_PER_REPLY_MAX].to_vec();
    assert_eq!(events, [Event::BlockStatus { cookie: 1, context_id: 1, extents }, done(1)]);
    assert_eq!(error, None);
}

#[test]
fn an_extended_block_status_whose_count_is_wrong_is_malformed() {
    let error = |count: u8| {
        let (mut session, negotiated) = ends(HeaderStyle::Extended);
        let command = Command::BlockStatus { range: range(0, 100), only_one: false };
        session.request(1, command, &mut Vec::new()).unwrap();
        let mut bytes = Vec::new();
        let extents = [Extent { len_bytes: 100, flags: 0 }];
        negotiated.reply(&Request { cookie: 1, command }).block_status(1, &extents, Part::Last, &mut bytes);
        bytes[wire::EXTENDED_REPLY_BYTES + 7] = count;
        watch(&mut session, &bytes, &[]).2
    };
    assert_eq!(error(2), Some(ProtocolError::Malformed("a block status chunk")));
    assert_eq!(error(1), None);
    assert_eq!(error(0), None, "the spec lets the length speak");
}

#[test]
fn replies_of_another_style_or_to_nobody_are_not_believed() {
    let (_, simple) = ends(HeaderStyle::Simple);
    let (_, structured) = ends(HeaderStyle::Structured);
    let crossed = ProtocolError::UnexpectedReply("a reply of a style that was not negotiated");
    let error = lie(HeaderStyle::Simple, |_, request, out| structured.reply(request).done(out));
    assert_eq!(error, Some(crossed.clone()));
    let error = lie(HeaderStyle::Extended, |_, request, out| simple.reply(request).done(out));
    assert_eq!(error, Some(crossed));
    let error = lie(HeaderStyle::Structured, |_, request, out| simple.reply(request).done(out));
    assert!(matches!(error, Some(ProtocolError::UnexpectedReply(_))));
    let error = lie(HeaderStyle::Structured, |negotiated, request, out| {
        negotiated.reply(&Request { cookie: 10, ..*request }).done(out);
    });
    assert_eq!(error, Some(ProtocolError::UnknownCookie(10)));
    let error = lie(HeaderStyle::Structured, |negotiated, request, out| {
        negotiated.reply(request).block_status(1, &[Extent { len_bytes: 1, flags: 0 }], Part::Last, out);
    });
    assert_eq!(error, Some(ProtocolError::UnexpectedReply("a block status that was not asked")));
}

#[test]
fn a_simple_error_is_understood_after_structured_replies_were_agreed() {
    let (_, simple) = ends(HeaderStyle::Simple);
    let (mut session, _) = ends(HeaderStyle::Structured);
    let command = read(0, 10);
    session.request(1, command, &mut Vec::new()).unwrap();
    let mut bytes = Vec::new();
    simple.reply(&Request { cookie: 1, command }).error(Errno::Shutdown, "", &mut bytes);
    let (events, _, error) = watch(&mut session, &bytes, &[]);
    assert_eq!((events, error), (vec![failed(1, Errno::Shutdown, "")], None));
}

#[test]
fn extents_without_length_are_dropped_and_long_ones_cut() {
    let (mut session, negotiated) = ends(HeaderStyle::Structured);
    let command = Command::BlockStatus { range: range(0, 100), only_one: false };
    session.request(1, command, &mut Vec::new()).unwrap();
    let mut bytes = Vec::new();
    let reply = negotiated.reply(&Request { cookie: 1, command });
    let extent = |len_bytes, flags| Extent { len_bytes, flags };
    reply.block_status(
        1,
        &[extent(60, 3), extent(9, 0), extent(400, 3), extent(5, 1)],
        Part::More,
        &mut bytes,
    );
    let second_descriptor = 20 + 4 + 8;
    bytes[second_descriptor..second_descriptor + 4].fill(0);
    reply.block_status(77, &[extent(100, 3)], Part::Last, &mut bytes);
    let (events, _, error) = watch(&mut session, &bytes, &[5]);
    let extents = vec![extent(60, 3), extent(40, 3)];
    assert_eq!(events, [Event::BlockStatus { cookie: 1, context_id: 1, extents }, done(1)]);
    assert_eq!(error, None);
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn one_extent_is_kept_where_one_was_asked_and_a_context_answers_once() {
    let (mut session, negotiated) = ends(HeaderStyle::Extended);
    let command = Command::BlockStatus { range: range(0, SIZE_BYTES), only_one: true };
    session.request(1, command, &mut Vec::new()).unwrap();
    let mut bytes = Vec::new();
    let reply = negotiated.reply(&Request { cookie: 1, command });
    let extents = [Extent { len_bytes: 1 << 39, flags: 1 << 40 }, Extent { len_bytes: 4, flags: 0 }];
    reply.block_status(2, &extents, Part::More, &mut bytes);
    reply.block_status(2, &extents, Part::Last, &mut bytes);
    let (events, _, error) = watch(&mut session, &bytes, &[]);
    assert_eq!(events, [Event::BlockStatus { cookie: 1, context_id: 2, extents: extents[..1].to_vec() }]);
    assert_eq!(error, Some(ProtocolError::UnexpectedReply("a context's block status twice")));
}

#[test]
fn the_first_of_several_errors_counts_and_unknown_error_chunks_are_errors() {
    let (mut session, negotiated) = ends(HeaderStyle::Structured);
    let command = read(0, 10);
    session.request(1, command, &mut Vec::new()).unwrap();
    let mut bytes = Vec::new();
    let reply = negotiated.reply(&Request { cookie: 1, command });
    reply.error(Errno::Io, "the disk is tired", &mut bytes);
    bytes[5] = 0; // not the last
    bytes[7] = 99; // an error chunk from the future
    reply.hole(range(2, 3), Part::More, &mut bytes);
    reply.error(Errno::NoSpace, "", &mut bytes);
    let (events, _, error) = watch(&mut session, &bytes, &[3]);
    let hole = Event::Hole { cookie: 1, range: range(2, 3) };
    assert_eq!(events, [hole, failed(1, Errno::Io, "the disk is tired")]);
    assert_eq!(error, None);
}
