//! A volume server: the product's engine, with a simulated disk below it and the network beside it.
//!
//! ```text
//!   guests · readers ──Request──▶ Engine ──Operation──▶ under way ──some time later──▶ disk or source, then Done
//! ```
//!
//! Invariant: an operation takes effect when it completes, in any order; when the server dies before, any part of it does.

use crate::base::BaseSide;
use crate::faults::Planted;
use crate::precopy::Precopy;
use crate::process::What;
use crate::store::{SyncPoint, Token, sectors, span};
use crate::world::{At, Copy, HostIndex, State, World};
use ferry_agent::drivers::Ended;
use ferry_api::VolumeKey;
use ferry_engine::{
    ByteRange, DataRef, Engine, Errno, Event, Limits, MapRecord, MapState, Notice, OpId, Operation, Phase,
    RequestId, RequestKind, Residence, map,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// How often a server tells its engine the time, and looks for its source, in milliseconds.
const LOOK_MS: u64 = 100;
/// The same while there is nothing to do.
const LOOK_MS_IDLE: u64 = 1_000;

/// What a request brings: what was read, or an error.
pub type Reply = Result<Vec<Token>, Errno>;

/// A server that answers.
pub struct Server {
    /// Its process.
    pub pid: u32,
    /// The product's engine.
    pub engine: Engine,
    /// Where it is connected to its source.
    pub link: Option<Link>,
    /// What it knows of its base.
    pub base: BaseSide,
    /// The port on which it listens for readers.
    pub exports: Option<u16>,
    /// Whether it gives what it holds also while its guest writes.
    pub lives: bool,
    /// What it has copied ahead.
    pub precopy: Precopy,
    /// Rises each time that its readers are sent away.
    pub epoch: u64,
    /// Notices that nobody has taken yet.
    pub notices: Vec<Notice>,
    under_way: BTreeMap<OpId, UnderWay>,
    fetched: BTreeMap<OpId, Vec<Token>>,
    requests: BTreeMap<RequestId, Asked>,
    next_request: u64,
    inbox: VecDeque<Event>,
    is_feeding: bool,
}

/// A connection to the server of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The copy that is read.
    pub to: At,
    /// Its server.
    pub pid: u32,
    /// As of then.
    pub epoch: u64,
}

struct Asked {
    buffer: Vec<Token>,
    reply: oneshot::Sender<Reply>,
}

struct UnderWay {
    operation: Operation,
    sync_point: Option<SyncPoint>,
}

impl State {
    /// A server has come up as a process: it opens its copy.
    pub fn open_server(&mut self, at: At, pid: u32) {
        let end = Ended::with_code(1);
        if !self.hosts[at.host].processes.contains_key(&pid) {
            return;
        }
        if self.hosts[at.host].servers.contains_key(&at.key) {
            self.hosts[at.host]
                .last_words
                .insert(at.key, "the volume is in use by another server".to_owned());
            return self.end_process(at.host, pid, end);
        }
        let shape = (self.dice.coin(), self.dice.coin());
        let limits = Limits {
            hydration_fetches_max: self.fetches_max,
            persist_every_bytes: 64 << 10,
            persist_every_ms: self.persist_every_ms,
            ..Limits::default()
        };
        let Some(copy) = self.hosts[at.host].copies.get_mut(&at.key) else {
            return self.end_process(at.host, pid, end);
        };
        let engine = open_engine(copy, shape, limits);
        let exports = copy.export;
        let server = Server {
            pid,
            engine,
            link: None,
            base: BaseSide::default(),
            exports,
            lives: false,
            precopy: Precopy::default(),
            epoch: 0,
            notices: Vec::new(),
            under_way: BTreeMap::new(),
            fetched: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            inbox: VecDeque::new(),
            is_feeding: false,
        };
        let phase = server.engine.status().phase;
        self.say_of(at.host, format!("server of {} (process {pid}) is up, {phase:?}", at.key));
        self.hosts[at.host].servers.insert(at.key, server);
        let world = self.world.upgrade().expect("the world is there while something happens in it");
        tokio::spawn(look(world, at, pid));
    }

    /// The copies on a host that are written while they hydrate.
    #[must_use]
    pub fn hydrating(&self, host: HostIndex) -> Vec<VolumeKey> {
        let is_hydrating = |server: &Server| {
            let status = server.engine.status();
            status.phase == Phase::Open && !status.complete
        };
        let servers = self.hosts[host].servers.iter();
        servers.filter(|(_, server)| is_hydrating(server)).map(|(key, _)| *key).collect()
    }

