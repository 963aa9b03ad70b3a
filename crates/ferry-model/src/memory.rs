//! A live move's memory: the machine's process sends it to one that waits at the target, is paused for the rest, and lets that go
//! behind the hand-over.
//!
//! Invariant: nothing here decides. What a process does by itself is what QEMU does: whenever what was to take the memory is gone,
//! the guest runs on where it was, also behind the hand-over.

use crate::host::{Host, Input, Process};
use crate::names;
use crate::scope::{Bug, Scope};
use ferry_api::{ErrorCode, JobId};
use ferry_crossing::live::has_left;
use ferry_crossing::{
    AwaitedMachine, Change, CrossingRecord, MemoryMoves, MoveStep, ProcessMark, minding, target,
};

/// How the memory of a process stands. `to`: the process that waits for it, with the number of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The machine runs.
    Here,
    /// It runs, and is copied.
    Leaving { to: (usize, u32) },
    /// It is paused for the rest.
    Paused { to: (usize, u32) },
    /// The rest is on its way.
    Finishing { to: (usize, u32) },
    /// It has left.
    Left { to: (usize, u32) },
    /// It is still to arrive.
    Awaited,
}

impl Process {
    /// Whether a guest runs in it.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.memory, Memory::Here | Memory::Leaving { .. })
    }

    /// What may become of its memory by itself, each with the worker that has to do with it.
    pub(crate) fn moves(&self, here: usize, workers: usize) -> Vec<(Input, usize)> {
        match self.memory {
            Memory::Leaving { to } => vec![(Input::MemoryCopied, to.0), (Input::LinkBroken, to.0)],
            Memory::Finishing { to } => vec![(Input::RestSent, to.0), (Input::LinkBroken, to.0)],
            Memory::Awaited => {
                let others = (0..workers).filter(|other| *other != here);
                others.map(|other| (Input::MemoryArrives, other)).collect()
            }
            Memory::Here | Memory::Paused { .. } | Memory::Left { .. } => Vec::new(),
        }
    }
}

/// What becomes of memory by itself.
impl Host {
    /// Whether that can happen here now, by what there is on the other worker.
    pub(crate) fn memory_may(&self, input: Input, there: &Self) -> bool {
        let waits = |(_, pid)| {
            there.processes.iter().any(|process| process.pid == pid && process.memory == Memory::Awaited)
        };
        self.processes.iter().any(|process| match (input, process.memory) {
            (Input::MemoryCopied, Memory::Leaving { to }) | (Input::RestSent, Memory::Finishing { to }) => {
                waits(to)
            }
            (Input::LinkBroken, Memory::Leaving { to } | Memory::Finishing { to }) => !waits(to),
            (Input::MemoryArrives, Memory::Awaited) => {
                let left = Memory::Left { to: (self.index, process.pid) };
                there.processes.iter().any(|process| process.memory == left)
            }
            (_, _) => false,
        })
    }

    /// It happens.
    pub(crate) fn memory_moves(&mut self, input: Input) -> Option<()> {
        let next = |memory| match (input, memory) {
            (Input::MemoryCopied, Memory::Leaving { to }) => Some(Memory::Paused { to }),
            (Input::RestSent, Memory::Finishing { to }) => Some(Memory::Left { to }),
            (Input::LinkBroken, Memory::Leaving { .. } | Memory::Finishing { .. })
            | (Input::MemoryArrives, Memory::Awaited) => Some(Memory::Here),
            (_, _) => None,
        };
        let (process, next) =
            self.processes.iter_mut().find_map(|process| next(process.memory).map(|next| (process, next)))?;
        process.memory = next;
        Some(())
    }

    /// A process that waits for memory dies.
    pub(crate) fn awaited_dies(&mut self) -> Option<()> {
        let at = self.processes.iter().position(|process| process.memory == Memory::Awaited)?;
        self.processes.remove(at);
        Some(())
    }

    /// The number of a process that is like no other here that anybody knows of.
    pub(crate) fn fresh_pid(&self) -> Option<u32> {
        let awaited = self.books.crossings.values().filter_map(|crossing| crossing.awaited.as_ref());
        let known: Vec<u32> = awaited.map(|awaited| awaited.process.pid).collect();
        (1..).find(|pid| !known.contains(pid) && self.processes.iter().all(|process| process.pid != *pid))
    }
}

