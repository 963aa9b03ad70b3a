//! Making and destroying machines and volumes at a person's wish: all or nothing.

use crate::core::Core;
use crate::placement::refuse_if_cordoned;
use crate::records::{
    Change, FilesystemMark, ForkRecord, MachineRecord, SourceRecord, Standing, VolumeRecord,
};
use ferry_api::{
    AgentApi, ApiError, CreateMachine, Desired, ErrorCode, ForkVolume, Generation, ImportVolume, Machine,
    MachineId, MachineSpec, MachineVolume, NewVolume, Ownership, REGION_BYTES_DEFAULT, Volume, VolumeId,
    VolumeKey, VolumeName, VolumeOrigin, VolumeRef,
};
use ferry_volume::{DialError, REGION_BYTES_MAX, SourceUri, client};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Unit of a volume's size, in bytes.
const SECTOR_BYTES: u64 = 512;
/// Smallest unit of copying, in bytes.
const REGION_BYTES_MIN: u32 = 4096;

type Answer<T> = Result<T, ApiError>;

fn check_placement(spec: &MachineSpec) -> Answer<()> {
    let refused = spec.placement.too_many().map(|why| ApiError::new(ErrorCode::InvalidRequest, why));
    refused.map_or(Ok(()), Err)
}

/// What is asked for can be had here, as far as that shows before anything is made.
async fn check(core: &Core, create: &CreateMachine) -> Answer<()> {
    refuse_if_cordoned(core).await?;
    check_hooks(&create.spec)?;
    core.machines.check(&create.spec).await?;
    check_names(&create.volumes)?;
    check_mounts(create)?;
    core.services.check_new(&create.spec)?;
    check_placement(&create.spec)
}

/// Makes a machine with its volumes, and starts it if asked.
pub(crate) async fn machine(core: &Core, create: CreateMachine) -> Answer<Machine> {
    check(core, &create).await?;
    let id = MachineId::fresh();
    let mut added = Vec::new();
    let mut changes = Vec::new();
    let mut volumes = Vec::new();
    let mut detach = Vec::new();
    for new in create.volumes {
        let key = match new.origin {
            VolumeOrigin::Empty { size_bytes, region_bytes, store, direct } => {
                let shape = Shape::checked(size_bytes, region_bytes)?;
                if let Some(device) = &store {
                    check_device(core, device, None).await?;
                    check_other_devices(&added, device)?;
                }
                let fresh = fresh_volume(core, new.name.clone(), shape, None);
                let filesystem = create.spec.mounts.contains_key(&new.name).then_some(FilesystemMark::Blank);
                let record = VolumeRecord { machine: Some(id), store, direct, filesystem, ..fresh };
                added.push(record.clone());
                record.key()
            }
            VolumeOrigin::Existing { volume } => {
                let VolumeRecord { id: volume, generation, name, .. } = unattached(core, &volume).await?;
                let key = VolumeKey { id: volume, generation };
                detach.push(Change::Detach { key, name });
                changes.push(Change::Attach { key, machine: id, name: new.name.clone() });
                key
            }
        };
        volumes.push(MachineVolume { name: new.name, volume: key.id, generation: key.generation });
    }
    let record = MachineRecord {
        id,
        name: create.name,
        spec: create.spec,
        volumes,
        // It is started when its volumes have been made.
        desired: Desired::Stopped,
        generation: Generation::FIRST,
        standing: Standing::Ours,
        job: None,
        halted: false,
        doomed: false,
        process: None,
        memory: None,
        last_exit: None,
        start_ms: None,
        created_at_ms: core.host.now_ms(),
    };
    let made: Vec<VolumeKey> = added.iter().map(VolumeRecord::key).collect();
    {
        let _name = core.target.claim_name(&record.name).await?;
        changes.insert(0, Change::AddMachine(Box::new(record)));
        core.volumes.add(added, changes).await?;
    }
    for &key in &made {
        if let Err(error) = core.volumes.converge(key).await {
            undo_machine(core, id, &made, detach).await;
            return Err(error.into());
        }
    }
    if create.start {
        core.records.change(vec![Change::Desire { machine: id, desired: Desired::Running }]).await?;
        core.machines.settle(id).await;
    }
    Ok(core.machines.show(id).await?)
}

