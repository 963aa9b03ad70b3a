//! What must hold when a row is over: the machine runs once, on the right side, with everything it was promised, and
//! nothing is left on the other.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ferry_agent::{StateDir, truth_at_rest};
use ferry_api::{
    AgentApi, DriverKind, ErrorCode, MachineState, Ownership, StopReason, TruthRef, Verdict, Volume,
    VolumePhase, WorkerName,
};
use ferry_volume::client::BlockClient;
use ferry_volume::control::{self, Phase};
use tokio::time::{Instant, sleep};

use super::lane::{LOOK_EVERY, Lane, PATIENCE};
use crate::demo::acks::Entry;
use crate::demo::check::check_diary;
use crate::demo::machine_ref;
use crate::demo::processes::{self, runs_part};
use crate::output::in_one_line;

/// Waits until all is as it must be, and then reads back everything the machine was ever promised.
///
/// # Errors
/// What is not as it must be, as far as it is known.
pub async fn judge(lane: &Lane) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // What may never be need not be waited for.
        one_at_most(lane)?;
        let complaints = look(lane).await;
        if complaints.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("{} after {PATIENCE:?}", complaints.join("; "));
        }
        sleep(LOOK_EVERY).await;
    }
    lane.wait_for_records().await?;
    read_back(lane).await?;
    let (owner, home) = (owner(lane).await?, lane.seats[lane.home].name);
    if owner.as_str() != home {
        bail!("by the files of both workers {owner} has the machine and its volume, and not {home}");
    }
    one_at_most(lane)
}

/// Who has the machine and its volume by the files of both workers alone (`ferry truth`): that can always be told.
///
/// # Errors
/// It cannot, or they are at different workers.
pub async fn owner(lane: &Lane) -> Result<WorkerName> {
    // The source first: who hands over is looked at before who takes over.
    let seats = [&lane.seats[lane.home], &lane.seats[1 - lane.home]];
    let dirs = seats.map(|seat| StateDir { worker: None, dir: seat.dir.clone() });
    let of: TruthRef = machine_ref()?.to_string().parse()?;
    let asking = tokio::task::spawn_blocking(move || truth_at_rest(&dirs, &of));
    let truth = asking.await.context("asking for the truth broke off")??;
    let owners: Vec<_> = truth.subjects.iter().map(|subject| &subject.verdict).collect();
    match owners.as_slice() {
        [Verdict::Known { owner, .. }, Verdict::Known { owner: of_volume, .. }] if owner == of_volume => {
            Ok(owner.clone())
        }
        _ => bail!("by the files of both workers it is not certain who has the machine: {owners:?}"),
    }
}

/// At no time may two machines run, or two copies be written. Looks at what is now, and at what the diary tells.
///
/// # Errors
/// It is so, or was.
pub fn one_at_most(lane: &Lane) -> Result<()> {
    let machines = at_once(|| lane.machines());
    if machines.len() > 1 {
        bail!("the machine runs {} times: {machines:?}", machines.len());
    }
    if lane.entries()?.iter().any(|entry| matches!(entry, Entry::Clash { .. })) {
        bail!("the machine ran twice at a time");
    }
    let open =
        at_once(|| lane.seats.iter().flat_map(|seat| seat.copies()).filter(|dir| is_open(dir)).collect());
    if open.len() > 1 {
        bail!("two copies of the volume may be written: {open:?}");
    }
    Ok(())
}

/// What is there at one moment: a look takes a while, in which one may go and another come.
fn at_once<T: PartialEq>(look: impl Fn() -> Vec<T>) -> Vec<T> {
    let mut seen = look();
    if seen.len() > 1 {
        let still = look();
        seen.retain(|one| still.contains(one));
    }
    seen
}

/// Whether the server of a copy lets it be written.
fn is_open(dir: &Path) -> bool {
    let status = control::Client::connect(dir).and_then(|mut client| client.status());
    status.is_ok_and(|status| status.phase == Phase::Open)
}

/// What is not as it must be now.
async fn look(lane: &Lane) -> Vec<String> {
    let mut complaints = Vec::new();
    let looks = [home(lane, &mut complaints).await, away(lane, &mut complaints).await];
    complaints.extend(looks.into_iter().filter_map(Result::err).map(|error| in_one_line(&error)));
    complaints
}

