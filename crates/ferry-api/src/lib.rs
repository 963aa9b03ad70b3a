//! The words of Ferry as types, and the one door to a worker.
//!
//! [`AgentApi`] is everything that can be asked of a worker's agent. The CLI, the agents among themselves and the
//! tests all speak it; [`http`] carries it over HTTP + JSON, and is the only place where HTTP appears.
//!
//! Invariant: a value of a type from this crate is valid. Names, ids and generations are checked where they are
//! parsed, which includes every JSON body, so nothing behind the door checks them again.

mod cluster;
mod directory;
mod door;
mod drain;
mod driver;
mod error;
mod frontend;
mod garbage;
mod gate;
mod health;
mod hooks;
pub mod http;
mod ids;
mod inside;
mod job;
mod lease;
mod limits;
mod live;
mod log;
mod loss;
mod machine;
mod names;
mod pace;
mod peer;
mod placement;
mod plan;
mod proof;
mod rebalance;
mod service;
mod stop;
mod truth;
mod vm;
mod volume;
mod worker;

pub use cluster::{
    ApiTokenMade, ApiTokenTold, AskApiToken, AskJoinToken, ClusterStatus, ClusterWorker, GossipKey, Join,
    JoinTokenMade, Joined, Membership, Renew, Renewed, Revoke, RevokeDone, Revoked, SignedRoster,
};
pub use directory::{AboutWorker, Digest, DirectoryView, Hears, HearsBy, KnownMachine, KnownWorker};
pub use door::AgentApi;
pub use drain::{
    AskDrain, Deviation, DeviationKind, DrainPlan, DrainStarted, PauseDrain, PlannedMove, StartDrain,
};
pub use driver::{Driver, DriverInfo, DriverKind, OciSource, OciSpec, ProcessSpec};
pub use error::{ApiError, ErrorCode};
pub use frontend::{AttachVolume, AttachedFrontend, DetachVolume, Frontend, NoFrontend};
pub use garbage::{Artefact, AskGarbage, Garbage, Remnant};
pub use gate::{Caller, Gate, Presented, Role, RoleError};
pub use health::{Health, HealthCheck, HttpUrl, HttpUrlError, Probe};
pub use hooks::{Hook, HookName, HookRun, Hooks, Notice, OnHookFailure};
pub use ids::{Generation, IdError, JobId, LeaseId, MachineId, VolumeId, VolumeKey, count_from};
pub use inside::{Filesystem, Isolation, Mount, MountPath, MountPathError, Network};
pub use job::{
    AskJobs, CancelMove, ChildJob, EventsAfter, Job, JobEvent, JobEventKind, JobEvents, JobJournal, JobKind,
    JobState, JobStep, MoveMode, MoveTo, Progress, StartMove, StartMoves, StepState, UndoMove, Waiting,
};
pub use lease::{AskLease, AskNeed, EndLease, Lease, LeaseAnswer, LeaseNeed};
pub use limits::{Limit, Limits};
pub use live::{Arrival, Expect, LiveFacts};
pub use log::{AskLog, MachineLog};
pub use loss::{AbandonSource, BadRanges, ChangeSources, LossPolicy, Losses, OnSourceLoss, Span, StandIn};
pub use machine::{
    AskedBy, CreateMachine, Desired, DestroyMachine, Exit, Machine, MachineSpec, MachineState, MachineVolume,
    NewVolume, RestartPolicy, SPEC_VERSION, Signal, SignalError, VolumeOrigin,
};
pub use names::{
    GroupName, LabelName, LabelValue, MachineName, MachineRef, NameError, RegionName, ServiceName, TokenName,
    VolumeName, VolumeRef, WorkerName,
};
pub use pace::{PaceFrom, PaceVolume, PaceWorker, VolumePace};
pub use peer::{
    Activate, ActivateVolume, Crossing, CrossingState, CrossingVolume, Hold, Judged, Precopy, PrecopyVolume,
    Prepare, PrepareVolume, Reserve, ReserveVolume, VolumeExport,
};
pub use placement::{
    Bid, Capacity, Demand, Fit, Labels, Other, Placement, PlacementExplained, Resident, Score, WorkerJudged,
};
pub use plan::{ADDED_MS_MAX, Expected, MovePlan};
pub use proof::{AskRoot, CheckState, CopyRoot, Mismatch, Root, VerifyVolume, VolumeCheck};
pub use rebalance::{
    AskDepartures, AskRebalance, BalanceBy, Departure, Departures, RebalancePart, RebalancePlan,
    RebalanceStarted, StartRebalance, Stays, WorkerFill,
};
pub use service::{AskMappings, Mapping, Mappings, Presence, Protocol, Service, ServiceStatus};
/// What a machine has for an address. It is a value, of which hearts speak, too.
pub use std::net::Ipv6Addr;
pub use stop::{SafeToStop, ShutDownWorker, StillToCopy, StopReason, StoppedMachine, WorkerShutDown};
pub use truth::{
    AskTestimony, Claim, CopyTold, CopyWorth, Evidence, MachineStanding, MachineTold, MachineWorth, OnDisk,
    SilentWorker, Stands, Subject, SubjectTruth, Testimony, Truth, TruthRef, Verdict, Worth,
};
pub use vm::{Accel, CONSOLE_SOCKET, MicroVmSpec, QemuDisk, QemuSpec, QemuWord, QemuWordError, VmModels};
pub use volume::{
    ForkVolume, GrowVolume, Hydration, ImportVolume, Lineage, Ownership, Precopied, REGION_BYTES_DEFAULT,
    ServerState, Volume, VolumeBase, VolumeFork, VolumePhase, VolumeSource,
};
pub use worker::{API_VERSION, AskCordon, AskWorker, Cordon, PeerInfo, Room, WorkerInfo};
