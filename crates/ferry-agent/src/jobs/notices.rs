//! Telling the machine that moves what is about to happen to it.

use ferry_api::{HookName, HookRun, Notice};
use ferry_crossing::hooks::heed;
use ferry_crossing::moving::refusal;
use ferry_crossing::{MoveInput, Plan};
use ferry_fsm::StepError;

use super::Clock;
use super::mover::{Context, Mover};
use super::world::Home;

impl<H: Home, C: Clock> Mover<H, C> {
    /// Runs a hook of the machine while the move can still be given up; none if there is nobody to tell, or if somebody asks
    /// to cancel meanwhile.
    ///
    /// # Errors
    /// It failed, and asks to give up the move.
    pub(super) async fn tell(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        hook: HookName,
    ) -> Result<Option<HookRun>, StepError> {
        if plan.spec.hooks.get(hook).is_none() {
            return Ok(None);
        }
        let notice = notice(context, input, hook);
        let run = tokio::select! {
            biased;
            () = context.cancel_asked() => return Ok(None),
            run = self.home.tell(input.machine, notice) => run.map_err(refusal)?,
        };
        heed(&input.machine_name, &plan.spec, run.as_ref())?;
        Ok(run)
    }

    /// Tells the machine, which runs on at home, that it does not move after all. What comes of it is only logged, for nothing
    /// depends on it any more.
    pub(super) async fn tell_that_it_stays(&self, context: &Context, input: &MoveInput, plan: &Plan) {
        if plan.spec.hooks.get(HookName::Resume).is_none() {
            return;
        }
        let notice = notice(context, input, HookName::Resume);
        if let Err(error) = self.home.tell(input.machine, notice).await {
            tracing::warn!(job = %context.job, %error, "a machine cannot be told that it does not move");
        }
    }
}

fn notice(context: &Context, input: &MoveInput, hook: HookName) -> Notice {
    Notice { hook, job: context.job, from: input.from.clone(), to: input.to.clone() }
}
