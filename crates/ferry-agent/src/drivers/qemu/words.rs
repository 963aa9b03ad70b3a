//! The words that QEMU is started with. Pure.

use super::{MONITOR_SOCKET, agent};
use crate::drivers::socket::checked;
use crate::drivers::{Disk, DriverError, Launch, tap};
use ferry_api::{CONSOLE_SOCKET, Network, QemuDisk, QemuSpec};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;

/// How long QEMU waits before it comes to a volume's server again, in milliseconds.
const RECONNECT_MS: u32 = 100;
/// How long a guest's requests wait for a volume's server that is gone, in seconds: as good as for ever (the server comes
/// back as soon as its agent runs).
const NBD_PATIENCE_S: u32 = u32::MAX;
/// Bytes of a volume's id that the guest sees as its serial number, as over vhost-user-blk (virtio 1.2, 5.2.6.4).
const SERIAL_BYTES: usize = 20;
/// Where a guest finds its address.
const ADDRESS_FILE: &str = "opt/ferry/address";
/// The port that a guest's agent looks for.
const AGENT_PORT: &str = "org.qemu.guest_agent.0";

/// How a guest's instructions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accel {
    Kvm,
    Tcg,
}

impl Accel {
    /// What QEMU is told, with the CPU that a guest sees if its spec does not say.
    pub fn words(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// All words after the program.
pub(super) fn words(launch: &Launch, qemu: &QemuSpec, accel: Accel) -> Result<Vec<OsString>, DriverError> {
    let mut words = Words::default();
    let [accel_word, accel, cpu_word, cpu] = accel.words();
    words.plain(["-name", launch.name.as_str(), "-nodefaults", "-no-user-config", "-display", "none"]);
    // It needs no other program and no other rights than it has.
    words.plain(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    words.plain([accel_word, accel, cpu_word, qemu.cpu.as_ref().map_or(cpu, |cpu| cpu.as_str())]);
    words.option("-machine", &format!("{},memory-backend=ram", qemu.machine));
    let memory = format!("{}M", qemu.memory_mib);
    words.option("-m", &memory);
    // A volume's server reads and writes the guest's memory.
    words.option("-object", &format!("memory-backend-memfd,id=ram,size={memory},share=on"));
    words.option("-smp", &qemu.vcpus.to_string());
    words.listener("monitor", &launch.dir.join(MONITOR_SOCKET), None)?;
    words.option("-mon", "chardev=monitor,mode=control");
    words.listener("console", &launch.dir.join(CONSOLE_SOCKET), Some(&launch.log))?;
    words.option("-serial", "chardev:console");
    for (option, path) in [("-bios", &qemu.firmware), ("-kernel", &qemu.kernel), ("-initrd", &qemu.initrd)] {
        if let Some(path) = path {
            words.0.extend([option.into(), path.into()]);
        }
    }
    if let Some(append) = &qemu.append {
        words.option("-append", append);
    }
    for (at, disk) in launch.disks.iter().enumerate() {
        match qemu.disk {
            QemuDisk::VhostUserBlk => words.vhost(at, disk, qemu.vcpus)?,
            QemuDisk::Nbd => words.nbd(at, disk),
        }
    }
    // Behind the disks, so that these are where they are without.
    if qemu.guest_agent {
        words.listener("agent", &launch.dir.join(agent::SOCKET), None)?;
        words.option("-device", "virtio-serial-pci,id=ports");
        words.option("-device", &format!("virtserialport,bus=ports.0,chardev=agent,name={AGENT_PORT}"));
    }
    if launch.spec.network() == Network::Own {
        words.network(launch);
    }
    Ok(words.0)
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn plain<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.0.extend(words.into_iter().map(OsString::from));
    }

    fn option(&mut self, option: &str, value: &str) {
        self.plain([option, value]);
    }

    /// A socket that QEMU listens on; what is said there also goes to `log`.
    fn listener(&mut self, id: &str, socket: &Path, log: Option<&Path>) -> Result<(), DriverError> {
        let mut value = format!("socket,id={id},server=on,wait=off,path={}", quoted(checked(socket)?));
        if let Some(log) = log {
            // Appended: its oldest part may be given back while QEMU writes.
            value.push_str(&format!(",logappend=on,logfile={}", quoted(log)));
        }
        self.option("-chardev", &value);
        Ok(())
    }

    /// One interface; its address is in a file that the guest finds in its firmware (QEMU, docs/specs/fw_cfg.rst).
    fn network(&mut self, launch: &Launch) {
        let link = tap::link_of(&launch.dir);
        self.option("-netdev", &format!("tap,id=network,ifname={link},script=no,downscript=no"));
        let mac = tap::mac_in_vm(launch.machine);
        // Without a ROM to boot from: it would be part of what both sides of a live move must have alike.
        self.option("-device", &format!("virtio-net-pci,netdev=network,mac={mac},romfile="));
        self.option("-fw_cfg", &format!("name={ADDRESS_FILE},string={}", launch.machine.address()));
    }

    fn vhost(&mut self, at: usize, disk: &Disk, queues: u32) -> Result<(), DriverError> {
        let order = boot_order(at);
        let socket = disk.vhost.as_deref().expect("a machine that wants vhost-user-blk is given it");
        let channel =
            format!("socket,id=channel{at},reconnect-ms={RECONNECT_MS},path={}", quoted(checked(socket)?));
        self.option("-chardev", &channel);
        let device = format!(
            "vhost-user-blk-pci,id=disk{at},chardev=channel{at},num-queues={queues},bootindex={order}"
        );
        self.option("-device", &device);
        Ok(())
    }

    fn nbd(&mut self, at: usize, disk: &Disk) {
        let order = boot_order(at);
        let node = json!({
            "driver": "nbd",
            "node-name": format!("volume{at}"),
            "server": { "type": "unix", "path": disk.nbd },
            "reconnect-delay": NBD_PATIENCE_S,
            "discard": "unmap",
        });
        self.option("-blockdev", &node.to_string());
        let serial: String = disk.volume.to_string().chars().take(SERIAL_BYTES).collect();
        let device = format!(
            "virtio-blk-pci,id=disk{at},drive=volume{at},serial={serial},write-cache=on,bootindex={order}"
        );
        self.option("-device", &device);
    }
}

/// What is booted when: a kernel that is given has 0.
fn boot_order(at: usize) -> usize {
    at + 1
}

/// A path as a value of an option: QEMU takes a comma for the end, unless there are two.
fn quoted(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Driver, MachineSpec, VolumeId};
    use std::collections::BTreeMap;

    fn said(dir: &str, disk: QemuDisk) -> Result<String, DriverError> {
        let qemu = QemuSpec { kernel: Some("/k".into()), disk, ..QemuSpec::default() };
        let volume: VolumeId = "01JD7Q0000000000000000000V".parse().unwrap();
        let dir = Path::new(dir);
        let launch = Launch {
            machine: ferry_api::MachineId::fresh(),
            name: "vm".parse().unwrap(),
            spec: MachineSpec { driver: Driver::Qemu(qemu.clone()), ..MachineSpec::process("x", ["y"]) },
            dir: dir.to_owned(),
            log: dir.join("machine.log"),
            env: BTreeMap::new(),
            mounts: Vec::new(),
            disks: vec![Disk { volume, nbd: dir.join("nbd.sock"), vhost: Some(dir.join("vhost.sock")) }],
        };
        let words = words(&launch, &qemu, Accel::Tcg)?;
        Ok(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_comma_in_a_path_ends_no_value() {
        let said = said("/var/a,b", QemuDisk::VhostUserBlk).unwrap();
        assert!(said.contains("path=/var/a,,b/qmp.sock "), "{said}");
        assert!(said.contains(",logfile=/var/a,,b/machine.log "), "{said}");
        assert!(said.contains("reconnect-ms=100,path=/var/a,,b/vhost.sock "), "{said}");
        assert!(said.contains("-kernel /k "), "{said}");
    }

    #[test]
    fn a_disk_has_the_serial_number_of_its_volume_also_over_nbd() {
        let said = said("/v", QemuDisk::Nbd).unwrap();
        assert!(said.contains(r#""path":"/v/nbd.sock""#) && !said.contains("vhost"), "{said}");
        assert!(said.contains("serial=01JD7Q00000000000000,"), "{said}");
    }

    #[test]
    fn a_socket_that_nobody_could_come_to_is_refused() {
        let long = format!("/{}", "x".repeat(100));
        assert!(matches!(said(&long, QemuDisk::Nbd), Err(DriverError::LongPath { .. })));
    }
}
