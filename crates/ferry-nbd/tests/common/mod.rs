//! What the tests share: a shelf of exports, a wire that cuts bytes anywhere, and a handshake between both ends.
#![allow(dead_code, reason = "each test file uses a part of it")]

use ferry_nbd::client::{self, Event, Failure, HandshakeError, Session, Wanted};
use ferry_nbd::server::{self, Negotiated, TlsPolicy};
use ferry_nbd::{
    ByteRange, CONTEXT_ALLOCATION, CONTEXT_CRC32C, Command, Errno, ExportInfo, ExportRefusal, Exports,
    HeaderStyle, ProtocolError, wire,
};

pub struct Shelf(pub Vec<ExportInfo>);

impl Exports for Shelf {
    fn list(&self) -> Vec<String> {
        self.0.iter().map(|export| export.name.clone()).collect()
    }

    fn find(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        match name {
            "forbidden" => Err(ExportRefusal::Policy("it is sealed for you".to_owned())),
            "leaving" => Err(ExportRefusal::ShuttingDown("bye".to_owned())),
            _ => {
                let found = self.0.iter().find(|export| export.name == name);
                found.cloned().ok_or_else(|| ExportRefusal::Unknown(format!("there is no {name:?}")))
            }
        }
    }
}

/// Bytes under way, delivered in pieces of the given sizes, again and again.
pub struct Wire {
    sizes: Vec<usize>,
    turn: usize,
    sent: Vec<u8>,
    /// Delivered and not consumed.
    pub input: Vec<u8>,
}

impl Wire {
    pub fn new(sizes: &[usize]) -> Wire {
        let sizes = if sizes.is_empty() { vec![usize::MAX] } else { sizes.to_vec() };
        Wire { sizes, turn: 0, sent: Vec::new(), input: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
    }

    /// Delivers the next piece; false if nothing is under way.
    pub fn deliver(&mut self) -> bool {
        if self.sent.is_empty() {
            return false;
        }
        let size = self.sizes[self.turn % self.sizes.len()].clamp(1, self.sent.len());
        self.turn += 1;
        self.input.extend(self.sent.drain(..size));
        true
    }
}

/// What stands between the two ends and keeps them from agreeing on everything.
#[derive(Clone, Debug, Default)]
pub struct Meddler {
    /// Options that the client is told to be unsupported; the server never sees them.
    pub unsupported: Vec<u32>,
    /// Handshake flags that the server's greeting loses.
    pub hidden_flags: u16,
}

impl Meddler {
    pub fn only_structured() -> Meddler {
        Meddler { unsupported: vec![wire::OPT_EXTENDED_HEADERS], hidden_flags: 0 }
    }

