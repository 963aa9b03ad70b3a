//! The handshake: our client against our server whatever else they may agree on, and either against anything.

mod common;

use common::{Meddler, Shelf, Wire, option, option_reply, shake_hands, string};
use ferry_nbd::client::{self, HandshakeError, Wanted};
use ferry_nbd::limits::{
    HANDSHAKE_REPLY_BYTES_MAX, OPTION_BYTES_MAX, OPTION_REPLIES_MAX, OPTION_SKIP_BYTES_MAX, OPTIONS_MAX,
    STRING_BYTES_MAX,
};
use ferry_nbd::server::{self, CloseReason, Outcome, TlsPolicy};
use ferry_nbd::{
    BlockSizes, CONTEXT_ALLOCATION, CONTEXT_CRC32C, CONTEXT_HEAT, Context, ExportInfo, HeaderStyle,
    ProtocolError, wire,
};
use proptest::prelude::*;

fn wanted(export: &str, contexts: &[&str]) -> Wanted {
    let contexts = contexts.iter().map(|name| (*name).to_owned()).collect();
    Wanted { export: export.to_owned(), contexts, tls: false }
}

fn volume() -> ExportInfo {
    let mut export = ExportInfo::new("V@3", 8 << 30);
    export.contexts = vec![CONTEXT_ALLOCATION.to_owned(), CONTEXT_CRC32C.to_owned()];
    export
}

/// Feeds a server whatever a client might send, in pieces; gives all it answered and how it ended.
fn serve(bytes: &[u8], sizes: &[usize]) -> (Vec<u8>, Result<Option<Outcome>, ProtocolError>) {
    let shelf = Shelf(vec![volume(), ExportInfo::new("", 512)]);
    let (mut handshake, _) = server::Handshake::new(TlsPolicy::Off);
    let mut wire = Wire::new(sizes);
    let mut out = Vec::new();
    wire.send(bytes);
    while wire.deliver() {
        match handshake.advance(&wire.input, &shelf, &mut out) {
            Err(error) => return (out, Err(error)),
            Ok(advance) => {
                wire.input.drain(..advance.consumed);
                if advance.outcome != Outcome::NeedMore {
                    return (out, Ok(Some(advance.outcome)));
                }
            }
        }
    }
    (out, Ok(None))
}

/// The types of the option replies in `bytes`.
fn reply_types(mut bytes: &[u8]) -> Vec<u32> {
    let mut types = Vec::new();
    while bytes.len() >= 20 {
        types.push(u32::from_be_bytes(bytes[12..16].try_into().expect("four bytes")));
        let len = u32::from_be_bytes(bytes[16..20].try_into().expect("four bytes")) as usize;
        bytes = &bytes[20 + len..];
    }
    assert!(bytes.is_empty());
    types
}

const FIXED: [u8; 4] = [0, 0, 0, 3];

#[test]
fn the_best_that_both_ends_know_is_agreed() {
    let shelf = Shelf(vec![volume()]);
    let all = wanted("V@3", &[CONTEXT_CRC32C, "qemu:dirty", CONTEXT_ALLOCATION]);
    for (meddler, style) in [
        (Meddler::default(), HeaderStyle::Extended),
        (Meddler::only_structured(), HeaderStyle::Structured),
        (Meddler::only_simple(), HeaderStyle::Simple),
    ] {
        let (session, negotiated) =
            shake_hands(all.clone(), &shelf, &meddler, &[]).expect("the test asks for what there is");
        assert_eq!(session.style(), style);
        assert_eq!(negotiated.style, style);
        assert_eq!(session.contexts(), negotiated.contexts);
        let granted = if style == HeaderStyle::Simple { 0 } else { 2 };
        assert_eq!(session.contexts().len(), granted, "{style:?}");
    }
}

