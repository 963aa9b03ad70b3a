//! `ferry demo`: the whole path on one computer, with nothing installed and nothing configured.
//!
//! Two agents run as processes. A machine on the first keeps writing records; it moves to the second while its disk
//! follows; then every record it was ever promised is read back there. Invariant: the exit code is 0 only if all of
//! them are there, and nothing is left behind unless `--keep` asks for it.
//!
//! `layout` what is where on the volume · `records`, `writer`, `acks` the machine and its diary · `fill`, `check`
//! before and after · `workers`, `processes` the household · `summary` what came of it · `pieces` filling and verdict as hidden commands.

pub mod acks;
pub mod check;
mod disk;
pub mod fill;
pub mod layout;
pub mod pieces;
pub mod processes;
pub mod records;
mod summary;
pub mod workers;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ferry_api::{
    AgentApi, CreateMachine, Job, JobState, Machine, MachineRef, MachineSpec, MoveMode, NewVolume, Progress,
    StartMove, Volume, VolumeOrigin, VolumeRef,
};
use ferry_volume::client::BlockClient;

use crate::commands::job::{Followed, ending, follow};
use crate::exit::Exit;
use crate::output::bytes::{Bytes, Span};
use crate::output::live::Live;
use crate::output::{Paint, complain, say, say_json};
use layout::Layout;
use summary::{Interruption, Summary};
use workers::{Household, Worker, start_two};

/// What the filled data is computed from; any number would do.
pub const SEED: u64 = 0x0066_6572_7279;
const MACHINE: &str = "writer";
const VOLUME: &str = "data";
/// So many records are written before the machine moves, and again after it has moved.
const RECORDS_EACH_SIDE: usize = 250;
/// How long the writer may take for them.
const RECORDS_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often the diary and the filling are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the demo shall show.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Sizes.
    pub layout: Layout,
    /// Leave everything running.
    pub keep: bool,
    /// Summary as JSON and nothing else.
    pub json: bool,
}

/// Runs the demo and cleans up behind it.
///
/// # Errors
/// Something could not be done; then nothing is left behind either, unless `--keep` was given.
pub async fn run(options: DemoOptions) -> Result<Exit> {
    let mut household = Household::found()?;
    let ended = household.ended();
    let mut live = Live::new(options.json);
    let played = tokio::select! {
        played = play(options, &mut household, &mut live) => Some(played),
        never = ended.reap_for_ever() => Some(never.map(|never| match never {})),
        () = interrupted() => None,
    };
    live.clear();
    let Some(played) = played else {
        complain("interrupted; the demo ends and removes everything it has started");
        return Ok(Exit::Interrupted);
    };
    if let Ok(summary) = &played {
        if options.json {
            say_json(summary)?;
        } else {
            say(format_args!("\n{}", summary.for_people(Paint::for_stdout())))?;
        }
    }
    if options.keep {
        if !options.json {
            say(format_args!("\n{}", household.farewell()))?;
        }
        household.leave();
    }
    Ok(if played?.ok { Exit::Done } else { Exit::DataMissing })
}

/// Ends and removes the demo that was kept in `dir`.
///
/// # Errors
/// `dir` is not a demo's, or cannot be removed.
pub fn end_kept(dir: &Path) -> Result<Exit> {
    workers::end_kept(dir)?;
    say(format_args!("the demo in {} is ended and removed", dir.display()))?;
    Ok(Exit::Done)
}

/// Resolves when whoever is in front of this program wants it to end.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

async fn play(options: DemoOptions, household: &mut Household, live: &mut Live) -> Result<Summary> {
    live.now("workers", "start");
    let [source, target] = start_two(household).await?;
    live.done(
        "workers",
        &format!("{} at {}, {} at {}", source.name, source.client.url(), target.name, target.client.url()),
    )?;
    let stage = Stage { options, source, target, diary: household.dir.join("acks") };
    let machine = stage.create().await?;
    live.done(
        "machine",
        &format!("{MACHINE} on {}, with a volume of {}", stage.source.name, Bytes(options.layout.size_bytes)),
    )?;
    stage.fill(&machine, live).await?;
    stage.start(live).await?;
    let job = stage.cross(live).await?;
    stage.judge(&machine, job, live).await
}

/// What the acts of the demo share.
struct Stage {
    options: DemoOptions,
    source: Worker,
    target: Worker,
    diary: PathBuf,
}

impl Stage {
    /// A machine that is not started yet, so that its volume can be filled first.
    async fn create(&self) -> Result<Machine> {
        let create = writer_machine(self.options.layout, &self.diary, &[])?;
        Ok(self.source.client.machine_create(create).await?)
    }

