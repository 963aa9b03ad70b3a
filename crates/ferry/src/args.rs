//! What was typed. Clap knows names and shapes only; what the words mean is found out in [`crate::meant`].

pub mod cluster;
pub mod drain;
pub mod gc;
pub mod placement;
pub mod rebalance;
pub mod service;
pub mod truth;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::output::bytes::{parse_size, parse_span};

/// Where the agent of this host listens unless something else is said.
pub const AGENT_URL_DEFAULT: &str = "http://127.0.0.1:7433";
/// Its socket in the usual state directory, which is asked instead by whoever may open it.
pub const AGENT_SOCKET_DEFAULT: &str = "/var/lib/ferry/agent.sock";
/// Whom the agents of a cluster believe, in the usual state directory.
pub const CA_DEFAULT: &str = "/var/lib/ferry/cluster/tls/ca-cert.pem";

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    refused or failed; stderr says why in one sentence
  2    the command line is wrong
  3    the agent cannot be reached
  4    the job that was followed did not succeed (failed, cancelled, or parked)
  5    data is not there, or not what it should be (demo, drill, volume verify)
  6    the worker is not safe to stop (worker safe-to-stop, worker shutdown)
  7    it is not certain which copy is the real one (truth)
  8    the world is not as the plan says (drain --apply, rebalance --apply), and nothing was done;
       of a rebalance a part, if it says so
  130  interrupted by ctrl-C; a job that was followed goes on

With --json a command prints its facts on stdout as JSON: one value, the resource as the agent's API gives it
(an array for lists); `job watch` prints one event a line. Sizes are in bytes, times in milliseconds since 1970.

Logs of `agent` and `volume-server` go to stderr; FERRY_LOG sets how much (error, warn, info, debug, trace).";

/// Moves stateful machines between hosts: they start on the other host at once and their disks follow.
#[derive(Debug, Parser)]
#[command(name = "ferry", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Typed {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The words of a volume server. It reads them without those of all other commands, which would stay in its memory for
/// as long as it runs.
#[derive(Debug, Parser)]
pub struct VolumeServer {
    /// Directory of the volume
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Directory of certificates: with it, others read the volume over mutual TLS only
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Do not count what the guest touches: a move does not know what is hot
    #[arg(long)]
    pub no_heat: bool,
}

