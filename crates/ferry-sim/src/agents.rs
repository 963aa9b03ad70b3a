//! Keeps an agent running on each host, as a service manager would.

use crate::host::Simulated;
use crate::wire::Wire;
use crate::world::{HostIndex, Life, World};
use ferry_agent::fences::Fences;
use ferry_agent::peers::Peers;
use ferry_agent::{Agent, Config, Ground};
use ferry_api::WorkerName;
use ferry_api::http::Client;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often is looked whether an agent is to be started, in milliseconds.
const LOOK_MS: u64 = 200;

/// Starts the agent of a host whenever there is none, for ever.
pub async fn keep(world: Arc<World>, host: HostIndex, retention_hours: u64) {
    loop {
        let is_due = {
            let state = world.lock();
            state.hosts[host].is_up && state.hosts[host].life.is_none()
        };
        if is_due {
            start(&world, host, retention_hours).await;
        }
        let ms = {
            let mut state = world.lock();
            let most = if state.faults.are_on { 3_000 } else { LOOK_MS };
            state.dice.between(10, most)
        };
        tokio::select! {
            biased;
            () = world.agent_gone.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        }
        world.awake(host).await;
    }
}

async fn start(world: &Arc<World>, host: HostIndex, retention_hours: u64) {
    let life = Arc::new(Life::default());
    world.lock().hosts[host].life = Some(Arc::clone(&life));
    world.lock().say_of(host, "agent starts");
    let simulated = Simulated { world: Arc::clone(world), index: host, life: Arc::clone(&life) };
    let (config, ground) = (config(world, host, retention_hours), ground(&simulated));
    let started = tokio::select! {
        biased;
        () = life.ended() => return,
        started = Agent::start_on(config, ground, None) => started,
    };
    let mut state = world.lock();
    match started {
        Err(error) => state.agent_dies(host, &format!("cannot start: {error}")),
        Ok(_) if life.is_over() => {}
        Ok(agent) => {
            let agent = Arc::new(agent);
            state.hosts[host].agent = Some(Arc::clone(&agent));
            drop(state);
            tokio::spawn(watch(Arc::clone(world), host, agent, life));
        }
    }
}

/// An agent that cannot keep its journal stops.
async fn watch(world: Arc<World>, host: HostIndex, agent: Arc<Agent>, life: Arc<Life>) {
    tokio::select! {
        biased;
        () = life.ended() => {}
        reason = agent.failure() => {
            let mut state = world.lock();
            if !life.is_over() {
                state.agent_dies(host, &format!("stops: {reason}"));
            }
        }
    }
}

fn ground(simulated: &Simulated) -> Ground {
    let (world, index) = (&simulated.world, simulated.index);
    let state = world.lock();
    let others = state.hosts.iter().enumerate().filter(|(other, _)| *other != index);
    let peers: BTreeMap<WorkerName, Client> = others
        .map(|(to, host)| {
            let courier = Arc::new(Wire { from: simulated.clone(), to });
            (host.name.clone(), Client::by_courier(host.name.as_str(), courier))
        })
        .collect();
    Ground {
        host: Arc::new(simulated.clone()),
        records: state.hosts[index].book.open(Arc::new(simulated.clone())),
        fences: Fences::on(Arc::new(simulated.clone())),
        peers: Peers::by(peers),
    }
}

fn config(world: &World, host: HostIndex, retention_hours: u64) -> Config {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let (name, moves_at_once) = {
        let state = world.lock();
        (state.hosts[host].name.clone(), state.moves_at_once)
    };
    Config {
        job_retention_days: 90,
        jobs_kept: 10_000,
        advertise: name.to_string(),
        state_dir: PathBuf::from(format!("/sim/{name}")),
        name,
        listen: nowhere,
        insecure: false,
        socket_group: None,
        export_listen: nowhere,
        peers: BTreeMap::new(),
        region: None,
        labels: Default::default(),
        room_bytes: None,
        // Machines are many in a fleet, and take nothing.
        cpu_millis: Some(u64::from(u32::MAX)),
        memory_bytes: Some(1 << 60),
        retention_hours,
        moves_at_once,
        services_listen: "127.0.0.1:0".parse().expect("it is an address"),
        dns_listen: None,
        machine_routes: false,
        services_hold_seconds: 60,
        services_held_max: 1,
        tls: None,
        nats: None,
    }
}
