//! Everything that exists in a simulation: hosts, their disks and processes, the network between them.
//!
//! Invariant: whoever changes the world holds its one lock, and never while waiting. What takes time is a task that
//! comes back later and looks whether what it meant is still there.

use crate::dice::Dice;
use crate::faults::{Faults, Planted};
use crate::oracle::Oracle;
use crate::process::Process;
use crate::server::Server;
use crate::store::Store;
use crate::told::Told;
use crate::trace::Trace;
use ferry_agent::Agent;
use ferry_agent::records::Book;
use ferry_api::{JobId, MachineId, VolumeId, VolumeKey, WorkerName};
use ferry_crossing::Subject;
use ferry_engine::{Blocks, MapLog};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The time on all clocks when a simulation begins, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_900_000_000_000;

/// A host, by its place among all.
pub type HostIndex = usize;

/// A copy of a volume on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The host.
    pub host: HostIndex,
    /// The copy.
    pub key: VolumeKey,
}

/// A simulated world, shared by all that happens in it.
pub struct World {
    state: Mutex<State>,
    /// Told when an agent died or ended.
    pub agent_gone: tokio::sync::Notify,
}

/// What is in the world.
pub struct State {
    /// The world itself, for what happens later.
    pub world: std::sync::Weak<World>,
    /// All choices.
    pub dice: Dice,
    /// What may go wrong.
    pub faults: Faults,
    /// A mistake that somebody made on purpose.
    pub planted: Option<Planted>,
    /// What guests were told.
    pub oracle: Oracle,
    /// What happened.
    pub trace: Trace,
    /// All hosts.
    pub hosts: Vec<Host>,
    /// Pairs of hosts (lower one first) that do not hear each other.
    pub cut: BTreeSet<(HostIndex, HostIndex)>,
    /// The first broken promise.
    pub found: Option<String>,
    /// How often what happened.
    pub tally: BTreeMap<&'static str, u64>,
    /// Moves away from one worker at once.
    pub moves_at_once: NonZeroUsize,
    /// How long a fetch is under way at most, each way, in milliseconds.
    pub travel_ms_max: u64,
    /// Background fetches that a server makes at a time.
    pub fetches_max: u32,
    /// How long a server waits before it tells its map what has become local, in milliseconds.
    pub persist_every_ms: u64,
    /// Guests flush one time out of so many that they might.
    pub flushes_one_in: u64,
    /// Where each machine is at home: where it was made, or handed over to.
    pub homes: BTreeMap<MachineId, HostIndex>,
    /// Jobs that have handed their machine over.
    pub handed_over: BTreeSet<JobId>,
    /// The volumes of each machine that ran.
    pub disks: BTreeMap<MachineId, Vec<VolumeId>>,
    /// Until when guests may be told that something of a volume cannot be read, in milliseconds since the beginning.
    pub bad_until_ms: BTreeMap<VolumeId, u64>,
    /// Whether anything ever went wrong, or somebody stopped a machine: then memory may be lost.
    pub has_troubles: bool,
    /// Machines that a job keeps down by pausing them, each with their host: nobody ends them before they were handed over.
    pub moves_live: BTreeMap<MachineId, HostIndex>,
    /// Machines that a person has asked to stop, until they have: their grace may be over while their memory moves.
    pub asked_to_stop: BTreeSet<MachineId>,
    /// The next number of a guest: its boot id.
    pub next_life: u64,
    /// Guests rest.
    pub is_quiet: bool,
    /// The next number that a guest writes.
    pub next_token: u64,
    begun: Instant,
}

/// One host.
pub struct Host {
    /// The worker on it.
    pub name: WorkerName,
    /// Whether it has power.
    pub is_up: bool,
    /// How often it was started.
    pub boot: u64,
    /// Its time stands still.
    pub is_suspended: Arc<Told<bool>>,
    /// How far its clock on the wall is from the truth for a while, in milliseconds.
    pub clock_off_ms: i64,
    /// How far it is from the truth all the time, in milliseconds.
    pub clock_skew_ms: i64,
    /// Its disks are full.
    pub is_full: bool,
    /// How many times slower than usual its disks are.
    pub slowness: u64,
    /// Its agent's records.
    pub book: Book,
    /// The marks of what it handed over.
    pub marks: BTreeMap<Subject, Vec<u8>>,
    /// Directories of machines.
    pub machine_dirs: BTreeSet<MachineId>,
    /// Directories of copies.
    pub copies: BTreeMap<VolumeKey, Copy>,
    /// Directories that are being deleted.
    pub aside: BTreeMap<String, Copy>,
    /// Processes that run.
    pub processes: BTreeMap<u32, Process>,
    /// Volume servers that answer.
    pub servers: BTreeMap<VolumeKey, Server>,
    /// The last words of volume servers.
    pub last_words: BTreeMap<VolumeKey, String>,
    /// Its agent, once it has started.
    pub agent: Option<Arc<Agent>>,
    /// The life of its agent.
    pub life: Option<Arc<Life>>,
    next_pid: u32,
    next_port: u16,
}

