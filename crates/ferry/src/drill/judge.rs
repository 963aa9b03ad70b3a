//! What must hold when a row is over: the machine runs once, on the right side, with everything it was promised, and
//! nothing is left on the other.

use anyhow::{Context, Result, bail};
use ferry_api::{AgentApi, ErrorCode, MachineState, Ownership, StopReason, VolumePhase};
use ferry_volume::client::BlockClient;
use ferry_volume::control::{self, Phase};
use tokio::time::{Instant, sleep};

use super::lane::{LOOK_EVERY, Lane, PATIENCE};
use crate::demo::acks::{self, Entry};
use crate::demo::check::check;
use crate::demo::machine_ref;
use crate::demo::processes;
use crate::demo::records::Ring;
use crate::output::in_one_line;

/// Waits until all is as it must be, and then reads back everything the machine was ever promised.
///
/// # Errors
/// What is not as it must be, as far as it is known.
pub async fn judge(lane: &Lane) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
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
    one_at_most(lane)
}

/// At no time may two machines run, or two copies be written. Looks at what is now, and at what the diary tells.
///
/// # Errors
/// It is so, or was.
pub fn one_at_most(lane: &Lane) -> Result<()> {
    let machines = lane.machines();
    if machines.len() > 1 {
        bail!("the machine runs {} times: {machines:?}", machines.len());
    }
    if lane.entries()?.iter().any(|entry| matches!(entry, Entry::Clash { .. })) {
        bail!("the machine ran twice at a time");
    }
    let is_open = |dir: &std::path::PathBuf| {
        let status = control::Client::connect(dir).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.phase == Phase::Open)
    };
    let open: Vec<_> = lane.seats.iter().flat_map(|seat| seat.copies()).filter(is_open).collect();
    if open.len() > 1 {
        bail!("two copies of the volume may be written: {open:?}");
    }
    Ok(())
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
    let mut must = |holds: bool, what: String| {
        if !holds {
            complaints.push(what);
        }
    };
    let machine = lane.machine_on(lane.home).await?;
    let MachineState::Running { pid, .. } = machine.state else {
        bail!("the machine does not run on {}: {:?}", seat.name, machine.state)
    };
    let machines = lane.machines();
    must(machines == [pid], format!("the machine is {machines:?}, and {} says {pid}", seat.name));
    let volume = lane.volume_on(lane.home).await?;
    let is_whole = volume.hydration.is_some_and(|hydration| hydration.complete) && volume.source.is_none();
    let is_ours = volume.ownership == Ownership::Ours && volume.phase == Some(VolumePhase::Open);
    must(is_whole, format!("the volume on {} still needs its source", seat.name));
    must(is_ours, format!("the volume on {} is {:?}, {:?}", seat.name, volume.ownership, volume.phase));
    must(volume.export_uri.is_none(), format!("{} still exports the volume", seat.name));
    let (copies, servers) = (seat.copies(), processes::find(seat.is_server()));
    must(copies.len() == 1, format!("{} has {} copies of the volume", seat.name, copies.len()));
    must(servers.len() == 1, format!("{} volume servers run on {}", servers.len(), seat.name));
    let owed = seat.client.worker_safe_to_stop().await?.reasons;
    let is_free = owed.iter().all(|reason| matches!(reason, StopReason::Machine { .. }));
    must(is_free, format!("{} is not free: {owed:?}", seat.name));
    Ok(())
}

async fn away(lane: &Lane, complaints: &mut Vec<String>) -> Result<()> {
    let seat = &lane.seats[1 - lane.home];
    let mut must = |holds: bool, what: String| {
        if !holds {
            complaints.push(what);
        }
    };
    match seat.client.machine(&machine_ref()?).await {
        Ok(machine) => must(
            matches!(machine.state, MachineState::HandedOver { .. }),
            format!("the machine on {} is {:?}", seat.name, machine.state),
        ),
        Err(refusal) if refusal.code == ErrorCode::NotFound => {}
        Err(refusal) => return Err(refusal.into()),
    }
    let volumes = seat.client.volumes().await?;
    must(volumes.is_empty(), format!("{} still has records of {} volumes", seat.name, volumes.len()));
    let room = seat.client.worker().await?.room;
    must(room.promised_bytes == 0, format!("{} still sets {} bytes aside", seat.name, room.promised_bytes));
    let (copies, servers) = (seat.copies(), processes::find(seat.is_server()));
    must(copies.is_empty(), format!("{} still has {} copies", seat.name, copies.len()));
    must(servers.is_empty(), format!("{} volume servers still run on {}", servers.len(), seat.name));
    let owed = seat.client.worker_safe_to_stop().await?.reasons;
    must(owed.is_empty(), format!("{} is not free: {owed:?}", seat.name));
    Ok(())
}

/// Every acknowledged record and every filled block, as the machine sees them, while it goes on.
async fn read_back(lane: &Lane) -> Result<()> {
    let (entries, layout) = (lane.entries()?, lane.layout);
    let uri = lane.volume_on(lane.home).await?.guest_uri;
    let checking = tokio::task::spawn_blocking(move || {
        let ring =
            Ring::new(layout.ring_offset(), layout.ring_bytes).expect("the layout leaves room for records");
        let acks: Vec<_> = acks::acknowledged(&entries).collect();
        check(&mut BlockClient::connect_text(&uri)?, &layout, ring, &acks)
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
