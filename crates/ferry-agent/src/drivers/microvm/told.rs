//! What a VMM is told as it starts. Pure.

use crate::drivers::Disk;
use ferry_api::MicroVmSpec;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;

/// What a firecracker is, in the machine's directory.
pub(super) const CONFIG_FILE: &str = "firecracker.json";

/// All words after `cloud-hypervisor` (its `--help`, and docs/ of its repository).
pub(super) fn to_cloud_hypervisor(api: &Path, vm: &MicroVmSpec, disks: &[Disk]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--api-socket".into(), joined("path=", api), "--kernel".into()];
    words.push(vm.kernel.clone().into());
    if let Some(initrd) = &vm.initrd {
        words.extend(["--initramfs".into(), initrd.clone().into()]);
    }
    if let Some(append) = &vm.append {
        words.extend(["--cmdline".into(), append.into()]);
    }
    words.extend(["--cpus".into(), format!("boot={}", vm.vcpus).into()]);
    // A volume's server reads and writes the guest's memory.
    words.extend(["--memory".into(), format!("size={}M,shared=on", vm.memory_mib).into()]);
    if !disks.is_empty() {
        words.push("--disk".into());
    }
    for disk in disks {
        let mut word = joined("vhost_user=on,socket=", vhost(disk));
        word.push(format!(",num_queues={}", vm.vcpus));
        words.push(word);
    }
    // Its output is the machine's log.
    words.extend(["--serial", "tty", "--console", "off"].map(OsString::from));
    words
}

/// All words after `firecracker`.
pub(super) fn firecracker_words(api: &Path, config: &Path) -> [OsString; 4] {
    ["--api-sock".into(), api.into(), "--config-file".into(), config.into()]
}

/// What a firecracker reads of its file: the bodies of calls of its API (src/firecracker/swagger/firecracker.yaml of its
/// repository), each under the name of its call.
pub(super) fn to_firecracker(vm: &MicroVmSpec, disks: &[Disk]) -> Value {
    let mut boot = json!({ "kernel_image_path": vm.kernel });
    if let Some(initrd) = &vm.initrd {
        boot["initrd_path"] = json!(initrd);
    }
    if let Some(append) = &vm.append {
        boot["boot_args"] = json!(append);
    }
    let drive = |(at, disk): (usize, &Disk)| {
        json!({
            "drive_id": format!("disk{at}"),
            "is_root_device": false,
            // Else a guest's flush would end at the VMM.
            "cache_type": "Writeback",
            "socket": vhost(disk),
        })
    };
    json!({
        "boot-source": boot,
        "machine-config": { "vcpu_count": vm.vcpus, "mem_size_mib": vm.memory_mib },
        "drives": disks.iter().enumerate().map(drive).collect::<Vec<_>>(),
    })
}

fn vhost(disk: &Disk) -> &Path {
    disk.vhost.as_deref().expect("a machine that wants vhost-user-blk is given it")
}

fn joined(key: &str, path: &Path) -> OsString {
    let mut word = OsString::from(key);
    word.push(path);
    word
}
