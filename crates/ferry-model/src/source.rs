//! A job on its source: the shell that the agent's task and mover are, one moment at a time.
//!
//! Invariant: the agent may die between any two moments, and finds in its records what it had made durable, no more.

use crate::host::{Host, Stepped};
use crate::moments::{Moment, moments, step_of};
use crate::names;
use crate::scope::{Bug, Scope};
use crate::target::{Asks, Based, Call};
use ferry_api::{
    ApiError, Crossing, CrossingVolume, Desired, ErrorCode, JobId, JobKind, MoveMode, Prepare, PrepareVolume,
    VolumeBase, VolumeKey,
};
use ferry_crossing::{
    Activated, Booted, Change, ChangeRefused, Fence, JobRecord, MoveInput, MoveStep, Plan, Prepared, Receipt,
    Reserved, ReservedVolume, Retired, Stopped, Subject, minding, moving, reckoning,
};
use ferry_fsm::{Act, Answer, Entry, Event, Outcome, Standing, Step, StepError, Terms, conclude};
use serde_json::Value;
use std::rc::Rc;

/// A time after every pause.
const LATE_MS: u64 = u64::MAX;
/// Attempts to tell a target that does not answer that a move was undone, as in the agent.
const RELEASE_ATTEMPTS_MAX: u32 = 3;

/// What a job's task is at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Task {
    /// It decides what comes next.
    Deciding,
    /// It is at a moment of a step.
    At { act: Act<MoveStep>, moment: usize },
    /// It waits for the answer to what it asked at that moment.
    Asking { act: Act<MoveStep>, moment: usize },
    /// The step has ended, which is not durable yet.
    Ended { act: Act<MoveStep>, result: Result<Based, StepError> },
    /// It does nothing any more, though it should (see [`Bug::ForgetsToRetry`]).
    Stuck,
}

/// A task at a moment of a step, or at its end if there is no such moment.
fn at(scope: &Scope, act: Act<MoveStep>, moment: usize) -> Task {
    let is_through = !matches!(act, Act::Commit { .. }) && moment >= moments(scope, &act).len();
    if is_through { Task::Ended { act, result: Ok(0) } } else { Task::At { act, moment } }
}

impl Host {
    /// What a job's task does next, for people.
    pub(crate) fn at_work(&self, scope: &Scope, job: JobId) -> String {
        let step = |act: &Act<MoveStep>| match step_of(act) {
            Some((step, false)) => step.name().to_owned(),
            Some((step, true)) => format!("the undo of {}", step.name()),
            None => String::new(),
        };
        match self.tasks.get(&job) {
            Some(Task::Deciding) => "decides what comes next".to_owned(),
            Some(Task::At { act: act @ Act::Commit { .. }, .. }) => format!("commits {}", step(act)),
            Some(Task::At { act, moment }) => match moments(scope, act).get(*moment) {
                Some(Moment::Wish(wish, volume)) => {
                    format!("in {}: {wish:?} volume {}", step(act), volume + 1)
                }
                Some(Moment::Mark(volume)) => format!("in {}: marks volume {}", step(act), volume + 1),
                Some(Moment::Down) => format!("in {}: sees the machine down", step(act)),
                Some(Moment::Up) => format!("in {}: sees the machine up", step(act)),
                Some(Moment::Ask) => format!("in {}: asks the target", step(act)),
                Some(Moment::AskExpect) => format!("in {}: has the machine's memory sent", step(act)),
                Some(Moment::Paused) => format!("in {}: sees the machine paused", step(act)),
                Some(Moment::Awaited) => format!("in {}: sees that no memory moves", step(act)),
                Some(Moment::LetGo) => format!("in {}: lets the rest of the memory go", step(act)),
                Some(Moment::AskForsake) => {
                    format!("in {}: tells the target that no memory comes", step(act))
                }
                Some(Moment::KeepMemory) => format!("in {}: keeps the memory", step(act)),
                Some(Moment::MarkMachine) => format!("in {}: marks the machine", step(act)),
                Some(Moment::Round) => format!("in {}: marks what may change from now on", step(act)),
                Some(Moment::AskAhead) => {
                    format!("in {}: asks the target to copy ahead, or to keep it", step(act))
                }
                Some(Moment::Copied) => format!("in {}: gives up copying ahead", step(act)),
                Some(Moment::ForgetMarks) => format!("in {}: forgets marks", step(act)),
                Some(Moment::Whole) | None => format!("is through with {}", step(act)),
            },
            Some(Task::Ended { act, result: Ok(_) }) => format!("writes that {} is done", step(act)),
            Some(Task::Ended { act, result: Err(_) }) => format!("writes that {} failed", step(act)),
            Some(Task::Asking { .. } | Task::Stuck) | None => "waits".to_owned(),
        }
    }

