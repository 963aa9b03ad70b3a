//! What a person asks about: from a name to the machine or volume that it means, and to all that belongs to it.

use ferry_api::{ApiError, AskTestimony, ErrorCode, MachineId, Subject, Testimony, TruthRef, VolumeId};
use std::collections::BTreeSet;

/// What a reference means by what was told: a machine and its disks, or a volume.
///
/// # Errors
/// It means nothing that is known, or more than one thing.
pub fn resolve(of: &TruthRef, told: &[Testimony]) -> Result<Vec<Subject>, ApiError> {
    let machines = || told.iter().flat_map(|testimony| &testimony.machines);
    let meant: BTreeSet<MachineId> = machines()
        .filter(|machine| of.is_machine(machine.id, &machine.name))
        .map(|machine| machine.id)
        .collect();
    let mut meant = meant.into_iter();
    match (meant.next(), meant.next()) {
        (Some(machine), None) => {
            let of_machine = machines().filter(|told| told.id == machine);
            let disks: BTreeSet<VolumeId> =
                of_machine.flat_map(|told| &told.volumes).map(|key| key.id).collect();
            let disks = disks.into_iter().map(Subject::Volume);
            Ok([Subject::Machine(machine)].into_iter().chain(disks).collect())
        }
        (Some(one), Some(other)) => Err(ambiguous(of, "machines", [one.to_string(), other.to_string()])),
        (None, _) => volume(of, told).map(|volume| vec![Subject::Volume(volume)]),
    }
}

fn volume(of: &TruthRef, told: &[Testimony]) -> Result<VolumeId, ApiError> {
    let copies = told.iter().flat_map(|testimony| &testimony.copies);
    // Of a copy without a record the directory still has the id.
    let meant = copies.filter(|copy| match &copy.name {
        Some(name) => of.is_volume(copy.key.id, name),
        None => *of.volume() == ferry_api::VolumeRef::Id(copy.key.id),
    });
    let mut meant: BTreeSet<VolumeId> = meant.map(|copy| copy.key.id).collect();
    // Of one that was deleted everywhere its marks still tell.
    if let ferry_api::VolumeRef::Id(id) = of.volume() {
        let claims = told.iter().flat_map(|testimony| &testimony.claims);
        meant.extend(claims.filter(|claim| claim.subject == Subject::Volume(*id)).map(|_| *id));
    }
    let mut meant = meant.into_iter();
    match (meant.next(), meant.next()) {
        (Some(volume), None) => Ok(volume),
        (Some(one), Some(other)) => Err(ambiguous(of, "volumes", [one.to_string(), other.to_string()])),
        (None, _) => {
            let message = format!(
                "no worker that was heard knows a machine or volume {of}; ask with its id, or ask a worker that had it"
            );
            Err(ApiError::new(ErrorCode::NotFound, message))
        }
    }
}

fn ambiguous(of: &TruthRef, what: &str, ids: [String; 2]) -> ApiError {
    let message = format!("several {what} are named {of}; say which by its id ({}, ...)", ids.join(", "));
    ApiError::new(ErrorCode::InvalidRequest, message)
}

/// What to ask the other workers about.
#[must_use]
pub fn to_ask(subjects: &[Subject]) -> AskTestimony {
    AskTestimony { named: None, subjects: subjects.to_vec() }
}
