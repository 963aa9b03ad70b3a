//! How long guests wait, in a histogram that costs a counter for each request.
//!
//! The clock is read twice in a turn of the loop, not for each request: what a turn finds on a socket may have come at
//! any time since the turn before began, unless the loop slept, and what it answers leaves at its end. So the time that
//! the loop itself spends on other things counts against it. Requests that must wait for the source are not measured.

use super::Server;
use super::doors::Door;
use super::requests::Origin;
use ferry_engine::{Event, RequestKind};
use ferry_nbd::Command;
use std::time::{Duration, Instant};

/// A window with so many requests says something about one in a hundred.
const WINDOW_REQUESTS_MIN: u32 = 500;
/// Fewer must do after so long.
const WINDOW_MAX: Duration = Duration::from_secs(1);
/// What waits for so long is counted before it is answered.
const OVERDUE: Duration = Duration::from_millis(100);
/// A wait of the loop that took no longer has found something that was there before.
const NO_SLEEP: Duration = Duration::from_micros(20);
/// Each power of two has so many buckets (as a power of two): an error of at most an eighth.
const FINE_BITS: u32 = 3;
/// Buckets up to 2^36 microseconds (19 hours).
const BUCKETS: usize = (37 - FINE_BITS as usize) << FINE_BITS;

/// What has been measured in this window.
pub(super) struct Latency {
    buckets: [u32; BUCKETS],
    count: u32,
    window_began: Instant,
    /// When this turn began.
    turn_began: Instant,
    /// When what this turn finds has come, at the earliest.
    found_since: Instant,
    /// When the requests came that this turn has answered.
    answered: Vec<Instant>,
    /// What the last window said.
    p99: Option<Duration>,
}

impl Latency {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
            window_began: now,
            turn_began: now,
            found_since: now,
            answered: Vec::new(),
            p99: None,
        }
    }

    /// A turn ends: its answers are on their way.
    pub(super) fn turn_ends(&mut self, now: Instant) {
        let mut answered = std::mem::take(&mut self.answered);
        answered.drain(..).for_each(|came| self.count(now - came));
        self.answered = answered;
    }

    /// The next turn begins. The one before ended at `ended`.
    pub(super) fn turn_begins(&mut self, ended: Instant, now: Instant) {
        self.found_since = if now - ended > NO_SLEEP { now } else { self.turn_began };
        self.turn_began = now;
    }

    /// When a request came that this turn has found.
    pub(super) fn found_since(&self) -> Instant {
        self.found_since
    }

    /// A request is answered in this turn.
    pub(super) fn answered(&mut self, came: Instant) {
        self.answered.push(came);
    }

    /// What 99 of 100 requests of the last window took at most.
    pub(super) fn p99(&self) -> Option<Duration> {
        self.p99
    }

    fn count(&mut self, waited: Duration) {
        let bucket = bucket_of(waited.as_micros() as u64);
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.count = self.count.saturating_add(1);
    }

    fn is_over(&self, now: Instant) -> bool {
        self.count >= WINDOW_REQUESTS_MIN || now - self.window_began >= WINDOW_MAX
    }

    /// Ends the window; gives what 99 of 100 took at most, if there were any.
    fn close(&mut self, now: Instant) -> Option<Duration> {
        let slow = u64::from(self.count / 100);
        let mut seen = 0;
        let bucket = self.buckets.iter().rposition(|&count| {
            seen += u64::from(count);
            seen > slow
        });
        self.p99 = bucket.map(|bucket| Duration::from_micros(bucket_end_us(bucket)));
        self.buckets = [0; BUCKETS];
        self.count = 0;
        self.window_began = now;
        self.p99
    }
}

impl Server {
    /// When a request came, if its latency is to be measured.
    pub(super) fn arrival(&self, origin: &Origin, kind: RequestKind) -> Option<Instant> {
        let is_the_guests = match origin {
            Origin::Mail(_) => true,
            Origin::Nbd { command: Command::BlockStatus { .. }, .. } | Origin::Agent(_) => false,
            Origin::Nbd { connection, .. } => {
                self.connections.get(connection).is_some_and(|(door, _)| *door == Door::Guest)
            }
        };
        (is_the_guests && !self.engine.needs_source(kind)).then(|| self.latency.found_since())
    }

    /// Tells the engine how long the guest waited, at the end of each window.
    pub(super) fn tell_latency(&mut self, now: Instant) {
        if !self.latency.is_over(now) {
            return;
        }
        for came in self.requests.values().filter_map(|asked| asked.came) {
            if now - came >= OVERDUE {
                self.latency.count(now - came);
            }
        }
        if let Some(p99) = self.latency.close(now) {
            self.feed(Event::GuestWaited { p99_us: p99.as_micros() as u64 });
        }
    }
}

fn bucket_of(us: u64) -> usize {
    let fine = 1 << FINE_BITS;
    if us < fine {
        return us as usize;
    }
    let power = us.ilog2() - FINE_BITS;
    let bucket = (u64::from(power) << FINE_BITS) + (us >> power);
    (bucket as usize).min(BUCKETS - 1)
}

/// The largest value in a bucket.
fn bucket_end_us(bucket: usize) -> u64 {
    let fine = 1 << FINE_BITS;
    if bucket < fine {
        return bucket as u64;
    }
    let power = (bucket >> FINE_BITS) - 1;
    (((bucket & (fine - 1)) + fine + 1) << power) as u64 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_lies_between_the_end_of_the_one_before_and_its_own() {
        for bucket in 0..BUCKETS - 1 {
            let end = bucket_end_us(bucket);
            assert_eq!(bucket_of(end), bucket, "{end} us");
            assert_eq!(bucket_of(end + 1), bucket + 1, "{end} us");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn one_slow_request_in_a_hundred_is_not_felt_and_two_are() {
        let now = Instant::now();
        let mut latency = Latency::new(now);
        for slow in [1, 2] {
            (slow..100).for_each(|_| latency.answered(now - Duration::from_micros(100)));
            (0..slow).for_each(|_| latency.answered(now - Duration::from_millis(50)));
            latency.turn_ends(now);
            let p99_ms = latency.close(now).unwrap().as_millis();
            assert_eq!(p99_ms >= 50, slow == 2, "{slow} slow: {p99_ms} ms");
        }
        assert_eq!(latency.close(now), None, "a window without requests says nothing");
    }

    #[test]
    fn what_comes_while_the_loop_is_busy_waits_since_the_turn_before() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut latency = Latency::new(start);
        latency.turn_begins(at(0), at(1_000));
        assert_eq!(latency.found_since(), at(1_000), "the loop slept");
        // It was busy for 5 ms and found the next request at once.
        latency.turn_begins(at(6_000), at(6_001));
        assert_eq!(latency.found_since(), at(1_000));
        latency.turn_begins(at(6_010), at(9_000));
        assert_eq!(latency.found_since(), at(9_000));
    }
}
