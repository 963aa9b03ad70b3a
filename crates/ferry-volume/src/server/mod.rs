//! The server: one loop that waits for the ring, tells the engine what happened, and does what the engine says.
//!
//! ```text
//!  ring ──completion──▶ Server ──Event──▶ Engine ──Operation──▶ Server ──▶ ring
//!                         ├── connections (guest, other workers)      ├── disk   (data, map)
//!                         ├── asks        (agent)                     └── source (links, or a raw file)
//!                         └── doors       (listening sockets)
//! ```
//!
//! There is one thread and no lock; only connecting to the source, which may wait for a network, has a thread of its
//! own and reports back through an eventfd.

mod arrivals;
mod asks;
mod base;
mod command;
mod connection;
mod dialling;
mod direct;
mod disk;
mod doors;
mod entrance;
mod frontends;
mod gather;
mod growth;
mod inline;
mod latency;
mod link;
mod live;
mod loss;
mod mailbox;
mod marks;
mod more_sources;
mod notes;
mod operations;
mod pace;
#[cfg(test)]
mod power_loss;
mod precopy;
mod receipts;
mod requests;
mod secure;
mod share;
mod silences;
mod snapshots;
mod source;
mod sources;
mod stream;
mod suspects;
mod task;
mod trust;
mod walk;

use crate::buffer::{Buffer, Pool};
use crate::control::Phase;
use crate::directory::{CONTROL_SOCKET, DirectoryError, GUEST_SOCKET};
use crate::heat;
use crate::ring::{Completion, Descriptor, IoBackend, Ring};
use crate::store::{self, Store, StoreError, say_ready};
use crate::tls::{Credentials, CredentialsError};
use crate::writeback::Writeback;
use asks::Asker;
use base::Rest;
use connection::Connection;
use dialling::DialResult;
use direct::{Direct, Turns};
use disk::DiskJob;
use doors::{Door, listen_unix};
use ferry_engine::{Blocks, Command, Engine, Event, Limits, MapState, OpId, Operation, SnapshotId};
use frontends::Frontends;
pub(crate) use frontends::devices_left;
pub use frontends::{UblkDriver, clear_devices, probe_ublk};
use growth::Clearing;
use inline::Inline;
use latency::Latency;
use loss::Losing;
use mailbox::{Mailbox, Settled};
use operations::{CopyIn, Fetched};
use pace::Rate;
use precopy::Precopy;
use receipts::Ledger;
use requests::{Asked, JustRead};
use rustix::event::{EventfdFlags, eventfd};
use share::Share;
use snapshots::KeptJob;
use source::SILENCE_MAX;
use sources::{Serial, Sources};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
pub(crate) use task::is_zero;

/// Longest sleep of an idle server.
const IDLE: Duration = Duration::from_secs(60);
/// How to serve a volume.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The volume's directory, made by [`crate::create`].
    pub dir: PathBuf,
    /// How to do I/O.
    pub io: IoBackend,
    /// Directory of certificates. With it, other workers read this volume over TLS only; without it, no source is
    /// read over TLS.
    pub tls: Option<PathBuf>,
    /// Count what the guest touches, so that a move takes the hottest first.
    pub count_heat: bool,
}