#[test]
fn an_export_that_is_not_to_be_had_is_refused_with_the_servers_words() {
    let shelf = Shelf(vec![volume()]);
    let refused = |name: &str, meddler: &Meddler| {
        shake_hands(wanted(name, &[CONTEXT_ALLOCATION]), &shelf, meddler, &[]).unwrap_err()
    };
    let error = refused("V@2", &Meddler::default());
    assert_eq!(error.to_string(), "the server has no export \"V@2\": there is no \"V@2\"");
    let error = refused("forbidden", &Meddler::default());
    assert!(error.to_string().ends_with(": it is sealed for you"), "{error}");
    assert_eq!(refused("leaving", &Meddler::default()), HandshakeError::ShuttingDown);
    let without_go = Meddler { unsupported: vec![wire::OPT_GO], hidden_flags: 0 };
    assert!(matches!(refused("V@2", &without_go), HandshakeError::ExportUnknown { .. }));
}

#[test]
fn names_that_the_protocol_cannot_carry_are_refused_before_anything_is_sent() {
    let long = "x".repeat(STRING_BYTES_MAX + 1);
    assert!(matches!(client::Handshake::new(wanted(&long, &[])), Err(HandshakeError::NameTooLong(_))));
    assert!(matches!(client::Handshake::new(wanted("", &[&long])), Err(HandshakeError::NameTooLong(_))));
    let many = vec!["a:b"; 65];
    assert!(matches!(client::Handshake::new(wanted("", &many)), Err(HandshakeError::TooManyContexts(64))));
}

#[test]
fn a_server_that_closes_is_reported_by_what_it_owed() {
    let handshake = client::Handshake::new(wanted("", &[])).unwrap();
    assert_eq!(handshake.closed(), HandshakeError::Closed { during: "its greeting" });
}

#[test]
fn oldstyle_and_strangers_are_told_apart() {
    let greet = |bytes: &[u8]| {
        let mut handshake = client::Handshake::new(wanted("", &[])).unwrap();
        handshake.advance(bytes, &mut Vec::new()).map(|advance| advance.consumed)
    };
    let oldstyle = [wire::MAGIC.to_be_bytes(), wire::OLDSTYLE_MAGIC.to_be_bytes()].concat();
    assert_eq!(greet(&oldstyle), Err(ProtocolError::OldStyle.into()));
    let found = u64::from_be_bytes(*b"SSH-2.0-");
    let error = greet(b"SSH-2.0-OpenSSH").unwrap_err();
    assert_eq!(error, ProtocolError::BadMagic { place: "the greeting", found }.into());
}

#[test]
fn a_server_that_insists_on_tls_is_left_politely() {
    let mut handshake = client::Handshake::new(wanted("", &[])).unwrap();
    let (_, greeting) = server::Handshake::new(TlsPolicy::Off);
    handshake.advance(&greeting, &mut Vec::new()).unwrap();
    let mut out = Vec::new();
    let reply = option_reply(wire::OPT_EXTENDED_HEADERS, wire::REP_ERR_TLS_REQD, b"");
    assert_eq!(handshake.advance(&reply, &mut out).unwrap_err(), HandshakeError::TlsRequired);
    assert_eq!(out, option(wire::OPT_ABORT, b""));
}

#[test]
fn every_option_gets_one_closing_reply_and_unknown_ones_are_unsupported() {
    let go_unknown = [string("nope"), vec![0, 0]].concat();
    let long = vec![0; OPTION_BYTES_MAX as usize + 1];
    for (asked, expected) in [
        (option(77, b"whatever"), vec![wire::REP_ERR_UNSUP]),
        (option(wire::OPT_STARTTLS, b""), vec![wire::REP_ERR_POLICY]),
        (option(wire::OPT_LIST, b""), vec![wire::REP_SERVER, wire::REP_SERVER, wire::REP_ACK]),
        (option(wire::OPT_LIST, b"x"), vec![wire::REP_ERR_INVALID]),
        (option(wire::OPT_GO, &go_unknown), vec![wire::REP_ERR_UNKNOWN]),
        (option(wire::OPT_INFO, b"\0\0"), vec![wire::REP_ERR_INVALID]),
        (option(wire::OPT_STRUCTURED_REPLY, b"x"), vec![wire::REP_ERR_INVALID]),
        (option(wire::OPT_SET_META_CONTEXT, b""), vec![wire::REP_ERR_INVALID]),
        (option(wire::OPT_INFO, &long), vec![wire::REP_ERR_TOO_BIG]),
    ] {
        let then_abort = option(wire::OPT_ABORT, b"");
        let (out, end) = serve(&[&FIXED, &asked[..], &then_abort].concat(), &[1000]);
        assert_eq!(end, Ok(Some(Outcome::Closed(CloseReason::Aborted))));
        assert_eq!(reply_types(&out), [expected, vec![wire::REP_ACK]].concat(), "{:?}", &asked[..16]);
    }
}

