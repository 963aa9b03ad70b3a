//! One connection of an agent: lines of JSON in, lines of JSON out.

use super::Purpose;
use super::stream::{Received, Stream};
use crate::buffer::Pool;
use crate::control::{Answer, REQUEST_BYTES_MAX, Request};
use crate::ring::{Descriptor, Ring};

/// Bytes of answers that may wait for an agent to take them before we stop listening to it.
const UNSENT_BYTES_MAX: usize = 1 << 20;

pub(super) struct Asker {
    stream: Stream,
    line: Vec<u8>,
    /// Requests without an answer so far.
    waiting: usize,
    ended: bool,
}

impl Asker {
    pub(super) fn new(fd: Descriptor, pool: &Pool) -> Self {
        Self { stream: Stream::new(fd, pool), line: Vec::new(), waiting: 0, ended: false }
    }

    pub(super) fn flow(&mut self, ring: &mut Ring<Purpose>, id: u64) {
        self.stream.send(ring, Purpose::AnswerSent(id));
        if !self.ended && self.stream.unsent_bytes() < UNSENT_BYTES_MAX {
            self.stream.receive(ring, Purpose::Asked(id));
        }
    }

    pub(super) fn received(&mut self, result: std::io::Result<u32>) {
        self.ended |= matches!(self.stream.received(result), Received::Ended);
    }

    pub(super) fn sent(&mut self, result: std::io::Result<u32>) {
        self.ended |= !self.stream.sent(result);
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended && self.waiting == 0
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.stream.unsent_bytes() > 0 && !self.stream.has_ended()
    }

    /// The next request, if a whole line is there. A line that is no request is answered here.
    pub(super) fn next(&mut self) -> Option<Request> {
        loop {
            let line = &mut self.line;
            let whole = self.stream.parse(|input| match input.iter().position(|&b| b == b'\n') {
                Some(end) => {
                    line.extend_from_slice(&input[..end]);
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(input);
                    (input.len(), false)
                }
            });
            if self.line.len() > REQUEST_BYTES_MAX {
                self.ended = true;
                self.stream.close();
                return None;
            }
            if !whole {
                return None;
            }
            let parsed = serde_json::from_slice(&self.line);
            self.line.clear();
            self.waiting += 1;
            match parsed {
                Ok(request) => return Some(request),
                Err(e) => {
                    self.answer(&Answer::Refused { reason: format!("the request is not understood: {e}") })
                }
            }
        }
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        self.waiting -= 1;
        let mut line = serde_json::to_vec(answer).expect("answers are plain data and always encode");
        line.push(b'\n');
        self.stream.queue_bytes(&line);
    }
}
