//! The `process` driver: a machine is a process group of the worker.
//!
//! A machine that mounts volumes, or is isolated, becomes this program first, which makes its namespaces (`init`).

use super::cgroup::{self, Groups};
use super::gate::{Behind, Clothes, Gates, Held};
use super::{Driver, DriverError, HeldMachine, Launch, Watch, gate, isolated, probe};
use crate::host::Doing;
use crate::records::ProcessMark;
use ferry_api::{HealthCheck, Limit, Limits, MachineSpec, Probe, ProcessSpec};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Runs machines as processes of this worker.
#[derive(Debug)]
pub struct ProcessDriver {
    /// This program.
    program: PathBuf,
    gates: Arc<Gates>,
    groups: Groups,
}

/// A machine behind its gate, and the control groups that it is in.
pub(super) struct Grouped {
    held: Held,
    machine: String,
}

impl Driver for ProcessDriver {
    fn probe(&self) -> Doing<'_, Result<String, DriverError>> {
        Box::pin(async { Ok(String::new()) })
    }

    fn limits(&self) -> Vec<Limit> {
        self.groups.limits()
    }

    fn check<'a>(&'a self, spec: &'a MachineSpec) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(async {
            self.groups.check(&spec.limits)?;
            check(spec)
        })
    }

    fn start<'a>(&'a self, launch: &'a Launch) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>> {
        Box::pin(async { Ok(Box::new(self.hold(launch).await?) as Box<dyn HeldMachine>) })
    }

    fn try_health<'a>(
        &'a self,
        launch: &'a Launch,
        mark: &'a ProcessMark,
        check: &'a HealthCheck,
    ) -> Doing<'a, Result<(), String>> {
        let inside = launch.spec.is_isolated().then(|| (mark.clone(), launch.dir.join(isolated::PLAN)));
        let one = probe::Try { inside, probe: check.probe.clone(), timeout_ms: check.timeout_ms };
        let mut command = self.try_of(one);
        clothes(launch).put_on(&mut command);
        Box::pin(self.try_by(command, check))
    }

    fn devices(&self, dir: &Path) -> Vec<PathBuf> {
        isolated::devices(dir)
    }

    fn find(&self, dir: &Path, mark: &ProcessMark) -> Result<Option<Watch>, DriverError> {
        let machine = machine_of(dir);
        let found = gate::find(mark)?;
        if found.is_none() {
            cgroup::remove(&machine);
        }
        Ok(found.map(|process| cgroup::watched(process, machine)))
    }
}

/// See [`Driver::check`].
fn check(spec: &MachineSpec) -> Result<(), DriverError> {
    let ProcessSpec { command, workdir, .. } = process_of(spec);
    if spec.is_isolated() {
        isolated::check(spec)?;
    }
    if isolated::root(spec).is_some() {
        return Ok(());
    }
    find_program(command)?;
    if let Some(Probe::Command(words)) = spec.health.as_ref().map(|check| &check.probe) {
        find_program(words.first().map_or("", String::as_str))?;
    }
    for (_, hook) in spec.hooks.iter() {
        find_program(hook.command.first().map_or("", String::as_str))?;
    }
    match workdir {
        Some(path) if !path.is_dir() => Err(DriverError::NoWorkdir { path: path.clone() }),
        Some(_) | None => Ok(()),
    }
}

/// What this driver is to run.
pub(super) fn process_of(spec: &MachineSpec) -> &ProcessSpec {
    spec.driver.as_process().expect("each driver is only given what it runs")
}

impl ProcessDriver {
    /// Runs machines that begin behind `gates`; `program` is this program, by which those are started that have namespaces of their own.
    #[must_use]
    pub fn new(program: &Path, gates: Arc<Gates>) -> Self {
        Self { program: program.to_owned(), gates, groups: Groups::default() }
    }

