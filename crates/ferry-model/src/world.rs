//! The world as a whole: a few workers, the calls between them, and what may happen next.
//!
//! Invariant: a worker's step depends on that worker and its input alone, so it is computed once and remembered; a world
//! is then a handful of numbers, and millions of worlds fit in memory.

use crate::books::Books;
use crate::host::{Host, Input, Process, SIZE_BYTES, Stepped};
use crate::memory::Memory;
use crate::names;
use crate::quick::QuickMap;
use crate::scope::{Budget, Scope};
use crate::source::Task;
use crate::target::{Based, Call};
use ferry_api::{
    Desired, Generation, MachineId, MachineSpec, MachineVolume, Ownership, Testimony, VolumeId, VolumeKey,
    VolumePhase,
};
use ferry_crossing::{MachineRecord, ProcessMark, Standing, VolumeRecord, service, target};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// Workers at most.
const WORKERS_MAX: usize = 3;
/// Volumes at most.
pub(crate) const VOLUMES_MAX: usize = 2;
/// Different calls at most: each is a bit of the network.
const CALLS_MAX: usize = 64;

/// A state of the world. Small: workers are numbers in [`Worlds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    hosts: [u32; WORKERS_MAX],
    /// The calls that were ever sent: each may arrive at any time, any number of times, or never.
    sent: u64,
    /// Of each volume, the number of the last write that the machine was told is durable.
    pub(crate) told: [u8; VOLUMES_MAX],
    /// What may still happen.
    left: Budget,
    /// Moves that were begun.
    moves: u8,
    /// Whether an older state of some worker's records is in force.
    pub(crate) restored: bool,
    /// Whether its owner wants the machine down.
    pub(crate) is_stopped: bool,
    /// Whether its owner has given up the machine, and what it wrote.
    pub(crate) is_doomed: bool,
}

/// What happens, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Action {
    pub(crate) host: u8,
    pub(crate) input: Input,
    /// Whether the answer to a call that arrives reaches whoever waits for it.
    pub(crate) answer: bool,
}

impl Action {
    /// Whether it happens also when nothing goes wrong any more and nobody asks for anything.
    pub(crate) fn is_kind(&self) -> bool {
        self.input.cost().is_none() && (self.answer || !matches!(self.input, Input::Arrives { .. }))
    }
}

#[derive(Clone)]
struct Outcome {
    host: u32,
    sends: Option<u8>,
    answers: Option<Result<Based, ferry_api::ErrorCode>>,
    broken: Option<&'static str>,
}

/// All workers that were ever seen, and what becomes of each.
pub(crate) struct Worlds {
    pub(crate) scope: Scope,
    hosts: Vec<Host>,
    /// What each of them tells of what lies on its disk.
    testimonies: Vec<Testimony>,
    known: QuickMap<[u64; 2], u32>,
    calls: Vec<Call>,
    outcomes: QuickMap<(u32, Input), Option<Outcome>>,
    inputs: QuickMap<u32, Rc<Vec<Input>>>,
    looks: QuickMap<u32, Rc<Looks>>,
    finds: QuickMap<(u32, u32, Input), bool>,
}

/// What a worker wants to know of others.
#[derive(Default)]
struct Looks {
    /// Copies whose block is remote.
    remote: Vec<VolumeKey>,
    /// Clones that copy ahead, or find out what of that is right.
    ahead: Vec<VolumeKey>,
    /// What is looked for, and at whom.
    at_others: Vec<(Input, usize)>,
}

impl Worlds {
    pub(crate) fn new(scope: Scope) -> Self {
        assert!(
            scope.workers <= WORKERS_MAX && scope.volumes <= VOLUMES_MAX,
            "the model is for small worlds"
        );
        Self {
            scope,
            hosts: Vec::new(),
            testimonies: Vec::new(),
            known: QuickMap::default(),
            calls: Vec::new(),
            outcomes: QuickMap::default(),
            inputs: QuickMap::default(),
            looks: QuickMap::default(),
            finds: QuickMap::default(),
        }
    }

    /// The world in which everything begins: the machine runs on the first worker, and has written nothing.
    pub(crate) fn first(&mut self) -> World {
        let mut hosts = [0; WORKERS_MAX];
        for (index, host) in hosts.iter_mut().enumerate() {
            *host = self.known(first_host(&self.scope, index));
        }
        World {
            hosts,
            sent: 0,
            told: [0; VOLUMES_MAX],
            left: self.scope.budget,
            moves: 0,
            restored: false,
            is_stopped: false,
            is_doomed: false,
        }
    }

