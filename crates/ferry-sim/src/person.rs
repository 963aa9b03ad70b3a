//! A person who moves machines about, changes their mind, and helps where a job waits for a person.

use crate::store::SECTOR_BYTES;
use crate::world::{HostIndex, World};
use ferry_agent::Agent;
use ferry_api::{
    AgentApi, ApiError, Artefact, AskGarbage, AskJobs, CreateMachine, Desired, Driver, Garbage, GrowVolume,
    Job, JobState, Machine, MachineRef, MachineSpec, MachineState, MoveMode, NewVolume, Ownership, QemuSpec,
    StartMove, UndoMove, VolumeOrigin, VolumeRef, WorkerName,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long a person waits for an answer.
const PATIENCE: Duration = Duration::from_secs(200);
/// Volumes that have so many bytes do not grow any more.
const SIZE_BYTES_MAX: u64 = 256 << 10;

/// Asks the agent of a host something; nothing comes back if there is none, if it dies, or if it takes too long.
pub async fn ask<T, F: Future<Output = Result<T, ApiError>>>(
    world: &Arc<World>,
    host: HostIndex,
    question: impl FnOnce(Arc<Agent>) -> F,
) -> Option<Result<T, ApiError>> {
    let (agent, life) = {
        let state = world.lock();
        (state.hosts[host].agent.clone()?, state.hosts[host].life.clone()?)
    };
    tokio::select! {
        biased;
        () = life.ended() => None,
        () = tokio::time::sleep(PATIENCE) => None,
        answer = question(agent) => Some(answer),
    }
}

/// Makes the machine number `number` on a host, with so many disks.
///
/// # Panics
/// It is refused: nothing goes wrong yet.
pub async fn create(world: &Arc<World>, host: HostIndex, number: u64, volumes: u64) {
    let create = {
        let mut state = world.lock();
        let mut disk = |n: u64| NewVolume {
            name: format!("disk{n}").parse().expect("it is a name"),
            origin: VolumeOrigin::Empty {
                size_bytes: state.dice.between(4, 40) * 4096,
                region_bytes: Some([4096, 16_384, 65_536][state.dice.index(3)]),
                store: None,
                direct: false,
            },
        };
        let disks = (0..volumes).map(&mut disk).collect();
        let driver = match state.dice.coin() {
            true => Driver::Qemu(QemuSpec::default()),
            false => MachineSpec::process("guest", ["1"]).driver,
        };
        let spec = MachineSpec { stop_grace_ms: 3_000, driver, ..MachineSpec::process("guest", ["1"]) };
        CreateMachine {
            name: format!("m{number}").parse().expect("it is a name"),
            spec,
            volumes: disks,
            start: true,
        }
    };
    let made = ask(world, host, |agent| async move { agent.machine_create(create).await }).await;
    made.expect("nothing goes wrong yet").expect("a machine can be made");
}

/// Wants things for ever.
pub async fn wish(world: Arc<World>, pause_ms_max: u64, clears: bool) {
    loop {
        let ms = world.lock().dice.between(50, pause_ms_max);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        let (host, what) = {
            let mut state = world.lock();
            let hosts = state.hosts.len();
            (state.dice.index(hosts), state.dice.roll(16))
        };
        let world = Arc::clone(&world);
        // A person who waits for an answer may want something else meanwhile.
        tokio::spawn(async move {
            match what {
                0..=5 => move_something(&world, host).await,
                6 | 7 => cancel_something(&world, host).await,
                8 | 9 if clears => clear_garbage(&world, host).await,
                8 | 9 => drop(resume_all(&world, host).await),
                10 => start_or_stop(&world, host, false).await,
                11 | 12 => undo_something(&world, host).await,
                13 => grow_something(&world, host).await,
                _ => start_or_stop(&world, host, true).await,
            }
        });
    }
}

async fn a_machine(world: &Arc<World>, host: HostIndex) -> Option<Machine> {
    let machines = ask(world, host, |agent| async move { agent.machines().await }).await?.ok()?;
    let mut here: Vec<Machine> = machines
        .into_iter()
        .filter(|machine| !matches!(machine.state, MachineState::HandedOver { .. }))
        .collect();
    if here.is_empty() {
        return None;
    }
    let place = world.lock().dice.index(here.len());
    Some(here.swap_remove(place))
}

async fn move_something(world: &Arc<World>, host: HostIndex) {
    let Some(machine) = a_machine(world, host).await else { return };
    let to: WorkerName = {
        let mut state = world.lock();
        let others = state.hosts.len() - 1;
        let to = (host + 1 + state.dice.index(others)) % state.hosts.len();
        let to = state.hosts[to].name.clone();
        state.say("person", format!("moves {} from w{} to {to}", machine.id, host + 1));
        to
    };
    // By itself none would be warm: the disks are small.
    let is_vm = matches!(machine.spec.driver, Driver::Qemu(_));
    let mode = match world.lock().dice.roll(4) {
        0 | 1 if is_vm => MoveMode::Live,
        0 | 2 => MoveMode::Warm,
        _ => MoveMode::Cold,
    };
    let start = StartMove { mode, ..StartMove::new(MachineRef::Id(machine.id), to.into()) };
    let answer = ask(world, host, |agent| async move { agent.move_start(start).await }).await;
    told(world, answer.map(|job| job.map(|job| job.id.to_string())));
}

/// Has a machine taken back to where its last move brought it from.
async fn undo_something(world: &Arc<World>, host: HostIndex) {
    let Some(machine) = a_machine(world, host).await else { return };
    world.say("person", format!("takes {} back from w{}", machine.id, host + 1));
    let undo = UndoMove { machine: MachineRef::Id(machine.id), of: None, retention_hours: None };
    let answer = ask(world, host, |agent| async move { agent.move_undo(undo).await }).await;
    if let Some(Ok(_)) = &answer {
        world.lock().count("moves taken back");
    }
    told(world, answer.map(|job| job.map(|job| job.id.to_string())));
}

/// Makes a volume of a host larger.
async fn grow_something(world: &Arc<World>, host: HostIndex) {
    let volumes = ask(world, host, |agent| async move { agent.volumes().await }).await;
    let mut ours = volumes.and_then(Result::ok).unwrap_or_default();
    ours.retain(|volume| volume.ownership == Ownership::Ours && volume.size_bytes < SIZE_BYTES_MAX);
    if ours.is_empty() {
        return;
    }
    let (volume, size_bytes) = {
        let mut state = world.lock();
        let volume = ours.swap_remove(state.dice.index(ours.len()));
        let size_bytes = volume.size_bytes + state.dice.between(1, 80) * SECTOR_BYTES;
        state.say("person", format!("grows {} on w{} to {size_bytes} bytes", volume.id, host + 1));
        (VolumeRef::Id(volume.id), size_bytes)
    };
    let grow = GrowVolume { size_bytes };
    let answer = ask(world, host, |agent| async move { agent.volume_grow(&volume, grow).await }).await;
    told(world, answer.map(|volume| volume.map(|volume| volume.size_bytes.to_string())));
}

async fn cancel_something(world: &Arc<World>, host: HostIndex) {
    let jobs: Vec<Job> = jobs(world, host).await.into_iter().filter(|job| !job.state.is_final()).collect();
    for job in jobs {
        world.say("person", format!("cancels {}", job.id));
        let answer = ask(world, host, |agent| async move { agent.job_cancel(job.id).await }).await;
        told(world, answer.map(|job| job.map(|job| format!("{:?}", job.state))));
    }
}

/// The jobs of a host, as far as somebody tells.
pub async fn jobs(world: &Arc<World>, host: HostIndex) -> Vec<Job> {
    let jobs = ask(world, host, |agent| async move { agent.jobs(AskJobs::default()).await }).await;
    jobs.and_then(Result::ok).unwrap_or_default()
}

/// Lets all jobs go on that wait for a person. Tells how many.
pub async fn resume_all(world: &Arc<World>, host: HostIndex) -> usize {
    let jobs = jobs(world, host).await;
    let parked: Vec<Job> = jobs.into_iter().filter(|job| job.state == JobState::Parked).collect();
    for job in &parked {
        let (id, reason) = (job.id, job.reason.clone().unwrap_or_default());
        world.say("person", format!("resumes {id}, parked: {reason}"));
        let answer = ask(world, host, |agent| async move { agent.job_resume(id).await }).await;
        told(world, answer.map(|job| job.map(|job| format!("{:?}", job.state))));
    }
    parked.len()
}

async fn clear_garbage(world: &Arc<World>, host: HostIndex) {
    world.say("person", format!("clears away what lies on w{}", host + 1));
    let asked = AskGarbage { retained: true };
    let answer = ask(world, host, |agent| async move { agent.garbage_clear(asked).await }).await;
    world.lock().count("garbage cleared away");
    told(world, answer.map(|garbage| garbage.map(|garbage| in_words(&garbage))));
    resume_all(world, host).await;
}

fn in_words(garbage: &Garbage) -> String {
    let whats = |artefacts: &[Artefact]| {
        let all: Vec<String> = artefacts.iter().map(|a| format!("{:?}: {}", a.what, a.why)).collect();
        all.join("; ")
    };
    format!("gone: {}; could not go: {}", whats(&garbage.goes), whats(&garbage.failed))
}

async fn start_or_stop(world: &Arc<World>, host: HostIndex, starts: bool) {
    let Some(machine) = a_machine(world, host).await else { return };
    if starts && machine.desired == Desired::Running {
        // Who starts a machine that was to run and does not says that it runs nowhere else, which nobody here knows.
        return;
    }
    // Where its memory was to arrive it is lost.
    world.lock().has_troubles = true;
    world.say("person", format!("{} {}", if starts { "starts" } else { "stops" }, machine.id));
    let reference = MachineRef::Id(machine.id);
    let answer = match starts {
        true => ask(world, host, |agent| async move { agent.machine_start(&reference).await }).await,
        false => ask(world, host, |agent| async move { agent.machine_stop(&reference).await }).await,
    };
    told(world, answer.map(|machine| machine.map(|machine| format!("{:?}", machine.state))));
}

fn told(world: &Arc<World>, answer: Option<Result<String, ApiError>>) {
    let answer = match answer {
        None => "hears nothing".to_owned(),
        Some(Ok(answer)) => format!("is told: {answer}"),
        Some(Err(error)) => format!("is refused: {error}"),
    };
    world.say("person", answer);
}
