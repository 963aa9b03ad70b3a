//! What was meant: the typed words as values of the API. Whatever is wrong with them is found here, before anything
//! is asked of an agent; behind this door nothing is checked again.

pub mod asked;
mod cluster;
mod drain;
mod health;
mod hooks_file;
mod limits_file;
mod loss;
pub mod machine_file;
mod oci_file;
mod pace;
mod rebalance;
mod truth;
mod vm_file;
mod when;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ferry_agent::StateDir;
use ferry_api::http::Client;
use ferry_api::{
    AbandonSource, AskApiToken, AskCordon, AskGarbage, AskJoinToken, AskRebalance, AttachVolume, CancelMove,
    ChangeSources, CreateMachine, DestroyMachine, DetachVolume, Driver, ForkVolume, GrowVolume, Hooks,
    ImportVolume, JobId, MachineRef, MachineSpec, MoveMode, MoveTo, NewVolume, OnSourceLoss, PaceVolume,
    PaceWorker, ProcessSpec, RestartPolicy, Revoke, ShutDownWorker, StartMove, StartMoves, StartRebalance,
    TruthRef, UndoMove, VolumeName, VolumeOrigin, VolumeRef, WorkerName,
};

use crate::args::{self, Typed};
use crate::commands::drain::Wish;
use crate::commands::gc::Wanted;
use crate::demo::layout::Layout;
use crate::demo::pieces::Piece;
use crate::demo::records::Ring;
use crate::demo::writer::WriterOptions;
use crate::demo::{self, DemoOptions};
use crate::doctor::Whose;
use crate::drill::hook::HookOptions;
use crate::drill::{AT_ONCE_MAX, Choice, DrillOptions};
use crate::output::bytes::parse_size;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The words were wrong; one sentence that says what and how to put it right.
#[derive(Debug)]
pub struct Misuse(pub String);

/// What the program shall do.
#[derive(Debug)]
pub enum Meant {
    /// Show the demo.
    Demo(DemoOptions),
    /// End a demo that was kept.
    DemoEnd {
        /// Its directory.
        dir: PathBuf,
    },
    /// Drill moves.
    Drill(DrillOptions),
    /// Be the demo's machine.
    DemoWriter(WriterOptions),
    /// Stand for a VM in a drill.
    DrillVm(Vec<OsString>),
    /// Be a hook of the machine of a drill.
    DrillHook(HookOptions),
    /// Fill a volume as the demo does.
    DemoFill(Piece),
    /// Check a volume as the demo does.
    DemoCheck {
        /// The volume.
        piece: Piece,
        /// The diary of its writer.
        diary: PathBuf,
    },
    /// Tell what this host offers.
    Doctor {
        /// For which worker.
        whose: Whose,
        /// As JSON.
        json: bool,
    },
    /// Tell which is the real one by the files of workers alone.
    TruthAtRest {
        /// Their state directories.
        dirs: Vec<StateDir>,
        /// What is asked about.
        of: TruthRef,
        /// As JSON.
        json: bool,
    },
    /// Be an agent.
    Agent {
        /// Its configuration file.
        config: PathBuf,
        /// The socket of a drill.
        drill: Option<PathBuf>,
    },
    /// Make a cluster of a worker.
    ClusterInit {
        /// The configuration file of its agent.
        config: PathBuf,
        /// As JSON.
        json: bool,
    },
    /// Have a worker join a cluster.
    AgentJoin {
        /// The configuration file of its agent.
        config: PathBuf,
        /// The token.
        token: String,
        /// Where the cluster's first worker is, if not where the token says.
        address: Option<String>,
        /// As JSON.
        json: bool,
    },
    /// Be the first process of a machine, or the one that keeps it.
    MachineInit(args::MachineInit),
    /// Try how a machine is.
    MachineProbe(String),
    /// Be a volume server.
    VolumeServer(args::VolumeServer),
    /// Ask an agent.
    Ask(Box<Asked>),
}

/// A question to an agent.
#[derive(Debug)]
pub struct Asked {
    /// The agent.
    pub agent: Client,
    /// Whether facts are printed as JSON.
    pub json: bool,
    /// The question.
    pub question: Question,
}

