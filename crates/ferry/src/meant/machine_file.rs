//! The file that says what a machine is: read for `machine create -f`, written by `machine spec`.
//!
//! Invariant: what is wrong with it is told as file, line and field in one sentence, before an agent is asked.

use super::Misuse;
use super::health::HealthInFile;
use super::hooks_file::HooksInFile;
use super::limits_file::LimitsInFile;
use super::oci_file::OciInFile;
use super::vm_file::{MicroVmInFile, VmInFile};
use crate::output::bytes::{parse_size, parse_span, whole_bytes, whole_span};
use ferry_api::{
    CreateMachine, Driver, Filesystem, Isolation, Machine, MachineName, MachineSpec, MicroVmSpec, Mount,
    MountPath, Network, NewVolume, OciSpec, Placement, ProcessSpec, RestartPolicy, Service, Signal,
    VolumeName, VolumeOrigin, VolumeRef,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest grace that a file can give: what a machine has by default, in milliseconds.
const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// A machine as a person writes it down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineFile {
    name: MachineName,
    #[serde(default)]
    driver: DriverName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oci: Option<OciInFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workdir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    isolated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "is_default")]
    network: Network,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    services: Vec<Service>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_signal: Option<Signal>,
    #[serde(default = "grace_default", deserialize_with = "span", serialize_with = "span_text")]
    stop_grace: Duration,
    #[serde(default, deserialize_with = "restart", serialize_with = "restart_text")]
    restart: RestartPolicy,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<HealthInFile>,
    #[serde(default, skip_serializing_if = "LimitsInFile::is_none")]
    limits: LimitsInFile,
    #[serde(default, skip_serializing_if = "Placement::is_none")]
    placement: Placement,
    #[serde(default, skip_serializing_if = "HooksInFile::is_empty")]
    hooks: HooksInFile,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<VolumeName, VolumeInFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qemu: Option<VmInFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vm: Option<MicroVmInFile>,
}

/// What can run a machine.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DriverName {
    #[default]
    Process,
    Oci,
    Qemu,
    #[serde(rename = "cloud-hypervisor")]
    CloudHypervisor,
    Firecracker,
}

impl DriverName {
    fn is_micro_vm(self) -> bool {
        matches!(self, Self::CloudHypervisor | Self::Firecracker)
    }
}

/// A disk as a person writes it down.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeInFile {
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "size",
        serialize_with = "size_text"
    )]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    volume: Option<VolumeRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    direct: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mount: Option<MountPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fs: Option<Filesystem>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
}

/// Reads the file at `path`. A name that was typed goes before the one in it.
pub(super) fn read(path: &Path, name: Option<MachineName>, start: bool) -> Result<CreateMachine, Misuse> {
    let text = std::fs::read_to_string(path)
        .map_err(|cause| Misuse(format!("cannot read {}: {cause}", path.display())))?;
    let form = if path.extension().is_some_and(|end| end == "json") { Form::Json } else { Form::Toml };
    let understood = understand(&text, form);
    let mut created = understood.map_err(|why| Misuse(format!("{}, {why}", path.display())))?;
    created.start = start;
    if let Some(name) = name {
        created.name = name;
    }
    Ok(created)
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As TOML.
    Toml,
    /// As JSON.
    Json,
}

/// What such a file says of a volume beside where its machine finds it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The block device of its worker that holds its bytes, if one does.
    pub store: Option<PathBuf>,
    /// Whether its bytes pass by the page cache.
    pub direct: bool,
}

