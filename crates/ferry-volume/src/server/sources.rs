//! The sources of a volume, one in the engine's eyes: the first that is connected serves, the others stand in for it.
//!
//! ```text
//!  engine ── question ──▶ first connected, in order ──fails it, or goes away──▶ the next ──▶ ... ──▶ engine
//! ```
//! All are kept connected, so that another can be asked at once. Invariant: the engine sees a source while any is
//! connected, and hears that a question failed only when each of those that are connected has failed it.

use super::Purpose;
use super::source::{DialResult, Failure, FetchEnd, Outcome, Source};
use crate::SourceUri;
use crate::buffer::Pool;
use crate::ring::Ring;
use crate::tls::Credentials;
use ferry_engine::{ByteRange, OpId, Urgency};
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How often one of several sources is asked for bytes that come with a wrong checksum before another is. Alone it is
/// asked once: the engine itself asks again.
const CHECKSUM_TRIES: u32 = 2;

/// Which source of this process; never used twice.
pub(super) type Serial = u64;

#[derive(Default)]
pub(super) struct Sources {
    /// The preferred one first.
    all: Vec<Source>,
    last_serial: Serial,
    asked: BTreeMap<OpId, Asked>,
    /// What came of sources that are gone, and of questions that nobody could be asked.
    left: Vec<(Serial, Outcome)>,
    /// Whether the engine was told that there is a source.
    is_up: bool,
}

#[derive(Clone, Copy)]
enum Question {
    Fetch { range: ByteRange, urgency: Urgency },
    Query { offset: u64, len: u64 },
}

/// A question of the engine that is not answered.
struct Asked {
    question: Question,
    /// Which source has failed it, and how often.
    failures: BTreeMap<Serial, u32>,
    /// How, the last time that it was no lost connection.
    failure: Option<Outcome>,
}

