//! A VM's own network: an interface of the worker whose other end is in the VM, with a route to the VM's address.
//!
//! ```text
//!   worker                                    VM
//!   fe80::1  ferry…  ═════ tap · virtio ═════  its address/128, default route to fe80::1
//!   route: its address/128
//! ```
//!
//! In the worker's own network and not in one of the VM's, since QEMU's memory comes and goes over that. Both ends have hardware addresses that follow
//! from the machine's id, so that a VM that has moved with its memory knows its gateway. The route is added to others: while a VM is on its way between two
//! agents of one host, its packets go where it still runs.

use super::filesystem::find_tool;
use super::network::{GATEWAY, IP, check_addresses, run_batch};
use super::watch::{Ended, Watched};
use super::{DriverError, HeldMachine, Launch, Watch};
use crate::host::{Doing, blocking};
use crate::records::ProcessMark;
use ferry_api::{MachineId, Network};
use rustix::thread::CapabilitySet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What makes interfaces.
const TUN: &str = "/dev/net/tun";
/// Where the kernel tells of those there are.
const LINKS: &str = "/sys/class/net";
/// The first bytes of the hardware addresses of both ends: of no vendor, and of one interface.
const AT_WORKER: u8 = 0x06;
const IN_VM: u8 = 0x02;

/// The interface of one VM on this worker.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    tool: PathBuf,
    link: String,
    machine: MachineId,
}

/// Says why a VM cannot have a network of its own here, if it cannot.
pub(super) fn check() -> Result<(), DriverError> {
    let may = rustix::thread::capabilities(None);
    let may = may.map_or(CapabilitySet::empty(), |may| may.effective);
    check_addresses(may)?;
    match Path::new(TUN).exists() {
        true => Ok(()),
        false => Err(DriverError::NoNetwork { lacks: "there is no /dev/net/tun" }),
    }
}

/// What the interface of the machine in `dir` is called: by that, so that two agents of one host have each their own.
pub(super) fn link_of(dir: &Path) -> String {
    format!("ferry{:08x}", crc32c::crc32c(dir.as_os_str().as_encoded_bytes()))
}

/// The hardware address of a VM.
pub(super) fn mac_in_vm(machine: MachineId) -> String {
    mac(IN_VM, machine)
}

fn mac(first: u8, machine: MachineId) -> String {
    let [.., b, c, d, e, f] = machine.address().octets();
    [first, b, c, d, e, f].map(|byte| format!("{byte:02x}")).join(":")
}

impl Tap {
    /// That of a VM, if it has a network of its own.
    ///
    /// # Errors
    /// `ip` is not there.
    pub fn of(launch: &Launch) -> Result<Option<Self>, DriverError> {
        if launch.spec.network() != Network::Own {
            return Ok(None);
        }
        let (tool, link) = (find_tool(IP, "iproute2")?, link_of(&launch.dir));
        Ok(Some(Self { tool, link, machine: launch.machine }))
    }

    /// Makes it, anew if it is there.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn make(&self) -> Result<(), DriverError> {
        let tap = self.clone();
        let made = blocking(move || {
            remove(&tap.link);
            tap.tell().inspect_err(|_| remove(&tap.link))
        });
        made.await
            .map_err(|cause| DriverError::Io { doing: format!("make the interface {}", self.link), cause })
    }

    fn lines(&self) -> String {
        let (link, address) = (&self.link, self.machine.address());
        let mac = mac(AT_WORKER, self.machine);
        format!(
            "tuntap add dev {link} mode tap\n\
             link set {link} address {mac}\n\
             link set {link} addrgenmode none\n\
             addr add {GATEWAY}/64 dev {link} nodad\n\
             link set {link} up\n\
             route append {address}/128 dev {link}\n"
        )
    }

    fn tell(&self) -> io::Result<()> {
        run_batch(&self.tool, &[], &self.lines())?.map_err(|said| {
            let said = String::from_utf8_lossy(&said);
            io::Error::other(format!("ip says: {}", said.lines().next().unwrap_or_default()))
        })
    }
}

/// Removes the interface that a crash may have left of the machine in `dir`, which runs no more.
pub(crate) fn remove_of(dir: &Path) {
    remove(&link_of(dir));
}

