//! What each command does: one question to the agent, one answer on the screen.

pub mod agent;
mod attach;
mod base;
mod board;
pub mod cluster;
mod console;
mod crossed;
mod directory;
pub mod drain;
mod foreseen;
pub mod gc;
pub mod job;
mod logs;
pub mod loss;
pub mod machine;
pub mod mv;
pub mod pace;
mod placement;
pub mod proof;
pub mod rebalance;
pub mod service;
pub mod sources;
pub mod stop;
pub mod top;
pub mod truth;
pub mod volume;
pub mod volume_server;
mod vouched;
pub mod worker;

use anyhow::{Context, Result, bail};
use ferry_api::http::Client;
use ferry_api::{AgentApi, DriverKind, PeerInfo, WorkerName};
use jiff::Timestamp;

use crate::exit::Exit;
use crate::meant::{Asked, Question};

/// Asks the agent and shows its answer.
///
/// # Errors
/// The agent refused or cannot be reached, or nobody reads the answer.
pub async fn ask(asked: Asked) -> Result<Exit> {
    let Asked { agent, json, question } = asked;
    match question {
        Question::MachineCreate(create) => machine::create(&agent, json, *create).await,
        Question::MachineStart(machine) => machine::start(&agent, json, &machine).await,
        Question::MachineStop(machine) => machine::stop(&agent, json, &machine).await,
        Question::MachineSpec(machine) => machine::spec(&agent, json, &machine).await,
        Question::MachineList => machine::list(&agent, json).await,
        Question::MachineShow(machine) => machine::show(&agent, json, &machine).await,
        Question::MachineConsole(machine) => console::open(&agent, &machine).await,
        Question::MachineLogs { machine, lines, follow } => {
            logs::print(&agent, json, &machine, lines, follow).await
        }
        Question::MachineDestroy(machine, destroy) => machine::destroy(&agent, json, &machine, destroy).await,
        Question::ServiceList => service::list(&agent, json).await,
        Question::VolumeImport(import) => volume::import(&agent, json, import).await,
        Question::VolumeList => volume::list(&agent, json).await,
        Question::VolumeShow(volume) => volume::show(&agent, json, &volume).await,
        Question::VolumeVerify(volume, receipt) => {
            proof::verify(&agent, json, &volume, receipt.as_deref()).await
        }
        Question::VolumePace(volume, wanted) => pace::volume(&agent, json, &volume, wanted).await,
        Question::VolumeFork(volume, wanted) => volume::fork(&agent, json, &volume, wanted).await,
        Question::VolumeGrow(volume, wanted) => volume::grow(&agent, json, &volume, wanted).await,
        Question::VolumeAttach(volume, wanted) => attach::attach(&agent, json, &volume, wanted).await,
        Question::VolumeDetach(volume, wanted) => attach::detach(&agent, json, &volume, wanted).await,
        Question::VolumeOnSourceLoss(volume, wish) => loss::policy(&agent, json, &volume, wish).await,
        Question::VolumeChangeSources(volume, change) => sources::change(&agent, json, &volume, change).await,
        Question::VolumeSources(volume) => sources::list(&agent, json, &volume).await,
        Question::VolumeAbandonSource(volume, abandon) => loss::abandon(&agent, json, &volume, abandon).await,
        Question::VolumeDelete(volume) => volume::delete(&agent, json, &volume).await,
        Question::Moves { start, follow } => mv::start_several(&agent, json, start, follow).await,
        Question::MovePlan(start) => foreseen::plan(&agent, json, start).await,
        Question::Move { start, follow } => mv::start(&agent, json, start, follow).await,
        Question::MoveUndo { undo, follow } => mv::undo(&agent, json, undo, follow).await,
        Question::MoveCancel { cancel, follow } => mv::cancel(&agent, json, cancel, follow).await,
        Question::JobList { ended_max } => job::list(&agent, json, ended_max).await,
        Question::JobExport { since_ms } => job::export(&agent, since_ms).await,
        Question::JobReceipt(job) => proof::receipt(&agent, json, job).await,
        Question::JobShow(job) => job::show(&agent, json, job).await,
        Question::JobWatch(job) => job::watch(&agent, json, job).await,
        Question::JobCancel(job) => job::cancel(&agent, json, job).await,
        Question::JobResume(job) => job::resume(&agent, json, job).await,
        Question::WorkerSafeToStop { machines_may_stop } => {
            stop::check(&agent, json, machines_may_stop).await
        }
        Question::WorkerShutDown(wish) => stop::shut_down(&agent, json, wish).await,
        Question::WorkerPace(wanted) => pace::worker(&agent, json, wanted).await,
        Question::Gc(wanted) => gc::gc(&agent, json, wanted).await,
        Question::Truth(of) => truth::ask(&agent, json, &of).await,
        Question::WorkerCordon(of, wanted) => worker::cordon(&agent, json, of.as_ref(), wanted).await,
        Question::WorkerUncordon(of) => worker::uncordon(&agent, json, of.as_ref()).await,
        Question::Drain { worker, wish, follow } => drain::drain(&agent, json, &worker, wish, follow).await,
        Question::Top { once } => top::top(&agent, json, once).await,
        Question::RebalancePlan(wanted) => rebalance::plan(&agent, json, wanted).await,
        Question::RebalanceApply { start, follow } => rebalance::apply(&agent, json, *start, follow).await,
        Question::PlacementExplain(machine) => placement::explain(&agent, json, &machine).await,
        Question::Directory => directory::show(&agent, json).await,
        Question::WorkerShow => worker::show(&agent, json).await,
        Question::ClusterStatus => cluster::status(&agent, json).await,
        Question::ClusterToken(wanted) => cluster::token(&agent, json, wanted).await,
        Question::ClusterApiToken(wanted) => cluster::api_token(&agent, json, wanted).await,
        Question::ClusterRevoke(revoke) => cluster::revoke(&agent, json, revoke).await,
        Question::WorkerMetrics => worker::metrics(&agent).await,
    }
}

