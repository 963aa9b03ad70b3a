//! A fleet in one thread with a clock of its own and a network that loses datagrams: what tests watch and measurements count.
//! No part of the product.

use crate::{
    COMPARE_PAUSE, Digest, Effect, Fact, Gossip, GossipKey, Medium, Member, SEEK_PAUSE, SealError, Sealer,
    Wake,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

/// How long a datagram is on its way, in microseconds.
const WAY_US: std::ops::Range<u64> = 200..2_000;

/// What has gone over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Their bytes, sealed, without the headers of UDP and IP.
    pub bytes: u64,
    /// Times that two workers compared what they know.
    pub compared: u64,
    /// Bytes of what was compared.
    pub compared_bytes: u64,
}

enum Event {
    Datagram {
        to: usize,
        sealed: Vec<u8>,
    },
    Wake {
        of: usize,
        life: u64,
        wake: Wake,
    },
    /// Somebody looks for whom it misses.
    Join {
        of: usize,
        life: u64,
    },
    /// Somebody compares what it knows with somebody else.
    Compare {
        of: usize,
        life: u64,
    },
}

struct Worker {
    me: Member,
    gossip: Gossip,
    sealer: Sealer,
    /// What it knows, by what it was told to do.
    known: BTreeMap<usize, (u64, u64)>,
    lives: bool,
}

/// A fleet. Its workers are numbered from 0.
pub struct Fleet {
    workers: Vec<Worker>,
    due: BTreeMap<(u64, u64), Event>,
    now_us: u64,
    events: u64,
    dice: SmallRng,
    /// Of a thousand datagrams so many are lost.
    lost_of_1000: u32,
    /// Workers that hear only each other, and not the others.
    apart: BTreeSet<usize>,
    traffic: Traffic,
}

impl Fleet {
    /// So many workers, none of which knows another's state; of a thousand datagrams `lost_of_1000` are lost.
    ///
    /// # Panics
    /// There are no workers, or more than 65,535.
    #[must_use]
    pub fn new(size: u16, lost_of_1000: u32, seed: u64) -> Self {
        let mut fleet = Self {
            workers: Vec::new(),
            due: BTreeMap::new(),
            now_us: 0,
            events: 0,
            dice: SmallRng::seed_from_u64(seed),
            lost_of_1000,
            apart: BTreeSet::new(),
            traffic: Traffic::default(),
        };
        let about = NonZeroU32::new(u32::from(size)).expect("a fleet has workers");
        for of in 0..usize::from(size) {
            let worker = Worker::new(of, 1, about, seed);
            fleet.workers.push(worker);
            fleet.begin(of, 1);
        }
        fleet
    }

