//! Many workers at once, several of which are drained while agents die: what that takes in time, calls and memory, and whether
//! it ends as it should. Machines are small and quiet here; what they are told is checked by the other worlds.

use crate::dice::Dice;
use crate::person::{ask, create};
use crate::process::{Process, What};
use crate::trace::Trace;
use crate::world::{Host, HostIndex, World};
use crate::{agents, is_broken, log};
use ferry_api::{AgentApi, AskCordon, JobId, JobState, StartDrain};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// Moves away from one worker at once.
const MOVES_AT_ONCE: NonZeroUsize = NonZeroUsize::new(8).expect("it is not 0");
/// Pause between two looks at the drains.
const LOOK: Duration = Duration::from_secs(1);
/// How long drains may take by the fleet's clock, in looks.
const LOOKS_MAX: u32 = 4 * 3_600;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Everything follows from it.
    pub seed: u64,
    /// Workers.
    pub workers: usize,
    /// Machines, spread over all workers alike, each with one disk.
    pub machines: u64,
    /// Workers that are drained at once.
    pub drained: usize,
    /// An agent is killed so often, in milliseconds on average; never if none.
    pub kills_every_ms: Option<u64>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Drained {
    /// What is not as it should be.
    pub found: Option<String>,
    /// How long the drains took by the fleet's clock, in milliseconds.
    pub simulated_ms: u64,
    /// Calls between agents meanwhile.
    pub calls: u64,
    /// Machines that moved.
    pub moves: u64,
    /// Agents that were killed.
    pub kills: u64,
    /// Times that a drain waited for a person.
    pub parked: u64,
}

/// Sets up a fleet and drains a part of it.
///
/// # Panics
/// The simulation itself has a mistake.
#[must_use]
pub fn drain(fleet: Fleet) -> Drained {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime =
        builder.enable_time().start_paused(true).build().expect("a runtime without I/O can be made");
    ferry_api::count_from(1);
    log::forget_panic();
    let drained = runtime.block_on(async {
        let world = World::new(Dice::new(fleet.seed), None, fleet.workers, Trace::new(false));
        {
            let mut state = world.lock();
            state.is_quiet = true;
            state.moves_at_once = MOVES_AT_ONCE;
            (state.travel_ms_max, state.fetches_max, state.persist_every_ms) = (2, 16, 500);
        }
        for host in 0..fleet.workers {
            tokio::spawn(agents::keep(Arc::clone(&world), host, 0));
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        for number in 0..fleet.machines {
            let host = usize::try_from(number).unwrap_or_default() % fleet.workers;
            create(&world, host, number + 1, 1).await;
        }
        let before = {
            let state = world.lock();
            (state.tally("calls"), state.now_ms())
        };
        let mut drained = empty(&world, fleet).await;
        let state = world.lock();
        drained.calls = state.tally("calls") - before.0;
        drained.simulated_ms = state.now_ms() - before.1;
        drained.moves = u64::try_from(state.handed_over.len()).unwrap_or(u64::MAX);
        drained
    });
    runtime.shutdown_background();
    drained
}

/// Drains workers until all of them are empty, and says what is not as it should be.
async fn empty(world: &Arc<World>, fleet: Fleet) -> Drained {
    let mut jobs: Vec<(HostIndex, JobId)> = Vec::new();
    // Nothing goes where it would only have to leave again.
    for host in 0..fleet.drained {
        let cordoned =
            ask(world, host, |agent| async move { agent.worker_cordon(AskCordon { reason: None }).await });
        cordoned.await.expect("nothing goes wrong yet").expect("a worker can be cordoned");
    }
    for host in 0..fleet.drained {
        let start = StartDrain::default();
        let started = ask(world, host, |agent| async move { agent.drain_start(start).await }).await;
        let started = started.expect("nothing goes wrong yet").expect("there is room for all");
        jobs.push((host, started.job.expect("no plan was given").id));
    }
    let mut drained = Drained { found: None, simulated_ms: 0, calls: 0, moves: 0, kills: 0, parked: 0 };
    let mut kill_at_ms = world.lock().now_ms();
    for _ in 0..LOOKS_MAX {
        if is_broken(world) {
            drained.found.clone_from(&world.lock().found);
            return drained;
        }
        if let Some(every_ms) = fleet.kills_every_ms {
            let mut state = world.lock();
            while kill_at_ms <= state.now_ms() {
                let host = state.dice.index(fleet.workers);
                state.agent_dies(host, "is killed");
                drained.kills += 1;
                kill_at_ms += state.dice.between(1, 2 * every_ms);
            }
        }
        let mut open = Vec::new();
        for (host, job) in jobs {
            let told =
                ask(world, host, |agent| async move { agent.job(job).await }).await.and_then(Result::ok);
            match told.map(|told| told.state) {
                Some(JobState::Succeeded) => {}
                Some(JobState::Parked) => {
                    drained.parked += 1;
                    let _ = ask(world, host, |agent| async move { agent.job_resume(job).await }).await;
                    open.push((host, job));
                }
                Some(_) | None => open.push((host, job)),
            }
        }
        jobs = open;
        if jobs.is_empty() {
            drained.found = what_is_left(world, fleet).await;
            return drained;
        }
        tokio::time::sleep(LOOK).await;
    }
    drained.found = Some(format!("{} drains do not end", jobs.len()));
    drained
}

/// What is not as it should be after the drains: all machines run, each once, none where nothing is to be.
async fn what_is_left(world: &Arc<World>, fleet: Fleet) -> Option<String> {
    // An agent that was killed a moment ago is back by then, and has started what was to run.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for host in 0..fleet.drained {
        let safe = ask(world, host, |agent| async move { agent.worker_safe_to_stop().await }).await;
        match safe {
            Some(Ok(safe)) if safe.reasons.is_empty() => {}
            other => return Some(format!("w{} is drained and not safe to stop: {other:?}", host + 1)),
        }
    }
    let state = world.lock();
    let is_machine = |process: &&Process| matches!(process.what, What::Runs(_)) && process.has_guest();
    let runs = |host: &Host| host.processes.values().filter(is_machine).count();
    let (there, left) = state.hosts.split_at(fleet.drained);
    let (there, running) = (there.iter().map(runs).sum::<usize>(), left.iter().map(runs).sum::<usize>());
    let all = usize::try_from(fleet.machines).unwrap_or(usize::MAX);
    (there > 0 || running != all)
        .then(|| format!("{there} machines run on drained workers, and {running} of {all} on the others"))
}
