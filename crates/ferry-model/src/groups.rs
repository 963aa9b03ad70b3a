//! Machines of one group that move from several workers at once: whether two of them can be down at the same time, and whether
//! the moves end.
//!
//! ```text
//!   worker   what it has given · a question that it has asked (both its memory and what is durable)
//!   move     waits ─▶ asks one worker after the other ─▶ prepared ─▶ down ─▶ up again
//!              ▲───── gives up, or its agent dies ──┘
//!   network  any call ever sent arrives, late, again, or never; so do the answers to questions
//! ```
//!
//! What decides is [`ferry_crossing::leases`], the same functions that agents run. The shell around them repeats what
//! `ferry-agent/src/leases.rs` and `jobs/leases.rs` do and in which order: change both together.

use crate::names;
use crate::quick::QuickMap;
use crate::search::{Counterexample, Report};
use ferry_api::{GroupName, Lease, LeaseAnswer, MoveMode, WorkerName};
use ferry_crossing::leases::{self, Asked, Next};
use ferry_crossing::{MoveInput, MoveStep, Prepared, WorkerRecord, moving};
use ferry_fsm::{Entry, Event, Standing, Terms};
use std::collections::BTreeMap;

/// Workers at most.
const WORKERS_MAX: usize = 3;
/// Moves at most.
const MOVES_MAX: usize = 3;
/// Attempts of one move at asking, at most.
const ATTEMPTS_MAX: u8 = 2;

/// A small world of moves of one group.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Of each worker, which others it knows.
    pub knows: Vec<Vec<usize>>,
    /// Of each move, the worker that leads it.
    pub moves: Vec<usize>,
    /// Attempts of one move at asking.
    pub attempts: u8,
    /// So many agents may die.
    pub crashes: u8,
    /// A mistake, if there is one.
    pub bug: Option<GroupBug>,
}

/// Mistakes that the search must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBug {
    /// A mover asks itself first, and then the others.
    AsksItselfFirst,
    /// A mover does not ask itself.
    SkipsItself,
    /// A worker gives what another move has without asking whether that is over.
    GivesUnasked,
    /// What a worker has given is not durable.
    ForgetsGiven,
    /// Each attempt of a move asks for the same lease.
    SameLeaseAgain,
    /// A move that was found in the journal again is said not to need its lease.
    ForgetsNeed,
    /// A word that a lease is over ends whichever is given.
    EndsAny,
    /// A mover stops its machine before all have given.
    StopsEarly,
}

impl Groups {
    /// These moves between workers that all know each other, two attempts each.
    #[must_use]
    pub fn of(workers: usize, moves: &[usize], crashes: u8) -> Self {
        assert!(workers <= WORKERS_MAX && moves.len() <= MOVES_MAX, "the model is for small worlds");
        let knows = (0..workers).map(|own| (0..workers).filter(|other| *other != own).collect()).collect();
        Self { knows, moves: moves.to_vec(), attempts: ATTEMPTS_MAX, crashes, bug: None }
    }

    /// The worlds that are searched, each with what it is about.
    #[must_use]
    pub fn all() -> Vec<(&'static str, Self)> {
        // The second worker and the third do not know each other, and ask the first.
        let knows = vec![vec![1, 2], vec![0], vec![0]];
        let once = |scope: Self| Self { attempts: 1, ..scope };
        vec![
            ("two moves of one group from two workers", Self::of(2, &[0, 1], 1)),
            ("two moves of one group from one worker", Self::of(1, &[0, 0], 2)),
            ("two moves of one group from two of three workers", once(Self::of(3, &[0, 2], 1))),
            ("three moves of one group from three workers", once(Self::of(3, &[0, 1, 2], 0))),
            (
                "moves of one group from workers that know a third one",
                once(Self { knows, ..Self::of(3, &[1, 2], 1) }),
            ),
        ]
    }

    /// The same with a mistake.
    #[must_use]
    pub fn with(self, bug: GroupBug) -> Self {
        Self { bug: Some(bug), ..self }
    }
}

/// How a move stands; what is durable of it, but for `Asks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing is asked.
    Waits,
    /// It asks the worker of that place in its order.
    Asks(u8),
    /// All have given, and the journal says so.
    Prepared,
    /// Its machine is down.
    Down,
    /// Its machine runs again.
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Move {
    phase: Phase,
    /// Its attempts so far.
    attempt: u8,
    /// Whether its agent knows that it asks for a lease.
    asking: bool,
}