/// What a machine is, as such a file, with what is known of its volumes.
pub fn write(machine: &Machine, disks: &BTreeMap<VolumeName, Disk>, form: Form) -> String {
    let (mut qemu, mut vm) = (None, None);
    let (driver, command, env, workdir, oci) = match machine.spec.driver.clone() {
        Driver::Process(ProcessSpec { command, args, env, workdir }) => {
            let words = std::iter::once(command).chain(args).collect();
            (DriverName::Process, words, env, workdir, None)
        }
        Driver::Oci(OciSpec { from, command, env, workdir }) => {
            (DriverName::Oci, command, env, workdir, Some(OciInFile::from(from)))
        }
        Driver::Qemu(spec) => {
            qemu = Some(VmInFile::from(spec));
            (DriverName::Qemu, Vec::new(), BTreeMap::new(), None, None)
        }
        Driver::CloudHypervisor(spec) => {
            vm = Some(MicroVmInFile::from(spec));
            (DriverName::CloudHypervisor, Vec::new(), BTreeMap::new(), None, None)
        }
        Driver::Firecracker(spec) => {
            vm = Some(MicroVmInFile::from(spec));
            (DriverName::Firecracker, Vec::new(), BTreeMap::new(), None, None)
        }
    };
    let isolation = machine.spec.isolation.clone();
    let volume = |name: &VolumeName| {
        let (mount, disk) = (machine.spec.mounts.get(name), disks.get(name));
        VolumeInFile {
            size: disk.map(|disk| disk.size_bytes),
            store: disk.and_then(|disk| disk.store.clone()),
            direct: disk.is_some_and(|disk| disk.direct),
            mount: mount.map(|mount| mount.path.clone()),
            fs: mount.map(|mount| mount.fs),
            read_only: mount.is_some_and(|mount| mount.read_only),
            volume: None,
        }
    };
    let file = MachineFile {
        name: machine.name.clone(),
        driver,
        command,
        oci,
        workdir,
        isolated: isolation.as_ref() == Some(&Isolation::default()),
        user: isolation.as_ref().and_then(|isolation| isolation.user.clone()),
        root: isolation.as_ref().and_then(|isolation| isolation.root.clone()),
        network: isolation.map(|isolation| isolation.network).unwrap_or_default(),
        services: machine.spec.services.clone(),
        stop_signal: (!machine.spec.driver.is_vm()).then_some(machine.spec.stop_signal),
        stop_grace: Duration::from_millis(machine.spec.stop_grace_ms),
        restart: machine.spec.restart,
        env,
        health: machine.spec.health.clone().map(HealthInFile::from),
        limits: machine.spec.limits.into(),
        placement: machine.spec.placement.clone(),
        hooks: machine.spec.hooks.clone().into(),
        volumes: machine.volumes.iter().map(|known| (known.name.clone(), volume(&known.name))).collect(),
        qemu,
        vm,
    };
    match form {
        Form::Toml => toml::to_string_pretty(&file).expect("a machine is plain data and always encodes"),
        Form::Json => {
            serde_json::to_string_pretty(&file).expect("a machine is plain data and always encodes")
        }
    }
}

fn understand(text: &str, form: Form) -> Result<CreateMachine, String> {
    let file: MachineFile = match form {
        Form::Toml => toml::from_str(text).map_err(|error| in_words(text, &error))?,
        Form::Json => serde_json::from_str(text).map_err(|error| json_in_words(text, &error))?,
    };
    let driver = driver(text, &file)?;
    let isolation = Isolation { user: file.user, root: file.root, network: file.network };
    let is_isolated = file.isolated || isolation != Isolation::default();
    let (mut volumes, mut mounts) = (Vec::new(), BTreeMap::new());
    for (name, volume) in file.volumes {
        let at = |why: &str| format!("{} volumes.{name}: {why}", line_of_table(text, name.as_str()));
        match &volume.mount {
            Some(path) => {
                let fs = volume.fs.unwrap_or_default();
                let mount = Mount { path: path.clone(), fs, read_only: volume.read_only };
                mounts.insert(name.clone(), mount);
            }
            None if volume.fs.is_some() || volume.read_only => {
                return Err(at("fs and read_only are for a volume that is mounted; say where with `mount`"));
            }
            None => {}
        }
        let origin = origin(&volume).map_err(at)?;
        volumes.push(NewVolume { name, origin });
    }
    let health = file.health.map(HealthInFile::check).transpose();
    let health = health.map_err(|why| format!("{} health: {why}", line_of_table(text, "[health]")))?;
    if let Some(why) = file.placement.too_many() {
        return Err(format!("{} {why}", line_of_table(text, "[placement]")));
    }
    let hooks = file.hooks.hooks().map_err(|(name, why)| {
        format!("{} hooks.{name}: {why}", line_of_table(text, &format!("[hooks.{name}]")))
    })?;
    let stop_grace_ms = u64::try_from(file.stop_grace.as_millis()).unwrap_or(u64::MAX);
    let spec = MachineSpec {
        driver,
        stop_signal: file.stop_signal.unwrap_or_default(),
        stop_grace_ms,
        restart: file.restart,
        mounts,
        isolation: is_isolated.then_some(isolation),
        services: file.services,
        health,
        limits: file.limits.into(),
        placement: file.placement,
        hooks,
    };
    Ok(CreateMachine { name: file.name, spec, volumes, start: false })
}

