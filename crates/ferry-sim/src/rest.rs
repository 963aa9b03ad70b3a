//! When nothing goes wrong any more everything must come to rest, and be as guests were told.

use crate::person::{ask, jobs, resume_all};
use crate::process::{Process, What};
use crate::store::span;
use crate::world::{At, HostIndex, World};
use ferry_api::{AgentApi, Desired, Machine, MachineState, Ownership, ServerState, Volume, VolumeKey};
use ferry_engine::{ByteRange, RequestKind};
use std::sync::Arc;
use std::time::Duration;

/// How long a world may take to come to rest, in looks.
const LOOKS_MAX: u32 = 600;
/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(3);

/// Waits until all is at rest, and holds what is there against what guests were told.
pub async fn come_to_rest(world: &Arc<World>) {
    let mut left = String::new();
    for _ in 0..LOOKS_MAX {
        if world.lock().found.is_some() {
            return;
        }
        match look(world).await {
            Err(what) => left = what,
            Ok(real) => {
                world.say("rest", "all is at rest");
                for at in real {
                    compare(world, at).await;
                }
                return;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    world.lock().find(format!("the world does not come to rest: {left}"));
}

/// The copies that are the real ones, or what is not at rest.
async fn look(world: &Arc<World>) -> Result<Vec<At>, String> {
    let mut real = Vec::new();
    let mut machines = Vec::new();
    let hosts = world.lock().hosts.len();
    // What a job that is parked on one worker keeps from resting may be on another.
    for host in 0..hosts {
        if resume_all(world, host).await > 0 {
            return Err(format!("a job waits on w{}", host + 1));
        }
    }
    for host in 0..hosts {
        let name = format!("w{}", host + 1);
        let all = jobs(world, host).await;
        if let Some(job) = all.iter().find(|job| !job.state.is_final()) {
            return Err(format!("job {} on {name} is {:?}: {:?}", job.id, job.state, job.reason));
        }
        let here = ask(world, host, |agent| async move { agent.machines().await }).await;
        let here = here.and_then(Result::ok).ok_or_else(|| format!("{name} does not answer"))?;
        machines.extend(here.into_iter().map(|machine| (host, machine)));
        let volumes = ask(world, host, |agent| async move { agent.volumes().await }).await;
        let volumes = volumes.and_then(Result::ok).ok_or_else(|| format!("{name} does not answer"))?;
        real.extend(volumes_at_rest(world, host, &volumes)?);
    }
    machines_at_rest(world, &machines)?;
    real.sort_by_key(|at| at.key);
    Ok(real)
}

fn volumes_at_rest(world: &World, host: HostIndex, volumes: &[Volume]) -> Result<Vec<At>, String> {
    let mut real = Vec::new();
    for volume in volumes {
        let key = VolumeKey { id: volume.id, generation: volume.generation };
        match &volume.ownership {
            Ownership::Ours
                if volume.source.is_none() && matches!(volume.server, ServerState::Running { .. }) =>
            {
                real.push(At { host, key });
            }
            Ownership::Retired { .. } => {}
            other => {
                let (source, server) = (&volume.source, &volume.server);
                return Err(format!(
                    "{key} on w{} is {other:?}, source {source:?}, server {server:?}",
                    host + 1
                ));
            }
        }
    }
    let state = world.lock();
    let here = &state.hosts[host];
    let is_known = |key: &VolumeKey| volumes.iter().any(|v| v.id == key.id && v.generation == key.generation);
    if let Some(left) = here.copies.keys().find(|key| !is_known(key)) {
        return Err(format!("the directory of {left} on w{} is of no use to anybody", host + 1));
    }
    if let Some(left) = here.aside.keys().next() {
        return Err(format!("{left} is left on w{}", host + 1));
    }
    Ok(real)
}

fn machines_at_rest(world: &World, all: &[(HostIndex, Machine)]) -> Result<(), String> {
    let state = world.lock();
    for (index, host) in state.hosts.iter().enumerate() {
        let mut machines =
            host.processes.iter().filter(|(_, process)| !matches!(process.what, What::Serves(_)));
        let is_left = |process: &Process| !matches!(process.what, What::Runs(_)) || !process.has_guest();
        if let Some((pid, _)) = machines.find(|(_, process)| is_left(process)) {
            return Err(format!("process {pid} is left on w{}, of no use to anybody", index + 1));
        }
    }
    for (host, machine) in all {
        if matches!(machine.state, MachineState::HandedOver { .. }) {
            continue;
        }
        let (id, runs) = (machine.id, state.running(machine.id));
        let owners =
            all.iter().filter(|(_, m)| m.id == id && !matches!(m.state, MachineState::HandedOver { .. }));
        if owners.count() > 1 {
            return Err(format!("machine {id} belongs to more than one worker"));
        }
        let is_right = match machine.desired {
            Desired::Running => runs == 1 && matches!(machine.state, MachineState::Running { .. }),
            Desired::Stopped => runs == 0,
        };
        if !is_right {
            let is = &machine.state;
            return Err(format!(
                "machine {id} on w{} shall be {:?}, {runs} run, it is {is:?}",
                host + 1,
                machine.desired
            ));
        }
    }
    Ok(())
}

/// Reads all of a real copy.
async fn compare(world: &Arc<World>, at: At) {
    // What is told of while it is read is not asked of what was read before.
    let (sectors_least, asked) = {
        let mut state = world.lock();
        let sectors_least = state.oracle.sectors_least(at.key.id);
        let size = state.server(at).map(|server| server.engine.geometry().size_bytes());
        let asked = size.and_then(|size| {
            let range = ByteRange::new(0, size)?;
            state.request(at, RequestKind::Read { range }, vec![0; span(range).len()])
        });
        (sectors_least, asked)
    };
    let tokens = match asked {
        Some(asked) => asked.await.ok().and_then(Result::ok),
        None => None,
    };
    let mut state = world.lock();
    match tokens {
        None => state.find(format!("the real copy {} cannot be read", at.key)),
        Some(tokens) => {
            if tokens.len() < sectors_least {
                state.find(format!("volume {} is smaller than somebody was told", at.key));
            }
            if let Err(wrong) = state.oracle.read(at.key.id, 0, &tokens) {
                state.find(format!("{wrong} (at rest)"));
            }
        }
    }
}