    /// What the workers of a world tell of what lies on their disks.
    pub(crate) fn testimonies(&self, world: &World) -> Vec<&Testimony> {
        world.hosts[..self.scope.workers].iter().map(|host| &self.testimonies[*host as usize]).collect()
    }

    /// How many different workers there are so far.
    pub(crate) fn hosts_seen(&self) -> usize {
        self.hosts.len()
    }

    pub(crate) fn host(&self, world: &World, index: usize) -> &Host {
        &self.hosts[world.hosts[index] as usize]
    }

    /// The workers of a world, in their order.
    pub(crate) fn hosts(&self, world: &World) -> Vec<&Host> {
        (0..self.scope.workers).map(|index| self.host(world, index)).collect()
    }

    /// The worlds that may follow, each with what led there and with a promise that this broke, if it did.
    pub(crate) fn after(&mut self, world: &World) -> Vec<(Action, World, Option<&'static str>)> {
        let mut next = Vec::new();
        for action in self.actions(world) {
            if let Some((to, broken)) = self.act(world, action)
                && (to != *world || broken.is_some())
            {
                next.push((action, to, broken));
            }
        }
        next
    }

    fn actions(&mut self, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        for index in 0..self.scope.workers {
            let inputs = self.inputs(world.hosts[index]);
            for &input in inputs.iter() {
                actions.extend(self.allowed(world, index, input));
            }
            self.add_looks(world, index, &mut actions);
        }
        for (number, call) in self.calls.iter().enumerate().filter(|(bit, _)| world.sent & (1 << bit) != 0) {
            let host = call.to as u8;
            let arrives = |cut| Input::Arrives { call: number as u8, cut };
            let waits = matches!(
                self.host(world, call.from).tasks.get(&call.job),
                Some(Task::Asking { act, moment })
                    if Some(call.asks.name()) == crate::moments::asked(&self.scope, act, *moment)
            );
            if waits {
                actions.push(Action { host, input: arrives(false), answer: true });
            }
            actions.push(Action { host, input: arrives(false), answer: false });
            if world.left.crashes > 0 {
                actions.push(Action { host, input: arrives(true), answer: false });
            }
        }
        actions
    }

    /// An input with what it depends on, if it may happen now.
    fn allowed(&self, world: &World, index: usize, input: Input) -> Option<Action> {
        let mut left = world.left;
        if input.cost().is_some_and(|cost| *left.of(cost) == 0) {
            return None;
        }
        let mut input = input;
        if let Input::Writes(volume, number) = &mut input {
            *number = world.told[self.number_of(*volume)?] + 1;
        }
        if let Input::Begin(job, _) = &mut input {
            *job = names::job(usize::from(world.moves));
        }
        Some(Action { host: index as u8, input, answer: false })
    }

    fn number_of(&self, volume: VolumeId) -> Option<usize> {
        (0..self.scope.volumes).find(|number| names::volume(*number) == volume)
    }

    /// What one worker learns of another: blocks, how far a move is, and whether it was undone.
    fn add_looks(&mut self, world: &World, index: usize, actions: &mut Vec<Action>) {
        let host = index as u8;
        let looks = self.looks(world.hosts[index]);
        for &key in &looks.remote {
            let hosts = self.hosts(world);
            let from_source = crate::promises::read(&hosts, index, key);
            let from_base = crate::promises::read_base(&self.scope, &hosts, index, key);
            for number in from_source.into_iter().chain(from_base).collect::<BTreeSet<_>>() {
                actions.push(Action { host, input: Input::Fetched(key, number), answer: false });
            }
        }
        for &key in &looks.ahead {
            let next = Host::next_ahead(&self.scope, &self.hosts(world), index, key);
            actions.extend(next.map(|input| Action { host, input, answer: false }));
        }
        for &(input, other) in &looks.at_others {
            let pair = (world.hosts[index], world.hosts[other], input);
            let (here, there) = (&self.hosts[pair.0 as usize], &self.hosts[pair.1 as usize]);
            let scope = &self.scope;
            let finds = *self.finds.entry(pair).or_insert_with(|| {
                if let Input::Undone(job) = input {
                    return there.says_undone(scope, job);
                }
                if let Input::Unawaited(job) = input {
                    return here.hears_of_nobody(scope, job, there);
                }
                if let Input::Forget(job) = input {
                    return there.has_ended(job);
                }
                here.memory_may(input, there)
                    || matches!(input, Input::Found(job) if here.finds(scope, job, there))
            });
            if finds {
                actions.extend(self.allowed(world, index, input));
            }
        }
    }