    /// The server of a copy, if it runs.
    #[must_use]
    pub fn server(&self, at: At) -> Option<&Server> {
        self.hosts[at.host].servers.get(&at.key)
    }

    /// The same, to be changed.
    pub fn server_mut(&mut self, at: At) -> Option<&mut Server> {
        self.hosts[at.host].servers.get_mut(&at.key)
    }

    /// Somebody asks a server; what comes of it comes later.
    pub fn request(
        &mut self,
        at: At,
        kind: RequestKind,
        buffer: Vec<Token>,
    ) -> Option<oneshot::Receiver<Reply>> {
        let server = self.server_mut(at)?;
        let id = RequestId(server.next_request);
        server.next_request += 1;
        let (reply, replied) = oneshot::channel();
        server.requests.insert(id, Asked { buffer, reply });
        self.tell(at, Event::Request { id, kind });
        Some(replied)
    }

    /// Requests of a server whose guest is gone end when nothing touches them any more.
    pub fn cancel_unheard(&mut self, at: At) -> bool {
        let Some(server) = self.server(at) else { return false };
        let unheard: Vec<RequestId> =
            server.requests.iter().filter(|(_, asked)| asked.reply.is_closed()).map(|(id, _)| *id).collect();
        let are_some = !unheard.is_empty();
        unheard.into_iter().for_each(|id| self.tell(at, Event::Cancel { id }));
        are_some
    }

    /// Tells the engine of a server something and begins what it wants. Nothing happens if the server is gone.
    pub fn tell(&mut self, at: At, event: Event) {
        let Some(server) = self.server_mut(at) else { return };
        server.inbox.push_back(event);
        if server.is_feeding {
            return;
        }
        server.is_feeding = true;
        while let Some(event) = self.server_mut(at).and_then(|server| server.inbox.pop_front()) {
            let mut out = Vec::new();
            if let Some(server) = self.server_mut(at) {
                server.engine.handle(event, &mut out);
            }
            out.into_iter().for_each(|operation| self.begin(at, operation));
        }
        if let Some(server) = self.server_mut(at) {
            server.is_feeding = false;
        }
    }

    fn begin(&mut self, at: At, operation: Operation) {
        let Some(server) = self.hosts[at.host].servers.get_mut(&at.key) else { return };
        let op = match &operation {
            Operation::ZeroBuffer { request, at, len } => {
                return server.part(*request, *at, *len).fill(0);
            }
            Operation::CopyFetched { fetch, at: from, request, request_at, len } => {
                let bytes = server.fetched[fetch][sectors(*from, *len)].to_vec();
                return server.part(*request, *request_at, *len).copy_from_slice(&bytes);
            }
            Operation::DropFetch { fetch } => return drop(server.fetched.remove(fetch)),
            Operation::Reply { request, result } => {
                let asked = server.requests.remove(request).expect("a request is answered once");
                // Whoever asked may be gone.
                return drop(asked.reply.send(result.map(|()| asked.buffer)));
            }
            Operation::Notice(notice) => return self.noticed(at, *notice),
            Operation::ReadLocal { op, .. }
            | Operation::WriteLocal { op, .. }
            | Operation::ZeroLocal { op, .. }
            | Operation::Fetch { op, .. }
            | Operation::QuerySource { op, .. }
            | Operation::KeepLocal { op, .. }
            | Operation::KeepFetched { op, .. }
            | Operation::ReadKept { op, .. }
            | Operation::SyncLocal { op }
            | Operation::Persist { op, .. }
            | Operation::Note { op, .. } => *op,
        };
        let pid = server.pid;
        let is_sync = matches!(operation, Operation::SyncLocal { .. });
        let sync_point =
            is_sync.then(|| self.hosts[at.host].copies.get(&at.key).map(|copy| copy.data.sync_begins()));
        let world = self.world.upgrade().expect("the world is there while something happens in it");
        match operation {
            Operation::Fetch { range, .. } => {
                drop(tokio::spawn(crate::wire::fetch(world, at, pid, op, range)))
            }
            Operation::QuerySource { range, .. } => {
                drop(tokio::spawn(crate::wire::query(world, at, pid, op, range)))
            }
            _ => {
                let ms = self.disk_ms(at.host);
                tokio::spawn(complete_later(world, at, pid, op, ms));
            }
        }
        if let Some(server) = self.server_mut(at) {
            server.under_way.insert(op, UnderWay { operation, sync_point: sync_point.flatten() });
        }
    }