    /// The task of a job goes on.
    pub(crate) fn tick(self, scope: &Scope, job: JobId) -> Option<Stepped> {
        let standing = self.books.standing(job)?;
        match self.tasks.get(&job)?.clone() {
            Task::Deciding => self.append(scope, job, &standing, Vec::new()).ok(),
            Task::At { act: Act::Commit { step, attempt }, .. } => self.commit(scope, job, step, attempt),
            Task::At { act, moment } => self.moment(scope, job, &standing, act, moment),
            Task::Ended { act, result } => {
                let event = self.event(scope, &standing, &act, result);
                self.append(scope, job, &standing, vec![event]).ok()
            }
            Task::Asking { .. } | Task::Stuck => None,
        }
    }

    fn moment(
        mut self,
        scope: &Scope,
        job: JobId,
        standing: &Standing<MoveStep>,
        act: Act<MoveStep>,
        moment: usize,
    ) -> Option<Stepped> {
        let input = moving::input(standing).expect("the model writes what it reads");
        let now = moments(scope, &act)[moment];
        let plan: Plan = moving::memo_of(standing, MoveStep::Plan).expect("the plan is made first");
        let done = match now {
            Moment::AskExpect if self.begins_to_send()? != Ok(true) => self.begins_to_send()?.map(drop),
            Moment::Ask | Moment::AskExpect | Moment::AskForsake => {
                let asks = self.asks(scope, job, &input, &plan, &act, now);
                let (from, to) = (self.index, names::index_of(&input.to));
                self.tasks.insert(job, Task::Asking { act, moment });
                let call = Call { job, from, to, asks };
                return Some(Stepped { sends: Some(call), ..Stepped::to(self) });
            }
            Moment::AskAhead => {
                let kept = moving::marks(standing);
                let kept = (step_of(&act) == Some((MoveStep::Seal, false))).then_some(&kept[..]);
                let Some(asks) = self.asks_ahead(job, &plan, kept) else {
                    self.tasks.insert(job, at(scope, act, moment + 1));
                    return Some(Stepped::to(self));
                };
                let (from, to) = (self.index, names::index_of(&input.to));
                self.tasks.insert(job, Task::Asking { act, moment });
                return Some(Stepped { sends: Some(Call { job, from, to, asks }), ..Stepped::to(self) });
            }
            Moment::Round => self.mark_round(standing),
            Moment::Copied => Err(ErrorCode::Unavailable),
            Moment::ForgetMarks => {
                self.forget_marks(&plan);
                Ok(())
            }
            Moment::Whole => return None,
            Moment::Paused => self.paused()?,
            Moment::Awaited => self.still_paused()?,
            Moment::KeepMemory => self.keep_memory(),
            Moment::LetGo => return self.let_go(scope, job, act, moment),
            Moment::Down => {
                let machine = self.books.machines.get(&input.machine)?;
                minding::is_down(machine).then_some(Ok(()))?
            }
            Moment::Up => {
                let machine = self.books.machines.get(&input.machine)?;
                minding::is_up(machine).then_some(Ok(()))?
            }
            Moment::Wish(wish, volume) => self.wish(scope, plan.volumes[volume].key(), wish),
            Moment::Mark(volume) => {
                let VolumeKey { id, generation } = plan.volumes[volume].key();
                self.raise(Subject::Volume(id), Fence { generation, to: input.to.clone(), job });
                Ok(())
            }
            Moment::MarkMachine => {
                let fence = Fence { generation: plan.generation, to: input.to.clone(), job };
                self.raise(Subject::Machine(input.machine), fence);
                Ok(())
            }
        };
        self.passed(scope, job, standing, act, moment, done)?;
        Some(Stepped::to(self))
    }

