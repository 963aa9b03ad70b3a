//! The volume as a block device, where the kernel has ublk: one thread takes the device's requests from the driver.
//!
//! ```text
//!  /dev/ublkbN ──the driver──io_uring──▶ queue ──mailbox──▶ the server's loop
//!                   ▲─────────────────pread, pwrite───────────────┘
//! ```
//!
//! The bytes of requests are copied by `pread` and `pwrite` (UBLK_F_USER_COPY) instead of through a buffer for each tag:
//! the kernel then never writes in our memory by itself, so nothing must be kept for it, and a read is copied once, out of
//! the server's buffer into the guest's pages.
//!
//! A device is known by a mark that is made of the volume's directory. When its server dies the driver keeps what has no
//! answer, the guest waits, and the next server takes the device over: what had no answer is asked again.

mod driver;
mod queue;
mod table;

use super::{Ground, Running};
use crate::ublk::{DEPTH, DEPTH_MAX, DeviceInfo, REQUEST_BYTES_MAX, State, control, features};
use driver::Driver;
pub use driver::{UblkDriver, probe_ublk};
use queue::Queue;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a device is waited for whose server has just died, and still has it open.
const DYING_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long no request may be answered while a device goes, for which the kernel first brings home what a guest has
/// written. What waits then waits for a source that is away, and fails.
const STUCK_MAX: Duration = Duration::from_secs(30);
const QUEUES: u16 = 1;

/// A device that is served.
struct Device {
    device: u32,
    queue: Queue,
}

/// Makes the device, or takes over the one that a dead server has left.
pub(super) fn start(ground: Ground) -> Result<Box<dyn Running>, String> {
    let mut driver = Driver::open()?;
    let offered = driver.features()?;
    let mark = mark_of(&ground.dir)?;
    let mut served = None;
    for left in driver.marked(mark) {
        if served.is_none() && may_be_taken_over(&left) {
            match take_over(&mut driver, &left, &ground) {
                Ok(queue) => {
                    served = Some(Device { device: left.device, queue });
                    continue;
                }
                Err(TakeOver::StillServed) => return Err(still_served(left.device)),
                Err(TakeOver::Impossible(reason)) => {
                    tracing::error!(
                        reason,
                        device = left.device,
                        "a device is lost, and its guest gets errors"
                    );
                }
            }
        }
        remove(&mut driver, left.device)?;
    }
    let device = match served {
        Some(device) => device,
        None => make(&mut driver, offered, mark, &ground)?,
    };
    follow_size(&mut driver, device.device, ground.size_bytes)
        .unwrap_or_else(|reason| tracing::warn!(reason, "a guest does not see that its volume has grown"));
    Ok(Box::new(device))
}

/// The devices of the volume in `dir`.
///
/// # Errors
/// The directory cannot be looked at; the reason is one sentence.
pub(super) fn left(dir: &Path) -> Result<Vec<PathBuf>, String> {
    // Without a driver there are no devices.
    let Ok(mut driver) = Driver::open() else { return Ok(Vec::new()) };
    let marked = driver.marked(mark_of(dir)?);
    Ok(marked.into_iter().map(|left| driver::block_device(left.device)).collect())
}

/// Removes the devices that a server which is no more has left on the volume in `dir`.
///
/// # Errors
/// One cannot be removed; the reason is one sentence.
pub(super) fn clear(dir: &Path) -> Result<(), String> {
    // Without a driver there are no devices.
    let Ok(mut driver) = Driver::open() else { return Ok(()) };
    let mark = mark_of(dir)?;
    driver.marked(mark).into_iter().try_for_each(|left| remove(&mut driver, left.device))
}

/// What is written on a volume's device, so that the next server of that directory knows it.
fn mark_of(dir: &Path) -> Result<u64, String> {
    use std::os::unix::ffi::OsStrExt;
    let dir = dir.canonicalize().map_err(|e| format!("cannot look at {}: {e}", dir.display()))?;
    let mut hash = blake3::Hasher::new();
    hash.update(b"ferry ublk\0").update(dir.as_os_str().as_bytes());
    let hash = hash.finalize();
    Ok(u64::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at])))
}

fn make(driver: &mut Driver, offered: u64, mark: u64, ground: &Ground) -> Result<Device, String> {
    let wanted = DeviceInfo {
        queues: QUEUES,
        depth: DEPTH,
        state: State::Dead,
        request_bytes_max: REQUEST_BYTES_MAX,
        device: control::ANY_DEVICE,
        features: offered & features::WANTED,
        mark,
    };
    let made = driver.add(&wanted, ground.size_bytes).map_err(|e| {
        format!("the ublk driver makes no device: {e}; run the agent as root, and look at the kernel's log")
    })?;
    let served = open(made.device)
        .and_then(|file| Queue::start(file, made.depth, ground.size_bytes, &ground.mailbox))
        .and_then(|queue| match driver.start(made.device) {
            Ok(()) => Ok(queue),
            Err(e) => Err(format!("the ublk driver does not start a device: {e}; look at the kernel's log")),
        });
    match served {
        Ok(queue) => Ok(Device { device: made.device, queue }),
        Err(reason) => {
            remove(driver, made.device).unwrap_or_else(|reason| tracing::error!(reason));
            Err(reason)
        }
    }
}