    fn noticed(&mut self, at: At, notice: Notice) {
        let (key, planted) = (at.key, self.planted);
        match notice {
            Notice::SourceFailed { .. } | Notice::SourceBad { .. } => {}
            _ => self.say_of(at.host, format!("{key}: {notice:?}")),
        }
        // One that is told again when its volume has gone on elsewhere says nothing of what was written there.
        if notice == Notice::Sealed && !self.has_gone_on(key) {
            self.oracle.sealed(key.id);
        }
        let Some(server) = self.server_mut(at) else { return };
        if notice == Notice::Unsealed {
            server.epoch += 1;
            server.base.is_held = false;
            server.lives = false;
        }
        server.notices.push(notice);
        match (notice, planted) {
            (Notice::Sealed, Some(Planted::SealForgotten)) => self.let_map_say(at, Phase::Open),
            (Notice::Unsealed, Some(Planted::UnsealForgotten)) => self.let_map_say(at, Phase::Sealed),
            _ => {}
        }
    }

    /// Whether a later copy of the volume was opened.
    fn has_gone_on(&self, key: VolumeKey) -> bool {
        let is_later = |other: &VolumeKey, copy: &Copy| {
            other.id == key.id && other.generation > key.generation && phase_of(copy) != Phase::Standby
        };
        self.hosts.iter().any(|host| host.copies.iter().any(|(other, copy)| is_later(other, copy)))
    }

    /// An operation that a disk does is over. Nothing happens if it is not under way any more.
    pub fn complete(&mut self, at: At, pid: u32, op: OpId) {
        let Some(server) = self.server_mut(at).filter(|server| server.pid == pid) else { return };
        let Some(under_way) = server.under_way.remove(&op) else { return };
        let result = self.perform(at, under_way);
        self.tell(at, Event::Done { op, result });
    }

    /// One of the operations that disks do, if any is under way.
    pub fn one_for_disk(&mut self, at: At) -> Option<OpId> {
        let for_disk = |under_way: &UnderWay| {
            !matches!(under_way.operation, Operation::Fetch { .. } | Operation::QuerySource { .. })
        };
        let server = self.server(at)?;
        let ops: Vec<OpId> =
            server.under_way.iter().filter(|(_, u)| for_disk(u)).map(|(op, _)| *op).collect();
        (!ops.is_empty()).then(|| ops[self.dice.index(ops.len())])
    }

    /// Operations that ask the source.
    #[must_use]
    pub fn for_source(&self, at: At) -> Vec<(OpId, bool)> {
        let asks = |(op, u): (&OpId, &UnderWay)| match u.operation {
            Operation::Fetch { .. } => Some((*op, true)),
            Operation::QuerySource { .. } => Some((*op, false)),
            _ => None,
        };
        self.server(at).into_iter().flat_map(|server| server.under_way.iter().filter_map(asks)).collect()
    }

    /// Takes an operation that asks the source, if it is under way.
    pub fn take_asking(&mut self, at: At, pid: u32, op: OpId) -> bool {
        let server = self.server_mut(at).filter(|server| server.pid == pid);
        server.is_some_and(|server| server.under_way.remove(&op).is_some())
    }

    /// What was fetched is there.
    pub fn put_fetched(&mut self, at: At, op: OpId, tokens: Vec<Token>) {
        if let Some(server) = self.server_mut(at) {
            server.fetched.insert(op, tokens);
        }
    }

    fn perform(&mut self, at: At, under_way: UnderWay) -> Result<(), Errno> {
        let is_full = self.hosts[at.host].is_full;
        let planted = self.planted;
        let host = &mut self.hosts[at.host];
        let (Some(server), Some(copy)) = (host.servers.get_mut(&at.key), host.copies.get_mut(&at.key)) else {
            return Err(Errno::EIO);
        };
        match under_way.operation {
            Operation::ReadLocal { range, request, at, .. } => {
                let tokens = copy.data.read(span(range)).to_vec();
                server.part(request, at, range.len_bytes()).copy_from_slice(&tokens);
            }
            Operation::WriteLocal { range, data, .. } => {
                let tokens = server.bytes_of(data, range.len_bytes());
                return put(copy, server, &mut self.dice, range, &tokens, !is_full);
            }
            Operation::ZeroLocal { range, .. } => {
                let tokens = vec![0; span(range).len()];
                return put(copy, server, &mut self.dice, range, &tokens, true);
            }
            Operation::SyncLocal { .. } => {
                if planted != Some(Planted::SyncThatIsNone)
                    && let Some(point) = under_way.sync_point
                {
                    copy.data.sync_ends(point);
                }
            }
            Operation::Persist { .. } | Operation::Note { .. } if is_full => return Err(Errno::ENOSPC),
            Operation::Persist { mut records, .. } => {
                if planted == Some(Planted::ChangesForgotten) {
                    records.retain(|record| !matches!(record, MapRecord::MayChange(_)));
                }
                if planted == Some(Planted::GrowthForgotten) {
                    records.retain(|record| !matches!(record, MapRecord::Grown { .. }));
                }
                let frame = copy.log.append(&records);
                copy.last_frame = only_of_blocks(&records).then_some(copy.map.len());
                copy.map.extend(frame);
                if self.dice.coin() {
                    copy.notes = server.engine.noted().collect();
                }
                self.check_one_open(at, &records);
            }
            Operation::Note { blocks, .. } => copy.notes.push(blocks),
            // Forks are not simulated.
            Operation::KeepLocal { .. } | Operation::KeepFetched { .. } | Operation::ReadKept { .. } => {
                return Err(Errno::ENOSPC);
            }
            _ => unreachable!("only what a disk does is performed"),
        }
        Ok(())
    }