    /// What memory has left needs not be forsaken.
    fn let_go(mut self, scope: &Scope, job: JobId, act: Act<MoveStep>, moment: usize) -> Option<Stepped> {
        let before = self.processes.clone();
        match self.lets_go(scope, job) {
            Some(has_left) => {
                let next = if has_left { moment + 2 } else { moment + 1 };
                self.tasks.insert(job, at(scope, act, next));
            }
            None if self.processes == before => return None,
            None => {}
        }
        Some(Stepped::to(self))
    }

    /// Nobody waits for the memory that was copied.
    pub(crate) fn unawaited(&mut self, scope: &Scope, job: JobId) -> Option<()> {
        let Task::At { act, moment } = self.tasks.get(&job)?.clone() else { return None };
        let standing = self.books.standing(job)?;
        self.passed(scope, job, &standing, act, moment, Err(ErrorCode::Conflict))
    }

    /// Whether a job asks the target if somebody waits for the memory, and hears that nobody does.
    pub(crate) fn hears_of_nobody(&self, scope: &Scope, job: JobId, target: &Self) -> bool {
        let Some(Task::At { act, moment }) = self.tasks.get(&job) else { return false };
        let asks = moments(scope, act).get(*moment) == Some(&Moment::Awaited);
        asks && self.hears_of_awaited(job, target) == Some(false)
    }

    /// A moment is over, well or not.
    fn passed(
        &mut self,
        scope: &Scope,
        job: JobId,
        standing: &Standing<MoveStep>,
        act: Act<MoveStep>,
        moment: usize,
        done: Result<(), ErrorCode>,
    ) -> Option<()> {
        let Err(code) = done else {
            self.tasks.insert(job, at(scope, act, moment + 1));
            return Some(());
        };
        if self.goes_on_cold(scope, job, standing, &act, moment) {
            return Some(());
        }
        let error = ApiError::new(code, "refused");
        let is_undo = matches!(act, Act::Undo { .. });
        if standing.past_no_return() || is_undo {
            // It is tried again for ever. That it failed is not written down again and again here, since the counts
            // would make endlessly many worlds that differ in nothing else.
            let again = Task::At { act, moment: 0 };
            let changes = self.tasks.get(&job) != Some(&again);
            self.tasks.insert(job, again);
            return changes.then_some(());
        }
        self.tasks.insert(job, Task::Ended { act, result: Err(moving::refusal(error)) });
        Some(())
    }

    /// Goes on without what was copied ahead, if that is what went wrong.
    fn goes_on_cold(
        &mut self,
        scope: &Scope,
        job: JobId,
        standing: &Standing<MoveStep>,
        act: &Act<MoveStep>,
        moment: usize,
    ) -> bool {
        let all = moments(scope, act);
        let is_of_it = |at: &Moment| matches!(at, Moment::Round | Moment::AskAhead | Moment::Copied);
        let is_ahead = is_of_it(&all[moment]);
        if is_ahead && step_of(act) != Some((MoveStep::Seal, false)) {
            let plan: Plan = moving::memo_of(standing, MoveStep::Plan).expect("the plan is made first");
            self.forget_marks(&plan);
        }
        if is_ahead {
            let rest = all[moment..].iter().take_while(|at| is_of_it(at)).count();
            self.tasks.insert(job, at(scope, act.clone(), moment + rest));
        }
        is_ahead
    }

