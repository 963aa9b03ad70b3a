//! Proof: the roots of checksums of a copy, and checks of what it holds.

use super::{Volumes, VolumesError};
use crate::config::volume_dir;
use ferry_api::{AskRoot, CheckState, CopyRoot, Mismatch, Root, Span, VolumeCheck, VolumeKey};
use ferry_crossing::service::Service;
use ferry_volume::control::{self, ControlError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Checks of copies that nobody serves, by copy: the one under way or the last one.
#[derive(Default)]
pub(super) struct AtRest(Mutex<BTreeMap<VolumeKey, Arc<Mutex<control::Check>>>>);

impl AtRest {
    fn find(&self, key: VolumeKey) -> Option<control::Check> {
        let checks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checks.get(&key).map(|check| check.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn begin(&self, key: VolumeKey) -> Arc<Mutex<control::Check>> {
        let check = Arc::new(Mutex::new(control::Check::default()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&check));
        check
    }
}

impl Volumes {
    /// What a copy knows of the volume as it was sealed.
    ///
    /// # Errors
    /// Its server does not run.
    pub async fn root(&self, key: VolumeKey, of: AskRoot) -> Result<CopyRoot, VolumesError> {
        let AskRoot { of_generation, first_region, regions } = of;
        let asked =
            self.inner.ask(key, move |client| client.receipt(of_generation, first_region, regions)).await;
        match asked {
            Ok(receipt) => Ok(copy_root(receipt)),
            // An older server does not know the question.
            Err(VolumesError::Control(ControlError::Refused { reason })) => {
                Ok(CopyRoot { root: Root::Unknown { reason }, ..CopyRoot::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Checks what a copy holds on its disk, or tells how that stands.
    ///
    /// # Errors
    /// There is nothing to hold it against, or its server does not run.
    pub async fn verify(&self, key: VolumeKey, anew: bool) -> Result<VolumeCheck, VolumesError> {
        let record = self.inner.record(key).await?;
        if self.inner.service(&record).await? != Service::None {
            let check = self.inner.ask(key, move |client| client.verify(anew)).await?;
            return Ok(volume_check(check));
        }
        let known = self.inner.at_rest.find(key);
        let is_running = known.as_ref().is_some_and(|check| check.state == control::CheckState::Running);
        if anew && !is_running {
            self.check_at_rest(key);
        }
        match self.inner.at_rest.find(key) {
            Some(check) => Ok(volume_check(check)),
            None => Err(super::not_allowed(&record, "told of: nobody has asked for a check of it")),
        }
    }

    fn check_at_rest(&self, key: VolumeKey) {
        let dir = volume_dir(&self.inner.state_dir, key);
        let shown = self.inner.at_rest.begin(key);
        let show = move |check: &control::Check| {
            *shown.lock().unwrap_or_else(PoisonError::into_inner) = check.clone();
        };
        // It goes on when nobody asks any more; it ends with the agent.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = ferry_volume::check_at_rest(&dir, &show) {
                let reason = ferry_api::ApiError::because(ferry_api::ErrorCode::Internal, &error).message;
                show(&control::Check {
                    state: control::CheckState::Failed { reason },
                    ..control::Check::default()
                });
            }
        });
    }
}

fn copy_root(receipt: control::Receipt) -> CopyRoot {
    CopyRoot {
        root: match receipt.root {
            control::RootState::Summing => Root::Summing,
            control::RootState::Known { root } => Root::Known { root },
            control::RootState::Unknown { reason } => Root::Unknown { reason },
        },
        regions: receipt.regions,
        region_bytes: receipt.region_bytes,
        bytes_arrived: receipt.bytes_arrived,
        bytes_zero: receipt.bytes_zero,
        bytes_told: receipt.bytes_told,
        is_gappy: receipt.is_gappy,
    }
}

fn volume_check(check: control::Check) -> VolumeCheck {
    let spans = |all: Vec<control::Span>| all.into_iter().map(span).collect();
    VolumeCheck {
        state: match check.state {
            control::CheckState::Running => CheckState::Running,
            control::CheckState::Done => CheckState::Done,
            control::CheckState::Failed { reason } => CheckState::Failed { reason },
        },
        regions: check.regions,
        regions_equal: check.regions_equal,
        regions_changed: check.regions_changed,
        regions_unknown: check.regions_unknown,
        regions_differing: check.regions_differing,
        regions_doubtful: check.regions_doubtful,
        differing: spans(check.differing),
        doubtful: spans(check.doubtful),
        bytes_read: check.bytes_read,
        root: check.root,
    }
}

/// What the source gives wrong, as the server counted it.
pub(super) fn mismatches(counted: &[control::Mismatch]) -> Vec<Mismatch> {
    let shown =
        |m: &control::Mismatch| Mismatch { span: span(m.span), times: m.times, same_bytes: m.same_bytes };
    counted.iter().map(shown).collect()
}

fn span(span: control::Span) -> Span {
    Span { offset: span.offset, len_bytes: span.len_bytes }
}