/// What can be asked of an agent.
#[derive(Debug)]
pub enum Question {
    /// `machine create`
    MachineCreate(Box<CreateMachine>),
    /// `machine start`
    MachineStart(MachineRef),
    /// `machine stop`
    MachineStop(MachineRef),
    /// `machine spec`
    MachineSpec(MachineRef),
    /// `machine list`
    MachineList,
    /// `machine show`
    MachineShow(MachineRef),
    /// `machine console`
    MachineConsole(MachineRef),
    /// `machine logs`
    MachineLogs {
        /// Whose.
        machine: MachineRef,
        /// How many of the last lines; all if not given.
        lines: Option<u64>,
        /// Whether it goes on with what comes.
        follow: bool,
    },
    /// `machine destroy`
    MachineDestroy(MachineRef, DestroyMachine),
    /// `service list`
    ServiceList,
    /// `volume import`
    VolumeImport(ImportVolume),
    /// `volume list`
    VolumeList,
    /// `volume show`
    VolumeShow(VolumeRef),
    /// `volume pace`
    VolumePace(VolumeRef, PaceVolume),
    /// `volume verify`, against the receipt of a job or in a file
    VolumeVerify(VolumeRef, Option<String>),
    /// `volume fork`
    VolumeFork(VolumeRef, ForkVolume),
    /// `volume grow`
    VolumeGrow(VolumeRef, GrowVolume),
    /// `volume attach`
    VolumeAttach(VolumeRef, AttachVolume),
    /// `volume detach`
    VolumeDetach(VolumeRef, DetachVolume),
    /// `volume on-source-loss`
    VolumeOnSourceLoss(VolumeRef, OnSourceLoss),
    /// `volume source add` and `remove`
    VolumeChangeSources(VolumeRef, ChangeSources),
    /// `volume source list`
    VolumeSources(VolumeRef),
    /// `volume abandon-source`
    VolumeAbandonSource(VolumeRef, AbandonSource),
    /// `volume delete`
    VolumeDelete(VolumeRef),
    /// `move` of several machines
    Moves {
        /// The wish.
        start: StartMoves,
        /// Whether to watch it.
        follow: bool,
    },
    /// `move`
    Move {
        /// The wish.
        start: StartMove,
        /// Whether to watch it.
        follow: bool,
    },
    /// `move --plan`
    MovePlan(StartMove),
    /// `move --undo`
    MoveUndo {
        /// The wish; instead of a machine it may name the move.
        undo: UndoMove,
        /// Whether to watch it.
        follow: bool,
    },
    /// `move --cancel`
    MoveCancel {
        /// The wish.
        cancel: CancelMove,
        /// Whether to wait for its end.
        follow: bool,
    },
    /// `job list`
    JobList {
        /// How many of those that have ended.
        ended_max: u64,
    },
    /// `job export`
    JobExport {
        /// Only those taken on since, in milliseconds since 1970.
        since_ms: u64,
    },
    /// `job show`
    JobShow(JobId),
    JobReceipt(JobId),
    /// `job watch`
    JobWatch(JobId),
    /// `job cancel`
    JobCancel(JobId),
    /// `job resume`
    JobResume(JobId),
    /// `gc`
    Gc(Wanted),
    /// `truth`
    Truth(TruthRef),
    /// `worker show`
    WorkerShow,
    /// `worker metrics`
    WorkerMetrics,
    /// `worker safe-to-stop`
    WorkerSafeToStop {
        /// Whether machines that run here do not count.
        machines_may_stop: bool,
    },
    /// `worker shutdown`
    WorkerShutDown(ShutDownWorker),
    /// `worker pace`
    WorkerPace(PaceWorker),
    /// `worker cordon`, of another worker if one is named
    WorkerCordon(Option<WorkerName>, AskCordon),
    /// `worker uncordon`, of another worker if one is named
    WorkerUncordon(Option<WorkerName>),
    /// `drain`
    Drain {
        /// Which worker.
        worker: WorkerName,
        /// What is wanted.
        wish: Wish,
        /// Whether to watch it.
        follow: bool,
    },
    /// `top`
    Top {
        /// Whether to look only once.
        once: bool,
    },
    /// `rebalance --plan`
    RebalancePlan(AskRebalance),
    /// `rebalance --apply`
    RebalanceApply {
        /// What is to be done.
        start: Box<StartRebalance>,
        /// Whether to watch it.
        follow: bool,
    },
    /// `directory`
    Directory,
    /// `placement explain`
    PlacementExplain(MachineRef),
    /// `cluster status`
    ClusterStatus,
    /// `cluster token`
    ClusterToken(AskJoinToken),
    /// `cluster api-token`
    ClusterApiToken(AskApiToken),
    /// `cluster revoke`
    ClusterRevoke(Revoke),
}

