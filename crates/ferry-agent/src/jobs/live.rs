//! What is different when a machine moves with its memory: it is paused where another one is stopped, and goes on where
//! another one boots.
//!
//! Invariant: the rest of its memory is let go behind the hand-over only. Before, whatever goes wrong leaves it running where it
//! is; behind it, what is lost of its memory costs a start from its disks.

use ferry_api::{ApiError, Arrival, ErrorCode, Expect, LiveFacts, Progress, WorkerInfo};
use ferry_crossing::live::{Memory, MemoryCopied, against_live, why_given_up};
use ferry_crossing::moving::{later, refusal};
use ferry_crossing::{Ahead, Booted, MoveInput, Plan, Stopped};
use ferry_fsm::StepError;

use super::Clock;
use super::keep_up::KeepUp;
use super::mover::{Context, Mover};
use super::world::{Home, Target};

impl<H: Home, C: Clock> Mover<H, C> {
    /// How a machine runs that is to move with its memory, and why it cannot, each in one sentence; nothing for any other move.
    pub(super) async fn against_live(
        &self,
        input: &MoveInput,
        spec: &ferry_api::MachineSpec,
        there: Option<&WorkerInfo>,
    ) -> Result<(Option<LiveFacts>, Vec<String>), ApiError> {
        if !input.mode.is_live() {
            return Ok((None, Vec::new()));
        }
        let here = self.home.live_facts(input.machine).await?;
        let Some(there) = there else { return Ok((here.ok(), Vec::new())) };
        let offers = there.drivers.iter().find(|driver| driver.name == spec.driver.kind().as_str());
        let offers = offers.and_then(|driver| driver.live.as_ref());
        let against = against_live(spec, &here, offers, &input.to);
        Ok((here.ok(), against))
    }

    /// Copies the memory while the machine runs, and beside it what it writes to its disks, until it is paused for the rest. One that has
    /// ended by itself is stopped.
    pub(super) async fn pause(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        ahead: Option<Ahead>,
    ) -> Result<Stopped, StepError> {
        let mut keeps = KeepUp::after(ahead);
        let memory = tokio::select! {
            biased;
            () = context.cancel_asked() => return Err(StepError::retry("the move was cancelled")),
            () = self.its_deadline(context) => return Err(StepError::retry("the time of the move is over")),
            copied = self.send_memory(context, input, plan, &mut keeps) => copied?,
        };
        if memory.is_none() {
            self.home.halt(input.machine).await.map_err(refusal)?;
        }
        let last_exit = self.home.machine(input.machine).await.map_err(refusal)?.last_exit;
        Ok(Stopped { last_exit, memory, kept_up: keeps.ended() })
    }

    async fn its_deadline(&self, context: &Context) {
        match context.standing.deadline_ms() {
            Some(deadline_ms) => self.clock.sleep_until(deadline_ms).await,
            None => std::future::pending().await,
        }
    }

    async fn send_memory(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        keeps: &mut KeepUp,
    ) -> Result<Option<MemoryCopied>, StepError> {
        self.begin_to_keep_up(context, input, plan, keeps).await;
        let mut is_sent = false;
        loop {
            match self.home.memory(input.machine).await.map_err(refusal)? {
                None => return Ok(None),
                Some(Memory::Paused(copied)) => return Ok(Some(copied)),
                Some(Memory::Leaving(copied)) => {
                    is_sent = true;
                    if let Some(why) = why_given_up(&copied) {
                        return Err(StepError::fatal(why));
                    }
                    context.show(Progress {
                        bytes_total: copied.bytes.saturating_add(copied.bytes_left),
                        bytes_done: copied.bytes,
                        ..Progress::default()
                    });
                    self.keep_up(context, input, plan, &copied, keeps).await;
                }
                Some(Memory::Failed { why }) if is_sent => {
                    return Err(StepError::retry(format!("the memory of the machine does not cross: {why}")));
                }
                Some(Memory::Here | Memory::Failed { .. }) => {
                    self.begin_to_send(context, input, plan).await.map_err(refusal)?;
                    is_sent = true;
                }
                Some(Memory::Finishing | Memory::Left | Memory::Awaited) => {
                    return Err(StepError::fatal(
                        "somebody else has moved the memory of the machine; stop it and start it again",
                    ));
                }
            }
        }
    }

    async fn begin_to_send(&self, context: &Context, input: &MoveInput, plan: &Plan) -> Result<(), ApiError> {
        let unknown = || {
            ApiError::new(ErrorCode::Internal, "how the machine runs is not in the move's plan; start anew")
        };
        let facts = plan.live.clone().ok_or_else(unknown)?;
        let target = self.home.target(&input.to)?;
        let crossing = target.expect(Expect { job: context.job, facts }).await?;
        let lost = || {
            ApiError::new(
                ErrorCode::Unavailable,
                "the machine on the target that was to take the memory has ended; see its log there",
            )
        };
        let to = crossing.memory_to.ok_or_else(lost)?;
        self.home.send_memory(input.machine, &to).await
    }

    /// Refuses to seal under a machine that runs, and to hand over one whose memory is held by nobody. The machine may have
    /// ended by itself: then there is none.
    pub(super) async fn check_paused(&self, context: &Context, input: &MoveInput) -> Result<(), StepError> {
        match self.home.memory(input.machine).await.map_err(refusal)? {
            None => return Ok(()),
            Some(Memory::Paused(_)) => {}
            Some(_) => {
                return Err(StepError::fatal("the machine is not paused any more; start the move anew"));
            }
        }
        let target = self.home.target(&input.to).map_err(refusal)?;
        let crossing = target.crossing(context.job).await.map_err(refusal)?;
        match crossing.memory_to {
            Some(_) => Ok(()),
            None => {
                Err(StepError::fatal("the memory that was copied to the target is lost; start the move anew"))
            }
        }
    }

    /// Lets the rest of the memory go, and waits until the machine goes on at the target, or is started anew there.
    pub(super) async fn arrive(&self, context: &Context, input: &MoveInput) -> Result<Booted, StepError> {
        let target = self.home.target(&input.to).map_err(later)?;
        let left = self.home.let_memory_go(input.machine, context.job).await.map_err(later)?;
        if left != Some(Memory::Left) {
            tracing::warn!(job = %context.job, ?left, "the memory of the machine was lost; it starts from its disks");
            target.forsake(context.job).await.map_err(later)?;
        }
        let crossing = target.boot(context.job).await.map_err(later)?;
        if crossing.arrival == Some(Arrival::Rebooted) {
            tracing::warn!(job = %context.job, "the machine was started anew on the target");
        }
        Ok(Booted { booted_at_ms: crossing.booted_at_ms, arrival: crossing.arrival })
    }

    /// The machine runs on here, with all of its memory.
    pub(super) async fn go_on(&self, input: &MoveInput) -> Result<(), ApiError> {
        self.home.keep_memory(input.machine).await?;
        self.home.let_run(input.machine).await
    }
}
