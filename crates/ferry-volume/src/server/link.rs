//! One connection to a source in transmission.

use super::Purpose;
use super::connection::ConnectionError;
use super::stream::{Received, Stream};
use super::task::Task;
use crate::buffer::Pool;
use crate::dial::Dialled;
use crate::ring::Ring;
use ferry_engine::{OpId, Urgency};
use ferry_nbd::Command;
use ferry_nbd::client::{Event, RequestError, Session};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Requests of one link that the source has at a time; more wait here. The engine may want thousands of blocks at
/// once, a source must not be asked for so many.
const REQUESTS_MAX: usize = 256;

/// A request that was not sent yet: its cookie, whose it is, and what is asked.
type Question = (u64, OpId, Command);

/// What the input of a link held.
pub(super) enum LinkEvent {
    /// Nothing whole; wait for more bytes.
    Wait,
    /// Something that is no end yet.
    Progress,
    /// One request of this operation ended.
    Ended { op: OpId },
}

pub(super) struct Link {
    pub(super) id: u64,
    pub(super) session: Session,
    stream: Stream,
    asked: HashMap<u64, OpId>,
    /// When the source last sent anything, or was asked something after it had answered all.
    heard_at: Instant,
    /// What waits for its turn: for the guest, ahead of it, and in the background.
    guest: VecDeque<Question>,
    ahead: VecDeque<Question>,
    background: VecDeque<Question>,
}

impl Link {
    pub(super) fn new(id: u64, dialled: Dialled, pool: &Pool) -> Self {
        let (socket, secured) = dialled.wire.into_parts();
        let mut stream = Stream::new(Rc::new(socket), pool);
        if let Some((session, received)) = secured {
            stream.secure(session, &received);
        }
        Self {
            id,
            session: dialled.session,
            stream,
            asked: HashMap::new(),
            heard_at: Instant::now(),
            guest: VecDeque::new(),
            ahead: VecDeque::new(),
            background: VecDeque::new(),
        }
    }

    /// Requests without an end, at the source or on their way to it.
    pub(super) fn load(&self) -> usize {
        self.asked.len() + self.guest.len() + self.ahead.len() + self.background.len()
    }

    /// A request for an operation, to be sent by [`Link::flow`] when its turn comes.
    pub(super) fn ask(&mut self, urgency: Urgency, cookie: u64, op: OpId, command: Command) {
        let queue = match urgency {
            Urgency::Guest => &mut self.guest,
            Urgency::Ahead => &mut self.ahead,
            Urgency::Background => &mut self.background,
        };
        queue.push_back((cookie, op, command));
    }

    /// Keeps requests and bytes flowing.
    ///
    /// # Errors
    /// The session does not take a request: this link's server does not offer what the first one's did.
    pub(super) fn flow(&mut self, ring: &mut Ring<Purpose>) -> Result<(), RequestError> {
        while self.asked.len() < REQUESTS_MAX
            && let Some((cookie, op, command)) = [&mut self.guest, &mut self.ahead, &mut self.background]
                .into_iter()
                .find_map(VecDeque::pop_front)
        {
            let mut out = Vec::with_capacity(32);
            self.session.request(cookie, command, &mut out)?;
            self.stream.queue_bytes(&out);
            if self.asked.is_empty() {
                self.heard_at = Instant::now();
            }
            self.asked.insert(cookie, op);
        }
        self.stream.send(ring, Purpose::LinkSent(self.id));
        self.stream.receive(ring, Purpose::LinkReceived(self.id));
        Ok(())
    }

    pub(super) fn sent(&mut self, result: std::io::Result<u32>) -> bool {
        self.stream.sent(result)
    }

    /// Whether the source has sent nothing at all for so long although it was asked; however slow, it is not silent while
    /// bytes arrive.
    pub(super) fn is_silent(&self, silence_max: Duration, now: Instant) -> bool {
        !self.asked.is_empty()
            && now.saturating_duration_since(self.heard_at) >= silence_max
            && self.stream.silence().is_none_or(|silence| silence >= silence_max)
    }

    /// For how long nothing has come by now although the source was asked; none while it owes nothing, or bytes flow.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        let owes = !self.asked.is_empty() && !self.stream.is_landing();
        owes.then(|| now.saturating_duration_since(self.heard_at))
    }

    /// Takes note of received bytes; false when the source closed.
    pub(super) fn received(&mut self, result: std::io::Result<u32>) -> bool {
        self.heard_at = Instant::now();
        !matches!(self.stream.received(result), Received::Ended)
    }

    pub(super) fn close(&mut self) {
        self.stream.close();
    }

    /// Takes one event out of the input and into its task.
    ///
    /// # Errors
    /// The source does not keep to the protocol.
    pub(super) fn next(&mut self, tasks: &mut BTreeMap<OpId, Task>) -> Result<LinkEvent, ConnectionError> {
        self.stream.refill()?;
        if self.stream.is_landing() {
            return Ok(LinkEvent::Wait);
        }
        let session = &mut self.session;
        let event = self.stream.parse(|input| match session.advance(input) {
            Ok(progress) => (progress.consumed, Ok(progress.event)),
            Err(e) => (0, Err(e)),
        })?;
        let Some(event) = event else { return Ok(LinkEvent::Wait) };
        let cookie = match &event {
            Event::Data { cookie, .. }
            | Event::Hole { cookie, .. }
            | Event::BlockStatus { cookie, .. }
            | Event::Done { cookie, .. } => *cookie,
        };
        let op = *self.asked.get(&cookie).expect("the session only tells of requests in flight");
        let task = tasks.get_mut(&op).expect("a task stays until all its requests ended");
        match event {
            Event::Data { range, .. } => {
                let (buffer, at) = task.landing(range);
                self.stream.land(&buffer, at, range.len_bytes() as usize);
                Ok(LinkEvent::Progress)
            }
            Event::Hole { range, .. } => {
                task.hole(range);
                Ok(LinkEvent::Progress)
            }
            Event::BlockStatus { extents, .. } => {
                task.extents(cookie, &extents);
                Ok(LinkEvent::Progress)
            }
            Event::Done { result, .. } => {
                task.request_ended(result.map_err(|f| f.errno.to_wire() as i32));
                self.asked.remove(&cookie);
                Ok(LinkEvent::Ended { op })
            }
        }
    }
}
