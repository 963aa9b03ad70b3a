//! How a worker is emptied: which machine's move begins when, and when the drain is over.
//!
//! Invariant: a drain begins a move only of a machine that is here, that no job holds, and that has a target which keeps room for
//! it; the move takes hold of the machine in the transaction that also names the drain as its parent. Which machines are left is
//! read from the records each time, never remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferry_api::{
    DrainPlan, ErrorCode, GroupName, Job, JobId, JobKind, JobState, MachineId, MachineName, MoveMode,
    WorkerName,
};
use ferry_crossing::drain::{DrainInput, DrainStep, not_in_time};
use ferry_crossing::leases::SILENT_MAX_MS;
use ferry_crossing::moving;
use ferry_fsm::{Event, Outcome, StepError, Terms};
use ferry_placement::drain::{Candidate, is_asked};
use ferry_placement::{AtOnce, Lanes, Market, Stage, UnderWay, in_order};
use serde_json::{Value, json};

use super::bandwidth::Bandwidth;
use super::children::{Children, LOOK_MS, NAMED_MAX, counts, in_a_sentence, later, stage};
use super::foresee::Looked;
use super::mover::begin_move_as;
use super::task::{StepContext, Work};
use super::world::{Emptied, Occupant};
use super::{Clock, Executor, Journal, MoveInput, Mover};
use crate::placement::candidate;
use crate::records::{Change, RecordsError};

/// Time until a machine that found no target looks for one again, while others move, in milliseconds.
const AGAIN_MS: u64 = 5_000;
const CANNOT_LEAVE: &str = "cannot leave";

/// Empties workers.
pub struct Drain<J: Journal, C: Clock, H: Emptied> {
    journal: Arc<J>,
    home: Arc<H>,
    clock: C,
    moves: Arc<Executor<J, C, Mover<H, C>>>,
    children: Children<J, C, H>,
}

type Context = StepContext<DrainStep>;

/// Takes on the job that empties this worker, which takes no machines from then on. Answers as soon as it is durable.
///
/// # Errors
/// The worker is being drained already; the records cannot be written.
pub async fn begin_drain<J: Journal, C: Clock, H: Emptied>(
    executor: &Executor<J, C, Drain<J, C, H>>,
    input: DrainInput,
    now_ms: u64,
) -> Result<Job, RecordsError> {
    let job = JobId::fresh();
    let kind = JobKind::Drain { from: input.from.clone() };
    let terms = Terms { within_ms: input.ask.deadline_ms, ..Terms::default() };
    let begins = Change::DrainBegins { job, at_ms: now_ms };
    executor.begin(job, kind, moving::memo(input), terms, vec![begins]).await
}

/// What is under way at one look.
#[derive(Default)]
struct Look {
    /// Moves of this drain, and those that somebody else asked for.
    under_way: Vec<UnderWay>,
    /// Machines that are asked for and here.
    here: Vec<MachineName>,
    /// Machines that were handed over by moves of this drain that go on, and what each waits for.
    follow: Vec<(MachineName, Option<String>)>,
    /// Those of them that nobody holds.
    left: Vec<Occupant>,
    /// Machines that are on their way here since before the drain.
    arriving: usize,
    /// Targets that a machine has been refused by since the step began, or all of them if a person cancelled its move.
    tried: BTreeMap<MachineId, Tried>,
    /// What moves of this drain wait for.
    waits: Vec<(MachineName, String)>,
}

impl Look {
    /// Moves of this drain. Those that somebody else asked for are not known to go anywhere but `here`.
    fn own_moves(&self, here: &WorkerName) -> Vec<UnderWay> {
        self.under_way.iter().filter(|one| one.to != *here).cloned().collect()
    }
}

/// What came of one look.
enum Begun {
    /// So many moves began; and which machines found no way to leave, though others move, in one sentence.
    Some(usize, Option<String>),
    /// None, since a worker is silent that may have a machine of their groups down; it may be back in a moment.
    Unsure(String),
}

#[derive(Default)]
struct Tried {
    targets: BTreeSet<WorkerName>,
    last: String,
    cancelled: bool,
}

impl<J: Journal, C: Clock, H: Emptied> Drain<J, C, H> {
    /// Empties `home` by moves that `moves` runs.
    pub fn new(journal: Arc<J>, home: Arc<H>, clock: C, moves: Arc<Executor<J, C, Mover<H, C>>>) -> Self {
        let children = Children::new(journal.clone(), clock.clone(), moves.clone());
        Self { journal, home, clock, moves, children }
    }