/// What lies in the directory of a copy.
pub struct Copy {
    /// The bytes.
    pub data: Store,
    /// The map, as the engine encodes it. What is here is durable.
    pub map: Vec<u8>,
    /// Its log.
    pub log: MapLog,
    /// Where the last frame of the map begins, if it tells of nothing but blocks.
    pub last_frame: Option<usize>,
    /// Blocks that are local and not in the map; gone with the power.
    pub notes: Vec<Blocks>,
    /// Where its remote blocks are, by its description.
    pub source: Option<String>,
    /// The port at which it is exported, by its description.
    pub export: Option<u16>,
    /// The generation that it was made from, by its description.
    pub born_from: Option<u64>,
    /// What it reads beside its source, by its description.
    pub base: Option<ferry_volume::Base>,
    /// Sectors that its disk cannot give to other workers.
    pub bad: Option<Range<usize>>,
}

/// The life of one agent. What a dead one still tries never comes back to it.
#[derive(Debug)]
pub struct Life(Told<bool>);

impl Default for Life {
    fn default() -> Self {
        Self(Told::new(false))
    }
}

impl Life {
    /// Ends it.
    pub fn end(&self) {
        self.0.tell(true);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.get()
    }

    /// Returns when it has ended.
    pub async fn ended(&self) {
        self.0.wait_for(|over| *over).await;
    }
}

impl World {
    /// A world of hosts that are up and run nothing.
    #[must_use]
    pub fn new(mut dice: Dice, planted: Option<Planted>, hosts: usize, trace: Trace) -> Arc<Self> {
        let begun = Instant::now();
        let travel_ms_max = [2, 40, 800, 6_000][dice.index(4)];
        let fetches_max = [1, 1, 2, 16][dice.index(4)];
        let persist_every_ms = [500, 2_000, 60_000][dice.index(3)];
        let flushes_one_in = [1, 3, 30][dice.index(3)];
        Arc::new_cyclic(|world| Self {
            state: Mutex::new(State {
                world: world.clone(),
                dice,
                faults: Faults::none(),
                planted,
                oracle: Oracle::default(),
                trace,
                hosts: (0..hosts).map(Host::new).collect(),
                cut: BTreeSet::new(),
                found: None,
                tally: BTreeMap::new(),
                moves_at_once: NonZeroUsize::MIN,
                travel_ms_max,
                fetches_max,
                persist_every_ms,
                flushes_one_in,
                homes: BTreeMap::new(),
                handed_over: BTreeSet::new(),
                disks: BTreeMap::new(),
                bad_until_ms: BTreeMap::new(),
                has_troubles: false,
                moves_live: BTreeMap::new(),
                asked_to_stop: BTreeSet::new(),
                next_life: 1,
                is_quiet: false,
                next_token: 1,
                begun,
            }),
            agent_gone: tokio::sync::Notify::new(),
        })
    }

    /// The world, to be looked at or changed. Never held while waiting.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends to the trace.
    pub fn say(&self, who: &str, what: impl AsRef<str>) {
        self.lock().say(who, what);
    }

    /// Waits for a while, and as long as the host stands still or has no power. Tells whether it has not been started
    /// anew meanwhile.
    pub async fn pass(&self, host: HostIndex, ms: u64) -> bool {
        let boot = self.lock().hosts[host].boot;
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        self.awake(host).await;
        let host = &self.lock().hosts[host];
        host.is_up && host.boot == boot
    }

    /// Waits while a host stands still.
    pub async fn awake(&self, host: HostIndex) {
        let suspended = Arc::clone(&self.lock().hosts[host].is_suspended);
        suspended.wait_for(|suspended| !suspended).await;
    }