    /// The answer to what a job asked.
    pub(crate) fn answered(
        &mut self,
        scope: &Scope,
        job: JobId,
        answer: Result<Based, ErrorCode>,
    ) -> Option<()> {
        let Task::Asking { act, moment } = self.tasks.get(&job)?.clone() else { return None };
        let standing = self.books.standing(job)?;
        if let (Some(Moment::AskExpect), Ok(pid)) = (moments(scope, &act).get(moment), answer) {
            let to = names::index_of(&moving::input(&standing).ok()?.to);
            self.send((to, u32::from(pid)));
        }
        self.passed(scope, job, &standing, act, moment, answer.map(drop));
        if let (Some(Task::Ended { result: result @ Ok(_), .. }), Ok(based)) =
            (self.tasks.get_mut(&job), answer)
        {
            *result = Ok(based);
        }
        Some(())
    }

    /// No answer came.
    pub(crate) fn timed_out(&mut self, scope: &Scope, job: JobId) -> Option<()> {
        let Task::Asking { act, moment } = self.tasks.get(&job)?.clone() else { return None };
        if scope.bug == Some(Bug::ForgetsToRetry) {
            self.tasks.insert(job, Task::Stuck);
            return Some(());
        }
        let standing = self.books.standing(job)?;
        if self.goes_on_cold(scope, job, &standing, &act, moment) {
            return Some(());
        }
        let gives_up = matches!(act, Act::Undo { step: MoveStep::Reserve, attempt }
            if attempt >= RELEASE_ATTEMPTS_MAX);
        let result = if gives_up { Ok(0) } else { Err(StepError::retry("no answer")) };
        self.tasks.insert(job, Task::Ended { act, result });
        Some(())
    }

    /// What a job that looks at the target looks for, once it is there.
    pub(crate) fn found(&mut self, scope: &Scope, job: JobId) -> Option<()> {
        let Task::At { act, moment } = self.tasks.get(&job)?.clone() else { return None };
        self.tasks.insert(job, at(scope, act, moment + 1));
        Some(())
    }

    /// Whether a job looks at the target, and finds there what it waits for.
    pub(crate) fn finds(&self, scope: &Scope, job: JobId, target: &Host) -> bool {
        let Some(Task::At { act, moment }) = self.tasks.get(&job) else { return false };
        let now = moments(scope, act).get(*moment).copied();
        if now == Some(Moment::Awaited) {
            return self.hears_of_awaited(job, target) == Some(true);
        }
        if !matches!(now, Some(Moment::Whole | Moment::Copied)) {
            return false;
        }
        let Some(standing) = self.books.standing(job) else { return false };
        let Ok(plan) = moving::memo_of::<Plan>(&standing, MoveStep::Plan) else { return false };
        if now == Some(Moment::Copied) {
            return self.finds_copied(job, &plan, target);
        }
        let Some(crossing) = target.crossing_view(job) else { return false };
        if step_of(act) == Some((MoveStep::Hydrate, false)) {
            return crossing.volumes.iter().all(reckoning::is_whole);
        }
        plan.volumes.iter().all(|planned| {
            let sealed = self.view(planned.key());
            sealed.is_some_and(|sealed| reckoning::receipt(planned, &sealed, &crossing).is_ok())
        })
    }

    /// A move as its target shows it.
    fn crossing_view(&self, job: JobId) -> Option<Crossing> {
        let record = self.books.crossings.get(&job)?.clone();
        let (crossing, reserve) = ferry_crossing::target::reserved(Some(record), job).ok()?;
        let keys = ferry_crossing::target::keys_of(&reserve).into_iter();
        Some(Crossing {
            job,
            from: reserve.from.clone(),
            machine: reserve.machine,
            state: crossing.state,
            activated_at_ms: crossing.activated_at_ms,
            booted_at_ms: crossing.booted_at_ms,
            memory_to: None,
            arrival: None,
            after_move: crossing.after_move,
            machine_now: None,
            volumes: keys.map(|key| CrossingVolume { key, volume: self.view(key) }).collect(),
            judged: None,
        })
    }

