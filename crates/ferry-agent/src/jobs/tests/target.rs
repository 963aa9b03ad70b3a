//! The target of the world made of memory: it refuses what comes out of turn.

use ferry_api::{
    API_VERSION, Activate, ApiError, Arrival, AskRoot, CopyRoot, Crossing, CrossingState, Desired,
    DriverKind, ErrorCode, Expect, Generation, HookName, JobId, Precopied, Precopy, Prepare, Reserve, Room,
    Root, VolumeKey, WorkerInfo,
};

use super::world::{Beta, HomeVolume, LOOKS_UNTIL_WHOLE, SIZE_BYTES, State, error, facts, worker};
use crate::jobs::Target;

impl Target for Beta {
    async fn worker(&self, _driver: DriverKind) -> Result<WorkerInfo, ApiError> {
        self.0
            .call_target(|state| {
                Ok(WorkerInfo {
                    troubles: Vec::new(),
                    name: worker("beta"),
                    api_version: API_VERSION,
                    spec_version: ferry_api::SPEC_VERSION,
                    program_version: String::new(),
                    pid: 1,
                    started_at_ms: 1,
                    state_dir: "state".into(),
                    listen: String::new(),
                    room: Room {
                        limit_bytes: None,
                        used_bytes: 0,
                        handed_over_bytes: 0,
                        promised_bytes: 0,
                        free_bytes: state.room_bytes,
                    },
                    has: state.has,
                    region: None,
                    labels: ferry_api::Labels::new(),
                    cordon: None,
                    drivers: state.drivers.clone(),
                    direct_io: false,
                    budget_bytes_per_s: None,
                    pair_budgets_bytes_per_s: Default::default(),
                    machines: 0,
                    volumes: 0,
                    peers: Vec::new(),
                })
            })
            .await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                if state.crossing == Some(CrossingState::Released) {
                    return Err(error(ErrorCode::Conflict, "the move was undone"));
                }
                state.crossing.get_or_insert(CrossingState::Reserved);
                let keys = reserve
                    .volumes
                    .iter()
                    .map(|volume| VolumeKey { id: volume.id, generation: volume.generation });
                state.target_volumes = keys.collect();
                Ok(self.0.crossing(state, reserve.job))
            })
            .await
    }

    async fn prepare(&self, prepare: Prepare) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                assert!(state.home.values().all(|volume| volume.exported), "nothing to reach");
                assert!(state.crossing >= Some(CrossingState::Reserved), "prepared and not reserved");
                assert_eq!(prepare.volumes.len(), state.home.len());
                state.crossing = state.crossing.max(Some(CrossingState::Prepared));
                Ok(self.0.crossing(state, prepare.job))
            })
            .await
    }

    async fn precopy(&self, precopy: Precopy) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                assert_eq!(state.crossing, Some(CrossingState::Prepared), "copied into what is not prepared");
                for wish in &precopy.volumes {
                    let key = *state.target_volumes.iter().find(|key| key.id == wish.id).unwrap();
                    if state.adopted.contains_key(&key) && wish.mark.is_some() {
                        return Err(error(ErrorCode::Internal, "what was copied ahead is adopted already"));
                    }
                    let held = state.precopied.get(&key).and_then(|held| held.held_since);
                    if !state.adopted.contains_key(&key) && wish.since.is_some() && wish.since != held {
                        return Err(error(ErrorCode::Internal, "nothing is held as of that mark"));
                    }
                    let Some(mark) = wish.mark else {
                        assert!(
                            state.home.values().all(|home| home.sealed),
                            "what is right is known when it is sealed"
                        );
                        state.precopied.remove(&key);
                        let unseals = home_of(state, key).unseals;
                        state.adopted.entry(key).or_insert((SIZE_BYTES - 4096, unseals));
                        continue;
                    };
                    let bytes = if wish.since.is_some() { 4096 } else { SIZE_BYTES / 2 };
                    let held_since = (!state.forgets_what_was_copied).then_some(mark);
                    let held = Precopied {
                        held_since,
                        bytes_to_copy: bytes,
                        bytes_copied: bytes,
                        ..Precopied::default()
                    };
                    state.precopied.insert(key, held);
                }
                Ok(self.0.crossing(state, precopy.job))
            })
            .await
    }

    async fn activate(&self, activate: Activate) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                assert!(state.crossing >= Some(CrossingState::Prepared), "activated and not prepared");
                let is_news = state.crossing < Some(CrossingState::Activated);
                assert!(
                    !is_news || Some(activate.desired) == state.desired,
                    "another wish arrives: {state:?}"
                );
                assert!(activate.volumes.iter().all(|volume| volume.generation == Generation::FIRST.next()));
                for volume in activate.volumes.iter().filter(|_| is_news) {
                    let key = VolumeKey { id: volume.id, generation: volume.generation };
                    if !volume.holds {
                        state.adopted.remove(&key);
                    }
                    let kept = state.adopted.get(&key);
                    assert!(
                        kept.is_none_or(|kept| kept.1 == home_of(state, key).unseals),
                        "what the machine wrote since is lost: {state:?}"
                    );
                }
                state.crossing = state.crossing.max(Some(CrossingState::Activated));
                Ok(self.0.crossing(state, activate.job))
            })
            .await
    }

    async fn expect(&self, expect: Expect) -> Result<Crossing, ApiError> {
        assert_eq!(expect.facts, facts());
        self.0
            .call_target(|state| {
                assert_eq!(
                    state.crossing,
                    Some(CrossingState::Prepared),
                    "expected where it is not prepared"
                );
                (state.awaited, state.arrived) = (true, false);
                Ok(self.0.crossing(state, expect.job))
            })
            .await
    }

    async fn forsake(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                assert!(state.crossing >= Some(CrossingState::Activated), "forsaken too early");
                state.awaited &= state.arrived;
                Ok(self.0.crossing(state, job))
            })
            .await
    }

    async fn boot(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                if state.does_not_boot {
                    return Err(error(ErrorCode::Internal, "there is no program sleep"));
                }
                if state.awaited && !state.arrived {
                    return Err(error(ErrorCode::Unavailable, "its memory is still on its way"));
                }
                if state.is_vm && state.crossing < Some(CrossingState::Booted) {
                    state.reboots += u32::from(!state.arrived);
                    state.arrival = Some(if state.arrived { Arrival::Live } else { Arrival::Rebooted });
                }
                state.crossing = state.crossing.max(Some(CrossingState::Booted));
                state.target_runs = state.desired == Some(Desired::Running);
                Ok(self.0.crossing(state, job))
            })
            .await
    }

    async fn crossing(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                // Bytes arrive only while the source is there.
                state.looks += u32::from(state.home.values().all(|volume| volume.exported));
                let owes = state.target_runs && state.after_move.is_none();
                if owes && state.hooks.get(HookName::AfterMove).is_some() && state.looks > LOOKS_UNTIL_WHOLE {
                    state.after_move = Some(state.tell(HookName::AfterMove));
                }
                Ok(self.0.crossing(state, job))
            })
            .await
    }

    async fn root(&self, _copy: VolumeKey, of: AskRoot) -> Result<CopyRoot, ApiError> {
        let asked = self.0.call_target(|state| {
            if state.root_is_lost {
                let root = Root::Unknown { reason: "it is lost".to_owned() };
                return Ok(CopyRoot { root, ..CopyRoot::default() });
            }
            Ok(state.root_of(of, state.wrong_region))
        });
        asked.await
    }

    async fn settle(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                let is_whole = state.looks >= LOOKS_UNTIL_WHOLE || state.abandoned_bytes > 0;
                assert!(is_whole || state.gone.is_some(), "settled with bytes still remote");
                state.crossing = Some(CrossingState::Settled);
                Ok(self.0.crossing(state, job))
            })
            .await
    }

    async fn release(&self, _job: JobId) -> Result<(), ApiError> {
        self.0
            .call_target(|state| {
                let owned = state.crossing.is_some_and(|crossing| {
                    (CrossingState::Activated..CrossingState::Released).contains(&crossing)
                });
                assert!(!owned, "what the target owns is released");
                state.crossing = Some(CrossingState::Released);
                state.awaited = false;
                Ok(())
            })
            .await
    }
}

/// The copy that one on the target was made from.
fn home_of(state: &State, there: VolumeKey) -> &HomeVolume {
    state.home.iter().find(|(key, _)| key.id == there.id).map(|(_, home)| home).unwrap()
}