fn check_hooks(spec: &MachineSpec) -> Answer<()> {
    spec.hooks.iter().try_for_each(|(name, hook)| {
        let refused = |why| ApiError::new(ErrorCode::InvalidRequest, format!("the {name} hook: {why}"));
        if hook.freeze && !spec.driver.as_qemu().is_some_and(|vm| vm.guest_agent) {
            return Err(refused(
                "only a VM with a guest agent can freeze its file systems; give a command instead",
            ));
        }
        hook.check(name).map_err(refused)
    })
}

/// Takes a machine back whose volumes could not be made. Volumes that were there before are given free again.
async fn undo_machine(core: &Core, id: MachineId, made: &[VolumeKey], detach: Vec<Change>) {
    if let Err(error) = core.records.change(detach).await {
        tracing::warn!(machine = %id, %error, "the volumes of a machine that was not made cannot be given free");
    }
    for &key in made {
        if let Err(error) = core.volumes.delete(key).await {
            let error = ApiError::from(error);
            tracing::warn!(volume = %key, %error, "what was made of a volume cannot be deleted");
        }
    }
    if let Err(error) = core.machines.forget(id).await {
        let error = ApiError::from(error);
        tracing::warn!(machine = %id, %error, "what was made of a machine cannot be deleted");
    }
}

/// Stops a machine and deletes it with its volumes.
pub(crate) async fn destroy(core: &Core, record: &MachineRecord) -> Answer<()> {
    for key in record.volume_keys() {
        core.volumes.refuse_if_forked(key).await?;
    }
    // From here on no move takes it and finds its volumes, or itself, gone.
    core.records.change(vec![Change::Doom(record.id)]).await?;
    core.machines.down(record.id).await?;
    for key in record.volume_keys() {
        core.volumes.delete(key).await?;
    }
    Ok(core.machines.forget(record.id).await?)
}

/// Makes a volume that is a clone of a raw file or of what an NBD server exports.
pub(crate) async fn import(core: &Core, import: ImportVolume) -> Answer<Volume> {
    check_import_name(core, &import.name).await?;
    let (uri, found) = probe(core, &import.source).await?;
    let size_bytes = import.size_bytes.unwrap_or(found.size_bytes);
    if size_bytes > found.size_bytes {
        let message = format!(
            "{} has {} bytes, less than the {size_bytes} that were asked for; ask for at most what it has",
            import.source, found.size_bytes
        );
        return Err(ApiError::new(ErrorCode::BadSource, message));
    }
    if found.size_bytes == 0 {
        let message =
            format!("{} is empty; give a disk image or an export that holds something", import.source);
        return Err(ApiError::new(ErrorCode::BadSource, message));
    }
    if !size_bytes.is_multiple_of(SECTOR_BYTES) && import.size_bytes.is_none() {
        let message = format!(
            "{} has {size_bytes} bytes, which is no multiple of {SECTOR_BYTES}; pad it, or ask for a smaller size",
            import.source
        );
        return Err(ApiError::new(ErrorCode::BadSource, message));
    }
    let shape = Shape::checked(size_bytes, import.region_bytes)?;
    if let Some(device) = &import.store {
        check_device(core, device, Some(&uri)).await?;
    }
    let source = SourceRecord { uri: uri.to_string(), worker: None };
    let record = VolumeRecord {
        id: import.id.unwrap_or_else(VolumeId::fresh),
        // What goes to a device of its own needs no room in the state directory.
        bytes_expected: if import.store.is_some() { 0 } else { found.bytes_in_use.min(size_bytes) },
        store: import.store,
        direct: import.direct,
        ..fresh_volume(core, import.name, shape, Some(source))
    };
    let key = record.key();
    core.volumes.add(vec![record], Vec::new()).await?;
    if let Err(error) = core.volumes.converge(key).await {
        if let Err(left) = core.volumes.delete(key).await {
            let left = ApiError::from(left);
            tracing::warn!(volume = %key, error = %left, "what was made of a volume cannot be deleted");
        }
        return Err(error.into());
    }
    Ok(core.volumes.show(key).await?)
}

