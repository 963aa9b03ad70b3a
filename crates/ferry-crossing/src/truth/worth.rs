//! What each copy of a volume is worth beside the real one.

use super::owner;
use ferry_api::{
    CopyTold, CopyWorth, Generation, Ownership, Subject, Testimony, Verdict, VolumeId, VolumePhase,
    WorkerName, Worth,
};

/// All copies of a volume, the highest generation first.
pub(super) fn copies(subject: Subject, verdict: &Verdict, told: &[Testimony]) -> Vec<CopyWorth> {
    let Subject::Volume(id) = subject else { return Vec::new() };
    let of = |testimony: &Testimony| {
        let here: Vec<&CopyTold> = testimony.copies.iter().filter(|copy| copy.key.id == id).collect();
        let worker = testimony.worker.clone();
        let worth = here.into_iter().map(|copy| CopyWorth {
            worker: worker.clone(),
            copy: copy.clone(),
            worth: worth(&worker, copy, verdict, told),
        });
        worth.collect::<Vec<_>>()
    };
    let mut copies: Vec<CopyWorth> = told.iter().flat_map(of).collect();
    copies.sort_by_key(|found| (std::cmp::Reverse(found.copy.key.generation), found.worth != Worth::Real));
    copies
}

fn worth(worker: &WorkerName, copy: &CopyTold, verdict: &Verdict, told: &[Testimony]) -> Worth {
    if owner(verdict) == Some((worker, copy.key.generation)) {
        return match verdict {
            Verdict::Known { .. } => Worth::Real,
            Verdict::Likely { .. } | Verdict::Disputed { .. } | Verdict::Nobody => Worth::PerhapsReal,
        };
    }
    let is_contested = match verdict {
        Verdict::Disputed { generation, owners } => {
            *generation == copy.key.generation && owners.contains(worker)
        }
        Verdict::Known { .. } | Verdict::Likely { .. } | Verdict::Nobody => false,
    };
    if is_contested {
        return Worth::PerhapsReal;
    }
    let Some(ownership) = &copy.ownership else { return Worth::Unrecorded };
    if copy.made && copy.on_disk.is_none() {
        return Worth::Missing;
    }
    let before_last = owner(verdict).is_some_and(|(_, generation)| copy.key.generation.next() < generation);
    match ownership {
        Ownership::Reserved { .. } => Worth::Reserved,
        Ownership::Prepared { .. } if was_written(copy) => Worth::Overtaken,
        Ownership::Prepared { .. } => Worth::Clone,
        Ownership::Ours | Ownership::Sealed { .. } => Worth::Overtaken,
        // It may still be read: the clone that is before the real one is whole only when it is retired.
        Ownership::HandedOver { .. } => Worth::Source { bytes_needed: needed(copy, told) },
        Ownership::Retired { .. } if before_last => Worth::Older,
        Ownership::Retired { until_ms, .. } => Worth::Base { until_ms: *until_ms },
    }
}

fn was_written(copy: &CopyTold) -> bool {
    matches!(copy.on_disk.and_then(|on_disk| on_disk.phase), Some(VolumePhase::Open | VolumePhase::Sealed))
}

/// What the copy after this one still has from nowhere else.
fn needed(copy: &CopyTold, told: &[Testimony]) -> Option<u64> {
    let next = next_of(copy.key.id, copy.key.generation, told)?;
    match (&next.ownership, next.on_disk) {
        (Some(Ownership::Retired { .. }), _) => Some(0),
        (_, Some(on_disk)) if on_disk.phase.is_some() => Some(on_disk.bytes_remote),
        (_, _) => None,
    }
}

fn next_of(id: VolumeId, generation: Generation, told: &[Testimony]) -> Option<&CopyTold> {
    let copies = || told.iter().flat_map(|testimony| &testimony.copies);
    copies().find(|copy| copy.key.id == id && copy.key.generation == generation.next())
}

/// The name that a record of the highest generation has.
pub(super) fn name(subject: Subject, told: &[Testimony]) -> Option<String> {
    let named: Vec<(Generation, String)> = match subject {
        Subject::Machine(id) => {
            let machines =
                told.iter().flat_map(|testimony| &testimony.machines).filter(|machine| machine.id == id);
            machines.map(|machine| (machine.generation, machine.name.to_string())).collect()
        }
        Subject::Volume(id) => {
            let copies = told.iter().flat_map(|testimony| &testimony.copies).filter(|copy| copy.key.id == id);
            copies.filter_map(|copy| Some((copy.key.generation, copy.name.as_ref()?.to_string()))).collect()
        }
    };
    named.into_iter().max().map(|(_, name)| name)
}