impl Meant {
    /// Finds out what the typed words mean.
    ///
    /// # Errors
    /// [`Misuse`] with the sentence for the person.
    pub fn from_typed(typed: Typed) -> Result<Self, Misuse> {
        match typed.command {
            args::Command::Demo(args::Demo { end: Some(dir), .. }) => Ok(Self::DemoEnd { dir }),
            args::Command::Demo(demo) => Ok(Self::Demo(demo_options(&demo)?)),
            args::Command::Drill(drill) => Ok(Self::Drill(drill_options(drill))),
            args::Command::DemoWriter(writer) => Ok(Self::DemoWriter(writer_options(writer)?)),
            args::Command::DrillVm { words } => Ok(Self::DrillVm(words)),
            args::Command::DrillHook { ledger, socket } => {
                Ok(Self::DrillHook(HookOptions { ledger, socket }))
            }
            args::Command::DemoFill(piece) => Ok(Self::DemoFill(demo_piece(piece))),
            args::Command::DemoCheck { piece, acks } => {
                Ok(Self::DemoCheck { piece: demo_piece(piece), diary: acks })
            }
            args::Command::Doctor { config: Some(config), json, .. } => {
                Ok(Self::Doctor { whose: Whose::Config(config), json })
            }
            args::Command::Doctor { config: None, state_dir, json } => {
                let state_dir = std::path::absolute(state_dir).map_err(|e| Misuse(e.to_string()))?;
                Ok(Self::Doctor { whose: Whose::StateDir(state_dir), json })
            }
            args::Command::Agent { instead: Some(args::cluster::Agent::Join(join)), .. } => {
                cluster::join(join)
            }
            args::Command::Agent { instead: None, config, drill } => {
                let config = config.ok_or_else(|| Misuse("an agent needs its --config".to_owned()))?;
                Ok(Self::Agent { config, drill })
            }
            args::Command::Cluster(typed) => cluster::question(typed),
            args::Command::MachineInit(init) => Ok(Self::MachineInit(init)),
            args::Command::MachineProbe { words } => Ok(Self::MachineProbe(words)),
            args::Command::VolumeServer(server) => Ok(Self::VolumeServer(server)),
            args::Command::Machine(machine) => machine_question(machine),
            args::Command::Service(args::service::Service::List { asking }) => {
                ask(&asking, Question::ServiceList)
            }
            args::Command::Volume(volume) => volume_question(volume),
            args::Command::Move(wish) => move_question(wish),
            args::Command::Job(job) => job_question(job),
            args::Command::Gc(gc) => {
                let ask_for = AskGarbage { retained: gc.retained };
                ask(&gc.asking, Question::Gc(Wanted { ask: ask_for, dry_run: gc.dry_run, all: gc.all }))
            }
            args::Command::Directory { asking } => ask(&asking, Question::Directory),
            args::Command::Truth(typed) => truth::question(typed),
            args::Command::Worker(worker) => worker_question(worker),
            args::Command::Drain(typed) => drain::question(typed),
            args::Command::Top { once, asking } => ask(&asking, Question::Top { once }),
            args::Command::Rebalance(typed) => rebalance::question(typed),
            args::Command::Placement(args::placement::Placement::Explain { machine, asking }) => {
                ask(&asking, Question::PlacementExplain(parsed(&machine)?))
            }
        }
    }
}

fn ask(asking: &args::Asking, question: Question) -> Result<Meant, Misuse> {
    let agent = asked::agent(asking)?;
    Ok(Meant::Ask(Box::new(Asked { agent, json: asking.json, question })))
}