    /// What the gate becomes: the machine, or this program that makes its namespaces.
    fn first_words(&self, launch: &Launch) -> Result<Vec<OsString>, DriverError> {
        let ProcessSpec { command, args, .. } = process_of(&launch.spec);
        if launch.spec.is_isolated() {
            return Ok(self.keeper(isolated::write_plan(launch)?));
        }
        let program = find_program(command)?.into_os_string();
        Ok(std::iter::once(program).chain(args.iter().map(OsString::from)).collect())
    }

    /// What a gate becomes that leads to the keeper of what `plan` describes.
    fn keeper(&self, plan: PathBuf) -> Vec<OsString> {
        vec![self.program.clone().into(), "machine-init".into(), plan.into()]
    }

    async fn hold(&self, launch: &Launch) -> Result<Grouped, DriverError> {
        let ProcessSpec { command, .. } = process_of(&launch.spec);
        let words = self.first_words(launch)?;
        let behind = Behind { name: command, words: &words, clothes: clothes(launch), log: &launch.log };
        self.grouped(launch, &behind, &launch.spec.limits).await
    }

    /// Holds the keeper of a machine of another driver: it makes what `plan` describes, and runs what that says. How many processes
    /// that may have is left to the other driver.
    pub(super) async fn hold_keeper(&self, launch: &Launch, plan: PathBuf) -> Result<Grouped, DriverError> {
        let words = self.keeper(plan);
        let clothes = keepers_clothes(launch);
        let behind = Behind { name: "the keeper of a machine", words: &words, clothes, log: &launch.log };
        let limits = Limits { pids: None, ..launch.spec.limits };
        self.grouped(launch, &behind, &limits).await
    }

    async fn grouped(
        &self,
        launch: &Launch,
        behind: &Behind<'_>,
        limits: &Limits,
    ) -> Result<Grouped, DriverError> {
        let machine = machine_of(&launch.dir);
        // A machine that ended while its host was down has left none; one whose agent was killed as it ended may have.
        cgroup::remove(&machine);
        let grouped = Grouped { held: self.gates.hold(behind).await?, machine };
        match self.groups.enter(&grouped.machine, limits, grouped.mark().pid) {
            Ok(()) => Ok(grouped),
            Err(error) => {
                Box::new(grouped).abandon().await;
                Err(error)
            }
        }
    }

    /// Whether these limits can be kept here.
    pub(super) fn check_limits(&self, limits: &Limits) -> Result<(), DriverError> {
        self.groups.check(limits)
    }

    /// Tries how a machine is whose keeper was held so.
    pub(super) async fn try_in_keeper(
        &self,
        launch: &Launch,
        mark: &ProcessMark,
        probe: Probe,
        check: &HealthCheck,
    ) -> Result<(), String> {
        let inside = Some((mark.clone(), launch.dir.join(isolated::PLAN)));
        let mut command = self.try_of(probe::Try { inside, probe, timeout_ms: check.timeout_ms });
        keepers_clothes(launch).put_on(&mut command);
        self.try_by(command, check).await
    }

    /// The program that tries how a machine is.
    fn try_of(&self, one: probe::Try) -> Command {
        let words = serde_json::to_string(&one).expect("what is tried is plain data and always encodes");
        let mut command = Command::new(&self.program);
        command.args(["machine-probe", &words]);
        command
    }

    async fn try_by(&self, command: Command, check: &HealthCheck) -> Result<(), String> {
        let trying = {
            let _one_at_a_time = self.gates.one_at_a_time().await;
            probe::begin(command)?
        };
        trying.outcome(check).await
    }
}

impl HeldMachine for Grouped {
    fn mark(&self) -> &ProcessMark {
        self.held.mark()
    }

    fn release(self: Box<Self>) -> Result<Watch, DriverError> {
        Ok(cgroup::watched(Box::new(self.held).release()?, self.machine))
    }

    fn abandon(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async {
            Box::new(self.held).abandon().await;
            cgroup::remove(&self.machine);
        })
    }
}

/// How the groups of a machine are called: as its directory, which is its id.
pub(super) fn machine_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The environment and the directory of a machine.
fn clothes(launch: &Launch) -> Clothes<'_> {
    let ProcessSpec { env, workdir, .. } = process_of(&launch.spec);
    // One with a root of its own finds its directory inside.
    let workdir = workdir.as_ref().filter(|_| !launch.spec.is_isolated()).unwrap_or(&launch.dir);
    Clothes { env: vec![env, &launch.env], workdir }
}

