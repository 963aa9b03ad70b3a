//! Machines that have arrived here and have a hook for that: it is run, and what came of it kept.
//!
//! Invariant: what came of it is in the records before anybody is told, so that it is run again only if this agent dies meanwhile.

use crate::core::Core;
use crate::records::{CrossingRecord, RecordsError};
use ferry_api::{ApiError, ErrorCode, HookName, HookRun, JobId, Notice, Reserve};
use ferry_crossing::hooks::owes_after_move;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Tells those that have arrived, for ever: also those that an earlier agent did not get to.
pub(crate) async fn tell_arrived(core: Arc<Core>) {
    let (mut begun, mut telling) = (BTreeSet::new(), JoinSet::new());
    loop {
        match core.records.crossings_under_way().await {
            Ok(crossings) => {
                for crossing in crossings.into_iter().filter(owes_after_move) {
                    if begun.insert(crossing.job) {
                        telling.spawn(tell(Arc::clone(&core), crossing));
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look which machines have arrived"),
        }
        tokio::select! {
            biased;
            () = core.target.one_to_tell() => {}
            Some(Ok((job, noted))) = telling.join_next() => match noted {
                Ok(()) => drop(begun.remove(&job)),
                // It is not run again by this agent.
                Err(error) => tracing::warn!(%job, %error, "cannot record what came of a hook"),
            },
        }
    }
}

/// Tells one; answers whether what came of it is in the records.
async fn tell(core: Arc<Core>, crossing: CrossingRecord) -> (JobId, Result<(), RecordsError>) {
    let CrossingRecord { job, reserve: Some(Reserve { from, machine, .. }), .. } = crossing else {
        return (crossing.job, Ok(()));
    };
    let notice = Notice { hook: HookName::AfterMove, job, from, to: core.config.name.clone() };
    let failed = |why: String| HookRun { hook: notice.hook, took_ms: 0, failure: Some(why) };
    let run = match core.machines.tell(machine, &notice).await {
        Ok(Some(run)) => run,
        Ok(None) => failed("the machine does not run here any more".to_owned()),
        Err(error) => failed(ApiError::because(ErrorCode::Internal, &error).message),
    };
    (job, core.target.note_after_move(job, run).await)
}
