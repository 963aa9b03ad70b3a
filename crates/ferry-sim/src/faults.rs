//! What goes wrong, chosen from the seed: of each kind some seeds have much, and some have nothing.

use crate::dice::Dice;
use crate::world::{At, HostIndex, State, World};
use std::sync::Arc;
use std::time::Duration;

/// Kinds of faults that come out of the blue.
const KINDS: [Kind; 10] = [
    Kind::AgentDies,
    Kind::PowerLoss,
    Kind::ServerDies,
    Kind::MachineDies,
    Kind::Partition,
    Kind::SlowDisk,
    Kind::FullDisk,
    Kind::ClockJump,
    Kind::Suspension,
    Kind::BadSectors,
];
/// The farthest that a clock jumps, in milliseconds: five days.
const JUMP_MS_MAX: u64 = 5 * 24 * 3_600 * 1_000;
/// How long after bad sectors are good again a guest may still be told of them, in milliseconds: on the slowest network.
const BAD_AFTERMATH_MS: u64 = 120_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AgentDies,
    PowerLoss,
    ServerDies,
    MachineDies,
    Partition,
    SlowDisk,
    FullDisk,
    ClockJump,
    Suspension,
    BadSectors,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::AgentDies => "agents killed",
            Self::PowerLoss => "power losses",
            Self::ServerDies => "volume servers killed",
            Self::MachineDies => "machines killed",
            Self::Partition => "partitions",
            Self::SlowDisk => "slow disks",
            Self::FullDisk => "full disks",
            Self::ClockJump => "clock jumps",
            Self::Suspension => "hosts that stood still",
            Self::BadSectors => "bad sectors",
        }
    }
}

/// How much goes wrong in a simulation.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Whether anything may go wrong now.
    pub are_on: bool,
    kinds: Vec<Kind>,
    pause_ms_max: u64,
    /// Times in a thousand that an agent dies as it writes its records, before or after.
    pub dies_writing: u64,
    /// Times in a thousand that a call or its answer is lost.
    pub calls_lost: u64,
    /// Times in a thousand that a call is made twice.
    pub calls_twice: u64,
    /// Times in a thousand that a volume server dies between two things that it does for its agent.
    pub server_dies: u64,
}

/// A mistake made on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A disk says that it has synced and has not.
    SyncThatIsNone,
    /// A server says that it is sealed, and its map does not.
    SealForgotten,
    /// A server says that it is open again, and its map does not.
    UnsealForgotten,
    /// A machine is called stopped while it still runs.
    StoppedTooEarly,
    /// A fetch brings what the source held before.
    StaleFetch,
    /// What became local since the map was told is forgotten with the server.
    NotesLost,
    /// The last that the map was told of blocks is lost with the power.
    FrameLost,
    /// The map is not told what a guest may change.
    ChangesForgotten,
    /// A source says that it is what it was made from.
    NothingDiffers,
    /// The map is not told that a volume has grown.
    GrowthForgotten,
    /// What a disk cannot read it gives as zeroes.
    BadSectorsGiven,
    /// A sealed source says that nothing has changed since the last round of copying ahead.
    NothingSince,
    /// A VM whose memory has crossed but for the rest goes on at the target without being let go.
    LetGoAtOnce,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::SyncThatIsNone,
        Self::SealForgotten,
        Self::UnsealForgotten,
        Self::StoppedTooEarly,
        Self::StaleFetch,
        Self::NotesLost,
        Self::FrameLost,
        Self::ChangesForgotten,
        Self::NothingDiffers,
        Self::GrowthForgotten,
        Self::BadSectorsGiven,
        Self::NothingSince,
        Self::LetGoAtOnce,
    ];
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            are_on: false,
            kinds: Vec::new(),
            pause_ms_max: 60_000,
            dies_writing: 0,
            calls_lost: 0,
            calls_twice: 0,
            server_dies: 0,
        }
    }

    /// As [`Faults::some`], and often what a mistake that was planted shows under: few worlds come there by themselves.
    pub fn drawn_to(planted: Option<Planted>, dice: &mut Dice) -> Self {
        let some = Self::some(dice);
        match planted {
            Some(Planted::FrameLost) => {
                Self { kinds: vec![Kind::PowerLoss, Kind::SlowDisk], pause_ms_max: 8_000, ..some }
            }
            Some(Planted::NotesLost) => {
                Self { kinds: vec![Kind::ServerDies, Kind::SlowDisk], pause_ms_max: 1_000, ..some }
            }
            Some(Planted::BadSectorsGiven) => {
                Self { kinds: vec![Kind::BadSectors, Kind::SlowDisk], pause_ms_max: 1_000, ..some }
            }
            Some(Planted::UnsealForgotten) => {
                Self { kinds: vec![Kind::SlowDisk, Kind::ServerDies], pause_ms_max: 4_000, ..some }
            }
            Some(_) | None => some,
        }
    }

    /// Some of all that may go wrong.
    fn some(dice: &mut Dice) -> Self {
        let kinds = KINDS.into_iter().filter(|_| dice.coin()).collect();
        let rate = |dice: &mut Dice, most| if dice.coin() { 0 } else { dice.between(1, most) };
        Self {
            are_on: true,
            kinds,
            pause_ms_max: [1_000, 4_000, 15_000][dice.index(3)],
            dies_writing: rate(dice, 40),
            calls_lost: rate(dice, 200),
            calls_twice: rate(dice, 100),
            server_dies: rate(dice, 50),
        }
    }
}

