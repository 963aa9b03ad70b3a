//! The target's side of a move: what a source's agent asks of this one, durable and idempotent.
//!
//! ```text
//!   reserve ─▶ Reserved ─▶ prepare ─▶ Prepared ─▶ activate ─▶ Activated ─▶ boot ─▶ Booted ─▶ settle ─▶ Settled
//!                  └──────── release ─────┴──▶ Released
//! ```
//!
//! Invariants: machine and volumes are ours from the moment `activate` is in the records, in one transaction, and
//! not before; from then on their keepers and their minder serve and boot them after any restart, whether the
//! source asks again or not. What was released is never activated: a release of an unknown job is remembered.

use crate::clock::now_ms;
use crate::drivers::ProcessDriver;
use crate::machines::Machines;
use crate::peers::Peers;
use crate::records::{Change, CrossingRecord, MachineRecord, Records, SourceRecord, Standing, VolumeRecord};
use crate::volumes::{Volumes, VolumesError};
use ferry_api::{
    API_VERSION, Activate, ApiError, Crossing, CrossingState, CrossingVolume, Desired, ErrorCode, JobId,
    MachineName, MachineVolume, Ownership, Prepare, Reserve, VolumeKey, WorkerName,
};
use ferry_volume::SourceUri;
use ferry_volume::control::Phase;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Mutex as Turn, MutexGuard};

type Answer<T> = Result<T, ApiError>;

/// Moves to this worker.
pub struct Target {
    records: Records,
    volumes: Volumes,
    machines: Machines<ProcessDriver>,
    peers: Peers,
    /// One call at a time for each job.
    turns: Mutex<BTreeMap<JobId, Arc<Turn<()>>>>,
    /// Held while a machine's name is checked and taken.
    names: Turn<()>,
}

impl Target {
    /// The moves in the records.
    #[must_use]
    pub fn new(records: Records, volumes: Volumes, machines: Machines<ProcessDriver>, peers: Peers) -> Self {
        Self { records, volumes, machines, peers, turns: Mutex::default(), names: Turn::default() }
    }