/// Those of the keeper of a machine of another driver.
fn keepers_clothes(launch: &Launch) -> Clothes<'_> {
    Clothes { env: vec![&launch.env], workdir: &launch.dir }
}

/// Finds a program as a shell would.
pub(super) fn find_program(command: &str) -> Result<PathBuf, DriverError> {
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let found = if command.contains('/') {
        Some(PathBuf::from(command)).filter(|path| runs(path))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(command)).find(|path| runs(path))
    };
    found.ok_or_else(|| DriverError::NoProgram { command: command.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn driver() -> ProcessDriver {
        ProcessDriver::new(Path::new("/bin/false"), Arc::default())
    }

    fn launch(dir: &Path, script: &str) -> Launch {
        Launch {
            machine: ferry_api::MachineId::fresh(),
            name: "sh".parse().unwrap(),
            mounts: Vec::new(),
            disks: Vec::new(),
            spec: MachineSpec::process("sh", ["-c", script]),
            dir: dir.to_owned(),
            log: dir.join("machine.log"),
            env: BTreeMap::from([("FERRY_VOLUME_DATA".to_owned(), "nbd+unix:///?socket=/x".to_owned())]),
        }
    }

    #[tokio::test]
    async fn a_machine_runs_in_its_directory_with_its_volumes_in_its_environment() {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver();
        let held =
            driver.start(&launch(dir.path(), "pwd; echo $FERRY_VOLUME_DATA; cat; exit 3")).await.unwrap();
        let pid = held.mark().pid;
        let watch = held.release().unwrap();
        assert_eq!(watch.pid(), pid);
        assert_eq!(watch.ended().await.code, Some(3));
        let log = std::fs::read_to_string(dir.path().join("machine.log")).unwrap();
        assert_eq!(
            log,
            format!("{}\nnbd+unix:///?socket=/x\n", dir.path().canonicalize().unwrap().display())
        );
    }

    #[tokio::test]
    async fn a_machine_does_not_see_its_agents_variables() {
        let dir = tempfile::tempdir().unwrap();
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "cargo gives this to the test");
        let script = "echo ${CARGO_MANIFEST_DIR-unset} ${PATH:+path}";
        let held = driver().start(&launch(dir.path(), script)).await.unwrap();
        assert_eq!(held.release().unwrap().ended().await.code, Some(0));
        assert_eq!(std::fs::read_to_string(dir.path().join("machine.log")).unwrap(), "unset path\n");
    }

    #[tokio::test]
    async fn a_machine_whose_gate_never_opens_never_runs() {
        let dir = tempfile::tempdir().unwrap();
        let held = driver().start(&launch(dir.path(), "echo ran")).await.unwrap();
        let mark = held.mark().clone();
        held.abandon().await;
        assert!(Watch::find(&mark).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(dir.path().join("machine.log")).unwrap(), "");
    }

    #[tokio::test]
    async fn the_mark_made_before_the_gate_finds_the_machine_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver();
        let held = driver.start(&launch(dir.path(), "exec sleep 1000")).await.unwrap();
        let mark = held.mark().clone();
        let watch = held.release().unwrap();
        let found = driver.find(dir.path(), &mark).unwrap().expect("it runs");
        assert_eq!(found.pid(), watch.pid());
        watch.kill_group();
        assert_eq!(watch.ended().await.signal, Some(9));
        assert!(driver.find(dir.path(), &mark).unwrap().is_none());
    }

    #[test]
    fn a_program_that_is_not_there_is_refused_before_anything_starts() {
        let refused = check(&MachineSpec::process("no-such-program", ["x"]));
        assert!(matches!(refused, Err(DriverError::NoProgram { command }) if command == "no-such-program"));
        assert!(check(&MachineSpec::process("/bin/sh", ["x"])).is_ok());
    }
}
