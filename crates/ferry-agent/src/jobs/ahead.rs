//! Copying the disks of a machine that runs, before it stops: the rounds of a warm move, and what of them is right when it is
//! sealed.
//!
//! Invariant: nothing depends on it. Whatever goes wrong here makes the move a cold one, and is said.

use ferry_api::{
    ApiError, CrossingVolume, ErrorCode, JobId, MachineId, MachineState, MoveMode, Precopied, Precopy,
    PrecopyVolume, Progress, VolumeKey,
};
use ferry_crossing::ahead::{is_behind, rounds_end_ms, why_cold, why_enough, why_not_worth};
use ferry_crossing::{Adopted, Ahead, MoveInput, Plan, Reserved, Round, Sealed};

use super::Clock;
use super::mover::{Context, LOOK_MS, Mover};
use super::world::{Home, Target};

/// Rounds that may fail before the move goes on as a cold one.
pub(super) const FAILURES_MAX: u32 = 3;

/// What else crosses while a round does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing: how far it is is shown.
    Nothing,
    /// The memory of the machine, which may be paused at any time and waits for the end of the round then.
    Memory,
}

impl Beside {
    /// The first and the longest pause between two looks at the round, in milliseconds.
    fn look_ms(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Self::Nothing => LOOK_MS,
            Self::Memory => 5..=20,
        }
    }
}

impl<H: Home, C: Clock> Mover<H, C> {
    /// Copies in rounds while the machine runs; none for a cold move. Left when somebody asks to cancel the job.
    pub(super) async fn copy_ahead(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        reserved: &Reserved,
    ) -> Option<Ahead> {
        if input.mode == MoveMode::Cold {
            return None;
        }
        let mut ahead = Ahead::default();
        let ended = self.in_its_time(context, self.rounds(context, input, plan, reserved, &mut ahead)).await;
        self.end_rounds(context, plan, &mut ahead, ended).await;
        Some(ahead)
    }

    /// Catches up with what the machine wrote since the last round, if that has become much: it may have waited long for the lease of
    /// its group.
    pub(super) async fn catch_up(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        mut ahead: Ahead,
    ) -> Ahead {
        let changed = self.changed_since(plan, &ahead.marks).await;
        if !changed.is_ok_and(|changed| is_behind(&ahead, changed)) {
            return ahead;
        }
        let former = std::mem::take(&mut ahead.rounds);
        let ended =
            self.in_its_time(context, self.rounds_until_enough(context, input, plan, &mut ahead)).await;
        self.end_rounds(context, plan, &mut ahead, ended).await;
        ahead.rounds.splice(..0, former);
        ahead
    }

    /// Rounds until somebody asks to cancel the job, or half of its time is over.
    async fn in_its_time(
        &self,
        context: &Context,
        rounds: impl Future<Output = Result<String, String>>,
    ) -> Result<String, String> {
        tokio::select! {
            biased;
            () = context.cancel_asked() => Err("the move was cancelled".to_owned()),
            () = self.half_its_time(context) => Err("half of the time that the move has is over".to_owned()),
            ended = rounds => ended,
        }
    }

    /// Notes why there was no further round; if that is an error, nothing is held.
    async fn end_rounds(
        &self,
        context: &Context,
        plan: &Plan,
        ahead: &mut Ahead,
        ended: Result<String, String>,
    ) {
        ahead.ended = match ended {
            Ok(enough) => enough,
            Err(why) => {
                tracing::warn!(job = %context.job, why, "the move goes on as a cold one");
                ahead.marks.clear();
                self.forget_marks(plan).await;
                why
            }
        };
    }

