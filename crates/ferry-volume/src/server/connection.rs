//! One NBD connection, of the guest or of another worker: from bytes to requests, from results to replies.
//!
//! ```text
//!  Shaking ──Ready──▶ Serving ──Disconnect, error, end──▶ Closing (answers what is under way) ──▶ gone
//! ```

use super::Purpose;
use super::doors::Offer;
use super::stream::{Peer, Received, Stream};
use crate::buffer::{BUFFER_BYTES_MAX, Buffer, Pool};
use crate::ring::{Descriptor, Ring};
use crate::tls::{Credentials, Session, TlsError};
use ferry_nbd::server::{Decoded, Handshake, Negotiated, Outcome, Refused, Reply, Request, TlsPolicy};
use ferry_nbd::{Command, ProtocolError};

/// Requests of one connection under way at a time; more wait in its socket.
const REQUESTS_MAX: usize = 256;
/// Bytes of payload of one connection under way at a time; more wait in its socket.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Bytes of replies that may wait for a peer to take them before we stop listening to it.
const UNSENT_BYTES_MAX: usize = 64 << 20;

enum State {
    Shaking(Handshake),
    Serving(Box<Negotiated>),
    Closing,
}

/// Why a connection is closed by us.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The peer does not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The peer is not accepted.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the input held next.
pub(super) enum Next {
    /// Nothing whole; wait for more bytes.
    Wait,
    /// A request, with the payload of a write.
    Start { request: Request, payload: Option<Buffer>, reply: Reply },
    /// The connection is over.
    Close,
}

pub(super) struct Connection {
    stream: Stream,
    state: State,
    /// A write whose payload is still coming.
    landing: Option<(Request, Buffer)>,
    /// A refused request whose payload of so many bytes is still to be skipped.
    skipping: Option<(Refused, u64)>,
    requests: usize,
    payload_bytes: usize,
    id: u64,
    end_was_told: bool,
    credentials: Option<Credentials>,
    /// Nothing is told to whoever is on the other side before it is known that it may read here.
    may_read: bool,
}

impl Connection {
    /// A connection that was just accepted; the greeting is queued. With `credentials` it begins with TLS.
    pub(super) fn new(id: u64, fd: Descriptor, pool: &Pool, credentials: Option<Credentials>) -> Self {
        let policy = if credentials.is_some() { TlsPolicy::Required } else { TlsPolicy::Off };
        let (handshake, greeting) = Handshake::new(policy);
        let mut stream = Stream::new(fd, pool);
        stream.queue_bytes(&greeting);
        let state = State::Shaking(handshake);
        Self {
            stream,
            state,
            landing: None,
            skipping: None,
            requests: 0,
            payload_bytes: 0,
            id,
            end_was_told: false,
            may_read: credentials.is_none(),
            credentials,
        }
    }

    /// Keeps bytes flowing: sends what is queued, receives what there is room for.
    pub(super) fn flow(&mut self, ring: &mut Ring<Purpose>) {
        self.stream.send(ring, Purpose::Sent(self.id));
        if !matches!(self.state, State::Closing) && (!self.is_busy() || self.landing.is_some()) {
            self.stream.receive(ring, Purpose::Received(self.id));
        }
    }

    /// Whether the next request must wait for others to be answered, or for answers to be taken.
    fn is_busy(&self) -> bool {
        self.requests >= REQUESTS_MAX
            || self.payload_bytes >= PAYLOAD_BYTES_MAX
            || self.stream.unsent_bytes() >= UNSENT_BYTES_MAX
    }

    pub(super) fn received(&mut self, result: std::io::Result<u32>) {
        match self.stream.received(result) {
            Received::Input | Received::Landed | Received::Landing => {}
            Received::Ended => self.state = State::Closing,
        }
    }

    pub(super) fn sent(&mut self, result: std::io::Result<u32>) {
        if !self.stream.sent(result) {
            self.state = State::Closing;
        }
    }

