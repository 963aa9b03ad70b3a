//! How a move of a machine that belongs to a group comes to be the only one of that group that is down.
//!
//! Invariant: it stops its machine only when every worker that is known here has given it the lease of the group, and what it
//! is given it ends when the machine runs again, or when it gives up. What that is worth is said in [`ferry_crossing::leases`].

use ferry_api::{AskLease, Desired, EndLease, Lease, LeaseId};
use ferry_crossing::leases::{Next, next, order};
use ferry_crossing::moving::refusal;
use ferry_crossing::{MoveInput, Plan};
use ferry_fsm::StepError;
use tokio::task::JoinSet;

use super::Clock;
use super::mover::{Context, LOOK_MS, Mover};
use super::world::Home;

impl<H: Home, C: Clock> Mover<H, C> {
    /// Waits until all workers have given the lease of the machine's group; none for a machine without a group, and for one that is
    /// not to run: it is nobody's stand-in.
    pub(super) async fn take_lease(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
    ) -> Result<Option<LeaseId>, StepError> {
        let desired = self.home.machine(input.machine).await.map_err(refusal)?.desired;
        let Some(group) = plan.spec.placement.group.clone().filter(|_| desired == Desired::Running) else {
            return Ok(None);
        };
        let lease = Lease {
            id: LeaseId::fresh(),
            job: context.job,
            from: input.from.clone(),
            machine_name: input.machine_name.clone(),
        };
        let id = lease.id;
        self.home.asks_for_lease(context.job, Some(id));
        for at in order(&input.from, self.home.others()) {
            let ask = AskLease { at, group: group.clone(), lease: lease.clone(), force: input.force };
            if let Err(error) = self.wait_for(context, ask).await {
                context.waits_for(None);
                self.home.asks_for_lease(context.job, None);
                self.tell_ends(input, EndLease { group, id }).await;
                return Err(error);
            }
        }
        context.waits_for(None);
        Ok(Some(id))
    }

    /// Waits until one worker has given it.
    async fn wait_for(&self, context: &Context, ask: AskLease) -> Result<(), StepError> {
        let mut silent_since_ms = None;
        let mut pause_ms = *LOOK_MS.start();
        loop {
            let said = self.home.lease(&ask.at, ask.clone()).await;
            let now_ms = self.clock.now_ms();
            silent_since_ms = said.is_err().then(|| silent_since_ms.unwrap_or(now_ms));
            let silent_ms = silent_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
            match next(&ask.at, &ask.group, said, silent_ms, ask.force) {
                Next::Goes => return Ok(()),
                Next::Waits(why) => context.waits_for(Some(why)),
                Next::Fails(why) => return Err(StepError::fatal(why)),
            }
            let deadline_ms = context.standing.deadline_ms().unwrap_or(u64::MAX);
            tokio::select! {
                biased;
                () = context.cancel_asked() => return Err(StepError::retry("the move was cancelled")),
                () = self.clock.sleep_until(now_ms.saturating_add(pause_ms).min(deadline_ms)) => {}
            }
            if deadline_ms <= self.clock.now_ms() {
                return Err(StepError::retry("the time of the move is over"));
            }
            pause_ms = pause_ms.saturating_mul(2).min(*LOOK_MS.end());
        }
    }

    /// The machine runs again, or was never stopped. Whoever cannot be told now finds out when the lease is wanted again.
    pub(super) async fn end_lease(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        lease: Option<LeaseId>,
    ) {
        self.home.asks_for_lease(context.job, None);
        if let (Some(group), Some(id)) = (plan.spec.placement.group.clone(), lease) {
            self.tell_ends(input, EndLease { group, id }).await;
        }
    }

    async fn tell_ends(&self, input: &MoveInput, end: EndLease) {
        let mut telling = JoinSet::new();
        for at in order(&input.from, self.home.others()) {
            let (home, end) = (self.home.clone(), end.clone());
            telling.spawn(async move {
                if let Err(error) = home.end_lease(&at, end).await {
                    tracing::debug!(worker = %at, %error, "a worker is not told that a lease is over");
                }
            });
        }
        telling.join_all().await;
    }
}