/// What can be asked of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole path on this computer: two workers, a machine that keeps writing, a move, a check
    Demo(Demo),
    /// Kill agents, volume servers and the machine, and cut the link, in the middle of moves, and check what comes of it
    Drill(Drill),
    /// Tell what this host offers a worker, and what is missing for what
    Doctor {
        /// Configuration file of its agent: then also whether the bucket by which workers hear each other can be used
        #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
        config: Option<PathBuf>,
        /// Where the worker keeps, or is to keep, its volumes
        #[arg(long, value_name = "DIR", default_value = "/var/lib/ferry")]
        state_dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run the agent of this worker, or have the worker join a cluster
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Agent {
        /// Join a cluster instead
        #[command(subcommand)]
        instead: Option<cluster::Agent>,
        /// Configuration file (TOML)
        #[arg(long, value_name = "FILE", required = true)]
        config: Option<PathBuf>,
        /// Ask at this socket before and after everything that becomes durable (only a drill does that)
        #[arg(long, value_name = "SOCKET", hide = true)]
        drill: Option<PathBuf>,
    },
    /// Serve one volume (started by the agent, and outlives it)
    VolumeServer(VolumeServer),
    /// Workers that belong together: make a cluster, let others join, revoke them, tokens for people and programs
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Machines: create, start, stop, look at, destroy
    #[command(subcommand)]
    Machine(Machine),
    /// Services of machines: who has them, who waits for them
    #[command(subcommand)]
    Service(service::Service),
    /// Volumes: import, look at, pace, grow, fork, attach, delete
    #[command(subcommand)]
    Volume(Volume),
    /// Move a machine to another worker and watch it cross
    Move(Move),
    /// Empty a worker: all its machines move to others, and it takes none until it is told so
    Drain(drain::Drain),
    /// Make workers alike: say which few machines would move, and have a plan carried out
    Rebalance(rebalance::Rebalance),
    /// Show all workers: their room and load, what moves and hydrates between them, and what is sick
    ///
    /// Redrawn on a terminal until ctrl-C, which ends nothing else; once where stdout is none
    Top {
        /// Look once
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Where machines may go: which worker takes one, and why the others do not
    #[command(subcommand)]
    Placement(placement::Placement),
    /// Tell which workers there are and which machines they have, as one worker has heard it, and how old that is
    Directory {
        #[command(flatten)]
        asking: Asking,
    },
    /// Jobs: look at, watch, cancel, resume
    #[command(subcommand)]
    Job(Job),
    /// This worker: look at it, pace it, ask whether its host may be stopped, shut it down
    #[command(subcommand)]
    Worker(Worker),
    /// Tell which copy of a volume, or which worker's machine, is the real one, and what the others are worth
    ///
    /// Exits with 0 if that is known for sure, else with 7. Asks all workers; with --state-dir the files of workers alone
    Truth(truth::Truth),
    /// Clear away what jobs and killed processes have left on the worker and nobody needs; --dry-run only tells
    Gc(gc::Gc),
    /// What a machine with namespaces of its own runs first
    #[command(hide = true)]
    MachineInit(MachineInit),
    /// How an agent tries how a machine is
    #[command(hide = true)]
    MachineProbe {
        /// What is tried, as the agent writes it
        words: String,
    },
    /// The machine of the demo
    #[command(hide = true)]
    DemoWriter(DemoWriter),
    /// What stands for a VM in a drill
    #[command(hide = true, disable_help_flag = true)]
    DrillVm {
        /// What QEMU would be told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// A hook of the machine of a drill
    #[command(hide = true)]
    DrillHook {
        /// Where it notes that it was run
        #[arg(long)]
        ledger: PathBuf,
        /// The socket of the drill
        #[arg(long)]
        socket: PathBuf,
    },
    /// Fill a volume as the demo does
    #[command(hide = true)]
    DemoFill(DemoPiece),
    /// Check a volume as the demo does
    #[command(hide = true)]
    DemoCheck {
        #[command(flatten)]
        piece: DemoPiece,
        /// Where acknowledged records were noted
        #[arg(long, value_name = "FILE")]
        acks: PathBuf,
    },
}

/// Which agent, and how to answer.
#[derive(Clone, Debug, Args)]
pub struct Asking {
    /// The agent to ask, as https://HOST:PORT, http://HOST:PORT or unix:PATH [default: this host's]
    #[arg(long, value_name = "URL", env = "FERRY_AGENT")]
    pub agent: Option<String>,
    /// File with the token to ask with over https; without, FERRY_TOKEN holds it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate of the cluster's authority, for https [default: this host's cluster's]
    #[arg(long, value_name = "FILE", env = "FERRY_CA")]
    pub ca: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long)]
    pub json: bool,
}

/// `ferry demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Size of the machine's volume
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = parse_size)]
    pub size: u64,
    /// How much of it is in use
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub used: u64,
    /// Leave the two workers and the machine running
    #[arg(long)]
    pub keep: bool,
    /// End and remove a demo that was kept, and do nothing else
    #[arg(long, value_name = "DIR", conflicts_with_all = ["keep", "json", "size", "used"])]
    pub end: Option<PathBuf>,
    /// Print nothing but the summary, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `ferry drill`
