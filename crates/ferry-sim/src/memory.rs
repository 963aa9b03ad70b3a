//! VMs that move with their memory, as QEMU does it: what sends, what waits, and the link between them.
//!
//! Invariant: this knows nothing of hand-overs. A guest whose memory nobody takes runs on where it is, also behind one, and what has
//! left is never continued.

use crate::faults::Planted;
use crate::guest;
use crate::host::{Held, Simulated};
use crate::process::{Process, What};
use crate::world::{HostIndex, State, World};
use ferry_agent::drivers::{DriverError, Ended, HeldMachine, Launch, Live};
use ferry_agent::host::Doing;
use ferry_api::{LiveFacts, MachineId, WorkerName};
use ferry_crossing::live::{self, MemoryCopied};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a look waits for news, in milliseconds.
const NEWS_MS: u64 = 20;
/// How often it is looked at a process that goes on by itself soon.
const LOOKS_MAX: u32 = 300;
/// How long a process that waits for memory takes to notice that its link is gone, at most, in milliseconds.
const NOTICES_MS_MAX: u64 = 500;
/// Passes over the memory before a guest is paused.
const PASSES: u64 = 3;

/// A process, on a host.
pub type Place = (HostIndex, u32);

/// How the memory of a process stands; `to`: the process that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It is here.
    Here,
    /// It is copied while the guest runs.
    Leaving { to: Place },
    /// The guest is paused.
    Paused { to: Place },
    /// The rest is on its way.
    Finishing { to: Place },
    /// It has left.
    Left,
    /// It did not, and the guest runs on.
    Failed(&'static str),
}

impl Process {
    /// Whether a guest runs in it: not if that is paused, or has left.
    #[must_use]
    pub const fn has_guest(&self) -> bool {
        matches!(self.memory, Memory::Here | Memory::Leaving { .. } | Memory::Failed(_))
    }

    /// Whether its memory is copied while its guest runs.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        matches!(self.memory, Memory::Leaving { .. })
    }

    /// Where its memory goes.
    #[must_use]
    pub const fn sends_to(&self) -> Option<Place> {
        match self.memory {
            Memory::Leaving { to } | Memory::Paused { to } | Memory::Finishing { to } => Some(to),
            Memory::Here | Memory::Left | Memory::Failed(_) => None,
        }
    }

    fn stands(&self) -> live::Memory {
        let copied = MemoryCopied { bytes: 1, bytes_left: 1, passes: PASSES };
        match &self.memory {
            _ if matches!(self.what, What::Awaits { .. }) => live::Memory::Awaited,
            Memory::Here => live::Memory::Here,
            Memory::Leaving { .. } => live::Memory::Leaving(copied),
            Memory::Paused { .. } => live::Memory::Paused(copied),
            Memory::Finishing { .. } => live::Memory::Finishing,
            Memory::Left => live::Memory::Left,
            Memory::Failed(why) => live::Memory::Failed { why: (*why).to_owned() },
        }
    }
}

impl State {
    fn process(&mut self, (host, pid): Place) -> Option<&mut Process> {
        self.hosts[host].processes.get_mut(&pid)
    }

    /// Whether a process waits there for memory from `from`, and they hear each other.
    fn takes(&self, from: HostIndex, (host, pid): Place) -> bool {
        let waits = |process: &Process| matches!(process.what, What::Awaits { .. });
        self.hear(from, host) && self.hosts[host].processes.get(&pid).is_some_and(waits)
    }

    /// The memory of a process does not leave: its guest runs on.
    fn memory_stays(&mut self, at: Place, why: &'static str) {
        let Some(process) = self.process(at) else { return };
        let to = process.sends_to();
        process.memory = Memory::Failed(why);
        process.rests.tell(false);
        process.held.tell(false);
        let machine = if let What::Runs(machine) = process.what { Some(machine) } else { None };
        self.say_of(at.0, format!("the memory of process {} stays: {why}", at.1));
        if let Some(machine) = machine {
            self.check_runs_once(machine);
        }
        to.into_iter().for_each(|to| self.link_is_lost(to));
    }