#[test]
fn structured_replies_after_extended_headers_are_refused_as_the_spec_wants() {
    let asked = [
        &FIXED[..],
        &option(wire::OPT_STRUCTURED_REPLY, b""),
        &option(wire::OPT_EXTENDED_HEADERS, b""),
        &option(wire::OPT_STRUCTURED_REPLY, b""),
    ];
    let (out, end) = serve(&asked.concat(), &[]);
    assert_eq!(end, Ok(None));
    assert_eq!(reply_types(&out), [wire::REP_ACK, wire::REP_ACK, wire::REP_ERR_EXT_HEADER_REQD]);
}

#[test]
fn a_namespace_lists_its_contexts_and_selects_none() {
    let ask = |kind: u32, queries: &[&str]| {
        let mut payload = string("V@3");
        payload.extend((queries.len() as u32).to_be_bytes());
        payload.extend(queries.iter().flat_map(|query| string(query)));
        let structured = option(wire::OPT_STRUCTURED_REPLY, b"");
        let (out, end) = serve(&[&FIXED[..], &structured, &option(kind, &payload)].concat(), &[]);
        assert_eq!(end, Ok(None));
        reply_types(&out).iter().filter(|reply| **reply == wire::REP_META_CONTEXT).count()
    };
    assert_eq!(ask(wire::OPT_LIST_META_CONTEXT, &[]), 2);
    assert_eq!(ask(wire::OPT_LIST_META_CONTEXT, &["base:"]), 1);
    assert_eq!(ask(wire::OPT_LIST_META_CONTEXT, &["base:", "ferry:", "ferry:crc32c"]), 2);
    assert_eq!(ask(wire::OPT_LIST_META_CONTEXT, &["", ":", "bas", "base", "qemu:"]), 0);
    assert_eq!(ask(wire::OPT_SET_META_CONTEXT, &["base:", "ferry:"]), 0);
    assert_eq!(ask(wire::OPT_SET_META_CONTEXT, &[]), 0);
    assert_eq!(ask(wire::OPT_SET_META_CONTEXT, &["ferry:crc32c", "ferry:crc32c"]), 1);
}

#[test]
fn contexts_chosen_for_another_export_do_not_count() {
    let set = [string("V@3"), vec![0, 0, 0, 1], string(CONTEXT_CRC32C)].concat();
    let ask = |export: &str| {
        let go = [string(export), vec![0, 0]].concat();
        let asked = [
            &FIXED[..],
            &option(wire::OPT_STRUCTURED_REPLY, b""),
            &option(wire::OPT_SET_META_CONTEXT, &set),
            &option(wire::OPT_GO, &go),
        ];
        match serve(&asked.concat(), &[]).1 {
            Ok(Some(Outcome::Ready(negotiated))) => negotiated.contexts,
            end => panic!("{end:?}"),
        }
    };
    assert_eq!(ask("V@3"), [Context { id: 2, name: CONTEXT_CRC32C.to_owned() }]);
    assert_eq!(ask(""), []);
}

