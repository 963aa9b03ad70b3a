//! What a volume server is to do, and what may be done with a copy, decided from the records and from what lies on the
//! disk beside them: the phase of the copy, and the fence of its volume ([`crate::Fence`]).
//!
//! Invariant: a copy is opened for writing only if it is ours and no fence bars it.

use ferry_api::{Ownership, VolumePhase as Phase};

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

/// What the server of a copy is to do.
#[must_use]
pub fn wanted(ownership: &Ownership) -> Service {
    match ownership {
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

/// Whether the records allow what is asked for a copy.
#[must_use]
pub fn may(ownership: &Ownership, wish: Wish) -> bool {
    use Ownership::{HandedOver, Ours, Prepared, Reserved, Retired, Sealed};
    match (wish, ownership) {
        (Wish::Export, Ours | Sealed { .. } | HandedOver { .. })
        | (Wish::Seal, Sealed { .. } | HandedOver { .. })
        | (Wish::Unseal, Ours)
        | (Wish::Retire, HandedOver { .. } | Retired { .. }) => true,
        (Wish::Export, Reserved { .. } | Prepared { .. } | Retired { .. })
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

/// Whether a copy may be deleted whose map says that it was last in `phase` (none: it was never made), and which the
/// fence of its volume bars or does not.
#[must_use]
pub fn deletion(ownership: &Ownership, phase: Option<Phase>, barred: bool) -> Deletion {
    match (ownership, phase) {
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

/// Whether a copy that the fence of its volume bars may be served as its ownership says: only to be read.
#[must_use]
pub fn is_served_when_barred(ownership: &Ownership) -> bool {
    match wanted(ownership) {
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
                    let correction = correction(wanted(&ownership), phase, exported);
                    assert!(
                        !matches!(correction, Correction::Open | Correction::Unseal),
                        "{ownership:?} {phase:?}"
                    );
                }
            }
        }
        assert_eq!(correction(wanted(&Ownership::Ours), Phase::Standby, false), Correction::Open);
    }

    #[test]
    fn what_may_hold_the_only_writes_of_a_machine_is_never_deleted_at_the_word_of_the_records_alone() {
        let (job, from) = (JobId::fresh(), "w1".parse::<ferry_api::WorkerName>().unwrap());
        let prepared = Ownership::Prepared { job, from };
        assert_eq!(deletion(&prepared, None, false), Deletion::Fits);
        assert_eq!(deletion(&prepared, Some(Phase::Standby), false), Deletion::Fits);
        for phase in [Phase::Open, Phase::Sealed] {
            assert!(matches!(deletion(&prepared, Some(phase), false), Deletion::Astray(_)));
        }
        assert!(matches!(deletion(&Ownership::Ours, Some(Phase::Sealed), true), Deletion::Astray(_)));
        assert_eq!(deletion(&Ownership::Ours, Some(Phase::Open), false), Deletion::Fits);
        assert_eq!(deletion(&Ownership::Sealed { job }, None, false), Deletion::Refused);
    }

    #[test]
    fn a_handed_over_copy_is_sealed_and_exported_again_after_a_crash() {
        let handed_over = Ownership::HandedOver { to: "w2".parse().unwrap(), job: JobId::fresh() };
        assert_eq!(correction(wanted(&handed_over), Phase::Sealed, false), Correction::Export);
        assert_eq!(correction(wanted(&handed_over), Phase::Open, true), Correction::Seal);
    }
}