/// What a worker wants to know before it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    given: u8,
    wish: u8,
    needed: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    given: [Option<u8>; WORKERS_MAX],
    questions: [Option<Question>; WORKERS_MAX],
    moves: [Move; MOVES_MAX],
    /// Calls for a lease that were ever sent, by lease and worker.
    asked: u32,
    /// Leases of which it was ever said that they are over.
    ended: u8,
    crashes: u8,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Begins(usize),
    Arrives { lease: u8, at: usize, answered: bool },
    Told { at: usize },
    Gives { at: usize, answered: bool },
    GivesUp(usize),
    Stops(usize),
    Boots(usize),
    Ends { lease: u8, at: usize },
    Dies(usize),
}

impl Action {
    /// Whether it happens also when nothing goes wrong any more.
    fn is_kind(self) -> bool {
        match self {
            Self::Arrives { answered, .. } | Self::Gives { answered, .. } => answered,
            Self::GivesUp(_) | Self::Dies(_) => false,
            Self::Begins(_) | Self::Told { .. } | Self::Stops(_) | Self::Boots(_) | Self::Ends { .. } => true,
        }
    }
}

/// What does not change from world to world.
struct Stage {
    scope: Groups,
    workers: Vec<WorkerName>,
    group: GroupName,
    leases: Vec<Lease>,
    /// How the journal of a move stands, by phase and lease.
    standings: BTreeMap<(u8, u8), Standing<MoveStep>>,
}

/// Searches all worlds of a scope, up to `worlds_max` of them.
#[must_use]
pub fn search_groups(scope: Groups, worlds_max: usize) -> Report {
    let stage = Stage::new(scope);
    let idle = Move { phase: Phase::Waits, attempt: 0, asking: false };
    let first = World {
        given: [None; WORKERS_MAX],
        questions: [None; WORKERS_MAX],
        moves: [idle; MOVES_MAX],
        asked: 0,
        ended: 0,
        crashes: stage.scope.crashes,
    };
    let mut seen: Vec<(World, usize, Option<Action>, usize)> = vec![(first, 0, None, 0)];
    let mut known: QuickMap<World, usize> = QuickMap::from_iter([(first, 0)]);
    let mut kind_ways: Vec<(usize, usize)> = Vec::new();
    let mut report = Report { worlds: 1, ways: 0, hosts: 0, depth: 0, is_cut: false, broken: None };
    let mut at = 0;
    while at < seen.len() && report.broken.is_none() && !report.is_cut {
        let (world, _, _, depth) = seen[at];
        report.depth = depth;
        for action in stage.actions(&world) {
            let Some(to) = stage.act(&world, action) else { continue };
            report.ways += 1;
            let index = *known.entry(to).or_insert(seen.len());
            if action.is_kind() {
                kind_ways.push((index, at));
            }
            if index == seen.len() {
                seen.push((to, at, Some(action), depth + 1));
                if stage.down(&to) > 1 {
                    let promise = "two machines of one group are down at the same time".to_owned();
                    report.broken = Some(Counterexample { promise, trace: stage.trace(&seen, index) });
                    break;
                }
            }
        }
        at += 1;
        report.is_cut = seen.len() > worlds_max;
    }
    report.worlds = seen.len();
    if report.broken.is_none() && !report.is_cut {
        report.broken = stage.endless(&seen, kind_ways);
    }
    report
}

impl Stage {
    fn new(scope: Groups) -> Self {
        let workers: Vec<WorkerName> = (0..scope.knows.len()).map(names::worker).collect();
        let mut leases = Vec::new();
        for (number, from) in scope.moves.iter().enumerate() {
            for attempt in 0..ATTEMPTS_MAX {
                let id = if scope.bug == Some(GroupBug::SameLeaseAgain) { 0 } else { attempt };
                leases.push(Lease {
                    id: names::lease(number, id),
                    job: names::job(number),
                    from: workers[*from].clone(),
                    machine_name: names::machine_name(),
                });
            }
        }
        let mut standings = BTreeMap::new();
        for (index, lease) in leases.iter().enumerate() {
            for phase in [Phase::Waits, Phase::Prepared, Phase::Down, Phase::Up] {
                standings.insert((key(phase), number(index)), standing(phase, lease));
            }
        }
        Self { scope, workers, group: names::group(), leases, standings }
    }

    fn lease_of(&self, number: usize, one: Move) -> u8 {
        (number as u8) * ATTEMPTS_MAX + one.attempt - 1
    }

    fn move_of(lease: u8) -> usize {
        usize::from(lease / ATTEMPTS_MAX)
    }

