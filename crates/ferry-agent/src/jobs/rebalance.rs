//! How a worker does its part in making workers alike: the moves of a plan, to the workers that it names.
//!
//! Invariant: only machines of the plan move, each once, at the generation that it was planned at, to a target that keeps room for it.
//! What cannot move is said in the end and harms no other: whatever part of a plan is done, no worker is the worse for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferry_api::{Job, JobId, JobKind, JobState, MachineId, MachineName, PlannedMove};
use ferry_crossing::fleet::{ChildEnd, verdict};
use ferry_crossing::leases::SILENT_MAX_MS;
use ferry_crossing::moving;
use ferry_crossing::rebalance::{RebalanceInput, RebalanceStep};
use ferry_fsm::{Event, StepError, Terms};
use ferry_placement::{AtOnce, Lanes, Market, Stage, UnderWay};
use serde_json::Value;

use super::bandwidth::Bandwidth;
use super::children::{Children, LOOK_MS, counts, in_a_sentence, later, stage};
use super::mover::begin_move_as;
use super::task::{StepContext, Work};
use super::world::Emptied;
use super::{Clock, Executor, Journal, MoveInput, Mover};
use crate::records::{Change, RecordsError};

/// Time until a machine whose target did not take it is offered again, while others move, in milliseconds.
const AGAIN_MS: u64 = 5_000;

/// Moves the machines of a plan.
pub struct Rebalance<J: Journal, C: Clock, H: Emptied> {
    home: Arc<H>,
    clock: C,
    moves: Arc<Executor<J, C, Mover<H, C>>>,
    children: Children<J, C, H>,
}

type Context = StepContext<RebalanceStep>;

/// Takes on the job that a part of a plan names. Answers as soon as it is durable.
///
/// # Errors
/// The records cannot be written.
pub async fn begin_rebalance<J: Journal, C: Clock, H: Emptied>(
    executor: &Executor<J, C, Rebalance<J, C, H>>,
    input: RebalanceInput,
) -> Result<Job, RecordsError> {
    let kind = JobKind::Rebalance { from: input.part.from.clone() };
    executor.begin(input.part.job, kind, moving::memo(input), Terms::default(), Vec::new()).await
}

/// What is under way at one look.
struct Look<'a> {
    under_way: Vec<UnderWay>,
    /// Those whose moves have ended, and how.
    ends: Vec<ChildEnd>,
    /// Those that have not begun.
    left: Vec<&'a PlannedMove>,
    /// What moves that are under way wait for.
    waits: Vec<(MachineName, String)>,
}

/// Why the move of a machine has not begun, in one sentence.
enum Hindered {
    /// Its target, or whoever holds the machine, may let it go later.
    Now(String),
    /// It is not as planned any more.
    Ever(String),
}

impl<J: Journal, C: Clock, H: Emptied> Rebalance<J, C, H> {
    /// Moves machines of `home` by moves that `moves` runs.
    pub fn new(journal: Arc<J>, home: Arc<H>, clock: C, moves: Arc<Executor<J, C, Mover<H, C>>>) -> Self {
        let children = Children::new(journal, clock.clone(), moves.clone());
        Self { home, clock, moves, children }
    }

    /// Moves all machines of the plan that can move, and tells how each of them ended.
    async fn lead(&self, context: &Context, input: &RebalanceInput) -> Result<Vec<ChildEnd>, StepError> {
        let mut bandwidth = Bandwidth::new(input.ask.bandwidth_bytes_per_s);
        let led = self.lead_within(context, input, &mut bandwidth).await;
        bandwidth.end(&self.home).await;
        led
    }

