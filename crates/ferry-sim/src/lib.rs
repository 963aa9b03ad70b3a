//! A whole cluster in one thread, from one seed.
//!
//! ```text
//!   person ──▶ agents (the product's) ──▶ records · jobs · keepers · minders (the product's)
//!                 │ calls: lost, late, twice          │
//!                 ▼                                   ▼ simulated hosts: processes, disks, clocks, power
//!              agents                        volume servers around the product's engine ◀── guests ──▶ oracle
//! ```
//!
//! Everything that the product decides with runs as it is: agents with their SQL, the crossing, the journal, the engine
//! and its map. What it stands on is simulated, fails as the seed says, and takes no time. What guests were told must
//! be there whatever happened; nothing runs or is written twice; and when nothing goes wrong any more, everything comes
//! to rest. The same seed does the same again, event for event.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a simulation acts on what it knows and leaves the rest alone"
)]

mod agents;
mod base;
mod control;
mod dice;
mod faults;
pub mod fleet;
mod guest;
mod host;
mod log;
mod many;
mod memory;
mod oracle;
mod person;
mod precopy;
mod process;
mod records;
mod rest;
mod server;
mod store;
mod told;
mod trace;
mod wire;
mod world;

pub use faults::Planted;
pub use many::run_all;

use dice::Dice;
use faults::Faults;
use std::sync::Arc;
use std::time::Duration;
use trace::Trace;
use world::World;

/// How far the clocks of hosts are from the truth from first to last, in milliseconds.
const CLOCK_SKEWS_MS: [i64; 5] = [0, 0, -1_500, 7 * 60_000, -26 * 3_600_000];

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// A mistake on purpose.
    pub planted: Option<Planted>,
    /// Whether the whole trace is wanted, with what agents say of themselves.
    pub whole_trace: bool,
    /// Whether anything goes wrong.
    pub has_faults: bool,
    /// Whether a person also has cleared away what jobs leave, kept copies too, at any moment.
    pub clears_garbage: bool,
}

impl Options {
    /// A world in which everything goes wrong that may, as the seed says.
    #[must_use]
    pub const fn of_seed(seed: u64) -> Self {
        Self {
            seed,
            planted: None,
            whole_trace: false,
            has_faults: true,
            clears_garbage: seed.is_multiple_of(3),
        }
    }
}

/// How a simulation ended.
#[derive(Debug)]
pub struct Outcome {
    /// The broken promise, if one was.
    pub found: Option<String>,
    /// The same for every run of the same seed.
    pub fingerprint: u64,
    /// How many events there were.
    pub events: u64,
    /// How long it lasted by its own clock, in milliseconds.
    pub simulated_ms: u64,
    /// How often what happened.
    pub tally: std::collections::BTreeMap<&'static str, u64>,
    /// The trace, or the end of it.
    pub lines: Vec<String>,
}

/// Runs a world to its end.
///
/// # Panics
/// The simulation itself has a mistake.
#[must_use]
pub fn run(options: Options) -> Outcome {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime =
        builder.enable_time().start_paused(true).build().expect("a runtime without I/O can be made");
    ferry_api::count_from(1);
    log::forget_panic();
    let outcome = runtime.block_on(async {
        let mut dice = Dice::new(options.seed);
        let faults = match options.has_faults {
            true => Faults::drawn_to(options.planted, &mut dice),
            false => Faults::none(),
        };
        let hosts = 2 + dice.index(2);
        let trace = Trace::new(options.whole_trace);
        let world = World::new(dice, options.planted, hosts, trace);
        let _log = log::listen(&world, options.whole_trace);
        live(&world, faults, options.clears_garbage).await;
        let mut state = world.lock();
        let trace = std::mem::replace(&mut state.trace, Trace::new(false));
        // They know the world, and the world them.
        let agents: Vec<_> =
            state.hosts.iter_mut().map(|host| (host.agent.take(), host.life.take())).collect();
        let outcome = Outcome {
            found: state.found.clone(),
            fingerprint: trace.fingerprint(),
            events: trace.count(),
            simulated_ms: state.now_ms(),
            tally: std::mem::take(&mut state.tally),
            lines: trace.into_lines(),
        };
        drop(state);
        drop(agents);
        outcome
    });
    runtime.shutdown_background();
    outcome
}

/// Sets the world up, lets things go wrong for a while, and lets it come to rest.
async fn live(world: &Arc<World>, faults: Faults, clears_garbage: bool) {
    let (retention_hours, machines, troubled_ms, pause_ms_max) = {
        let state = &mut *world.lock();
        let dice = &mut state.dice;
        (dice.roll(2), dice.between(1, 2), dice.between(10_000, 90_000), [500, 3_000, 20_000][dice.index(3)])
    };
    let hosts = world.lock().hosts.len();
    for host in 0..hosts {
        let state = &mut *world.lock();
        state.hosts[host].clock_skew_ms = CLOCK_SKEWS_MS[state.dice.index(CLOCK_SKEWS_MS.len())];
    }
    for host in 0..hosts {
        tokio::spawn(agents::keep(Arc::clone(world), host, retention_hours));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for number in 1..=machines {
        let (host, volumes) = {
            let mut state = world.lock();
            (state.dice.index(hosts), state.dice.between(1, 2))
        };
        person::create(world, host, number, volumes).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let has_troubles = faults.are_on;
    {
        let mut state = world.lock();
        (state.faults, state.has_troubles) = (faults, has_troubles);
    }
    let wishes = tokio::spawn(person::wish(Arc::clone(world), pause_ms_max, clears_garbage));
    let mishaps = tokio::spawn(faults::happen(Arc::clone(world)));
    let over = tokio::time::Instant::now() + Duration::from_millis(troubled_ms);
    while tokio::time::Instant::now() < over && !is_broken(world) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    wishes.abort();
    mishaps.abort();
    world.lock().make_peace();
    world.lock().is_quiet = true;
    rest::come_to_rest(world).await;
    is_broken(world);
}

/// Whether a promise is broken; also the one that nothing of this panics.
fn is_broken(world: &World) -> bool {
    let mut state = world.lock();
    if let Some(panic) = log::take_panic() {
        state.find(format!("something panicked: {panic}"));
    }
    state.found.is_some()
}
