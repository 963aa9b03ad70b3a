//! Two workers and one machine that never stops writing: a crossing that tests may break wherever they like. Kill,
//! hold, start again, look; and afterwards hold everything against what a move must leave.
//!
//! The machine takes a lock while it lives, so two of it at once never pass unseen, whenever it happens.

use super::cluster::{Cluster, Worker};
use super::moments::Wish;
use super::peers::path_text;
use super::until;

use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ApiError, AskGarbage, AskJobs, CreateMachine, DriverKind, ErrorCode, EventsAfter, Generation,
    Job, JobEventKind, JobState, Machine, MachineRef, MachineSpec, MachineState, MoveMode, NewVolume,
    Ownership, ServerState, StartMove, Truth, Verdict, Volume, VolumeId, VolumeKey, VolumeOrigin,
    VolumePhase, VolumeRef,
};
use ferry_volume::client::BlockClient;
use ferry_volume::control::{self, Phase};
use rustix::process::Signal;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::SystemTime;
use tokio::runtime::Runtime;

const MIB: u64 = 1024 * 1024;
/// A volume just large enough for the demo's layout: the ring of records takes the last quarter.
const SIZE_BYTES: u64 = 64 * MIB;
pub const USED_BYTES: u64 = 4 * MIB;
pub const RING_OFFSET: u64 = 48 * MIB;
pub const RING_BYTES: u64 = 16 * MIB;
/// Where the filled data has blocks that the machine never reads.
pub const FILLED_AT: [u64; 4] = [0, 12 * MIB, 24 * MIB, 36 * MIB];
const BLOCK_BYTES: usize = 4096;
/// So many records tell that the machine goes on.
const RECORDS_MORE: usize = 10;
/// How long the source's agent is asked to hold an answer back, in milliseconds.
const NEWS_WAIT_MS: u64 = 5_000;
/// The machine: a demo writer that complains if another one lives.
pub const MACHINE: &str =
    "exec 9>>\"$0.lock\"; flock -n 9 || echo two machines at once >>\"$0.clash\"; exec \"$@\"";

/// One of the two workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Source,
    Target,
}
pub use Side::{Source, Target};

impl Side {
    /// The generation of the volume that lives on this side.
    fn generation(self) -> Generation {
        match self {
            Source => Generation::FIRST,
            Target => Generation::FIRST.next(),
        }
    }
}

/// The two workers and what runs on them.
pub struct Crossing {
    cluster: Cluster,
    runtime: Runtime,
    volume: Option<VolumeId>,
    /// Who was told to own machine or volume while agents were dead.
    told_owners: RefCell<BTreeSet<Side>>,
}