async fn home(lane: &Lane, complaints: &mut Vec<String>) -> Result<()> {
    let seat = &lane.seats[lane.home];
    let mut must = |holds: bool, what| complaints.extend((!holds).then_some(what));
    let machine = lane.machine_on(lane.home).await?;
    let MachineState::Running { pid, .. } = machine.state else {
        bail!("the machine does not run on {}: {:?}", seat.name, machine.state)
    };
    for machines in [lane.machines(), lane.processes()] {
        must(machines == [pid], format!("the machine is {machines:?}, and {} says {pid}", seat.name));
    }
    let hooks = processes::find(|line| runs_part(line, &["drill-hook"], &lane.dir));
    must(hooks.is_empty(), format!("hooks of the machine still run: {hooks:?}"));
    let volume = lane.volume_on(lane.home).await?;
    let is_whole = volume.hydration.is_some_and(|hydration| hydration.complete) && volume.source.is_none();
    let is_ours = volume.ownership == Ownership::Ours && volume.phase == Some(VolumePhase::Open);
    must(is_whole, format!("the volume on {} still needs its source", seat.name));
    must(is_ours, format!("the volume on {} is {:?}, {:?}", seat.name, volume.ownership, volume.phase));
    must(volume.export_uri.is_none(), format!("{} still exports the volume", seat.name));
    let kept = kept(lane, &seat.client.volumes().await?);
    let (copies, servers) = (seat.copies(), processes::find(seat.is_server()));
    must(copies.len() == 1 + kept, format!("{} has {} copies of the volume", seat.name, copies.len()));
    must(servers.len() == 1, format!("{} volume servers run on {}", servers.len(), seat.name));
    let owed = seat.client.worker_safe_to_stop().await?.reasons;
    let is_free = owed.iter().all(|reason| matches!(reason, StopReason::Machine { .. }));
    must(is_free, format!("{} is not free: {owed:?}", seat.name));
    Ok(())
}

async fn away(lane: &Lane, complaints: &mut Vec<String>) -> Result<()> {
    let seat = &lane.seats[1 - lane.home];
    let mut must = |holds: bool, what| complaints.extend((!holds).then_some(what));
    match seat.client.machine(&machine_ref()?).await {
        Ok(machine) => must(
            matches!(machine.state, MachineState::HandedOver { .. }),
            format!("the machine on {} is {:?}", seat.name, machine.state),
        ),
        Err(refusal) if refusal.code == ErrorCode::NotFound => {}
        Err(refusal) => return Err(refusal.into()),
    }
    let volumes = seat.client.volumes().await?;
    let (kept, volumes) = (kept(lane, &volumes), volumes.len());
    must(volumes == kept, format!("{} still has records of {volumes} volumes", seat.name));
    let room = seat.client.worker_for(DriverKind::Process).await?.room;
    must(room.promised_bytes == 0, format!("{} still sets {} bytes aside", seat.name, room.promised_bytes));
    let (copies, servers) = (seat.copies(), processes::find(seat.is_server()));
    must(copies.len() == kept, format!("{} still has {} copies", seat.name, copies.len()));
    must(servers.is_empty(), format!("{} volume servers still run on {}", servers.len(), seat.name));
    let owed = seat.client.worker_safe_to_stop().await?.reasons;
    must(owed.is_empty(), format!("{} is not free: {owed:?}", seat.name));
    Ok(())
}

/// How many copies a worker keeps although nobody needs them, if it may.
fn kept(lane: &Lane, volumes: &[Volume]) -> usize {
    let retired = volumes.iter().filter(|volume| matches!(volume.ownership, Ownership::Retired { .. }));
    if lane.keeps_copies { retired.count() } else { 0 }
}

/// Every acknowledged record and every filled block, as the machine sees them, while it goes on.
async fn read_back(lane: &Lane) -> Result<()> {
    let (entries, layout) = (lane.entries()?, lane.layout);
    let uri = lane.volume_on(lane.home).await?.guest_uri;
    let checking = tokio::task::spawn_blocking(move || {
        check_diary(&mut BlockClient::connect_text(&uri)?, &layout, &entries)
    });
    let verdict = checking.await.context("checking broke off")?.context("the volume cannot be read back")?;
    if !verdict.is_good() || verdict.fill_bytes_checked != layout.fill_bytes || verdict.records_intact == 0 {
        let faults: Vec<String> = verdict.faults.iter().map(ToString::to_string).collect();
        bail!(
            "{} acknowledged records and {} filled blocks are not there: {}",
            verdict.records_wrong,
            verdict.fill_blocks_wrong,
            faults.join("; ")
        );
    }
    Ok(())
}
