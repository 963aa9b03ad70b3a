//! What must hold in every world that can be reached: the invariants behind DESIGN's promises (docs/guarantees.md).

use crate::host::{Host, SIZE_BYTES};
use crate::names;
use crate::scope::{Bug, Scope};
use crate::world::World;
use ferry_api::{
    Generation, OnDisk, Ownership, Testimony, Verdict, VolumeId, VolumeKey, VolumePhase, WorkerName,
};
use ferry_crossing::truth::{self, OnOneDisk};
use ferry_crossing::{Standing, Subject};

/// The first promise that is broken in a world.
pub(crate) fn broken(scope: &Scope, world: &World, hosts: &[&Host], told: &[&Testimony]) -> Option<String> {
    let running: usize =
        hosts.iter().flat_map(|host| &host.processes).filter(|process| process.runs()).count();
    if running > 1 {
        return Some(format!("the machine runs {running} times"));
    }
    if let Some(volume) = hosts.iter().find_map(|host| left_behind(host)) {
        return Some(format!("volume {} did not cross with its machine", names::short(volume)));
    }
    if let Some(key) = hosts.iter().filter(|_| !world.restored).find_map(|host| lost_base(host)) {
        return Some(format!("the copy of generation {} is gone while another one reads it", key.generation));
    }
    for v in 0..scope.volumes {
        let volume = names::volume(v);
        let open = |host: &&Host| {
            let copies = host.copies.iter();
            copies.filter(|(key, copy)| key.id == volume && copy.phase == VolumePhase::Open).count()
        };
        let writers: usize = hosts.iter().map(open).sum();
        if writers > 1 {
            return Some(format!("volume {} is open for writing {writers} times", v + 1));
        }
    }
    if world.is_doomed {
        // Its owner has given up what it wrote.
        return None;
    }
    if let Some(why) = untold(scope, world, told, Subject::Machine(names::machine())) {
        return Some(format!("nobody can tell which machine is the real one: {why}"));
    }
    (0..scope.volumes).find_map(|v| lost(scope, world, hosts, told, v))
}

/// What is lost of a volume, if the real copy cannot be told or does not hold what the machine was told is durable.
fn lost(scope: &Scope, world: &World, hosts: &[&Host], told: &[&Testimony], v: usize) -> Option<String> {
    let subject = Subject::Volume(names::volume(v));
    if let Some(why) = untold(scope, world, told, subject) {
        return Some(format!("nobody can tell which copy of volume {} is the real one: {why}", v + 1));
    }
    let Ok((at, generation, _)) = real(told, subject) else { unreachable!("that was told") };
    let key = VolumeKey { id: names::volume(v), generation };
    let holds = read_truth(hosts, at, key);
    if holds == Some(world.told[v]) {
        return None;
    }
    let holds = holds.map_or_else(|| "nothing that can be read".to_owned(), |n| format!("write {n}"));
    Some(format!(
        "volume {} should hold write {}, which the machine was told is durable, and holds {holds} ({key} on {})",
        v + 1,
        world.told[v],
        names::worker(at)
    ))
}

/// A volume that a worker still has though it has handed its machine over: they cross together or not at all.
fn left_behind(host: &Host) -> Option<VolumeId> {
    let machine = host.books.machines.get(&names::machine())?;
    if machine.standing == Standing::Ours {
        return None;
    }
    let mut here = machine.volume_keys().filter_map(|key| host.books.volumes.get(&key));
    let left = here.find(|record| matches!(record.ownership, Ownership::Ours | Ownership::Sealed { .. }));
    left.map(|record| record.id)
}

/// What a worker tells of what lies on its disk, as the product's agents do.
pub(crate) fn testimony(host: &Host) -> Testimony {
    let on_disk = |copy: &crate::host::Copy| {
        let bytes_remote = if copy.block.is_some() { 0 } else { SIZE_BYTES };
        OnDisk { phase: Some(copy.phase), bytes_total: SIZE_BYTES, bytes_remote }
    };
    let disk = OnOneDisk {
        machines: host.books.machines.values().collect(),
        volumes: host.books.volumes.values().collect(),
        crossings: host.books.crossings.values().collect(),
        fences: host.fences.clone(),
        directories: host.copies.iter().map(|(key, copy)| (*key, on_disk(copy))).collect(),
        ..OnOneDisk::default()
    };
    truth::testimony(&names::worker(host.index), &disk)
}

/// Which copy is the real one, by what lies on the workers' disks alone, with the verdict that people are given.
pub(crate) fn real(told: &[&Testimony], subject: Subject) -> Result<(usize, Generation, bool), String> {
    match truth::verdict(subject, told, &[]) {
        Verdict::Known { owner, generation, .. } => Ok((names::index_of(&owner), generation, true)),
        Verdict::Likely { owner, generation, .. } => Ok((names::index_of(&owner), generation, false)),
        Verdict::Nobody => Err("no worker claims it".to_owned()),
        Verdict::Disputed { generation, owners } => Err(format!(
            "{} do at generation {generation}",
            owners.iter().map(WorkerName::as_str).collect::<Vec<_>>().join(" and ")
        )),
    }
}

