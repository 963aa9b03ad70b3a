//! The link to the source: connects, reconnects, fetches ranges, asks which ranges hold data.
//!
//! ```text
//!  Resting ──due──▶ Dialling (a thread of its own) ──▶ Up ──any link fails──▶ Resting
//! ```
//! One link asks for block status; when the server allows several connections, others fetch, and ask a Ferry source
//! for the checksum of each part beside it: one link is for what the guest waits for and one for what is read ahead of
//! it, so that neither queues behind the background in a socket. All links live and die together. Whatever was under way when they die is
//! told to the engine as disconnected; it asks again when the source is back.

use super::Purpose;
use super::dialling::{DialResult, FETCH_LINKS, Found, Unreached, Wishes, begin_to_dial};
use super::link::{Link, LinkEvent};
use super::silences::Silences;
use super::sources::Serial;
use super::task::{Standing, Task};
use crate::SourceUri;
use crate::buffer::{Buffer, Pool};
use crate::extents::{FileExtent, file_extents};
use crate::ring::{Descriptor, Ring};
use crate::tls::Credentials;
use ferry_engine::{Differences, Hot, OpId, SourceExtent, Urgency};
use ferry_nbd::{ByteRange, CONTEXT_CRC32C, Command};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Connections after which a source is asked for its heat at most, unless it has told it: each may take a thread that waits.
const HEAT_ASKS_MAX: u32 = 3;
/// A link's number is its source's serial and, in the lower bits, a number that no other link of that source has had.
const LINK_BITS: u32 = 40;
/// First pause before connecting again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause before connecting again.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How long a source that was asked may send nothing at all before the connection is given up and made anew. Generous:
/// a source may have to wake its disks, or read from a source of its own. Any byte starts it again, so that it says
/// nothing about how much a slow link may have to carry. (A peer that vanished is noticed earlier, by the kernel.)
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A volume's size is a multiple of this; a source may end that much earlier, and reads as zeroes there.
const SECTOR_BYTES: u64 = 512;
/// Stretches that one look at a raw file gives at most.
const FILE_EXTENTS_MAX: usize = 4096;

/// What the engine must be told.
pub(super) enum Outcome {
    Up,
    /// Another one is there beside those that were.
    Joined,
    Down,
    /// How hot it is.
    Heat(Vec<Hot>),
    /// In what it differs from the generation that it was asked about.
    Differences(Differences),
    Fetched {
        op: OpId,
        range: ferry_engine::ByteRange,
        end: FetchEnd,
    },
    /// What lies from `offset` on.
    Extents {
        op: OpId,
        offset: u64,
        end: Result<Vec<SourceExtent>, Failure>,
    },
    /// A checksum that the source was asked for by itself.
    Summed {
        op: OpId,
        end: Result<u32, Failure>,
    },
}

/// How a fetch ended.
pub(super) enum FetchEnd {
    /// The bytes lie at `lead` of the buffer and have this checksum. `verified`: it was compared with the source's.
    Data {
        buffer: Buffer,
        lead: usize,
        crc32c: u32,
        verified: bool,
        urgency: Urgency,
        /// How much of it the base gave.
        bytes_from_base: u64,
    },
    /// All of it is zero.
    Zeroes {
        verified: bool,
    },
    /// The source's checksum is another one than that of the bytes that came.
    Mismatch {
        came: u32,
    },
    Failed(Failure),
}

/// Why a fetch or a question failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Disconnected,
    Errno(i32),
    Checksum,
}

enum State {
    Resting { until: Instant },
    Dialling,
    Links(Vec<Link>),
    File { fd: Descriptor, size_bytes: u64 },
}

pub(super) struct Source {
    uri: SourceUri,
    serial: Serial,
    /// What is wanted of it; the volume may have grown beyond.
    wanted_bytes: u64,
    /// What it must have.
    least_bytes: u64,
    state: State,
    attempt: u64,
    heat_asks_left: u32,
    backoff: Duration,
    last_error: Option<String>,
    silences: Silences,
    /// It is a snapshot, and its server has said that there is none of that name any more.
    is_gone: bool,
    next_link: u64,
    next_cookie: u64,
    tasks: BTreeMap<OpId, Task>,
    outcomes: Vec<Outcome>,
}