    /// Whether everything is answered and sent after the end.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Closing)
            && self.requests == 0
            && (self.stream.unsent_bytes() == 0 || self.stream.has_ended())
    }

    /// Whether the connection is ending; true once.
    pub(super) fn newly_ended(&mut self) -> bool {
        matches!(self.state, State::Closing) && !std::mem::replace(&mut self.end_was_told, true)
    }

    /// Whether the peer is gone, and not only done with asking.
    pub(super) fn peer_is_gone(&self) -> bool {
        self.stream.has_ended()
    }

    /// Ends the connection without waiting for anything.
    pub(super) fn close(&mut self) {
        self.state = State::Closing;
        self.stream.close();
    }

    /// Ends the connection with what is left to send.
    fn finish(&mut self) -> Next {
        self.state = State::Closing;
        Next::Close
    }

    /// Who has come over TLS, as its certificate says.
    pub(super) fn peer(&self) -> Option<String> {
        match self.stream.peer() {
            Some(Peer::Proven(peer)) => peer,
            Some(Peer::Unproven) | None => None,
        }
    }

    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        match &self.state {
            State::Serving(negotiated) => Some(negotiated),
            State::Shaking(_) | State::Closing => None,
        }
    }

    /// Whether the handshake still goes on, and [`Connection::next`] must be told what is offered.
    pub(super) fn is_shaking(&self) -> bool {
        matches!(self.state, State::Shaking(_))
    }

    /// Takes the next request out of the input.
    ///
    /// # Errors
    /// The peer does not keep to the protocol or is not accepted; the connection must be closed.
    pub(super) fn next(&mut self, offer: Option<&Offer>, pool: &Pool) -> Result<Next, ConnectionError> {
        loop {
            self.stream.refill()?;
            if self.stream.is_landing() || self.stream.has_ended() {
                return Ok(Next::Wait);
            }
            if let Some((request, payload)) = self.landing.take() {
                return Ok(self.start(request, Some(payload)));
            }
            if let Some((refused, left)) = self.skipping.take() {
                let left = left - self.stream.skip(left as usize) as u64;
                if left > 0 {
                    self.skipping = Some((refused, left));
                    return Ok(Next::Wait);
                }
                self.refuse(&refused);
            }
            let busy = self.is_busy();
            let decoded = match &mut self.state {
                State::Closing => return Ok(Next::Wait),
                State::Shaking(_) => match self.shake(offer.expect("the handshake gets what is offered"))? {
                    None => continue,
                    Some(next) => return Ok(next),
                },
                State::Serving(negotiated) => {
                    let header_bytes = negotiated.request_header_bytes();
                    if self.stream.unparsed() < header_bytes || busy {
                        return Ok(Next::Wait);
                    }
                    self.stream.parse(|input| (header_bytes, negotiated.decode(&input[..header_bytes])))?
                }
            };
            match decoded {
                Decoded::Refused(refused) => self.skipping = Some((refused, refused.payload_bytes)),
                Decoded::Request(Request { command: Command::Disconnect, .. }) => return Ok(self.finish()),
                Decoded::Request(request) => {
                    let len = request.command.payload_bytes() as usize;
                    if len == 0 {
                        return Ok(self.start(request, None));
                    }
                    let payload = pool.take(len);
                    self.stream.land(&payload, 0, len);
                    self.landing = Some((request, payload));
                }
            }
        }
    }

    /// Refuses whom the volume is not exported for, as soon as it is known who comes.
    fn check_reader(&mut self, offer: &Offer) -> Result<(), TlsError> {
        if self.may_read {
            return Ok(());
        }
        if let Some(Peer::Proven(peer)) = self.stream.peer() {
            let is_among = |readers: &Vec<String>| peer.as_ref().is_some_and(|peer| readers.contains(peer));
            if !offer.readers.as_ref().is_none_or(is_among) {
                return Err(TlsError::NotForYou(peer.unwrap_or_else(|| "whoever it names not".to_owned())));
            }
            self.may_read = true;
        }
        Ok(())
    }

    /// One step of the handshake; none when parsing may go on.
    fn shake(&mut self, offer: &Offer) -> Result<Option<Next>, ConnectionError> {
        self.check_reader(offer)?;
        let State::Shaking(handshake) = &mut self.state else {
            unreachable!("only called while shaking hands")
        };
        let mut out = Vec::new();
        let advance = self.stream.parse(|input| {
            let advance = handshake.advance(input, offer, &mut out);
            (advance.as_ref().map_or(0, |a| a.consumed), advance)
        });
        self.stream.queue_bytes(&out);
        match advance?.outcome {
            Outcome::NeedMore => Ok(Some(Next::Wait)),
            Outcome::StartTls => {
                let credentials =
                    self.credentials.take().expect("TLS is required of those that have credentials");
                self.stream.secure(Session::server(&credentials)?, &[]);
                Ok(None)
            }
            Outcome::Closed(_) => Ok(Some(self.finish())),
            Outcome::Ready(negotiated) => {
                self.state = State::Serving(negotiated);
                Ok(None)
            }
        }
    }

    fn start(&mut self, request: Request, payload: Option<Buffer>) -> Next {
        let reply = self.negotiated().expect("requests are only decoded while serving").reply(&request);
        self.requests += 1;
        self.payload_bytes += weight(&request.command);
        Next::Start { request, payload, reply }
    }

    fn refuse(&mut self, refused: &Refused) {
        let mut out = Vec::new();
        if let State::Serving(negotiated) = &self.state {
            negotiated.refuse(refused, &mut out);
        }
        self.stream.queue_bytes(&out);
    }

    /// Queues the reply to a request that was started: what `write` appends, then the payload.
    pub(super) fn answer(
        &mut self,
        command: &Command,
        write: impl FnOnce(&mut Vec<u8>),
        payload: Option<&Buffer>,
    ) {
        self.requests -= 1;
        self.payload_bytes -= weight(command);
        let mut out = Vec::with_capacity(64);
        write(&mut out);
        self.stream.queue_bytes(&out);
        if let Some(buffer) = payload {
            self.stream.queue_payload(buffer, 0, buffer.len());
        }
    }
}

