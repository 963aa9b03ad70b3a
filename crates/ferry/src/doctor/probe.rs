//! The facts of this host, by looking and trying. What is tried leaves nothing behind.

use super::facts::{
    Cgroups, Device, Directory, Facts, Membership, Module, Modules, Programs, Store, Unwritable,
};
use ferry_agent::config::NatsConfig;
use ferry_cluster::Home;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of the file that is tried.
const TRIED_BYTES: usize = 64 << 10;

/// Looks at this host, at where its volumes are to be, and for what its worker hears the others by.
pub async fn look(state_dir: &Path, nats: Option<&NatsConfig>) -> Facts {
    let directory = match nats {
        Some(nats) => Some(directory(state_dir, nats).await),
        None => None,
    };
    Facts { directory, ..look_here(state_dir) }
}

fn look_here(state_dir: &Path) -> Facts {
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let modules = modules(&kernel);
    Facts {
        may_administer: ferry_agent::means::may_administer(),
        io_uring: ferry_volume::probe_io_uring().map_err(|e| e.to_string()),
        fuse: device("/dev/fuse"),
        loop_control: device("/dev/loop-control"),
        ublk_control: device("/dev/ublk-control"),
        ublk_driver: ferry_volume::probe_ublk(),
        kvm: device("/dev/kvm"),
        net_namespaces: Path::new("/proc/self/ns/net").exists(),
        cgroups: cgroups(),
        limits: ferry_agent::drivers::limits(),
        modules,
        programs: Programs {
            qemu: find(&[&format!("qemu-system-{}", std::env::consts::ARCH), "qemu-kvm"]),
            cryptsetup: find(&["cryptsetup"]),
            runtime: find(&ferry_agent::drivers::RUNTIMES),
        },
        store: store(state_dir),
        volumes: volumes(state_dir),
        membership: membership(state_dir),
        directory: None,
        open_files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        locked_bytes_max: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        now_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        kernel,
    }
}

fn membership(state_dir: &Path) -> Result<Option<Membership>, String> {
    let papers = Home::new(state_dir).papers().map_err(|error| error.to_string())?;
    Ok(papers.map(|papers| Membership {
        worker: papers.identity.worker.to_string(),
        roster_version: papers.roster.version,
        certificate_s: papers.identity.from_ms / 1000..papers.identity.until_ms / 1000,
        lost: papers.standing().err().map(|stranger| stranger.to_string()),
    }))
}

async fn directory(state_dir: &Path, nats: &NatsConfig) -> Directory {
    // Papers that cannot be read are told of elsewhere.
    let papers = Home::new(state_dir).papers().ok().flatten();
    let member = papers.map(|papers| (papers.identity.worker.clone(), papers.roster.cluster.to_string()));
    let member = member.as_ref().map(|(worker, cluster)| (worker, cluster.as_str()));
    Directory { bucket: nats.bucket.clone(), tried: ferry_agent::try_bucket(nats, member).await }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Opening one of these has no effect.
fn device(path: &str) -> Device {
    match File::options().read(true).write(true).open(path) {
        Ok(_) => Device::Usable,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Device::Forbidden,
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Device::Forbidden,
        Err(_) => Device::Missing,
    }
}

fn cgroups() -> Cgroups {
    let mounts = read("/proc/self/mounts");
    let kinds: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    match (kinds.contains(&"cgroup"), kinds.contains(&"cgroup2")) {
        (true, _) => Cgroups::V1,
        (false, true) => Cgroups::V2,
        (false, false) => Cgroups::None,
    }
}

fn modules(kernel: &str) -> Modules {
    let dir = Path::new("/lib/modules").join(kernel);
    let listed = read(dir.join("modules.builtin")) + &read(dir.join("modules.dep"));
    // A driver has one of these once it is in the kernel.
    let module = |name: &str, sign: &str| {
        let of_name = |line: &str| {
            let file = line.split(':').next().unwrap_or(line).rsplit('/').next().unwrap_or(line);
            file.split('.').next().is_some_and(|stem| stem.replace('-', "_") == name)
        };
        let is_there = Path::new("/sys/module").join(name).exists() || Path::new(sign).exists();
        if is_there || listed.lines().any(of_name) {
            Module::There
        } else if listed.is_empty() {
            Module::Untold
        } else {
            Module::Missing
        }
    };
    // Without device mapper it has none of its targets.
    let target = |name| match (module(name, ""), has_device_mapper()) {
        (Module::Untold, false) => Module::Missing,
        (found, _) => found,
    };
    Modules {
        veth: module("veth", ""),
        nbd: module("nbd", "/sys/block/nbd0"),
        dm_clone: target("dm_clone"),
        dm_crypt: target("dm_crypt"),
        ublk: module("ublk_drv", "/dev/ublk-control"),
    }
}

fn has_device_mapper() -> bool {
    read("/proc/misc").lines().any(|line| line.ends_with("device-mapper"))
}

/// The first of the programs that is on the PATH, or where distributions keep what root uses.
fn find(programs: &[&str]) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect();
    let is_program =
        |file: &PathBuf| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    programs.iter().find_map(|program| dirs.iter().map(|dir| dir.join(program)).find(is_program))
}

