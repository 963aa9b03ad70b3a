//! A machine's own network: a pair of virtual interfaces, one inside with the machine's address, one on the worker with a route
//! to it. Made by the machine's keeper, gone with the machine's last process.
//!
//! ```text
//!   worker                                    machine
//!   fe80::1  ferry…  ═══════ veth ═══════  eth0  its address/128, default route to fe80::1
//!   route: its address/128
//! ```
//!
//! By `ip` and not by netlink: it is a dozen lines of its own language, on every host that has networks at all, and a
//! library for the same brings four crates and their types.

use super::DriverError;
use super::filesystem::find_tool;
use ferry_api::MachineId;
use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(super) const IP: &str = "ip";
/// The worker's own address on each of its ends: only what is on that link can tell them apart.
pub(super) const GATEWAY: &str = "fe80::1";
/// What the interface is called inside.
const INSIDE: &str = "eth0";
/// What each end on a worker is called, before the end of the machine's id. Names have at most 15 bytes.
const PREFIX: &str = "ferry";
const ID_BYTES: usize = 10;
/// Says whether the worker has IPv6.
const IPV6_IS_OFF: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";

/// What the keeper is to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnNetwork {
    /// `ip`.
    tool: PathBuf,
    /// The interface on the worker.
    link: String,
    /// The machine's address.
    address: Ipv6Addr,
}

/// Says why the agent can give interfaces no addresses, if it cannot.
pub(super) fn check_addresses(may: CapabilitySet) -> Result<(), DriverError> {
    let is_off = std::fs::read_to_string(IPV6_IS_OFF).map_or(true, |text| text.trim() != "0");
    match (may.contains(CapabilitySet::NET_ADMIN), is_off) {
        (true, false) => find_tool(IP, "iproute2").map(drop),
        (false, _) => Err(DriverError::NoNetwork { lacks: "the agent lacks CAP_NET_ADMIN" }),
        (true, true) => Err(DriverError::NoNetwork { lacks: "IPv6 is switched off there" }),
    }
}

impl OwnNetwork {
    /// The network of a machine.
    ///
    /// # Errors
    /// `ip` is not there.
    pub(super) fn of(machine: MachineId) -> Result<Self, DriverError> {
        let id = machine.to_string().to_ascii_lowercase();
        let link = format!("{PREFIX}{}", &id[id.len() - ID_BYTES..]);
        Ok(Self { tool: find_tool(IP, "iproute2")?, link, address: machine.address() })
    }

    /// Takes this process into a network of its own that is joined to the worker's. To be called before its processes have
    /// numbers of their own, while it has one thread.
    ///
    /// # Errors
    /// The system or `ip` refuses; `ip` has said why in the machine's log.
    pub(super) fn enter(&self) -> io::Result<()> {
        let Self { link, address, .. } = self;
        // One of a run before this may still be going: the kernel takes networks apart in its own time.
        let _ = Command::new(&self.tool)
            .args(["link", "del", link])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // It stays in the worker's network, and is told what to do there once there is another.
        let outside = self.batch()?;
        unshare_network()?;
        let this = std::process::id();
        tell(
            outside,
            &format!(
                "link add {link} type veth peer name {INSIDE} netns {this}\n\
                 link set {link} addrgenmode none\n\
                 addr add {GATEWAY}/64 dev {link} nodad\n\
                 link set {link} up\n\
                 route replace {address}/128 dev {link}\n"
            ),
        )?;
        tell(
            self.batch()?,
            &format!(
                "link set lo up\n\
                 addr add {address}/128 dev {INSIDE} nodad\n\
                 link set {INSIDE} up\n\
                 route add ::/0 via {GATEWAY} dev {INSIDE}\n"
            ),
        )
    }

    fn batch(&self) -> io::Result<Child> {
        Command::new(&self.tool).args(["-batch", "-"]).stdin(Stdio::piped()).spawn()
    }
}

#[allow(deprecated, reason = "its successor is unsafe for what other threads and FILES do; neither is here")]
fn unshare_network() -> io::Result<()> {
    Ok(rustix::thread::unshare(UnshareFlags::NEWNET)?)
}

/// Has `ip` do all that `lines` say; or what it said on its standard error, if it failed.
pub(super) fn run_batch(tool: &Path, options: &[&str], lines: &str) -> io::Result<Result<(), Vec<u8>>> {
    let mut ip = Command::new(tool);
    ip.args(options).args(["-batch", "-"]);
    ip.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut ip = ip.spawn()?;
    let mut to = ip.stdin.take().expect("its standard input was asked for");
    let told = to.write_all(lines.as_bytes());
    drop(to);
    let ended = ip.wait_with_output()?;
    match ended.status.success() {
        true => told.map(Ok),
        false => Ok(Err(ended.stderr)),
    }
}

/// Has `ip` do all that `lines` say.
fn tell(mut ip: Child, lines: &str) -> io::Result<()> {
    let mut to = ip.stdin.take().expect("its standard input was asked for");
    let told = to.write_all(lines.as_bytes());
    drop(to);
    let ended = ip.wait()?;
    match ended.success() {
        true => told,
        false => Err(io::Error::other(format!("ip ended with {ended}"))),
    }
}