#[test]
fn a_client_that_costs_too_much_is_dropped() {
    let too_long = [&FIXED[..], &wire::OPTION_MAGIC.to_be_bytes(), &[0, 0, 0, 7]].concat();
    let len_bytes = OPTION_SKIP_BYTES_MAX + 1;
    let end = serve(&[too_long, len_bytes.to_be_bytes().to_vec()].concat(), &[]).1;
    assert_eq!(end, Err(ProtocolError::OptionTooLong { option: 7, len_bytes }));
    let endless = option(77, b"").repeat(OPTIONS_MAX as usize + 1);
    let end = serve(&[&FIXED[..], &endless].concat(), &[]).1;
    assert_eq!(end, Err(ProtocolError::TooManyOptions(OPTIONS_MAX)));
    assert_eq!(serve(&[0, 0, 0, 4], &[]).1, Err(ProtocolError::UnknownClientFlags(4)));
    let end = serve(&[&[0, 0, 0, 0][..], &option(wire::OPT_LIST, b"")].concat(), &[]).1;
    assert_eq!(end, Err(ProtocolError::OptionBeforeFixedNewstyle(wire::OPT_LIST)));
}

#[test]
fn a_client_that_asks_for_long_lists_again_and_again_is_dropped() {
    let shelf = Shelf((0..100).map(|_| ExportInfo::new("x".repeat(STRING_BYTES_MAX), 512)).collect());
    let (mut handshake, _) = server::Handshake::new(TlsPolicy::Off);
    let mut out = Vec::new();
    let asked = [&FIXED[..], &option(wire::OPT_LIST, b"").repeat(100)].concat();
    let end = handshake.advance(&asked, &shelf, &mut out);
    assert_eq!(end, Err(ProtocolError::HandshakeTooLong(HANDSHAKE_REPLY_BYTES_MAX)));
    assert!(out.len() <= HANDSHAKE_REPLY_BYTES_MAX);
}

#[test]
fn a_server_that_answers_without_end_or_grants_twice_is_dropped() {
    let answer = |replies: &[Vec<u8>]| {
        let mut handshake = client::Handshake::new(wanted("", &["a:b", "a:c"])).unwrap();
        let (_, greeting) = server::Handshake::new(TlsPolicy::Off);
        let extended = option_reply(wire::OPT_EXTENDED_HEADERS, wire::REP_ACK, b"");
        handshake.advance(&[greeting, extended, replies.concat()].concat(), &mut Vec::new()).unwrap_err()
    };
    let grant = |id: u8, name: &str| {
        let payload = [&[0, 0, 0, id], name.as_bytes()].concat();
        option_reply(wire::OPT_SET_META_CONTEXT, wire::REP_META_CONTEXT, &payload)
    };
    let malformed = HandshakeError::from(ProtocolError::Malformed("a metadata context"));
    assert_eq!(answer(&[grant(1, "a:b"), grant(1, "a:c")]), malformed);
    assert_eq!(answer(&[grant(1, "a:b"), grant(2, "a:b")]), malformed);
    let endless = vec![grant(1, "x:y"); OPTION_REPLIES_MAX as usize + 1];
    assert_eq!(answer(&endless), ProtocolError::TooManyReplies(OPTION_REPLIES_MAX).into());
    let mut long = option_reply(wire::OPT_SET_META_CONTEXT, wire::REP_META_CONTEXT, b"");
    long[16..].fill(0xff);
    assert!(matches!(answer(&[long]), HandshakeError::Protocol(ProtocolError::TooLong { .. })));
}

#[test]
fn an_export_with_a_minimum_block_size_needs_a_client_that_asks_for_it() {
    let mut export = volume();
    export.block_sizes.minimum = 4096;
    let shelf = Shelf(vec![export]);
    let (session, _) = shake_hands(wanted("V@3", &[]), &shelf, &Meddler::default(), &[]).unwrap();
    assert_eq!(session.export().block_sizes.minimum, 4096);
    let (mut handshake, _) = server::Handshake::new(TlsPolicy::Off);
    let mut out = Vec::new();
    let go = option(wire::OPT_GO, &[string("V@3"), vec![0, 0]].concat());
    handshake.advance(&[&FIXED[..], &go].concat(), &shelf, &mut out).unwrap();
    assert_eq!(reply_types(&out), [wire::REP_ERR_BLOCK_SIZE_REQD]);
}