/// Lets faults happen for ever.
pub async fn happen(world: Arc<World>) {
    loop {
        let pause_ms = {
            let mut state = world.lock();
            let most = state.faults.pause_ms_max;
            state.dice.between(50, most)
        };
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let mut state = world.lock();
        if state.faults.are_on && !state.faults.kinds.is_empty() {
            let place = state.faults.kinds.len();
            let place = state.dice.index(place);
            let kind = state.faults.kinds[place];
            let host = victim(&mut state);
            strike(&mut state, kind, host);
        }
    }
}

/// A host; more often than not one where a disk is written while it hydrates, if there is any.
fn victim(state: &mut State) -> HostIndex {
    let busy: Vec<HostIndex> =
        (0..state.hosts.len()).filter(|host| !state.hydrating(*host).is_empty()).collect();
    match busy.is_empty() || state.dice.roll(4) == 0 {
        true => state.dice.index(state.hosts.len()),
        false => busy[state.dice.index(busy.len())],
    }
}

fn strike(state: &mut State, kind: Kind, host: HostIndex) {
    let short_ms = state.dice.between(100, 5_000);
    state.count(kind.name());
    let long_ms = if state.dice.coin() { short_ms } else { state.dice.between(5_000, 100_000) };
    match kind {
        Kind::AgentDies => state.agent_dies(host, "is killed"),
        Kind::PowerLoss if state.hosts[host].is_up => {
            state.lose_power(host);
            later(state, short_ms, move |state| state.power_up(host));
        }
        Kind::PowerLoss => {}
        Kind::ServerDies => {
            let mut keys = state.hydrating(host);
            if keys.is_empty() || state.dice.roll(4) == 0 {
                keys = state.hosts[host].servers.keys().copied().collect();
            }
            if !keys.is_empty() {
                let key = keys[state.dice.index(keys.len())];
                state.kill_server(At { host, key }, "is killed");
            }
        }
        Kind::MachineDies => state.kill_a_machine(host),
        Kind::Partition => {
            let others = state.hosts.len() - 1;
            let other = (host + 1 + state.dice.index(others)) % state.hosts.len();
            let pair = (host.min(other), host.max(other));
            state.say_of(host, format!("is cut off from w{}", other + 1));
            state.cut.insert(pair);
            later(state, long_ms, move |state| {
                state.say_of(pair.0, format!("hears w{} again", pair.1 + 1));
                state.cut.remove(&pair);
            });
        }
        Kind::SlowDisk => {
            let slowness = state.dice.between(5, 400);
            state.say_of(host, format!("disk is {slowness} times slower"));
            state.hosts[host].slowness = slowness;
            later(state, long_ms, move |state| state.hosts[host].slowness = 1);
        }
        Kind::FullDisk => {
            state.say_of(host, "disk is full");
            state.hosts[host].is_full = true;
            later(state, short_ms, move |state| {
                state.say_of(host, "disk has room");
                state.hosts[host].is_full = false;
            });
        }
        Kind::ClockJump => {
            let far = i64::try_from(state.dice.roll(2 * JUMP_MS_MAX)).expect("it is some days");
            let off_ms = far - i64::try_from(JUMP_MS_MAX).expect("it is some days");
            state.say_of(host, format!("clock jumps to {off_ms} ms off the truth"));
            state.hosts[host].clock_off_ms = off_ms;
        }
        Kind::BadSectors => go_bad(state, long_ms),
        Kind::Suspension => {
            state.say_of(host, "stands still");
            state.hosts[host].is_suspended.tell(true);
            later(state, long_ms, move |state| {
                state.say_of(host, "goes on");
                state.hosts[host].is_suspended.tell(false);
            });
        }
    }
}

/// Some sectors of a copy that other workers read cannot be read by them for a while.
fn go_bad(state: &mut State, ms: u64) {
    let servers = state.hosts.iter().flat_map(|host| host.servers.values());
    let read: Vec<At> = servers.filter_map(|server| server.link.map(|link| link.to)).collect();
    if read.is_empty() {
        return;
    }
    let at = read[state.dice.index(read.len())];
    let dice = &mut state.dice;
    let Some(copy) = state.hosts[at.host].copies.get_mut(&at.key) else { return };
    let (first, len) = (dice.index(copy.data.len()), 1 + dice.index(64));
    copy.bad = Some(first..first + len);
    let until_ms = state.now_ms() + ms + BAD_AFTERMATH_MS;
    let known = state.bad_until_ms.entry(at.key.id).or_default();
    *known = until_ms.max(*known);
    state.say_of(at.host, format!("sectors {first} to {} of {} are bad", first + len, at.key));
    later(state, ms, move |state| state.heal(at));
}

/// Does something after a time.
fn later(state: &State, ms: u64, act: impl FnOnce(&mut State) + Send + 'static) {
    let world = state.world.upgrade().expect("the world is there while something happens in it");
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        act(&mut world.lock());
    });
}

impl State {
    /// All sectors of a copy can be read again.
    fn heal(&mut self, at: At) {
        if let Some(copy) = self.hosts[at.host].copies.get_mut(&at.key)
            && copy.bad.take().is_some()
        {
            self.say_of(at.host, format!("all of {} can be read", at.key));
        }
    }

    /// Nothing goes wrong any more, and what went wrong is mended.
    pub fn make_peace(&mut self) {
        self.say("peace", "nothing goes wrong any more");
        self.faults = Faults::none();
        self.cut.clear();
        for host in 0..self.hosts.len() {
            self.hosts[host].slowness = 1;
            self.hosts[host].is_full = false;
            self.hosts[host].clock_off_ms = 0;
            self.hosts[host].is_suspended.tell(false);
            self.power_up(host);
            let keys: Vec<_> = self.hosts[host].copies.keys().copied().collect();
            keys.into_iter().for_each(|key| self.heal(At { host, key }));
        }
    }
}