impl Crossing {
    /// Two workers without agents yet.
    pub fn configured() -> Self {
        let cluster = Cluster::configured(&[("w1", ""), ("w2", "")]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { cluster, runtime, volume: None, told_owners: RefCell::default() }
    }

    /// Two workers with agents, and a machine on the source that has written some records.
    pub fn with_machine() -> Self {
        let mut crossing = Self::configured();
        crossing.run(Source, &[]);
        crossing.run(Target, &[]);
        crossing.create_machine();
        crossing
    }

    /// Starts the agent of a worker with wishes for when it dies and what fails, and returns when it answers.
    pub fn run(&self, side: Side, wishes: &[Wish<'_>]) {
        self.worker(side).start_wishing(wishes);
    }

    /// Creates the machine on the source, fills its volume, starts it and waits for its first records.
    pub fn create_machine(&mut self) {
        let ferry = env!("CARGO_BIN_EXE_ferry");
        let diary = self.diary();
        let diary = diary.to_str().expect("temporary directories have plain names");
        let (offset, len) = (RING_OFFSET.to_string(), RING_BYTES.to_string());
        let writer = ["demo-writer", "--acks", diary, "--ring-offset", &offset, "--ring-bytes", &len];
        let args = ["-c", MACHINE, diary, ferry].into_iter().chain(writer);
        let create = CreateMachine {
            name: "writer".parse().expect("a plain name"),
            spec: MachineSpec::process("/bin/sh", args),
            volumes: vec![NewVolume {
                name: "data".parse().expect("a plain name"),
                origin: VolumeOrigin::Empty {
                    size_bytes: SIZE_BYTES,
                    region_bytes: None,
                    store: None,
                    direct: false,
                },
            }],
            start: false,
        };
        let made = self.ask(Source, |agent| async move { agent.machine_create(create).await });
        self.volume = Some(made.expect("the machine is created").volumes[0].volume);
        let filled = self.demo("demo-fill", Source, &[]).status().expect("the program starts");
        assert!(filled.success(), "filling the volume ended with {filled}");
        let started = self.ask(Source, |agent| async move { agent.machine_start(&machine()).await });
        started.expect("the machine starts");
        self.wait_for_records();
    }

    /// Asks the source to move the machine. An agent that dies over it may leave that without an answer.
    pub fn start_move(&self) {
        self.start_move_as(MoveMode::Cold);
    }

    /// The same in one of the modes.
    pub fn start_move_as(&self, mode: MoveMode) {
        let start = StartMove { mode, ..StartMove::new(machine(), self.name(Target).parse().unwrap()) };
        match self.ask(Source, |agent| async move { agent.move_start(start).await }) {
            Ok(_) => {}
            Err(error) if error.code == ErrorCode::Unreachable => {}
            Err(error) => panic!("the move is refused: {error}"),
        }
    }

    /// The move, if the source has taken one on.
    pub fn job(&self) -> Option<Job> {
        self.ask(Source, |agent| async move { agent.jobs(AskJobs::default()).await })
            .expect("the source answers")
            .pop()
    }

    /// Follows the move to its end.
    pub fn follow(&self) -> Job {
        self.follow_until("the move has ended", |_| false)
    }

    /// Follows the move until it tells of something; panics if it ends before.
    pub fn wait_for(&self, what: &str, told: impl Fn(&JobEventKind) -> bool) {
        let job = self.follow_until(what, told);
        assert!(!job.state.is_final(), "{what} never came, the move has ended: {job:#?}");
    }

    fn follow_until(&self, what: &str, told: impl Fn(&JobEventKind) -> bool) -> Job {
        let id = self.job().expect("the source has taken on the move").id;
        let mut after = 0;
        until(what, || {
            let asked = EventsAfter { after, wait_ms: NEWS_WAIT_MS };
            let news = self.ask(Source, |agent| async move { agent.job_events(id, asked).await }).unwrap();
            after = news.events.last().map_or(after, |event| event.seq);
            assert_ne!(news.job.state, JobState::Parked, "{:#?}", news.job);
            let come = news.events.iter().any(|event| told(&event.what)) || news.job.state.is_final();
            come.then_some(news.job)
        })
    }

    /// Waits until an agent has died at the moment that was wished.
    pub fn wait_for_crash(&self, side: Side) {
        let ended = self.worker(side).wait_for_end();
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "the agent ended by itself: {ended}");
        self.assert_one_at_most();
        if self.volume.is_some() {
            let before = self.records_of(side);
            self.ask_for_the_truth();
            assert_eq!(self.records_of(side), before, "whoever asks for the truth changes something");
        }
    }

    /// Asks which copy is the real one by the files of both workers alone. There must be an answer, and only one; who was
    /// ever told to own it at its second generation has it in the end.
    fn ask_for_the_truth(&self) {
        let dirs = [Source, Target].map(|side| self.state_dir(side));
        let [source, target] = [&dirs[0], &dirs[1]].map(|dir| path_text(dir));
        let words = ["truth", "writer", "--state-dir", source, "--state-dir", target];
        let truth: Truth = self.worker(Source).ask(&words);
        for subject in &truth.subjects {
            let Verdict::Known { owner, generation, .. } = &subject.verdict else { panic!("{subject:#?}") };
            let side = if owner.as_str() == self.name(Source) { Source } else { Target };
            assert_eq!(*generation, side.generation(), "{subject:#?}");
            self.told_owners.borrow_mut().insert(side);
        }
        assert_eq!(truth.subjects.len(), 2, "the machine and its disk: {truth:#?}");
    }

    /// What lies in the files of a worker that `truth` reads, with when each was changed.
    fn records_of(&self, side: Side) -> Vec<(PathBuf, SystemTime, Vec<u8>)> {
        let dirs = [self.state_dir(side), self.state_dir(side).join("handed-over")];
        let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
        let mut files: Vec<_> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|entry| {
                let changed = entry.metadata().and_then(|file| file.modified()).expect("it can be looked at");
                (entry.path(), changed, std::fs::read(entry.path()).expect("it can be read"))
            })
            .collect();
        files.sort();
        files
    }

    /// A backup of the records of a worker whose agent does not run.
    pub fn backup(&self, side: Side) -> Vec<(PathBuf, Vec<u8>)> {
        self.record_files(side).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }

