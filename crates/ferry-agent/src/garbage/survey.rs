//! Finds what there is, and has the heart judge it.

use super::Found;
use super::ask::Others;
use crate::core::Core;
use crate::drivers::oci::images;
use crate::lying::{Lying, MachinePlace, Place, Running, started_at_ms};
use crate::records::{CrossingRecord, MachineRecord, VolumeRecord, about};
use ferry_api::{
    ApiError, Artefact, AskGarbage, CrossingState, JobId, JobKind, MachineId, Ownership, Remnant, VolumeKey,
};
use ferry_crossing::garbage::{self, Named, Verdict, Whole};
use ferry_crossing::{Subject, target};
use std::collections::{BTreeMap, BTreeSet};

/// Moves that are over and are looked at in one go.
const PAGE_CROSSINGS: u64 = 100;

type Answer<T> = Result<T, ApiError>;

/// All that was found beside what is in use.
pub(super) async fn survey(core: &Core, ask: AskGarbage, now_ms: u64) -> Answer<Vec<Found>> {
    // In this order: see the invariant of this room.
    let lying = core.volumes.lying().await?;
    let images = lying_images(core).await?;
    let running = core.host.running().await.map_err(|cause| {
        ApiError::new(
            ferry_api::ErrorCode::Internal,
            format!("cannot look at the processes of the host: {cause}"),
        )
    })?;
    let volumes = core.records.volumes().await?;
    let machines = core.records.machines().await?;
    let crossings = crossings(core, &volumes).await?;
    let survey = Survey { core, volumes, machines, crossings };
    let mut others = Others::of(core);
    let mut found = survey.retained(ask, now_ms, &mut others).await?;
    found.extend(survey.handed_over().await?);
    found.extend(survey.arrivals(&mut others).await?);
    found.extend(survey.exports().await?);
    found.extend(survey.left_by_servers().await?);
    found.extend(survey.unknown_processes(&lying, &running).await?);
    found.extend(survey.unknown_directories(&lying).await?);
    found.extend(survey.half_deleted(&lying).await?);
    found.extend(survey.images(&images).await?);
    Ok(found)
}

/// The moves to here that are under way, and those that are over and have left copies.
async fn crossings(core: &Core, volumes: &[VolumeRecord]) -> Answer<Vec<CrossingRecord>> {
    let mut crossings = core.records.crossings_under_way().await?;
    let under_way: BTreeSet<JobId> = crossings.iter().map(|crossing| crossing.job).collect();
    let left: BTreeSet<JobId> = volumes.iter().filter_map(target::reserved_by).collect();
    for job in left.difference(&under_way) {
        crossings.extend(core.records.crossing(*job).await?);
    }
    Ok(crossings)
}

/// What lies where images are unpacked.
async fn lying_images(core: &Core) -> Answer<Vec<Place>> {
    let Some(images) = core.host.images() else { return Ok(Vec::new()) };
    images.lying().await.map_err(|cause| {
        let message = format!("cannot look at the unpacked images: {cause}");
        ApiError::new(ferry_api::ErrorCode::Internal, message)
    })
}

/// The records, and what is looked at beside them.
struct Survey<'a> {
    core: &'a Core,
    volumes: Vec<VolumeRecord>,
    machines: Vec<MachineRecord>,
    crossings: Vec<CrossingRecord>,
}