/// Why it cannot be told which is the real one: nobody or several are, or it is not sure though no records came from a
/// backup, or what is sure to those who hear one worker alone is something else.
fn untold(scope: &Scope, world: &World, told: &[&Testimony], subject: Subject) -> Option<String> {
    let (at, generation, is_sure) = match real(told, subject) {
        Ok(found) => found,
        Err(why) => return Some(why),
    };
    if !scope.is_asked {
        return None;
    }
    if !is_sure && !world.restored {
        return Some(format!("it is not sure that it is {}'s", names::worker(at)));
    }
    let wrong = |alone: &&Testimony| match truth::verdict(subject, &[*alone], &[]) {
        Verdict::Known { owner, generation: of, .. } => owner != names::worker(at) || of != generation,
        Verdict::Likely { .. } | Verdict::Disputed { .. } | Verdict::Nobody => false,
    };
    let misled = told.iter().copied().find(|alone| wrong(alone))?;
    Some(format!("those who hear {} alone are told something else for sure", misled.worker))
}

/// What the real copy holds. One that was handed over and not yet activated holds what the sealed one does.
fn read_truth(hosts: &[&Host], at: usize, key: VolumeKey) -> Option<u8> {
    let arrived = hosts[at].copies.get(&key);
    if arrived.is_some_and(|copy| copy.phase != VolumePhase::Standby) {
        return read(hosts, at, key);
    }
    let before = VolumeKey { id: key.id, generation: Generation(key.generation.0 - 1) };
    match hosts.iter().find(|host| host.copies.contains_key(&before)) {
        Some(keeps) => read(hosts, keeps.index, before),
        // Whole by what was copied ahead, it needs no source any more, also before its keeper has opened it.
        None => arrived?.block,
    }
}

/// What a copy holds, read through to its source where it is remote.
pub(crate) fn read(hosts: &[&Host], at: usize, key: VolumeKey) -> Option<u8> {
    let copy = hosts[at].copies.get(&key)?;
    if copy.block.is_some() || copy.phase == VolumePhase::Standby {
        return copy.block;
    }
    let source = VolumeKey { id: key.id, generation: Generation(key.generation.0.checked_sub(1)?) };
    let from = hosts
        .iter()
        .find(|host| host.copies.get(&source).is_some_and(|copy| copy.phase == VolumePhase::Sealed))?;
    read(hosts, from.index, source)
}

/// What the base of a copy gives of it, if the source says that it has not changed since. It says so only while it is there.
pub(crate) fn read_base(scope: &Scope, hosts: &[&Host], at: usize, key: VolumeKey) -> Option<u8> {
    let base = hosts[at].books.volumes.get(&key)?.base.as_ref()?;
    let source = VolumeKey { id: key.id, generation: Generation(key.generation.0.checked_sub(1)?) };
    let mut sources = hosts.iter().filter_map(|host| host.copies.get(&source));
    let source = sources.find(|copy| copy.phase == VolumePhase::Sealed)?;
    if source.changed && scope.bug != Some(Bug::IgnoresChanges) {
        return None;
    }
    let from = base.worker.as_ref().map_or(at, names::index_of);
    let base = VolumeKey { id: key.id, generation: base.generation };
    hosts[from].copies.get(&base).filter(|copy| copy.phase == VolumePhase::Sealed)?;
    read(hosts, from, base)
}

/// A copy that is gone though another one here reads it. Records from a backup may speak of what went since.
fn lost_base(host: &Host) -> Option<VolumeKey> {
    let based = host.books.volumes.values().filter(|record| record.made);
    let here = based.filter_map(|record| {
        let base = record.base.as_ref().filter(|base| base.worker.is_none())?;
        Some(VolumeKey { id: record.id, generation: base.generation })
    });
    here.into_iter().find(|key| !host.copies.contains_key(key))
}

/// Whether everything has come to its end: no job is under way, and the machine runs where the truth is, if its owner
/// wants it to run; of one that was destroyed nothing is left.
pub(crate) fn is_over(scope: &Scope, world: &World, hosts: &[&Host], told: &[&Testimony]) -> bool {
    let left = |host: &&&Host| host.books.crossings.values().any(ferry_crossing::target::is_expected);
    if hosts.iter().any(|host| !host.tasks.is_empty()) || hosts.iter().find(left).is_some() {
        return false;
    }
    if hosts.iter().flat_map(|host| &host.processes).any(|process| !process.runs()) {
        return false;
    }
    let runs: Vec<usize> =
        hosts.iter().filter(|host| !host.processes.is_empty()).map(|host| host.index).collect();
    let has = |host: &&&Host| {
        host.books.machines.get(&names::machine()).is_some_and(|here| here.standing == Standing::Ours)
    };
    let homes: Vec<usize> = hosts.iter().filter(has).map(|host| host.index).collect();
    if world.is_doomed {
        return runs.is_empty() && homes.is_empty();
    }
    let true_home = |v| real(told, Subject::Volume(names::volume(v))).is_ok_and(|(at, ..)| homes == [at]);
    let runs_as_wanted = if world.is_stopped { runs.is_empty() } else { runs == homes };
    homes.len() == 1 && runs_as_wanted && (0..scope.volumes).all(true_home)
}