/// Makes an independent clone of a volume as it is now, here or on another worker.
pub(crate) async fn fork(core: &Core, origin: VolumeKey, fork: ForkVolume) -> Answer<Volume> {
    let other = fork.to.filter(|to| *to != core.config.name);
    let peer = other.as_ref().map(|to| core.peers.client(to)).transpose()?;
    if peer.is_none() {
        check_import_name(core, &fork.name).await?;
    }
    let id = VolumeId::fresh();
    let (name, to) = (fork.name, other);
    let made = ForkRecord { id, name: name.clone(), to: to.clone() };
    let make = |source, record: VolumeRecord| async move {
        let (size_bytes, region_bytes) = (Some(record.size_bytes), Some(record.region_bytes));
        let (store, direct) = (None, record.direct);
        let wanted = ImportVolume { id: Some(id), name, source, size_bytes, region_bytes, store, direct };
        match (peer, to) {
            (Some(peer), Some(to)) => peer.volume_import(wanted).await.map_err(|error| ApiError {
                message: format!("worker {to} cannot make the fork: {}", error.message),
                ..error
            }),
            (_, _) => import(core, wanted).await,
        }
    };
    let machine = core.records.volume(origin).await?.and_then(|record| record.machine);
    let frozen = match machine {
        Some(machine) => core.machines.freeze_for_fork(machine).await?,
        None => None,
    };
    core.volumes.fork(origin, made, frozen, make).await
}

/// What an import's source is.
struct Found {
    size_bytes: u64,
    /// Bytes it occupies; 0 if it does not tell.
    bytes_in_use: u64,
}

/// Looks whether a source is there and how large it is.
async fn probe(core: &Core, source: &str) -> Answer<(SourceUri, Found)> {
    let text = if source.starts_with('/') { format!("file://{source}") } else { source.to_owned() };
    let uri: SourceUri = text.parse().map_err(|e| ApiError::because(ErrorCode::BadSource, &e))?;
    let (asked, credentials) = (uri.clone(), core.volumes.credentials());
    let probing = tokio::task::spawn_blocking(move || {
        let facts = client::probe(&asked, credentials.as_ref())?;
        let bytes_in_use = match &asked {
            SourceUri::File(path) => occupied_bytes(path),
            // What an NBD server holds is only known once it has been asked for all of it.
            SourceUri::Nbd(_) => 0,
        };
        Ok::<_, client::BlockError>(Found { size_bytes: facts.size_bytes, bytes_in_use })
    });
    let found = probing.await.expect("probing a source does not panic");
    found.map(|found| (uri, found)).map_err(|error| {
        let mut told = ApiError::because(ErrorCode::BadSource, &error);
        let says_what_to_do = matches!(
            error,
            client::BlockError::NotAnImage { .. } | client::BlockError::Dial(DialError::NoCredentials { .. })
        );
        if !says_what_to_do {
            let worker = &core.config.name;
            told.message.push_str(&format!("; check that it is there and that worker {worker} may read it"));
        }
        told
    })
}

fn occupied_bytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.blocks().saturating_mul(SECTOR_BYTES))
}

/// Size and unit of copying of a volume, known to be possible.
#[derive(Clone, Copy)]
struct Shape {
    size_bytes: u64,
    region_bytes: u32,
}

impl Shape {
    fn checked(size_bytes: u64, region_bytes: Option<u32>) -> Answer<Self> {
        let region_bytes = region_bytes.unwrap_or(REGION_BYTES_DEFAULT);
        let refuse = |message| Err(ApiError::new(ErrorCode::InvalidRequest, message));
        if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return refuse(format!(
                "a volume cannot have {size_bytes} bytes; give a multiple of {SECTOR_BYTES} above 0"
            ));
        }
        if !region_bytes.is_power_of_two() || !(REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&region_bytes) {
            return refuse(format!(
                "a volume cannot be copied in units of {region_bytes} bytes; \
                 give a power of two from {REGION_BYTES_MIN} to {REGION_BYTES_MAX}"
            ));
        }
        Ok(Self { size_bytes, region_bytes })
    }
}