#[test]
fn a_servers_impossible_numbers_are_refused() {
    let told = |facts: &[Vec<u8>]| {
        let mut handshake = client::Handshake::new(wanted("", &[])).unwrap();
        let (_, greeting) = server::Handshake::new(TlsPolicy::Off);
        let mut bytes = greeting;
        bytes.extend(option_reply(wire::OPT_EXTENDED_HEADERS, wire::REP_ACK, b""));
        for fact in facts {
            bytes.extend(option_reply(wire::OPT_GO, wire::REP_INFO, fact));
        }
        bytes.extend(option_reply(wire::OPT_GO, wire::REP_ACK, b""));
        handshake.advance(&bytes, &mut Vec::new()).map(|advance| match advance.outcome {
            client::Outcome::Ready(session) => session.export().block_sizes,
            client::Outcome::NeedMore | client::Outcome::StartTls => panic!("it has all it needs"),
        })
    };
    let export = |size: u64| [&[0, 0][..], &size.to_be_bytes(), &[0, 1]].concat();
    let sizes = |sizes: [u32; 3]| {
        [&[0, 3][..], &sizes.iter().flat_map(|size| size.to_be_bytes()).collect::<Vec<_>>()].concat()
    };
    assert_eq!(told(&[]), Err(ProtocolError::NoExportInfo.into()));
    assert_eq!(told(&[export(512)]), Ok(BlockSizes::default()));
    assert!(told(&[export(1 << 63)]).is_err());
    assert!(told(&[export(512), sizes([3, 4096, 1 << 20])]).is_err());
    assert!(told(&[export(512), sizes([0, 4096, 1 << 20])]).is_err());
    assert!(told(&[export(512), sizes([1 << 17, 1 << 17, 1 << 20])]).is_err());
    assert!(told(&[export(512), sizes([4096, 4096, 512])]).is_err());
    let mended = told(&[export(512), sizes([512, 0, u32::MAX])]);
    assert_eq!(mended, Ok(BlockSizes { minimum: 512, preferred: 4096, maximum: 32 << 20 }));
}

fn any_export() -> impl Strategy<Value = ExportInfo> {
    let flags = proptest::array::uniform8(any::<bool>());
    ("[a-zA-Z0-9@/é ]{0,40}", 0..=i64::MAX as u64, flags, 0..=16u32, any::<u8>()).prop_map(
        |(name, size_bytes, flags, minimum, contexts)| {
            let mut export = ExportInfo::new(name, size_bytes);
            [
                export.read_only,
                export.can_flush,
                export.can_fua,
                export.can_trim,
                export.can_write_zeroes,
                export.can_fast_zero,
                export.can_cache,
                export.can_multi_conn,
            ] = flags;
            export.block_sizes =
                BlockSizes { minimum: 1 << minimum, preferred: 1 << minimum.max(12), maximum: 1 << 20 };
            export.contexts = [CONTEXT_ALLOCATION, CONTEXT_CRC32C, CONTEXT_HEAT]
                .iter()
                .zip(0..)
                .filter(|(_, bit)| contexts >> bit & 1 == 1)
                .map(|(name, _)| (*name).to_owned())
                .collect();
            export
        },
    )
}

fn any_meddler() -> impl Strategy<Value = Meddler> {
    let options = vec![
        wire::OPT_EXTENDED_HEADERS,
        wire::OPT_STRUCTURED_REPLY,
        wire::OPT_SET_META_CONTEXT,
        wire::OPT_GO,
    ];
    (proptest::sample::subsequence(options, 0..=4), 0..4u16)
        .prop_map(|(unsupported, hidden_flags)| Meddler { unsupported, hidden_flags })
}