    fn asks(
        &self,
        scope: &Scope,
        job: JobId,
        input: &MoveInput,
        plan: &Plan,
        act: &Act<MoveStep>,
        now: Moment,
    ) -> Asks {
        let source =
            |planned: &ferry_crossing::PlannedVolume| format!("nbd://{}/{}", input.from, planned.key());
        let sources: Vec<String> = plan.volumes.iter().map(source).collect();
        match step_of(act) {
            Some((MoveStep::Reserve, false)) => Asks::Reserve(Box::new(moving::reserve(job, input, plan))),
            Some((MoveStep::Prepare, false)) => {
                let volumes = plan.volumes.iter().zip(sources).map(|(planned, source)| PrepareVolume {
                    id: planned.id,
                    source,
                    pace: ferry_api::PaceVolume::default(),
                });
                Asks::Prepare(Prepare { job, volumes: volumes.collect() })
            }
            Some((MoveStep::Activate, false)) => {
                let here = self.books.machines.get(&input.machine).map(|here| match scope.bug {
                    Some(Bug::StartsWhatWasStopped) => Desired::Running,
                    _ => here.desired,
                });
                let standing = self.books.standing(job).expect("the job is under way");
                let sources = sources.into_iter().zip(self.holds(scope, &standing, plan)).collect();
                Asks::Activate(moving::activate(job, here, plan, sources))
            }
            Some((MoveStep::Stop, false)) => Asks::Expect,
            Some((MoveStep::Boot, false)) if now == Moment::AskForsake => Asks::Forsake,
            Some((MoveStep::Boot, false)) => Asks::Boot,
            Some((MoveStep::Retire, false)) => Asks::Settle,
            Some((MoveStep::Reserve, true)) => Asks::Release,
            other => unreachable!("{other:?} asks nothing of the target"),
        }
    }

    /// What is written of a step that has ended.
    fn event(
        &self,
        scope: &Scope,
        standing: &Standing<MoveStep>,
        act: &Act<MoveStep>,
        result: Result<Based, StepError>,
    ) -> Event {
        match (act, result) {
            (Act::Begin { step, attempt }, result) => {
                let name = step.name().to_owned();
                match result.and_then(|based| self.memo(scope, standing, *step, based)) {
                    Ok(memo) => Event::Done { step: name, memo },
                    Err(error) => Event::Failed { step: name, attempt: *attempt, error },
                }
            }
            (Act::Undo { step, .. }, Ok(_)) => Event::Undone { step: step.name().to_owned() },
            (Act::Undo { step, attempt }, Err(error)) => {
                Event::UndoFailed { step: step.name().to_owned(), attempt: *attempt, error }
            }
            (other, _) => unreachable!("{other:?} has no end of its own"),
        }
    }

    fn memo(
        &self,
        scope: &Scope,
        standing: &Standing<MoveStep>,
        step: MoveStep,
        based: Based,
    ) -> Result<Value, StepError> {
        Ok(match step {
            MoveStep::Reserve => moving::memo(reserved(standing, based)?),
            MoveStep::Plan => moving::memo(self.plan(scope, standing)?),
            MoveStep::Prepare => {
                let plan = moving::memo_of(standing, MoveStep::Plan)?;
                moving::memo(Prepared {
                    sources: Vec::new(),
                    ahead: self.ahead(scope, &plan),
                    hooks: Vec::new(),
                    lease: None,
                })
            }
            MoveStep::Activate => moving::memo(Activated { activated_at_ms: None }),
            MoveStep::Boot => moving::memo(Booted { booted_at_ms: None, arrival: None }),
            MoveStep::Verify => moving::memo(Receipt { volumes: Vec::new() }),
            MoveStep::Retire => moving::memo(Retired { until_ms: 0 }),
            MoveStep::Stop => {
                let plan = moving::memo_of(standing, MoveStep::Plan)?;
                moving::memo(Stopped { kept_up: self.kept_up(scope, &plan), ..Stopped::default() })
            }
            MoveStep::Seal | MoveStep::HandOver | MoveStep::Hydrate => Value::Null,
        })
    }

