//! Moving machines with their memory: what is asked of the driver of one, and what the records say meanwhile.

use super::{Inner, Machines, MachinesError};
use crate::drivers::{DriverError, HeldMachine, Live, Watch};
use crate::records::{Change, MachineRecord, MemoryMoves, ProcessMark};
use ferry_api::{JobId, LiveFacts, MachineId, WorkerName};
use ferry_crossing::live::{Memory, has_left};
use std::time::Duration;

/// How long a call waits for memory that is on its way here.
const ARRIVES_MAX: Duration = Duration::from_secs(10);
/// How often it is looked meanwhile, beside the time that a look itself waits for news.
const ARRIVES_POLL: Duration = Duration::from_millis(2);

impl Machines {
    /// How a machine runs here, for a worker that is to take it with its memory; or why that cannot be, in one sentence.
    ///
    /// # Errors
    /// It is not here, or does not tell.
    pub async fn live_facts(&self, machine: MachineId) -> Result<Result<LiveFacts, String>, MachinesError> {
        let record = self.record(machine).await?;
        let (Some(live), Some(_)) = (self.live(&record), self.inner.process(&record)?) else {
            let name = &record.name;
            return Ok(Err(format!(
                "machine {name} does not run, so there is no memory to move; move it --mode cold"
            )));
        };
        Ok(Ok(live.runs_as(&self.inner.dir(machine)).await?))
    }

    /// How the memory of a machine stands; none if no process of it runs here.
    ///
    /// # Errors
    /// It is not here, or does not tell.
    pub async fn memory(&self, machine: MachineId) -> Result<Option<Memory>, MachinesError> {
        let record = self.record(machine).await?;
        self.memory_of(&record).await
    }