    /// What waits for memory ends once it notices that none comes.
    pub fn link_is_lost(&mut self, to: Place) {
        let world = self.world.upgrade().expect("the world is there while something happens in it");
        let ms = self.dice.between(1, NOTICES_MS_MAX);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let mut state = world.lock();
            if state.process(to).is_some_and(|process| matches!(process.what, What::Awaits { .. })) {
                state.say_of(to.0, format!("process {} has waited for memory in vain", to.1));
                state.end_process(to.0, to.1, Ended::with_code(1));
            }
        });
    }

    /// The rest of a machine's memory goes to where it is awaited, or stays.
    fn rest_goes(&mut self, at: Place) {
        let Some(Memory::Finishing { to }) = self.process(at).map(|process| process.memory.clone()) else {
            return;
        };
        let breaks = self.mishap(100);
        if !self.takes(at.0, to) || breaks {
            self.count("memory that could not leave");
            if !self.has_troubles {
                self.find(format!("nobody takes the memory of process {} on w{}", at.1, at.0 + 1));
            }
            return self.memory_stays(at, "nobody takes it");
        }
        let Some(process) = self.process(at) else { return };
        process.memory = Memory::Left;
        let life = process.life;
        self.say_of(at.0, format!("the memory of process {} has left for w{}", at.1, to.0 + 1));
        let world = self.world.upgrade().expect("the world is there while something happens in it");
        let ms = self.dice.between(0, 20);
        tokio::spawn(async move {
            if world.pass(to.0, ms).await {
                let mut state = world.lock();
                let What::Awaits { machine, disks } = (match state.process(to) {
                    Some(process) => process.what.clone(),
                    None => return,
                }) else {
                    return;
                };
                if state.mishap(50) {
                    state.say_of(to.0, format!("process {} cannot take the memory that came", to.1));
                    return state.end_process(to.0, to.1, Ended::with_code(1));
                }
                state.count("machines that moved with their memory");
                guest::begin(&mut state, to.0, to.1, machine, disks, Some(life));
            }
        });
    }
}

/// Copies the memory of a guest while that runs, until it is paused for the rest.
async fn leave(world: Arc<World>, at: Place, to: Place) {
    let pauses = |state: &mut State| {
        let process = state.process(at).filter(|process| process.memory == Memory::Leaving { to })?;
        Some((Arc::clone(&process.held), Arc::clone(&process.rests), Arc::clone(&process.ended)))
    };
    for _ in 0..PASSES {
        let ms = world.lock().dice.between(1, 200);
        if !world.pass(at.0, ms).await {
            return;
        }
        let mut state = world.lock();
        if pauses(&mut state).is_none() {
            return;
        }
        if !state.takes(at.0, to) {
            return state.memory_stays(at, "its link is lost");
        }
    }
    let Some((held, rests, ended)) = pauses(&mut world.lock()) else { return };
    held.tell(true);
    tokio::select! {
        biased;
        _ = rests.wait_for(|rests| *rests) => {}
        _ = held.wait_for(|held| !held) => return,
        _ = ended.wait_for(Option::is_some) => return,
    }
    let mut state = world.lock();
    let lets_go = state.planted == Some(Planted::LetGoAtOnce);
    if pauses(&mut state).is_none() {
        return;
    }
    state.say_of(at.0, format!("process {} is paused for the rest of its memory", at.1));
    if let Some(process) = state.process(at) {
        process.memory = if lets_go { Memory::Finishing { to } } else { Memory::Paused { to } };
    }
    if lets_go {
        state.rest_goes(at);
    }
}

fn failed(why: &'static str) -> DriverError {
    DriverError::Io { doing: "speak with a VM".to_owned(), cause: io::Error::other(why) }
}

impl Simulated {
    /// The process of the machine with this directory.
    fn vm(&self, dir: &Path) -> Result<Place, DriverError> {
        let machine = dir.file_name().and_then(|name| name.to_str()?.parse::<MachineId>().ok());
        let machine = machine.expect("the directory of a machine is named after it");
        let state = self.world.lock();
        let is_it = |process: &Process| match &process.what {
            What::Runs(runs) => *runs == machine,
            What::Awaits { machine: awaited, .. } => *awaited == machine,
            What::Serves(_) | What::Waits(_) => false,
        };
        let mut all = state.hosts[self.index].processes.iter().rev();
        let found = all.find(|(_, process)| is_it(process)).map(|(pid, _)| (self.index, *pid));
        found.ok_or_else(|| failed("nobody listens at its monitor"))
    }

    /// How it stands, once somebody has come to it.
    async fn stands(&self, dir: &Path, ms: u64) -> Result<(Place, live::Memory), DriverError> {
        self.world.let_through(self.index, &self.life, ms).await;
        let at = self.vm(dir)?;
        let mut state = self.world.lock();
        let process = state.process(at).ok_or_else(|| failed("it has ended"))?;
        Ok((at, process.stands()))
    }