    /// All moves from here that have not ended.
    async fn unfinished(&self) -> Result<Vec<Job>, StepError> {
        let mut jobs = Vec::new();
        for record in self.journal.unfinished_jobs().await.map_err(|error| later(error.into()))? {
            if matches!(record.kind, JobKind::Move { .. }) {
                jobs.push(self.moves.job(record.id).await.map_err(later)?);
            }
        }
        Ok(jobs)
    }

    /// Begins what may begin until no machine that is asked for is left here, and takes no more of the network than it may.
    async fn lead(&self, context: &Context, input: &DrainInput) -> Result<Value, StepError> {
        let mut bandwidth = Bandwidth::new(input.ask.bandwidth_bytes_per_s);
        let led = self.lead_within(context, input, &mut bandwidth).await;
        bandwidth.end(&self.home).await;
        led
    }

    async fn lead_within(
        &self,
        context: &Context,
        input: &DrainInput,
        bandwidth: &mut Bandwidth,
    ) -> Result<Value, StepError> {
        let since_ms = context.now_ms;
        let (mut again_ms, mut expected, mut unsure_since_ms) = (0, (0, 0), None);
        let mut stuck = None;
        loop {
            let look = self.look(context.job, input, since_ms).await?;
            bandwidth.keep(&self.home, self.clock.now_ms(), look.own_moves(&input.from)).await;
            let waits = (!look.waits.is_empty()).then(|| in_a_sentence("wait", &look.waits));
            let told: Vec<String> = stuck.iter().cloned().chain(waits).collect();
            context.waits_for((!told.is_empty()).then(|| told.join("; ")));
            if look.here.is_empty() && look.under_way.is_empty() && look.arriving == 0 {
                let children = self.children.of(context.job).await?;
                let moved = children.iter().filter(|child| child.state == JobState::Succeeded).count();
                return Ok(json!({ "moved": moved }));
            }
            // Those that find no target now are not looked at all the time, but whenever a move has ended or arrived.
            let (all, down) = counts(&look.under_way);
            let is_time = again_ms <= self.clock.now_ms() || (all, down) != expected;
            if is_time && !self.home.is_paused(context.job).await.map_err(later)? {
                let begun = match self.go_on(context, input, look, bandwidth).await? {
                    Begun::Some(count, others) => {
                        stuck = others;
                        count
                    }
                    Begun::Unsure(why) => {
                        let since_ms = *unsure_since_ms.get_or_insert(self.clock.now_ms());
                        if self.clock.now_ms().saturating_sub(since_ms) >= SILENT_MAX_MS {
                            return Err(StepError::retry(why));
                        }
                        0
                    }
                };
                unsure_since_ms = unsure_since_ms.filter(|_| begun == 0);
                expected = (all + begun, down + begun);
                again_ms = self.clock.now_ms().saturating_add(if begun > 0 { 0 } else { AGAIN_MS });
            }
            let deadline_ms = context.standing.deadline_ms();
            tokio::select! {
                biased;
                () = context.cancel_asked() => return Err(StepError::retry("the drain was cancelled")),
                () = self.clock.sleep_until(self.clock.now_ms().saturating_add(LOOK_MS)) => {}
            }
            if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= self.clock.now_ms()) {
                let look = self.look(context.job, input, since_ms).await?;
                return Err(StepError::retry(not_in_time(&look.here, &look.follow)));
            }
        }
    }

    async fn look(&self, drain: JobId, input: &DrainInput, since_ms: u64) -> Result<Look, StepError> {
        let mut look = Look { arriving: self.home.arriving().await.map_err(later)?, ..Look::default() };
        // Machines before children: one that leaves in between is under way still.
        let machines = self.home.machines().await.map_err(later)?;
        let group_of: BTreeMap<MachineId, Option<GroupName>> =
            machines.iter().map(|one| (one.machine, one.group.clone())).collect();
        let here: BTreeSet<MachineId> =
            machines.iter().filter(|one| one.is_here).map(|one| one.machine).collect();
        for record in self.journal.children(drain).await.map_err(|error| later(error.into()))? {
            let JobKind::Move { machine, machine_name, to, .. } = &record.kind else { continue };
            // Those that did what they should need not be read again each time.
            if record.finished && !(record.created_at_ms >= since_ms && here.contains(machine)) {
                continue;
            }
            let child = self.moves.job(record.id).await.map_err(later)?;
            if !child.state.is_final() {
                look.waits.extend(child.reason.clone().map(|why| (machine_name.clone(), why)));
                if !here.contains(machine) {
                    look.follow.push((machine_name.clone(), child.reason.clone()));
                }
                let group = group_of.get(machine).cloned().flatten();
                look.under_way.push(UnderWay { to: to.clone(), group, stage: stage(&child) });
            } else if child.state != JobState::Succeeded {
                let tried = look.tried.entry(*machine).or_default();
                tried.targets.insert(to.clone());
                tried.cancelled |= child.state == JobState::Cancelled;
                tried.last = child.reason.unwrap_or_else(|| "its move was cancelled".to_owned());
            }
        }
        let DrainInput { ask, .. } = input;
        let asked = |one: &Occupant| one.is_here && is_asked(&ask.only, &ask.except, one.machine, &one.name);
        for one in machines.into_iter().filter(asked) {
            look.here.push(one.name.clone());
            let Some(job) = one.job else {
                look.left.push(one);
                continue;
            };
            // A move that somebody else asked for ends as it will.
            if self.journal.job(job).await.map_err(|error| later(error.into()))?.and_then(|job| job.parent)
                != Some(drain)
            {
                let to = input.from.clone();
                look.under_way.push(UnderWay { to, group: one.group, stage: Stage::Leaves });
            }
        }
        Ok(look)
    }

    /// Begins all moves that may go now, and tells how many. If none may, none is under way and nobody arrives, a person is asked.
    async fn go_on(
        &self,
        context: &Context,
        input: &DrainInput,
        look: Look,
        bandwidth: &mut Bandwidth,
    ) -> Result<Begun, StepError> {
        let Look { under_way, left, arriving, tried, here: _, follow: _, waits: _ } = look;
        let mut lanes = Lanes::new(AtOnce::from(&input.ask), &under_way);
        if !left.iter().any(|one| lanes.admits(one.group.as_ref())) {
            return Ok(Begun::Some(0, None));
        }
        let mut market = self.home.market().await;
        let past = self.home.past_moves().await.map_err(later)?;
        let mover = Mover::new(self.home.clone(), self.clock.clone());
        let mut looked = Vec::new();
        let mut stuck = Vec::new();
        for one in &left {
            match mover.look(one.machine, mode_of(input, one.machine), &past).await {
                Ok(found) => looked.push(found),
                Err(error) if error.code == ErrorCode::NotFound => {}
                Err(error) => stuck.push((one.name.clone(), error.message)),
            }
        }
        let candidates: Vec<Candidate> = looked.iter().map(|looked| candidate(&input.from, looked)).collect();
        let mut order: Vec<&Candidate> = candidates.iter().collect();
        in_order(&mut order);
        let (mut begun, mut unsure) = (0, 0);
        for candidate in order {
            let group = candidate.wants.spec.placement.group.clone();
            if !lanes.admits(group.as_ref()) {
                continue;
            }
            if let Some(why) = market.unsure_of(&candidate.wants).filter(|_| !input.ask.force) {
                unsure += 1;
                stuck.push((candidate.wants.name.clone(), why));
                continue;
            }
            let machine = candidate.wants.machine;
            let found = looked.iter().find(|looked| looked.machine.id == machine).expect("it is one of them");
            let empty = Tried::default();
            let tried = tried.get(&machine).unwrap_or(&empty);
            let but = tried.targets.union(&lanes.full()).cloned().collect();
            let asked = (context.job, input, found);
            match self.begin(asked, &mut market, (tried, but), bandwidth).await? {
                Ok(to) => {
                    begun += 1;
                    lanes.add(&UnderWay { to, group, stage: Stage::Leaves });
                }
                Err(why) => stuck.push((candidate.wants.name.clone(), why)),
            }
        }
        let nothing_moves = begun == 0 && under_way.is_empty() && arriving == 0;
        let told = (!stuck.is_empty()).then(|| in_a_sentence(CANNOT_LEAVE, &stuck));
        match told {
            Some(told) if nothing_moves && unsure == stuck.len() => Ok(Begun::Unsure(told)),
            Some(told) if nothing_moves => Err(StepError::retry(told)),
            told => Ok(Begun::Some(begun, told)),
        }
    }

    /// Begins the move of one machine, to none of the workers in `but`; or why it cannot go now, in one sentence.
    async fn begin(
        &self,
        (drain, input, looked): (JobId, &DrainInput, &Looked),
        market: &mut Market,
        (tried, but): (&Tried, BTreeSet<WorkerName>),
        bandwidth: &mut Bandwidth,
    ) -> Result<Result<WorkerName, String>, StepError> {
        if let Some(blocker) = looked.blockers.first() {
            return Ok(Err(blocker.clone()));
        }
        if tried.cancelled {
            return Ok(Err(tried.last.clone()));
        }
        let job = JobId::fresh();
        let asked = MoveInput {
            machine: looked.machine.id,
            machine_name: looked.machine.name.clone(),
            from: input.from.clone(),
            to: input.from.clone(),
            retention_ms: input.retention_ms,
            mode: mode_of(input, looked.machine.id),
            undo_unhealthy: false,
            way_back: false,
            force: input.ask.force,
        };
        let planned = input.plan.as_ref().map(|plan| planned_target(plan, looked.machine.id));
        let found = match planned {
            None => self.home.choose(market, (job, looked, &asked), &but, input.ask.force).await,
            Some(Some(to)) if but.contains(&to) => Err(tried.last.clone()),
            Some(Some(to)) => {
                let held = self.home.hold(market, (job, looked, &asked), &to, input.ask.force).await;
                held.map(|()| to)
            }
            Some(None) => Err("it is not in the plan that is carried out".to_owned()),
        };
        let to = match found {
            Ok(to) => to,
            Err(why) if tried.last.is_empty() || why == tried.last => return Ok(Err(why)),
            Err(why) => return Ok(Err(format!("{why}; its last move failed: {}", tried.last))),
        };
        bandwidth.one_more(&self.home, self.clock.now_ms(), &to).await;
        let terms = Terms { parent: Some(drain.to_string()), ..Terms::default() };
        match begin_move_as(&self.moves, job, MoveInput { to: to.clone(), ..asked }, terms).await {
            Ok(_) => Ok(Ok(to)),
            Err(RecordsError::Refused(refused)) => Ok(Err(refused.to_string())),
            Err(error) => Err(later(error.into())),
        }
    }

    /// Waits until nothing keeps the worker from being stopped; of a drain that leaves machines here, until its own have left.
    async fn settle(&self, context: &Context, input: &DrainInput) -> Result<Value, StepError> {
        // What came back meanwhile by the way that is open for it leaves again.
        self.lead(context, input).await?;
        if !input.ask.is_of_all() {
            return Ok(Value::Null);
        }
        let owed = self.home.owes(self.unfinished().await?).await.map_err(later)?;
        match owed.is_empty() {
            true => Ok(Value::Null),
            false => Err(StepError::retry(owed.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join("; "))),
        }
    }
}