    /// What has gone over the network so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// How long it has run by its own clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now_us)
    }

    /// Lets time pass until that is so, at most `most` of it. Tells how long it took.
    pub fn until(&mut self, most: Duration, is_so: impl Fn(&Self) -> bool) -> Option<Duration> {
        let (began, end) = (self.now_us, self.now_us + micros(most));
        // Looking at all is dear, and nothing is told faster than a datagram travels.
        let mut look_at = began;
        loop {
            if self.now_us >= look_at {
                if is_so(self) {
                    return Some(Duration::from_micros(self.now_us - began));
                }
                look_at = self.now_us + 20_000;
            }
            if self.now_us >= end || !self.step() {
                return is_so(self).then(|| Duration::from_micros(self.now_us - began));
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now_us + micros(time);
        while self.due.first_key_value().is_some_and(|((at_us, _), _)| *at_us <= end) && self.step() {}
        self.now_us = end;
    }

    /// A worker's map of machines has another state, which is told to all.
    ///
    /// # Panics
    /// There is no such worker.
    pub fn change(&mut self, of: usize, revision: u64) {
        let worker = &mut self.workers[of];
        let fact = Fact { worker: worker.me.name.clone(), epoch: worker.me.epoch, revision };
        worker.known.insert(of, (fact.epoch, revision));
        worker.gossip.tell(&fact).expect("a fact is not too long");
    }

    /// Whether all that live know that state, or a later one, of that worker's map.
    #[must_use]
    pub fn all_know(&self, of: usize, revision: u64) -> bool {
        let epoch = self.workers[of].me.epoch;
        self.living().all(|worker| worker.known.get(&of).is_some_and(|since| *since >= (epoch, revision)))
    }

    /// Whether each that lives takes exactly those that live for living.
    #[must_use]
    pub fn all_agree(&self) -> bool {
        let there: BTreeSet<_> = self.living().map(|worker| worker.me.name.clone()).collect();
        self.living().all(|worker| {
            worker.gossip.up().len() + 1 == there.len()
                && worker.gossip.up().iter().all(|name| there.contains(name))
        })
    }

    /// Whether each that lives takes that one for gone.
    #[must_use]
    pub fn all_miss(&self, of: usize) -> bool {
        let name = &self.workers[of].me.name;
        self.living().all(|worker| !worker.gossip.up().contains(name))
    }

    /// Ends a worker without a word.
    pub fn kill(&mut self, of: usize) {
        self.workers[of].lives = false;
    }

    /// Starts a worker again that was ended; it knows nothing of before.
    pub fn start(&mut self, of: usize, seed: u64) {
        let life = self.workers[of].me.epoch + 1_000;
        let about = NonZeroU32::new(u32::try_from(self.workers.len()).unwrap_or(u32::MAX));
        self.workers[of] = Worker::new(of, life, about.unwrap_or(NonZeroU32::MIN), seed);
        self.begin(of, life);
    }

    /// Cuts those off from all others, or nobody.
    pub fn part(&mut self, apart: BTreeSet<usize>) {
        self.apart = apart;
    }

    fn living(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| worker.lives)
    }

    fn begin(&mut self, of: usize, life: u64) {
        let mut within = |pause| self.dice.random_range(0..micros(pause));
        let (join, compare) = (within(SEEK_PAUSE), within(COMPARE_PAUSE));
        self.after(join, Event::Join { of, life });
        self.after(compare, Event::Compare { of, life });
    }

    fn after(&mut self, us: u64, event: Event) {
        self.events += 1;
        self.due.insert((self.now_us + us, self.events), event);
    }

    fn is_apart(&self, a: usize, b: usize) -> bool {
        self.apart.contains(&a) != self.apart.contains(&b)
    }

    fn step(&mut self) -> bool {
        let Some(((at_us, _), event)) = self.due.pop_first() else { return false };
        self.now_us = self.now_us.max(at_us);
        match event {
            Event::Datagram { to, sealed } => self.arrive(to, &sealed),
            Event::Wake { of, life, wake } if self.is_that(of, life) => {
                if let Ok(effects) = self.workers[of].gossip.wake(wake) {
                    self.follow(of, effects);
                }
            }
            Event::Join { of, life } if self.is_that(of, life) => self.join(of, life),
            Event::Compare { of, life } if self.is_that(of, life) => self.compare(of, life),
            Event::Wake { .. } | Event::Join { .. } | Event::Compare { .. } => {}
        }
        true
    }

    /// Whether a worker is still the one it was.
    fn is_that(&self, of: usize, life: u64) -> bool {
        self.workers[of].lives && self.workers[of].me.epoch == life
    }

    fn join(&mut self, of: usize, life: u64) {
        let all: Vec<Member> = self.workers.iter().map(|worker| worker.me.clone()).collect();
        let dice = self.dice.random_range(0..u64::MAX);
        if let Ok(effects) = self.workers[of].gossip.seek(&all, dice) {
            self.follow(of, effects);
        }
        self.after(micros(SEEK_PAUSE), Event::Join { of, life });
    }

    fn compare(&mut self, of: usize, life: u64) {
        let up: Vec<usize> = self.workers[of].gossip.up().iter().map(|name| number(name.as_str())).collect();
        if let Some(with) = up.get(self.dice.random_range(0..up.len().max(1))).copied()
            && self.workers[with].lives
            && !self.is_apart(of, with)
        {
            let theirs: Digest = self.workers[with].gossip.digest();
            self.traffic.compared += 1;
            self.traffic.compared_bytes +=
                u64::try_from(postcard::to_allocvec(&theirs).map_or(0, |b| b.len())).unwrap_or(0);
            let effects = self.workers[of].gossip.compare(&theirs);
            self.follow(of, effects);
        }
        self.after(micros(COMPARE_PAUSE), Event::Compare { of, life });
    }

    fn arrive(&mut self, to: usize, sealed: &[u8]) {
        if !self.workers[to].lives {
            return;
        }
        match self.workers[to].sealer.open(sealed) {
            Ok((_, datagram)) => {
                if let Ok(effects) = self.workers[to].gossip.receive(&datagram) {
                    self.follow(to, effects);
                }
            }
            // Some overtake others here, and what an earlier life has sent may still arrive.
            Err(SealError::Repeated) => {}
            Err(error) => unreachable!("all have the same key: {error}"),
        }
    }

    fn follow(&mut self, of: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, datagram } => self.send(of, number(to.name.as_str()), &datagram),
                Effect::Wake { after, wake } => {
                    let life = self.workers[of].me.epoch;
                    self.after(micros(after), Event::Wake { of, life, wake });
                }
                Effect::News(fact) => {
                    let about = number(fact.worker.as_str());
                    self.workers[of].known.insert(about, (fact.epoch, fact.revision));
                }
                Effect::Up(_) | Effect::Down(_) => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, datagram: &[u8]) {
        let sealed = self.workers[from].sealer.seal(datagram).expect("everybody has a key");
        self.traffic.datagrams += 1;
        self.traffic.bytes += u64::try_from(sealed.len()).unwrap_or(u64::MAX);
        if self.is_apart(from, to) || self.dice.random_range(0..1_000) < self.lost_of_1000 {
            return;
        }
        let way = self.dice.random_range(WAY_US);
        self.after(way, Event::Datagram { to, sealed });
    }
}

impl Worker {
    fn new(of: usize, life: u64, about: NonZeroU32, seed: u64) -> Self {
        let port = u16::try_from(of).expect("a fleet has at most 65,535 workers");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let name = format!("w{of}").parse().expect("it is a name");
        let me = Member { name, address, epoch: life };
        let key = GossipKey { id: 1, secret: [7; 32] };
        let sealer = Sealer::new(Medium::Datagrams, me.name.clone(), life, vec![key]);
        let own =
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u64::from(port)).wrapping_add(life << 20);
        Self { gossip: Gossip::new(me.clone(), about, own), me, sealer, known: BTreeMap::new(), lives: true }
    }
}

fn number(name: &str) -> usize {
    name.trim_start_matches('w').parse().expect("workers of a fleet are named so")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