/// The source's part (`Mover::pause`, `check_paused`, `arrive` and `go_on` in the agent).
impl Host {
    /// The memory of the machine by its record; none if no process of it runs here.
    fn memory(&mut self) -> Option<&mut Memory> {
        let pid = self.books.machines.get(&names::machine())?.process.as_ref()?.pid;
        let process = self.processes.iter_mut().find(|process| process.pid == pid)?;
        Some(&mut process.memory)
    }

    /// Whether the machine runs here, so that there is memory to move.
    pub(crate) fn has_memory(&self) -> bool {
        self.clone().memory().is_some()
    }

    fn is_down(&self) -> bool {
        self.books.machines.get(&names::machine()).is_some_and(minding::is_down)
    }

    /// What comes of looking whether a process is to be asked for that waits: none as long as nothing does.
    pub(crate) fn begins_to_send(&mut self) -> Option<Result<bool, ErrorCode>> {
        match self.memory() {
            None => self.is_down().then_some(Ok(false)),
            Some(Memory::Leaving { .. } | Memory::Paused { .. }) => Some(Ok(false)),
            Some(Memory::Here) => Some(Ok(true)),
            Some(Memory::Finishing { .. } | Memory::Left { .. } | Memory::Awaited) => {
                Some(Err(ErrorCode::Conflict))
            }
        }
    }

    /// A process waits at the target: the memory is sent there.
    pub(crate) fn send(&mut self, to: (usize, u32)) {
        if let Some(memory @ Memory::Here) = self.memory() {
            *memory = Memory::Leaving { to };
        }
    }

    /// Whether the machine is paused, or has ended.
    pub(crate) fn paused(&mut self) -> Option<Result<(), ErrorCode>> {
        match self.memory() {
            None => self.is_down().then_some(Ok(())),
            Some(Memory::Paused { .. }) => Some(Ok(())),
            Some(Memory::Leaving { .. }) => None,
            Some(Memory::Here) => Some(Err(ErrorCode::Unavailable)),
            Some(Memory::Finishing { .. } | Memory::Left { .. } | Memory::Awaited) => {
                Some(Err(ErrorCode::Conflict))
            }
        }
    }

    /// Whether it still is before its disks are sealed; none if it is for the target to say that somebody waits for it.
    pub(crate) fn still_paused(&mut self) -> Option<Result<(), ErrorCode>> {
        match self.memory() {
            None => Some(Ok(())),
            Some(Memory::Paused { .. }) => None,
            Some(_) => Some(Err(ErrorCode::Conflict)),
        }
    }

    /// Whether a job asks the target if somebody waits for the memory, and what the answer is.
    pub(crate) fn hears_of_awaited(&self, job: JobId, at_target: &Self) -> Option<bool> {
        if !matches!(self.clone().memory(), Some(Memory::Paused { .. })) {
            return None;
        }
        let crossing = at_target.books.crossings.get(&job)?;
        let awaited = crossing.awaited.as_ref().filter(|awaited| awaited.at.is_some());
        let waits = |process: &ProcessMark| at_target.processes.iter().any(|known| known.pid == process.pid);
        Some(awaited.is_some_and(|awaited| waits(&awaited.process)))
    }

    /// Lets the rest of the memory go. Answers whether it has left, once that is known; a machine whose memory did not leave is ended.
    pub(crate) fn lets_go(&mut self, scope: &Scope, job: JobId) -> Option<bool> {
        if has_left(self.books.machines.get(&names::machine()), job) {
            return Some(true);
        }
        match self.memory() {
            None => Some(false),
            Some(Memory::Left { .. }) => Some(true),
            Some(memory @ Memory::Paused { .. }) => {
                let Memory::Paused { to } = *memory else { unreachable!("it is paused") };
                *memory = Memory::Finishing { to };
                None
            }
            Some(Memory::Finishing { .. }) => None,
            Some(Memory::Here | Memory::Leaving { .. } | Memory::Awaited) => {
                if scope.bug != Some(Bug::LeavesItRunning) {
                    self.change(&[Change::MemoryLeft(names::machine())]).ok()?;
                    while self.mind(scope).is_some() {}
                    if self.memory().is_some() {
                        return None;
                    }
                }
                Some(false)
            }
        }
    }

    /// Takes back that the memory moves.
    pub(crate) fn keep_memory(&mut self) -> Result<(), ErrorCode> {
        match self.memory() {
            None | Some(Memory::Here) => Ok(()),
            Some(memory @ (Memory::Leaving { .. } | Memory::Paused { .. })) => {
                *memory = Memory::Here;
                Ok(())
            }
            Some(Memory::Finishing { .. } | Memory::Left { .. } | Memory::Awaited) => {
                Err(ErrorCode::Internal)
            }
        }
    }