/// Why a volume is not, or no longer, served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A socket cannot be made.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The ring is not to be had.
    #[error("the volume server cannot begin its I/O ({cause}); raise the limit on open files or memory")]
    Ring {
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The ring failed while serving.
    #[error("the volume server must end: its io_uring failed")]
    RingFailed(#[source] io::Error),
}

/// What an operation on the ring is for.
pub(crate) enum Purpose {
    Wake,
    Accepted(Door),
    Received(u64),
    Sent(u64),
    Asked(u64),
    AnswerSent(u64),
    LinkReceived(u64),
    LinkSent(u64),
    SourceRead(Serial, OpId),
    Disk(DiskJob),
    SumsSynced,
    Walked(u64),
    Kept(KeptJob),
    Cleared(Clearing),
}

struct Server {
    ring: Ring<Purpose>,
    pool: Pool,
    engine: Engine,
    operations: Vec<Operation>,
    store: Store,
    inline: Inline,
    credentials: Option<Credentials>,
    writeback: Writeback,
    turns: Turns<Direct>,
    /// From when its device is cleared until the engine tells how it went.
    grows_on_device: bool,
    next_id: u64,
    connections: HashMap<u64, (Door, Connection)>,
    requests: HashMap<u64, Asked>,
    just_read: Option<JustRead>,
    fetched: HashMap<u64, Fetched>,
    /// What came for the guest and is kept when the guest has been answered.
    to_keep: Vec<CopyIn>,
    /// Of snapshots.
    sides: BTreeMap<SnapshotId, Descriptor>,
    askers: HashMap<u64, Asker>,
    /// Who waits for a command of the engine.
    commanded: Vec<(u64, Command)>,
    losing: Losing,
    rest: Rest,
    sources: Sources,
    silence_max: Duration,
    guest_door: Descriptor,
    control_door: Descriptor,
    reader_door: Option<(Descriptor, SocketAddr)>,
    /// Other workers may read the volume while its guest writes.
    is_live: bool,
    /// Doors at which `accept` failed, and when to try again.
    paused_doors: Vec<(Door, Instant)>,
    wake: Arc<OwnedFd>,
    wake_door: Descriptor,
    wake_buffer: Buffer,
    dialled_sender: Sender<(Serial, DialResult)>,
    dialled: Receiver<(Serial, DialResult)>,
    started: Instant,
    next_tick: Instant,
    rate: Rate,
    latency: Latency,
    share: Share,
    /// Events that wait until the engine's last wishes are fulfilled.
    inbox: VecDeque<Event>,
    feeding: bool,
    /// What is to be noted in this turn.
    noting: Vec<(OpId, Blocks)>,
    /// Connections that got replies in this turn.
    lately_answered: Vec<u64>,
    mailbox: Mailbox,
    /// Guests of frontends whose letters were replied to in this turn.
    lately_mailed: Vec<Settled>,
    frontends: Frontends,
    ledger: Ledger,
    precopy: Precopy,
    /// The agents that told us to end, while frontends still hold the volume.
    shutdown_asked: Vec<u64>,
    /// The agents that told us to end; they are answered first.
    ending: Vec<u64>,
}

/// Serves one volume until it is told to end.
///
/// # Errors
/// The volume cannot be opened, or the ring failed.
pub fn serve(options: &ServeOptions) -> Result<(), ServeError> {
    serve_impatiently(options, SILENCE_MAX)
}

/// As [`serve`], for tests that cannot wait as long: a source that was asked and sends nothing for `silence_max` is
/// connected to anew.
///
/// # Errors
/// As [`serve`].
#[doc(hidden)]
pub fn serve_impatiently(options: &ServeOptions, silence_max: Duration) -> Result<(), ServeError> {
    let mut server = Server::open(options)?;
    server.silence_max = silence_max;
    say_ready();
    server.run()
}

fn engine_of(state: MapState, store: &Store, options: &ServeOptions) -> Engine {
    let mut engine = Engine::new(state, Limits { count_heat: options.count_heat, ..Limits::default() });
    store.noted.iter().for_each(|&blocks| engine.take_up_note(blocks));
    if store.may_hold_anything() {
        engine.store_may_hold_anything();
    }
    engine
}

impl Server {
    fn open(options: &ServeOptions) -> Result<Self, ServeError> {
        let credentials = options.tls.as_deref().map(Credentials::load).transpose()?;
        let (store, state) = store::open(&options.dir)?;
        let losing = Losing::found(&store, state.has_source)?;
        let ring = Ring::new(options.io).map_err(|cause| ServeError::Ring { cause })?;
        let pool = Pool::new();
        // The control door last: whoever reaches it finds the other.
        let guest_door = Rc::new(listen_unix(&options.dir.join(GUEST_SOCKET))?);
        let control_door = Rc::new(listen_unix(&options.dir.join(CONTROL_SOCKET))?);
        let (wake, wake_door) = bell().map_err(|cause| ServeError::Ring { cause })?;
        let (dialled_sender, dialled) = channel();
        let now = Instant::now();
        let open = Phase::of_map(state.phase) == Phase::Open;
        let frontends = Frontends::new(&options.dir, &store.config.frontends, open);
        let ledger = Ledger::open(&store, &state)?;
        let engine = engine_of(state, &store, options);
        let mut server = Self {
            ring,
            engine,
            operations: Vec::new(),
            store,
            inline: Inline::default(),
            credentials,
            writeback: Writeback::default(),
            turns: Turns::default(),
            grows_on_device: false,
            next_id: 1,
            connections: HashMap::new(),
            requests: HashMap::new(),
            just_read: None,
            fetched: HashMap::new(),
            to_keep: Vec::new(),
            sides: BTreeMap::new(),
            askers: HashMap::new(),
            commanded: Vec::new(),
            losing,
            rest: Rest::default(),
            sources: Sources::default(),
            silence_max: SILENCE_MAX,
            guest_door,
            control_door,
            reader_door: None,
            is_live: false,
            paused_doors: Vec::new(),
            mailbox: Mailbox::new(wake.clone()),
            wake,
            wake_door: Rc::new(wake_door),
            wake_buffer: pool.take(8),
            pool,
            dialled_sender,
            dialled,
            started: now,
            next_tick: now,
            rate: Rate::new(now),
            latency: Latency::new(now),
            share: Share::default(),
            inbox: VecDeque::new(),
            feeding: false,
            noting: Vec::new(),
            lately_answered: Vec::new(),
            lately_mailed: Vec::new(),
            frontends,
            ledger,
            precopy: Precopy::none(),
            shutdown_asked: Vec::new(),
            ending: Vec::new(),
        };
        server.go_on_as_described();
        Ok(server)
    }

    /// Takes up what the server before this one did, and was told.
    fn go_on_as_described(&mut self) {
        if let Some(heat) = heat::load(&self.store.dir, self.store.config.size_bytes) {
            self.engine.warm_up(heat);
        }
        self.pace_as_described();
        match self.phase() {
            Phase::Sealed => self.begin_sealed_sums(),
            Phase::Standby | Phase::Open => self.forget_sealed_sums(),
        }
        let policy = self.store.config.loss_policy.to_engine();
        self.feed(Event::Command(Command::SetLossPolicy { policy }));
        self.listen_again();
        self.follow_source();
        self.follow_frontends();
    }

    fn run(&mut self) -> Result<(), ServeError> {
        self.accept(Door::Control);
        self.accept(Door::Guest);
        self.wait_for_wake();
        let mut completed = Vec::new();
        let mut ended = Instant::now();
        while self.ending.is_empty() || self.is_ending_to_be_told() {
            let timeout = self.until_next_turn(ended);
            self.ring.wait(timeout, &mut completed).map_err(ServeError::RingFailed)?;
            let now = Instant::now();
            self.latency.turn_begins(ended, now);
            for completion in completed.drain(..) {
                self.complete(completion);
            }
            self.turn(now);
            self.flow_on();
            ended = Instant::now();
            self.latency.turn_ends(ended);
        }
        self.close_doors();
        self.precopy.end();
        self.ledger.arrivals.close();
        heat::keep(&self.store.dir, self.engine.heat());
        Ok(())
    }

    /// Others who do not take their answers cannot keep us from ending.
    fn is_ending_to_be_told(&self) -> bool {
        self.ending.iter().any(|asker| self.askers.get(asker).is_some_and(Asker::has_unsent))
    }

    /// How long nothing needs to be done unless something completes.
    fn until_next_turn(&self, now: Instant) -> Duration {
        let tick = self.engine.wants_tick().then_some(self.next_tick);
        let dial = self.sources.due();
        let doors = self.paused_doors.iter().map(|(_, at)| *at).min();
        let next = [tick, dial, doors, self.walks_due()].into_iter().flatten().min();
        next.map_or(IDLE, |at| at.saturating_duration_since(now))
    }

    /// What time alone brings: ticks, another try at the source and at doors.
    fn turn(&mut self, now: Instant) {
        if now >= self.next_tick {
            if self.rate.is_due(now) {
                let status = self.engine.status();
                self.rate.observe(status.bytes_fetched + status.bytes_from_base, now);
            }
            self.keep_to_budget();
            self.pace_precopy();
            let now_ms = self.now_ms();
            self.feed(Event::Tick { now_ms });
            self.tell_latency(now);
            self.next_tick = now + Duration::from_millis(self.engine.tick_ms());
        }
        let wake = self.wake.clone();
        self.sources.turn(self.silence_max, self.credentials.as_ref(), &self.dialled_sender, move || {
            ring_the_bell(&wake);
        });
        self.with_sources(|_, _| {});
        let due: Vec<Door> =
            self.paused_doors.extract_if(.., |(_, at)| *at <= now).map(|(door, _)| door).collect();
        due.into_iter().for_each(|door| self.accept(door));
        self.walk_on();
    }

    /// Time as the engine counts it: milliseconds since the server started.
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Sends the replies of this turn together, goes on with what waited behind them, and then keeps what came.
    fn flow_on(&mut self) {
        loop {
            self.write_notes_down();
            while !self.lately_answered.is_empty() {
                let mut answered = std::mem::take(&mut self.lately_answered);
                answered.sort_unstable();
                answered.dedup();
                answered.into_iter().for_each(|id| self.with_connection(id, |_| {}));
                self.write_notes_down();
            }
            self.settle_mail();
            if self.to_keep.is_empty() && self.noting.is_empty() {
                break;
            }
            self.keep_what_came();
        }
    }

    fn complete(&mut self, completion: Completion<Purpose>) {
        let Completion { purpose, result } = completion;
        match purpose {
            Purpose::Disk(job) => {
                let ended = self.disk().completed(job, result);
                if let Some((op, result)) = ended.and_then(|(op, result)| self.hold_back(op, result)) {
                    self.feed(Event::Done { op, result });
                }
            }
            Purpose::SumsSynced => {
                if let Some((op, result)) = self.arrivals_synced(result) {
                    self.feed(Event::Done { op, result });
                }
            }
            Purpose::Walked(number) => self.walk_read(number, result),
            Purpose::Kept(job) => self.kept(job, result),
            Purpose::Cleared(clearing) => self.cleared(clearing, result),
            Purpose::Received(id) => self.with_connection(id, |connection| connection.received(result)),
            Purpose::Sent(id) => self.with_connection(id, |connection| connection.sent(result)),
            Purpose::Asked(id) => self.with_asker(id, |asker| asker.received(result)),
            Purpose::AnswerSent(id) => self.with_asker(id, |asker| asker.sent(result)),
            Purpose::LinkReceived(id) => self.with_sources(|sources, ring| {
                if let Some(source) = sources.of_link(id) {
                    source.received(id, result, ring);
                }
            }),
            Purpose::LinkSent(id) => self.with_sources(|sources, ring| {
                if let Some(source) = sources.of_link(id) {
                    source.sent(id, result, ring);
                }
            }),
            Purpose::SourceRead(serial, op) => self.with_sources(|sources, ring| {
                if let Some(source) = sources.of(serial) {
                    source.file_read(op, result, ring);
                }
            }),
            Purpose::Accepted(door) => self.accepted(door, result),
            Purpose::Wake => {
                self.wait_for_wake();
                self.take_mail();
                self.hear_of_frontends();
                self.hear_of_precopy();
                while let Ok((serial, found)) = self.dialled.try_recv() {
                    let pool = self.pool.clone();
                    self.with_sources(|sources, ring| {
                        if let Some(source) = sources.of(serial) {
                            source.dialled(found, &pool, ring);
                        }
                    });
                }
            }
        }
    }

    fn wait_for_wake(&mut self) {
        self.ring.read_event(&self.wake_door, &self.wake_buffer, Purpose::Wake);
    }

    fn phase(&self) -> Phase {
        Phase::of_map(self.engine.status().phase)
    }
}

/// What wakes the loop: the end that threads ring, and the one that it listens to.
fn bell() -> io::Result<(Arc<OwnedFd>, OwnedFd)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
    let door = wake.try_clone()?;
    Ok((Arc::new(wake), door))
}

fn ring_the_bell(wake: &OwnedFd) {
    // Fails only when 2^64 - 2 bells are waiting.
    let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
}