    /// What a worker wants to know of others.
    fn looks(&mut self, host: u32) -> Rc<Looks> {
        if let Some(known) = self.looks.get(&host) {
            return Rc::clone(known);
        }
        let state = &self.hosts[host as usize];
        let mut looks = Looks::default();
        let served = |copy: &crate::host::Copy| copy.block.is_none() && copy.phase != VolumePhase::Standby;
        let rests = |key| state.books.volumes.get(key).is_some_and(|record| record.rests);
        let remote = state.copies.iter().filter(|(key, copy)| served(copy) && !rests(key));
        looks.remote.extend(remote.map(|(key, _)| *key));
        looks
            .ahead
            .extend(state.copies.iter().filter(|(_, copy)| copy.copied.is_some()).map(|(key, _)| *key));
        for &job in state.tasks.keys() {
            if let Some(to) = state.books.standing(job).and_then(|s| ferry_crossing::moving::input(&s).ok()) {
                let to = names::index_of(&to.to);
                looks.at_others.push((Input::Found(job), to));
                looks.at_others.extend(self.scope.is_live.then_some((Input::Unawaited(job), to)));
            }
        }
        for crossing in state.books.crossings.values().filter(|crossing| target::is_expected(crossing)) {
            if let Some(reserve) = &crossing.reserve {
                looks.at_others.push((Input::Undone(crossing.job), names::index_of(&reserve.from)));
            }
        }
        for crossing in state.books.crossings.values().filter(|crossing| target::is_over(crossing.state)) {
            if let Some(reserve) = &crossing.reserve {
                looks.at_others.push((Input::Forget(crossing.job), names::index_of(&reserve.from)));
            }
        }
        let moves = |process: &Process| process.moves(state.index, self.scope.workers);
        looks.at_others.extend(state.processes.iter().flat_map(moves));
        let looks = Rc::new(looks);
        self.looks.insert(host, Rc::clone(&looks));
        looks
    }

    fn act(&mut self, world: &World, action: Action) -> Option<(World, Option<&'static str>)> {
        let index = usize::from(action.host);
        let outcome = self.outcome(world.hosts[index], action.input)?;
        let mut to = *world;
        to.hosts[index] = outcome.host;
        to.sent |= outcome.sends.map_or(0, |call| 1 << call);
        if let Some(cost) = action.input.cost() {
            *to.left.of(cost) -= 1;
        }
        if let Input::Writes(volume, number) = action.input {
            to.told[self.number_of(volume)?] = number;
        }
        to.moves += u8::from(matches!(action.input, Input::Begin(..)));
        to.restored |= action.input == Input::Restore;
        to.is_doomed |= action.input == Input::Doom;
        if let Input::Desire(up) = action.input {
            to.is_stopped = !up;
        }
        if let (true, Input::Arrives { call, .. }, Some(answer)) =
            (action.answer, action.input, outcome.answers)
        {
            let call = &self.calls[usize::from(call)];
            let (job, from) = (call.job, call.from);
            let answered = self.outcome(to.hosts[from], Input::Answered(job, answer))?;
            to.hosts[from] = answered.host;
        }
        Some((to, outcome.broken))
    }

    fn outcome(&mut self, host: u32, input: Input) -> Option<Outcome> {
        if let Some(known) = self.outcomes.get(&(host, input)) {
            return known.clone();
        }
        let stepped = self.hosts[host as usize].step(&self.scope, input, &self.calls);
        let outcome = stepped.map(|Stepped { host, sends, answers, broken }| Outcome {
            host: self.known(host),
            sends: sends.map(|call| self.numbered(call)),
            answers,
            broken,
        });
        self.outcomes.insert((host, input), outcome.clone());
        outcome
    }

    fn numbered(&mut self, call: Call) -> u8 {
        let number = self.calls.iter().position(|known| *known == call).unwrap_or_else(|| {
            self.calls.push(call);
            self.calls.len() - 1
        });
        assert!(number < CALLS_MAX, "a small world has few different calls");
        number as u8
    }

