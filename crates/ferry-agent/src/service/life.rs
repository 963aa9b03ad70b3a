//! The life of an agent's process: what it does beside answering, and how it ends.

use super::{Agent, AgentError};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::drivers::Launcher;
use crate::drivers::inhibitor::Inhibitor;
use crate::entrances;
use crate::host::blocking;
use crate::machines::log;
use crate::udev;
use ferry_api::http;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Pause between two looks whether other workers need this one, and how long one is put off while nothing changes.
const INHIBIT_PAUSE: Duration = Duration::from_secs(1);
const INHIBIT_LOOK: Duration = Duration::from_secs(30);

/// Runs the agent of a worker until it is told to end (SIGTERM, SIGINT) or its journal cannot be kept. Machines
/// and volume servers go on running in either case.
///
/// # Errors
/// It cannot start, or its journal cannot be kept.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let address = config.listen;
    let agent = Arc::new(Agent::start(config, Launcher::this_program()?).await?);
    let secured = agent.cluster.as_ref().map(Cluster::secured).transpose()?;
    let entrances = entrances::open(&agent.core.config, secured)?;
    tracing::info!(worker = %agent.core.config.name, %address, "the agent listens");
    udev::tell();
    let told = told_to_end().map_err(AgentError::Signals)?;
    let failing = Arc::clone(&agent);
    let closing = async move {
        tokio::select! {
            biased;
            () = told => {}
            () = failing.shutdown.gone() => tracing::info!("shut down; the agent ends"),
            _ = failing.failure() => {}
        }
        failing.core.services.close();
    };
    let mut chores = JoinSet::new();
    if let Some(inhibitor) = Inhibitor::of_this_host(&agent.core.config) {
        chores.spawn(inhibit(Arc::clone(&agent), inhibitor));
    }
    chores.spawn(trim_logs(agent.core.config.state_dir.clone()));
    // Also when the journal cannot be kept whoever has asked something is told so before the agent is gone.
    http::serve(entrances, Arc::clone(&agent), closing).await;
    entrances::close(&agent.core.config);
    tokio::select! {
        biased;
        reason = agent.failure() => Err(AgentError::Journal { reason }),
        () = std::future::ready(()) => Ok(()),
    }
}

/// Gives back what is old in the logs of machines, for ever.
async fn trim_logs(state_dir: PathBuf) {
    loop {
        tokio::time::sleep(log::TRIM_PAUSE).await;
        let dir = state_dir.clone();
        if let Err(error) = blocking(move || log::trim_all(&dir)).await {
            tracing::warn!(%error, "the logs of machines cannot be looked at");
        }
    }
}

/// Keeps the host from being shut down while other workers need it, for ever.
async fn inhibit(agent: Arc<Agent>, mut inhibitor: Inhibitor) {
    let mut touched = agent.core.records.touched();
    loop {
        match agent.worker_needed_here().await {
            Ok(reasons) => drop(inhibitor.follow(&reasons).await),
            Err(error) => tracing::warn!(%error, "it is not known whether other workers need this one"),
        }
        // What changes changes several times at once.
        tokio::time::sleep(INHIBIT_PAUSE).await;
        let _ = tokio::time::timeout(INHIBIT_LOOK, touched.recv()).await;
        touched = touched.resubscribe();
    }
}

/// Resolves when the process is told to end.
fn told_to_end() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end; machines and volume servers go on");
    })
}