    /// At most one copy of a volume is open, whatever its generation.
    fn check_one_open(&mut self, at: At, records: &[MapRecord]) {
        let opens = |record: &MapRecord| *record == MapRecord::Phase(Phase::Open);
        if records.iter().any(opens) {
            self.check_open_copies(at);
        }
    }

    /// The same, of what lies on all disks.
    pub fn check_open_copies(&mut self, at: At) {
        let mut open = Vec::new();
        for host in &self.hosts {
            for (key, copy) in host.copies.iter().filter(|(key, _)| key.id == at.key.id) {
                if phase_of(copy) == Phase::Open {
                    open.push(format!("{key} on {}", host.name));
                }
            }
        }
        if open.len() > 1 {
            self.find(format!("two copies of a volume are open for writing: {}", open.join(", ")));
        }
    }

    /// As if the map had not been told what it was told.
    fn let_map_say(&mut self, at: At, phase: Phase) {
        if let Some(copy) = self.hosts[at.host].copies.get_mut(&at.key) {
            let frame = copy.log.append(&[MapRecord::Phase(phase)]);
            copy.map.extend(frame);
        }
    }

    /// The server of a copy is killed: what is under way happens in part, and nobody hears of it.
    pub fn kill_server(&mut self, at: At, how: &str) {
        let Some(mut server) = self.hosts[at.host].servers.remove(&at.key) else { return };
        self.say_of(at.host, format!("server of {} (process {}) {how}", at.key, server.pid));
        let dice = &mut self.dice;
        if let Some(copy) = self.hosts[at.host].copies.get_mut(&at.key) {
            for under_way in std::mem::take(&mut server.under_way).into_values() {
                leave_part(copy, &server, dice, &under_way.operation);
            }
        }
        let pid = server.pid;
        if self.planted == Some(Planted::NotesLost)
            && let Some(copy) = self.hosts[at.host].copies.get_mut(&at.key)
        {
            copy.notes.clear();
        }
        self.end_process(at.host, pid, Ended::by_signal(9));
    }

    /// The power goes where a copy lies.
    pub fn copy_loses_power(&mut self, at: At) {
        let Some(copy) = self.hosts[at.host].copies.get_mut(&at.key) else { return };
        let dice = &mut self.dice;
        copy.data.lose_power(|versions| dice.index(versions));
        copy.notes.clear();
        if self.planted == Some(Planted::FrameLost)
            && let Some(begins) = copy.last_frame.take()
        {
            copy.map.truncate(begins);
        }
        if phase_of(copy) == Phase::Open {
            self.oracle.power_went(at.key.id);
        }
    }

    /// A server has ended as it was asked to.
    pub fn server_ends(&mut self, at: At) {
        if let Some(server) = self.hosts[at.host].servers.remove(&at.key) {
            self.say_of(at.host, format!("server of {} (process {}) ends", at.key, server.pid));
            self.end_process(at.host, server.pid, Ended::with_code(0));
        }
    }
}

impl Server {
    fn part(&mut self, request: RequestId, at: u64, len: u64) -> &mut [Token] {
        let asked = self.requests.get_mut(&request).expect("the buffer lives until the reply");
        &mut asked.buffer[sectors(at, len)]
    }

    fn bytes_of(&self, data: DataRef, len: u64) -> Vec<Token> {
        match data {
            DataRef::Request { id, at } => self.requests[&id].buffer[sectors(at, len)].to_vec(),
            DataRef::Fetch { op, at } => self.fetched[&op][sectors(at, len)].to_vec(),
        }
    }
}