    async fn lead_within(
        &self,
        context: &Context,
        input: &RebalanceInput,
        bandwidth: &mut Bandwidth,
    ) -> Result<Vec<ChildEnd>, StepError> {
        let (mut never, mut idle_since_ms) = (BTreeMap::new(), None);
        let (mut again_ms, mut expected, mut stuck) = (0, (0, 0), None);
        loop {
            let look = self.look(context.job, input, &never).await?;
            let (now_ms, under_way) = (self.clock.now_ms(), look.under_way.len());
            bandwidth.keep(&self.home, now_ms, look.under_way.clone()).await;
            let waits = (!look.waits.is_empty()).then(|| in_a_sentence("wait", &look.waits));
            context.waits_for(stuck.clone().or(waits));
            if look.left.is_empty() && under_way == 0 {
                return Ok(look.ends);
            }
            // Those that could not go are not looked at all the time, but whenever a move has ended.
            let (all, down) = counts(&look.under_way);
            if !look.left.is_empty() && (again_ms <= now_ms || (all, down) != expected) {
                let (begun, hindered) = self.go_on(context.job, input, &look, bandwidth).await?;
                let mut not_now = Vec::new();
                for (planned, why) in hindered {
                    match why {
                        Hindered::Now(why) => not_now.push(end(planned, JobState::Failed, Some(why))),
                        Hindered::Ever(why) => drop(never.insert(planned.machine, why)),
                    }
                }
                stuck = not_now.first().and_then(|end| end.reason.clone());
                let is_idle = begun == 0 && under_way == 0 && !not_now.is_empty();
                idle_since_ms = is_idle.then(|| idle_since_ms.unwrap_or(now_ms));
                if idle_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= SILENT_MAX_MS) {
                    let ends = self.look(context.job, input, &never).await?.ends;
                    return Ok(ends.into_iter().chain(not_now).collect());
                }
                expected = (all + begun, down + begun);
                again_ms = now_ms.saturating_add(if begun > 0 { 0 } else { AGAIN_MS });
            }
            tokio::select! {
                biased;
                () = context.cancel_asked() => return Err(StepError::retry("it was cancelled")),
                () = self.clock.sleep_until(self.clock.now_ms().saturating_add(LOOK_MS)) => {}
            }
        }
    }

    async fn look<'a>(
        &self,
        job: JobId,
        input: &'a RebalanceInput,
        never: &BTreeMap<MachineId, String>,
    ) -> Result<Look<'a>, StepError> {
        let mut begun = BTreeMap::new();
        for child in self.children.of(job).await? {
            if let JobKind::Move { machine, .. } = &child.kind {
                begun.insert(*machine, child);
            }
        }
        let mut look = Look { under_way: Vec::new(), ends: Vec::new(), left: Vec::new(), waits: Vec::new() };
        for planned in &input.part.moves {
            let Some(child) = begun.remove(&planned.machine) else {
                match never.get(&planned.machine) {
                    Some(why) => look.ends.push(end(planned, JobState::Failed, Some(why.clone()))),
                    None => look.left.push(planned),
                }
                continue;
            };
            if child.state.is_final() {
                look.ends.push(end(planned, child.state, child.reason));
            } else if let JobKind::Move { to, .. } = &child.kind {
                look.waits.extend(child.reason.clone().map(|why| (planned.machine_name.clone(), why)));
                let (group, stage) = (planned.group.clone(), stage(&child));
                look.under_way.push(UnderWay { to: to.clone(), group, stage });
            }
        }
        Ok(look)
    }

    /// Begins all moves that may go now; tells how many, and what is in the way of the others.
    async fn go_on<'a>(
        &self,
        job: JobId,
        input: &RebalanceInput,
        look: &Look<'a>,
        bandwidth: &mut Bandwidth,
    ) -> Result<(usize, Vec<(&'a PlannedMove, Hindered)>), StepError> {
        let machines = self.home.machines().await.map_err(later)?;
        let is_here = |machine| machines.iter().any(|one| one.machine == machine && one.is_here);
        let mut lanes = Lanes::new(AtOnce::from(&input.ask), &look.under_way);
        let (mut begun, mut hindered) = (0, Vec::new());
        for planned in &look.left {
            let Some(to) = &planned.to else { continue };
            if !lanes.admits(planned.group.as_ref()) || lanes.full().contains(to) {
                continue;
            }
            if !is_here(planned.machine) {
                let why = format!("machine {} is not here any more", planned.machine_name);
                hindered.push((*planned, Hindered::Ever(why)));
                continue;
            }
            let asked = MoveInput {
                machine: planned.machine,
                machine_name: planned.machine_name.clone(),
                from: input.part.from.clone(),
                to: to.clone(),
                retention_ms: input.retention_ms,
                mode: planned.mode,
                undo_unhealthy: false,
                way_back: false,
                force: false,
            };
            match self.begin(job, planned, asked, bandwidth).await? {
                Ok(()) => {
                    begun += 1;
                    lanes.add(&UnderWay {
                        to: to.clone(),
                        group: planned.group.clone(),
                        stage: Stage::Leaves,
                    });
                }
                Err(why) => hindered.push((*planned, why)),
            }
        }
        Ok((begun, hindered))
    }

    /// Begins the move of one machine, if it is as planned and its target keeps room for it.
    async fn begin(
        &self,
        parent: JobId,
        planned: &PlannedMove,
        asked: MoveInput,
        bandwidth: &mut Bandwidth,
    ) -> Result<Result<(), Hindered>, StepError> {
        let name = &planned.machine_name;
        let mover = Mover::new(self.home.clone(), self.clock.clone());
        let looked = match mover.look(planned.machine, planned.mode, &[]).await {
            Ok(looked) if looked.plan.generation != planned.generation => {
                return Ok(Err(Hindered::Ever(format!(
                    "machine {name} is here at generation {} and was at {} when this was planned",
                    looked.plan.generation, planned.generation
                ))));
            }
            Ok(looked) => looked,
            Err(error) => return Ok(Err(Hindered::Now(error.message))),
        };
        if let Some(blocker) = looked.blockers.first() {
            return Ok(Err(Hindered::Now(blocker.clone())));
        }
        let (child, to) = (JobId::fresh(), asked.to.clone());
        // Its target was chosen by the plan: no market is asked.
        let held = self.home.hold(&mut Market::default(), (child, &looked, &asked), &to, false).await;
        if let Err(why) = held {
            return Ok(Err(Hindered::Now(why)));
        }
        bandwidth.one_more(&self.home, self.clock.now_ms(), &to).await;
        let terms = Terms { parent: Some(parent.to_string()), ..Terms::default() };
        match begin_move_as(&self.moves, child, asked, terms).await {
            Ok(_) => Ok(Ok(())),
            Err(RecordsError::Refused(refused)) => Ok(Err(Hindered::Now(refused.to_string()))),
            Err(error) => Err(later(error.into())),
        }
    }
}