/// Bytes of memory a request holds until it is answered.
fn weight(command: &Command) -> usize {
    match command {
        Command::Read { range, .. } | Command::Write { range, .. } => range.len_bytes() as usize,
        // For a checksum the bytes are read first.
        Command::BlockStatus { range, .. } => range.len_bytes().min(BUFFER_BYTES_MAX as u64) as usize,
        Command::Disconnect
        | Command::Flush
        | Command::Trim { .. }
        | Command::Cache { .. }
        | Command::WriteZeroes { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Phase;
    use crate::ring::{IoBackend, Ring};
    use crate::server::doors::Door;
    use ferry_nbd::wire;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::time::Duration;

    fn request(kind: u16, cookie: u64, offset: u64, len_bytes: u32) -> Vec<u8> {
        let mut out = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&len_bytes.to_be_bytes());
        out
    }

    #[test]
    fn many_long_reads_at_once_do_not_take_all_memory() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ring = Ring::new(IoBackend::Portable).unwrap();
        let pool = Pool::new();
        let mut connection = Connection::new(1, Rc::new(ours.into()), &pool, None);
        let mut hello = 3_u32.to_be_bytes().to_vec();
        hello.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&wire::OPT_EXPORT_NAME.to_be_bytes());
        hello.extend_from_slice(&0_u32.to_be_bytes());
        for cookie in 0..100 {
            hello.extend(request(wire::CMD_READ, cookie, 0, 32 << 20));
        }
        theirs.write_all(&hello).unwrap();
        let (id, phase) = ("V".to_owned(), Phase::Open);
        let offer = Offer {
            door: Door::Guest,
            id,
            generation: 1,
            size_bytes: 1 << 30,
            snapshots: Vec::new(),
            phase,
            is_live: false,
            marks: Vec::new(),
            born_from: None,
            readers: None,
        };
        let mut completed = Vec::new();
        connection.flow(&mut ring);
        while !completed.iter().any(|c: &crate::ring::Completion<Purpose>| {
            matches!((&c.purpose, &c.result), (Purpose::Received(1), Ok(count)) if *count as usize == hello.len())
        }) {
            ring.wait(Duration::from_secs(60), &mut completed).unwrap();
        }
        connection.received(Ok(hello.len() as u32));
        let mut started = Vec::new();
        while let Next::Start { request, .. } = connection.next(Some(&offer), &pool).unwrap() {
            started.push(request.command);
        }
        assert_eq!(started.len(), PAYLOAD_BYTES_MAX / (32 << 20));
        connection.answer(&started[0], |_| {}, None);
        assert!(matches!(connection.next(Some(&offer), &pool).unwrap(), Next::Start { .. }), "it goes on");
    }

    #[test]
    fn a_question_for_a_checksum_weighs_what_must_be_read_for_it() {
        let range = ferry_nbd::ByteRange::new(0, 1 << 30).unwrap();
        assert_eq!(weight(&Command::BlockStatus { range, only_one: true }), BUFFER_BYTES_MAX);
    }
}