/// Whether a device is one that this version would make.
fn may_be_taken_over(left: &DeviceInfo) -> bool {
    let is_ours = left.queues == QUEUES
        && (1..=DEPTH_MAX).contains(&left.depth)
        && left.request_bytes_max <= REQUEST_BYTES_MAX
        && left.features & features::NEEDED == features::NEEDED;
    is_ours && left.state != State::Dead
}

enum TakeOver {
    StillServed,
    Impossible(String),
}

/// Serves a device whose server is dead; its guest goes on.
fn take_over(driver: &mut Driver, left: &DeviceInfo, ground: &Ground) -> Result<Queue, TakeOver> {
    let impossible =
        |e: io::Error| TakeOver::Impossible(format!("the ublk driver does not give it back: {e}"));
    let since = Instant::now();
    loop {
        match driver.begin_recovery(left.device) {
            Ok(()) => break,
            // Somebody before us has begun.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && left.state == State::Quiesced => break,
            // What the dead server had open is closed one by one.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                if since.elapsed() > DYING_MAX {
                    return Err(TakeOver::StillServed);
                }
                std::thread::sleep(LOOK_EVERY);
            }
            Err(e) => return Err(impossible(e)),
        }
    }
    let queue = open(left.device)
        .and_then(|file| Queue::start(file, left.depth, ground.size_bytes, &ground.mailbox))
        .map_err(TakeOver::Impossible)?;
    driver.end_recovery(left.device).map_err(impossible)?;
    tracing::info!(device = left.device, "the device of the server before this one is taken over");
    Ok(queue)
}

fn still_served(device: u32) -> String {
    format!("/dev/ublkb{device} is still served by a process that does not end; end it, and attach again")
}

fn open(device: u32) -> Result<File, String> {
    let path = driver::character_device(device);
    let opened = File::options().read(true).write(true).open(&path);
    opened
        .map_err(|e| format!("cannot open {}: {e}; /dev must be the kernel's own (devtmpfs)", path.display()))
}

fn remove(driver: &mut Driver, device: u32) -> Result<(), String> {
    let removed = driver.stop(device, STUCK_MAX, || ()).and_then(|()| driver.delete(device));
    removed.map_err(|e| format!("/dev/ublkb{device} cannot be removed: {e}; look at the kernel's log"))
}

/// Lets a device be as large as its volume.
fn follow_size(driver: &mut Driver, device: u32, volume_bytes: u64) -> Result<(), String> {
    let keeps = |why: String| format!("/dev/ublkb{device} keeps its former size: {why}; attach it again");
    let seen = || driver::size_bytes(device).map_err(|e| keeps(e.to_string()));
    if seen()? >= volume_bytes {
        return Ok(());
    }
    driver.update_size(device, volume_bytes).map_err(|e| keeps(format!("Linux 6.16 can change it ({e})")))?;
    match seen()? >= volume_bytes {
        true => Ok(()),
        false => Err(keeps("the driver has not changed it".to_owned())),
    }
}

impl Running for Device {
    fn address(&self) -> PathBuf {
        driver::block_device(self.device)
    }

    fn in_use(&self) -> Option<String> {
        let path = self.address();
        let alone = File::options().read(true).custom_flags(libc::O_EXCL).open(&path);
        let held = alone.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY));
        held.then(|| format!("{} is mounted or held; unmount it first", path.display()))
    }

    fn grown(&self, size_bytes: u64) -> Box<dyn FnOnce() -> Result<(), String> + Send> {
        self.queue.grown(size_bytes);
        let device = self.device;
        Box::new(move || follow_size(&mut Driver::open()?, device, size_bytes))
    }

    fn stop(self: Box<Self>) {
        let Self { device, queue } = *self;
        let mut seen = queue.answered();
        let stopped = Driver::open().and_then(|mut driver| {
            let stopped = driver.stop(device, STUCK_MAX, || {
                let answered = queue.answered();
                if std::mem::replace(&mut seen, answered) == answered {
                    queue.give_up();
                }
            });
            stopped.map_err(|e| e.to_string())?;
            queue.join();
            driver.delete(device).map_err(|e| e.to_string())
        });
        if let Err(reason) = stopped {
            tracing::error!(
                reason,
                device = format!("/dev/ublkb{device}"),
                "a ublk device cannot be removed"
            );
        }
    }
}
