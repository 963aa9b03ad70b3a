//! The step `Verify` of a move: what arrived is held against what was sealed, and the receipt is written.
//!
//! Both volume servers tell a root checksum, over the same regions in the same order. If they differ, halves of the
//! volume are compared until the first region that differs is found, and a person is asked; nothing is retired.

use std::future::Future;
use std::ops::Range;

use ferry_api::{ApiError, AskRoot, CopyRoot, Root, VolumeKey};
use ferry_crossing::moving::later;
use ferry_crossing::reckoning::{progress, receipt, target_key};
use ferry_crossing::{MoveInput, Plan, PlannedVolume, Proof, Receipt};
use ferry_fsm::StepError;

use super::Clock;
use super::mover::{Context, LOOK_MS, Mover};
use super::world::{Home, Target};

type Answer<T> = Result<T, ApiError>;

impl<H: Home, C: Clock> Mover<H, C> {
    pub(super) async fn verify(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
    ) -> Result<Receipt, StepError> {
        let target = self.home.target(&input.to).map_err(later)?;
        let crossing = target.crossing(context.job).await.map_err(later)?;
        context.show(progress(plan, &crossing));
        let mut volumes = Vec::new();
        for planned in &plan.volumes {
            let sealed = self.home.volume(planned.key()).await.map_err(later)?;
            let mut volume = receipt(planned, &sealed, &crossing)?;
            match volume.counted.map(|counted| counted.bytes_abandoned) {
                // It has moved on, or is gone: nobody asks it any more.
                None => {}
                Some(0) => volume.proof = Some(self.prove(&*target, planned).await?),
                Some(bytes) => {
                    tracing::warn!(volume = %volume.key, bytes, "a source was given up: the receipt vouches for nothing");
                }
            }
            volumes.push(volume);
        }
        Ok(Receipt { volumes })
    }

    /// Compares the roots of both sides.
    async fn prove(&self, target: &H::Target, planned: &PlannedVolume) -> Result<Proof, StepError> {
        let of = AskRoot { of_generation: planned.generation.0, first_region: 0, regions: None };
        let ask_source = |of| self.home.root(planned.key(), of);
        let ask_target = |of| target.root(target_key(planned), of);
        let there = self.known(|| ask_target(of)).await?;
        let here = self.known(|| ask_source(of)).await?;
        if let (Root::Known { root: sealed }, Root::Known { root: arrived }) = (&here.root, &there.root)
            && sealed != arrived
        {
            let region = self.first_difference(here.regions, of, &ask_source, &ask_target).await?;
            return Err(StepError::fatal(difference(planned, &here, region)));
        }
        let known = |root: &Root| match root {
            Root::Known { root } => Some(root.clone()),
            Root::Summing | Root::Unknown { .. } => None,
        };
        let unknown = |side: &str, root: &Root| match root {
            Root::Unknown { reason } => Some(format!("the root of the {side} is not known: {reason}")),
            Root::Known { .. } | Root::Summing => None,
        };
        Ok(Proof {
            root_on_source: known(&here.root),
            root_on_target: known(&there.root),
            unproven: unknown("source", &here.root).or_else(|| unknown("target", &there.root)),
            bytes_arrived: there.bytes_arrived,
            bytes_zero: there.bytes_zero,
            bytes_told: there.bytes_told,
            is_gappy: there.is_gappy,
        })
    }

    /// Asks until it is known what the root is, or that it cannot be known.
    async fn known<F: Future<Output = Answer<CopyRoot>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<CopyRoot, StepError> {
        let mut pause_ms = *LOOK_MS.start();
        loop {
            let found = ask().await.map_err(later)?;
            if found.root != Root::Summing {
                return Ok(found);
            }
            self.clock.sleep_until(self.clock.now_ms().saturating_add(pause_ms)).await;
            pause_ms = pause_ms.saturating_mul(2).min(*LOOK_MS.end());
        }
    }

    /// The first region that differs, by halves: each question costs both sides as much as the regions it is about.
    async fn first_difference<A, B>(
        &self,
        regions: u64,
        of: AskRoot,
        ask_source: &impl Fn(AskRoot) -> A,
        ask_target: &impl Fn(AskRoot) -> B,
    ) -> Result<u64, StepError>
    where
        A: Future<Output = Answer<CopyRoot>>,
        B: Future<Output = Answer<CopyRoot>>,
    {
        let mut suspects: Range<u64> = 0..regions;
        while suspects.end - suspects.start > 1 {
            let middle = suspects.start + (suspects.end - suspects.start) / 2;
            let part = AskRoot { first_region: suspects.start, regions: Some(middle - suspects.start), ..of };
            let (there, here) =
                (self.known(|| ask_target(part)).await?, self.known(|| ask_source(part)).await?);
            suspects = if here.root == there.root { middle..suspects.end } else { suspects.start..middle };
        }
        Ok(suspects.start)
    }
}

fn difference(planned: &PlannedVolume, here: &CopyRoot, region: u64) -> String {
    let start = region.saturating_mul(here.region_bytes);
    let end = start.saturating_add(here.region_bytes).min(planned.size_bytes);
    let key: VolumeKey = planned.key();
    format!(
        "what arrived of volume {} is not what the sealed copy {key} holds: bytes {start}..{end} differ (the first such \
         region); nothing is retired, so look at both copies (`ferry volume verify`), and resume the job to go on with \
         what the target has, once they agree",
        planned.name
    )
}