    async fn lets_go(&self, dir: &Path) -> Result<live::Memory, DriverError> {
        for _ in 0..LOOKS_MAX {
            let (at, stands) = self.stands(dir, 1).await?;
            match stands {
                live::Memory::Paused(_) => {
                    let begun = self.change(|state| {
                        let Some(process) = state.process(at) else { return };
                        if let Memory::Paused { to } = process.memory {
                            process.memory = Memory::Finishing { to };
                            let ms = state.dice.between(0, 50);
                            let world = Arc::clone(&self.world);
                            tokio::spawn(async move {
                                if world.pass(at.0, ms).await {
                                    world.lock().rest_goes(at);
                                }
                            });
                        }
                    });
                    begun.map_err(|_| failed("the agent is dead"))?;
                }
                live::Memory::Finishing => self.world.let_through(self.index, &self.life, NEWS_MS).await,
                done => return Ok(done),
            }
        }
        Err(failed("the rest of its memory is still on its way"))
    }

    async fn keeps(&self, dir: &Path) -> Result<(), DriverError> {
        for _ in 0..LOOKS_MAX {
            let (at, stands) = self.stands(dir, 1).await?;
            match stands {
                live::Memory::Leaving(_) | live::Memory::Paused(_) => {
                    let kept = self.change(|state| state.memory_stays(at, "it was taken back"));
                    kept.map_err(|_| failed("the agent is dead"))?;
                }
                live::Memory::Finishing => self.world.let_through(self.index, &self.life, NEWS_MS).await,
                live::Memory::Here | live::Memory::Failed { .. } => return Ok(()),
                live::Memory::Left | live::Memory::Awaited => return Err(failed("its memory is not here")),
            }
        }
        Err(failed("it does not run again yet"))
    }

    fn sends(&self, dir: &Path, to: &str) -> Result<(), DriverError> {
        let at = self.vm(dir)?;
        let place = to.rsplit_once(':');
        let sent = self.change(|state| {
            let (host, pid) =
                place.and_then(|(host, pid)| Some((state.host_named(host)?, pid.parse().ok()?)))?;
            let is_free = |process: &&mut Process| process.has_guest() && process.sends_to().is_none();
            let process = state.process(at).filter(is_free)?;
            process.memory = Memory::Leaving { to: (host, pid) };
            state
                .say_of(at.0, format!("process {} sends its memory to process {pid} on w{}", at.1, host + 1));
            tokio::spawn(leave(Arc::clone(&self.world), at, (host, pid)));
            Some(())
        });
        sent.map_err(|_| failed("the agent is dead"))?
            .ok_or_else(|| failed("its memory cannot be sent there"))
    }
}

/// All hosts are alike.
fn facts() -> LiveFacts {
    LiveFacts { program: "QEMU".to_owned(), kvm: false, cpu: None, tls: true, local: false }
}

impl Live for Simulated {
    fn offers(&self) -> Doing<'_, Result<LiveFacts, DriverError>> {
        Box::pin(async { Ok(facts()) })
    }

    fn runs_as<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<LiveFacts, DriverError>> {
        Box::pin(async move { self.stands(dir, 1).await.map(|_| facts()) })
    }

    fn expect<'a>(
        &'a self,
        launch: &'a Launch,
        _facts: &'a LiveFacts,
    ) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>> {
        Box::pin(async move {
            self.world.let_through(self.index, &self.life, 3).await;
            Ok(Box::new(Held::new(self, launch, true)) as Box<dyn HeldMachine>)
        })
    }

    fn listen<'a>(&'a self, dir: &'a Path, _from: &'a WorkerName) -> Doing<'a, Result<u16, DriverError>> {
        Box::pin(async move {
            let ((_, pid), _) = self.stands(dir, 2).await?;
            Ok(u16::try_from(pid).expect("there are few processes"))
        })
    }

    fn send<'a>(&'a self, dir: &'a Path, to: &'a str) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(async move {
            self.world.let_through(self.index, &self.life, 1).await;
            self.sends(dir, to)
        })
    }

    fn memory<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<live::Memory, DriverError>> {
        Box::pin(async move {
            match self.stands(dir, 1).await?.1 {
                live::Memory::Leaving(_) | live::Memory::Finishing | live::Memory::Awaited => {
                    Ok(self.stands(dir, NEWS_MS).await?.1)
                }
                done => Ok(done),
            }
        })
    }

    fn let_go<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<live::Memory, DriverError>> {
        Box::pin(self.lets_go(dir))
    }

    fn keep<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(self.keeps(dir))
    }
}
