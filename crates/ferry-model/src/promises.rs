//! What must hold in every world that can be reached: the invariants behind DESIGN's promises (docs/guarantees.md).

use crate::host::Host;
use crate::names;
use crate::scope::{Bug, Scope};
use crate::world::World;
use ferry_api::{Generation, Ownership, VolumeId, VolumeKey, VolumePhase};
use ferry_crossing::{Standing, Subject};

/// The first promise that is broken in a world.
pub(crate) fn broken(scope: &Scope, world: &World, hosts: &[&Host]) -> Option<String> {
    let running: usize = hosts.iter().map(|host| host.processes.len()).sum();
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
    (0..scope.volumes).find_map(|v| lost(world, hosts, v))
}

/// What is lost of a volume, if the real copy cannot be told or does not hold what the machine was told is durable.
fn lost(world: &World, hosts: &[&Host], v: usize) -> Option<String> {
    let (at, key) = match truth(hosts, names::volume(v)) {
        Ok(found) => found,
        Err(why) => {
            return Some(format!("nobody can tell which copy of volume {} is the real one: {why}", v + 1));
        }
    };
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

/// Which copy is the real one, by what lies on the workers' disks alone: of all that their records, and what they remember
/// of hand-overs, say of who owns the volume at which generation, the highest generation.
pub(crate) fn truth(hosts: &[&Host], volume: VolumeId) -> Result<(usize, VolumeKey), String> {
    let mut claims: Vec<(Generation, usize)> = Vec::new();
    for host in hosts {
        let fence = host.fences.get(&Subject::Volume(volume));
        claims.extend(fence.map(|fence| (fence.generation.next(), names::index_of(&fence.to))));
        for record in host.books.volumes.values().filter(|record| record.id == volume) {
            match &record.ownership {
                Ownership::Ours | Ownership::Sealed { .. } if !host.is_handed_over(record.key()) => {
                    claims.push((record.generation, host.index));
                }
                Ownership::HandedOver { to, .. } | Ownership::Retired { to, .. } => {
                    claims.push((record.generation.next(), names::index_of(to)));
                }
                Ownership::Ours
                | Ownership::Sealed { .. }
                | Ownership::Reserved { .. }
                | Ownership::Prepared { .. } => {}
            }
        }
        for machine in host.books.machines.values() {
            if let Standing::HandedOver { to, .. } = &machine.standing {
                let of = machine.volumes.iter().filter(|disk| disk.volume == volume);
                claims.extend(of.map(|disk| (disk.generation.next(), names::index_of(to))));
            }
        }
    }
    let Some(&(generation, at)) = claims.iter().max() else { return Err("no worker claims it".to_owned()) };
    let mut others = claims.iter().filter(|(g, other)| *g == generation && *other != at);
    match others.next() {
        None => Ok((at, VolumeKey { id: volume, generation })),
        Some((_, other)) => Err(format!(
            "{} and {} both do at generation {generation}",
            names::worker(*other),
            names::worker(at)
        )),
    }
}

/// What the real copy holds. One that was handed over and not yet activated holds what the sealed one does.
fn read_truth(hosts: &[&Host], at: usize, key: VolumeKey) -> Option<u8> {
    let arrived = hosts[at].copies.get(&key).filter(|copy| copy.phase != VolumePhase::Standby);
    if arrived.is_some() {
        return read(hosts, at, key);
    }
    let before = VolumeKey { id: key.id, generation: Generation(key.generation.0 - 1) };
    let keeps = hosts.iter().find(|host| host.copies.contains_key(&before))?;
    read(hosts, keeps.index, before)
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
pub(crate) fn is_over(scope: &Scope, world: &World, hosts: &[&Host]) -> bool {
    let left = |host: &&&Host| host.books.crossings.values().any(ferry_crossing::target::is_expected);
    if hosts.iter().any(|host| !host.tasks.is_empty()) || hosts.iter().find(left).is_some() {
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
    let true_home = |v| truth(hosts, names::volume(v)).is_ok_and(|(at, _)| homes == [at]);
    let runs_as_wanted = if world.is_stopped { runs.is_empty() } else { runs == homes };
    homes.len() == 1 && runs_as_wanted && (0..scope.volumes).all(true_home)
}