    fn known(&mut self, host: Host) -> u32 {
        let mut print = Fingerprint::new();
        write!(print, "{host:?}").expect("hashing does not fail");
        *self.known.entry(print.digest()).or_insert_with(|| {
            self.testimonies.push(crate::promises::testimony(&host));
            self.hosts.push(host);
            u32::try_from(self.hosts.len() - 1).expect("small worlds have few workers")
        })
    }

    /// What can happen at a worker by itself.
    fn inputs(&mut self, host: u32) -> Rc<Vec<Input>> {
        if let Some(known) = self.inputs.get(&host) {
            return Rc::clone(known);
        }
        let state = &self.hosts[host as usize];
        let mut inputs = vec![Input::Mind, Input::CleanUp, Input::Crash, Input::Reboot];
        inputs.extend(self.scope.is_live.then_some(Input::Dies));
        inputs.extend(state.backup.is_none().then_some(Input::Backup));
        inputs.extend(state.backup.is_some().then_some(Input::Restore));
        for &job in state.tasks.keys() {
            inputs.extend([Input::Tick(job), Input::TimedOut(job), Input::Cancel(job)]);
        }
        for (&key, record) in &state.books.volumes {
            inputs.push(Input::Keep(key));
            if matches!(record.ownership, Ownership::Retired { .. }) {
                inputs.push(Input::Reap(key));
            }
        }
        let volumes = (0..self.scope.volumes).map(names::volume);
        inputs.extend(volumes.filter(|v| state.writable(*v).is_some()).map(|v| Input::Writes(v, 0)));
        if let Some(here) = state.books.machines.get(&names::machine())
            && here.standing == Standing::Ours
        {
            inputs.push(Input::Desire(here.desired == Desired::Stopped));
            inputs.extend([Input::Doom, Input::Bury]);
            let others = (0..self.scope.workers).filter(|to| *to != state.index);
            inputs.extend(others.map(|to| Input::Begin(names::job(0), to)));
        }
        let inputs = Rc::new(inputs);
        self.inputs.insert(host, Rc::clone(&inputs));
        inputs
    }

    /// What an action is, for people.
    pub(crate) fn told(&self, world: &World, action: &Action) -> String {
        let at = names::worker(usize::from(action.host));
        match action.input {
            Input::Tick(job) => {
                let here = self.host(world, usize::from(action.host));
                format!("{at}: job {} {}", names::short(job), here.at_work(&self.scope, job))
            }
            Input::Answered(job, _) => format!("{at}: job {} is answered", names::short(job)),
            Input::TimedOut(job) => format!("{at}: job {} gets no answer in time", names::short(job)),
            Input::Found(job) => format!("{at}: job {} finds all at the target", names::short(job)),
            Input::Arrives { call, cut } => {
                let call = &self.calls[usize::from(call)];
                let fate = match (cut, action.answer) {
                    (true, _) => ", is made durable, and the agent dies",
                    (false, true) => " and is answered",
                    (false, false) => ", and the answer goes astray",
                };
                format!("{at}: `{}` of job {} arrives{fate}", call.asks.name(), names::short(call.job))
            }
            Input::Keep(key) => format!("{at}: the keeper of {} looks at it", names::short(key)),
            Input::Mind => format!("{at}: the minder looks at the machine"),
            Input::Writes(volume, number) => {
                format!("{at}: the machine writes {number} to volume {}, durably", names::short(volume))
            }
            Input::Fetched(key, number) => {
                format!("{at}: {} fetches {number} from its source or base", names::short(key))
            }
            Input::Copied(key, number) => {
                format!("{at}: {} has copied {number} ahead", names::short(key))
            }
            Input::Told(key, is_changed) => {
                let what = if is_changed { "that something" } else { "that nothing" };
                format!("{at}: {} is told {what} has changed since", names::short(key))
            }
            Input::MemoryCopied => format!("{at}: the machine is paused for the rest of its memory"),
            Input::RestSent => format!("{at}: the rest of the memory has left"),
            Input::LinkBroken => format!("{at}: nobody takes the memory, and the machine runs on"),
            Input::MemoryArrives => format!("{at}: the memory arrives, and the machine runs"),
            Input::Dies => format!("{at}: the process that waits for the memory dies"),
            Input::Unawaited(job) => format!("{at}: job {} hears that nobody waits", names::short(job)),
            Input::Adopt(key) => format!("{at}: {} keeps what is right", names::short(key)),
            Input::Reap(key) => format!("{at}: the retired copy {} is deleted", names::short(key)),
            Input::Undone(job) => format!("{at}: the sweep hears that job {} was undone", names::short(job)),
            Input::Forget(job) => format!("{at}: the record of job {} is forgotten", names::short(job)),
            Input::CleanUp => format!("{at}: what a release left is removed"),
            Input::Begin(job, to) => {
                format!("{at}: a person begins job {}, to {}", names::short(job), names::worker(to))
            }
            Input::Cancel(job) => format!("{at}: a person cancels job {}", names::short(job)),
            Input::Desire(true) => format!("{at}: its owner starts the machine"),
            Input::Desire(false) => format!("{at}: its owner stops the machine"),
            Input::Doom => format!("{at}: its owner destroys the machine"),
            Input::Bury => format!("{at}: what is left of the machine is deleted"),
            Input::Crash => format!("{at}: the agent dies and starts again"),
            Input::Reboot => format!("{at}: the host goes down and comes back"),
            Input::Backup => format!("{at}: a backup is made of the records"),
            Input::Restore => format!("{at}: the host goes down and comes back with the backup for records"),
        }
    }
}

