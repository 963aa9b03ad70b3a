//! What is kept for machines that are about to reserve: counted like a reservation, and gone by itself.

use ferry_api::{Hold, JobId, Resident};
use ferry_placement::resident;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// For how long something is kept.
const HELD_FOR: Duration = Duration::from_millis(Hold::FOR_MS);

/// All that is held on this worker.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<BTreeMap<JobId, Held>>);

#[derive(Clone, Debug)]
struct Held {
    resident: Resident,
    bytes: u64,
    until: Instant,
}

impl Holds {
    /// Keeps what a move will reserve, or keeps it longer.
    pub(crate) fn hold(&self, hold: &Hold, now: Instant) {
        let reserve = &hold.reserve;
        let held = Held {
            resident: resident(reserve.machine, &reserve.machine_name, &reserve.spec),
            bytes: reserve.volumes.iter().map(|volume| volume.bytes_in_use).fold(0, u64::saturating_add),
            until: now + HELD_FOR,
        };
        self.current(now).insert(reserve.job, held);
    }

    /// What is held for a move was reserved, or is not needed.
    pub(crate) fn let_go(&self, job: JobId) {
        self.locked().remove(&job);
    }

    /// What is held for all moves but one: the machines, and bytes of room.
    pub(crate) fn but(&self, job: Option<JobId>, now: Instant) -> (Vec<Resident>, u64) {
        let held = self.current(now);
        let others = held.iter().filter(|(of, _)| Some(**of) != job).map(|(_, held)| held);
        others.fold((Vec::new(), 0), |(mut machines, bytes), held| {
            machines.push(held.resident.clone());
            (machines, bytes.saturating_add(held.bytes))
        })
    }

    /// Those whose time is not over.
    fn current(&self, now: Instant) -> MutexGuard<'_, BTreeMap<JobId, Held>> {
        let mut held = self.locked();
        held.retain(|_, held| held.until > now);
        held
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<JobId, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{API_VERSION, Generation, MachineId, MachineSpec, Reserve};

    #[test]
    fn what_is_held_is_gone_after_a_minute() {
        let reserve = Reserve {
            job: JobId::fresh(),
            from: "w1".parse().unwrap(),
            api_version: API_VERSION,
            machine: MachineId::fresh(),
            machine_name: "web".parse().unwrap(),
            machine_generation: Generation(2),
            spec: MachineSpec::process("sleep", ["1"]),
            created_at_ms: 0,
            volumes: Vec::new(),
            undo_unhealthy: false,
        };
        let (holds, hold) = (Holds::default(), Hold { reserve, force: false });
        let now = Instant::now();
        holds.hold(&hold, now);
        assert_eq!(holds.but(None, now).0.len(), 1);
        assert_eq!(holds.but(Some(hold.reserve.job), now).0.len(), 0, "a move is not in its own way");
        assert_eq!(holds.but(None, now + HELD_FOR).0.len(), 0);
    }
}
