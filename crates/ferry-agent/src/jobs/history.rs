//! Forgets jobs that ended long ago, and moves to here that were over long ago, so that the records do not grow without
//! end.
//!
//! Invariant: what [`ferry_crossing::history`] says is still needed stays, however old; and a move that was undone stays
//! until its target has been asked and expects it no more, since that one asks us. A move to here stays until its source
//! has been asked and has ended it.

use std::future::Future;

use ferry_api::{ApiError, ErrorCode, JobId, JobKind, MachineName, WorkerName};
use ferry_crossing::history::{Keep, copies, is_needed_here, is_spent, may_be_expected_there};
use ferry_crossing::{MoveStep, target};
use ferry_fsm::{Standing, replay};

use super::journal::entries;
use super::{Clock, Guests};
use crate::fences::Fences;
use crate::records::{Change, JobRecord, Records, RecordsError};

/// Time between two looks, in milliseconds.
const LOOK_MS: u64 = 600_000;
/// Jobs that are looked at, or forgotten, in one go.
const PAGE_JOBS: u64 = 100;

/// The workers that moves went to.
pub trait Targets: Send + Sync + 'static {
    /// Whether that worker certainly expects nothing of a move that was undone; it is told so if it still does.
    fn is_free_of(&self, to: &WorkerName, job: JobId) -> impl Future<Output = bool> + Send;
}

/// Forgets for ever what is to be forgotten.
pub async fn forget<O: Targets + Guests, C: Clock>(
    records: &Records,
    fences: &Fences,
    others: &O,
    keep: Keep,
    clock: &C,
) {
    loop {
        match forget_once(records, others, keep, clock.now_ms()).await {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "forgot jobs that ended long ago"),
            Err(error) => tracing::warn!(%error, "cannot look which jobs are to be forgotten"),
        }
        match forget_arrivals_once(records, fences, others, keep, clock.now_ms()).await {
            Ok(0) => {}
            Ok(moves) => tracing::info!(moves, "forgot moves to here that were over long ago"),
            Err(error) => tracing::warn!(%error, "cannot look which moves to here are to be forgotten"),
        }
        clock.sleep_until(clock.now_ms().saturating_add(LOOK_MS)).await;
    }
}

/// Forgets what has had its time by now; answers how many jobs that were.
pub(super) async fn forget_once<T: Targets>(
    records: &Records,
    targets: &T,
    keep: Keep,
    now_ms: u64,
) -> Result<u64, RecordsError> {
    let (mut newer, mut after, mut forgotten) = (records.ended_count().await?, None, 0);
    loop {
        let page = records.ended_from(after, PAGE_JOBS).await?;
        let Some(last) = page.last() else { return Ok(forgotten) };
        after = Some(last.id);
        let mut gone = Vec::new();
        let mut is_young = false;
        for job in page {
            newer -= 1;
            let standing = replay::<MoveStep>(&entries(&records.journal(job.id, 0).await?)).ok();
            let ended_ms = standing.as_ref().map_or(job.created_at_ms, |standing| standing.last_ms);
            // The list is in the order in which jobs were taken on: about that in which they ended.
            is_young = !keep.is_over(ended_ms, newer, now_ms);
            if !is_young && !is_needed(records, targets, &job, standing.as_ref()).await? {
                gone.push(Change::ForgetJob(job.id));
            }
        }
        forgotten += u64::try_from(gone.len()).expect("a page is small");
        records.change(gone).await?;
        if is_young {
            return Ok(forgotten);
        }
    }
}

/// Forgets moves to here that have had their time by now and that nobody needs; answers how many those were.
pub(super) async fn forget_arrivals_once<G: Guests>(
    records: &Records,
    fences: &Fences,
    guests: &G,
    keep: Keep,
    now_ms: u64,
) -> Result<u64, ApiError> {
    let (mut newer, mut after, mut forgotten) = (records.crossings_over_count().await?, None, 0);
    loop {
        let page = records.crossings_over_from(after, PAGE_JOBS).await?;
        let Some(last) = page.last() else { return Ok(forgotten) };
        after = Some(last.job);
        let mut gone = Vec::new();
        for crossing in page {
            newer = newer.saturating_sub(1);
            if !keep.is_over(crossing.job.made_at_ms(), newer, now_ms) {
                records.change(gone).await?;
                return Ok(forgotten);
            }
            let Some(reserve) = &crossing.reserve else { continue };
            let subjects = target::subjects_of(reserve).into_iter().map(|(subject, _)| subject);
            if is_spent(&crossing, &fences.of_all(subjects)?)
                && has_ended_there(guests, &reserve.from, crossing.job).await
            {
                gone.push(Change::ForgetCrossing(crossing.job));
                forgotten += 1;
            }
        }
        records.change(gone).await?;
    }
}

/// Whether the source of a move certainly asks for nothing of it any more.
async fn has_ended_there<G: Guests>(guests: &G, from: &WorkerName, job: JobId) -> bool {
    match guests.asked(from, job).await {
        Ok(state) => state.is_final(),
        Err(error) => error.code == ErrorCode::NotFound,
    }
}

async fn is_needed<T: Targets>(
    records: &Records,
    targets: &T,
    job: &JobRecord,
    standing: Option<&Standing<MoveStep>>,
) -> Result<bool, RecordsError> {
    let (machine, to) = match &job.kind {
        JobKind::Move { machine, to, .. } => (machine, to),
        // A parent goes after its children.
        JobKind::Drain { .. } | JobKind::Rebalance { .. } => {
            return Ok(!records.children(job.id).await?.is_empty());
        }
        JobKind::Moves { moves, .. } => return any_is_there(records, moves).await,
    };
    // A journal that nobody understands may speak of anything.
    let Some(standing) = standing else { return Ok(true) };
    if let Some(parent) = standing.terms.parent.as_ref().and_then(|id| id.parse().ok())
        && records.job(parent).await?.is_some_and(|parent: JobRecord| !parent.finished)
    {
        return Ok(true);
    }
    let machine = records.machine(*machine).await?;
    let mut volumes = Vec::new();
    for key in copies(standing) {
        volumes.extend(records.volume(key).await?);
    }
    if is_needed_here(job.id, standing, machine.as_ref(), &volumes) {
        return Ok(true);
    }
    Ok(may_be_expected_there(standing) && !targets.is_free_of(to, job.id).await)
}

async fn any_is_there(records: &Records, jobs: &[(JobId, MachineName)]) -> Result<bool, RecordsError> {
    for (job, _) in jobs {
        if records.job(*job).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