fn first_host(scope: &Scope, index: usize) -> Host {
    let mut host = Host {
        index,
        books: Rc::new(Books::default()),
        durable: None,
        backup: None,
        copies: BTreeMap::new(),
        fences: BTreeMap::new(),
        processes: Vec::new(),
        tasks: BTreeMap::new(),
        was_down: false,
    };
    if index > 0 {
        return host;
    }
    let (machine, generation) = (names::machine(), Generation::FIRST);
    let keys: Vec<VolumeKey> =
        (0..scope.volumes).map(|v| VolumeKey { id: names::volume(v), generation }).collect();
    let mut books = Books::default();
    for (v, &key) in keys.iter().enumerate() {
        let record = VolumeRecord {
            id: key.id,
            generation,
            name: names::volume_name(v),
            machine: Some(machine),
            size_bytes: SIZE_BYTES,
            region_bytes: ferry_api::REGION_BYTES_DEFAULT,
            ownership: Ownership::Ours,
            source: None,
            base: None,
            rests: false,
            made: true,
            bytes_expected: 0,
            store: None,
            direct: false,
            filesystem: None,
            forks: Vec::new(),
            created_at_ms: 0,
        };
        debug_assert_eq!(service::wanted(&record.ownership, false), service::Service::Open);
        books.volumes.insert(key, record);
        let copy = crate::host::Copy::new(VolumePhase::Open, Some(0));
        host.copies.insert(key, copy);
    }
    let process = ProcessMark { pid: 1, start_ticks: 0, boot_id: String::new(), started_at_ms: 0 };
    let volumes = keys.iter().enumerate().map(|(v, key)| MachineVolume {
        name: names::volume_name(v),
        volume: key.id,
        generation,
    });
    books.machines.insert(machine, first_machine(machine, volumes.collect(), process));
    host.books = Rc::new(books);
    host.processes = vec![Process { pid: 1, keys, memory: Memory::Here, began_for: None }];
    host
}

/// The machine as it runs there.
fn first_machine(id: MachineId, volumes: Vec<MachineVolume>, process: ProcessMark) -> MachineRecord {
    MachineRecord {
        id,
        name: names::machine_name(),
        spec: MachineSpec::process("m", [""; 0]),
        volumes,
        desired: Desired::Running,
        generation: Generation::FIRST,
        standing: Standing::Ours,
        job: None,
        halted: false,
        doomed: false,
        process: Some(process),
        memory: None,
        last_exit: None,
        start_ms: None,
        created_at_ms: 0,
    }
}

/// 128 bits of what is written to it.
struct Fingerprint([DefaultHasher; 2]);

impl Fingerprint {
    fn new() -> Self {
        let mut other = DefaultHasher::new();
        1u8.hash(&mut other);
        Self([DefaultHasher::new(), other])
    }

    fn digest(&self) -> [u64; 2] {
        [self.0[0].finish(), self.0[1].finish()]
    }
}

impl Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.iter_mut().for_each(|hasher| hasher.write(text.as_bytes()));
        Ok(())
    }
}