fn fresh_volume(core: &Core, name: VolumeName, shape: Shape, source: Option<SourceRecord>) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId::fresh(),
        generation: Generation::FIRST,
        name,
        machine: None,
        size_bytes: shape.size_bytes,
        region_bytes: shape.region_bytes,
        ownership: Ownership::Ours,
        source,
        base: None,
        rests: false,
        made: false,
        bytes_expected: 0,
        store: None,
        direct: false,
        filesystem: None,
        forks: Vec::new(),
        created_at_ms: core.host.now_ms(),
    }
}

/// Refuses volumes that a machine could not tell apart.
fn check_names(volumes: &[NewVolume]) -> Answer<()> {
    let mut variables = BTreeSet::new();
    for volume in volumes {
        let variable = volume.name.environment_variable();
        if !variables.insert(variable.clone()) {
            let message =
                format!("two volumes would both be {variable} to the machine; name them differently");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
    }
    Ok(())
}

/// Refuses mounts of volumes that are not there, and two at one place.
fn check_mounts(create: &CreateMachine) -> Answer<()> {
    let refuse = |message| Err(ApiError::new(ErrorCode::InvalidRequest, message));
    let mut places = BTreeSet::new();
    for (name, mount) in &create.spec.mounts {
        if !create.volumes.iter().any(|volume| volume.name == *name) {
            return refuse(format!("the machine shall mount {name}, which is none of its volumes; add it"));
        }
        if !places.insert(&mount.path) {
            return refuse(format!("two volumes shall be mounted at {}; choose another place", mount.path));
        }
    }
    Ok(())
}

/// Volumes of no machine are told apart by their names.
async fn check_import_name(core: &Core, name: &VolumeName) -> Answer<()> {
    let volumes = core.records.volumes().await?;
    if volumes.iter().any(|record| record.machine.is_none() && record.name == *name) {
        let message =
            format!("a volume named {name} is already here; choose another name or delete that one");
        return Err(ApiError::new(ErrorCode::AlreadyExists, message));
    }
    Ok(())
}

/// Refuses a device that holds something we know of: while nobody serves that, nothing else would keep it from harm.
async fn check_device(core: &Core, device: &Path, source: Option<&SourceUri>) -> Answer<()> {
    let wanted = canonical(device);
    let is_wanted = |path: &PathBuf| canonical(path) == wanted;
    let volumes = core.records.volumes().await?;
    let held = volumes.iter().find(|record| record.store.as_ref().is_some_and(is_wanted));
    let what = match (held, source) {
        (Some(record), _) => format!("volume {}", record.key()),
        (None, Some(SourceUri::File(path))) if is_wanted(path) => "the source itself".to_owned(),
        (None, None | Some(SourceUri::File(_) | SourceUri::Nbd(_))) => return Ok(()),
    };
    let message = format!("{} holds {what}; choose another device", device.display());
    Err(ApiError::new(ErrorCode::AlreadyExists, message))
}

/// Refuses a device that another disk of the same machine shall have.
fn check_other_devices(added: &[VolumeRecord], device: &Path) -> Answer<()> {
    let wanted = canonical(device);
    let mut others = added.iter().filter_map(|record| record.store.as_ref());
    if others.any(|other| canonical(other) == wanted) {
        let message = format!("{} is named for two disks; give each a device of its own", device.display());
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    Ok(())
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The volume of no machine that a person means.
async fn unattached(core: &Core, reference: &VolumeRef) -> Answer<VolumeRecord> {
    let volumes = core.records.volumes().await?;
    let mut meant = volumes.into_iter().filter(|record| match reference {
        VolumeRef::Id(id) => record.id == *id && record.ownership == Ownership::Ours,
        VolumeRef::Name(name) => record.machine.is_none() && record.name == *name,
    });
    meant.next().ok_or_else(|| {
        let message =
            format!("there is no volume {reference} here that belongs to no machine; import it first");
        ApiError::new(ErrorCode::NotFound, message)
    })
}