impl Source {
    pub(super) fn new(uri: SourceUri, wanted_bytes: u64, serial: Serial) -> Self {
        Self {
            uri,
            serial,
            wanted_bytes,
            least_bytes: wanted_bytes,
            state: State::Resting { until: Instant::now() },
            attempt: 0,
            heat_asks_left: HEAT_ASKS_MAX,
            backoff: BACKOFF_MIN,
            last_error: None,
            silences: Silences::new(Instant::now()),
            is_gone: false,
            next_link: serial << LINK_BITS,
            next_cookie: 1,
            tasks: BTreeMap::new(),
            outcomes: Vec::new(),
        }
    }

    /// One that only stands in for another: how hot it is does not matter, and what it does not have the other has.
    pub(super) fn base(uri: SourceUri, wanted_bytes: u64, serial: Serial) -> Self {
        Self { least_bytes: 0, heat_asks_left: 0, ..Self::new(uri, wanted_bytes, serial) }
    }

    pub(super) fn uri(&self) -> &SourceUri {
        &self.uri
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.state, State::Links(_) | State::File { .. })
    }

    /// How long it is, while it is connected.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        match &self.state {
            State::Links(links) => links.first().map(|link| link.session.export().size_bytes),
            State::File { size_bytes, .. } => Some(*size_bytes),
            State::Resting { .. } | State::Dialling => None,
        }
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// How long it has let those wait lately who asked it, if that is long.
    pub(super) fn slow(&self, now: Instant) -> Option<Duration> {
        let State::Links(links) = &self.state else { return None };
        let lasts = links.iter().filter_map(|link| link.silence(now)).max();
        self.silences.slow(lasts, now)
    }

    /// Whether it will not come back: a snapshot's name is never used for another.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    pub(super) fn serial(&self) -> Serial {
        self.serial
    }

    /// Which source a link belongs to.
    pub(super) fn serial_of_link(link: u64) -> Serial {
        link >> LINK_BITS
    }

    pub(super) fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// When [`Source::begin`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Resting { until } => Some(until),
            State::Dialling | State::Links(_) | State::File { .. } => None,
        }
    }

    /// Begins to connect if it is time; `results` gets the outcome and `wake` is called after. `differs_from`: a generation,
    /// if it shall tell in what it differs from that before it is used.
    pub(super) fn begin(
        &mut self,
        differs_from: Option<u64>,
        credentials: Option<&Credentials>,
        results: &Sender<(Serial, DialResult)>,
        wake: impl Fn() + Send + 'static,
    ) {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.state = State::Dialling;
        self.attempt += 1;
        let wishes = Wishes { differs_from, heat: self.heat_asks_left > 0 };
        let (attempt, serial, results) = (self.attempt, self.serial, results.clone());
        let tell = move |found| {
            // Fails only when the server is ending.
            let _ = results.send((serial, DialResult { attempt, found }));
            wake();
        };
        if let Err(e) = begin_to_dial(self.uri.clone(), wishes, credentials.cloned(), tell) {
            self.rest(format!("no thread to connect with is to be had: {e}").into());
        }
    }

    pub(super) fn dialled(&mut self, result: DialResult, pool: &Pool, ring: &mut Ring<Purpose>) {
        if let Ok(Found::Heat(hot)) = result.found {
            self.heat_asks_left = 0;
            return self.outcomes.push(Outcome::Heat(hot));
        }
        if result.attempt != self.attempt || !matches!(self.state, State::Dialling) {
            return;
        }
        let found = result.found.and_then(|found| self.check_size(found));
        match found {
            Err(reason) => self.rest(reason),
            Ok(Found::Heat(_)) => {}
            Ok(Found::File(fd, size_bytes)) => {
                self.state = State::File { fd: Rc::new(fd), size_bytes };
                self.backoff = BACKOFF_MIN;
                self.last_error = None;
                self.outcomes.push(Outcome::Up);
            }
            Ok(Found::Links(dialled, differences)) => {
                let links = dialled.into_iter().map(|d| {
                    self.next_link += 1;
                    Link::new(self.next_link, d, pool)
                });
                self.state = State::Links(links.collect());
                self.heat_asks_left = self.heat_asks_left.saturating_sub(1);
                self.outcomes.extend(differences.map(Outcome::Differences));
                self.outcomes.push(Outcome::Up);
                // One that goes away is noticed, though nobody has asked it for anything.
                self.flow(ring);
            }
        }
    }

    fn check_size(&self, found: Found) -> Result<Found, Unreached> {
        let size_bytes = match &found {
            Found::File(_, size_bytes) => *size_bytes,
            Found::Heat(_) => self.wanted_bytes,
            Found::Links(links, _) => links.first().map_or(0, |l| l.session.export().size_bytes),
        };
        if size_bytes.next_multiple_of(SECTOR_BYTES) < self.least_bytes {
            let wanted = self.least_bytes;
            let uri = &self.uri;
            let reason =
                format!("{uri} has {size_bytes} bytes, the volume wants {wanted}: it is another disk");
            return Err(reason.into());
        }
        Ok(found)
    }

    fn rest(&mut self, why: Unreached) {
        let Unreached { reason, is_gone } = why;
        tracing::warn!(source = %self.uri, reason, "source is not reachable");
        self.last_error = Some(reason);
        self.is_gone |= is_gone;
        self.state = State::Resting { until: Instant::now() + self.backoff };
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// A link broke: all end, and what was under way failed.
    fn fail(&mut self, reason: String) {
        self.close();
        self.rest(reason.into());
    }

    /// Ends all links; what was under way failed.
    pub(super) fn close(&mut self) {
        if let State::Links(links) = &mut self.state {
            links.iter_mut().for_each(Link::close);
        }
        if self.is_connected() {
            self.outcomes.push(Outcome::Down);
        }
        for (op, task) in std::mem::take(&mut self.tasks) {
            self.outcomes.push(task.failed(op, Failure::Disconnected));
        }
        self.state = State::Resting { until: Instant::now() };
    }

    /// Gives up connections on which a question has been answered by nothing for too long; tells whether it did.
    pub(super) fn notice_silence(&mut self, silence_max: Duration, now: Instant) -> bool {
        let State::Links(links) = &self.state else { return false };
        let is_silent = links.iter().any(|link| link.is_silent(silence_max, now));
        if is_silent {
            self.fail(format!("{} was asked and has answered nothing for {silence_max:?}", self.uri));
        }
        is_silent
    }

    /// Fetches a range.
    pub(super) fn fetch(
        &mut self,
        op: OpId,
        range: ferry_engine::ByteRange,
        urgency: Urgency,
        pool: &Pool,
        ring: &mut Ring<Purpose>,
    ) {
        let (offset, len) = (range.offset(), range.len_bytes() as usize);
        match &mut self.state {
            State::Resting { .. } | State::Dialling => {
                let end = FetchEnd::Failed(Failure::Disconnected);
                self.outcomes.push(Outcome::Fetched { op, range, end });
            }
            State::File { fd, size_bytes } => {
                let buffer = pool.take(len);
                let task =
                    Task::file(offset, len, *size_bytes, buffer).within(self.wanted_bytes).urgent(urgency);
                match task.file_rest() {
                    None => self.outcomes.push(task.end(op)),
                    Some((at, left, from)) => {
                        ring.read_at(fd, task.buffer(), at, left, from, Purpose::SourceRead(self.serial, op));
                        self.tasks.insert(op, task);
                    }
                }
            }
            State::Links(links) => {
                let source_bytes = links[0].session.export().size_bytes;
                let sizes = links[0].session.export().block_sizes;
                let (task, parts) = Task::fetch(offset, len, source_bytes, sizes, pool);
                let mut task = task.within(self.wanted_bytes).urgent(urgency);
                if parts.is_empty() {
                    self.outcomes.push(task.end(op));
                    return;
                }
                let unit = u64::from(sizes.minimum.max(1));
                if parts.iter().any(|part| !part.len_bytes().is_multiple_of(unit)) {
                    // The end of a source that is no multiple of its own smallest request cannot be asked for.
                    let end = FetchEnd::Failed(Failure::Errno(libc::EINVAL));
                    self.outcomes.push(Outcome::Fetched { op, range, end });
                    return;
                }
                for part in parts {
                    ask_part(link_for(links, urgency), urgency, &mut self.next_cookie, op, &mut task, part);
                }
                self.tasks.insert(op, task);
                self.flow(ring);
            }
        }
    }

    /// Asks which parts of a range hold data.
    pub(super) fn query(&mut self, op: OpId, offset: u64, len: u64, pool: &Pool, ring: &mut Ring<Purpose>) {
        match &mut self.state {
            State::Resting { .. } | State::Dialling => {
                self.outcomes.push(Outcome::Extents { op, offset, end: Err(Failure::Disconnected) });
            }
            State::File { fd, .. } => {
                let found = file_extents(&**fd, offset, offset + len, FILE_EXTENTS_MAX);
                let end = found
                    .map(|all| {
                        let extent =
                            |e: FileExtent| SourceExtent { len_bytes: e.end - e.start, zero: !e.data };
                        all.into_iter().map(extent).collect()
                    })
                    .map_err(|e| Failure::Errno(e.raw_os_error().unwrap_or(libc::EIO)));
                self.outcomes.push(Outcome::Extents { op, offset, end });
            }
            State::Links(links) => {
                let link = &mut links[0];
                let Some((mut task, range)) = Task::query(offset, len, &link.session, pool) else {
                    // A server that cannot tell: all of it may be data.
                    self.outcomes.push(Outcome::Extents {
                        op,
                        offset,
                        end: Ok(vec![SourceExtent { len_bytes: len, zero: false }]),
                    });
                    return;
                };
                self.next_cookie += 2;
                link.ask(
                    Urgency::Background,
                    self.next_cookie,
                    op,
                    Command::BlockStatus { range, only_one: false },
                );
                task.asked();
                self.tasks.insert(op, task);
                self.flow(ring);
            }
        }
    }

    /// Whether the source tells checksums.
    pub(super) fn tells_checksums(&self) -> bool {
        match &self.state {
            State::Links(links) => {
                links.last().is_some_and(|link| link.session.context_id(CONTEXT_CRC32C).is_some())
            }
            State::Resting { .. } | State::Dialling | State::File { .. } => false,
        }
    }

    /// Asks for the checksum of a range, at most a region, without its bytes: of a source that tells checksums.
    pub(super) fn sum(
        &mut self,
        op: OpId,
        range: ferry_engine::ByteRange,
        pool: &Pool,
        ring: &mut Ring<Purpose>,
    ) {
        let asked = ByteRange::new(range.offset(), range.len_bytes());
        let (State::Links(links), Some(asked)) = (&mut self.state, asked) else {
            self.outcomes.push(Outcome::Summed { op, end: Err(Failure::Disconnected) });
            return;
        };
        let mut task = Task::sum(range, pool);
        self.next_cookie += 2;
        let command = Command::BlockStatus { range: asked, only_one: true };
        link_for(links, Urgency::Background).ask(Urgency::Background, self.next_cookie, op, command);
        task.asked();
        self.tasks.insert(op, task);
        self.flow(ring);
    }

    /// Keeps all links flowing.
    fn flow(&mut self, ring: &mut Ring<Purpose>) {
        let State::Links(links) = &mut self.state else { return };
        if let Err(e) = links.iter_mut().try_for_each(|link| link.flow(ring)) {
            self.fail(format!("{} cannot be asked: {e}", self.uri));
        }
    }

    /// A read of a raw file came back.
    pub(super) fn file_read(&mut self, op: OpId, result: std::io::Result<u32>, ring: &mut Ring<Purpose>) {
        let (State::File { fd, .. }, Some(task)) = (&self.state, self.tasks.get_mut(&op)) else { return };
        let errno = match result {
            Ok(0) => Some(libc::EIO), // The file became shorter under us.
            Ok(count) => {
                task.file_progress(count as usize);
                None
            }
            Err(e) => Some(e.raw_os_error().unwrap_or(libc::EIO)),
        };
        if errno.is_none()
            && let Some((at, left, from)) = task.file_rest()
        {
            return ring.read_at(fd, task.buffer(), at, left, from, Purpose::SourceRead(self.serial, op));
        }
        let task = self.tasks.remove(&op).expect("it was just there");
        self.outcomes.push(match errno {
            Some(errno) => task.failed(op, Failure::Errno(errno)),
            None => task.end(op),
        });
    }

    pub(super) fn sent(&mut self, id: u64, result: std::io::Result<u32>, ring: &mut Ring<Purpose>) {
        let State::Links(links) = &mut self.state else { return };
        let Some(link) = links.iter_mut().find(|l| l.id == id) else { return };
        match link.sent(result) {
            true => self.flow(ring),
            false => self.fail(format!("the connection to {} broke", self.uri)),
        }
    }

    pub(super) fn received(&mut self, id: u64, result: std::io::Result<u32>, ring: &mut Ring<Purpose>) {
        let State::Links(links) = &mut self.state else { return };
        let Some(link) = links.iter_mut().find(|l| l.id == id) else { return };
        let now = Instant::now();
        if let Some(silence) = link.silence(now) {
            self.silences.ended(silence, now);
        }
        let mut broken = match link.received(result) {
            true => None,
            false => Some(format!("{} closed the connection", self.uri)),
        };
        while broken.is_none() {
            match link.next(&mut self.tasks) {
                Ok(LinkEvent::Wait) => break,
                Ok(LinkEvent::Progress) => {}
                Ok(LinkEvent::Ended { op }) => {
                    self.backoff = BACKOFF_MIN;
                    self.last_error = None;
                    if let Some(Standing::Whole) = self.tasks.get(&op).map(Task::standing) {
                        let task = self.tasks.remove(&op).expect("it was just there");
                        self.outcomes.push(task.end(op));
                    }
                }
                Err(e) => broken = Some(format!("{} does not keep to the NBD protocol: {e}", self.uri)),
            }
        }
        match broken {
            None => self.flow(ring),
            Some(reason) => self.fail(reason),
        }
    }
}

