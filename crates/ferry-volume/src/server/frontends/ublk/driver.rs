//! The driver's door for devices as such, `/dev/ublk-control`: each command is one entry of an io_uring of its own, waited
//! for. Some wait themselves for what other threads do, so none is sent on the thread that serves requests.
#![allow(unsafe_code, reason = "the kernel reads and fills buffers that a command names by address")]

use crate::ublk::control::{INFO_BYTES, command, params};
use crate::ublk::{Command, DeviceInfo, SECTOR_BYTES, features};
use io_uring::{IoUring, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const CONTROL: &str = "/dev/ublk-control";
/// Where the kernel lists the character devices.
const LISTED: &str = "/sys/class/ublk-char";
/// Commands under way.
const ENTRIES: u32 = 4;
/// How long is waited at a time for the end of a command that may take as long as it wants.
const PAUSE: Duration = Duration::from_secs(3600);
const NO_BUFFER: (u64, u16) = (0, 0);

/// What this host's driver has, beyond what must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UblkDriver {
    /// A device grows while a guest uses it.
    pub grows: bool,
}

/// Asks this host for its ublk driver.
///
/// # Errors
/// It is not there, not for this process, or too old; the reason is one sentence.
pub fn probe_ublk() -> Result<UblkDriver, String> {
    let offered = Driver::open()?.features()?;
    Ok(UblkDriver { grows: offered & features::UPDATE_SIZE != 0 })
}

/// The way to command devices.
pub(super) struct Driver {
    control: File,
    ring: IoUring<squeue::Entry128>,
}

/// Where a guest finds a device.
pub(super) fn block_device(device: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{device}"))
}

/// Where a server finds a device's requests.
pub(super) fn character_device(device: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkc{device}"))
}

