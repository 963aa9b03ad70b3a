//! What a machine with namespaces of its own needs of its worker, and the description that its keeper reads.

use super::init::Inside;
use super::network::{self, OwnNetwork};
use super::process::{find_program, process_of};
use super::{DriverError, Launch, filesystem};
use ferry_api::{Isolation, MachineSpec, Network, ProcessSpec};
use rustix::thread::CapabilitySet;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Name of the file in the machine's directory that describes what is inside.
pub(crate) const PLAN: &str = "inside.json";

/// Its root on the worker, if it has one of its own.
pub(super) fn root(spec: &MachineSpec) -> Option<&Path> {
    spec.isolation.as_ref()?.root.as_deref()
}

/// Says why a machine with this spec cannot have namespaces here, if it cannot.
pub(super) fn check(spec: &MachineSpec) -> Result<(), DriverError> {
    check_namespaces(spec)?;
    if let Some(path) = root(spec).filter(|path| !path.is_dir()) {
        return Err(DriverError::NoRoot { path: path.to_owned() });
    }
    check_places(spec)?;
    ids(spec).map(drop)
}

/// Says so if a volume is to be mounted where there is no directory and none can be made.
fn check_places(spec: &MachineSpec) -> Result<(), DriverError> {
    for mount in spec.mounts.values() {
        let place = mount.path.below(root(spec).unwrap_or(Path::new("/")));
        let there = place.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
        let why = match there.is_dir() {
            false => format!("{} is no directory", there.display()),
            true if there == place => continue,
            true => match rustix::fs::access(there, rustix::fs::Access::WRITE_OK) {
                Ok(()) => continue,
                Err(error) => format!("nothing can be made in {} ({error})", there.display()),
            },
        };
        return Err(DriverError::NoPlace { path: mount.path.as_path().to_owned(), why });
    }
    Ok(())
}

/// The same of what every keeper makes, whatever it runs.
pub(super) fn check_namespaces(spec: &MachineSpec) -> Result<(), DriverError> {
    let may = may_make_namespaces()?;
    if !spec.mounts.is_empty() {
        filesystem::mke2fs()?;
    }
    match spec.network() {
        Network::Own => network::check_addresses(may),
        Network::Host | Network::None => Ok(()),
    }
}

/// Tells what this agent may do, and says so if it may make no namespaces.
pub(super) fn may_make_namespaces() -> Result<CapabilitySet, DriverError> {
    let failed = |cause: rustix::io::Errno| DriverError::Io {
        doing: "ask what this agent may do".to_owned(),
        cause: cause.into(),
    };
    let may = rustix::thread::capabilities(None).map_err(failed)?.effective;
    match may.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_CHROOT) {
        true => Ok(may),
        false => Err(DriverError::NoRights),
    }
}

/// The network of a machine, if it has one of its own.
pub(super) fn own_network(launch: &Launch) -> Result<Option<OwnNetwork>, DriverError> {
    (launch.spec.network() == Network::Own).then(|| OwnNetwork::of(launch.machine)).transpose()
}

/// The block devices that the keeper of the machine in `dir` was to mount.
pub(super) fn devices(dir: &Path) -> Vec<PathBuf> {
    // One that has no namespaces has no such file, and mounts nothing.
    let text = std::fs::read(dir.join(PLAN)).unwrap_or_default();
    let inside: Option<Inside> = serde_json::from_slice(&text).ok();
    inside.into_iter().flat_map(|inside| inside.mounts).map(|mounted| mounted.device).collect()
}

/// Writes what the machine's keeper is to make.
pub(super) fn write_plan(launch: &Launch) -> Result<PathBuf, DriverError> {
    let spec = &launch.spec;
    let ProcessSpec { command, args, workdir, .. } = process_of(spec);
    let Isolation { root, network, .. } = spec.isolation.clone().unwrap_or_default();
    let inside = Inside {
        host_name: launch.name.to_string(),
        mounts: launch.mounts.clone(),
        ids: ids(spec)?,
        program: match root {
            Some(_) => PathBuf::from(command),
            None => find_program(command)?,
        },
        args: args.clone(),
        workdir: match (workdir, &root) {
            (Some(workdir), _) => workdir.clone(),
            (None, Some(_)) => PathBuf::from("/"),
            (None, None) => launch.dir.clone(),
        },
        root,
        own_network: own_network(launch)?,
        network,
        overlay: None,
    };
    write_inside(&launch.dir, &inside)
}

/// Writes what a keeper is to make into the machine's directory.
pub(super) fn write_inside(dir: &Path, inside: &Inside) -> Result<PathBuf, DriverError> {
    let path = dir.join(PLAN);
    let text = serde_json::to_vec_pretty(inside).expect("what is inside is plain data and always encodes");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&path).and_then(|mut file| std::io::Write::write_all(&mut file, &text));
    written.map_err(|cause| DriverError::Io { doing: format!("write {}", path.display()), cause })?;
    Ok(path)
}

/// The user and group that a machine runs as, if its spec says that.
pub(crate) fn ids(spec: &MachineSpec) -> Result<Option<(u32, u32)>, DriverError> {
    let Some(user) = spec.isolation.as_ref().and_then(|isolation| isolation.user.as_deref()) else {
        return Ok(None);
    };
    let passwd = root(spec).unwrap_or(Path::new("/")).join("etc/passwd");
    let known = std::fs::read_to_string(&passwd).unwrap_or_default();
    let found = find_user(&known, user);
    found.map(Some).ok_or_else(|| DriverError::NoUser { user: user.to_owned(), passwd })
}

/// User and group of a name or number, by the text of a `passwd(5)`. A number need not be in it.
pub(super) fn find_user(passwd: &str, user: &str) -> Option<(u32, u32)> {
    let ids = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((name, uid, gid))
    };
    let number: Option<u32> = user.parse().ok();
    let mut lines = passwd.lines().filter_map(ids);
    let found = lines.find(|(name, uid, _)| name == user || Some(*uid) == number);
    found.map(|(_, uid, gid)| (uid, gid)).or(number.map(|uid| (uid, uid)))
}

#[cfg(test)]
mod tests {
    use super::find_user;

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\npostgres:x:101:104::/var:/bin/sh\n";
        assert_eq!(find_user(passwd, "postgres"), Some((101, 104)));
        assert_eq!(find_user(passwd, "101"), Some((101, 104)));
        assert_eq!(find_user(passwd, "4711"), Some((4711, 4711)));
        assert_eq!(find_user(passwd, "nobody"), None);
    }
}