impl<J: Journal, C: Clock, H: Emptied> Work for Drain<J, C, H> {
    type Step = DrainStep;

    fn is_about(kind: &JobKind) -> bool {
        matches!(kind, JobKind::Drain { .. })
    }

    async fn perform(&self, step: DrainStep, context: &Context) -> Result<Value, StepError> {
        let input = input(context)?;
        match step {
            // The records have said so since the opening entry.
            DrainStep::Cordon => Ok(Value::Null),
            DrainStep::Lead => self.lead(context, &input).await,
            DrainStep::Settle => self.settle(context, &input).await,
        }
    }

    async fn undo(&self, step: DrainStep, context: &Context) -> Result<(), StepError> {
        match step {
            DrainStep::Lead => self.children.call_back(context.job).await,
            DrainStep::Cordon | DrainStep::Settle => unreachable!("the line gives these steps no undo"),
        }
    }

    fn deed(&self, _: DrainStep, _: &Context) -> Result<Value, StepError> {
        unreachable!("each child has a hand-over of its own")
    }

    fn changes(&self, context: &Context, event: &Event) -> Vec<Change> {
        let Event::Finished { outcome } = event else { return Vec::new() };
        let (job, is_of_all) = (context.job, input(context).is_ok_and(|input| input.ask.is_of_all()));
        let emptied = is_of_all && *outcome == Outcome::Succeeded;
        vec![Change::FinishJob(job), Change::DrainEnds { job, emptied, at_ms: context.now_ms }]
    }
}

impl<J: Journal, C: Clock, H: Emptied> std::fmt::Debug for Drain<J, C, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}

fn input(context: &Context) -> Result<DrainInput, StepError> {
    serde_json::from_value(context.standing.input.clone())
        .map_err(|error| StepError::fatal(format!("what was asked of this drain is not understood: {error}")))
}

fn mode_of(input: &DrainInput, machine: MachineId) -> MoveMode {
    let planned = input.plan.as_ref();
    let planned = planned.and_then(|plan| plan.machines.iter().find(|planned| planned.machine == machine));
    planned.map_or(input.ask.mode, |planned| planned.mode)
}

fn planned_target(plan: &DrainPlan, machine: MachineId) -> Option<WorkerName> {
    plan.machines.iter().find(|planned| planned.machine == machine).and_then(|planned| planned.to.clone())
}