/// The size of a device that is started, in bytes, as a guest sees it.
pub(super) fn size_bytes(device: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/sys/block/ublkb{device}/size"))?;
    let sectors: Option<u64> = text.trim().parse().ok();
    sectors.and_then(|n| n.checked_mul(SECTOR_BYTES)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Driver {
    pub(super) fn open() -> Result<Self, String> {
        let control = File::options().read(true).write(true).open(CONTROL);
        let control = control.map_err(|e| match e.kind() == io::ErrorKind::NotFound {
            true => format!("there is no {CONTROL}: load the kernel's module (modprobe ublk_drv)"),
            false => format!("cannot open {CONTROL}: {e}; run the agent as root"),
        })?;
        let ring = IoUring::builder().build(ENTRIES).map_err(|e| {
            format!("ublk needs io_uring, which cannot be had: {e}; set kernel.io_uring_disabled to 0")
        })?;
        Ok(Self { control, ring })
    }

    /// What the driver can do; all that must be is there.
    pub(super) fn features(&mut self) -> Result<u64, String> {
        let offered = match self.ask(Command::Features, 0, [0; 8], 0) {
            Ok(offered) => u64::from_ne_bytes(offered),
            // Before Linux 6.5 there was no such question.
            Err(_) => 0,
        };
        let has_all = offered & features::NEEDED == features::NEEDED;
        has_all
            .then_some(offered)
            .ok_or_else(|| "the kernel's ublk driver is too old: use Linux 6.5 or later".to_owned())
    }

    /// Sends a command with a buffer, and waits for its end; gives back the buffer as it is then.
    fn ask<const N: usize>(
        &mut self,
        what: Command,
        device: u32,
        buffer: [u8; N],
        number: u64,
    ) -> io::Result<[u8; N]> {
        // As long as the kernel may use it nobody frees it, also if we never hear of the end.
        let mut buffer = ManuallyDrop::new(Box::new(buffer));
        self.send(what, device, (buffer.as_mut_ptr() as u64, N as u16), number)?;
        let end = self.wait(None)?.expect("what is waited for without a limit ends");
        let buffer = *ManuallyDrop::into_inner(buffer);
        end.map(|()| buffer)
    }

    /// Sends a command without a buffer, and waits for its end.
    fn tell(&mut self, what: Command, device: u32, number: u64) -> io::Result<()> {
        self.send(what, device, NO_BUFFER, number)?;
        self.wait(None)?.expect("what is waited for without a limit ends")
    }

    fn send(&mut self, what: Command, device: u32, buffer: (u64, u16), number: u64) -> io::Result<()> {
        let entry = opcode::UringCmd80::new(types::Fd(self.control.as_raw_fd()), what.number())
            .cmd(command(device, buffer, number))
            .build();
        // SAFETY: whoever names a buffer (`ask`) keeps it until the end of the command, or for ever.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.ring.submit().map(|_| ())
    }

    /// Waits for the end of the command that was sent, which is good or bad; none if it does not come in time.
    ///
    /// # Errors
    /// The ring failed.
    fn wait(&mut self, patience: Option<Duration>) -> io::Result<Option<io::Result<()>>> {
        let since = Instant::now();
        loop {
            if let Some(end) = self.ring.completion().next() {
                return Ok(Some(match end.result() {
                    0.. => Ok(()),
                    error => Err(io::Error::from_raw_os_error(-error)),
                }));
            }
            let rest = patience.map(|patience| patience.saturating_sub(since.elapsed()));
            if rest == Some(Duration::ZERO) {
                return Ok(None);
            }
            let pause = types::Timespec::from(rest.unwrap_or(PAUSE));
            match self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&pause)) {
                Ok(_) => {}
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                    ) => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn info(&mut self, device: u32) -> io::Result<DeviceInfo> {
        self.ask(Command::Info, device, [0; INFO_BYTES], 0).map(|info| DeviceInfo::decode(&info))
    }

    /// The devices that bear a mark.
    pub(super) fn marked(&mut self, mark: u64) -> Vec<DeviceInfo> {
        // Where the driver is there, the kernel lists its devices, unless there is no /sys at all.
        let listed = std::fs::read_dir(LISTED).into_iter().flatten().flatten();
        let names = listed.map(|entry| entry.file_name());
        let devices: Vec<u32> =
            names.filter_map(|name| name.to_str()?.strip_prefix("ublkc")?.parse().ok()).collect();
        // One that cannot be asked is gone meanwhile, or somebody else's.
        let known = devices.into_iter().filter_map(|device| self.info(device).ok());
        known.filter(|info| info.mark == mark).collect()
    }

    /// Makes a device; gives it as it became.
    pub(super) fn add(&mut self, wanted: &DeviceInfo, size_bytes: u64) -> io::Result<DeviceInfo> {
        let made = self.ask(Command::Add, wanted.device, wanted.encode(), 0)?;
        let made = DeviceInfo::decode(&made);
        self.ask(Command::SetParams, made.device, params(size_bytes), 0).inspect_err(|_| {
            let _ = self.delete(made.device);
        })?;
        Ok(made)
    }

    /// Lets guests use a device whose requests this process takes.
    pub(super) fn start(&mut self, device: u32) -> io::Result<()> {
        self.tell(Command::Start, device, u64::from(std::process::id()))
    }

    /// Takes a device away from guests. Calls `look` each time that this has taken `pause` longer.
    pub(super) fn stop(&mut self, device: u32, pause: Duration, mut look: impl FnMut()) -> io::Result<()> {
        self.send(Command::Stop, device, NO_BUFFER, 0)?;
        loop {
            if let Some(end) = self.wait(Some(pause))? {
                return end;
            }
            look();
        }
    }

    pub(super) fn delete(&mut self, device: u32) -> io::Result<()> {
        self.tell(Command::Delete, device, 0)
    }

    pub(super) fn begin_recovery(&mut self, device: u32) -> io::Result<()> {
        self.tell(Command::BeginRecovery, device, 0)
    }

    /// As [`Driver::start`], for a device whose guest has waited.
    pub(super) fn end_recovery(&mut self, device: u32) -> io::Result<()> {
        self.tell(Command::EndRecovery, device, u64::from(std::process::id()))
    }

    pub(super) fn update_size(&mut self, device: u32, size_bytes: u64) -> io::Result<()> {
        self.tell(Command::UpdateSize, device, size_bytes / SECTOR_BYTES)
    }
}
