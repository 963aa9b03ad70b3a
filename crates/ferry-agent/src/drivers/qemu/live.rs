//! How a VM's memory moves: by QEMU's own migration, over TLS with the certificates of the volume servers.

use super::migration::{
    abilities_at_source, abilities_at_target, cpu, memory, of_version_line, parameters_at_source, port,
    program,
};
use super::qmp::Monitor;
use super::{MONITOR_SOCKET, QemuDriver, probe, qemu_of, words::Accel};
use crate::drivers::{DriverError, HeldMachine, Launch, Live};
use crate::host::Doing;
use ferry_api::{Accel as Wanted, LiveFacts, WorkerName};
use ferry_crossing::live::{Memory, REST_MS_SHORT, rest_ms};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long one look waits for news of memory that is on its way.
const NEWS_MAX: Duration = Duration::from_millis(250);
/// How long a QEMU that was just let run may take to listen at its monitor.
const UP_MAX: Duration = Duration::from_secs(30);
const UP_POLL: Duration = Duration::from_millis(2);
/// How often it is looked whether the rest of a machine's memory has arrived, or the machine runs again: as long as it takes.
const LOOKS_MAX: u32 = 240;
/// What QEMU calls the object with the certificates.
const CREDENTIALS: &str = "memory-tls";
/// What QEMU calls the object that knows who may bring memory.
const SENDER: &str = "memory-sender";
/// Where the kernel tells of its CPUs.
const CPU_INFO: &str = "/proc/cpuinfo";

impl QemuDriver {
    fn facts(&self, program: String, kvm: bool) -> LiveFacts {
        // One that cannot be read is like no other.
        let cpu =
            kvm.then(|| std::fs::read_to_string(CPU_INFO).map_or_else(|e| e.to_string(), |info| cpu(&info)));
        LiveFacts {
            program,
            kvm,
            cpu,
            tls: self.channel.tls.is_some(),
            local: self.channel.listen.is_loopback(),
        }
    }

    /// Gives QEMU the certificates, again if it has them; the name by which they are used, or nothing.
    async fn certify(&self, monitor: &mut Monitor, endpoint: &str) -> io::Result<&'static str> {
        let Some(dir) = &self.channel.tls else { return Ok("") };
        // Fails where there are none yet.
        let _ = monitor.ask("object-del", json!({ "id": CREDENTIALS })).await;
        let credentials = json!({
            "qom-type": "tls-creds-x509", "id": CREDENTIALS, "dir": dir, "endpoint": endpoint, "verify-peer": true,
        });
        monitor.ask("object-add", credentials).await?;
        Ok(CREDENTIALS)
    }

    /// Has QEMU believe the worker `from` alone, where certificates tell workers apart.
    async fn pin(&self, monitor: &mut Monitor, from: &WorkerName) -> io::Result<()> {
        if self.channel.tls.is_none() || !self.channel.names_workers {
            return Ok(());
        }
        // Fails where there is none yet.
        let _ = monitor.ask("object-del", json!({ "id": SENDER })).await;
        let sender = json!({ "qom-type": "authz-simple", "id": SENDER, "identity": format!("CN={from}") });
        monitor.ask("object-add", sender).await?;
        monitor.ask("migrate-set-parameters", json!({ "tls-authz": SENDER })).await?;
        Ok(())
    }

    async fn listens(&self, dir: &Path, from: &WorkerName) -> io::Result<u16> {
        let mut monitor = arrived_at(dir).await?;
        let told = monitor.run("query-migrate").await?;
        if let Some(port) = port(&told) {
            return Ok(port);
        }
        let tls = self.certify(&mut monitor, "server").await?;
        monitor.ask("migrate-set-capabilities", abilities_at_target()).await?;
        monitor.ask("migrate-set-parameters", json!({ "tls-creds": tls })).await?;
        self.pin(&mut monitor, from).await?;
        let at = std::net::SocketAddr::new(self.channel.listen, 0);
        monitor.ask("migrate-incoming", json!({ "uri": format!("tcp:{at}") })).await?;
        let told = monitor.run("query-migrate").await?;
        port(&told).ok_or_else(|| io::Error::other(format!("QEMU does not say where it listens: {told}")))
    }

    async fn sends(&self, dir: &Path, to: &str) -> io::Result<()> {
        let mut monitor = at(dir).await?;
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host).trim_matches(['[', ']']);
        let tls = self.certify(&mut monitor, "client").await?;
        monitor.ask("migrate-set-capabilities", abilities_at_source()).await?;
        monitor.ask("migrate-set-parameters", parameters_at_source(tls, host)).await?;
        monitor.ask("migrate", json!({ "uri": format!("tcp:{to}") })).await?;
        Ok(())
    }
}

async fn at(dir: &Path) -> io::Result<Monitor> {
    Monitor::connect(&dir.join(MONITOR_SOCKET)).await
}