/// The agent of a worker, as `agent` reaches it; none if it does not know it.
async fn agent_of(agent: &Client, worker: &WorkerName) -> Result<Option<Client>> {
    // Only its name and its peers are looked at: the driver is one that answers without running a program.
    let known = agent.worker_for(DriverKind::Process).await?;
    if known.name == *worker {
        return Ok(Some(agent.clone()));
    }
    let peer = known.peers.iter().find(|peer| peer.name == *worker);
    peer.map(|peer| agent_of_peer(agent, peer)).transpose()
}

/// The agent of another worker; if it cannot be asked, what to do.
fn agent_of_peer(agent: &Client, peer: &PeerInfo) -> Result<Client> {
    let worker = &peer.name;
    agent.toward(&peer.url).with_context(|| {
        format!(
            "worker {worker} answers over the network whoever has a token: give one in FERRY_TOKEN (`ferry cluster api-token` \
             makes them), or ask on the host of {worker}"
        )
    })
}

/// The agent of the worker that is meant: the one that is asked, or the named one, as that one reaches it.
async fn agent_meant(agent: &Client, worker: Option<&WorkerName>) -> Result<Client> {
    let Some(worker) = worker else { return Ok(agent.clone()) };
    match agent_of(agent, worker).await? {
        Some(other) => Ok(other),
        None => bail!("the agent at {} knows no worker {worker}; ask the agent there (--agent)", agent.url()),
    }
}

/// A time in milliseconds since 1970 as date and time in UTC: the same on every worker and in every log.
fn utc(at_ms: u64) -> String {
    let timestamp = i64::try_from(at_ms).ok().and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok());
    timestamp.map_or_else(|| format!("{at_ms} ms"), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(super::utc(1_700_000_000_123), "2023-11-14 22:13:20Z");
        assert_eq!(super::utc(u64::MAX), "18446744073709551615 ms");
    }
}
