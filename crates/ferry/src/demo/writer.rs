//! The demo's machine: appends numbered, checksummed records to its volume and notes each one that became durable.
//!
//! Invariant: a record is noted as acknowledged only after the flush that follows its write was answered, and the
//! number of the next record comes from reading the volume, never from the diary: what the volume lost shows.
//!
//! ```text
//! begin --> connect --> find the end --> write, flush, note --> stop asked? exit 0
//!              ^                               |  volume gone
//!              '-------------------------------'
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::acks::{Ack, Diary, Entry};
use super::disk::Disk;
use super::records::{RECORD_BYTES, Record, Ring, resume_at};
use crate::output::in_one_line;

/// Pause before the volume is tried again after it went away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What the writer is told.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// NBD URI of its volume.
    pub uri: String,
    /// Its diary, outside the volume.
    pub acks: PathBuf,
    /// Where on the volume its records go.
    pub ring: Ring,
    /// Pause between two records.
    pub interval: Duration,
}

/// Runs until asked to stop by SIGTERM or SIGINT; the record in flight is finished first.
///
/// # Errors
/// The volume is not what was said, or the diary cannot be written. A volume that goes away is no error.
pub fn run<D: Disk>(options: &WriterOptions, connect: impl Fn(&str) -> Result<D>) -> Result<()> {
    let begun_ns = now_ns();
    let stop = stop_on_signals()?;
    let mut diary = Diary::open(&options.acks)?;
    let writer = begun_ns ^ u64::from(std::process::id()).rotate_left(48);
    diary.append(Entry::Start { at_ns: begun_ns, pid: std::process::id(), writer })?;
    if !diary.is_alone() {
        diary.append(Entry::Clash { at_ns: now_ns(), pid: std::process::id() })?;
    }
    let should_stop = || stop.load(Ordering::Relaxed);
    let mut away = false;
    while !should_stop() {
        let outcome = connect(&options.uri).and_then(|mut disk| {
            away = false;
            diary.append(Entry::Connected { at_ns: now_ns() })?;
            let mut session = Session { disk: &mut disk, diary: &mut diary, ring: options.ring, writer };
            session.write_records(&should_stop, options.interval)
        });
        if let Err(error) = outcome {
            if !std::mem::replace(&mut away, true) {
                tracing::warn!("{}; trying again until it is back", in_one_line(&error));
                diary.append(Entry::Lost { at_ns: now_ns() })?;
            }
            std::thread::sleep(RECONNECT_PAUSE);
        }
    }
    diary.append(Entry::Stop { at_ns: now_ns() })
}

/// One connection's worth of writing.
pub struct Session<'a, D> {
    /// The volume.
    pub disk: &'a mut D,
    /// Its diary.
    pub diary: &'a mut Diary,
    /// Where its records go.
    pub ring: Ring,
    /// The incarnation that writes them.
    pub writer: u64,
}

impl<D: Disk> Session<'_, D> {
    fn write_records(&mut self, should_stop: &dyn Fn() -> bool, interval: Duration) -> Result<()> {
        let mut next = self.find_the_end()?;
        self.diary.append(Entry::Found { at_ns: now_ns(), next })?;
        while !should_stop() {
            self.write_record(next)?;
            next += 1;
            if !interval.is_zero() {
                std::thread::sleep(interval);
            }
        }
        Ok(())
    }

    /// The number of the record after the last one that is there.
    ///
    /// # Errors
    /// The volume cannot be read.
    pub fn find_the_end(&mut self) -> Result<u64> {
        let mut block = [0; RECORD_BYTES];
        resume_at(self.ring, |slot| {
            let offset = self.ring.offset_of(slot);
            self.disk.read_at(offset, &mut block)?;
            Ok(Record::decode(&block, offset).map(|found| found.record.number))
        })
    }

    /// Writes a record, and notes it once it is durable.
    ///
    /// # Errors
    /// The volume or the diary cannot be written.
    pub fn write_record(&mut self, number: u64) -> Result<()> {
        let offset = self.ring.offset_of(number);
        let mut block = [0; RECORD_BYTES];
        let record = Record { number, offset, written_at_ns: now_ns(), writer: self.writer };
        let checksum = record.encode(&mut block);
        self.disk.write_at(offset, &block)?;
        self.disk.flush()?;
        self.diary.append(Entry::Ack(Ack { at_ns: now_ns(), number, offset, checksum }))
    }
}

