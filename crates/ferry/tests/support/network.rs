//! A network of a test's own: a switch, and on each of its ports a host that is a network namespace with a link of limited
//! bandwidth. A namespace lives as long as this value, or something that runs inside: nothing is left behind, whatever ends
//! the test.

use super::{IP, TC, succeed};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The first three bytes of every host's address.
const NET: [u8; 3] = [10, 77, 0];
/// The first 16 bits of every host's IPv6 address.
const NET_IPV6: u16 = 0xfd77;
/// Whether this kernel has IPv6, and whether a host hands packets on.
const IPV6_IS_OFF: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
const FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
/// How much a link lets through at once, and how long what is more waits before it is dropped, as `tc` writes it.
const BURST: &str = "64kb";
const QUEUE: &str = "100ms";
/// What a host calls its link.
const LINK: &str = "eth0";

/// The switch and its hosts.
pub struct Network {
    switch: Namespace,
    hosts: Vec<Namespace>,
}

impl Network {
    /// So many hosts, each with a link that lets `rate` through in either direction, as `tc` writes it: `100mbit`.
    ///
    /// # Errors
    /// This process may not make network namespaces.
    pub fn of(hosts: u8, rate: &str) -> io::Result<Self> {
        let switch = Namespace::fresh()?;
        let hosts: Vec<Namespace> = (0..hosts).map(|_| Namespace::fresh()).collect::<io::Result<_>>()?;
        switch.ip("link add switch type bridge");
        switch.ip("link set switch up");
        let network = Self { switch, hosts };
        for (index, host) in network.hosts.iter().enumerate() {
            let (port, address) = (port(index), network.address(index));
            network.switch.ip(&format!("link add {port} type veth peer name {LINK} netns {}", host.path()));
            network.switch.ip(&format!("link set {port} master switch up"));
            host.ip("link set lo up");
            host.ip(&format!("address add {address}/24 dev {LINK}"));
            host.ip(&format!("link set {LINK} up"));
            network.switch.limit(&port, rate);
            host.limit(LINK, rate);
        }
        Ok(network)
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// A host, for whoever is to be there.
    pub fn host(&self, index: usize) -> &Namespace {
        &self.hosts[index]
    }

    /// Its address, for the others.
    pub fn address(&self, index: usize) -> IpAddr {
        let [a, b, c] = NET;
        IpAddr::V4(Ipv4Addr::new(a, b, c, u8::try_from(index + 1).unwrap()))
    }

    /// Gives each host an IPv6 address, too, and has it hand packets on. Tells whether this kernel has IPv6.
    pub fn speak_ipv6(&self) -> bool {
        (0..self.len()).all(|index| {
            let host = self.host(index);
            let is_on =
                host.inside(|| std::fs::read_to_string(IPV6_IS_OFF).is_ok_and(|off| off.trim() == "0"));
            if is_on {
                host.ip(&format!("address add {}/64 dev {LINK} nodad", self.ipv6(index)));
                host.inside(|| std::fs::write(FORWARDING, "1").unwrap());
            }
            is_on
        })
    }

    /// A host's IPv6 address, for the others.
    pub fn ipv6(&self, index: usize) -> Ipv6Addr {
        Ipv6Addr::new(NET_IPV6, 0, 0, 0, 0, 0, 0, u16::try_from(index + 1).unwrap())
    }

    /// Pulls out a host's cable.
    pub fn cut(&self, index: usize) {
        self.switch.ip(&format!("link set {} down", port(index)));
    }

    /// Puts it in again.
    pub fn mend(&self, index: usize) {
        self.switch.ip(&format!("link set {} up", port(index)));
    }
}

fn port(index: usize) -> String {
    format!("port{index}")
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<OwnedFd>);

impl Namespace {
    #[allow(
        deprecated,
        reason = "its successor is unsafe for what other threads and FILES do; that is not asked for here"
    )]
    fn fresh() -> io::Result<Self> {
        // Which network it is in is a thread's own.
        let made = std::thread::spawn(|| {
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            std::fs::File::open("/proc/thread-self/ns/net")
        });
        Ok(Self(Arc::new(made.join().expect("the thread asserts nothing")?.into())))
    }

    /// Does something inside, on a thread of its own. What is started there stays there.
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let done = std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                what()
            });
            there.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A path by which other programs find it while this process lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// `ip WORDS` inside, which must succeed; gives what it printed.
    pub fn ip(&self, words: &str) -> String {
        self.inside(|| succeed(IP.program, &words.split(' ').collect::<Vec<_>>()))
    }

    fn limit(&self, link: &str, rate: &str) {
        let words =
            ["qdisc", "add", "dev", link, "root", "tbf", "rate", rate, "burst", BURST, "latency", QUEUE];
        self.inside(|| succeed(TC.program, &words));
    }
}