fn worker_question(worker: args::Worker) -> Result<Meant, Misuse> {
    match worker {
        args::Worker::Show { asking } => ask(&asking, Question::WorkerShow),
        args::Worker::Metrics { asking } => ask(&asking, Question::WorkerMetrics),
        args::Worker::SafeToStop { machines_may_stop, asking } => {
            ask(&asking, Question::WorkerSafeToStop { machines_may_stop })
        }
        args::Worker::Shutdown { machines_may_stop, force, asking } => {
            ask(&asking, Question::WorkerShutDown(ShutDownWorker { machines_may_stop, force }))
        }
        args::Worker::Cordon { worker, reason, asking } => {
            let worker = worker.map(|worker| parsed(&worker)).transpose()?;
            ask(&asking, Question::WorkerCordon(worker, AskCordon { reason }))
        }
        args::Worker::Uncordon { worker, asking } => {
            let worker = worker.map(|worker| parsed(&worker)).transpose()?;
            ask(&asking, Question::WorkerUncordon(worker))
        }
        args::Worker::Pace { max, from, asking } => {
            let from = from.as_deref().map(parsed).transpose()?;
            let pace = PaceWorker { budget_bytes_per_s: pace::budget(&max)?, from };
            ask(&asking, Question::WorkerPace(pace))
        }
    }
}

fn drill_options(drill: args::Drill) -> DrillOptions {
    let choice = match (drill.pairs, drill.all) {
        (_, true) => Choice::All,
        (true, false) => Choice::Pairs,
        (false, false) => Choice::Quick,
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let at_once =
        drill.at_once.unwrap_or_else(|| u8::try_from(2 * cores).unwrap_or(u8::MAX).min(AT_ONCE_MAX));
    DrillOptions {
        choice,
        only: drill.only,
        every: usize::try_from(drill.every).unwrap_or(usize::MAX),
        list: drill.list,
        at_once,
        dir: drill.dir,
        keep: drill.keep,
        json: drill.json,
    }
}

fn demo_options(demo: &args::Demo) -> Result<DemoOptions, Misuse> {
    let layout = Layout::plan(demo.size, demo.used, demo::SEED).map_err(|error| Misuse(error.to_string()))?;
    Ok(DemoOptions { layout, keep: demo.keep, json: demo.json })
}

fn demo_piece(piece: args::DemoPiece) -> Piece {
    Piece { uri: piece.uri, used_bytes: piece.used }
}

fn writer_options(writer: args::DemoWriter) -> Result<WriterOptions, Misuse> {
    let ring = Ring::new(writer.ring_offset, writer.ring_bytes)
        .ok_or_else(|| Misuse(format!("--ring-bytes {} holds no record", writer.ring_bytes)))?;
    Ok(WriterOptions { uri: writer.uri, acks: writer.acks, ring, interval: writer.interval })
}

fn machine_question(machine: args::Machine) -> Result<Meant, Misuse> {
    match machine {
        args::Machine::Create(create) => {
            ask(&create.asking.clone(), Question::MachineCreate(Box::new(create_machine(create)?)))
        }
        args::Machine::Start { machine, asking } => ask(&asking, Question::MachineStart(parsed(&machine)?)),
        args::Machine::Stop { machine, asking } => ask(&asking, Question::MachineStop(parsed(&machine)?)),
        args::Machine::Spec { machine, asking } => ask(&asking, Question::MachineSpec(parsed(&machine)?)),
        args::Machine::List { asking } => ask(&asking, Question::MachineList),
        args::Machine::Show { machine, asking } => ask(&asking, Question::MachineShow(parsed(&machine)?)),
        args::Machine::Console { machine, asking } => {
            ask(&asking, Question::MachineConsole(parsed(&machine)?))
        }
        args::Machine::Logs { machine, follow, lines, asking } => {
            ask(&asking, Question::MachineLogs { machine: parsed(&machine)?, lines, follow })
        }
        args::Machine::Destroy { machine, stop, asking } => {
            ask(&asking, Question::MachineDestroy(parsed(&machine)?, DestroyMachine { stop }))
        }
    }
}

fn create_machine(create: args::MachineCreate) -> Result<CreateMachine, Misuse> {
    let name = create.name.as_deref().map(parsed).transpose()?;
    if let Some(file) = &create.file {
        return machine_file::read(file, name, !create.stopped);
    }
    let name = name.ok_or_else(|| Misuse("a machine needs a NAME, or a --file that says it".to_owned()))?;
    let mut words = create.command.into_iter();
    let command = words.next().ok_or_else(|| Misuse("a machine needs a COMMAND after `--`".to_owned()))?;
    let mut volumes: Vec<NewVolume> = Vec::new();
    for typed in &create.volumes {
        let volume = new_volume(typed)?;
        if volumes.iter().any(|known| known.name == volume.name) {
            return Err(Misuse(format!(
                "--volume {} is given twice; name each disk differently",
                volume.name
            )));
        }
        volumes.push(volume);
    }
    Ok(CreateMachine {
        name,
        spec: MachineSpec {
            driver: Driver::Process(ProcessSpec {
                command,
                args: words.collect(),
                env: environment(&create.env)?,
                workdir: create.workdir,
            }),
            stop_signal: parsed(&create.stop_signal)?,
            stop_grace_ms: u64::try_from(create.grace.as_millis())
                .map_err(|_| Misuse("--grace is longer than a machine can be waited for".to_owned()))?,
            restart: restart_policy(&create.restart)?,
            mounts: BTreeMap::new(),
            isolation: None,
            services: Vec::new(),
            health: None,
            limits: ferry_api::Limits::default(),
            placement: ferry_api::Placement::default(),
            hooks: Hooks::default(),
        },
        volumes,
        start: !create.stopped,
    })
}

/// `NAME=SIZE` or `NAME=VOLUME`. What reads as a size is one.
fn new_volume(typed: &str) -> Result<NewVolume, Misuse> {
    let how =
        "write --volume NAME=SIZE for an empty disk, as in data=8GiB, or NAME=VOLUME for an imported one";
    let (name, origin) =
        typed.split_once('=').ok_or_else(|| Misuse(format!("'{typed}' is not a disk; {how}")))?;
    let name: VolumeName = parsed(name)?;
    let mut words = origin.split(',');
    let (origin, rest) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
    let origin = match (parse_size(origin), origin.parse::<VolumeRef>()) {
        (Ok(size_bytes), _) => empty_volume(size_bytes, rest)?,
        (Err(_), Ok(volume)) if rest.is_empty() => VolumeOrigin::Existing { volume },
        (Err(_), Ok(volume)) => {
            let why =
                "has its store already; ,store= and ,direct are for empty disks and for `volume import`";
            return Err(Misuse(format!("'{volume}' {why}")));
        }
        (Err(why), Err(_)) if origin.starts_with(|c: char| c.is_ascii_digit()) => return Err(Misuse(why)),
        (Err(_), Err(_)) => {
            return Err(Misuse(format!("'{origin}' is neither a size nor a volume; {how}")));
        }
    };
    Ok(NewVolume { name, origin })
}

/// What follows the size of an empty disk: `store=DEVICE`, `direct`.
fn empty_volume(size_bytes: u64, words: Vec<&str>) -> Result<VolumeOrigin, Misuse> {
    let (mut store, mut direct) = (None, false);
    for word in words {
        match word.split_once('=') {
            Some(("store", device)) if !device.is_empty() => store = Some(PathBuf::from(device)),
            None if word == "direct" => direct = true,
            Some(_) | None => {
                let how =
                    "after the size write ,store=DEVICE or ,direct, as in data=8GiB,store=/dev/vg0/data";
                return Err(Misuse(format!("'{word}' is nothing that a disk can have; {how}")));
            }
        }
    }
    Ok(VolumeOrigin::Empty { size_bytes, region_bytes: None, store, direct })
}

fn environment(typed: &[String]) -> Result<BTreeMap<String, String>, Misuse> {
    let mut env = BTreeMap::new();
    for pair in typed {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Misuse(format!("'{pair}' is not a variable; write --env KEY=VALUE")))?;
        if env.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Misuse(format!("--env {key} is given twice; give it once")));
        }
    }
    Ok(env)
}