/// Whether records say nothing but which blocks are local.
fn only_of_blocks(records: &[MapRecord]) -> bool {
    records.iter().all(|record| matches!(record, MapRecord::Local(_) | MapRecord::LocalMask { .. }))
}

/// What the map of a copy says.
#[must_use]
pub fn state_of(copy: &Copy) -> MapState {
    map::decode(&copy.map).expect("a torn tail is no damage").0
}

/// What a copy was last, by its map.
fn phase_of(copy: &Copy) -> Phase {
    state_of(copy).phase
}

/// Starts a process that will be the server of a copy, if it is let.
pub fn launch(world: &Arc<World>, at: At) -> u32 {
    let pid = world.lock().start_process(at.host, What::Serves(at.key));
    let later = Arc::clone(world);
    tokio::spawn(async move {
        let ms = later.lock().dice.between(1, 20);
        let ms = ms + later.disk_ms(at.host);
        if later.pass(at.host, ms).await {
            later.lock().open_server(at, pid);
        }
    });
    pid
}

/// Opens what lies on the disk as the product's server does.
fn open_engine(copy: &mut Copy, (compacts, is_device): (bool, bool), limits: Limits) -> Engine {
    let (state, log) = map::decode(&copy.map).expect("a torn tail is no damage");
    copy.map.truncate(usize::try_from(log.bytes_valid()).expect("maps are small"));
    copy.log = log;
    if compacts {
        (copy.map, copy.log) = map::compact(&state);
        copy.last_frame = None;
    }
    let mut engine = Engine::new(state, limits);
    copy.notes.iter().for_each(|blocks| engine.take_up_note(*blocks));
    if is_device {
        engine.store_may_hold_anything();
    } else {
        let remote: Vec<ByteRange> = engine.remote_ranges().collect();
        for range in remote {
            copy.data.write(span(range).start, &vec![0; span(range).len()], || true);
        }
    }
    engine
}

/// Writes; if the disk does not take it, a part of it, with garbage where it may be.
fn put(
    copy: &mut Copy,
    server: &Server,
    dice: &mut crate::dice::Dice,
    range: ByteRange,
    tokens: &[Token],
    fits: bool,
) -> Result<(), Errno> {
    if fits {
        copy.data.write(span(range).start, tokens, || true);
        return Ok(());
    }
    copy.data.write(span(range).start, tokens, || dice.coin());
    let runs: Vec<_> = server.engine.truth(range).collect();
    for (run, residence) in runs {
        if residence == Residence::Remote {
            copy.data.write(span(run).start, &vec![Token::MAX; span(run).len()], || dice.coin());
        }
    }
    Err(Errno::ENOSPC)
}

/// What an operation leaves whose server died while it was under way.
fn leave_part(copy: &mut Copy, server: &Server, dice: &mut crate::dice::Dice, operation: &Operation) {
    match operation {
        Operation::WriteLocal { range, data, .. } => {
            let tokens = server.bytes_of(*data, range.len_bytes());
            copy.data.write(span(*range).start, &tokens, || dice.coin());
        }
        Operation::ZeroLocal { range, .. } => {
            copy.data.write(span(*range).start, &vec![0; span(*range).len()], || dice.coin());
        }
        Operation::Persist { records, .. } => {
            let mut log = copy.log;
            let frame = log.append(records);
            let torn = dice.index(frame.len() + 1);
            copy.map.extend(&frame[..torn]);
        }
        Operation::Note { blocks, .. } if dice.coin() => copy.notes.push(*blocks),
        _ => {}
    }
}

async fn complete_later(world: Arc<World>, at: At, pid: u32, op: OpId, ms: u64) {
    if world.pass(at.host, ms).await {
        world.lock().complete(at, pid, op);
    }
}

/// Tells a server the time and looks for its source, as long as it runs.
async fn look(world: Arc<World>, at: At, pid: u32) {
    let mut ms = 1;
    while world.pass(at.host, ms).await {
        let mut state = world.lock();
        let Some(server) = state.server(at).filter(|server| server.pid == pid) else { return };
        let (wants_tick, now_ms) = (server.engine.wants_tick(), state.now_ms());
        if wants_tick {
            state.tell(at, Event::Tick { now_ms });
        }
        crate::wire::look_for_source(&mut state, at);
        ms = if wants_tick { LOOK_MS } else { LOOK_MS_IDLE };
    }
}