/// What runs it; what another driver must know is refused.
fn driver(text: &str, file: &MachineFile) -> Result<Driver, String> {
    let refuse = |field: &str, why: &str| Err(format!("{} {field}: {why}", line_of_field(text, field)));
    if let Some(field) = not_for(file) {
        let why = match file.driver {
            _ if ["[qemu]", "[oci]", "[vm]"].contains(&field) => {
                "this is for another driver; leave it out, or choose that"
            }
            DriverName::Process => "a process has none; leave it out",
            DriverName::Oci => "the root of a container is that of its image or bundle; leave it out",
            DriverName::Qemu | DriverName::CloudHypervisor | DriverName::Firecracker => {
                "a VM has none; leave it out, or choose another driver"
            }
        };
        return refuse(field, why);
    }
    let (env, workdir) = (file.env.clone(), file.workdir.clone());
    match file.driver {
        DriverName::Process => {
            let mut words = file.command.iter().cloned();
            let missing = || "field command: it is missing; write the program and its arguments".to_owned();
            let command = words.next().ok_or_else(missing)?;
            Ok(Driver::Process(ProcessSpec { command, args: words.collect(), env, workdir }))
        }
        DriverName::Oci => {
            let missing = || "field oci: it is missing; say what `image` or `bundle` to run".to_owned();
            let from = file.oci.clone().ok_or_else(missing)?;
            match from.try_into() {
                Ok(from) => Ok(Driver::Oci(OciSpec { from, command: file.command.clone(), env, workdir })),
                Err(why) => refuse("[oci]", why),
            }
        }
        DriverName::Qemu => Ok(Driver::Qemu(file.qemu.clone().unwrap_or_default().try_into()?)),
        DriverName::CloudHypervisor => Ok(Driver::CloudHypervisor(micro_vm(file)?)),
        DriverName::Firecracker => Ok(Driver::Firecracker(micro_vm(file)?)),
    }
}

fn micro_vm(file: &MachineFile) -> Result<MicroVmSpec, String> {
    let missing = || "field vm: it is missing; say what `kernel` to boot".to_owned();
    file.vm.clone().ok_or_else(missing)?.try_into()
}

/// A field that is given and that machines of its driver do not have.
fn not_for(file: &MachineFile) -> Option<&'static str> {
    let (is_oci, is_qemu) = (matches!(file.driver, DriverName::Oci), matches!(file.driver, DriverName::Qemu));
    let is_micro_vm = file.driver.is_micro_vm();
    let is_vm = is_qemu || is_micro_vm;
    let given = [
        ("[qemu]", !is_qemu && file.qemu.is_some()),
        ("[vm]", !is_micro_vm && file.vm.is_some()),
        ("[oci]", !is_oci && file.oci.is_some()),
        ("root", (is_oci || is_vm) && file.root.is_some()),
        ("command", is_vm && !file.command.is_empty()),
        ("workdir", is_vm && file.workdir.is_some()),
        ("isolated", is_vm && file.isolated),
        ("user", is_vm && file.user.is_some()),
        ("network", is_vm && !is_default(&file.network) && !(is_qemu && file.network == Network::Own)),
        ("services", is_micro_vm && !file.services.is_empty()),
        ("[health]", is_micro_vm && file.health.is_some()),
        ("[limits]", is_vm && !file.limits.is_none()),
        ("[hooks]", is_micro_vm && !file.hooks.is_empty()),
        ("stop_signal", is_vm && file.stop_signal.is_some()),
        ("[env]", is_vm && !file.env.is_empty()),
        ("mount", is_vm && file.volumes.values().any(|volume| volume.mount.is_some())),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(field, _)| field)
}

/// The line on which a field is given.
fn line_of_field(text: &str, field: &str) -> String {
    let (bare, marks) = (field.trim_matches(['[', ']']), [' ', '"', '[']);
    let at =
        text.lines().position(|line| line.trim_start_matches(marks).starts_with(bare)).unwrap_or_default();
    format!("line {} field", at + 1)
}

