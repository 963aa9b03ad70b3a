//! What a container is made of: what its image or bundle says, and before that what the machine's spec says.

use super::image::{self, Unpacked};
use crate::drivers::DriverError;
use crate::drivers::isolated::find_user;
use ferry_api::{OciSource, OciSpec};
use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxNamespaceType, Process, ProcessBuilder, RootBuilder, Spec, User,
    UserBuilder,
};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a container may do that is made of an image: what most runtimes give.
const CAPABILITIES: [Capability; 13] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// A container, without its volumes.
pub(super) struct Made {
    /// Its root file system.
    pub rootfs: PathBuf,
    /// What its runtime is told.
    pub spec: Spec,
}

impl Made {
    /// What an image, unpacked below `images`, or a bundle says, and before it the machine's spec.
    ///
    /// # Errors
    /// It is not there, or cannot be used.
    pub(super) fn of(images: &Path, oci: &OciSpec, user: Option<&str>) -> Result<Self, DriverError> {
        let mut made = match &oci.from {
            OciSource::Image { path, tag } => of_image(image::unpacked(images, path, tag.as_deref())?)?,
            OciSource::Bundle(bundle) => of_bundle(bundle)?,
        };
        override_process(&mut made, oci, user)?;
        if let Some(linux) = made.spec.linux_mut() {
            // The keeper makes that, if the machine wants one of its own.
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
            linux.set_namespaces(Some(namespaces));
        }
        Ok(made)
    }
}

fn of_bundle(bundle: &Path) -> Result<Made, DriverError> {
    let config = bundle.join("config.json");
    let failed = |cause| DriverError::Io { doing: format!("read the bundle's {}", config.display()), cause };
    let spec = Spec::load(&config).map_err(|cause| failed(io::Error::other(cause)))?;
    let root = spec.root().as_ref().map_or_else(|| PathBuf::from("rootfs"), |root| root.path().clone());
    let rootfs = bundle.join(root);
    match rootfs.is_dir() {
        true => Ok(Made { rootfs, spec }),
        false => Err(DriverError::NoRoot { path: rootfs }),
    }
}

fn of_image(unpacked: Unpacked) -> Result<Made, DriverError> {
    let Unpacked { rootfs, config } = unpacked;
    let told = config.config().clone().unwrap_or_default();
    let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let args: Vec<String> = words(told.entrypoint()).into_iter().chain(words(told.cmd())).collect();
    let all: HashSet<Capability> = CAPABILITIES.into_iter().collect();
    let mut may = LinuxCapabilities::default();
    may.set_bounding(Some(all.clone())).set_effective(Some(all.clone())).set_permitted(Some(all));
    let process = ProcessBuilder::default()
        .terminal(false)
        .args(args)
        .env(words(told.env()))
        .cwd(told.working_dir().clone().filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".to_owned()))
        .user(user_of(&rootfs, told.user().as_deref().unwrap_or_default())?)
        .capabilities(may)
        .no_new_privileges(true)
        .build()
        .expect("all that a process must have is there");
    let mut spec = Spec::default();
    spec.set_process(Some(process));
    spec.set_root(Some(
        RootBuilder::default().path("rootfs").readonly(false).build().expect("a root with a path is one"),
    ));
    Ok(Made { rootfs, spec })
}

/// Puts what the machine's spec says in the place of what image or bundle say.
fn override_process(made: &mut Made, oci: &OciSpec, user: Option<&str>) -> Result<(), DriverError> {
    let rootfs = made.rootfs.clone();
    if made.spec.process().is_none() {
        made.spec.set_process(Some(Process::default()));
    }
    let process = made.spec.process_mut().as_mut().expect("it was set above");
    process.set_terminal(Some(false));
    if !oci.command.is_empty() {
        process.set_args(Some(oci.command.clone()));
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(DriverError::NoCommand { path: rootfs });
    }
    if let Some(workdir) = &oci.workdir {
        process.set_cwd(workdir.clone());
    }
    if let Some(user) = user {
        process.set_user(user_of(&rootfs, user)?);
    }
    let is_set = |line: &String| line.split('=').next().is_some_and(|name| oci.env.contains_key(name));
    let mut env = process.env().clone().unwrap_or_default();
    env.retain(|line| !is_set(line));
    env.extend(oci.env.iter().map(|(name, value)| format!("{name}={value}")));
    process.set_env(Some(env));
    Ok(())
}

/// The user that a text like `postgres`, `70`, `70:70` or `postgres:staff` means, by the image's own files.
fn user_of(rootfs: &Path, text: &str) -> Result<User, DriverError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let passwd = rootfs.join("etc/passwd");
    let known = |path: &Path| match path.symlink_metadata().is_ok_and(|found| found.is_file()) {
        true => fs::read_to_string(path).unwrap_or_default(),
        // A link would lead to the worker's own files.
        false => String::new(),
    };
    let unknown = |passwd| DriverError::NoUser { user: text.to_owned(), passwd };
    let (uid, gid) = match user {
        "" => (0, 0),
        user => find_user(&known(&passwd), user).ok_or_else(|| unknown(passwd))?,
    };
    let gid = match group {
        None => gid,
        Some(group) => {
            let file = rootfs.join("etc/group");
            let mut lines = known(&file).lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
            let named = lines.find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
            });
            named.or_else(|| group.parse().ok()).ok_or_else(|| unknown(file))?
        }
    };
    Ok(UserBuilder::default().uid(uid).gid(gid).build().expect("a user with its numbers is one"))
}