fn store(state_dir: &Path) -> Store {
    let dir = state_dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_owned();
    let mut store = Store {
        writable: Ok(()),
        punches_holes: false,
        direct_io: false,
        reflinks: false,
        sockets_fit: ferry_agent::config::sockets_fit(state_dir),
        dir,
    };
    // An agent that lives on what it has kept leaves a little room beside it.
    let given = ferry_agent::ballast::left(state_dir);
    store.writable = match (try_store(&mut store), given) {
        (Ok(()), None) => Ok(()),
        (Ok(()), given @ Some(_)) => Err(Unwritable::Full(given)),
        (Err(e), _) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => Err(Unwritable::ReadOnly),
        (Err(e), given) if e.kind() == io::ErrorKind::StorageFull => Err(Unwritable::Full(given)),
        (Err(e), _) => Err(Unwritable::Other(e.to_string())),
    };
    store
}

/// Volumes that lie on a file system of their own.
fn volumes(state_dir: &Path) -> Option<Store> {
    let dir = state_dir.join("volumes");
    let is_apart = ferry_agent::disks::is_apart(state_dir, &dir);
    is_apart.then(|| Store { sockets_fit: ferry_agent::config::sockets_fit(state_dir), ..store(&dir) })
}

/// Tries what volumes need on files that have no name.
fn try_store(store: &mut Store) -> io::Result<()> {
    let mut file = nameless(&store.dir)?;
    file.write_all(&[1; TRIED_BYTES])?;
    file.sync_all()?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    store.punches_holes = rustix::fs::fallocate(&file, punch, 0, TRIED_BYTES as u64 / 2).is_ok();
    store.reflinks = rustix::fs::ioctl_ficlone(nameless(&store.dir)?, &file).is_ok();
    store.direct_io = rustix::fs::fcntl_setfl(&file, OFlags::DIRECT).is_ok();
    Ok(())
}

/// A file that is gone when it is closed.
fn nameless(dir: &Path) -> io::Result<File> {
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    match rustix::fs::open(dir, flags | OFlags::TMPFILE, mode) {
        // Not every filesystem makes files without a name.
        Err(Errno::NOTSUP | Errno::ISDIR) => {
            let path = dir.join(format!(".ferry-doctor.{}", std::process::id()));
            let file = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            std::fs::remove_file(path)?;
            Ok(file.into())
        }
        other => Ok(other?.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let facts = look_here(&dir.path().join("not/yet"));
        assert_eq!(facts.store.dir, dir.path());
        assert_eq!(facts.store.writable, Ok(()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
