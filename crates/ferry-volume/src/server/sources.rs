//! The sources of a volume, one in the engine's eyes: the first that is connected serves, the others stand in for it.
//!
//! ```text
//!  engine ── question ──▶ first connected, in order ──fails it, or goes away──▶ the next ──▶ ... ──▶ engine
//!                    └──▶ base, where the source does not differ from it ──fails it──▶ first connected ...
//! ```
//! All are kept connected, so that another can be asked at once. Invariants: the engine sees a source while any is
//! connected, and hears that a question failed only when each of those that are connected has failed it. A base is asked only
//! for what a source has said not to differ, only while there is a source, and without it nothing is missing.

use super::Purpose;
use super::dialling::DialResult;
use super::gather::Gathers;
use super::source::{Failure, FetchEnd, Outcome, Source};
use super::trust::Trust;
use crate::SourceUri;
use crate::base::Base;
use crate::buffer::Pool;
use crate::ring::Ring;
use crate::tls::Credentials;
use ferry_engine::{ByteRange, Differences, Holder, OpId, Urgency};
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How often one of several sources is asked for bytes that come with a wrong checksum before another is. Alone it is
/// asked once: the engine itself asks again.
const CHECKSUM_TRIES: u32 = 2;
/// How long a base that was asked may send nothing: less than a source, since there is somebody else to ask.
const BASE_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long the background waits for a base that is away before it copies from the source what both have. The guest never waits
/// for it.
const BASE_PATIENCE: Duration = Duration::from_secs(3);

/// Which source of this process; never used twice.
pub(super) type Serial = u64;

#[derive(Default)]
pub(super) struct Sources {
    /// The preferred one first.
    all: Vec<Source>,
    base: Option<Source>,
    /// Which generation of the volume the base is.
    base_generation: Option<u64>,
    /// In what the source differs from that, for good: it is sealed.
    differences: Option<Differences>,
    base_trust: Trust,
    /// Since when it is not connected.
    base_away_since: Option<Instant>,
    last_serial: Serial,
    asked: BTreeMap<OpId, Asked>,
    gathers: Gathers,
    /// What came of sources that are gone, and of questions that nobody could be asked.
    left: Vec<(Serial, Outcome)>,
    /// Whether the engine was told that there is a source.
    is_up: bool,
}

#[derive(Clone, Copy)]
enum Question {
    Fetch { range: ByteRange, urgency: Urgency },
    Query { offset: u64, len: u64 },
    Sum { range: ByteRange },
}

/// Who may be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Sources,
    /// The base, and the sources if it is away or fails.
    BaseFirst,
    BaseOnly,
}

impl Whom {
    fn of(holder: Holder) -> Self {
        match holder {
            Holder::Source => Self::Sources,
            Holder::Both => Self::BaseFirst,
        }
    }
}

/// A question of the engine that is not answered.
struct Asked {
    question: Question,
    whom: Whom,
    /// Which source has failed it, and how often.
    failures: BTreeMap<Serial, u32>,
    /// How, the last time that it was no lost connection.
    failure: Option<Outcome>,
}

