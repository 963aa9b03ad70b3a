//! Valid conversations, recorded: what our client sends to a server, and our server to a client.

use crate::nbd::{client, server};
use ferry_nbd::client::{Handshake, Outcome, Session, Wanted};
use ferry_nbd::server::{Negotiated, Part, Reply, Request};
use ferry_nbd::{
    ByteRange, CONTEXT_ALLOCATION, CONTEXT_CRC32C, Command, Context, Errno, ExportInfo, Extent, HeaderStyle,
    wire,
};

const STYLES: [(&str, HeaderStyle, u8); 3] = [
    ("simple", HeaderStyle::Simple, client::SIMPLE),
    ("structured", HeaderStyle::Structured, client::STRUCTURED),
    ("extended", HeaderStyle::Extended, client::EXTENDED),
];

fn range(offset: u64, len_bytes: u64) -> ByteRange {
    ByteRange::new(offset, len_bytes).unwrap()
}

fn option(option: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// What a client sends, each as an input of the server's body.
pub fn server() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds: Vec<_> =
        STYLES.iter().map(|&(name, style, _)| (name, [&[12, 7][..], &spoken(style)].concat())).collect();
    let mut options = vec![server::CONTEXTS | server::ABLE, 1, 0, 0, 0, 3];
    options.extend(option(wire::OPT_LIST, &[]));
    options.extend(option(wire::OPT_STARTTLS, &[]));
    options.extend(option(wire::OPT_STRUCTURED_REPLY, &[]));
    let query = [string("V"), vec![0, 0, 0, 1], string("base:")].concat();
    options.extend(option(wire::OPT_LIST_META_CONTEXT, &query));
    options.extend(option(wire::OPT_INFO, &[string("P"), vec![0, 2, 0, 1, 0, 2]].concat()));
    options.extend(option(wire::OPT_INFO, &[string("V"), vec![0, 3, 0, 1, 0, 2, 0, 3]].concat()));
    options.extend(option(wire::OPT_ABORT, &[]));
    seeds.push(("options", options));
    let mut plain = vec![server::READ_ONLY, 3, 0, 0, 0, 0];
    plain.extend(option(wire::OPT_EXPORT_NAME, b"V"));
    seeds.push(("export_name", plain));
    let mut secured = vec![server::CONTEXTS | server::ABLE | server::TLS, 5, 0, 0, 0, 3];
    secured.extend(option(wire::OPT_LIST, &[]));
    secured.extend(option(wire::OPT_STARTTLS, &[]));
    secured.extend(option(wire::OPT_EXPORT_NAME, b"V"));
    seeds.push(("secured", secured));
    seeds
}

/// The options and requests of our own client in this style.
fn spoken(style: HeaderStyle) -> Vec<u8> {
    let contexts = vec![CONTEXT_ALLOCATION.to_owned(), CONTEXT_CRC32C.to_owned()];
    let mut handshake = Handshake::new(Wanted { export: "V".to_owned(), contexts, tls: false }).unwrap();
    let answers = client::honest_handshake(STYLES.iter().find(|row| row.1 == style).unwrap().2, false);
    let mut spoken = Vec::new();
    let Outcome::Ready(mut session) = handshake.advance(&answers, &mut spoken).unwrap().outcome else {
        panic!("an honest handshake ends");
    };
    // The server of the body offers extended headers, so a client that does without must not have asked.
    let unasked = match style {
        HeaderStyle::Simple => 2 * wire::OPTION_HEADER_BYTES,
        HeaderStyle::Structured => wire::OPTION_HEADER_BYTES,
        HeaderStyle::Extended => 0,
    };
    spoken.drain(wire::CLIENT_FLAGS_BYTES..wire::CLIENT_FLAGS_BYTES + unasked);
    requests(&mut session, &mut spoken);
    spoken
}