/// What a client might send: mostly options with sensible contents, cut or garbled here and there.
fn any_client_bytes() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just("V@3"), Just(""), Just("nope"), Just("forbidden")];
    let query = prop_oneof![Just("base:allocation"), Just("ferry:"), Just("base:"), Just("x")];
    let info = (name.clone(), proptest::collection::vec(0..5u16, 0..4)).prop_map(|(name, facts)| {
        let mut payload = string(name);
        payload.extend((facts.len() as u16).to_be_bytes());
        payload.extend(facts.iter().flat_map(|fact| fact.to_be_bytes()));
        payload
    });
    let meta = (name, proptest::collection::vec(query, 0..4)).prop_map(|(name, queries)| {
        let mut payload = string(name);
        payload.extend((queries.len() as u32).to_be_bytes());
        payload.extend(queries.iter().flat_map(|query| string(query)));
        payload
    });
    let payload = prop_oneof![Just(Vec::new()), info, meta, proptest::collection::vec(any::<u8>(), 0..60)];
    let one = (prop_oneof![9 => 0..13u32, 1 => any::<u32>()], payload)
        .prop_map(|(number, payload)| option(number, &payload));
    let garbled = prop_oneof![
        9 => one,
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let flags = prop_oneof![9 => Just(FIXED.to_vec()), 1 => proptest::collection::vec(any::<u8>(), 4)];
    (flags, proptest::collection::vec(garbled, 0..12)).prop_map(|(flags, all)| [flags, all.concat()].concat())
}

fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1..40usize, 1..8)
}

proptest! {
    #[test]
    fn both_ends_agree_on_every_export_through_any_wire(
        export in any_export(),
        asked in proptest::sample::subsequence(vec![CONTEXT_CRC32C, "no:such", CONTEXT_ALLOCATION], 0..=3),
        meddler in any_meddler(),
        sizes in any_sizes(),
    ) {
        let shelf = Shelf(vec![export.clone()]);
        let by_name_only = meddler.hidden_flags & wire::FLAG_FIXED_NEWSTYLE != 0
            || meddler.unsupported.contains(&wire::OPT_GO);
        let ends = shake_hands(wanted(&export.name, &asked), &shelf, &meddler, &sizes);
        if by_name_only && export.block_sizes.minimum > 1 {
            let unknown = matches!(ends, Err(HandshakeError::ExportUnknown { .. }));
            prop_assert!(unknown, "such a client must not get it");
            return Ok(());
        }
        let (session, negotiated) = ends.unwrap();
        prop_assert_eq!(session.style(), negotiated.style);
        prop_assert_eq!(session.contexts(), &negotiated.contexts);
        let mut expected = export.clone();
        expected.can_trim &= !export.read_only;
        expected.can_write_zeroes &= !export.read_only;
        expected.can_fast_zero &= expected.can_write_zeroes;
        if by_name_only {
            expected.block_sizes = BlockSizes::default();
        }
        let no_contexts = negotiated.style == HeaderStyle::Simple
            || meddler.unsupported.contains(&wire::OPT_SET_META_CONTEXT);
        expected.contexts.retain(|name| asked.contains(&name.as_str()) && !no_contexts);
        prop_assert_eq!(session.export(), &expected);
        prop_assert_eq!(negotiated.export, export);
    }

    #[test]
    fn a_server_answers_the_same_however_the_bytes_are_cut(
        bytes in any_client_bytes(),
        sizes in any_sizes(),
    ) {
        prop_assert_eq!(serve(&bytes, &[]), serve(&bytes, &sizes));
    }

    #[test]
    fn a_server_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = serve(&bytes, &[]);
        let _ = serve(&[&FIXED[..], &wire::OPTION_MAGIC.to_be_bytes(), &bytes].concat(), &[7]);
    }

    #[test]
    fn a_client_survives_any_server_and_does_the_same_however_the_bytes_are_cut(
        replies in proptest::collection::vec(
            (0..12u32, prop_oneof![0..5u32, (1..11u32).prop_map(|error| wire::REP_FLAG_ERROR | error)],
             proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..30)),
            0..10,
        ),
        lead in 0..6usize,
        sizes in any_sizes(),
    ) {
        let run = |sizes: &[usize]| {
            let mut client = client::Handshake::new(wanted("V@3", &[CONTEXT_ALLOCATION])).unwrap();
            let (_, greeting) = server::Handshake::new(TlsPolicy::Off);
            let mut wire = Wire::new(sizes);
            wire.send(&greeting);
            // The first replies fit the client's questions, so that the later ones are reached.
            for option in [11, 10, 7].iter().take(lead.saturating_sub(2)) {
                wire.send(&option_reply(*option, wire::REP_ACK, b""));
            }
            for (option, kind, payload) in &replies {
                wire.send(&option_reply(*option, *kind, payload));
            }
            let mut out = Vec::new();
            while wire.deliver() {
                match client.advance(&wire.input, &mut out) {
                    Err(error) => return (out, Some(error)),
                    Ok(advance) => {
                        wire.input.drain(..advance.consumed);
                        if matches!(advance.outcome, client::Outcome::Ready(_)) {
                            return (out, None);
                        }
                    }
                }
            }
            (out, Some(client.closed()))
        };
        prop_assert_eq!(run(&[]), run(&sizes));
    }
}