fn restart_policy(typed: &str) -> Result<RestartPolicy, Misuse> {
    match typed {
        "always" => Ok(RestartPolicy::Always),
        "on-failure" => Ok(RestartPolicy::OnFailure),
        "never" => Ok(RestartPolicy::Never),
        _ => Err(Misuse(format!("'{typed}' is no restart policy; use always, on-failure or never"))),
    }
}

fn volume_question(volume: args::Volume) -> Result<Meant, Misuse> {
    match volume {
        args::Volume::Import { name, from, size, store, direct, asking } => {
            let import = ImportVolume {
                id: None,
                name: parsed(&name)?,
                source: import_source(&from)?,
                size_bytes: size,
                region_bytes: None,
                store,
                direct,
            };
            ask(&asking, Question::VolumeImport(import))
        }
        args::Volume::List { asking } => ask(&asking, Question::VolumeList),
        args::Volume::Show { volume, asking } => ask(&asking, Question::VolumeShow(parsed(&volume)?)),
        args::Volume::Verify { volume, receipt, asking } => {
            ask(&asking, Question::VolumeVerify(parsed(&volume)?, receipt))
        }
        args::Volume::Pace { volume, max, guard, finish_by, asking } => {
            let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
            let pace = pace::of_volume(max.as_deref(), guard.as_deref(), finish_by.as_deref(), now_ms)?;
            ask(&asking, Question::VolumePace(parsed(&volume)?, pace))
        }
        args::Volume::Fork { volume, name, to, asking } => {
            let to = to.map(|to| parsed(&to)).transpose()?;
            ask(&asking, Question::VolumeFork(parsed(&volume)?, ForkVolume { name: parsed(&name)?, to }))
        }
        args::Volume::Grow { volume, size, asking } => {
            ask(&asking, Question::VolumeGrow(parsed(&volume)?, GrowVolume { size_bytes: size }))
        }
        args::Volume::Attach { volume, frontend, asking } => {
            let frontend = match frontend.as_str() {
                "auto" => None,
                named => Some(parsed(named)?),
            };
            ask(&asking, Question::VolumeAttach(parsed(&volume)?, AttachVolume { frontend }))
        }
        args::Volume::Detach { volume, frontend, asking } => {
            let frontend = frontend.as_deref().map(parsed).transpose()?;
            ask(&asking, Question::VolumeDetach(parsed(&volume)?, DetachVolume { frontend }))
        }
        args::Volume::OnSourceLoss { volume, policy, asking } => {
            let wish = OnSourceLoss { policy: loss::policy(&policy)? };
            ask(&asking, Question::VolumeOnSourceLoss(parsed(&volume)?, wish))
        }
        args::Volume::Source(sources) => volume_sources(sources),
        args::Volume::AbandonSource { volume, lose, force, asking } => {
            let abandon = AbandonSource { lose_bytes: lose, force };
            ask(&asking, Question::VolumeAbandonSource(parsed(&volume)?, abandon))
        }
        args::Volume::Delete { volume, asking } => ask(&asking, Question::VolumeDelete(parsed(&volume)?)),
    }
}