fn origin(volume: &VolumeInFile) -> Result<VolumeOrigin, &'static str> {
    match (volume.size, &volume.volume) {
        (Some(size_bytes), None) => Ok(VolumeOrigin::Empty {
            size_bytes,
            region_bytes: None,
            store: volume.store.clone(),
            direct: volume.direct,
        }),
        (None, Some(_)) if volume.store.is_some() || volume.direct => {
            Err("store and direct are for an empty volume, one with `size`")
        }
        (None, Some(known)) => Ok(VolumeOrigin::Existing { volume: known.clone() }),
        (Some(_), Some(_)) | (None, None) => {
            Err("give either `size`, for an empty one, or `volume`, for an imported one")
        }
    }
}

/// Line, field and reason of what is wrong.
fn in_words(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let number = text[..at].matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let field = line.split_once('=').map(|(key, _)| format!(" field {}:", key.trim())).unwrap_or_default();
    let why = error.message().replace('\n', " ");
    format!("line {number}{field} {why}")
}

/// The same of a JSON file.
fn json_in_words(text: &str, error: &serde_json::Error) -> String {
    let why = error.to_string();
    let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
    let unknown = why.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let before = line.get(..error.column()).unwrap_or(line);
    // The last key before the place where it was noticed.
    let key = || before.rsplit_once("\":").and_then(|(keys, _)| keys.rsplit('"').next());
    let field = unknown.or_else(key).map(|field| format!(" field {field}:")).unwrap_or_default();
    format!("line {}{field} {why}", error.line())
}

/// The line on which the table of a volume begins.
fn line_of_table(text: &str, name: &str) -> String {
    let quoted = format!("\"{}\"", name.trim_matches(['[', ']']));
    let is_it = |line: &str| {
        let begins = line.trim_start();
        line.contains(name) && line.contains("volumes")
            || begins.starts_with(name)
            || begins.starts_with(&quoted)
    };
    text.lines()
        .position(is_it)
        .map(|at| format!("line {} field", at + 1))
        .unwrap_or_else(|| "field".to_owned())
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn grace_default() -> Duration {
    GRACE_DEFAULT
}

pub(super) fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_span(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

pub(super) fn span_text<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&whole_span(*span))
}

/// A text as for `--volume`, or a number of bytes.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size is a text, as in \"8GiB\", or a number of bytes")]
    enum Typed {
        Bytes(u64),
        Text(String),
    }
    match Typed::deserialize(from)? {
        Typed::Bytes(bytes) => Ok(Some(bytes)),
        Typed::Text(text) => parse_size(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

fn size_text<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&whole_bytes(bytes.unwrap_or_default()))
}

fn restart<'de, D: Deserializer<'de>>(from: D) -> Result<RestartPolicy, D::Error> {
    let Misuse(why) = match super::restart_policy(&String::deserialize(from)?) {
        Ok(policy) => return Ok(policy),
        Err(misuse) => misuse,
    };
    Err(serde::de::Error::custom(why))
}