#[test]
fn nothing_is_told_to_an_unsecured_client_of_a_server_that_wants_tls() {
    let shelf = Shelf(vec![volume()]);
    let go = [string("V@3"), vec![0, 0]].concat();
    let contexts = [string("V@3"), vec![0, 0, 0, 0]].concat();
    let (mut handshake, _) = server::Handshake::new(TlsPolicy::Required);
    let mut input = FIXED.to_vec();
    for (kind, payload) in [
        (wire::OPT_LIST, &[][..]),
        (wire::OPT_GO, &go),
        (wire::OPT_INFO, &go),
        (wire::OPT_EXTENDED_HEADERS, &[]),
        (wire::OPT_LIST_META_CONTEXT, &contexts),
        (77, &[]),
    ] {
        input.extend(option(kind, payload));
    }
    let mut out = Vec::new();
    let advance = handshake.advance(&input, &shelf, &mut out).unwrap();
    assert_eq!((advance.consumed, advance.outcome), (input.len(), Outcome::NeedMore));
    assert_eq!(reply_types(&out), [wire::REP_ERR_TLS_REQD; 6]);
    assert!(!out.windows(3).any(|bytes| bytes == b"V@3"), "no name is told");
    let name = option(wire::OPT_EXPORT_NAME, b"V@3");
    let advance = handshake.advance(&name, &shelf, &mut out).unwrap();
    assert_eq!(advance.outcome, Outcome::Closed(CloseReason::Unsecured));
}

#[test]
fn bytes_behind_starttls_are_left_for_tls_and_never_taken_for_options() {
    let (mut handshake, _) = server::Handshake::new(TlsPolicy::Required);
    let begin = [&FIXED[..], &option(wire::OPT_STARTTLS, b"")].concat();
    let input = [begin.clone(), option(wire::OPT_LIST, b"")].concat();
    let mut out = Vec::new();
    let advance = handshake.advance(&input, &Shelf(vec![volume()]), &mut out).unwrap();
    assert_eq!((advance.consumed, advance.outcome), (begin.len(), Outcome::StartTls));
    assert_eq!(reply_types(&out), [wire::REP_ACK]);
    // Secured once is secured.
    out.clear();
    let again = option(wire::OPT_STARTTLS, b"");
    handshake.advance(&again, &Shelf(vec![volume()]), &mut out).unwrap();
    assert_eq!(reply_types(&out), [wire::REP_ERR_INVALID]);
}

#[test]
fn a_client_that_wants_tls_names_no_export_without_it() {
    let wanted = Wanted { tls: true, ..wanted("V@3", &[]) };
    let shelf = Shelf(vec![volume()]);
    shake_hands(wanted.clone(), &shelf, &Meddler::default(), &[]).expect("both want TLS");
    let unsupported = Meddler { unsupported: vec![wire::OPT_STARTTLS], hidden_flags: 0 };
    let error = shake_hands(wanted.clone(), &shelf, &unsupported, &[]).unwrap_err();
    assert!(matches!(error, HandshakeError::TlsRefused { .. }), "{error}");
    let ancient = Meddler { unsupported: Vec::new(), hidden_flags: wire::FLAG_FIXED_NEWSTYLE };
    let error = shake_hands(wanted, &shelf, &ancient, &[]).unwrap_err();
    assert!(matches!(error, HandshakeError::TlsRefused { .. }), "{error}");
}