    /// Whom a move asks, in order.
    fn order(&self, number: usize) -> Vec<usize> {
        let own = self.scope.moves[number];
        let others = self.scope.knows[own].iter().map(|other| self.workers[*other].clone());
        let named = leases::order(&self.workers[own], others);
        let index = |name: &WorkerName| self.workers.iter().position(|worker| worker == name);
        let mut order: Vec<usize> = named.iter().filter_map(index).collect();
        match self.scope.bug {
            Some(GroupBug::AsksItselfFirst) => order.sort_by_key(|worker| (*worker != own, *worker)),
            Some(GroupBug::SkipsItself) => order.retain(|worker| *worker != own),
            _ => {}
        }
        order
    }

    fn down(&self, world: &World) -> usize {
        world.moves.iter().filter(|one| one.phase == Phase::Down).count()
    }

    fn actions(&self, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, one) in world.moves[..self.scope.moves.len()].iter().enumerate() {
            match one.phase {
                Phase::Waits if one.attempt < self.scope.attempts => actions.push(Action::Begins(number)),
                Phase::Waits | Phase::Up => {}
                Phase::Asks(_) if one.attempt < self.scope.attempts => actions.push(Action::GivesUp(number)),
                Phase::Asks(_) => {}
                Phase::Prepared => actions.push(Action::Stops(number)),
                Phase::Down => actions.push(Action::Boots(number)),
            }
        }
        for at in 0..self.workers.len() {
            for lease in 0..number(self.leases.len()) {
                if world.asked & bit(lease, at) != 0 {
                    actions.extend([true, false].map(|answered| Action::Arrives { lease, at, answered }));
                }
                if world.ended & (1 << lease) != 0 {
                    actions.push(Action::Ends { lease, at });
                }
            }
            match world.questions[at] {
                Some(Question { needed: None, .. }) => actions.push(Action::Told { at }),
                Some(_) => actions.extend([true, false].map(|answered| Action::Gives { at, answered })),
                None => {}
            }
            // An attempt is left for each move that is cut off in one.
            let is_cut = |(number, one): (usize, &Move)| {
                self.scope.moves[number] == at
                    && matches!(one.phase, Phase::Asks(_))
                    && one.attempt >= self.scope.attempts
            };
            let moves = world.moves[..self.scope.moves.len()].iter().enumerate();
            if world.crashes > 0 && !moves.clone().any(is_cut) {
                actions.push(Action::Dies(at));
            }
        }
        actions
    }

    fn act(&self, world: &World, action: Action) -> Option<World> {
        let mut to = *world;
        match action {
            Action::Begins(number) => {
                let one = &mut to.moves[number];
                *one = Move { phase: Phase::Asks(0), attempt: one.attempt + 1, asking: true };
                self.ask(&mut to, number, 0);
            }
            Action::Arrives { lease, at, answered } => self.arrives(&mut to, lease, at, answered)?,
            Action::Told { at } => {
                let question = to.questions[at].as_mut()?;
                let from = self.scope.moves[Self::move_of(question.given)];
                if from != at && !self.scope.knows[at].contains(&from) {
                    return None;
                }
                question.needed = Some(self.needs(world, question.given));
            }
            Action::Gives { at, answered } => self.gives(&mut to, at, answered)?,
            Action::GivesUp(number) => self.give_up(&mut to, number),
            Action::Stops(number) => to.moves[number].phase = Phase::Down,
            Action::Boots(number) => {
                let lease = self.lease_of(number, to.moves[number]);
                (to.moves[number].phase, to.moves[number].asking) = (Phase::Up, false);
                to.ended |= 1 << lease;
            }
            Action::Ends { lease, at } => {
                if self.scope.bug == Some(GroupBug::EndsAny) {
                    to.given[at] = None;
                } else {
                    let mut record = self.record(&to, at);
                    leases::end(&mut record, &self.group, self.leases[usize::from(lease)].id);
                    self.keep(&mut to, at, &record);
                }
            }
            Action::Dies(at) => {
                to.crashes -= 1;
                to.questions[at] = None;
                for (one, from) in to.moves.iter_mut().zip(&self.scope.moves) {
                    if *from == at {
                        one.asking = false;
                        if matches!(one.phase, Phase::Asks(_)) {
                            one.phase = Phase::Waits;
                        }
                    }
                }
                if self.scope.bug == Some(GroupBug::ForgetsGiven) {
                    to.given[at] = None;
                }
            }
        }
        (to != *world).then_some(to)
    }

    /// A move asks the worker of that place in its order, or has asked them all.
    fn ask(&self, to: &mut World, number: usize, place: u8) {
        let order = self.order(number);
        let is_enough = self.scope.bug == Some(GroupBug::StopsEarly) && usize::from(place) + 1 == order.len();
        match order.get(usize::from(place)).filter(|_| !is_enough) {
            Some(at) => {
                to.moves[number].phase = Phase::Asks(place);
                to.asked |= bit(self.lease_of(number, to.moves[number]), *at);
            }
            None => to.moves[number].phase = Phase::Prepared,
        }
    }

    fn arrives(&self, to: &mut World, lease: u8, at: usize, answered: bool) -> Option<()> {
        let wish = &self.leases[usize::from(lease)];
        let given = to.given[at].map(|given| &self.leases[usize::from(given)]);
        match leases::asked(given, wish) {
            Asked::Given => {}
            Asked::Give => self.give(to, at, lease, None)?,
            Asked::AskFirst(_) => {
                let given = to.given[at]?;
                if self.scope.bug == Some(GroupBug::GivesUnasked) {
                    self.give(to, at, lease, Some(given))?;
                } else {
                    // Whoever asks meanwhile asks again.
                    let question = Question { given, wish: lease, needed: None };
                    return match to.questions[at] {
                        None => {
                            to.questions[at] = Some(question);
                            Some(())
                        }
                        Some(_) => None,
                    };
                }
            }
        }
        self.answer(to, lease, at, answered, Ok(LeaseAnswer::Given));
        Some(())
    }

    fn gives(&self, to: &mut World, at: usize, answered: bool) -> Option<()> {
        let Question { given, wish, needed } = to.questions[at].take()?;
        let given_lease = self.leases[usize::from(given)].clone();
        let answer = match leases::after_asking(given_lease, Ok(needed?), false) {
            Some(held) => held,
            // It is refused if another one was given meanwhile.
            None => match self.give(to, at, wish, Some(given)) {
                Some(()) => LeaseAnswer::Given,
                None => return Some(()),
            },
        };
        self.answer(to, wish, at, answered, Ok(answer));
        Some(())
    }

    fn give(&self, to: &mut World, at: usize, lease: u8, instead_of: Option<u8>) -> Option<()> {
        let mut record = self.record(to, at);
        let instead_of = instead_of.map(|given| self.leases[usize::from(given)].id);
        leases::give(&mut record, &self.group, &self.leases[usize::from(lease)], instead_of).ok()?;
        to.given[at] = Some(lease);
        Some(())
    }

    /// The answer reaches the mover, if that still waits for it.
    fn answer(
        &self,
        to: &mut World,
        lease: u8,
        at: usize,
        answered: bool,
        said: Result<LeaseAnswer, ferry_api::ApiError>,
    ) {
        let number = Self::move_of(lease);
        let one = to.moves[number];
        let Phase::Asks(place) = one.phase else { return };
        let is_its =
            self.lease_of(number, one) == lease && self.order(number).get(usize::from(place)) == Some(&at);
        if answered && is_its && leases::next(&self.workers[at], &self.group, said, 0, false) == Next::Goes {
            self.ask(to, number, place + 1);
        }
    }

    fn give_up(&self, to: &mut World, number: usize) {
        let lease = self.lease_of(number, to.moves[number]);
        (to.moves[number].phase, to.moves[number].asking) = (Phase::Waits, false);
        to.ended |= 1 << lease;
    }

    fn needs(&self, world: &World, lease: u8) -> bool {
        let number = Self::move_of(lease);
        let one = world.moves[number];
        if one.attempt == 0 {
            return false;
        }
        let current = self.lease_of(number, one);
        let durable = if matches!(one.phase, Phase::Asks(_)) { Phase::Waits } else { one.phase };
        let standing = &self.standings[&(key(durable), current)];
        let asking = one.asking.then(|| self.leases[usize::from(current)].id);
        if self.scope.bug == Some(GroupBug::ForgetsNeed) && asking.is_none() {
            return false;
        }
        leases::needs(standing, asking, self.leases[usize::from(lease)].id)
    }

    fn record(&self, world: &World, at: usize) -> WorkerRecord {
        let given =
            world.given[at].map(|given| (self.group.clone(), self.leases[usize::from(given)].clone()));
        WorkerRecord { leases: given.into_iter().collect(), ..WorkerRecord::default() }
    }

    fn keep(&self, to: &mut World, at: usize, record: &WorkerRecord) {
        if record.leases.is_empty() {
            to.given[at] = None;
        }
    }

    /// A world from which some move never ends though nothing goes wrong any more.
    fn endless(
        &self,
        seen: &[(World, usize, Option<Action>, usize)],
        mut kind_ways: Vec<(usize, usize)>,
    ) -> Option<Counterexample> {
        kind_ways.sort_unstable();
        let moves = self.scope.moves.len();
        let is_over = |world: &World| world.moves[..moves].iter().all(|one| one.phase == Phase::Up);
        let mut ends: Vec<bool> = seen.iter().map(|(world, ..)| is_over(world)).collect();
        let mut open: Vec<usize> = (0..seen.len()).filter(|at| ends[*at]).collect();
        while let Some(at) = open.pop() {
            let from = kind_ways.partition_point(|(to, _)| *to < at);
            for (_, before) in kind_ways[from..].iter().take_while(|(to, _)| *to == at) {
                if !std::mem::replace(&mut ends[*before], true) {
                    open.push(*before);
                }
            }
        }
        let stuck = ends.iter().position(|ends| !ends)?;
        let promise = "from here on nothing goes wrong, and yet a move never ends".to_owned();
        Some(Counterexample { promise, trace: self.trace(seen, stuck) })
    }

    fn trace(&self, seen: &[(World, usize, Option<Action>, usize)], mut at: usize) -> Vec<String> {
        let mut trace = Vec::new();
        while let (_, parent, Some(action), _) = &seen[at] {
            trace.push(self.told(*action));
            at = *parent;
        }
        trace.reverse();
        trace
    }

    fn told(&self, action: Action) -> String {
        let attempt =
            |lease: u8| format!("move {}, attempt {}", lease / ATTEMPTS_MAX + 1, lease % ATTEMPTS_MAX + 1);
        let lost = |answered: bool| if answered { "" } else { ", and the answer goes astray" };
        match action {
            Action::Begins(number) => format!("move {} begins to ask", number + 1),
            Action::Arrives { lease, at, answered } => {
                format!("{}: the call of {} arrives{}", self.workers[at], attempt(lease), lost(answered))
            }
            Action::Told { at } => {
                format!("{} is told whether what it has given is needed", self.workers[at])
            }
            Action::Gives { at, answered } => {
                format!("{} acts on what it was told{}", self.workers[at], lost(answered))
            }
            Action::GivesUp(number) => format!("move {} gives up for now", number + 1),
            Action::Stops(number) => format!("move {} stops its machine", number + 1),
            Action::Boots(number) => format!("the machine of move {} runs again", number + 1),
            Action::Ends { lease, at } => {
                format!("{} hears that the lease of {} is over", self.workers[at], attempt(lease))
            }
            Action::Dies(at) => format!("the agent of {} dies and is started again", self.workers[at]),
        }
    }
}