fn restart_text<S: Serializer>(policy: &RestartPolicy, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(crate::commands::machine::restart_text(*policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &str = r#"
name = "db"
command = ["/usr/lib/postgresql/17/bin/postgres", "-D", "/var/lib/postgresql/data"]
user = "postgres"
stop_signal = "INT"
stop_grace = "2m"
restart = "on-failure"
services = [{ port = 5432 }, { name = "admin", port = 80, listen = 8080 }]

[env]
LANG = "C.UTF-8"

[health]
command = ["pg_isready"]
interval = "2s"

[limits]
memory = "512MiB"
cpus = 1.5

[placement]
group = "pg"
apart = [{ group = "pg" }]
labels = { disk = "nvme" }

[hooks.quiesce]
command = ["psql", "-c", "CHECKPOINT"]
timeout = "5s"
on_failure = "abort"

[volumes.data]
size = "8GiB"
mount = "/var/lib/postgresql"
fs = "ext4"
"#;

    fn refusal(text: &str) -> String {
        understand(text, Form::Toml).unwrap_err()
    }

    #[test]
    fn a_file_says_all_of_a_machine() {
        let created = understand(DATABASE, Form::Toml).unwrap();
        assert_eq!(created.name.as_str(), "db");
        assert_eq!((created.spec.stop_grace_ms, created.spec.restart), (120_000, RestartPolicy::OnFailure));
        let limits = created.spec.limits;
        assert_eq!(limits.memory_bytes.map(u64::from), Some(512 << 20));
        assert_eq!((limits.cpu_millis.map(u32::from), limits.pids), (Some(1500), None));
        let placement = created.spec.placement.clone();
        assert_eq!(placement.group, Some("pg".parse().unwrap()));
        assert_eq!(placement.apart, [ferry_api::Other::Group("pg".parse().unwrap())]);
        assert_eq!(created.spec.isolation.unwrap().user.as_deref(), Some("postgres"));
        let mount = &created.spec.mounts[&"data".parse().unwrap()];
        assert_eq!(mount.path.to_string(), "/var/lib/postgresql");
        let size_bytes = 8 << 30;
        let origin = VolumeOrigin::Empty { size_bytes, region_bytes: None, store: None, direct: false };
        assert_eq!(created.volumes, [NewVolume { name: "data".parse().unwrap(), origin }]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_field() {
        let said = refusal(&DATABASE.replace("mount =", "mout ="));
        assert!(said.starts_with("line 33 field mout: unknown field `mout`"), "{said}");
        let said = refusal(&DATABASE.replace("8GiB", "8 potatoes"));
        assert!(said.starts_with("line 32 field size: ") && said.contains("potatoes"), "{said}");
        let said = refusal(&DATABASE.replace("\"INT\"", "\"STOP\""));
        assert!(said.starts_with("line 5 field stop_signal: 'STOP' is not a stop signal"), "{said}");
        let said = refusal(&DATABASE.replace("\"/var/lib/postgresql\"\n", "\"pg\"\n"));
        assert!(said.starts_with("line 33 field mount: 'pg' is no place"), "{said}");
        let said = refusal(&DATABASE.replace("on-failure", "maybe"));
        assert!(said.starts_with("line 7 field restart: 'maybe' is no restart policy"), "{said}");
        let said = refusal(&DATABASE.replace("size = \"8GiB\"\n", ""));
        assert!(said.starts_with("line 31 field volumes.data: give either"), "{said}");
        let said = refusal(&DATABASE.replace("hooks.quiesce", "hooks.after_move"));
        assert!(said.starts_with("line 26 field hooks.after_move: no move can be given up"), "{said}");
        let said = refusal(&DATABASE.replace("5s", "11m"));
        assert!(said.starts_with("line 26 field hooks.quiesce: timeout is at least 1ms"), "{said}");
        let said = refusal(&DATABASE.replace("\"abort\"", "\"panic\""));
        assert!(said.starts_with("line 29 field on_failure: unknown variant `panic`"), "{said}");
        let said = refusal(&DATABASE.replace("[\"pg_isready\"]", "[]"));
        assert!(said.starts_with("line 13 field health: command is empty"), "{said}");
        let said = refusal(&DATABASE.replace("command = [\"pg_isready\"]", "http = \"https://x\""));
        assert!(said.starts_with("line 14 field http: 'https://x' is no URL"), "{said}");
        let said = refusal(&DATABASE.replace("cpus = 1.5", "cpus = 0"));
        assert!(said.starts_with("line 19 field cpus: "), "{said}");
        let said = refusal("name = \"x\"\n");
        assert!(said.contains("field command: it is missing"), "{said}");
        let said = refusal("name = \"x\"\ndriver = \"qemu\"\nstop_signal = \"INT\"\n");
        let why = "a VM has none; leave it out, or choose another driver";
        assert_eq!(said, format!("line 3 field stop_signal: {why}"));
        let said = refusal("name = \"x\"\ndriver = \"qemu\"\n[qemu]\nmemory = \"1000KiB\"\n");
        assert!(said.starts_with("line 4 field memory: "), "{said}");
    }

    const VM: &str = r#"
name = "vm"
driver = "qemu"
stop_grace = "1m"

[qemu]
kernel = "/boot/vmlinuz"
append = "console=ttyS0"
memory = "1GiB"
accel = "tcg"
disk = "nbd"
guest_agent = true

[hooks.quiesce]
freeze = true

[volumes.root]
size = "8GiB"
"#;

    #[test]
    fn a_vm_is_read_as_it_is_written() {
        let created = understand(VM, Form::Toml).unwrap();
        let Driver::Qemu(vm) = &created.spec.driver else { panic!("{created:?}") };
        assert_eq!((vm.memory_mib, vm.vcpus, vm.accel), (1024, 1, ferry_api::Accel::Tcg));
        assert_eq!((vm.disk, vm.machine.as_str()), (ferry_api::QemuDisk::Nbd, "q35"));
        assert_eq!(
            (vm.guest_agent, created.spec.hooks.quiesce.clone()),
            (true, Some(ferry_api::Hook::freeze()))
        );
        assert_written_alike(&created, "root");
        let least = understand("name = \"x\"\ndriver = \"qemu\"\n", Form::Toml).unwrap();
        assert_eq!(least.spec.driver, Driver::Qemu(ferry_api::QemuSpec::default()));
    }

    #[test]
    fn a_vm_of_another_vmm_is_read_as_it_is_written() {
        for driver in ["cloud-hypervisor", "firecracker"] {
            let text = format!(
                "name = \"vm\"\ndriver = \"{driver}\"\n[vm]\nkernel = \"/k\"\nmemory = \"1GiB\"\nvcpus = 2\n\
                 [volumes.root]\nsize = \"8GiB\"\n"
            );
            let created = understand(&text, Form::Toml).unwrap();
            let vm = created.spec.driver.as_micro_vm().unwrap();
            assert_eq!((vm.memory_mib, vm.vcpus, created.spec.driver.kind().as_str()), (1024, 2, driver));
            assert_written_alike(&created, "root");
            let said = refusal(&format!("name = \"x\"\ndriver = \"{driver}\"\n"));
            assert_eq!(said, "field vm: it is missing; say what `kernel` to boot");
            let said = refusal(&format!("name = \"x\"\ndriver = \"{driver}\"\n[qemu]\n"));
            assert!(said.starts_with("line 3 field [qemu]: this is for another driver"), "{said}");
        }
    }

    #[test]
    fn a_machine_is_written_as_a_file_that_says_the_same() {
        assert_written_alike(&understand(DATABASE, Form::Toml).unwrap(), "data");
        for place in ["direct = true\n", "store = \"/dev/vg0/db\"\n"] {
            assert_written_alike(&understand(&format!("{DATABASE}{place}"), Form::Toml).unwrap(), "data");
        }
    }

    fn assert_written_alike(created: &CreateMachine, disk: &str) {
        let volume = ferry_api::MachineVolume {
            name: disk.parse().unwrap(),
            volume: ferry_api::VolumeId::fresh(),
            generation: ferry_api::Generation::FIRST,
        };
        let machine = Machine {
            id: ferry_api::MachineId::fresh(),
            address: None,
            name: created.name.clone(),
            worker: "w1".parse().unwrap(),
            generation: ferry_api::Generation::FIRST,
            spec: created.spec.clone(),
            volumes: vec![volume],
            desired: ferry_api::Desired::Stopped,
            state: ferry_api::MachineState::Stopped,
            health: None,
            job: None,
            last_exit: None,
            start_ms: None,
            log: PathBuf::from("/x"),
            created_at_ms: 1,
        };
        let VolumeOrigin::Empty { size_bytes, store, direct, .. } = created.volumes[0].origin.clone() else {
            panic!("{created:?}")
        };
        let disks = BTreeMap::from([(disk.parse().unwrap(), Disk { size_bytes, store, direct })]);
        for form in [Form::Toml, Form::Json] {
            let text = write(&machine, &disks, form);
            assert_eq!(understand(&text, form).unwrap(), *created, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_json_file_is_told_with_its_line_and_field_too() {
        let good = r#"{
  "name": "db", "command": ["postgres"],
  "stop_signal": "INT", "stop_grace": "2m",
  "health": {"tcp": 5432},
  "volumes": {
    "data": {"size": "8GiB", "mount": "/data"}
  }
}"#;
        assert_eq!(understand(good, Form::Json).unwrap().spec.stop_grace_ms, 120_000);
        let refusal = |from: &str, to: &str| understand(&good.replace(from, to), Form::Json).unwrap_err();
        let said = refusal("\"mount\"", "\"mout\"");
        assert!(said.starts_with("line 6 field mout: unknown field `mout`"), "{said}");
        let said = refusal("\"INT\"", "\"STOP\"");
        assert!(said.starts_with("line 3 field stop_signal: 'STOP' is not a stop signal"), "{said}");
        let said = refusal("2m", "long");
        assert!(said.starts_with("line 3 field stop_grace: "), "{said}");
        let said = refusal("\"size\": \"8GiB\", ", "");
        assert!(said.starts_with("line 6 field volumes.data: give either"), "{said}");
        let said = refusal("\"tcp\": 5432", "");
        assert!(said.starts_with("line 4 field health: give one of"), "{said}");
        let said = refusal("],", "]");
        assert!(said.starts_with("line 3") && said.contains("expected `,`"), "{said}");
    }
}
