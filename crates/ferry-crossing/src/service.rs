//! What a volume server is to do, and what may be done with a copy, decided from the records and from what lies on the
//! disk beside them: the phase of the copy, and the fence of its volume ([`crate::Fence`]).
//!
//! Invariant: a copy is opened for writing only if it is ours and no fence bars it.

use crate::records::{BaseRecord, VolumeRecord};
use ferry_api::{Ownership, VolumeKey, VolumePhase as Phase};

/// What a copy's server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Nothing; none is to run.
    None,
    /// Stand by.
    Standby,
    /// Serve the guest.
    Open,
    /// A job seals it: as it is, and read by the target once sealed.
    Sealing,
    /// Be read by the target.
    Sealed,
}

/// What is to be done so that a running server does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// It does it.
    Nothing,
    /// Open it for its guest.
    Open,
    /// Take the seal back.
    Unseal,
    /// Seal it.
    Seal,
    /// Export it.
    Export,
    /// It is what it never should be, described by what the records say.
    Astray(&'static str),
}

/// Whether another copy here reads this one beside its source. `copies` are those of the same volume here.
#[must_use]
pub fn is_base(copy: VolumeKey, copies: &[VolumeRecord]) -> bool {
    let reads = |base: &BaseRecord| base.worker.is_none() && base.generation == copy.generation;
    copies.iter().any(|other| other.id == copy.id && other.base.as_ref().is_some_and(reads))
}

/// What the server of a copy is to do, which may be the base of another copy here.
#[must_use]
pub fn wanted(ownership: &Ownership, is_base: bool) -> Service {
    match ownership {
        Ownership::Retired { .. } if is_base => Service::Sealed,
        Ownership::Reserved { .. } | Ownership::Retired { .. } => Service::None,
        Ownership::Prepared { .. } => Service::Standby,
        Ownership::Ours => Service::Open,
        Ownership::Sealed { .. } => Service::Sealing,
        Ownership::HandedOver { .. } => Service::Sealed,
    }
}

/// What is to be done with a server in `phase`.
#[must_use]
pub fn correction(service: Service, phase: Phase, exported: bool) -> Correction {
    match (service, phase) {
        (Service::None, _) | (Service::Standby, Phase::Standby) | (Service::Open, Phase::Open) => {
            Correction::Nothing
        }
        (Service::Open, Phase::Standby) => Correction::Open,
        // The records say that it is ours again.
        (Service::Open, Phase::Sealed) => Correction::Unseal,
        // The job will seal it, or take it back.
        (Service::Sealing, Phase::Open) => Correction::Nothing,
        (Service::Sealed, Phase::Open) => Correction::Seal,
        (Service::Sealing | Service::Sealed, Phase::Sealed) if exported => Correction::Nothing,
        (Service::Sealing | Service::Sealed, Phase::Sealed) => Correction::Export,
        (Service::Standby, Phase::Open | Phase::Sealed) => Correction::Astray("prepared for a move"),
        (Service::Sealing | Service::Sealed, Phase::Standby) => Correction::Astray("sealed by a move"),
    }
}

/// What may be asked for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That other workers may read it once it is sealed.
    Export,
    /// That it becomes unchangeable.
    Seal,
    /// That its guest may write it again.
    Unseal,
    /// That nobody serves it any more.
    Retire,
}

/// Whether the records allow what is asked for a copy, which may be the base of another copy here.
#[must_use]
pub fn may(ownership: &Ownership, is_base: bool, wish: Wish) -> bool {
    use Ownership::{HandedOver, Ours, Prepared, Reserved, Retired, Sealed};
    match (wish, ownership) {
        (Wish::Export, Retired { .. }) => is_base,
        (Wish::Export, Ours | Sealed { .. } | HandedOver { .. })
        | (Wish::Seal, Sealed { .. } | HandedOver { .. })
        | (Wish::Unseal, Ours)
        | (Wish::Retire, HandedOver { .. } | Retired { .. }) => true,
        (Wish::Export, Reserved { .. } | Prepared { .. })
        | (Wish::Seal, Ours | Reserved { .. } | Prepared { .. } | Retired { .. })
        | (
            Wish::Unseal,
            Reserved { .. } | Prepared { .. } | Sealed { .. } | HandedOver { .. } | Retired { .. },
        )
        | (Wish::Retire, Ours | Sealed { .. } | Reserved { .. } | Prepared { .. }) => false,
    }
}

/// Whether a copy may be deleted with everything in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Nobody needs it.
    Fits,
    /// The records say that somebody does.
    Refused,
    /// The records say that nobody does, and what lies beside the copy says otherwise: they are from a backup, or somebody
    /// moved directories. Only a person can judge.
    Astray(&'static str),
}