/// The link a fetch goes over.
fn link_for(links: &mut [Link], urgency: Urgency) -> &mut Link {
    let candidates = links_for(links.len(), urgency);
    let least_busy = links[candidates].iter_mut().min_by_key(|link| link.load());
    least_busy.expect("there is always one link")
}

/// Which of so many links may carry a fetch. With several the first carries none: it knows no checksums.
fn links_for(count: usize, urgency: Urgency) -> Range<usize> {
    match (count, urgency) {
        (0..=FETCH_LINKS, _) => count - 1..count,
        (_, Urgency::Guest) => 1..2,
        // Neither before what the guest waits for nor behind what nobody does.
        (_, Urgency::Ahead) => 2..3,
        (_, Urgency::Background) => 3..count,
    }
}

/// Asks for one part, and for its checksum.
fn ask_part(
    link: &mut Link,
    urgency: Urgency,
    next_cookie: &mut u64,
    op: OpId,
    task: &mut Task,
    part: ByteRange,
) {
    *next_cookie += 2;
    let (read, checksum) = (*next_cookie, *next_cookie + 1);
    task.asked();
    link.ask(urgency, read, op, Command::Read { range: part, dont_fragment: false });
    if link.session.context_id(CONTEXT_CRC32C).is_some() {
        task.asked_checksum(checksum, part);
        link.ask(urgency, checksum, op, Command::BlockStatus { range: part, only_one: true });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_urgency_has_links_of_its_own_and_none_that_knows_no_checksums() {
        let all =
            [Urgency::Guest, Urgency::Ahead, Urgency::Background].map(|u| links_for(1 + FETCH_LINKS, u));
        let mut carried: Vec<usize> = all.into_iter().flatten().collect();
        carried.sort_unstable();
        assert_eq!(carried, (1..=FETCH_LINKS).collect::<Vec<_>>());
        assert_eq!(links_for(1, Urgency::Ahead), 0..1, "the only link carries all");
    }
}
