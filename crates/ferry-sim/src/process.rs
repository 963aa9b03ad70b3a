//! Processes of a host: volume servers and machines. What kills them, and what watches them.

use crate::faults::Planted;
use crate::memory::Memory;
use crate::told::Told;
use crate::world::{At, HostIndex, Life, State, World};
use ferry_agent::drivers::{Ended, Watched};
use ferry_agent::host::Doing;
use ferry_api::{MachineId, VolumeKey};
use std::fmt;
use std::sync::Arc;

/// SIGKILL.
const KILL: i32 = 9;

/// A process.
pub struct Process {
    /// What it does.
    pub what: What,
    /// Told when it has ended.
    pub ended: Arc<Told<Option<Ended>>>,
    /// Told when it was asked to end.
    pub told: Arc<Told<bool>>,
    /// How its memory stands.
    pub memory: Memory,
    /// The number of the guest in it, which stays the same where its memory goes.
    pub life: u64,
    /// Whether its guest is to be paused.
    pub held: Arc<Told<bool>>,
    /// Whether its guest is paused, and has nothing under way.
    pub rests: Arc<Told<bool>>,
}

/// What a process does.
#[derive(Clone, Debug)]
pub enum What {
    /// It serves a copy, or is about to.
    Serves(VolumeKey),
    /// It is to become a machine once it is let, by this agent.
    Waits(Arc<Life>),
    /// It waits for the memory of a machine.
    Awaits {
        /// The machine.
        machine: MachineId,
        /// Its disks here.
        disks: Vec<VolumeKey>,
    },
    /// It is a machine.
    Runs(MachineId),
}

impl State {
    /// Starts a process.
    pub fn start_process(&mut self, host: HostIndex, what: What) -> u32 {
        let pid = self.hosts[host].fresh_pid();
        let told = || Arc::new(Told::new(false));
        let (ended, memory) = (Arc::new(Told::new(None)), Memory::Here);
        let process = Process { what, ended, told: told(), memory, life: 0, held: told(), rests: told() };
        self.hosts[host].processes.insert(pid, process);
        pid
    }

    /// A process has ended.
    pub fn end_process(&mut self, host: HostIndex, pid: u32, ended: Ended) {
        if let Some(process) = self.hosts[host].processes.remove(&pid) {
            process.ended.tell(Some(ended));
            process.sends_to().into_iter().for_each(|to| self.link_is_lost(to));
        }
    }

    /// How many processes are a machine that runs, on all hosts.
    #[must_use]
    pub fn running(&self, machine: MachineId) -> usize {
        let all = self.hosts.iter().flat_map(|host| host.processes.values());
        let runs = |process: &&Process| matches!(process.what, What::Runs(runs) if runs == machine);
        all.filter(runs).filter(|process| process.has_guest()).count()
    }

    /// A machine runs once at most.
    pub fn check_runs_once(&mut self, machine: MachineId) {
        if self.running(machine) > 1 {
            self.find(format!("machine {machine} runs twice"));
        }
    }

    /// Kills a process.
    pub fn kill(&mut self, host: HostIndex, pid: u32) {
        let Some(process) = self.hosts[host].processes.get(&pid) else { return };
        match process.what.clone() {
            What::Serves(key)
                if self.hosts[host].servers.get(&key).is_some_and(|server| server.pid == pid) =>
            {
                self.kill_server(At { host, key }, "is killed");
            }
            What::Serves(_) | What::Waits(_) | What::Awaits { .. } => {
                self.end_process(host, pid, Ended::by_signal(KILL));
            }
            What::Runs(machine) => {
                self.say_of(host, format!("machine {machine} (process {pid}) is killed"));
                self.end_process(host, pid, Ended::by_signal(KILL));
            }
        }
    }

    /// Kills one of the machines of a host, if any runs.
    pub fn kill_a_machine(&mut self, host: HostIndex) {
        let is_machine = |process: &Process| matches!(process.what, What::Runs(_) | What::Awaits { .. });
        let pids: Vec<u32> =
            self.hosts[host].processes.iter().filter(|(_, p)| is_machine(p)).map(|(pid, _)| *pid).collect();
        if !pids.is_empty() {
            let pid = pids[self.dice.index(pids.len())];
            self.kill(host, pid);
        }
    }

