//! Keeping the disks of a machine up with its memory: while that crosses, which takes its time, rounds of the disks go on until just
//! before the machine is paused, so that little of them is left then, and little to make durable.
//!
//! Invariant: nothing depends on it. The marks that it leaves are those as of which the target said that it holds something; they
//! count once they are in the journal, with the end of `Stop`.

use ferry_crossing::ahead::{self, beside_memory};
use ferry_crossing::live::{MemoryCopied, Seen, paused_in_ms};
use ferry_crossing::{Ahead, KeptUp, MoveInput, Plan};

use super::Clock;
use super::ahead::{Beside, FAILURES_MAX};
use super::mover::{Context, Mover};
use super::world::Home;

/// The disks beside the memory, in one attempt at `Stop`.
pub(super) struct KeepUp {
    /// What was copied before; none: nothing is held, and the disks are only made durable.
    ahead: Option<Ahead>,
    kept_up: KeptUp,
    first: Option<Seen>,
    failures: u32,
}

impl KeepUp {
    /// After these rounds, if there were any.
    pub(super) fn after(ahead: Option<Ahead>) -> Self {
        let ahead = ahead.filter(|ahead| !ahead.marks.is_empty());
        let marks = ahead.as_ref().map(|ahead| ahead.marks.clone()).unwrap_or_default();
        Self { ahead, kept_up: KeptUp { marks, ..KeptUp::default() }, first: None, failures: 0 }
    }

    /// What the journal is told.
    pub(super) fn ended(self) -> Option<KeptUp> {
        self.ahead.map(|_| self.kept_up)
    }
}

impl<H: Home, C: Clock> Mover<H, C> {
    /// Finds out what the target holds: an attempt that was cut off may have gone on with rounds after what the journal knows.
    pub(super) async fn begin_to_keep_up(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        keeps: &mut KeepUp,
    ) {
        if keeps.ahead.is_some() {
            self.find_held(context, input, plan, keeps).await;
        }
    }

    /// Looks after the disks once while the memory crosses: what was written becomes durable, and a round copies it if that ends
    /// before the machine is paused.
    pub(super) async fn keep_up(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        memory: &MemoryCopied,
        keeps: &mut KeepUp,
    ) {
        // What cannot be made durable now is told when it is sealed.
        let flush = async { drop(self.flush_all(plan).await) };
        let ((), ()) = tokio::join!(flush, self.copy_beside(context, input, plan, memory, keeps));
    }

    async fn copy_beside(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        memory: &MemoryCopied,
        keeps: &mut KeepUp,
    ) {
        let now = Seen { at_ms: self.clock.now_ms(), copied: *memory };
        let first = *keeps.first.get_or_insert(now);
        let is_over = keeps.kept_up.marks.is_empty() || keeps.kept_up.ended.is_some();
        let Some(ahead) = keeps.ahead.as_ref().filter(|_| !is_over) else { return };
        let copied = match self.changed_since(plan, &keeps.kept_up.marks).await {
            Ok(changed) => match beside_memory(ahead, &keeps.kept_up, changed, paused_in_ms(first, now)) {
                ahead::Beside::Wait => return,
                ahead::Beside::Enough(why) => {
                    keeps.kept_up.ended = Some(why);
                    return;
                }
                ahead::Beside::Round => self.round(context, input, plan, Beside::Memory).await,
            },
            Err(why) => Err(why),
        };
        match copied {
            Ok((round, marks)) => keeps.kept_up.add(round, marks),
            Err(why) => {
                tracing::info!(job = %context.job, why, "a round beside the memory is repeated");
                keeps.failures += 1;
                self.find_held(context, input, plan, keeps).await;
            }
        }
    }

    /// Whatever came of a round: what the target holds, or nothing any more.
    async fn find_held(&self, context: &Context, input: &MoveInput, plan: &Plan, keeps: &mut KeepUp) {
        let held = match self.home.target(&input.to) {
            Ok(target) => self.held(context, plan, &*target).await,
            Err(error) => Err(error.message),
        };
        let why = match held {
            Ok(marks) => match marks.into_iter().collect::<Option<Vec<u64>>>() {
                Some(marks) => {
                    keeps.kept_up.marks = marks;
                    return;
                }
                None => "the target does not hold any more what was copied ahead".to_owned(),
            },
            // It is asked again with the next round; if there is none, the end finds out that it does not hold that.
            Err(_) if keeps.failures < FAILURES_MAX => return,
            Err(why) => why,
        };
        tracing::warn!(job = %context.job, why, "what was copied ahead is of no use: all of the disks follows");
        keeps.kept_up.marks.clear();
        keeps.kept_up.ended = Some(why);
        self.forget_marks(plan).await;
    }
}