///
/// Each row is a move of a throw-away machine between two workers on this host, in which one thing goes wrong at one
/// moment: right before or right after an entry of a journal, or a call of the other worker, kill -9 of one or two of
/// source agent, target agent, source volume server, target volume server and machine, or an outage of the link. After
/// each the machine must run once, on the right side, with every record that it was promised
#[derive(Debug, Args)]
pub struct Drill {
    /// Each single thing once in each step, which is the default
    #[arg(long, conflicts_with_all = ["pairs", "all"])]
    pub quick: bool,
    /// Each two at each moment
    #[arg(long, conflicts_with = "all")]
    pub pairs: bool,
    /// Everything at each moment
    #[arg(long)]
    pub all: bool,
    /// Only rows whose name contains this, as in "call boot" or "kill machine"
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Of these only each Nth
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// Tell the names of the rows, and play none
    #[arg(long, conflicts_with = "json")]
    pub list: bool,
    /// How many rows are played at once [default: two for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(crate::drill::AT_ONCE_MAX)))]
    pub at_once: Option<u8>,
    /// Where the workers and their volumes are made, and removed again [default: TMPDIR]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the directories of all workers, not only of rows that went wrong
    #[arg(long)]
    pub keep: bool,
    /// Print nothing but the report, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `ferry demo-fill` and `ferry demo-check`
#[derive(Debug, Args)]
pub struct DemoPiece {
    /// NBD URI of the volume
    #[arg(long, value_name = "URI")]
    pub uri: String,
    /// How much of it is filled
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub used: u64,
}

/// `ferry demo-writer`
#[derive(Debug, Args)]
pub struct DemoWriter {
    /// NBD URI of the volume
    #[arg(long, value_name = "URI", env = "FERRY_VOLUME_DATA")]
    pub uri: String,
    /// Where acknowledged records are noted
    #[arg(long, value_name = "FILE", env = "FERRY_DEMO_ACKS")]
    pub acks: PathBuf,
    /// Where on the volume the ring of records begins
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ring_offset: u64,
    /// How long it is
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ring_bytes: u64,
    /// Pause between two records
    #[arg(long, value_name = "SPAN", default_value = "1ms", value_parser = parse_span)]
    pub interval: Duration,
}

/// `ferry machine ...`
#[derive(Debug, Subcommand)]
pub enum Machine {
    /// Create a machine, and start it
    Create(MachineCreate),
    /// Start a machine
    Start {
        /// Name or id
        machine: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Stop a machine
    Stop {
        /// Name or id
        machine: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Print what a machine is, as a file that `machine create -f` takes
    Spec {
        /// Name or id
        machine: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// List the machines of the worker
    List {
        #[command(flatten)]
        asking: Asking,
    },
    /// Show one machine
    Show {
        /// Name or id
        machine: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Connect this terminal with the serial console of a VM of this host; Ctrl-] leaves it
    Console {
        /// Name or id
        machine: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Print what a machine wrote on this worker. What it wrote before it moved here stayed where that was
    Logs {
        /// Name or id
        machine: String,
        /// Go on with what it writes from now on
        #[arg(short, long)]
        follow: bool,
        /// The last lines only
        #[arg(short = 'n', long, value_name = "LINES")]
        lines: Option<u64>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Delete a machine and its volumes
    Destroy {
        /// Name or id
        machine: String,
        /// Also if it runs: stop it first
        #[arg(long)]
        stop: bool,
        #[command(flatten)]
        asking: Asking,
    },
}

/// `ferry machine create`
#[derive(Debug, Args)]
pub struct MachineCreate {
    /// Its name; the one in the file of --file if not given
    #[arg(required_unless_present = "file")]
    pub name: Option<String>,
    /// A file that says what it is (TOML, or JSON in a file that ends in .json; docs/machines.md), instead of all the options here but --stopped
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with_all = ["volumes", "env", "workdir", "stop_signal", "grace", "restart", "command"]
    )]
    pub file: Option<PathBuf>,
    /// A disk: NAME=SIZE makes an empty one, NAME=VOLUME takes an imported volume (name or id); may be repeated.
    /// An empty one may lie on a block device of its own, by a path that stays (what is on it is lost), and be read and
    /// written past the page cache (O_DIRECT): NAME=SIZE,store=DEVICE,direct.
    /// The machine finds its NBD URI in FERRY_VOLUME_<NAME>
    #[arg(long = "volume", value_name = "NAME=SIZE[,store=DEVICE][,direct]|VOLUME")]
    pub volumes: Vec<String>,
    /// A variable for its environment, which else has PATH, HOME, USER, SHELL, LANG, TZ and TMPDIR of the agent that
    /// starts it; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Its working directory [default: its own directory on the worker]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// Signal that asks it to stop: TERM, INT, QUIT, HUP, USR1, USR2 or KILL
    #[arg(long, value_name = "SIGNAL", default_value = "TERM")]
    pub stop_signal: String,
    /// How long it may take to stop before it is killed
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = parse_span)]
    pub grace: Duration,
    /// What happens when it exits by itself: always, on-failure or never start it again
    #[arg(long, value_name = "POLICY", default_value = "always")]
    pub restart: String,
    /// Create it without starting it
    #[arg(long)]
    pub stopped: bool,
    #[command(flatten)]
    pub asking: Asking,
    /// What it runs
    #[arg(last = true, required_unless_present = "file", value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `ferry machine-init`
#[derive(Debug, Args)]
pub struct MachineInit {
    /// Be process 1 of the machine, not its keeper
    #[arg(long)]
    pub inside: bool,
    /// What is inside
    pub plan: PathBuf,
}

/// `ferry volume ...`
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Make a volume from a raw file or an NBD server; it is usable at once and hydrates from there
    Import {
        /// Its name
        name: String,
        /// Raw file on the worker (absolute path), or NBD URI (nbd://HOST[:PORT]/EXPORT,
        /// nbd+unix:///EXPORT?socket=PATH)
        #[arg(long, value_name = "FILE|URI")]
        from: String,
        /// Size to insist on, or to cut the source to
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        size: Option<u64>,
        /// Block device on the worker that shall hold it, all for itself, by a path that stays (/dev/VG/LV); what is on
        /// it is lost
        #[arg(long, value_name = "DEVICE")]
        store: Option<PathBuf>,
        /// Read and write it past the page cache (O_DIRECT), wherever it moves: the filesystem must be one that can
        #[arg(long)]
        direct: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// List the volumes of the worker
    List {
        #[command(flatten)]
        asking: Asking,
    },
    /// Show one volume
    Show {
        /// Name or id
        volume: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Set how fast a volume hydrates, from now on
    Pace {
        /// Name or id
        volume: String,
        /// The most to fetch in the background a second, as in 50MiB; none for as much as goes. What the machine
        /// reads is never held back, but counts
        #[arg(long, value_name = "SIZE|none")]
        max: Option<String>,
        /// What 99 of 100 requests of the machine may take, as in 5ms; beyond that the background backs off, though it
        /// never stops. none for no guard
        #[arg(long, value_name = "TIME|none")]
        guard: Option<String>,
        /// From now, how long hydration may take, as in 2h: the guard lets through what that needs, a budget is kept.
        /// Refused when it is known to be impossible. none for no such time
        #[arg(long, value_name = "TIME|none")]
        finish_by: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Make an independent clone of a volume as it is now, also while its machine writes; it is usable at once
    Fork {
        /// Name or id
        volume: String,
        /// Name of the clone, which belongs to no machine
        name: String,
        /// Worker that shall have it [default: the one that has the volume]
        #[arg(long, value_name = "WORKER")]
        to: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Make a volume larger, also while it is in use; who connects from then on sees the new size
    Grow {
        /// Name or id
        volume: String,
        /// The size from then on, as in 40GiB; never less than it has
        #[arg(value_name = "SIZE", value_parser = parse_size)]
        size: u64,
        #[command(flatten)]
        asking: Asking,
    },
    /// Give a volume a block device or a socket beside its NBD socket; prints where it is
    Attach {
        /// Name or id
        volume: String,
        /// auto (ublk, or fuse where the kernel has none), ublk or fuse (block devices, need root) or vhost-user-blk (a socket
        /// for a VMM)
        #[arg(long, value_name = "FRONTEND", default_value = "auto")]
        frontend: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Take block device and socket of a volume away; refused while the device is mounted
    Detach {
        /// Name or id
        volume: String,
        /// Only this one: ublk, fuse or vhost-user-blk
        #[arg(long, value_name = "FRONTEND")]
        frontend: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Say what becomes of reads of what is still at the source while that is away
    OnSourceLoss {
        /// Name or id
        volume: String,
        /// wait: until it is back, for ever if need be. fail-after=SPAN: a read that has waited so long while the source
        /// was away gets an error, and so does a write of a part of a block; all else goes on, and once the source is
        /// back reads work again
        #[arg(value_name = "wait|fail-after=SPAN")]
        policy: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Sources of a volume that stand in for its first: add one, take one away, list them all
    #[command(subcommand)]
    Source(VolumeSources),
    /// Give up a source that is gone for good: tell what that costs, and with --lose do it
    ///
    /// Without --lose nothing changes: it prints which bytes only the source has. With --lose and that figure those
    /// bytes read as zeroes from then on, for good, and the volume needs its source no longer.
    AbandonSource {
        /// Name or id
        volume: String,
        /// What it costs, as it was told: exactly that figure
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        lose: Option<u64>,
        /// Also while the source is connected
        #[arg(long, requires = "lose")]
        force: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Check that a volume still holds on its disk what arrived (a sealed or retired copy: what was sealed)
    ///
    /// Regions that the machine has written since are counted and not judged. Exits with 5 if any region differs. The
    /// check goes on in the volume server when this command is interrupted
    Verify {
        /// Name or id
        volume: String,
        /// Also against the receipt of a move that it came or left by: the job, or a file with what `ferry job receipt
        /// --json` printed
        #[arg(long, value_name = "FILE|JOB")]
        receipt: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Delete a volume that belongs to no machine
    Delete {
        /// Name or id
        volume: String,
        #[command(flatten)]
        asking: Asking,
    },
}

/// `ferry volume source`
#[derive(Debug, Subcommand)]
pub enum VolumeSources {
    /// Read from here, too, when the sources before it are away or cannot give something
    ///
    /// A Ferry source must be the same volume at the same generation as the first. Of any other, such as a backup, you vouch
    /// that it holds the same bytes: Ferry checks its size only.
    Add {
        /// Name or id
        volume: String,
        /// nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH, or a raw file
        uri: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Read from a source that was added no more
    Remove {
        /// Name or id
        volume: String,
        /// As `list` shows it
        uri: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// All sources of a volume, the preferred one first
    List {
        /// Name or id
        volume: String,
        #[command(flatten)]
        asking: Asking,
    },
}

/// `ferry move`
#[derive(Debug, Args)]
pub struct Move {
    /// Name or id of the machine, or of several that move as one job; with --undo also the id of the move
    #[arg(required = true, value_name = "MACHINE")]
    pub machines: Vec<String>,
    /// Name of the worker it goes to; auto for the one that fits best, which is asked to keep room before anything begins
    #[arg(long, value_name = "WORKER|auto", required_unless_present_any = ["undo", "cancel"])]
    pub to: Option<String>,
    /// Take it back to where its last move brought it from, with all that it wrote since; only what changed is copied
    #[arg(long, conflicts_with_all = ["to", "cancel"])]
    pub undo: bool,
    /// Cancel the move it is about to make, before it is handed over, and wait until it runs here as before
    #[arg(long, conflicts_with_all = ["to", "retention"])]
    pub cancel: bool,
    /// How long the source's copy is kept after nobody needs it, in whole hours, as in 24h [default: the worker's]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub retention: Option<Duration>,
    /// Begin at that time, by this computer's time zone: 2026-03-01 03:00, or 03:00 for the next time it is that late
    #[arg(long, value_name = "TIME", conflicts_with_all = ["after", "undo", "cancel"])]
    pub at: Option<String>,
    /// Begin after that span, as in 10min
    #[arg(long, conflicts_with_all = ["undo", "cancel"], value_name = "SPAN", value_parser = parse_span)]
    pub after: Option<Duration>,
    /// Undo the move, with the machine running where it was, if it is not handed over that long after it was to begin
    #[arg(long, conflicts_with_all = ["undo", "cancel"], value_name = "SPAN", value_parser = parse_span)]
    pub deadline: Option<Duration>,
    /// What crosses before the machine stops: nothing (cold), all that it does not write again meanwhile (warm), or the
    /// latter where that can be and pays (auto)
    #[arg(long, value_enum, default_value_t = Mode::Auto, conflicts_with_all = ["undo", "cancel"])]
    pub mode: Mode,
    /// If its health check fails on the target, take it back to where it was with all that it wrote; the receipt says so
    #[arg(long, requires = "to", conflicts_with_all = ["undo", "cancel"])]
    pub undo_unhealthy: bool,
    /// Pass workers that do not answer, though one of them may have a machine of its group that is down for a move
    #[arg(long, requires = "to", conflicts_with_all = ["undo", "cancel"])]
    pub force: bool,
    /// Only say what the move would do, and what keeps it from being made; nothing changes
    #[arg(long, requires = "to", conflicts_with_all = ["undo", "cancel", "detach", "at", "after", "deadline"])]
    pub plan: bool,
    /// Do not watch: print the job and leave
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub asking: Asking,
}

/// The modes of a move.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Mode {
    /// It stops at once, and its disks follow.
    Cold,
    /// Its disks are copied in rounds while it runs; what it wrote last follows.
    Warm,
    /// Warm where that can be and pays, else cold.
    Auto,
    /// A VM is paused for a moment and goes on with its memory; refused where that cannot be.
    Live,
}

/// `ferry job ...`
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List the jobs of the worker, the latest first; a move belongs to the worker that the machine leaves
    List {
        /// So many of those that have ended; all that have not ended are always listed
        #[arg(long, value_name = "JOBS", default_value_t = 50)]
        limit: u64,
        /// All that are kept
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Print all jobs that are kept with their journals, the first one first, one JSON object a line: to be kept elsewhere
    Export {
        /// Only those taken on since that time (as for `ferry move --at`), or in the span before now
        #[arg(long, value_name = "TIME|SPAN")]
        since: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Show one job with its steps
    Show {
        /// Its id
        job: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Show the receipt of a move: what was sealed and what arrived, and that their root checksums agree
    Receipt {
        /// Its id
        job: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Watch a job to its end; ctrl-C lets it go on alone
    Watch {
        /// Its id
        job: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Undo a job; refused once the machine has been handed over
    Cancel {
        /// Its id
        job: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Let a parked job go on
    Resume {
        /// Its id
        job: String,
        #[command(flatten)]
        asking: Asking,
    },
}

/// `ferry worker ...`
#[derive(Debug, Subcommand)]
pub enum Worker {
    /// Show the worker, its room and the workers it knows
    Show {
        #[command(flatten)]
        asking: Asking,
    },
    /// Print the figures of the worker as Prometheus scrapes them at /v1/metrics: one format, also with --json
    Metrics {
        #[command(flatten)]
        asking: Asking,
    },
    /// Tell whether the host of the worker may be stopped now, and if not, what keeps it and for how long
    ///
    /// Exits with 0 if nothing does, else with 6. What keeps it: volumes that other workers or forks still copy from here,
    /// other readers, jobs that this worker leads, machines on their way here, and machines that run here. A worker
    /// that cannot be asked how far it is counts as not done
    SafeToStop {
        /// Machines that run here may go down with the host: tell only what else keeps it
        #[arg(long)]
        machines_may_stop: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Stop the machines of the worker, end its volume servers and its agent, if nothing keeps it from that
    ///
    /// Asks what `safe-to-stop` asks. If something keeps the worker, nothing changes, and it is told what --force would
    /// cost whom; exits with 6 then. Machines stop in their grace time; the next agent starts them again
    Shutdown {
        /// Machines that run here are stopped without being asked about
        #[arg(long)]
        machines_may_stop: bool,
        /// Whatever keeps it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Have a worker take no machines from now on, over restarts; what runs there goes on
    Cordon {
        /// Name of the worker, which the agent that is asked knows [default: that agent's own]
        worker: Option<String>,
        /// Why, for those who meet it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Have a worker take machines again
    Uncordon {
        /// Name of the worker, which the agent that is asked knows [default: that agent's own]
        worker: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Set how fast all volumes of the worker hydrate together, from now on
    Pace {
        /// The most that all of them fetch in the background a second, as in 100MiB, shared equally by those that hydrate;
        /// none for as much as goes. A volume whose own budget is smaller leaves the rest to the others
        #[arg(long, value_name = "SIZE|none")]
        max: String,
        /// Only of those that read from this other worker; the budget of all of them is kept beside it
        #[arg(long, value_name = "WORKER")]
        from: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
}