    /// Puts a backup in the place of the records of a worker whose agent does not run.
    pub fn restore(&self, side: Side, backup: Vec<(PathBuf, Vec<u8>)>) {
        self.record_files(side).for_each(|path| std::fs::remove_file(path).unwrap());
        backup.into_iter().for_each(|(path, content)| std::fs::write(path, content).unwrap());
    }

    fn record_files(&self, side: Side) -> impl Iterator<Item = PathBuf> {
        assert!(!self.worker(side).runs(), "whoever copies files under an agent gets something of each");
        let entries = std::fs::read_dir(self.state_dir(side)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("records.db"))
    }

    /// Kills an agent as `kill -9` does.
    pub fn kill_agent(&self, side: Side) {
        self.worker(side).kill();
    }

    /// Kills the volume server on a side as `kill -9` does, and returns when it is dead.
    pub fn kill_server(&self, side: Side) {
        self.worker(side).kill_process(self.server_pid(side));
    }

    /// Kills the machine on a side as `kill -9` does, and returns when it is dead.
    pub fn kill_machine(&self, side: Side) {
        self.worker(side).kill_process(self.machine_pid());
    }

    /// Keeps the machine from doing anything, also from stopping.
    pub fn hold_machine(&self, side: Side) {
        self.worker(side).signal_process(self.machine_pid(), Signal::STOP);
    }

    /// Lets it go on.
    pub fn let_machine_go(&self, side: Side) {
        self.worker(side).signal_process(self.machine_pid(), Signal::CONT);
    }

    /// The one process of the machine.
    pub fn machine_pid(&self) -> u32 {
        let machines = self.machines();
        assert_eq!(machines.len(), 1, "one machine runs");
        machines[0]
    }

    /// The process of the volume server on a side, as it says itself.
    pub fn server_pid(&self, side: Side) -> u32 {
        self.status(side).expect("the volume server answers").pid
    }

    /// The volume server's own words, if it answers.
    pub fn status(&self, side: Side) -> Option<control::Status> {
        control::Client::connect(&self.volume_dir(side)).ok()?.status().ok()
    }

    /// A connection to the control socket of the volume on a side.
    pub fn control(&self, side: Side) -> control::Client {
        control::Client::connect(&self.volume_dir(side)).expect("the volume server answers")
    }

    /// The process of the volume server on a side, as the agent there says.
    pub fn server_pid_as_the_agent_says(&self, side: Side) -> u32 {
        let ServerState::Running { pid } = self.volume(side).server else {
            panic!("no volume server runs there: {:#?}", self.volume(side));
        };
        pid
    }

    /// The process of the machine, as the agent on a side says.
    pub fn machine_pid_as_the_agent_says(&self, side: Side) -> u32 {
        let MachineState::Running { pid, .. } = self.machine(side).state else {
            panic!("the machine does not run there: {:#?}", self.machine(side));
        };
        pid
    }

    /// Whether the volume server on a side has its source.
    pub fn is_connected(&self, side: Side) -> bool {
        let source = self.status(side).and_then(|status| status.source);
        source.is_some_and(|source| source.connected)
    }

    /// Reads a block of the source's sealed copy, as other workers do.
    pub fn read_sealed_block(&self, offset: u64) -> Vec<u8> {
        let status = self.status(Source).expect("the volume server answers");
        let at = status.export.expect("the sealed copy is exported");
        read_block(&format!("nbd://{at}/{}@{}", status.id, status.generation), offset)
    }

    /// Reads a block of the volume on a side as the guest would.
    pub fn read_block(&self, side: Side, offset: u64) -> Vec<u8> {
        read_block(&self.guest_uri(side), offset)
    }

    /// The same on a thread of its own: it may have to wait.
    pub fn read_block_later(&self, side: Side, offset: u64) -> JoinHandle<Vec<u8>> {
        let uri = self.guest_uri(side);
        std::thread::spawn(move || read_block(&uri, offset))
    }

    /// Waits until the machine has got some more records acknowledged.
    pub fn wait_for_records(&self) {
        let before = self.records();
        until("the machine writes records", || (self.records() >= before + RECORDS_MORE).then_some(()));
    }

    fn records(&self) -> usize {
        let diary = std::fs::read_to_string(self.diary()).unwrap_or_default();
        diary.lines().filter(|line| line.starts_with("ack ")).count()
    }