    /// Lets an agent go on once its host does; never, if the agent is dead by then.
    pub async fn let_through(&self, host: HostIndex, life: &Life, ms: u64) {
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if !life.is_over() {
            self.awake(host).await;
        }
        if life.is_over() {
            std::future::pending::<()>().await;
        }
    }

    /// How long something takes that a disk of the host does, in milliseconds.
    pub fn disk_ms(&self, host: HostIndex) -> u64 {
        self.lock().disk_ms(host)
    }
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).expect("no simulation lasts that long")
}

impl Host {
    fn new(index: usize) -> Self {
        Self {
            name: format!("w{}", index + 1).parse().expect("it is a name"),
            is_up: true,
            boot: 1,
            is_suspended: Arc::new(Told::new(false)),
            clock_off_ms: 0,
            clock_skew_ms: 0,
            is_full: false,
            slowness: 1,
            book: Book::blank().expect("records in memory can be made"),
            marks: BTreeMap::new(),
            machine_dirs: BTreeSet::new(),
            copies: BTreeMap::new(),
            aside: BTreeMap::new(),
            processes: BTreeMap::new(),
            servers: BTreeMap::new(),
            last_words: BTreeMap::new(),
            agent: None,
            life: None,
            next_pid: 100,
            next_port: 10_000,
        }
    }

    /// A process number that no process of this host ever had.
    pub const fn fresh_pid(&mut self) -> u32 {
        self.next_pid += 1;
        self.next_pid
    }

    /// A port that nothing of this host ever listened on.
    pub const fn fresh_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }
}

impl State {
    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        millis(self.begun)
    }

    /// What the clock on the wall of a host shows, in milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self, host: HostIndex) -> u64 {
        let Host { clock_off_ms, clock_skew_ms, .. } = self.hosts[host];
        (EPOCH_MS + self.now_ms()).saturating_add_signed(clock_off_ms + clock_skew_ms)
    }

    /// Appends to the trace.
    pub fn say(&mut self, who: &str, what: impl AsRef<str>) {
        let now_ms = self.now_ms();
        self.trace.say(now_ms, who, what.as_ref());
    }

    /// Appends to the trace what happened on a host.
    pub fn say_of(&mut self, host: HostIndex, what: impl AsRef<str>) {
        let name = self.hosts[host].name.to_string();
        self.say(&name, what);
    }

    /// Counts something that happened.
    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// How often something happened.
    pub fn tally(&self, what: &str) -> u64 {
        self.tally.get(what).copied().unwrap_or_default()
    }

    /// A promise is broken.
    pub fn find(&mut self, what: impl AsRef<str>) {
        self.say("ORACLE", what.as_ref());
        let what = crate::trace::short(what.as_ref());
        self.found.get_or_insert(what);
    }

    /// Whether two hosts hear each other.
    #[must_use]
    pub fn hear(&self, one: HostIndex, other: HostIndex) -> bool {
        let is_there = |host: HostIndex| self.hosts[host].is_up && !self.hosts[host].is_suspended.get();
        one == other
            || (is_there(one) && is_there(other) && !self.cut.contains(&(one.min(other), one.max(other))))
    }

    /// Whether a guest may be told that something of a volume cannot be read.
    #[must_use]
    pub fn may_be_bad(&self, volume: VolumeId) -> bool {
        self.bad_until_ms.get(&volume).is_some_and(|until| self.now_ms() <= *until)
    }

    /// The host of a name.
    #[must_use]
    pub fn host_named(&self, name: &str) -> Option<HostIndex> {
        self.hosts.iter().position(|host| host.name.as_str() == name)
    }

    /// How long something takes that a disk does, in milliseconds.
    pub fn disk_ms(&mut self, host: HostIndex) -> u64 {
        let slowness = self.hosts[host].slowness;
        if slowness == 1 { self.dice.roll(3) } else { self.dice.between(1, 4) * slowness }
    }

    /// Whether something happens so many times in a thousand that only happens while anything may go wrong.
    pub fn mishap(&mut self, permille: u64) -> bool {
        self.faults.are_on && self.dice.permille(permille)
    }
}

impl World {
    /// Appends to the trace what only people look at, unless somebody holds the world.
    pub fn mutter(&self, what: &str) {
        if let Ok(mut state) = self.state.try_lock() {
            let now_ms = state.now_ms();
            state.trace.mutter(now_ms, "log", what);
        }
    }
}