/// The journal of a move in a phase, with that lease.
fn standing(phase: Phase, lease: &Lease) -> Standing<MoveStep> {
    let input = MoveInput {
        machine: names::machine(),
        machine_name: lease.machine_name.clone(),
        from: lease.from.clone(),
        to: names::worker(WORKERS_MAX),
        retention_ms: 0,
        mode: MoveMode::Cold,
        undo_unhealthy: false,
        way_back: false,
        force: false,
    };
    let prepared = Prepared { sources: Vec::new(), ahead: None, hooks: Vec::new(), lease: Some(lease.id) };
    let until = match phase {
        Phase::Waits | Phase::Asks(_) => MoveStep::Reserve,
        Phase::Prepared => MoveStep::Prepare,
        Phase::Down => MoveStep::Activate,
        Phase::Up => MoveStep::Boot,
    };
    let opening = Standing::<MoveStep>::opening(0, moving::memo(input), Terms::default());
    let mut standing = Standing::start(&opening).expect("an opening opens");
    let mut append = |event| standing.apply(&Entry::new(0, event)).expect("a move takes its steps in order");
    for step in <MoveStep as ferry_fsm::Step>::LINE {
        let name = ferry_fsm::Step::name(*step).to_owned();
        let memo = if *step == MoveStep::Prepare { moving::memo(&prepared) } else { serde_json::Value::Null };
        if *step != MoveStep::HandOver {
            append(Event::Begun { step: name.clone(), attempt: 1 });
        }
        append(Event::Done { step: name, memo });
        if *step == until {
            break;
        }
    }
    standing
}

fn key(phase: Phase) -> u8 {
    match phase {
        Phase::Waits | Phase::Asks(_) => 0,
        Phase::Prepared => 1,
        Phase::Down => 2,
        Phase::Up => 3,
    }
}

fn number(index: usize) -> u8 {
    u8::try_from(index).expect("there are few leases")
}

fn bit(lease: u8, at: usize) -> u32 {
    1 << (usize::from(lease) * WORKERS_MAX + at)
}