    async fn memory_of(&self, record: &MachineRecord) -> Result<Option<Memory>, MachinesError> {
        let (Some(live), Some(_)) = (self.live(record), self.inner.process(record)?) else { return Ok(None) };
        match live.memory(&self.inner.dir(record.id)).await {
            Ok(stands) => Ok(Some(stands)),
            // It may have ended just now.
            Err(_) if self.inner.process(record)?.is_none() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins to send the memory of a machine to `to`, `HOST:PORT`.
    ///
    /// # Errors
    /// It is not begun.
    pub async fn send_memory(&self, machine: MachineId, to: &str) -> Result<(), MachinesError> {
        let record = self.record(machine).await?;
        let live = self.live(&record).ok_or_else(|| no_memory(&record))?;
        Ok(live.send(&self.inner.dir(machine), to).await?)
    }

    /// Lets the rest of the memory of a paused machine go that `job` has handed over; answers how it stands then. One whose memory did not
    /// leave is ended: what was handed over must not run on here.
    ///
    /// # Errors
    /// It is not known how it stands.
    pub async fn let_memory_go(
        &self,
        machine: MachineId,
        job: JobId,
    ) -> Result<Option<Memory>, MachinesError> {
        let Some(record) =
            self.inner.records.machine(machine).await?.filter(|here| !has_left(Some(here), job))
        else {
            return Ok(Some(Memory::Left));
        };
        let stands = match (self.live(&record), self.inner.process(&record)?) {
            (Some(live), Some(_)) => match live.let_go(&self.inner.dir(machine)).await {
                Ok(stands) => Some(stands),
                Err(_) if self.inner.process(&record)?.is_none() => None,
                Err(error) => return Err(error.into()),
            },
            (_, _) => None,
        };
        if stands.as_ref().is_some_and(|stands| *stands != Memory::Left) {
            self.inner.records.change(vec![Change::MemoryLeft(machine)]).await?;
            self.settle(machine).await;
            if self.inner.process(&record)?.is_some() {
                return Err(MachinesError::DoesNotStop { name: record.name.to_string() });
            }
        }
        Ok(stands)
    }

    /// Takes back that the memory of a machine moves: it runs on here. One that has ended meanwhile is started as any other.
    ///
    /// # Errors
    /// It does not run on yet.
    pub async fn keep_memory(&self, machine: MachineId) -> Result<(), MachinesError> {
        let record = self.record(machine).await?;
        let (Some(live), Some(_)) = (self.live(&record), self.inner.process(&record)?) else { return Ok(()) };
        match live.keep(&self.inner.dir(machine)).await {
            Err(_) if self.inner.process(&record)?.is_none() => Ok(()),
            kept => Ok(kept?),
        }
    }

    /// Makes a machine that waits for its memory, behind its gate; `record` as it will arrive, its disks stand by.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn expect(
        &self,
        record: &MachineRecord,
        facts: &LiveFacts,
    ) -> Result<Box<dyn HeldMachine>, MachinesError> {
        let live = self.live(record).ok_or_else(|| no_memory(record))?;
        let disks = self.inner.disks(record).await?;
        let launch = self.inner.launch(record, Vec::new(), disks)?;
        Ok(live.expect(&launch, facts).await?)
    }

    /// Has a machine that waits for its memory listen for it, and take it from the worker `from`; answers the port.
    ///
    /// # Errors
    /// It does not.
    pub async fn listen(&self, record: &MachineRecord, from: &WorkerName) -> Result<u16, MachinesError> {
        let live = self.live(record).ok_or_else(|| no_memory(record))?;
        Ok(live.listen(&self.inner.dir(record.id), from).await?)
    }

    /// Whether a process that waits for the memory of a machine is there.
    ///
    /// # Errors
    /// The system refuses to tell.
    pub fn awaits(&self, record: &MachineRecord) -> Result<bool, MachinesError> {
        Ok(self.inner.process(record)?.is_some())
    }

    /// Ends a process that waits, or waited, for the memory of a machine.
    ///
    /// # Errors
    /// The system refuses to tell.
    pub async fn end_awaited(&self, record: &MachineRecord) -> Result<(), MachinesError> {
        if let Some(watch) = self.inner.process(record)? {
            watch.kill_group();
            watch.ended().await;
        }
        Ok(())
    }

    /// Removes the directory of a machine that never came, unless it was here before.
    ///
    /// # Errors
    /// The records cannot be read; a file operation failed.
    pub async fn forget_expected(&self, machine: MachineId) -> Result<(), MachinesError> {
        if self.inner.records.machine(machine).await?.is_some() {
            return Ok(());
        }
        let failed = |cause| MachinesError::Io { doing: "remove", path: self.inner.dir(machine), cause };
        self.inner.host.remove_machine_dir(machine).await.map_err(failed)
    }

    /// Waits until a machine goes on here with its memory, or it is known that it does not and it may be started anew. Nothing
    /// happens to one that does not wait for memory. Whoever calls this has seen to it that it runs nowhere else.
    ///
    /// # Errors
    /// Its memory is still on its way.
    pub async fn arrive(&self, machine: MachineId) -> Result<(), MachinesError> {
        let until = tokio::time::Instant::now() + ARRIVES_MAX;
        loop {
            let record = self.record(machine).await?;
            if record.memory != Some(MemoryMoves::Here) {
                return Ok(());
            }
            // Its disks may have been made anew when they became this worker's.
            self.inner.disks(&record).await?;
            match self.memory_of(&record).await? {
                // A process that could not take it ends next.
                Some(Memory::Awaited | Memory::Failed { .. }) => {}
                Some(_) => {
                    self.note_arrival(machine).await?;
                    Inner::thaw(&self.inner, &record);
                    return Ok(());
                }
                None => {
                    // Its minder has to notice, too: the process that is gone is not what goes on.
                    self.settle(machine).await;
                    if self.record(machine).await?.process.is_none() {
                        return self.note_arrival(machine).await;
                    }
                }
            }
            if tokio::time::Instant::now() >= until {
                let waits_for = "its memory is still on its way".to_owned();
                return Err(MachinesError::DoesNotRun { name: record.name.to_string(), waits_for });
            }
            tokio::time::sleep(ARRIVES_POLL).await;
        }
    }

    async fn note_arrival(&self, machine: MachineId) -> Result<(), MachinesError> {
        let at_ms = self.inner.host.now_ms();
        Ok(self.inner.records.change(vec![Change::MemoryArrived { machine, at_ms }]).await?)
    }

    /// No memory will come any more: a process that still waits for it is ended.
    ///
    /// # Errors
    /// It is not known how the process stands.
    pub async fn forsake(&self, machine: MachineId) -> Result<(), MachinesError> {
        let record = self.record(machine).await?;
        if record.memory == Some(MemoryMoves::Here) && self.memory_of(&record).await? == Some(Memory::Awaited)
        {
            tracing::warn!(machine = %record.name, "the memory of a machine was lost");
            self.end_awaited(&record).await?;
            self.settle(machine).await;
        }
        Ok(())
    }

    fn live(&self, record: &MachineRecord) -> Option<&dyn Live> {
        self.inner.host.driver(record.spec.driver.kind()).live()
    }
}

impl Inner {
    /// The process of a machine, if it runs.
    fn process(&self, record: &MachineRecord) -> Result<Option<Watch>, DriverError> {
        let find =
            |mark: &ProcessMark| self.host.driver(record.spec.driver.kind()).find(&self.dir(record.id), mark);
        Ok(record.process.as_ref().map(find).transpose()?.flatten())
    }
}

fn no_memory(record: &MachineRecord) -> MachinesError {
    let waits_for = "the memory of its kind of machine cannot be moved".to_owned();
    MachinesError::DoesNotRun { name: record.name.to_string(), waits_for }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::drivers::{Channel, Launcher, mark_of};
    use crate::fences::Fences;
    use crate::host::ThisHost;
    use crate::peers::Peers;
    use crate::records::{Records, Standing};
    use crate::volumes::Volumes;
    use ferry_api::{Desired, Driver, Generation, MachineSpec, QemuSpec};
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;

    /// The machines of a worker that has none yet.
    fn machines(dir: &Path) -> Machines {
        let text = format!(
            "name = \"w1\"\nstate_dir = {:?}\nlisten = \"127.0.0.1:1\"\nexport_listen = \"127.0.0.1:0\"\n",
            dir.display()
        );
        let config = Config::parse(Path::new("ferry.toml"), &text).unwrap();
        let (records, fences) = (Records::open(dir).unwrap(), Fences::open(dir).unwrap());
        let channel = Channel { listen: config.export_listen.ip(), tls: None, names_workers: false };
        let host = Arc::new(ThisHost::new(dir, Launcher::new("/bin/false"), None, channel));
        let peers = Peers::new(&config.peers).unwrap();
        let volumes = Volumes::new(&config, records.clone(), fences.clone(), peers, host.clone(), None);
        Machines::new(&config, records, fences, volumes, host)
    }

    #[tokio::test]
    async fn a_job_that_let_memory_go_long_ago_leaves_alone_what_has_come_back_since() {
        let dir = tempfile::tempdir().unwrap();
        let machines = machines(dir.path());
        // It stands for a VM: who asks it anything finds nobody.
        let mut runs = Command::new("sleep").arg("1000000").spawn().unwrap();
        let record = MachineRecord {
            id: MachineId::fresh(),
            name: "vm".parse().unwrap(),
            spec: MachineSpec {
                driver: Driver::Qemu(QemuSpec::default()),
                ..MachineSpec::process("x", ["y"])
            },
            volumes: Vec::new(),
            desired: Desired::Running,
            generation: Generation(3),
            standing: Standing::Ours,
            job: None,
            halted: false,
            doomed: false,
            process: mark_of(runs.id()).unwrap(),
            memory: None,
            last_exit: None,
            start_ms: None,
            created_at_ms: 0,
        };
        let added = vec![Change::AddMachine(Box::new(record.clone()))];
        machines.inner.records.change(added).await.unwrap();
        let left = machines.let_memory_go(record.id, JobId::fresh()).await;
        let is_there = runs.try_wait().unwrap().is_none();
        runs.kill().unwrap();
        runs.wait().unwrap();
        assert!(matches!(left, Ok(Some(Memory::Left))) && is_there, "{left:?}");
    }
}