    pub fn only_simple() -> Meddler {
        let unsupported = vec![wire::OPT_EXTENDED_HEADERS, wire::OPT_STRUCTURED_REPLY];
        Meddler { unsupported, hidden_flags: 0 }
    }
}

/// Runs a handshake between both ends over wires that cut bytes into pieces of `sizes`.
pub fn shake_hands(
    wanted: Wanted,
    exports: &Shelf,
    meddler: &Meddler,
    sizes: &[usize],
) -> Result<(Session, Negotiated), HandshakeError> {
    let (mut to_client, mut to_server) = (Wire::new(sizes), Wire::new(sizes));
    let (mut server, mut greeting) =
        server::Handshake::new(if wanted.tls { TlsPolicy::Required } else { TlsPolicy::Off });
    let flags = u16::from_be_bytes([greeting[16], greeting[17]]) & !meddler.hidden_flags;
    greeting[16..].copy_from_slice(&flags.to_be_bytes());
    to_client.send(&greeting);
    let mut client = client::Handshake::new(wanted)?;
    let (mut session, mut negotiated) = (None, None);
    loop {
        let mut moved = to_client.deliver();
        if session.is_none() {
            let mut out = Vec::new();
            let advance = client.advance(&to_client.input, &mut out)?;
            to_client.input.drain(..advance.consumed);
            match advance.outcome {
                // The wire is what TLS carries from here on; the client speaks first.
                client::Outcome::StartTls => moved = true,
                client::Outcome::Ready(ready) => session = Some(*ready),
                client::Outcome::NeedMore => {}
            }
            match split_option(&out) {
                (flags, Some(option)) if meddler.unsupported.contains(&option) => {
                    to_server.send(flags);
                    to_client.send(&unsupported(option));
                }
                _ => to_server.send(&out),
            }
        }
        moved |= to_server.deliver();
        if negotiated.is_none() {
            let mut out = Vec::new();
            let advance =
                server.advance(&to_server.input, exports, &mut out).expect("the client is well-behaved");
            to_server.input.drain(..advance.consumed);
            to_client.send(&out);
            match advance.outcome {
                server::Outcome::NeedMore | server::Outcome::StartTls => {}
                server::Outcome::Ready(ready) => negotiated = Some(*ready),
                server::Outcome::Closed(_) => return Err(client.closed()),
            }
        }
        if let (Some(session), Some(negotiated)) = (&session, &negotiated) {
            assert!(to_client.input.is_empty() && to_server.input.is_empty());
            return Ok((session.clone(), negotiated.clone()));
        }
        assert!(moved || !to_client.sent.is_empty() || !to_server.sent.is_empty(), "both ends wait");
    }
}

/// The client asks one option at a time, so whatever it appended holds at most one. The first option follows its
/// flags, which must reach the server in any case.
fn split_option(out: &[u8]) -> (&[u8], Option<u32>) {
    let magic = wire::OPTION_MAGIC.to_be_bytes();
    for at in [0, wire::CLIENT_FLAGS_BYTES] {
        if out.get(at..at + 8) == Some(&magic[..]) {
            let option = u32::from_be_bytes(out[at + 8..at + 12].try_into().expect("four bytes"));
            return (&out[..at], Some(option));
        }
    }
    (out, None)
}

fn unsupported(option: u32) -> Vec<u8> {
    option_reply(option, wire::REP_ERR_UNSUP, b"no")
}

pub fn option_reply(option: u32, reply: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(reply.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn option(option: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub const SIZE_BYTES: u64 = 1 << 40;

pub fn volume() -> ExportInfo {
    let mut export = ExportInfo::new("V", SIZE_BYTES);
    export.can_fast_zero = true;
    export.contexts = vec![CONTEXT_ALLOCATION.to_owned(), CONTEXT_CRC32C.to_owned()];
    export
}

pub fn ends_of(export: ExportInfo, style: HeaderStyle) -> (Session, Negotiated) {
    let wanted = Wanted { export: export.name.clone(), contexts: export.contexts.clone(), tls: false };
    let meddler = match style {
        HeaderStyle::Simple => Meddler::only_simple(),
        HeaderStyle::Structured => Meddler::only_structured(),
        HeaderStyle::Extended => Meddler::default(),
    };
    shake_hands(wanted, &Shelf(vec![export]), &meddler, &[]).expect("the test asks for what there is")
}

pub fn ends(style: HeaderStyle) -> (Session, Negotiated) {
    ends_of(volume(), style)
}

pub fn range(offset: u64, len_bytes: u64) -> ByteRange {
    ByteRange::new(offset, len_bytes).expect("the test asks for bytes")
}

pub fn read(offset: u64, len_bytes: u64) -> Command {
    Command::Read { range: range(offset, len_bytes), dont_fragment: false }
}

/// Shows a session all bytes of a server through a wire that cuts anywhere; gives the events, the payloads joined,
/// and how it went wrong.
pub fn watch(
    session: &mut Session,
    bytes: &[u8],
    sizes: &[usize],
) -> (Vec<Event>, Vec<u8>, Option<ProtocolError>) {
    let mut wire = Wire::new(sizes);
    let (mut events, mut payload) = (Vec::new(), Vec::new());
    wire.send(bytes);
    loop {
        let progress = match session.advance(&wire.input) {
            Err(error) => return (events, payload, Some(error)),
            Ok(progress) => progress,
        };
        wire.input.drain(..progress.consumed);
        let payload_bytes = match progress.event {
            Some(Event::Data { range, .. }) => range.len_bytes() as usize,
            Some(_) => 0,
            None if wire.deliver() => continue,
            None => return (events, payload, None),
        };
        events.extend(progress.event);
        while payload_bytes > wire.input.len() {
            if !wire.deliver() {
                return (events, payload, None);
            }
        }
        payload.extend(wire.input.drain(..payload_bytes));
    }
}

pub fn done(cookie: u64) -> Event {
    Event::Done { cookie, result: Ok(()) }
}

pub fn failed(cookie: u64, errno: Errno, message: &str) -> Event {
    Event::Done { cookie, result: Err(Failure { errno, message: message.to_owned() }) }
}

pub fn header(flags: u16, kind: u16, offset: u64, len_bytes: u32) -> Vec<u8> {
    let mut bytes = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(7u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len_bytes.to_be_bytes());
    bytes
}