fn volume_sources(typed: args::VolumeSources) -> Result<Meant, Misuse> {
    match typed {
        args::VolumeSources::Add { volume, uri, asking } => {
            let add = ChangeSources::Add(source_uri(&uri)?);
            ask(&asking, Question::VolumeChangeSources(parsed(&volume)?, add))
        }
        args::VolumeSources::Remove { volume, uri, asking } => {
            let remove = ChangeSources::Remove(source_uri(&uri)?);
            ask(&asking, Question::VolumeChangeSources(parsed(&volume)?, remove))
        }
        args::VolumeSources::List { volume, asking } => {
            ask(&asking, Question::VolumeSources(parsed(&volume)?))
        }
    }
}

/// As [`import_source`], with a file as a URI, too.
fn source_uri(typed: &str) -> Result<String, Misuse> {
    let source = import_source(typed)?;
    Ok(if source.contains("://") { source } else { format!("file://{source}") })
}

/// A URI stays as it is. A path is made absolute here, because the agent has another working directory.
fn import_source(typed: &str) -> Result<String, Misuse> {
    if typed.contains("://") {
        return Ok(typed.to_owned());
    }
    if typed.is_empty() {
        return Err(Misuse("the source is empty; give a raw file or an NBD URI".to_owned()));
    }
    let absolute = std::path::absolute(Path::new(typed))
        .map_err(|error| Misuse(format!("'{typed}' cannot be made an absolute path: {error}")))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| Misuse(format!("the path of '{typed}' is not UTF-8; rename the file or link to it")))
}