    /// The agent of a host dies; what it was about to start never was anything.
    pub fn agent_dies(&mut self, host: HostIndex, how: &str) {
        let Some(life) = self.hosts[host].life.take() else { return };
        let agent = self.hosts[host].agent.take();
        self.say_of(host, format!("agent {how}"));
        life.end();
        let was_its = |process: &Process| matches!(&process.what, What::Waits(by) if Arc::ptr_eq(by, &life));
        let waiting: Vec<u32> =
            self.hosts[host].processes.iter().filter(|(_, p)| was_its(p)).map(|(pid, _)| *pid).collect();
        waiting.into_iter().for_each(|pid| self.kill(host, pid));
        let world = self.world.upgrade().expect("the world is there while something happens in it");
        // Not here: dropping it ends tasks, and this may be one of them.
        tokio::spawn(async move {
            drop(agent);
            world.agent_gone.notify_one();
        });
    }

    /// A host loses its power, with everything that runs on it.
    pub fn lose_power(&mut self, host: HostIndex) {
        self.say_of(host, "loses its power");
        self.agent_dies(host, "is gone with the power");
        self.hosts[host].is_up = false;
        let keys: Vec<VolumeKey> = self.hosts[host].servers.keys().copied().collect();
        keys.into_iter().for_each(|key| self.kill_server(At { host, key }, "is gone with the power"));
        let pids: Vec<u32> = self.hosts[host].processes.keys().copied().collect();
        pids.into_iter().for_each(|pid| self.kill(host, pid));
        let keys: Vec<VolumeKey> = self.hosts[host].copies.keys().copied().collect();
        keys.into_iter().for_each(|key| self.copy_loses_power(At { host, key }));
    }

    /// A host has power again.
    pub fn power_up(&mut self, host: HostIndex) {
        if !self.hosts[host].is_up {
            self.say_of(host, "has power again");
            self.hosts[host].is_up = true;
            self.hosts[host].boot += 1;
        }
    }
}

/// A process that an agent watches.
pub struct Watching {
    /// The world it is in.
    pub world: Arc<World>,
    /// Its host.
    pub host: HostIndex,
    /// The agent that watches it.
    pub life: Arc<Life>,
    /// Its number.
    pub pid: u32,
    ended: Arc<Told<Option<Ended>>>,
    told: Arc<Told<bool>>,
}

impl Watching {
    /// Watches a process, if it still runs.
    #[must_use]
    pub fn find(world: &Arc<World>, host: HostIndex, life: &Arc<Life>, pid: u32) -> Option<Self> {
        let state = world.lock();
        let process = state.hosts[host].processes.get(&pid)?;
        let (ended, told) = (Arc::clone(&process.ended), Arc::clone(&process.told));
        Some(Self { world: Arc::clone(world), host, life: Arc::clone(life), pid, ended, told })
    }

    /// Ends it, or asks it to.
    fn act(&self, act: impl FnOnce(&mut State)) {
        if self.life.is_over() {
            return;
        }
        let mut state = self.world.lock();
        let machine = match state.hosts[self.host].processes.get(&self.pid).map(|process| &process.what) {
            Some(What::Runs(machine)) => Some(*machine),
            _ => None,
        };
        if let Some(machine) = machine
            && state.moves_live.get(&machine) == Some(&self.host)
            && !state.asked_to_stop.contains(&machine)
        {
            state.find(format!("machine {machine} is ended while its memory moves, and was not handed over"));
        }
        act(&mut state);
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Watched for Watching {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn ended(&self) -> Doing<'_, Ended> {
        Box::pin(async {
            if self.world.lock().planted == Some(Planted::StoppedTooEarly) {
                // Whoever was asked to end surely does.
                self.told.wait_for(|told| *told).await;
                return Ended::with_code(0);
            }
            let how = self.ended.wait_for(Option::is_some).await;
            how.unwrap_or(Ended::UNSEEN)
        })
    }

    fn signal(&self, number: i32) {
        self.act(|state| {
            if number == KILL {
                state.kill(self.host, self.pid);
            } else if let Some(process) = state.hosts[self.host].processes.get(&self.pid) {
                process.told.tell(true);
            }
        });
    }

    fn kill_group(&self) {
        self.act(|state| state.kill(self.host, self.pid));
    }
}
