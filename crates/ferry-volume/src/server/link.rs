//! One connection to a source in transmission.

use super::Purpose;
use super::stream::{Received, Stream};
use super::task::Task;
use crate::buffer::Pool;
use crate::ring::{Descriptor, Ring};
use ferry_engine::OpId;
use ferry_nbd::client::{Event, Session};
use ferry_nbd::{Command, ProtocolError};
use std::collections::{BTreeMap, HashMap};

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
}

impl Link {
    pub(super) fn new(id: u64, socket: Descriptor, session: Session, pool: &Pool) -> Self {
        Self { id, session, stream: Stream::new(socket, pool), asked: HashMap::new() }
    }

    /// Queues a request for an operation; false when the session does not take it.
    pub(super) fn ask(&mut self, cookie: u64, op: OpId, command: Command) -> bool {
        let mut out = Vec::with_capacity(32);
        if let Err(e) = self.session.request(cookie, command, &mut out) {
            tracing::error!(%e, "a request to the source cannot be sent");
            return false;
        }
        self.stream.queue_bytes(&out);
        self.asked.insert(cookie, op);
        true
    }

    /// Keeps bytes flowing.
    pub(super) fn flow(&mut self, ring: &mut Ring<Purpose>) {
        self.stream.send(ring, Purpose::LinkSent(self.id));
        self.stream.receive(ring, Purpose::LinkReceived(self.id));
    }

    pub(super) fn sent(&mut self, result: std::io::Result<u32>) -> bool {
        self.stream.sent(result)
    }

    /// Takes note of received bytes; false when the source closed.
    pub(super) fn received(&mut self, result: std::io::Result<u32>) -> bool {
        !matches!(self.stream.received(result), Received::Ended)
    }

    pub(super) fn close(&mut self) {
        self.stream.close();
    }

    /// Takes one event out of the input and into its task.
    ///
    /// # Errors
    /// The source does not keep to the protocol.
    pub(super) fn next(&mut self, tasks: &mut BTreeMap<OpId, Task>) -> Result<LinkEvent, ProtocolError> {
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