impl<J: Journal, C: Clock, H: Emptied> Work for Rebalance<J, C, H> {
    type Step = RebalanceStep;

    fn is_about(kind: &JobKind) -> bool {
        matches!(kind, JobKind::Rebalance { .. })
    }

    async fn perform(&self, step: RebalanceStep, context: &Context) -> Result<Value, StepError> {
        match step {
            RebalanceStep::Lead => self.lead(context, &input(context)?).await.map(moving::memo),
            RebalanceStep::Check => {
                verdict(&ends(context)?).map_err(StepError::fatal)?;
                Ok(Value::Null)
            }
        }
    }

    async fn undo(&self, step: RebalanceStep, context: &Context) -> Result<(), StepError> {
        match step {
            RebalanceStep::Lead => self.children.call_back(context.job).await,
            RebalanceStep::Check => unreachable!("the line gives this step no undo"),
        }
    }

    fn deed(&self, _: RebalanceStep, _: &Context) -> Result<Value, StepError> {
        unreachable!("each child has a hand-over of its own")
    }

    fn changes(&self, context: &Context, event: &Event) -> Vec<Change> {
        let is_over = matches!(event, Event::Finished { .. });
        is_over.then_some(Change::FinishJob(context.job)).into_iter().collect()
    }
}

impl<J: Journal, C: Clock, H: Emptied> std::fmt::Debug for Rebalance<J, C, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebalance").finish_non_exhaustive()
    }
}

fn end(planned: &PlannedMove, state: JobState, reason: Option<String>) -> ChildEnd {
    ChildEnd { machine_name: planned.machine_name.clone(), state, reason }
}

fn input(context: &Context) -> Result<RebalanceInput, StepError> {
    serde_json::from_value(context.standing.input.clone())
        .map_err(|error| StepError::fatal(format!("what was asked of this job is not understood: {error}")))
}

/// How its moves ended.
fn ends(context: &Context) -> Result<Vec<ChildEnd>, StepError> {
    let memo = context.standing.memo(RebalanceStep::Lead).cloned().unwrap_or(Value::Null);
    serde_json::from_value(memo).map_err(|error| {
        StepError::fatal(format!("what Lead left in the journal is not understood: {error}"))
    })
}