    /// Removes what is left of moves whose release was cut off. What cannot be deleted is left for the next time.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn clean_up(&self) -> Answer<()> {
        for crossing in self.records.crossings().await? {
            if crossing.state == CrossingState::Released {
                let turn = self.turn(crossing.job);
                let _turn = turn.lock().await;
                if let Err(error) = self.drop_clones(&crossing).await {
                    tracing::warn!(job = %crossing.job, %error, "what is left of a move cannot be deleted; it is tried again");
                }
            }
        }
        Ok(())
    }

    /// Keeps others from taking a machine's name, and refuses one that a machine here has or that is about to
    /// arrive. The name is to be taken in the records while the guard is held.
    ///
    /// # Errors
    /// `AlreadyExists`.
    pub async fn claim_name(&self, name: &MachineName) -> Answer<MutexGuard<'_, ()>> {
        let guard = self.names.lock().await;
        let taken = |how: &str| {
            let message =
                format!("a machine named {name} {how} this worker; choose another name or destroy that one");
            Err(ApiError::new(ErrorCode::AlreadyExists, message))
        };
        let machines = self.records.machines().await?;
        if machines.iter().any(|machine| machine.standing == Standing::Ours && machine.name == *name) {
            return taken("is already on");
        }
        let expected = self.records.crossings().await?;
        let mut expected = expected.iter().filter(|crossing| crossing.state < CrossingState::Activated);
        if expected.any(|crossing| crossing.reserve.as_ref().is_some_and(|r| r.machine_name == *name)) {
            return taken("is on its way to");
        }
        Ok(guard)
    }

    /// See [`ferry_api::AgentApi::peer_reserve`].
    ///
    /// # Errors
    /// There is no room, the machine cannot run here, or its name or id is in use.
    pub async fn reserve(&self, reserve: Reserve) -> Answer<Crossing> {
        let turn = self.turn(reserve.job);
        let _turn = turn.lock().await;
        if let Some(known) = self.records.crossing(reserve.job).await? {
            if known.state == CrossingState::Released {
                return Err(conflict(reserve.job, "was already released here; start a new one"));
            }
            if known.reserve.as_ref() != Some(&reserve) {
                return Err(conflict(reserve.job, "was already reserved here with other facts; cancel it"));
            }
            return self.view(known).await;
        }
        self.check(&reserve).await?;
        let volumes = reserve.volumes.iter().map(|volume| VolumeRecord {
            id: volume.id,
            generation: volume.generation,
            name: volume.name.clone(),
            machine: Some(reserve.machine),
            size_bytes: volume.size_bytes,
            region_bytes: volume.region_bytes,
            ownership: Ownership::Reserved { job: reserve.job, from: reserve.from.clone() },
            source: None,
            made: false,
            bytes_expected: volume.bytes_in_use,
            store: None,
            forks: Vec::new(),
            created_at_ms: now_ms(),
        });
        let volumes = volumes.collect();
        let _name = self.claim_name(&reserve.machine_name).await?;
        let crossing = CrossingRecord {
            job: reserve.job,
            state: CrossingState::Reserved,
            reserve: Some(reserve),
            activated_at_ms: None,
            booted_at_ms: None,
        };
        self.volumes.add(volumes, vec![Change::Crossing(Box::new(crossing.clone()))]).await?;
        self.view(crossing).await
    }

    async fn check(&self, reserve: &Reserve) -> Answer<()> {
        if reserve.api_version != API_VERSION {
            let message = format!(
                "this worker speaks version {API_VERSION} of the agents' language and worker {} version {}; \
                 bring both to the same version of ferry",
                reserve.from, reserve.api_version
            );
            return Err(ApiError::new(ErrorCode::VersionMismatch, message));
        }
        // The clones will have to ask the source's agent where their source is.
        self.peers.client(&reserve.from)?;
        self.machines.check(&reserve.spec)?;
        match self.records.machine(reserve.machine).await? {
            Some(here)
                if here.standing == Standing::Ours || here.generation >= reserve.machine_generation =>
            {
                let message = format!(
                    "machine {} is already here at generation {}, so generation {} cannot come; ask this worker's agent",
                    here.name, here.generation, reserve.machine_generation
                );
                Err(ApiError::new(ErrorCode::AlreadyExists, message))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// See [`ferry_api::AgentApi::peer_prepare`].
    ///
    /// # Errors
    /// The job is not reserved here; a source cannot be reached; a clone cannot be made or its server does not start.
    pub async fn prepare(&self, prepare: Prepare) -> Answer<Crossing> {
        let turn = self.turn(prepare.job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(prepare.job).await?;
        match crossing.state {
            CrossingState::Reserved | CrossingState::Prepared => {}
            CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => {
                return self.view(crossing).await;
            }
            CrossingState::Released => {
                return Err(conflict(prepare.job, "was already released here; start a new one"));
            }
        }
        for volume in &prepare.volumes {
            self.reach(&reserve.from, volume.source.clone()).await?;
        }
        let paces: BTreeMap<_, _> = prepare.volumes.iter().map(|v| (v.id, v.pace)).collect();
        let sources: BTreeMap<_, _> = prepare.volumes.into_iter().map(|v| (v.id, v.source)).collect();
        let keys = keys_of(&reserve);
        if keys.iter().map(|key| key.id).collect::<BTreeSet<_>>() != sources.keys().copied().collect() {
            return Err(conflict(prepare.job, "names other volumes now than it reserved; cancel it"));
        }
        let mut changes = Vec::new();
        for &key in &keys {
            let worker = Some(reserve.from.clone());
            let source = Some(SourceRecord { uri: sources[&key.id].clone(), worker });
            changes.push(Change::Source { key, source });
            let ownership = Ownership::Prepared { job: prepare.job, from: reserve.from.clone() };
            changes.push(Change::Own { key, ownership });
        }
        let prepared = CrossingRecord { state: CrossingState::Prepared, ..crossing };
        changes.push(Change::Crossing(Box::new(prepared.clone())));
        self.records.change(changes).await?;
        for key in keys {
            let status = self.volumes.converge(key).await?;
            if status.is_none_or(|status| status.phase != Phase::Standby) {
                let message = format!("the clone {key} does not stand by; see its server.log");
                return Err(ApiError::new(ErrorCode::Internal, message));
            }
            if let Some(&pace) = paces.get(&key.id).filter(|pace| !pace.changes_nothing()) {
                self.volumes.pace(key, pace).await?;
            }
        }
        self.view(prepared).await
    }

    /// See [`ferry_api::AgentApi::peer_activate`].
    ///
    /// # Errors
    /// The job is not prepared here.
    pub async fn activate(&self, activate: Activate) -> Answer<Crossing> {
        let turn = self.turn(activate.job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(activate.job).await?;
        match crossing.state {
            CrossingState::Prepared => {}
            CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => {
                return self.view(crossing).await;
            }
            CrossingState::Reserved => {
                return Err(conflict(activate.job, "is reserved here and not yet prepared"));
            }
            CrossingState::Released => return Err(conflict(activate.job, "was already released here")),
        }
        let keys = keys_of(&reserve);
        let handed: BTreeSet<_> =
            activate.volumes.iter().map(|v| VolumeKey { id: v.id, generation: v.generation }).collect();
        if handed != keys.iter().copied().collect() {
            return Err(conflict(activate.job, "hands over other volumes than it reserved; ask for help"));
        }
        let mut changes = Vec::new();
        for volume in &activate.volumes {
            let key = VolumeKey { id: volume.id, generation: volume.generation };
            let source = SourceRecord { uri: volume.source.clone(), worker: Some(reserve.from.clone()) };
            changes.push(Change::Source { key, source: Some(source) });
            changes.push(Change::Own { key, ownership: Ownership::Ours });
        }
        changes.push(Change::AddMachine(Box::new(arriving(&reserve, activate.desired))));
        let activated_at_ms = Some(now_ms());
        let activated = CrossingRecord { state: CrossingState::Activated, activated_at_ms, ..crossing };
        changes.push(Change::Crossing(Box::new(activated.clone())));
        self.records.change(changes).await?;
        // They are ours now, whatever becomes of this: their keepers and the minder go on.
        self.machines.poke(reserve.machine);
        for key in keys {
            if let Err(error) = self.volumes.converge(key).await {
                let error = ApiError::from(error);
                tracing::warn!(volume = %key, %error, "a volume that has just arrived does not serve yet");
            }
        }
        self.view(activated).await
    }

    /// See [`ferry_api::AgentApi::peer_boot`].
    ///
    /// # Errors
    /// The machine is not ours yet, or cannot be started yet.
    pub async fn boot(&self, job: JobId) -> Answer<Crossing> {
        let turn = self.turn(job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(job).await?;
        match crossing.state {
            CrossingState::Activated => {}
            CrossingState::Booted | CrossingState::Settled => return self.view(crossing).await,
            CrossingState::Reserved | CrossingState::Prepared | CrossingState::Released => {
                return Err(conflict(job, "has not handed over the machine yet"));
            }
        }
        let here = self.records.machine(reserve.machine).await?;
        let booted_at_ms = match here {
            // At this very generation: it may have moved on, or been destroyed, since.
            Some(here) if here.generation == reserve.machine_generation => {
                self.machines.up(reserve.machine).await?;
                let here = self.records.machine(reserve.machine).await?;
                here.and_then(|here| here.process).map(|process| process.started_at_ms)
            }
            Some(_) | None => None,
        };
        let booted = CrossingRecord { state: CrossingState::Booted, booted_at_ms, ..crossing };
        self.records.change(vec![Change::Crossing(Box::new(booted.clone()))]).await?;
        self.view(booted).await
    }

    /// See [`ferry_api::AgentApi::peer_crossing`].
    ///
    /// # Errors
    /// No such job.
    pub async fn crossing(&self, job: JobId) -> Answer<Crossing> {
        let (crossing, _) = self.reserved(job).await?;
        self.view(crossing).await
    }

    /// See [`ferry_api::AgentApi::peer_settle`].
    ///
    /// # Errors
    /// Something is still remote.
    pub async fn settle(&self, job: JobId) -> Answer<Crossing> {
        let turn = self.turn(job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(job).await?;
        match crossing.state {
            CrossingState::Booted => {}
            CrossingState::Settled => return self.view(crossing).await,
            CrossingState::Reserved
            | CrossingState::Prepared
            | CrossingState::Activated
            | CrossingState::Released => return Err(conflict(job, "has not booted the machine yet")),
        }
        for key in keys_of(&reserve) {
            match self.volumes.detach_source(key).await {
                // Destroyed with its machine since: it needs no source any more either.
                Ok(()) | Err(VolumesError::NotHere(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let settled = CrossingRecord { state: CrossingState::Settled, ..crossing };
        self.records.change(vec![Change::Crossing(Box::new(settled.clone()))]).await?;
        self.view(settled).await
    }

    /// See [`ferry_api::AgentApi::peer_release`].
    ///
    /// # Errors
    /// The machine is ours already; something cannot be deleted.
    pub async fn release(&self, job: JobId) -> Answer<()> {
        let turn = self.turn(job);
        let _turn = turn.lock().await;
        let unknown = CrossingRecord {
            job,
            state: CrossingState::Reserved,
            reserve: None,
            activated_at_ms: None,
            booted_at_ms: None,
        };
        let crossing = self.records.crossing(job).await?.unwrap_or(unknown);
        match crossing.state {
            CrossingState::Reserved | CrossingState::Prepared | CrossingState::Released => {}
            CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => {
                return Err(conflict(job, "has handed over the machine already and cannot be undone here"));
            }
        }
        let released = CrossingRecord { state: CrossingState::Released, ..crossing };
        self.records.change(vec![Change::Crossing(Box::new(released.clone()))]).await?;
        self.drop_clones(&released).await
    }

    async fn drop_clones(&self, crossing: &CrossingRecord) -> Answer<()> {
        let Some(reserve) = &crossing.reserve else { return Ok(()) };
        for key in keys_of(reserve) {
            // The same copy may be expected with a later job by now.
            let mine = self.records.volume(key).await?.is_some_and(|record| match record.ownership {
                Ownership::Reserved { job, .. } | Ownership::Prepared { job, .. } => job == crossing.job,
                Ownership::Ours
                | Ownership::Sealed { .. }
                | Ownership::HandedOver { .. }
                | Ownership::Retired { .. } => false,
            });
            if mine {
                self.volumes.delete(key).await?;
            }
        }
        Ok(())
    }

    async fn reserved(&self, job: JobId) -> Answer<(CrossingRecord, Reserve)> {
        let crossing = self.records.crossing(job).await?;
        let known = crossing.and_then(|crossing| crossing.reserve.clone().map(|reserve| (crossing, reserve)));
        known.ok_or_else(|| {
            let message = format!("job {job} has reserved nothing here; it must reserve first");
            ApiError::new(ErrorCode::NotFound, message)
        })
    }

    async fn view(&self, crossing: CrossingRecord) -> Answer<Crossing> {
        let Some(reserve) = crossing.reserve else {
            return Err(conflict(crossing.job, "was released here before it reserved anything"));
        };
        let mut volumes = Vec::new();
        for key in keys_of(&reserve) {
            let volume = match self.volumes.show(key).await {
                Ok(volume) => Some(volume),
                Err(VolumesError::NotHere(_)) => None,
                Err(error) => return Err(error.into()),
            };
            volumes.push(CrossingVolume { key, volume });
        }
        let machine_now = match self.records.machine(reserve.machine).await? {
            Some(here) if here.generation == reserve.machine_generation => {
                Some(self.machines.show(reserve.machine).await?)
            }
            Some(_) | None => None,
        };
        Ok(Crossing {
            job: crossing.job,
            from: reserve.from,
            machine: reserve.machine,
            state: crossing.state,
            activated_at_ms: crossing.activated_at_ms,
            booted_at_ms: crossing.booted_at_ms,
            machine_now,
            volumes,
        })
    }

    /// Checks that this worker can come to where it will have to read from, while the machine still runs on the source.
    async fn reach(&self, from: &WorkerName, uri: String) -> Answer<()> {
        let source: SourceUri = uri.parse().map_err(|e| ApiError::because(ErrorCode::InvalidRequest, &e))?;
        let credentials = self.volumes.credentials();
        let reaching = move || ferry_volume::client::reach(&source, credentials.as_ref());
        let reached = tokio::task::spawn_blocking(reaching).await;
        reached.expect("asking for a source does not panic").map_err(|cause| {
            let message = format!(
                "this worker cannot come to the volume of worker {from}: {cause}; check `advertise`, `export_listen` \
                 and `tls` there, and what is between"
            );
            ApiError::new(ErrorCode::Unreachable, message)
        })
    }

    fn turn(&self, job: JobId) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(job).or_default())
    }
}

/// The machine as it arrives.
fn arriving(reserve: &Reserve, desired: Desired) -> MachineRecord {
    let volumes = reserve.volumes.iter().map(|volume| MachineVolume {
        name: volume.name.clone(),
        volume: volume.id,
        generation: volume.generation,
    });
    MachineRecord {
        id: reserve.machine,
        name: reserve.machine_name.clone(),
        spec: reserve.spec.clone(),
        volumes: volumes.collect(),
        desired,
        generation: reserve.machine_generation,
        standing: Standing::Ours,
        job: None,
        halted: false,
        doomed: false,
        process: None,
        last_exit: None,
        created_at_ms: reserve.created_at_ms,
    }
}

fn keys_of(reserve: &Reserve) -> Vec<VolumeKey> {
    reserve.volumes.iter().map(|volume| VolumeKey { id: volume.id, generation: volume.generation }).collect()
}

fn conflict(job: JobId, what: &str) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format!("job {job} {what}"))
}