impl Sources {
    /// From now on these, in this order; connections to those that were there before stay.
    pub(super) fn follow<'a>(&mut self, uris: impl IntoIterator<Item = &'a SourceUri>, wanted_bytes: u64) {
        let mut before = std::mem::take(&mut self.all);
        for uri in uris {
            let known = before.iter().position(|source| source.uri() == uri);
            self.all.push(match known {
                Some(at) => before.remove(at),
                None => {
                    self.last_serial += 1;
                    Source::new(uri.clone(), wanted_bytes, self.last_serial)
                }
            });
        }
        for mut gone in before {
            gone.close();
            self.left.extend(gone.take_outcomes().into_iter().map(|outcome| (gone.serial(), outcome)));
        }
    }

    /// The one that serves: the first that is connected.
    pub(super) fn serving(&self) -> Option<&Source> {
        self.all.iter().find(|source| source.is_connected())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The source with this address, if it is followed.
    pub(super) fn at(&self, uri: &SourceUri) -> Option<&Source> {
        self.all.iter().find(|source| source.uri() == uri)
    }

    /// The first that is connected and tells checksums.
    pub(super) fn teller(&mut self) -> Option<&mut Source> {
        self.all.iter_mut().find(|source| source.tells_checksums())
    }

    /// Whether all are connected and none tells checksums.
    pub(super) fn none_tells_checksums(&self) -> bool {
        self.all.iter().all(|source| source.is_connected() && !source.tells_checksums())
    }

    /// When [`Sources::turn`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.all.iter().filter_map(Source::due).min()
    }

    /// What time alone brings: silence is noticed, and who is away is connected to when it is time.
    pub(super) fn turn(
        &mut self,
        silence_max: Duration,
        credentials: Option<&Credentials>,
        results: &Sender<(Serial, DialResult)>,
        wake: impl Fn() + Clone + Send + 'static,
    ) {
        let now = Instant::now();
        for source in &mut self.all {
            source.notice_silence(silence_max, now);
            source.begin(credentials, results, wake.clone());
        }
    }

    /// The source with this serial, unless it was left meanwhile.
    pub(super) fn of(&mut self, serial: Serial) -> Option<&mut Source> {
        self.all.iter_mut().find(|source| source.serial() == serial)
    }

    /// The source of a link, unless it was left meanwhile.
    pub(super) fn of_link(&mut self, link: u64) -> Option<&mut Source> {
        self.of(Source::serial_of_link(link))
    }

    /// Fetches a range.
    pub(super) fn fetch(
        &mut self,
        op: OpId,
        range: ByteRange,
        urgency: Urgency,
        pool: &Pool,
        ring: &mut Ring<Purpose>,
    ) {
        self.ask(op, Asked::new(Question::Fetch { range, urgency }), pool, ring);
    }

    /// Asks which parts of a range hold data.
    pub(super) fn query(&mut self, op: OpId, range: ByteRange, pool: &Pool, ring: &mut Ring<Purpose>) {
        let (offset, len) = (range.offset(), range.len_bytes());
        self.ask(op, Asked::new(Question::Query { offset, len }), pool, ring);
    }

    /// What the engine must be told. What another source can still answer is asked of that one instead.
    pub(super) fn settle(&mut self, pool: &Pool, ring: &mut Ring<Purpose>) -> Vec<Outcome> {
        let mut told = Vec::new();
        loop {
            let mut found = std::mem::take(&mut self.left);
            for source in &mut self.all {
                let serial = source.serial();
                found.extend(source.take_outcomes().into_iter().map(|outcome| (serial, outcome)));
            }
            if found.is_empty() {
                return told;
            }
            for (serial, outcome) in found {
                told.extend(self.heard(serial, outcome, pool, ring));
            }
        }
    }

    fn heard(
        &mut self,
        serial: Serial,
        outcome: Outcome,
        pool: &Pool,
        ring: &mut Ring<Purpose>,
    ) -> Option<Outcome> {
        match outcome {
            Outcome::Up if self.is_up => Some(Outcome::Joined),
            Outcome::Up => {
                self.is_up = true;
                Some(Outcome::Up)
            }
            Outcome::Down if self.serving().is_some() => None,
            Outcome::Down => std::mem::take(&mut self.is_up).then_some(Outcome::Down),
            Outcome::Heat(_) => (self.serving()?.serial() == serial).then_some(outcome),
            Outcome::Joined | Outcome::Summed { .. } => Some(outcome),
            Outcome::Fetched { op, end: FetchEnd::Failed(_) | FetchEnd::Mismatch { .. }, .. }
            | Outcome::Extents { op, end: Err(_), .. } => self.failed(serial, op, outcome, pool, ring),
            Outcome::Fetched { op, end: FetchEnd::Data { .. } | FetchEnd::Zeroes { .. }, .. }
            | Outcome::Extents { op, end: Ok(_), .. } => {
                self.asked.remove(&op);
                Some(outcome)
            }
        }
    }

    /// A source has failed what it was asked for; gives what the engine is told if no other can be asked.
    fn failed(
        &mut self,
        serial: Serial,
        op: OpId,
        outcome: Outcome,
        pool: &Pool,
        ring: &mut Ring<Purpose>,
    ) -> Option<Outcome> {
        let mut asked = self.asked.remove(&op)?;
        let is_lost = matches!(
            outcome,
            Outcome::Fetched { end: FetchEnd::Failed(Failure::Disconnected), .. }
                | Outcome::Extents { end: Err(Failure::Disconnected), .. }
        );
        if !is_lost {
            let is_mismatch = matches!(outcome, Outcome::Fetched { end: FetchEnd::Mismatch { .. }, .. });
            *asked.failures.entry(serial).or_default() += if is_mismatch { 1 } else { CHECKSUM_TRIES };
            asked.failure = Some(outcome);
        } else if asked.failure.is_none() && self.serving().is_none() {
            return Some(outcome);
        }
        if self.next_for(&asked).is_some() {
            self.ask(op, asked, pool, ring);
            return None;
        }
        asked.failure
    }

    /// The first in order that is connected and has not failed it too often.
    fn next_for(&mut self, asked: &Asked) -> Option<&mut Source> {
        let most = if self.all.len() > 1 { CHECKSUM_TRIES } else { 1 };
        let failures = |source: &Source| asked.failures.get(&source.serial()).copied().unwrap_or(0);
        self.all.iter_mut().find(|source| source.is_connected() && failures(source) < most)
    }

    fn ask(&mut self, op: OpId, asked: Asked, pool: &Pool, ring: &mut Ring<Purpose>) {
        let lost = Failure::Disconnected;
        match (self.next_for(&asked), asked.question) {
            (Some(source), Question::Fetch { range, urgency }) => {
                source.fetch(op, range, urgency, pool, ring)
            }
            (Some(source), Question::Query { offset, len }) => source.query(op, offset, len, pool, ring),
            // The last one has just gone, which the engine is about to hear.
            (None, Question::Fetch { range, .. }) => {
                self.left.push((0, Outcome::Fetched { op, range, end: FetchEnd::Failed(lost) }));
            }
            (None, Question::Query { offset, .. }) => {
                self.left.push((0, Outcome::Extents { op, offset, end: Err(lost) }));
            }
        }
        self.asked.insert(op, asked);
    }
}

impl Asked {
    fn new(question: Question) -> Self {
        Self { question, failures: BTreeMap::new(), failure: None }
    }
}
