//! What a move makes of its machine's hooks.
//!
//! Invariant: a hook can give up a move only while that is possible, so never behind the hand-over.

use ferry_api::{Crossing, CrossingState, HookName, HookRun, MachineName, MachineSpec, OnHookFailure};
use ferry_fsm::StepError;

use crate::records::CrossingRecord;

/// Whether the move goes on after what came of a hook.
///
/// # Errors
/// The hook asks to give up the move.
pub fn heed(machine: &MachineName, spec: &MachineSpec, run: Option<&HookRun>) -> Result<(), StepError> {
    let Some(HookRun { hook, failure: Some(why), .. }) = run else { return Ok(()) };
    let asks = spec.hooks.get(*hook).is_some_and(|asked| asked.on_failure == OnHookFailure::Abort);
    match asks && hook.may_abort() {
        true => Err(StepError::fatal(format!("the {hook} hook of machine {machine} did not succeed: {why}"))),
        false => Ok(()),
    }
}

/// Whether the target still has to run the hook of a machine that has arrived.
#[must_use]
pub fn owes_after_move(crossing: &CrossingRecord) -> bool {
    let reserve = crossing.reserve.as_ref();
    let has_hook = reserve.is_some_and(|reserve| reserve.spec.hooks.get(HookName::AfterMove).is_some());
    let runs = crossing.state == CrossingState::Booted && crossing.booted_at_ms.is_some();
    has_hook && runs && crossing.after_move.is_none()
}

/// Whether the source waits for that: the target always tells what came of it, for a hook ends in its time.
#[must_use]
pub fn awaits_after_move(spec: &MachineSpec, crossing: &Crossing) -> bool {
    let has_hook = spec.hooks.get(HookName::AfterMove).is_some();
    has_hook && crossing.booted_at_ms.is_some() && crossing.after_move.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::Hook;

    #[test]
    fn only_a_hook_that_failed_and_asks_for_it_and_still_may_gives_up_a_move() {
        let name: MachineName = "db".parse().unwrap();
        let mut spec = MachineSpec::process("true", [""; 0]);
        let heeds = |spec: &MachineSpec, hook, failure: Option<&str>| {
            let run = HookRun { hook, took_ms: 1, failure: failure.map(str::to_owned) };
            heed(&name, spec, Some(&run)).map_err(|error| error.message)
        };
        assert_eq!(heeds(&spec, HookName::Quiesce, Some("no")), Ok(()));
        let hook = Hook { on_failure: OnHookFailure::Abort, ..Hook::new(vec!["x".to_owned()]) };
        spec.hooks.quiesce = Some(hook.clone());
        spec.hooks.after_move = Some(hook);
        assert_eq!(heeds(&spec, HookName::Quiesce, None), Ok(()));
        assert_eq!(heeds(&spec, HookName::AfterMove, Some("no")), Ok(()));
        assert_eq!(heeds(&spec, HookName::BeforeMove, Some("no")), Ok(()));
        let said = heeds(&spec, HookName::Quiesce, Some("it is busy")).unwrap_err();
        assert_eq!(said, "the quiesce hook of machine db did not succeed: it is busy");
        assert_eq!(heed(&name, &spec, None).map_err(|error| error.message), Ok(()));
    }
}