    /// Whether a job has begun to stop the machine.
    pub(crate) fn has_stopped(&self, job: JobId) -> bool {
        let Some(standing) = self.books.standing(job) else { return false };
        let mut steps = standing.steps.iter().filter(|step| step.step == Some(MoveStep::Stop));
        steps.any(|step| step.state != ferry_fsm::StepState::Ahead)
    }

    /// Whether the process of the machine is one that was started anew when that job was undone.
    pub(crate) fn was_started_for(&self, job: JobId) -> bool {
        self.processes.iter().any(|process| process.began_for == Some(job))
    }
}

/// The target's part.
impl Host {
    /// Makes a process that waits for the memory of a machine; answers its number.
    pub(crate) fn expect(&mut self, job: JobId, cut: bool) -> Result<u8, ErrorCode> {
        let known = target::reserved(self.books.crossings.get(&job).cloned(), job);
        let (crossing, reserve) = known.map_err(|error| error.code)?;
        target::check_expects(&crossing).map_err(|error| error.code)?;
        self.end_awaited(&crossing);
        let pid = self.fresh_pid().ok_or(ErrorCode::Internal)?;
        let process = ProcessMark { pid, start_ticks: 0, boot_id: String::new(), started_at_ms: 0 };
        // Cut off, it never was let run.
        let at = (!cut).then(String::new);
        let awaited = Some(AwaitedMachine { process, at, arrival: None });
        self.change(&[Change::Crossing(Box::new(CrossingRecord { awaited, ..crossing }))])?;
        if !cut {
            let keys = target::keys_of(&reserve);
            self.processes.push(Process { pid, keys, memory: Memory::Awaited, began_for: None });
        }
        u8::try_from(pid).map_err(|_| ErrorCode::Internal)
    }

    /// Ends the process that waits, or waited, for the memory of a machine that did not come.
    pub(crate) fn end_awaited(&mut self, crossing: &CrossingRecord) {
        if let Some(awaited) = &crossing.awaited {
            self.processes.retain(|process| process.pid != awaited.process.pid);
        }
    }

    /// No memory will come any more.
    pub(crate) fn forsake(&mut self, scope: &Scope, job: JobId) -> Result<u8, ErrorCode> {
        let known = target::reserved(self.books.crossings.get(&job).cloned(), job);
        let (crossing, reserve) = known.map_err(|error| error.code)?;
        let boots = target::boots(&crossing).map_err(|error| error.code)?;
        let here = self.books.machines.get(&names::machine());
        let is_to_come = here.is_some_and(|here| {
            target::is_still_here(here, &reserve) && here.memory == Some(MemoryMoves::Here)
        });
        if boots && is_to_come && self.memory() == Some(&mut Memory::Awaited) {
            self.end_awaited(&crossing);
            while self.mind(scope).is_some() {}
        }
        Ok(0)
    }

    /// The machine goes on with its memory, or is known not to (`Machines::arrive` in the agent).
    pub(crate) fn arrive(&mut self) -> Result<(), ErrorCode> {
        let id = names::machine();
        if self.books.machines.get(&id).is_none_or(|here| here.memory != Some(MemoryMoves::Here)) {
            return Ok(());
        }
        if self.memory() == Some(&mut Memory::Awaited) {
            return Err(ErrorCode::Unavailable);
        }
        if self.memory().is_none() {
            self.change(&[crate::host::ended(id)])?;
        }
        self.change(&[Change::MemoryArrived { machine: id, at_ms: 0 }])
    }

    /// How the machine of a move began here, as it is remembered.
    pub(crate) fn arrived(&self, crossing: &CrossingRecord) -> Option<AwaitedMachine> {
        let awaited = crossing.awaited.clone()?;
        let now = self.books.machines.get(&names::machine()).and_then(|here| here.process.as_ref());
        let arrival = Some(target::arrival(&awaited, now));
        Some(AwaitedMachine { arrival, ..awaited })
    }

    /// What a machine is wanted to do that came with its memory and lost it, with the mistake that it is started at once.
    pub(crate) fn starts_unasked(&mut self, scope: &Scope) {
        if scope.bug == Some(Bug::StartsUnasked) {
            let arrived = Change::MemoryArrived { machine: names::machine(), at_ms: 0 };
            self.change(&[arrived]).expect("it changes nothing, or the machine's record");
        }
    }
}