    fn plan(&self, scope: &Scope, standing: &Standing<MoveStep>) -> Result<Plan, StepError> {
        let input = moving::input(standing)?;
        let gone = || StepError::fatal("it is not here");
        let machine = self.books.machines.get(&input.machine).ok_or_else(gone)?;
        if scope.is_live && !self.has_memory() {
            return Err(StepError::fatal("it does not run"));
        }
        let mut volumes = Vec::new();
        for key in machine.volume_keys() {
            volumes.push(reckoning::plan_volume(&self.view(key).ok_or_else(gone)?)?);
        }
        Ok(Plan {
            generation: machine.generation,
            spec: machine.spec.clone(),
            created_at_ms: 0,
            volumes,
            expected: None,
            live: None,
        })
    }

    /// Appends what happened, with what follows from it, as one, and goes on to that.
    fn append(
        mut self,
        scope: &Scope,
        job: JobId,
        standing: &Standing<MoveStep>,
        happened: Vec<Event>,
    ) -> Result<Stepped, ChangeRefused> {
        let (events, act) = conclude(standing, happened, LATE_MS).expect("the model follows the rules");
        self.write(scope, job, standing, events)?;
        let broken = self.breaks_its_word(scope, job, &act);
        let task = match act {
            Act::Begin { .. } | Act::Undo { .. } | Act::Commit { .. } => Some(at(scope, act, 0)),
            Act::Unwind { .. } | Act::Park { .. } => Some(Task::Deciding),
            Act::WaitForPerson { .. } | Act::Finish { .. } | Act::Rest => None,
            Act::Admit { .. } => unreachable!("moves of the model begin at once"),
            Act::WaitUntil { .. } => unreachable!("it is later than any pause"),
        };
        match task {
            Some(task) => self.tasks.insert(job, task),
            None => self.tasks.remove(&job),
        };
        Ok(Stepped { broken, ..Stepped::to(self) })
    }

    /// The deed, unless somebody cancelled before it.
    fn commit(self, scope: &Scope, job: JobId, step: MoveStep, attempt: u32) -> Option<Stepped> {
        let standing = self.books.standing(job)?;
        if standing.cancel_asked {
            return self.append(scope, job, &standing, Vec::new()).ok();
        }
        let name = step.name().to_owned();
        let memo = moving::deed(&standing).expect("the plan is in the journal");
        let done = Event::Done { step: name.clone(), memo };
        let refused = match self.clone().append(scope, job, &standing, vec![done]) {
            Ok(stepped) => return Some(stepped),
            Err(refused) => StepError::fatal(refused.to_string()),
        };
        let failed = Event::Failed { step: name, attempt, error: refused };
        self.append(scope, job, &standing, vec![failed]).ok()
    }

    /// Writes entries and the changes that come with them, in one transaction.
    fn write(
        &mut self,
        scope: &Scope,
        job: JobId,
        standing: &Standing<MoveStep>,
        events: Vec<Event>,
    ) -> Result<(), ChangeRefused> {
        let (mut next, mut changes, mut entries) = (standing.clone(), Vec::new(), Vec::new());
        for event in events {
            changes.extend(moving::changes(job, &next, &event));
            let entry = Entry::new(0, event);
            next.apply(&entry).expect("the model follows the rules");
            entries.push(entry);
        }
        if entries.is_empty() {
            return Ok(());
        }
        if scope.bug == Some(Bug::HandsOverOne) {
            changes = changes.into_iter().flat_map(|change| self.only_the_first(change)).collect();
        }
        let before = Rc::clone(&self.books);
        self.books = self.books.transact(&changes, Some((job, entries)))?;
        self.durable = (scope.bug == Some(Bug::ActsBeforeDurable)).then_some(before);
        Ok(())
    }