impl Survey<'_> {
    fn knows(&self, copy: VolumeKey) -> bool {
        self.volumes.iter().any(|record| record.key() == copy)
    }

    fn knows_machine(&self, machine: MachineId) -> bool {
        // One that is on its way here with its memory has no record yet.
        self.machines.iter().any(|record| record.id == machine)
            || self.crossings.iter().any(|crossing| target::awaits(crossing, machine))
    }

    /// The job that handed a copy over, and when; as far as that is still known.
    async fn handed_over_by(&self, copy: VolumeKey) -> Answer<(Option<JobId>, Option<u64>)> {
        let fence =
            self.core.fences.of(Subject::Volume(copy.id)).map_err(crate::volumes::VolumesError::from)?;
        let Some(fence) = fence.filter(|fence| fence.generation == copy.generation) else {
            return Ok((None, None));
        };
        let deed = self.core.records.look(move |connection| about::deed(connection, fence.job)).await?;
        Ok((Some(fence.job), deed.map(|deed| deed.at_ms)))
    }

    /// The last move to here that was to bring this copy, as far as it is remembered.
    async fn brought_by(&self, copy: VolumeKey) -> Answer<Option<JobId>> {
        let brings = |crossing: &&CrossingRecord| {
            crossing.reserve.as_ref().is_some_and(|reserve| target::keys_of(reserve).contains(&copy))
        };
        let mut job = self.crossings.iter().filter(brings).map(|crossing| crossing.job).max();
        let mut after = None;
        loop {
            let page = self.core.records.crossings_over_from(after, PAGE_CROSSINGS).await?;
            let Some(last) = page.last() else { return Ok(job) };
            after = Some(last.job);
            job = job.max(page.iter().filter(brings).map(|crossing| crossing.job).max());
        }
    }

    async fn brought(&self, place: &Place) -> Answer<Option<JobId>> {
        match place.copy {
            Some(copy) => self.brought_by(copy).await,
            None => Ok(None),
        }
    }

    /// What a job does, as the journal or the move to here tells.
    async fn job_does(&self, job: Option<JobId>) -> Answer<Option<JobKind>> {
        let Some(job) = job else { return Ok(None) };
        if let Some(record) = self.core.records.job(job).await? {
            return Ok(Some(record.kind));
        }
        let reserve = self.core.records.crossing(job).await?.and_then(|crossing| crossing.reserve);
        Ok(reserve.map(|reserve| JobKind::Move {
            machine: reserve.machine,
            machine_name: reserve.machine_name,
            from: reserve.from,
            to: self.core.config.name.clone(),
        }))
    }

    async fn found(
        &self,
        what: Remnant,
        job: Option<JobId>,
        (since_ms, bytes): (Option<u64>, u64),
        verdict: Verdict,
    ) -> Answer<Found> {
        let job_does = self.job_does(job).await?;
        let artefact = Artefact { what, job, job_does, since_ms, bytes, why: String::new() };
        Ok(Found { artefact, verdict, process: None })
    }

    fn bytes_of(&self, copy: VolumeKey) -> u64 {
        // What cannot be measured frees nothing that anybody could count on.
        self.core.host.occupied_bytes(copy).unwrap_or(0)
    }

    async fn retained(&self, ask: AskGarbage, now_ms: u64, others: &mut Others<'_>) -> Answer<Vec<Found>> {
        let kept: BTreeMap<VolumeKey, u64> = self.core.volumes.retired().await?.into_iter().collect();
        let mut found = Vec::new();
        for record in &self.volumes {
            let Ownership::Retired { to, until_ms } = &record.ownership else { continue };
            let copy = record.key();
            let is_due = kept.get(&copy).is_some_and(|until_ms| *until_ms <= now_ms);
            let whole = match ask.retained && !is_due && kept.contains_key(&copy) {
                true => others.whole(copy, to).await,
                false => Whole::NotAsked,
            };
            let verdict = garbage::retained(kept.get(&copy).copied(), now_ms, ask.retained, &whole);
            let what =
                Remnant::Retained { copy, name: record.name.clone(), to: to.clone(), until_ms: *until_ms };
            let (job, since_ms) = self.handed_over_by(copy).await?;
            let since_ms = since_ms.or(Some(record.created_at_ms));
            found.push(self.found(what, job, (since_ms, self.bytes_of(copy)), verdict).await?);
        }
        Ok(found)
    }

    async fn handed_over(&self) -> Answer<Vec<Found>> {
        let mut found = Vec::new();
        for record in &self.volumes {
            let Ownership::HandedOver { to, job } = &record.ownership else { continue };
            let copy = record.key();
            let what = Remnant::HandedOver { copy, name: record.name.clone(), to: to.clone() };
            let (_, since_ms) = self.handed_over_by(copy).await?;
            let measured = (since_ms, self.bytes_of(copy));
            found.push(self.found(what, Some(*job), measured, garbage::handed_over(to)).await?);
        }
        Ok(found)
    }

    /// What moves to here have set aside.
    async fn arrivals(&self, others: &mut Others<'_>) -> Answer<Vec<Found>> {
        let mut verdicts = BTreeMap::new();
        let mut found = Vec::new();
        for crossing in &self.crossings {
            let Some(reserve) = &crossing.reserve else { continue };
            let asked = match (target::is_expected(crossing), crossing.state) {
                (true, _) => others.job(&reserve.from, crossing.job).await,
                (false, CrossingState::Released) => Err("nobody was asked".to_owned()),
                // It has arrived.
                (false, _) => continue,
            };
            let verdict = garbage::reservation(crossing.state, &asked);
            verdicts.insert(crossing.job, verdict.clone());
            if crossing.state != CrossingState::Released {
                let (machine, from) = (reserve.machine_name.clone(), reserve.from.clone());
                let clones = self.volumes.iter().filter(|v| target::is_reserved_by(v, crossing.job));
                let since_ms = clones.map(|record| record.created_at_ms).min();
                let since_ms = since_ms.or(Some(crossing.job.made_at_ms()));
                let what = Remnant::Reservation { machine, from };
                found.push(self.found(what, Some(crossing.job), (since_ms, 0), verdict).await?);
            }
        }
        for record in &self.volumes {
            let (Ownership::Reserved { job, from } | Ownership::Prepared { job, from }) = &record.ownership
            else {
                continue;
            };
            let verdict = verdicts.get(job).cloned().unwrap_or_else(garbage::orphaned_clone);
            let copy = record.key();
            let what = Remnant::Clone { copy, name: record.name.clone(), from: from.clone() };
            let measured = (Some(record.created_at_ms), self.bytes_of(copy));
            found.push(self.found(what, Some(*job), measured, verdict).await?);
        }
        Ok(found)
    }

    async fn exports(&self) -> Answer<Vec<Found>> {
        let mut found = Vec::new();
        for record in &self.volumes {
            let Some((uri, verdict)) = self.core.volumes.judge_export(record).await? else { continue };
            let (copy, name) = (record.key(), record.name.clone());
            let machine = self.machines.iter().find(|machine| Some(machine.id) == record.machine);
            let job = machine.and_then(|machine| machine.job);
            found.push(self.found(Remnant::Export { copy, name, uri }, job, (None, 0), verdict).await?);
        }
        Ok(found)
    }

    async fn left_by_servers(&self) -> Answer<Vec<Found>> {
        let mut found = Vec::new();
        for record in &self.volumes {
            let Some((left, verdict)) = self.core.volumes.left_by_server(record).await? else { continue };
            let copy = record.key();
            let (job, _) = self.handed_over_by(copy).await?;
            let files = left.files.into_iter().map(|path| Remnant::DeadFile { copy, path });
            let devices = left.devices.into_iter().map(|path| Remnant::Device { copy, path });
            for what in files.chain(devices) {
                found.push(self.found(what, job, (None, 0), verdict.clone()).await?);
            }
        }
        Ok(found)
    }

    async fn unknown_processes(&self, lying: &Lying, running: &Running) -> Answer<Vec<Found>> {
        let mut found = Vec::new();
        for (mark, copy) in running.servers.iter().filter(|(_, copy)| !self.knows(*copy)) {
            let place = lying.volumes.iter().find(|place| place.copy == Some(*copy));
            let directory = place.map(|place| self.core.volumes.judge_unknown(place));
            let verdict = garbage::volume_server(directory.as_ref());
            let what = Remnant::VolumeServer { copy: *copy, pid: mark.pid };
            let process = Some(mark.clone());
            let one =
                self.found(what, self.brought_by(*copy).await?, (started_at_ms(mark), 0), verdict).await?;
            found.push(Found { process, ..one });
        }
        for process in running.machines.iter().filter(|process| !self.knows_machine(process.machine)) {
            let verdict = garbage::machine_process(has_ground(lying, process.machine, &process.disks));
            let what = Remnant::MachineProcess { machine: process.machine, pid: process.mark.pid };
            let since_ms = started_at_ms(&process.mark);
            let one = self.found(what, None, (since_ms, 0), verdict).await?;
            found.push(Found { process: Some(process.mark.clone()), ..one });
        }
        Ok(found)
    }

    async fn unknown_directories(&self, lying: &Lying) -> Answer<Vec<Found>> {
        let mut found = Vec::new();
        let is_unknown = |place: &&Place| !place.copy.is_some_and(|copy| self.knows(copy));
        for place in lying.volumes.iter().filter(is_unknown) {
            let what = Remnant::Directory { copy: place.copy, path: place.path.clone() };
            let job = self.brought(place).await?;
            let verdict = self.core.volumes.judge_unknown(place);
            found.push(self.found(what, job, (place.since_ms, place.bytes), verdict).await?);
        }
        for MachinePlace { place, machine, holds_files } in &lying.machines {
            if !self.knows_machine(*machine) {
                let what = Remnant::MachineDirectory { machine: *machine, path: place.path.clone() };
                let verdict = garbage::machine_directory(*holds_files, place.is_elsewhere);
                found.push(self.found(what, None, (place.since_ms, place.bytes), verdict).await?);
            }
        }
        Ok(found)
    }

    async fn half_deleted(&self, lying: &Lying) -> Answer<Vec<Found>> {
        let mut found = Vec::new();
        for place in &lying.half_deleted {
            let (what, verdict) = match place.copy {
                Some(copy) => {
                    let what = Remnant::HalfDeleted { copy, path: place.path.clone() };
                    (what, garbage::half_deleted(self.core.volumes.is_held(copy)))
                }
                None => {
                    let what = Remnant::Directory { copy: None, path: place.path.clone() };
                    (what, self.core.volumes.judge_unknown(place))
                }
            };
            let job = self.brought(place).await?;
            found.push(self.found(what, job, (place.since_ms, place.bytes), verdict).await?);
        }
        Ok(found)
    }

    /// Unpacked images that no machine is made of, and what of such was left half done.
    async fn images(&self, lying: &[Place]) -> Answer<Vec<Found>> {
        let Some(images) = self.core.host.images() else { return Ok(Vec::new()) };
        let used = self.core.machines.images_in_use(images).await?;
        let mut found = Vec::new();
        for place in lying.iter().filter(|place| !used.contains(&place.path)) {
            let path = place.path.clone();
            let what = match images::named(&path) {
                Named::Unpacked => Remnant::Image { path },
                Named::HalfUnpacked => Remnant::HalfUnpacked { path },
                Named::Otherwise => Remnant::Directory { copy: None, path },
            };
            let verdict = images::judge(place, &used, images.is_changing());
            found.push(self.found(what, None, (place.since_ms, place.bytes), verdict).await?);
        }
        Ok(found)
    }
}

/// Whether something of a machine is there that its process may still work on.
pub(crate) fn has_ground(lying: &Lying, machine: MachineId, disks: &BTreeSet<VolumeKey>) -> bool {
    lying.machines.iter().any(|place| place.machine == machine)
        || lying.volumes.iter().any(|place| place.copy.is_some_and(|copy| disks.contains(&copy)))
}