impl Sources {
    /// From now on these, in this order, and this base; connections to those that were there before stay.
    pub(super) fn follow<'a>(
        &mut self,
        uris: impl IntoIterator<Item = &'a SourceUri>,
        base: Option<&Base>,
        wanted_bytes: u64,
    ) {
        let generation = base.map(|base| base.generation);
        if generation != self.base_generation {
            self.base_generation = generation;
            self.differences = None;
            if generation.is_some() {
                // They are asked in what they differ from it when they are connected to.
                self.all.iter_mut().for_each(Source::close);
            }
        }
        let mut before = std::mem::take(&mut self.all);
        for uri in uris {
            let known = before.iter().position(|source| source.uri() == uri);
            let source = match known {
                Some(at) => before.remove(at),
                None => Source::new(uri.clone(), wanted_bytes, self.new_serial()),
            };
            self.all.push(source);
        }
        self.follow_base(base, wanted_bytes, &mut before);
        for mut gone in before {
            gone.close();
            self.left.extend(gone.take_outcomes().into_iter().map(|outcome| (gone.serial(), outcome)));
        }
    }

    fn follow_base(&mut self, base: Option<&Base>, wanted_bytes: u64, before: &mut Vec<Source>) {
        if self.base.as_ref().map(Source::uri) == base.map(|base| &base.uri) {
            return;
        }
        before.extend(self.base.take());
        self.base_trust = Trust::default();
        self.base_away_since = base.map(|_| Instant::now());
        if let Some(base) = base {
            self.base = Some(Source::base(base.uri.clone(), wanted_bytes, self.new_serial()));
        }
    }

    fn new_serial(&mut self) -> Serial {
        self.last_serial += 1;
        self.last_serial
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

    pub(super) fn base(&self) -> Option<&Source> {
        self.base.as_ref()
    }

    /// Whether a source has said in what it differs from the base.
    pub(super) fn knows_differences(&self) -> bool {
        self.differences.is_some()
    }

    /// Whether the background should wait: the base has most of what it would copy, and may be there in a moment.
    pub(super) fn wait_for_base(&self) -> bool {
        self.knows_differences() && self.base_away_since.is_some_and(|since| since.elapsed() < BASE_PATIENCE)
    }

    /// Whether one that tells checksums is connected.
    pub(super) fn has_teller(&self) -> bool {
        self.all.iter().any(Source::tells_checksums)
    }

    /// Whether all are connected and none tells checksums.
    pub(super) fn none_tells_checksums(&self) -> bool {
        self.all.iter().all(|source| source.is_connected() && !source.tells_checksums())
    }

    /// When [`Sources::turn`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.everybody().filter_map(Source::due).min()
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
        let differs_from = self.base_generation.filter(|_| self.differences.is_none());
        for source in &mut self.all {
            source.notice_silence(silence_max, now);
            source.begin(differs_from, credentials, results, wake.clone());
        }
        if let Some(base) = &mut self.base {
            if base.notice_silence(silence_max.min(BASE_SILENCE_MAX), now) {
                self.base_trust.was_silent(now);
            }
            base.begin(None, credentials, results, wake);
        }
    }

    fn everybody(&self) -> impl Iterator<Item = &Source> {
        self.all.iter().chain(&self.base)
    }

    /// The source (or base) with this serial, unless it was left meanwhile.
    pub(super) fn of(&mut self, serial: Serial) -> Option<&mut Source> {
        self.all.iter_mut().chain(&mut self.base).find(|source| source.serial() == serial)
    }

    fn is_base(&self, serial: Serial) -> bool {
        self.base.as_ref().is_some_and(|base| base.serial() == serial)
    }

    /// What is used of the base: it is connected and does not fail, and it is known what it is good for. Its length in bytes.
    fn usable_base(&self) -> Option<(&Differences, u64)> {
        let size_bytes = self.base.as_ref()?.size_bytes()?;
        let is_good = self.base_trust.is_worth_asking(Instant::now());
        self.differences.as_ref().filter(|_| is_good).map(|differences| (differences, size_bytes))
    }

    /// A range in parts by who is asked for them.
    fn parts(&self, range: ByteRange) -> Vec<(ByteRange, Whom)> {
        let Some((differences, base_bytes)) = self.usable_base() else {
            return vec![(range, Whom::Sources)];
        };
        differences.cut(range, base_bytes).map(|(part, holder)| (part, Whom::of(holder))).collect()
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
        let parts = self.parts(range);
        let question = |range| Question::Fetch { range, urgency };
        if let [(range, whom)] = parts[..] {
            return self.ask(op, Asked::new(question(range), whom), pool, ring);
        }
        for (op, (part, whom)) in self.gathers.fetch(op, range, urgency, parts.len()).zip(parts) {
            self.ask(op, Asked::new(question(part), whom), pool, ring);
        }
    }

    /// Asks which parts of a range hold data.
    pub(super) fn query(&mut self, op: OpId, range: ByteRange, pool: &Pool, ring: &mut Ring<Purpose>) {
        let (offset, len) = (range.offset(), range.len_bytes());
        let question = Question::Query { offset, len };
        let Some((_, base_bytes)) = self.usable_base() else {
            return self.ask(op, Asked::new(question, Whom::Sources), pool, ring);
        };
        let (source, base) = self.gathers.query(op, offset, base_bytes);
        self.ask(base, Asked::new(question, Whom::BaseOnly), pool, ring);
        self.ask(source, Asked::new(question, Whom::Sources), pool, ring);
    }

    /// Asks for a checksum, without the bytes, of the first part of a range of which there is one; gives that part.
    pub(super) fn sum(
        &mut self,
        op: OpId,
        range: ByteRange,
        pool: &Pool,
        ring: &mut Ring<Purpose>,
    ) -> ByteRange {
        // Decided once: whether the base is worth asking may be otherwise a moment later.
        let first = self
            .usable_base()
            .and_then(|(differences, base_bytes)| differences.cut(range, base_bytes).next());
        let (part, whom) = first.map_or((range, Whom::Sources), |(part, holder)| (part, Whom::of(holder)));
        self.ask(op, Asked::new(Question::Sum { range: part }, whom), pool, ring);
        part
    }

    /// What the engine must be told. What another source can still answer is asked of that one instead.
    pub(super) fn settle(&mut self, pool: &Pool, ring: &mut Ring<Purpose>) -> Vec<Outcome> {
        let mut told = Vec::new();
        loop {
            let mut found = std::mem::take(&mut self.left);
            for source in self.all.iter_mut().chain(&mut self.base) {
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
            Outcome::Up if self.is_base(serial) => {
                self.base_away_since = None;
                None
            }
            Outcome::Down if self.is_base(serial) => {
                self.base_away_since = Some(Instant::now());
                None
            }
            Outcome::Down if self.serving().is_some() => None,
            Outcome::Up if self.is_up => Some(Outcome::Joined),
            Outcome::Up => {
                self.is_up = true;
                Some(Outcome::Up)
            }
            Outcome::Down => std::mem::take(&mut self.is_up).then_some(Outcome::Down),
            Outcome::Heat(_) => (self.serving()?.serial() == serial).then_some(outcome),
            Outcome::Differences(found) => {
                if self.base_generation.is_some() {
                    self.differences.get_or_insert(found);
                }
                None
            }
            Outcome::Joined => Some(outcome),
            Outcome::Fetched { op, end: FetchEnd::Failed(_) | FetchEnd::Mismatch { .. }, .. }
            | Outcome::Extents { op, end: Err(_), .. }
            | Outcome::Summed { op, end: Err(_) } => self.failed(serial, op, outcome, pool, ring),
            Outcome::Fetched { op, end: FetchEnd::Data { .. } | FetchEnd::Zeroes { .. }, .. }
            | Outcome::Extents { op, end: Ok(_), .. }
            | Outcome::Summed { op, end: Ok(_) } => {
                self.asked.remove(&op);
                let is_base = self.is_base(serial);
                if is_base {
                    self.base_trust.answered();
                }
                self.gathers.ended(outcome, is_base, self.differences.as_ref(), pool)
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
        if self.is_base(serial) {
            self.base_trust.failed(Instant::now());
            asked.failures.insert(serial, CHECKSUM_TRIES);
        } else if !is_lost(&outcome) {
            let is_mismatch = matches!(outcome, Outcome::Fetched { end: FetchEnd::Mismatch { .. }, .. });
            *asked.failures.entry(serial).or_default() += if is_mismatch { 1 } else { CHECKSUM_TRIES };
            asked.failure = Some(outcome);
        }
        if self.next_for(&asked).is_some() {
            self.ask(op, asked, pool, ring);
            return None;
        }
        let told = asked.failure.unwrap_or_else(|| asked.question.lost(op));
        self.gathers.ended(told, false, self.differences.as_ref(), pool)
    }

    /// The first in order that is connected and has not failed it too often.
    fn next_for(&mut self, asked: &Asked) -> Option<&mut Source> {
        let most = if self.all.len() > 1 { CHECKSUM_TRIES } else { 1 };
        let failures = |source: &Source| asked.failures.get(&source.serial()).copied().unwrap_or(0);
        let can = |source: &Source| match asked.question {
            Question::Sum { .. } => source.tells_checksums(),
            Question::Fetch { .. } | Question::Query { .. } => source.is_connected(),
        };
        let base = self
            .base
            .iter_mut()
            .filter(|base| asked.whom != Whom::Sources && can(base) && failures(base) == 0);
        let sources = self
            .all
            .iter_mut()
            .filter(|source| asked.whom != Whom::BaseOnly && can(source) && failures(source) < most);
        base.chain(sources).next()
    }

    fn ask(&mut self, op: OpId, asked: Asked, pool: &Pool, ring: &mut Ring<Purpose>) {
        match (self.next_for(&asked), asked.question) {
            (Some(source), Question::Fetch { range, urgency }) => {
                source.fetch(op, range, urgency, pool, ring)
            }
            (Some(source), Question::Query { offset, len }) => source.query(op, offset, len, pool, ring),
            (Some(source), Question::Sum { range }) => source.sum(op, range, pool, ring),
            // The last one has just gone, which the engine is about to hear.
            (None, question) => self.left.push((0, question.lost(op))),
        }
        self.asked.insert(op, asked);
    }
}

impl Question {
    /// Nobody is there to answer it.
    fn lost(self, op: OpId) -> Outcome {
        let lost = Failure::Disconnected;
        match self {
            Question::Fetch { range, .. } => Outcome::Fetched { op, range, end: FetchEnd::Failed(lost) },
            Question::Query { offset, .. } => Outcome::Extents { op, offset, end: Err(lost) },
            Question::Sum { .. } => Outcome::Summed { op, end: Err(lost) },
        }
    }
}

fn is_lost(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Fetched { end: FetchEnd::Failed(Failure::Disconnected), .. }
            | Outcome::Extents { end: Err(Failure::Disconnected), .. }
            | Outcome::Summed { end: Err(Failure::Disconnected), .. }
    )
}

impl Asked {
    fn new(question: Question, whom: Whom) -> Self {
        Self { question, whom, failures: BTreeMap::new(), failure: None }
    }
}