    fn only_the_first(&self, change: Change) -> Vec<Change> {
        let Change::HandOver { job, machine, to } = change else { return vec![change] };
        let mut record = self.books.machines[&machine].clone();
        let first = record.volume_keys().next().expect("the model's machine has volumes");
        record.standing = ferry_crossing::Standing::HandedOver { to: to.clone(), job };
        (record.job, record.halted) = (None, false);
        vec![
            Change::RemoveMachine(machine),
            Change::AddMachine(Box::new(record)),
            Change::Own { key: first, ownership: ferry_api::Ownership::HandedOver { to, job } },
        ]
    }

    /// A move that failed, or was cancelled, is reported only when the machine runs at home again.
    fn breaks_its_word(&self, scope: &Scope, job: JobId, act: &Act<MoveStep>) -> Option<&'static str> {
        let Act::Finish { outcome: Outcome::Failed { .. } | Outcome::Cancelled } = act else { return None };
        let record = self.books.machines.get(&names::machine())?;
        let runs = |pid: u32| self.processes.iter().any(|process| process.pid == pid && process.runs());
        // What a host that went down took with it is its minder's to start again, as is a machine that did not run yet.
        let stopped = self.has_stopped(job);
        let is_up = record.process.as_ref().is_some_and(|mark| runs(mark.pid));
        let home = self.was_down || !stopped || is_up || record.desired == Desired::Stopped;
        let is_kept_down = record.standing != ferry_crossing::Standing::Ours || record.halted;
        if scope.is_live && !self.was_down && self.was_started_for(job) {
            return Some("a live move was undone, and its machine was started anew");
        }
        (!home || is_kept_down)
            .then_some("a move was reported as undone while its machine did not run at home")
    }

    /// A person begins a move.
    pub(crate) fn begin(&mut self, scope: &Scope, job: JobId, to: usize) -> Option<()> {
        let (machine, name) = (names::machine(), names::machine_name());
        let (from, to) = (names::worker(self.index), names::worker(to));
        let kind = JobKind::Move { machine, machine_name: name.clone(), from: from.clone(), to: to.clone() };
        let input = MoveInput {
            machine,
            machine_name: name,
            from,
            to,
            retention_ms: 0,
            mode: if scope.is_live { MoveMode::Live } else { MoveMode::Cold },
            undo_unhealthy: false,
            way_back: false,
            force: false,
        };
        let opening = Standing::<MoveStep>::opening(0, moving::memo(input), Terms::default());
        let record = JobRecord { id: job, kind, parent: None, created_at_ms: 0, finished: false };
        let changes = [Change::AddJob(Box::new(record)), Change::Claim { machine, job }];
        self.books = self.books.transact(&changes, Some((job, vec![opening]))).ok()?;
        self.tasks.insert(job, Task::Deciding);
        Some(())
    }

    /// A person cancels a move, whatever it is at.
    pub(crate) fn cancel(&mut self, job: JobId) -> Option<()> {
        self.tasks.get(&job)?;
        let standing = self.books.standing(job)?;
        match standing.ask_to_cancel() {
            Answer::Append(event) => {
                let entry = Entry::new(0, event);
                self.books = self.books.transact(&[], Some((job, vec![entry]))).ok()?;
                Some(())
            }
            Answer::Already | Answer::Refuse => None,
        }
    }
}

/// What the target is remembered to have of the volumes already.
fn reserved(standing: &Standing<MoveStep>, based: Based) -> Result<Reserved, StepError> {
    let plan: Plan = moving::memo_of(standing, MoveStep::Plan)?;
    let volumes = plan.volumes.iter().enumerate().map(|(bit, planned)| {
        let generation = planned.born_from.filter(|_| based & (1 << bit) != 0);
        let base = generation.map(|generation| VolumeBase {
            generation,
            worker: None,
            is_used: None,
            last_error: None,
        });
        ReservedVolume { key: reckoning::target_key(planned), base }
    });
    Ok(Reserved { volumes: volumes.collect() })
}