/// As [`at`], of a QEMU that begins just now.
async fn arrived_at(dir: &Path) -> io::Result<Monitor> {
    let come = async {
        loop {
            match at(dir).await {
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    tokio::time::sleep(UP_POLL).await;
                }
                come => return come,
            }
        }
    };
    tokio::time::timeout(UP_MAX, come).await?
}

async fn stands(monitor: &mut Monitor) -> io::Result<(Memory, Value)> {
    let migrate = monitor.run("query-migrate").await?;
    let status = monitor.run("query-status").await?;
    Ok((memory(&migrate, &status), status))
}

async fn look(dir: &Path) -> io::Result<Memory> {
    let mut monitor = at(dir).await?;
    let (found, _) = stands(&mut monitor).await?;
    match &found {
        Memory::Leaving(copied) => {
            let rest_ms = rest_ms(copied);
            if rest_ms != REST_MS_SHORT {
                monitor.ask("migrate-set-parameters", json!({ "downtime-limit": rest_ms })).await?;
            }
        }
        Memory::Finishing | Memory::Awaited => {}
        Memory::Here | Memory::Paused(_) | Memory::Left | Memory::Failed { .. } => return Ok(found),
    }
    monitor.news(NEWS_MAX).await?;
    Ok(stands(&mut monitor).await?.0)
}

async fn let_go(dir: &Path) -> io::Result<Memory> {
    let mut monitor = at(dir).await?;
    for _ in 0..LOOKS_MAX {
        match stands(&mut monitor).await?.0 {
            Memory::Paused(_) => {
                monitor.ask("migrate-continue", json!({ "state": "pre-switchover" })).await?;
            }
            Memory::Finishing => monitor.news(NEWS_MAX).await?,
            done @ (Memory::Here
            | Memory::Leaving(_)
            | Memory::Left
            | Memory::Failed { .. }
            | Memory::Awaited) => return Ok(done),
        }
    }
    Err(io::Error::other("the rest of its memory is still on its way"))
}

async fn keep(dir: &Path) -> io::Result<()> {
    let mut monitor = at(dir).await?;
    for _ in 0..LOOKS_MAX {
        let (stands, status) = stands(&mut monitor).await?;
        match stands {
            Memory::Leaving(_) | Memory::Paused(_) => {
                monitor.run("migrate_cancel").await?;
            }
            Memory::Finishing => {}
            Memory::Here | Memory::Failed { .. } if status["status"] == "finish-migrate" => {}
            // What else it does is the guest's own affair.
            Memory::Here | Memory::Failed { .. } => return Ok(()),
            Memory::Left | Memory::Awaited => return Err(io::Error::other("its memory is not here")),
        }
        monitor.news(NEWS_MAX).await?;
    }
    Err(io::Error::other("it does not run again yet"))
}

fn failed(doing: &str, dir: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let doing = format!("{doing} of the VM in {}", dir.display());
    move |cause| DriverError::Io { doing, cause }
}

impl Live for QemuDriver {
    fn offers(&self) -> Doing<'_, Result<LiveFacts, DriverError>> {
        Box::pin(async {
            Ok(self
                .facts(of_version_line(&self.known().await?.version), matches!(self.kvm.get(), Some(Ok(())))))
        })
    }

    fn runs_as<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<LiveFacts, DriverError>> {
        Box::pin(async move {
            let asked = async {
                let mut monitor = at(dir).await?;
                Ok((monitor.run("query-version").await?, monitor.run("query-kvm").await?))
            };
            let (version, kvm) = asked.await.map_err(failed("ask for the version", dir))?;
            Ok(self.facts(program(&version), kvm["enabled"] == true))
        })
    }

    fn expect<'a>(
        &'a self,
        launch: &'a Launch,
        facts: &'a LiveFacts,
    ) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>> {
        Box::pin(async move {
            let accel = match facts.kvm {
                true => self.accel(&probe::find()?, Wanted::Kvm).await?,
                false => Accel::Tcg,
            };
            let words = ["-incoming".into(), "defer".into()];
            Ok(Box::new(self.hold(launch, qemu_of(&launch.spec), accel, &words).await?)
                as Box<dyn HeldMachine>)
        })
    }

    fn listen<'a>(&'a self, dir: &'a Path, from: &'a WorkerName) -> Doing<'a, Result<u16, DriverError>> {
        Box::pin(async move { self.listens(dir, from).await.map_err(failed("listen for the memory", dir)) })
    }

    fn send<'a>(&'a self, dir: &'a Path, to: &'a str) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(async move { self.sends(dir, to).await.map_err(failed("send the memory", dir)) })
    }

    fn memory<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<Memory, DriverError>> {
        Box::pin(async move { look(dir).await.map_err(failed("look at the memory", dir)) })
    }

    fn let_go<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<Memory, DriverError>> {
        Box::pin(async move { let_go(dir).await.map_err(failed("send the rest of the memory", dir)) })
    }

    fn keep<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(async move { keep(dir).await.map_err(failed("keep the memory", dir)) })
    }
}