    /// Holds the cluster against what a move that ended must leave: on the target after success, at home otherwise.
    pub fn assert_in_order(&self, job: &Job) {
        match job.state {
            JobState::Succeeded => self.assert_moved(),
            JobState::Failed | JobState::Cancelled => self.assert_at_home(),
            JobState::Waiting | JobState::Running | JobState::Unwinding | JobState::Parked => {
                panic!("it has not ended: {job:#?}")
            }
        }
        self.assert_nothing_is_there_for_nobody(job);
    }

    /// Neither worker has anything that nobody needs; the copy that is kept is told with its job.
    fn assert_nothing_is_there_for_nobody(&self, job: &Job) {
        for side in [Source, Target] {
            let asked = AskGarbage::default();
            let told = self.ask(side, |agent| async move { agent.garbage(asked).await }).unwrap();
            assert_eq!(told.goes, [], "on {}", self.name(side));
            assert!(told.stays.iter().all(|artefact| artefact.job == Some(job.id)), "{told:#?}");
            let kept = usize::from(side == Source && job.state == JobState::Succeeded);
            assert_eq!(told.stays.len(), kept, "{told:#?}");
        }
    }

    /// The machine is on the target with all it ever wrote; the source keeps a sealed copy and nothing else.
    pub fn assert_moved(&self) {
        let gone = MachineState::HandedOver { to: self.name(Target).parse().unwrap() };
        assert_eq!(self.machine(Source).state, gone);
        let kept = self.volume(Source);
        assert!(matches!(kept.ownership, Ownership::Retired { .. }), "{kept:#?}");
        assert_eq!(self.marks(Source), 2, "machine and volume are not marked as handed over");
        let here = self.volume(Target);
        assert!(here.hydration.is_some_and(|counted| counted.complete), "{here:#?}");
        assert_eq!((&here.source, &here.ownership), (&None, &Ownership::Ours));
        self.assert_lives_on(Target);
        assert_eq!(self.volume_dirs(Source), [self.volume_dir(Source)]);
        assert_eq!(self.volume_dirs(Target), [self.volume_dir(Target)]);
    }

    /// The machine is on the source with all it ever wrote, and nothing on the target tells of a move.
    pub fn assert_at_home(&self) {
        let here = self.volume(Source);
        assert_eq!((here.export_uri, here.ownership), (None, Ownership::Ours));
        assert_eq!(here.phase, Some(VolumePhase::Open));
        assert_eq!(self.marks(Source), 0, "what is at home is marked as handed over");
        self.assert_lives_on(Source);
        let there = self.ask(Target, |agent| async move { agent.volumes().await }).expect("it answers");
        assert_eq!(there, [], "the target still has records of volumes");
        assert_eq!(self.ask(Target, |agent| async move { agent.machines().await }), Ok(vec![]));
        let room = self
            .ask(Target, |agent| async move { agent.worker_for(DriverKind::Process).await })
            .expect("it answers")
            .room;
        assert_eq!((room.used_bytes, room.promised_bytes), (0, 0), "the target still sets room aside");
        assert_eq!(self.volume_dirs(Source), [self.volume_dir(Source)]);
        assert_eq!(self.volume_dirs(Target), [] as [PathBuf; 0]);
    }

    /// Whether a worker has neither volumes nor records of any.
    pub fn is_empty(&self, side: Side) -> bool {
        let volumes = self.ask(side, |agent| async move { agent.volumes().await }).expect("it answers");
        volumes.is_empty() && self.volume_dirs(side).is_empty()
    }

    /// The machine runs there and goes on writing, all it ever wrote is there, and no other process is left.
    fn assert_lives_on(&self, side: Side) {
        self.ask_for_the_truth();
        assert_eq!(self.told_owners.borrow().last(), Some(&side), "something else was told to be the truth");
        let machine = self.machine(side);
        let MachineState::Running { pid, .. } = machine.state else {
            panic!("the machine does not run on {}: {machine:#?}", self.name(side));
        };
        assert_eq!(self.machines(), [pid]);
        assert_eq!(self.servers(), [self.server_pid(side)]);
        self.wait_for_records();
        let diary = self.diary();
        let diary = diary.to_str().expect("temporary directories have plain names");
        let checked = self.demo("demo-check", side, &["--acks", diary]).output().expect("the program starts");
        let verdict: Value = serde_json::from_slice(&checked.stdout).unwrap_or_else(|_| {
            panic!("there is no verdict: {}", String::from_utf8_lossy(&checked.stderr));
        });
        assert!(checked.status.success(), "{verdict:#}");
        assert_eq!(verdict["fill_bytes_checked"], USED_BYTES);
        assert!(verdict["records_intact"].as_u64() > Some(0), "{verdict:#}");
        self.assert_one_at_most();
    }