fn move_question(wish: args::Move) -> Result<Meant, Misuse> {
    let retention_hours = retention_hours(wish.retention)?;
    let follow = !wish.detach;
    let machines =
        wish.machines.iter().map(|machine| parsed(machine)).collect::<Result<Vec<MachineRef>, _>>()?;
    let only = |what: &str| match machines.as_slice() {
        [machine] => Ok(machine.clone()),
        _ => Err(Misuse(format!("{what} is about one machine; name one"))),
    };
    let question = match wish.to {
        Some(to) => {
            let at_ms = wish.at.as_deref().map(|at| when::at_ms(at, &jiff::Zoned::now())).transpose()?;
            let (after_ms, within_ms) = (wish.after.map(when::span_ms), wish.deadline.map(when::span_ms));
            let (to, undo_unhealthy): (MoveTo, _) = (parsed(&to)?, wish.undo_unhealthy);
            let force = wish.force;
            let mode = mode_of(wish.mode);
            match machines.as_slice() {
                [_] if to == MoveTo::Auto && (at_ms.is_some() || after_ms.is_some()) => {
                    let why = "--to auto chooses a worker when it is asked; name one, or leave out --at and --after";
                    return Err(Misuse(why.to_owned()));
                }
                [machine] => {
                    let start = StartMove::new(machine.clone(), to);
                    let start = StartMove {
                        retention_hours,
                        at_ms,
                        after_ms,
                        within_ms,
                        mode,
                        undo_unhealthy,
                        force,
                        ..start
                    };
                    if wish.plan { Question::MovePlan(start) } else { Question::Move { start, follow } }
                }
                _ if wish.plan => return Err(Misuse("--plan is about one machine; name one".to_owned())),
                _ => {
                    let MoveTo::Worker(to) = to else {
                        return Err(Misuse("--to auto is about one machine; name one".to_owned()));
                    };
                    let start = StartMoves {
                        machines,
                        to,
                        retention_hours,
                        at_ms,
                        after_ms,
                        within_ms,
                        mode,
                        undo_unhealthy,
                        force,
                    };
                    Question::Moves { start, follow }
                }
            }
        }
        None if wish.cancel => {
            Question::MoveCancel { cancel: CancelMove { machine: only("--cancel")? }, follow }
        }
        None => Question::MoveUndo {
            undo: UndoMove { machine: only("--undo")?, of: None, retention_hours },
            follow,
        },
    };
    ask(&wish.asking, question)
}

fn retention_hours(typed: Option<Duration>) -> Result<Option<u64>, Misuse> {
    match typed {
        Some(span) if span.as_secs() % HOUR.as_secs() != 0 || span.subsec_nanos() != 0 => {
            Err(Misuse("--retention is in whole hours, as in 24h".to_owned()))
        }
        Some(span) => Ok(Some(span.as_secs() / HOUR.as_secs())),
        None => Ok(None),
    }
}

fn mode_of(typed: args::Mode) -> MoveMode {
    match typed {
        args::Mode::Cold => MoveMode::Cold,
        args::Mode::Warm => MoveMode::Warm,
        args::Mode::Auto => MoveMode::Auto,
        args::Mode::Live => MoveMode::Live,
    }
}