fn requests(session: &mut Session, spoken: &mut Vec<u8>) {
    let mut commands = vec![
        Command::Read { range: range(4096, 8192), dont_fragment: false },
        Command::Write { range: range(512, 16), fua: true },
        Command::Flush,
        Command::Trim { range: range(0, 1 << 20), fua: false },
        Command::Cache { range: range(1 << 30, 4096) },
        Command::WriteZeroes { range: range(4096, 4096), fua: false, no_hole: true, fast: true },
    ];
    if session.style() != HeaderStyle::Simple {
        commands.push(Command::BlockStatus { range: range(0, 1 << 30), only_one: false });
    }
    commands.push(Command::Disconnect);
    for (cookie, command) in (0..).zip(commands) {
        session.request(cookie, command, spoken).unwrap();
        spoken.resize(spoken.len() + command.payload_bytes() as usize, 0xab);
    }
}

/// What a server sends, each as an input of the client's body.
pub fn client() -> Vec<(&'static str, Vec<u8>)> {
    // Read 32 bytes at 16, flush, and ask for the extents of 4096 bytes.
    let asked: [[u8; client::REQUEST_BYTES]; 3] =
        [[0, 0, 1, 16, 0, 32], [2, 0, 2, 0, 0, 1], [6, 0, 3, 0, 12, 1]];
    let head = |how: u8| [&[how, 5, 3][..], asked.as_flattened()].concat();
    let mut seeds: Vec<_> =
        STYLES.iter().map(|&(name, style, how)| (name, [head(how), replies(style)].concat())).collect();
    let foreign =
        [client::honest_handshake(client::STRUCTURED, false), replies(HeaderStyle::Structured)].concat();
    seeds.push(("handshake", [head(client::FOREIGN), foreign].concat()));
    let mut plain = [wire::MAGIC.to_be_bytes(), wire::OPTION_MAGIC.to_be_bytes()].concat();
    plain.extend(0_u16.to_be_bytes());
    plain.extend((1_u64 << 20).to_be_bytes());
    plain.extend(wire::FLAG_HAS_FLAGS.to_be_bytes());
    plain.resize(plain.len() + wire::EXPORT_NAME_ZEROES_BYTES, 0);
    seeds.push(("export_name", [head(client::FOREIGN), plain, replies(HeaderStyle::Simple)].concat()));
    let mut refused = client::honest_handshake(client::SIMPLE, false)[..wire::GREETING_BYTES].to_vec();
    refused.extend(client::option_reply(wire::OPT_EXTENDED_HEADERS, wire::REP_ERR_TLS_REQD, b"TLS"));
    seeds.push(("tls", [head(client::FOREIGN), refused].concat()));
    seeds.push(("secured", [head(client::EXTENDED | client::TLS), replies(HeaderStyle::Extended)].concat()));
    seeds
}

fn replies(style: HeaderStyle) -> Vec<u8> {
    let contexts = vec![Context { id: 1, name: CONTEXT_ALLOCATION.to_owned() }];
    let negotiated = Negotiated { export: ExportInfo::new("V", 1 << 40), style, contexts };
    let pen = |cookie: u64, command: Command| -> Reply { negotiated.reply(&Request { cookie, command }) };
    let read = pen(1, Command::Read { range: range(16, 32), dont_fragment: false });
    let status = pen(3, Command::BlockStatus { range: range(0, 4096), only_one: false });
    let mut sent = Vec::new();
    if style == HeaderStyle::Simple {
        pen(2, Command::Flush).error(Errno::Io, "", &mut sent);
        read.data(range(16, 32), Part::Last, &mut sent);
        sent.extend([0xcd; 32]);
        return sent;
    }
    read.hole(range(32, 16), Part::More, &mut sent);
    pen(2, Command::Flush).error(Errno::Io, "the disk is gone", &mut sent);
    let extents = [Extent { len_bytes: 1024, flags: 0 }, Extent { len_bytes: 8192, flags: 3 }];
    status.block_status(1, &extents, Part::More, &mut sent);
    read.data(range(16, 16), Part::Last, &mut sent);
    sent.extend([0xcd; 16]);
    status.done(&mut sent);
    sent
}