    /// At most one machine runs and has run at any time, and at most one volume server lets anybody write.
    pub fn assert_one_at_most(&self) {
        assert!(!self.diary().with_extension("clash").exists(), "two machines ran at once");
        assert!(self.machines().len() <= 1, "two machines run at once: {:?}", self.machines());
        let open: Vec<PathBuf> = [Source, Target]
            .into_iter()
            .flat_map(|side| self.volume_dirs(side))
            .filter(|dir| {
                let status = control::Client::connect(dir).and_then(|mut client| client.status());
                status.is_ok_and(|status| status.phase == Phase::Open)
            })
            .collect();
        assert!(open.len() <= 1, "two volumes may be written at once: {open:?}");
    }

    /// Waits until the machine has died on a side and runs again, as the agent there says.
    pub fn wait_until_it_runs_again(&self, side: Side) {
        until("the machine runs again", || {
            let machine = self.machine(side);
            let has_died = machine.last_exit.is_some_and(|exit| exit.signal == Some(9));
            (has_died && matches!(machine.state, MachineState::Running { .. })).then_some(())
        });
    }

    fn machine(&self, side: Side) -> Machine {
        self.ask(side, |agent| async move { agent.machine(&machine()).await }).expect("it is known there")
    }

    fn volume(&self, side: Side) -> Volume {
        let reference = VolumeRef::Id(self.volume.expect("the machine was created"));
        self.ask(side, |agent| async move { agent.volume(&reference).await }).expect("it is known there")
    }

    fn ask<T, F>(&self, side: Side, question: impl FnOnce(Client) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        // A client of its own each time: none holds on to a connection with an agent that has died.
        let client = Client::new(&self.worker(side).url()).unwrap();
        self.runtime.block_on(question(client))
    }

    fn demo(&self, command: &str, side: Side, words: &[&str]) -> Command {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_ferry"));
        demo.arg(command)
            .args(["--uri", &self.guest_uri(side), "--used", &USED_BYTES.to_string()])
            .args(words);
        demo
    }

    fn guest_uri(&self, side: Side) -> String {
        format!("nbd+unix:///?socket={}", self.volume_dir(side).join("guest.sock").display())
    }

    fn machines(&self) -> Vec<u32> {
        self.processes("demo-writer")
    }

    fn servers(&self) -> Vec<u32> {
        self.processes("volume-server")
    }

    /// Every process of both workers that runs this command of the program.
    fn processes(&self, command: &str) -> Vec<u32> {
        let all = [Source, Target].into_iter().flat_map(|side| self.worker(side).processes());
        let runs = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes())
        };
        all.filter(runs).collect()
    }

    /// The directories of volumes that lie on a worker.
    fn volume_dirs(&self, side: Side) -> Vec<PathBuf> {
        let dirs = std::fs::read_dir(self.state_dir(side).join("volumes")).into_iter().flatten().flatten();
        dirs.map(|entry| entry.path()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// How much a worker remembers to have handed over.
    fn marks(&self, side: Side) -> usize {
        std::fs::read_dir(self.state_dir(side).join("handed-over")).into_iter().flatten().count()
    }

    fn volume_dir(&self, side: Side) -> PathBuf {
        let id = self.volume.expect("the machine was created");
        let key = VolumeKey { id, generation: side.generation() };
        self.state_dir(side).join("volumes").join(key.to_string())
    }

    fn state_dir(&self, side: Side) -> PathBuf {
        self.worker(side).dir.clone()
    }

    fn diary(&self) -> PathBuf {
        self.cluster.dir().join("acks")
    }

    fn name(&self, side: Side) -> &str {
        &self.worker(side).name
    }

    /// The worker of a side.
    pub fn worker(&self, side: Side) -> &Worker {
        &self.cluster.workers[side as usize]
    }
}

/// The one machine there is.
fn machine() -> MachineRef {
    MachineRef::Name("writer".parse().expect("a plain name"))
}

fn read_block(uri: &str, offset: u64) -> Vec<u8> {
    let mut disk = until("the volume lets its guest in", || BlockClient::connect_text(uri).ok());
    let mut block = vec![0; BLOCK_BYTES];
    disk.read_at(offset, &mut block).expect("the block can be read");
    block
}