fn job_question(job: args::Job) -> Result<Meant, Misuse> {
    match job {
        args::Job::List { limit, all, asking } => {
            ask(&asking, Question::JobList { ended_max: if all { u64::MAX } else { limit } })
        }
        args::Job::Export { since, asking } => {
            let since_ms = since.map_or(Ok(0), |since| when::since_ms(&since, &jiff::Zoned::now()))?;
            ask(&asking, Question::JobExport { since_ms })
        }
        args::Job::Receipt { job, asking } => ask(&asking, Question::JobReceipt(parsed(&job)?)),
        args::Job::Show { job, asking } => ask(&asking, Question::JobShow(parsed(&job)?)),
        args::Job::Watch { job, asking } => ask(&asking, Question::JobWatch(parsed(&job)?)),
        args::Job::Cancel { job, asking } => ask(&asking, Question::JobCancel(parsed(&job)?)),
        args::Job::Resume { job, asking } => ask(&asking, Question::JobResume(parsed(&job)?)),
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(typed: &str) -> Result<T, Misuse> {
    typed.parse().map_err(|error: T::Err| Misuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn meant(line: &str) -> Result<Meant, Misuse> {
        Meant::from_typed(Typed::try_parse_from(line.split(' ')).unwrap())
    }

    fn question(line: &str) -> Question {
        let Meant::Ask(asked) = meant(line).unwrap() else { panic!("{line} asks no agent") };
        asked.question
    }

    fn misuse(line: &str) -> String {
        meant(line).unwrap_err().0
    }

    #[test]
    fn a_machine_is_created_as_typed() {
        let line = "ferry machine create web --volume data=8GiB,store=/dev/vg0/data,direct --volume log=old-log --env A=1=2 \
                    --stop-signal SIGINT --grace 10s --restart on-failure --stopped -- sleep -x 1";
        let Question::MachineCreate(create) = question(line) else { panic!() };
        assert_eq!(create.name.as_str(), "web");
        let (size_bytes, store) = (8 << 30, Some("/dev/vg0/data".into()));
        let empty = VolumeOrigin::Empty { size_bytes, region_bytes: None, store, direct: true };
        assert_eq!(create.volumes[0].origin, empty);
        assert_eq!(create.volumes[1].origin, VolumeOrigin::Existing { volume: "old-log".parse().unwrap() });
        assert_eq!(create.spec.stop_signal.to_string(), "INT");
        assert_eq!(create.spec.stop_grace_ms, 10_000);
        assert_eq!(create.spec.restart, RestartPolicy::OnFailure);
        assert!(!create.start);
        let ProcessSpec { command, args, env, workdir } = create.spec.driver.as_process().cloned().unwrap();
        assert_eq!((command.as_str(), args), ("sleep", vec!["-x".to_owned(), "1".to_owned()]));
        assert_eq!(env["A"], "1=2");
        assert_eq!(workdir, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_one_sentence_that_helps() {
        let cases = [
            ("ferry machine create web --volume data -- true", "data=8GiB"),
            ("ferry machine create web --volume data=8GB -- true", "write KiB, MiB, GiB or TiB"),
            ("ferry machine create web --volume data=-1 -- true", "neither a size nor a volume"),
            ("ferry machine create web --volume data=1GiB,fast -- true", "store=/dev/vg0/data"),
            ("ferry machine create web --volume data=1GiB,store= -- true", "store=/dev/vg0/data"),
            ("ferry machine create web --volume data=old,direct -- true", "has its store already"),
            ("ferry machine create web --volume d=1GiB --volume d=2GiB -- true", "given twice"),
            ("ferry machine create web --env A -- true", "KEY=VALUE"),
            ("ferry machine create web --env A=1 --env A=2 -- true", "given twice"),
            ("ferry machine create We/b -- true", "is not a name"),
            ("ferry machine create web --restart sometimes -- true", "always, on-failure or never"),
            ("ferry machine create web --stop-signal WINCH -- true", "TERM, INT"),
            ("ferry volume pace web --max 50MB", "50MiB, or none"),
            ("ferry volume pace web --max 0", "at least 1 byte"),
            ("ferry job show web", "is not an id"),
            ("ferry machine list --agent somewhere", "http://127.0.0.1:7433"),
            ("ferry move web --to w2 --retention 90m", "whole hours"),
            ("ferry demo --size 256MiB --used 256MiB", "larger --size"),
        ];
        for (line, part) in cases {
            let sentence = misuse(line);
            assert!(sentence.contains(part), "{line}: {sentence}");
            assert!(!sentence.contains('\n'), "{line}: {sentence}");
        }
    }

    #[test]
    fn a_frontend_is_chosen_for_those_who_do_not_name_one() {
        let attached = |line: &str| {
            let Question::VolumeAttach(_, AttachVolume { frontend }) = question(line) else {
                panic!("{line} is no attachment")
            };
            frontend
        };
        assert_eq!(attached("ferry volume attach web"), None);
        assert_eq!(attached("ferry volume attach web --frontend fuse"), Some(ferry_api::Frontend::Fuse));
        let Question::VolumeDetach(_, DetachVolume { frontend: None }) = question("ferry volume detach web")
        else {
            panic!("it takes all away")
        };
    }

    #[test]
    fn a_growth_names_the_size_that_the_volume_shall_have() {
        let Question::VolumeGrow(volume, grow) = question("ferry volume grow web 40GiB") else {
            panic!("it is a growth")
        };
        assert_eq!((volume.to_string().as_str(), grow), ("web", GrowVolume { size_bytes: 40 << 30 }));
    }

    #[test]
    fn an_imported_path_is_made_absolute_and_a_uri_stays() {
        assert_eq!(import_source("nbd://h/x").unwrap(), "nbd://h/x");
        assert_eq!(import_source("/a/b").unwrap(), "/a/b");
        assert!(import_source("disk.img").unwrap().starts_with('/'));
    }

    #[test]
    fn the_command_line_describes_itself_without_contradiction() {
        use clap::CommandFactory;
        Typed::command().debug_assert();
    }
}