    async fn fill(&self, machine: &Machine, live: &mut Live) -> Result<()> {
        let uri = volume_of(&self.source, machine).await?.guest_uri;
        let layout = self.options.layout;
        let began = Instant::now();
        let written = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&written);
        let mut filling = tokio::task::spawn_blocking(move || {
            let mut disk = BlockClient::connect_text(&uri)?;
            fill::fill(&mut disk, &layout, &mut |bytes| counter.store(bytes, Ordering::Relaxed))
        });
        let outcome = loop {
            tokio::select! {
                outcome = &mut filling => break outcome,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    live.progress("fill", &progress(written.load(Ordering::Relaxed), layout.fill_bytes, began))?;
                }
            }
        };
        outcome.context("filling the volume broke off")?.context("the volume cannot be filled")?;
        live.done("fill", &format!("{} of data in {}", Bytes(layout.fill_bytes), Span(began.elapsed())))?;
        Ok(())
    }

    async fn start(&self, live: &mut Live) -> Result<()> {
        live.now("write", "the machine writes records");
        self.source.client.machine_start(&machine_ref()?).await?;
        let records = self.wait_for_records(RECORDS_EACH_SIDE).await?;
        live.done("write", &format!("{records} records acknowledged, and it goes on"))?;
        Ok(())
    }

    async fn cross(&self, live: &mut Live) -> Result<Job> {
        live.line(&format!("\nferry move {MACHINE} --to {} --mode cold", self.target.name))?;
        // That a machine runs before its disk is there is what is to be seen.
        let start =
            StartMove { mode: MoveMode::Cold, ..StartMove::new(machine_ref()?, self.target.name.parse()?) };
        let job = self.source.client.move_start(start).await?;
        match follow(&self.source.client, job.id, live, |_| Ok(())).await? {
            Followed::Ended(job) if job.state == JobState::Succeeded => Ok(*job),
            Followed::Ended(job) => bail!("the {}", ending(&job)),
            // `run` has heard the same signal and ends everything.
            Followed::Left => std::future::pending().await,
        }
    }

    /// Reads back everything on the target, while the machine goes on writing.
    async fn judge(&self, machine: &Machine, job: Job, live: &mut Live) -> Result<Summary> {
        let seen = acks::acknowledged(&acks::read(&self.diary)?).count();
        self.wait_for_records(seen + RECORDS_EACH_SIDE).await?;
        let entries = acks::read(&self.diary)?;
        let interruption = Interruption::from_diary(&entries)
            .ok_or_else(|| anyhow!("the machine moved, but its diary shows no second start"))?;
        live.now("check", "reads back every acknowledged record and all data from the target");
        let volume = volume_of(&self.target, machine).await?;
        let hydration =
            volume.hydration.ok_or_else(|| anyhow!("the target's volume server does not answer"))?;
        let layout = self.options.layout;
        let check = tokio::task::spawn_blocking(move || {
            let mut disk = BlockClient::connect_text(&volume.guest_uri)?;
            check::check_diary(&mut disk, &layout, &entries)
        });
        let check =
            check.await.context("checking broke off")?.context("the target's volume cannot be read")?;
        Ok(Summary::new(layout.size_bytes, hydration, interruption, check, job))
    }

    /// Waits until the diary has `count` acknowledgements.
    async fn wait_for_records(&self, count: usize) -> Result<usize> {
        let deadline = Instant::now() + RECORDS_WAIT_MAX;
        loop {
            let records = acks::acknowledged(&acks::read(&self.diary)?).count();
            if records >= count {
                return Ok(records);
            }
            if Instant::now() > deadline {
                bail!("the machine wrote {records} records in all and does not go on");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A machine that is not started yet, and writes records to an empty volume of its own.
///
/// # Errors
/// The program does not find its own file, or a path is not UTF-8.
pub fn writer_machine(layout: Layout, diary: &Path, more: &[&str]) -> Result<CreateMachine> {
    let program = std::env::current_exe().context("this program cannot find its own file")?;
    let (diary, program) = (text_of(diary)?, text_of(&program)?);
    let (offset, len) = (layout.ring_offset().to_string(), layout.ring_bytes.to_string());
    let args = ["demo-writer", "--acks", &diary, "--ring-offset", &offset, "--ring-bytes", &len];
    let origin =
        VolumeOrigin::Empty { size_bytes: layout.size_bytes, region_bytes: None, store: None, direct: false };
    Ok(CreateMachine {
        name: MACHINE.parse()?,
        spec: MachineSpec::process(program, args.iter().chain(more).copied()),
        volumes: vec![NewVolume { name: VOLUME.parse()?, origin }],
        start: false,
    })
}

async fn volume_of(worker: &Worker, machine: &Machine) -> Result<Volume> {
    let volume =
        machine.volumes.first().ok_or_else(|| anyhow!("the machine was created without its volume"))?;
    Ok(worker.client.volume(&VolumeRef::Id(volume.volume)).await?)
}

/// The machine of the demo.
///
/// # Errors
/// None: its name is one.
pub fn machine_ref() -> Result<MachineRef> {
    Ok(MachineRef::Name(MACHINE.parse()?))
}

fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| anyhow!("the path {} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

/// How far filling is, in the words of a job.
fn progress(bytes_done: u64, bytes_total: u64, began: Instant) -> Progress {
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let rate_bytes_per_s = bytes_done.saturating_mul(1000) / elapsed_ms;
    let left_ms = (bytes_total - bytes_done).saturating_mul(1000).checked_div(rate_bytes_per_s);
    Progress { bytes_total, bytes_done, rate_bytes_per_s, eta_ms: left_ms, ..Progress::default() }
}