/// Removes an interface, if it is there.
pub(super) fn remove(link: &str) {
    if !Path::new(LINKS).join(link).exists() {
        return;
    }
    let Ok(tool) = find_tool(IP, "iproute2") else { return };
    let removed = Command::new(tool).args(["link", "del", link]).stdin(Stdio::null()).output();
    if !removed.is_ok_and(|removed| removed.status.success()) {
        tracing::warn!(
            link,
            "the interface of a VM that has ended cannot be removed; remove it with `ip link del`"
        );
    }
}

/// A VM behind its gate, whose interface goes with it.
pub(super) struct HeldWithLink<W> {
    held: W,
    link: String,
}

impl<W> HeldWithLink<W> {
    /// `held` with the interface of the machine in `dir`, if it has one.
    pub fn new(held: W, dir: &Path) -> Self {
        Self { held, link: link_of(dir) }
    }
}

impl<W: HeldMachine> HeldMachine for HeldWithLink<W> {
    fn mark(&self) -> &ProcessMark {
        self.held.mark()
    }

    fn release(self: Box<Self>) -> Result<Watch, DriverError> {
        let Self { held, link } = *self;
        Ok(with_link(Box::new(held).release()?, link))
    }

    fn abandon(self: Box<Self>) -> Doing<'static, ()> {
        let Self { held, link } = *self;
        let ended = Box::new(held).abandon();
        Box::pin(async {
            ended.await;
            blocking(move || remove(&link)).await;
        })
    }
}

/// Watches a VM and removes its interface, if it has one, when it has ended.
pub(super) fn with_link(inner: Watch, link: String) -> Watch {
    Watch::over(WithLink { inner, link })
}

#[derive(Debug)]
struct WithLink {
    inner: Watch,
    link: String,
}

impl WithLink {
    async fn gone(&self, ended: Ended) -> Ended {
        let link = self.link.clone();
        blocking(move || remove(&link)).await;
        ended
    }
}

impl Watched for WithLink {
    fn pid(&self) -> u32 {
        self.inner.pid()
    }

    fn ended(&self) -> Doing<'_, Ended> {
        Box::pin(async { self.gone(self.inner.ended().await).await })
    }

    fn signal(&self, number: i32) {
        self.inner.signal(number);
    }

    fn kill_group(&self) {
        self.inner.kill_group();
    }

    fn end(&self, signal: i32) -> Doing<'_, Ended> {
        Box::pin(async move { self.gone(self.inner.end(signal).await).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::{Channel, Launcher};
    use crate::host::{Host, ThisHost};
    use std::io::Write;

    #[tokio::test]
    async fn an_interface_that_a_crash_has_left_goes_with_the_directory_of_its_machine() {
        let state_dir = tempfile::tempdir().unwrap();
        let channel =
            Channel { listen: std::net::Ipv4Addr::LOCALHOST.into(), tls: None, names_workers: false };
        let host = ThisHost::new(state_dir.path(), Launcher::with_args("/bin/false", [""]), None, channel);
        let machine = MachineId::fresh();
        let dir = host.machine_dir(machine).unwrap();
        let Ok(tool) = find_tool(IP, "iproute2").and_then(|tool| check().map(|()| tool)) else {
            // The test runner captures only what the print macros write.
            let mut out = std::io::stderr().lock();
            return writeln!(out, "SKIP: this host can make no interfaces").unwrap();
        };
        let tap = Tap { tool, link: link_of(&dir), machine };
        tap.make().await.unwrap();
        let there = || Path::new(LINKS).join(&tap.link).exists();
        assert!(there());
        host.remove_machine_dir(machine).await.unwrap();
        assert!(!there() && !dir.exists());
    }

    #[test]
    fn both_ends_have_addresses_that_follow_from_the_machine_and_names_that_follow_from_the_worker() {
        let machine: MachineId = "01JD7Q0000000000000000000V".parse().unwrap();
        let [.., last] = machine.address().octets();
        assert!(
            mac_in_vm(machine).ends_with(&format!(":{last:02x}")) && mac_in_vm(machine).starts_with("02:")
        );
        assert_eq!(mac(AT_WORKER, machine)[3..], mac_in_vm(machine)[3..]);
        let [one, other] = ["/a/machines/x", "/b/machines/x"].map(|dir| link_of(Path::new(dir)));
        // A name of an interface has at most 15 bytes.
        assert!(one != other && one.len() <= 15, "{one} {other}");
    }
}