/// Whether a copy may be deleted whose map says that it was last in `phase` (none: it was never made), which the fence of
/// its volume bars or does not, and which is or is not the base of another copy here.
#[must_use]
pub fn deletion(ownership: &Ownership, phase: Option<Phase>, barred: bool, is_base: bool) -> Deletion {
    match (ownership, phase) {
        (Ownership::Retired { .. }, _) if is_base => Deletion::Refused,
        (Ownership::Sealed { .. } | Ownership::HandedOver { .. }, _) => Deletion::Refused,
        (Ownership::Ours, Some(_)) if barred => {
            Deletion::Astray("it was handed over, and its owner may still read it")
        }
        // What was set aside for a move was never open; what was holds the writes of a machine.
        (Ownership::Reserved { .. } | Ownership::Prepared { .. }, Some(Phase::Open | Phase::Sealed)) => {
            Deletion::Astray("a machine has written it")
        }
        (Ownership::Reserved { .. } | Ownership::Prepared { .. }, Some(Phase::Standby) | None)
        | (Ownership::Ours | Ownership::Retired { .. }, _) => Deletion::Fits,
    }
}

/// How long a copy that was retired is kept, in milliseconds since 1970; none as long as another copy here reads it. One
/// that a later copy here has made useless goes at once: the way back needs the latest generation that left here, and a
/// volume that is here again, and `is_whole`, does not come back.
#[must_use]
pub fn kept_until(
    copy: VolumeKey,
    until_ms: u64,
    copies: &[VolumeRecord],
    is_whole: impl Fn(VolumeKey) -> bool,
) -> Option<u64> {
    let supersedes = |other: &VolumeRecord| match other.ownership {
        Ownership::Retired { .. } => true,
        Ownership::Ours | Ownership::Sealed { .. } | Ownership::HandedOver { .. } => {
            other.source.is_none() && is_whole(other.key())
        }
        Ownership::Reserved { .. } | Ownership::Prepared { .. } => false,
    };
    let mut later = copies.iter().filter(|c| c.id == copy.id && c.generation > copy.generation);
    match is_base(copy, copies) {
        true => None,
        false if later.any(supersedes) => Some(0),
        false => Some(until_ms),
    }
}

/// Whether a copy that the fence of its volume bars may be served as its server is to do: only to be read.
#[must_use]
pub fn is_served_when_barred(service: Service) -> bool {
    match service {
        Service::Sealed => true,
        Service::None | Service::Standby | Service::Open | Service::Sealing => false,
    }
}

/// An ownership for people.
#[must_use]
pub fn in_words(ownership: &Ownership) -> String {
    match ownership {
        Ownership::Reserved { job, from } => format!("reserved for job {job} from worker {from}"),
        Ownership::Prepared { job, from } => format!("prepared for job {job} from worker {from}"),
        Ownership::Ours => "in use here".to_owned(),
        Ownership::Sealed { job } => format!("sealed by job {job}"),
        Ownership::HandedOver { to, job } => format!("handed over to worker {to} by job {job}"),
        Ownership::Retired { to, .. } => format!("retired, its owner is worker {to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::JobId;

    #[test]
    fn only_a_copy_that_is_ours_is_ever_opened() {
        let (job, to) = (JobId::fresh(), "w2".parse::<ferry_api::WorkerName>().unwrap());
        let others = [
            Ownership::Reserved { job, from: to.clone() },
            Ownership::Prepared { job, from: to.clone() },
            Ownership::Sealed { job },
            Ownership::HandedOver { to: to.clone(), job },
            Ownership::Retired { to, until_ms: 0 },
        ];
        for ownership in others {
            for phase in [Phase::Standby, Phase::Open, Phase::Sealed] {
                for exported in [false, true] {
                    let correction = correction(wanted(&ownership, true), phase, exported);
                    assert!(
                        !matches!(correction, Correction::Open | Correction::Unseal),
                        "{ownership:?} {phase:?}"
                    );
                }
            }
        }
        assert_eq!(correction(wanted(&Ownership::Ours, false), Phase::Standby, false), Correction::Open);
    }

    #[test]
    fn what_may_hold_the_only_writes_of_a_machine_is_never_deleted_at_the_word_of_the_records_alone() {
        let (job, from) = (JobId::fresh(), "w1".parse::<ferry_api::WorkerName>().unwrap());
        let prepared = Ownership::Prepared { job, from };
        assert_eq!(deletion(&prepared, None, false, false), Deletion::Fits);
        assert_eq!(deletion(&prepared, Some(Phase::Standby), false, false), Deletion::Fits);
        for phase in [Phase::Open, Phase::Sealed] {
            assert!(matches!(deletion(&prepared, Some(phase), false, false), Deletion::Astray(_)));
        }
        assert!(matches!(deletion(&Ownership::Ours, Some(Phase::Sealed), true, false), Deletion::Astray(_)));
        assert_eq!(deletion(&Ownership::Ours, Some(Phase::Open), false, false), Deletion::Fits);
        assert_eq!(deletion(&Ownership::Sealed { job }, None, false, false), Deletion::Refused);
    }

    #[test]
    fn a_handed_over_copy_is_sealed_and_exported_again_after_a_crash() {
        let handed_over = Ownership::HandedOver { to: "w2".parse().unwrap(), job: JobId::fresh() };
        assert_eq!(correction(wanted(&handed_over, false), Phase::Sealed, false), Correction::Export);
        assert_eq!(correction(wanted(&handed_over, false), Phase::Open, true), Correction::Seal);
    }
}