    /// Resolves when as much time is left until the deadline of the move as its rounds have had; never without a deadline.
    async fn half_its_time(&self, context: &Context) {
        match context.standing.deadline_ms() {
            Some(deadline_ms) => {
                self.clock.sleep_until(rounds_end_ms(context.now_ms, deadline_ms)).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Why there was no further round; as an error why nothing of it is of use.
    async fn rounds(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        reserved: &Reserved,
        ahead: &mut Ahead,
    ) -> Result<String, String> {
        if let Some(why) = self.why_cold(input.machine, input.mode, plan, reserved).await.map_err(said)? {
            return Err(why);
        }
        self.rounds_until_enough(context, input, plan, ahead).await
    }

    async fn rounds_until_enough(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        ahead: &mut Ahead,
    ) -> Result<String, String> {
        let mut failures = 0;
        loop {
            match self.round(context, input, plan, Beside::Nothing).await {
                Ok((round, marks)) => {
                    ahead.rounds.push(round);
                    ahead.marks = marks;
                }
                Err(why) if failures + 1 >= FAILURES_MAX => return Err(why),
                Err(why) => {
                    tracing::info!(job = %context.job, why, "a round of copying ahead is repeated");
                    failures += 1;
                    continue;
                }
            }
            if let Some(enough) = why_enough(&ahead.rounds) {
                return Ok(enough);
            }
        }
    }

    /// Why it is a cold one, if it is.
    pub(super) async fn why_cold(
        &self,
        machine: MachineId,
        mode: MoveMode,
        plan: &Plan,
        reserved: &Reserved,
    ) -> Result<Option<String>, ApiError> {
        let worth = plan.volumes.iter().map(|planned| planned.bytes_in_use).sum();
        if let (MoveMode::Auto, Some(why)) = (mode, why_not_worth(worth)) {
            return Ok(Some(why));
        }
        let machine = self.home.machine(machine).await?;
        if !matches!(machine.state, MachineState::Running { .. }) {
            return Ok(Some(format!("machine {} does not run", machine.name)));
        }
        for planned in &plan.volumes {
            let volume = self.home.volume(planned.key()).await?;
            let has_base = reserved.volumes.iter().any(|v| v.key.id == planned.id && v.base.is_some());
            if let Some(why) = why_cold(&volume, has_base) {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    /// The marks as of which the target's clones hold something, once none of them copies any more: this agent, or the one before
    /// it, may have been cut off in a round. None of a clone that holds nothing, or nothing that its source can tell the
    /// changes of.
    pub(super) async fn held(
        &self,
        context: &Context,
        plan: &Plan,
        target: &H::Target,
    ) -> Result<Vec<Option<u64>>, String> {
        let held = self.until_still(context, target).await?;
        let mut marks = Vec::new();
        for planned in &plan.volumes {
            let mark = held.iter().find(|(key, _)| key.id == planned.id).and_then(|(_, mark)| *mark);
            marks.push(match mark {
                Some(mark) => {
                    let known = self.home.bytes_changed(planned.key(), mark).await.map_err(said)?;
                    known.map(|_| mark)
                }
                None => None,
            });
        }
        Ok(marks)
    }

    /// Looks at the target until none of its clones copies; gives the mark as of which each holds something.
    async fn until_still(
        &self,
        context: &Context,
        target: &H::Target,
    ) -> Result<Vec<(VolumeKey, Option<u64>)>, String> {
        let mut pause_ms = *LOOK_MS.start();
        loop {
            let crossing = target.crossing(context.job).await.map_err(said)?;
            let copied = crossing.volumes.iter().map(|arrived| {
                let stands = arrived.volume.as_ref().and_then(|volume| volume.lineage.precopied.as_ref());
                (arrived.key, stands)
            });
            if !copied.clone().any(|(_, stands)| stands.is_some_and(|stands| stands.copies)) {
                return Ok(copied.map(|(key, stands)| (key, stands.and_then(|s| s.held_since))).collect());
            }
            self.clock.sleep_until(self.clock.now_ms().saturating_add(pause_ms)).await;
            pause_ms = pause_ms.saturating_mul(2).min(*LOOK_MS.end());
        }
    }

    /// One round over all volumes, and the marks as of which the target holds something after it.
    pub(super) async fn round(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        beside: Beside,
    ) -> Result<(Round, Vec<u64>), String> {
        let keys = plan.keys();
        let target = self.home.target(&input.to).map_err(said)?;
        let since = self.held(context, plan, &*target).await?;
        if beside == Beside::Memory && since.contains(&None) {
            return Err(
                "the target has lost what was copied ahead, and there is no time for all of it".to_owned()
            );
        }
        let began_ms = self.clock.now_ms();
        // A volume server that was started again has it no more.
        let sources = self.each(keys.clone(), |home, key| {
            let to = input.to.clone();
            async move { home.export_live(key, to).await }
        });
        let sources = sources.await.map_err(said)?;
        let marks =
            self.each(keys.clone(), |home, key| async move { home.mark(key).await }).await.map_err(said)?;
        let volumes = plan.volumes.iter().zip(sources).zip(marks.iter().zip(since));
        let volumes = volumes.map(|((planned, source), (&mark, since))| PrecopyVolume {
            id: planned.id,
            source,
            mark: Some(mark),
            since,
        });
        let wish = Precopy { job: context.job, volumes: volumes.collect() };
        target.precopy(wish).await.map_err(said)?;
        let bytes = self.until_copied(context, &*target, &marks, beside).await?;
        let took_ms = self.clock.now_ms().saturating_sub(began_ms);
        for (&key, &mark) in keys.iter().zip(&marks) {
            self.home.forget_marks(key, Some(mark)).await.map_err(said)?;
        }
        let bytes_left = self.changed_since(plan, &marks).await?;
        Ok((Round { bytes, took_ms, bytes_left }, marks))
    }

    /// Bytes that the machine has changed since these marks, of all volumes together.
    pub(super) async fn changed_since(&self, plan: &Plan, marks: &[u64]) -> Result<u64, String> {
        let mut bytes = 0_u64;
        for (key, &mark) in plan.keys().into_iter().zip(marks) {
            let changed = self.home.bytes_changed(key, mark).await.map_err(said)?;
            let changed = changed.ok_or_else(|| format!("volume {key} has lost its mark"))?;
            bytes = bytes.saturating_add(changed);
        }
        Ok(bytes)
    }

    /// Looks at the target until all clones hold what their source held at these marks; gives how many bytes that were.
    async fn until_copied(
        &self,
        context: &Context,
        target: &H::Target,
        marks: &[u64],
        beside: Beside,
    ) -> Result<u64, String> {
        let mut pause_ms = *beside.look_ms().start();
        loop {
            let crossing = target.crossing(context.job).await.map_err(said)?;
            let copied = crossing.volumes.iter().map(precopied).collect::<Result<Vec<_>, _>>()?;
            let sum = |bytes: fn(&Precopied) -> u64| copied.iter().map(bytes).sum();
            let bytes_done = sum(|copied| copied.bytes_copied);
            if beside == Beside::Nothing {
                let bytes_total = sum(|copied| copied.bytes_to_copy);
                context.show(Progress { bytes_total, bytes_done, ..Progress::default() });
            }
            if copied.iter().all(|copied| !copied.copies) {
                let is_held = copied.iter().zip(marks).all(|(copied, &mark)| copied.held_since == Some(mark));
                let why = "a volume server on the target was started again".to_owned();
                return if is_held { Ok(bytes_done) } else { Err(why) };
            }
            self.clock.sleep_until(self.clock.now_ms().saturating_add(pause_ms)).await;
            pause_ms = pause_ms.saturating_mul(2).min(*beside.look_ms().end());
        }
    }

    /// Has the target keep what of its clones is right, now that all is sealed.
    pub(super) async fn adopt(&self, job: JobId, input: &MoveInput, plan: &Plan, marks: &[u64]) -> Sealed {
        if marks.is_empty() {
            return Sealed::default();
        }
        match self.try_adopt(job, input, plan, marks).await {
            Ok(adopted) => Sealed { adopted: Some(adopted), not_adopted: None },
            Err(error) => {
                tracing::warn!(%job, %error, "what was copied ahead is not used: all of it follows");
                Sealed { adopted: None, not_adopted: Some(said(error)) }
            }
        }
    }

    async fn try_adopt(
        &self,
        job: JobId,
        input: &MoveInput,
        plan: &Plan,
        marks: &[u64],
    ) -> Result<Vec<Adopted>, ApiError> {
        let sources = self.export_all(plan, &input.to).await?;
        let volumes = plan.volumes.iter().zip(sources).zip(marks).map(|((planned, source), &mark)| {
            PrecopyVolume { id: planned.id, source, mark: None, since: Some(mark) }
        });
        let wish = Precopy { job, volumes: volumes.collect() };
        let crossing = self.home.target(&input.to)?.precopy(wish).await?;
        let adopted = crossing.volumes.iter().map(|arrived| adopted(arrived.key, arrived));
        adopted.collect()
    }

    /// Of which volumes the target's clone holds what is right of the sealed copy, if it kept anything: it was never unsealed
    /// since the mark of the last round, for an unseal forgets that. Records from a backup may not know of one.
    pub(super) async fn holds(&self, plan: &Plan, marks: &[u64]) -> Result<Vec<bool>, ApiError> {
        let mut holds = Vec::new();
        for (index, key) in plan.keys().into_iter().enumerate() {
            holds.push(match marks.get(index) {
                Some(&mark) => self.home.bytes_changed(key, mark).await?.is_some(),
                None => false,
            });
        }
        Ok(holds)
    }

    /// What is written needs not be known any more.
    pub(super) async fn forget_marks(&self, plan: &Plan) {
        for key in plan.keys() {
            if let Err(error) = self.home.forget_marks(key, None).await {
                tracing::warn!(volume = %key, %error, "a mark stays; it makes writes a little slower");
            }
        }
    }
}

fn precopied(arrived: &CrossingVolume) -> Result<Precopied, String> {
    let stands = arrived.volume.as_ref().and_then(|volume| volume.lineage.precopied.clone());
    let stands = stands
        .ok_or_else(|| format!("the volume server of {} on the target was started again", arrived.key))?;
    match &stands.failure {
        Some(why) if !stands.copies => {
            Err(format!("volume {} could not be copied ahead: {why}", arrived.key))
        }
        Some(_) | None => Ok(stands),
    }
}

fn adopted(key: VolumeKey, arrived: &CrossingVolume) -> Result<Adopted, ApiError> {
    let counted = arrived.volume.as_ref().and_then(|volume| volume.hydration.as_ref());
    let silent =
        || ApiError::new(ErrorCode::Unreachable, format!("the volume server of {key} does not answer"));
    let counted = counted.ok_or_else(silent)?;
    Ok(Adopted { key, bytes_held: counted.bytes_local, bytes_remote: counted.bytes_remote })
}

fn said(error: ApiError) -> String {
    error.message
}
