//! The target's side of a move: what a source's agent asks of this one, durable and idempotent.
//!
//! What a request leads to is decided in [`ferry_crossing::target`]; here it is made durable and done.
//!
//! Invariant: machine and volumes are ours from the moment `activate` is in the records, in one transaction, and
//! not before; from then on their keepers and their minder serve and boot them after any restart, whether the
//! source asks again or not.

use crate::config::Config;
use crate::fences::Fences;
use crate::host::Host;
use crate::machines::{Machines, MachinesError};
use crate::peers::Peers;
use crate::placement::Holds;
use crate::records::{AwaitedMachine, Change, CrossingRecord, Records, RecordsError, Standing};
use crate::volumes::{Volumes, VolumesError};
use ferry_api::{
    Activate, ApiError, Bid, Crossing, CrossingState, CrossingVolume, Desired, ErrorCode, Expect, Hold,
    HookRun, JobId, MachineName, Precopy, Prepare, Reserve, VolumeKey, WorkerName,
};
use ferry_crossing::hooks::owes_after_move;
use ferry_crossing::judging;
use ferry_crossing::target::{self, conflict, keys_of};
use ferry_placement::{Requirements, fits};
use ferry_volume::SourceUri;
use ferry_volume::control::Phase;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Mutex as Turn, MutexGuard, Notify};
use tokio::time::Instant;

type Answer<T> = Result<T, ApiError>;

/// Moves to this worker.
pub struct Target {
    /// This worker.
    name: WorkerName,
    records: Records,
    fences: Fences,
    volumes: Volumes,
    machines: Machines,
    peers: Peers,
    host: Arc<dyn Host>,
    /// What is kept for moves that are about to reserve.
    pub(crate) holds: Holds,
    /// Where other workers reach this host.
    advertise: String,
    /// One call at a time for each job.
    turns: Mutex<BTreeMap<JobId, Arc<Turn<()>>>>,
    /// Held while a machine's name is checked and taken.
    names: Turn<()>,
    /// Told when a machine was booted that is to be judged.
    to_judge: Notify,
    /// Told when a machine was booted that wants to be told of that.
    to_tell: Notify,
}

impl Target {
    /// The moves in the records.
    #[must_use]
    pub fn new(
        config: &Config,
        records: Records,
        fences: Fences,
        volumes: Volumes,
        machines: Machines,
        peers: Peers,
        host: Arc<dyn Host>,
    ) -> Self {
        Self {
            name: config.name.clone(),
            records,
            fences,
            volumes,
            machines,
            peers,
            host,
            holds: Holds::default(),
            advertise: config.advertise.clone(),
            turns: Mutex::default(),
            names: Turn::default(),
            to_judge: Notify::new(),
            to_tell: Notify::new(),
        }
    }