/// Wall clock, nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).expect("the nanoseconds since 1970 fit 64 bits until 2554")
}

/// A flag that SIGTERM and SIGINT raise. A thread of its own waits for them, so the writing loop stays plain.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};

    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("the writer cannot wait for signals")?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        let terminate = signal(SignalKind::terminate()).context("the writer cannot catch SIGTERM")?;
        (terminate, signal(SignalKind::interrupt()).context("the writer cannot catch SIGINT")?)
    };
    let raised = Arc::clone(&stop);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        raised.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::demo::acks;
    use crate::demo::check::check;
    use crate::demo::disk::memory::MemoryDisk;
    use crate::demo::layout::Layout;

    const RING_BYTES: u64 = 64 * 4096;

    /// Writes `records` records on one connection.
    fn one_life(disk: &mut MemoryDisk, diary: &mut Diary, writer: u64, records: u64) -> Result<()> {
        let written = Cell::new(0);
        let should_stop = || written.replace(written.get() + 1) == records;
        let ring = Ring::new(0, RING_BYTES).unwrap();
        Session { disk, diary, ring, writer }.write_records(&should_stop, Duration::ZERO)
    }

    #[test]
    fn a_second_writer_goes_on_where_the_first_left_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let mut disk = MemoryDisk::default();
        one_life(&mut disk, &mut Diary::open(&path).unwrap(), 1, 17).unwrap();
        one_life(&mut disk, &mut Diary::open(&path).unwrap(), 2, 20).unwrap();
        let entries = acks::read(&path).unwrap();
        let numbers: Vec<u64> = acks::acknowledged(&entries).map(|ack| ack.number).collect();
        assert_eq!(numbers, (0..37).collect::<Vec<_>>());
        assert!(matches!(entries[18], Entry::Found { next: 17, .. }), "{:?}", entries[18]);
    }

    #[test]
    fn a_record_whose_write_failed_is_not_acknowledged_and_is_written_by_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let mut diary = Diary::open(&path).unwrap();
        let mut disk = MemoryDisk { writes_left: Some(5), ..MemoryDisk::default() };
        one_life(&mut disk, &mut diary, 1, 9).unwrap_err();
        disk.writes_left = None;
        one_life(&mut disk, &mut diary, 1, 2).unwrap();
        let acks: Vec<Ack> = acks::acknowledged(&acks::read(&path).unwrap()).collect();
        assert_eq!(acks.len(), 7);

        let layout = Layout { size_bytes: RING_BYTES, ring_bytes: RING_BYTES, fill_bytes: 0, seed: 0 };
        let ring = Ring::new(0, RING_BYTES).unwrap();
        assert!(check(&mut disk, &layout, ring, &acks).unwrap().is_good());
    }

    #[test]
    fn what_a_volume_lost_is_found_although_the_writer_went_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let mut diary = Diary::open(&path).unwrap();
        let mut disk = MemoryDisk::default();
        one_life(&mut disk, &mut diary, 1, 20).unwrap();
        for slot in 15..20 {
            disk.blocks.remove(&slot);
        }
        one_life(&mut disk, &mut diary, 2, 20).unwrap();
        let acks: Vec<Ack> = acks::acknowledged(&acks::read(&path).unwrap()).collect();
        let layout = Layout { size_bytes: RING_BYTES, ring_bytes: RING_BYTES, fill_bytes: 0, seed: 0 };
        let verdict = check(&mut disk, &layout, Ring::new(0, RING_BYTES).unwrap(), &acks).unwrap();
        assert_eq!(verdict.records_wrong, 5);
    }
}