    /// Removes what is left of moves whose release was cut off: copies, and what waits for memory. What cannot be deleted is left for the
    /// next time.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn clean_up(&self) -> Answer<()> {
        let volumes = self.records.volumes().await?;
        let mut left: BTreeSet<JobId> = volumes.iter().filter_map(target::reserved_by).collect();
        left.extend(self.records.crossings_awaiting_in_vain().await?.iter().map(|crossing| crossing.job));
        for job in left {
            let turn = self.turn(job);
            let _turn = turn.lock().await;
            let crossing = self.records.crossing(job).await?;
            let Some(released) = crossing.filter(|crossing| crossing.state == CrossingState::Released) else {
                continue;
            };
            if let Err(error) = self.drop_clones(&released).await {
                tracing::warn!(%job, %error, "what is left of a move cannot be deleted; it is tried again");
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
        let expected = self.records.crossings_under_way().await?;
        let mut expected = expected.iter().filter(|crossing| target::is_expected(crossing));
        if expected.any(|crossing| crossing.reserve.as_ref().is_some_and(|r| r.machine_name == *name)) {
            return taken("is on its way to");
        }
        Ok(guard)
    }

    /// See [`ferry_api::AgentApi::peer_reserve`].
    ///
    /// # Errors
    /// There is no room, the machine cannot run here, its name or id is in use, or this worker has handed it over already
    /// at that generation.
    pub async fn reserve(&self, reserve: Reserve) -> Answer<Crossing> {
        let turn = self.turn(reserve.job);
        let _turn = turn.lock().await;
        let known = self.records.crossing(reserve.job).await?;
        if target::reserved_before(known.as_ref(), &reserve)? {
            return self.view(known.expect("what was reserved before is known")).await;
        }
        self.check(&reserve).await?;
        let _name = self.claim_name(&reserve.machine_name).await?;
        let bases = self.volumes.bases(&reserve).await?;
        let (_, held_bytes) = self.holds.but(Some(reserve.job), Instant::now());
        let (crossing, volumes) = target::reservation(reserve, &bases, self.host.now_ms());
        let noted = vec![Change::Crossing(Box::new(crossing.clone()))];
        self.volumes.add_beside(held_bytes, volumes, noted).await?;
        self.holds.let_go(crossing.job);
        self.view(crossing).await
    }

    /// See [`ferry_api::AgentApi::peer_hold`]. `bid` is that of this worker without what is held for this very move.
    ///
    /// # Errors
    /// As for a reservation; the machine does not fit by its rules or by what is taken here.
    pub async fn hold(&self, hold: Hold, bid: &Bid) -> Answer<()> {
        let reserve = &hold.reserve;
        self.check(reserve).await?;
        let wants = Requirements {
            machine: reserve.machine,
            name: reserve.machine_name.clone(),
            from: reserve.from.clone(),
            spec: reserve.spec.clone(),
            volumes: reserve.volumes.iter().map(target::planned).collect(),
        };
        fits(&wants, bid, hold.force).map_err(|why| ApiError::new(ErrorCode::Conflict, why))?;
        let _name = self.claim_name(&reserve.machine_name).await?;
        self.holds.hold(&hold, Instant::now());
        Ok(())
    }

    async fn check(&self, reserve: &Reserve) -> Answer<()> {
        target::check_version(reserve)?;
        self.check_fences(reserve)?;
        target::check_direct(reserve, self.volumes.has_direct_io().await)?;
        // The clones will have to ask the source's agent where their source is.
        self.peers.client(&reserve.from)?;
        self.machines.check(&reserve.spec).await?;
        let here = self.records.machine(reserve.machine).await?;
        let cordon = self.records.worker().await?.cordon_now();
        target::check_cordon(&self.name, cordon.as_ref(), here.as_ref(), reserve)?;
        target::check_machine(here.as_ref(), reserve)
    }

    fn check_fences(&self, reserve: &Reserve) -> Answer<()> {
        let subjects = target::subjects_of(reserve).into_iter().map(|(subject, _)| subject);
        target::check_fences(reserve, &self.fences.of_all(subjects)?)
    }

    /// See [`ferry_api::AgentApi::peer_prepare`].
    ///
    /// # Errors
    /// The job is not reserved here; what it brings was handed over again since; a source cannot be reached; a clone cannot be made or its server does not start.
    pub async fn prepare(&self, prepare: Prepare) -> Answer<Crossing> {
        let turn = self.turn(prepare.job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(prepare.job).await?;
        let Some((prepared, changes)) = target::prepare(&crossing, &reserve, &prepare)? else {
            return self.view(crossing).await;
        };
        self.check_fences(&reserve)?;
        for volume in &prepare.volumes {
            self.reach(&reserve.from, volume.source.clone()).await?;
        }
        self.records.change(changes).await?;
        let paces: BTreeMap<_, _> = prepare.volumes.iter().map(|v| (v.id, v.pace)).collect();
        for key in keys_of(&reserve) {
            let status = self.volumes.converge(key).await?;
            let Some(status) = status.filter(|status| status.phase == Phase::Standby) else {
                let message = format!("the clone {key} does not stand by; see its server.log");
                return Err(ApiError::new(ErrorCode::Internal, message));
            };
            self.volumes.take_base(key, &status).await;
            if let Some(&pace) = paces.get(&key.id).filter(|pace| !pace.changes_nothing()) {
                self.volumes.pace(key, pace).await?;
            }
        }
        self.view(prepared).await
    }

    /// See [`ferry_api::AgentApi::peer_precopy`].
    ///
    /// # Errors
    /// The job is not prepared here, or a clone cannot be copied into.
    pub async fn precopy(&self, precopy: Precopy) -> Answer<Crossing> {
        let turn = self.turn(precopy.job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(precopy.job).await?;
        for (key, wish) in target::precopy(&crossing, &reserve, precopy)? {
            self.volumes.precopy(key, wish).await?;
        }
        self.view(crossing).await
    }

    /// See [`ferry_api::AgentApi::peer_expect`].
    ///
    /// # Errors
    /// The job is not prepared here, or has handed over; the machine cannot be made.
    pub async fn expect(&self, expect: Expect) -> Answer<Crossing> {
        let turn = self.turn(expect.job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(expect.job).await?;
        target::check_expects(&crossing)?;
        self.machines.end_awaited(&target::arriving(&crossing, &reserve, Desired::Running)).await?;
        let unborn = CrossingRecord { awaited: None, ..crossing };
        let held = self
            .machines
            .expect(&target::arriving(&unborn, &reserve, Desired::Running), &expect.facts)
            .await?;
        let mut awaited = AwaitedMachine { process: held.mark().clone(), at: None, arrival: None };
        let with =
            |awaited: &AwaitedMachine| CrossingRecord { awaited: Some(awaited.clone()), ..unborn.clone() };
        let recorded = self.records.change(vec![Change::Crossing(Box::new(with(&awaited)))]).await;
        if let Err(error) = recorded {
            held.abandon().await;
            return Err(error.into());
        }
        held.release().map_err(MachinesError::from)?;
        let arriving = target::arriving(&with(&awaited), &reserve, Desired::Running);
        let port = self.machines.listen(&arriving, &reserve.from).await?;
        awaited.at = Some(format!("{}:{port}", self.advertise));
        let listening = with(&awaited);
        self.records.change(vec![Change::Crossing(Box::new(listening.clone()))]).await?;
        self.view(listening).await
    }

    /// See [`ferry_api::AgentApi::peer_forsake`].
    ///
    /// # Errors
    /// No such job, or it has not handed over; it is not known how the machine stands.
    pub async fn forsake(&self, job: JobId) -> Answer<Crossing> {
        let turn = self.turn(job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(job).await?;
        let here = self.records.machine(reserve.machine).await?;
        if target::boots(&crossing)? && here.is_some_and(|here| target::is_still_here(&here, &reserve)) {
            self.machines.forsake(reserve.machine).await?;
        }
        self.view(crossing).await
    }

    /// See [`ferry_api::AgentApi::peer_activate`].
    ///
    /// # Errors
    /// The job is not prepared here, or what it brings was handed over again since.
    pub async fn activate(&self, activate: Activate) -> Answer<Crossing> {
        let turn = self.turn(activate.job);
        let _turn = turn.lock().await;
        let (crossing, reserve) = self.reserved(activate.job).await?;
        let Some((activated, changes)) =
            target::activate(&crossing, &reserve, &activate, self.host.now_ms())?
        else {
            return self.view(crossing).await;
        };
        self.check_fences(&reserve)?;
        for volume in activate.volumes.iter().filter(|volume| !volume.holds) {
            self.volumes.give_up_copied(VolumeKey { id: volume.id, generation: volume.generation }).await?;
        }
        self.records.change(changes).await?;
        // They are ours now, whatever becomes of this: their keepers and the minder go on.
        self.machines.poke(reserve.machine);
        for key in keys_of(&reserve) {
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
        if !target::boots(&crossing)? {
            return self.view(crossing).await;
        }
        let here = self.records.machine(reserve.machine).await?;
        let process = match here {
            Some(here) if target::is_still_here(&here, &reserve) => {
                self.machines.arrive(reserve.machine).await?;
                self.machines.up(reserve.machine).await?;
                let here = self.records.machine(reserve.machine).await?;
                here.and_then(|here| here.process)
            }
            Some(_) | None => None,
        };
        let awaited = crossing.awaited.clone().map(|awaited| {
            let arrival = Some(target::arrival(&awaited, process.as_ref()));
            AwaitedMachine { arrival, ..awaited }
        });
        let booted_at_ms = process.map(|process| process.started_at_ms);
        let booted = CrossingRecord { state: CrossingState::Booted, booted_at_ms, awaited, ..crossing };
        self.records.change(vec![Change::Crossing(Box::new(booted.clone()))]).await?;
        if judging::waits(&booted) {
            self.to_judge.notify_one();
        }
        if owes_after_move(&booted) {
            self.to_tell.notify_one();
        }
        self.view(booted).await
    }

    /// Records what came of telling a machine that it has arrived.
    ///
    /// # Errors
    /// The records cannot be written.
    pub(crate) async fn note_after_move(&self, job: JobId, run: HookRun) -> Result<(), RecordsError> {
        let turn = self.turn(job);
        let _turn = turn.lock().await;
        let Some(crossing) = self.records.crossing(job).await? else { return Ok(()) };
        let told = CrossingRecord { after_move: Some(run), ..crossing };
        self.records.change(vec![Change::Crossing(Box::new(told))]).await
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
        if !target::settles(&crossing)? {
            return self.view(crossing).await;
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
        let released = target::release(self.records.crossing(job).await?, job)?;
        self.records.change(vec![Change::Crossing(Box::new(released.clone()))]).await?;
        self.drop_clones(&released).await
    }

    async fn drop_clones(&self, crossing: &CrossingRecord) -> Answer<()> {
        let Some(reserve) = &crossing.reserve else { return Ok(()) };
        if crossing.awaited.is_some() {
            self.machines.end_awaited(&target::arriving(crossing, reserve, Desired::Stopped)).await?;
            self.machines.forget_expected(reserve.machine).await?;
        }
        for key in keys_of(reserve) {
            let volume = self.records.volume(key).await?;
            if volume.is_some_and(|volume| target::is_reserved_by(&volume, crossing.job)) {
                self.volumes.delete(key).await?;
            }
        }
        if crossing.awaited.is_some() {
            // Nobody has to look for it again.
            let rid = CrossingRecord { awaited: None, ..crossing.clone() };
            self.records.change(vec![Change::Crossing(Box::new(rid))]).await?;
        }
        Ok(())
    }

    async fn reserved(&self, job: JobId) -> Answer<(CrossingRecord, Reserve)> {
        target::reserved(self.records.crossing(job).await?, job)
    }

    async fn view(&self, crossing: CrossingRecord) -> Answer<Crossing> {
        let Some(reserve) = crossing.reserve.clone() else {
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
            Some(here) if target::is_still_here(&here, &reserve) => {
                Some(self.machines.show(reserve.machine).await?)
            }
            Some(_) | None => None,
        };
        let arriving = target::arriving(&crossing, &reserve, Desired::Running);
        let (memory_to, arrival) = match crossing.awaited {
            None => (None, None),
            Some(awaited) if awaited.arrival.is_some() => (None, awaited.arrival),
            Some(awaited) => (awaited.at.filter(|_| self.machines.awaits(&arriving).unwrap_or(true)), None),
        };
        Ok(Crossing {
            job: crossing.job,
            from: reserve.from,
            machine: reserve.machine,
            state: crossing.state,
            activated_at_ms: crossing.activated_at_ms,
            booted_at_ms: crossing.booted_at_ms,
            memory_to,
            arrival,
            after_move: crossing.after_move,
            machine_now,
            volumes,
            judged: crossing.judged,
        })
    }

    /// Checks that this worker can come to where it will have to read from, while the machine still runs on the source.
    async fn reach(&self, from: &WorkerName, uri: String) -> Answer<()> {
        let source: SourceUri = uri.parse().map_err(|e| ApiError::because(ErrorCode::InvalidRequest, &e))?;
        self.host.reach(source).await.map_err(|cause| {
            let message = format!(
                "this worker cannot come to the volume of worker {from}: {cause}; check `advertise`, `export_listen` \
                 and `tls` there, and what is between"
            );
            ApiError::new(ErrorCode::Unreachable, message)
        })
    }

    /// Resolves when a machine was booted that is to be judged.
    pub(crate) async fn one_to_judge(&self) {
        self.to_judge.notified().await;
    }

    /// Resolves when a machine was booted that wants to be told of that.
    pub(crate) async fn one_to_tell(&self) {
        self.to_tell.notified().await;
    }

    /// What is held while something is done with a job.
    pub(crate) fn turn(&self, job: JobId) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(job).or_default())
    }
}
