//! `ferry machine ...`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, CreateMachine, Desired, DestroyMachine, Driver, Exit as MachineExit, Health, HealthCheck,
    Isolation, Limits, Machine, MachineRef, MachineSpec, MachineState, Mount, Network, OciSource, OciSpec,
    ProcessSpec, RestartPolicy, Volume, VolumeName, VolumeRef,
};
use std::collections::BTreeMap;
use std::time::Duration;

use super::{service, utc};
use crate::exit::Exit;
use crate::meant::machine_file::{self, Disk, Form};
use crate::output::bytes::{Bytes, Span};
use crate::output::{Paint, say, say_json, table};

pub async fn create(agent: &Client, json: bool, create: CreateMachine) -> Result<Exit> {
    tell(json, &agent.machine_create(create).await?, "is created: ")
}

pub async fn start(agent: &Client, json: bool, machine: &MachineRef) -> Result<Exit> {
    tell(json, &agent.machine_start(machine).await?, "is ")
}

pub async fn stop(agent: &Client, json: bool, machine: &MachineRef) -> Result<Exit> {
    tell(json, &agent.machine_stop(machine).await?, "is ")
}

/// Prints what a machine is, as a file to make it from.
pub async fn spec(agent: &Client, json: bool, machine: &MachineRef) -> Result<Exit> {
    let machine = agent.machine(machine).await?;
    let mut disks = BTreeMap::new();
    for disk in &machine.volumes {
        let Volume { size_bytes, store, direct, .. } = agent.volume(&VolumeRef::Id(disk.volume)).await?;
        disks.insert(disk.name.clone(), Disk { size_bytes, store, direct });
    }
    let form = if json { Form::Json } else { Form::Toml };
    say(machine_file::write(&machine, &disks, form).trim_end())?;
    Ok(Exit::Done)
}

pub async fn list(agent: &Client, json: bool) -> Result<Exit> {
    let machines = agent.machines().await?;
    if json {
        say_json(&machines)?;
    } else {
        let header = ["NAME", "STATE", "GENERATION", "VOLUMES", "ID", "COMMAND"];
        say(table::columns(header, machines.iter().map(row)))?;
    }
    Ok(Exit::Done)
}

pub async fn show(agent: &Client, json: bool, machine: &MachineRef) -> Result<Exit> {
    let machine = agent.machine(machine).await?;
    if json {
        say_json(&machine)?;
        return Ok(Exit::Done);
    }
    let volumes: Vec<String> = machine
        .volumes
        .iter()
        .map(|volume| format!("{} ({}@{})", volume.name, volume.volume, volume.generation))
        .collect();
    let services = service::of_machine(agent, machine.id).await?;
    let spec = &machine.spec;
    say(table::facts([
        ("name", machine.name.to_string()),
        ("id", machine.id.to_string()),
        ("worker", machine.worker.to_string()),
        ("generation", machine.generation.to_string()),
        ("state", state_text(&machine.state)),
        ("health", health_text(machine.health.as_ref(), spec.health.as_ref())),
        ("wanted", desired_text(machine.desired).to_owned()),
        ("held by job", machine.job.map_or_else(|| "-".to_owned(), |job| job.to_string())),
        ("command", command_text(&spec.driver)),
        ("volumes", if volumes.is_empty() { "-".to_owned() } else { volumes.join(", ") }),
        ("mounts", mounts_text(&machine.spec.mounts)),
        ("isolation", isolation_text(&machine.spec)),
        ("address", address_text(&machine)),
        ("services", services),
        (
            "stops on",
            format!(
                "{}, killed after {}",
                stop_text(spec),
                Span(std::time::Duration::from_millis(spec.stop_grace_ms))
            ),
        ),
        ("limits", limits_text(&spec.limits)),
        ("restart", restart_text(spec.restart).to_owned()),
        ("last exit", machine.last_exit.map_or_else(|| "-".to_owned(), exit_text)),
        ("log", machine.log.display().to_string()),
        ("created", utc(machine.created_at_ms)),
    ]))?;
    Ok(Exit::Done)
}

pub async fn destroy(
    agent: &Client,
    json: bool,
    machine: &MachineRef,
    destroy: DestroyMachine,
) -> Result<Exit> {
    agent.machine_destroy(machine, destroy).await?;
    if json {
        say_json(&serde_json::json!({ "destroyed": machine.to_string() }))?;
    } else {
        say(format_args!(
            "machine {} and its volumes are deleted",
            Paint::for_stdout().strong(&machine.to_string())
        ))?;
    }
    Ok(Exit::Done)
}

fn tell(json: bool, machine: &Machine, what: &str) -> Result<Exit> {
    if json {
        say_json(machine)?;
    } else {
        let name = Paint::for_stdout().strong(machine.name.as_str());
        say(format_args!("machine {name} {what}{} ({})", state_text(&machine.state), machine.id))?;
    }
    Ok(Exit::Done)
}

fn row(machine: &Machine) -> [String; 6] {
    let volumes: Vec<&str> = machine.volumes.iter().map(|volume| volume.name.as_str()).collect();
    [
        machine.name.to_string(),
        format!("{}{}", state_in_short(&machine.state), health_in_short(machine.health.as_ref())),
        machine.generation.to_string(),
        if volumes.is_empty() { "-".to_owned() } else { volumes.join(",") },
        machine.id.to_string(),
        // The last, since it may be long.
        command_text(&machine.spec.driver),
    ]
}

/// How a machine stands, in a few words.
pub fn state_text(state: &MachineState) -> String {
    match state {
        MachineState::Stopped => "stopped".to_owned(),
        MachineState::Starting { waits_for } => format!("starting: {waits_for}"),
        MachineState::Running { pid, since_ms: _ } => format!("running, pid {pid}"),
        MachineState::Restarting { retry_at_ms, restarts } => {
            format!("exited, starts again at {} (restart {})", utc(*retry_at_ms), restarts + 1)
        }
        MachineState::Halted { job } => format!("halted by job {job}"),
        MachineState::HandedOver { to } => format!("handed over to {to}"),
    }
}

/// The same where there is no room for reasons.
fn state_in_short(state: &MachineState) -> String {
    match state {
        MachineState::Starting { waits_for: _ } => "starting (why: ferry machine show)".to_owned(),
        MachineState::Stopped
        | MachineState::Running { .. }
        | MachineState::Restarting { .. }
        | MachineState::Halted { .. }
        | MachineState::HandedOver { .. } => state_text(state),
    }
}

fn health_text(health: Option<&Health>, check: Option<&HealthCheck>) -> String {
    let known = match health {
        None => "-".to_owned(),
        Some(Health::Starting { why: None }) => "starting".to_owned(),
        Some(Health::Starting { why: Some(why) }) => format!("starting: {why}"),
        Some(Health::Healthy { since_ms }) => format!("healthy since {}", utc(*since_ms)),
        Some(Health::Unhealthy { since_ms, why }) => format!("unhealthy since {}: {why}", utc(*since_ms)),
    };
    let tried = check
        .map(|check| format!(" ({} every {})", check.probe, Span(Duration::from_millis(check.interval_ms))));
    format!("{known}{}", tried.unwrap_or_default())
}

/// The same where there is no room for reasons.
fn health_in_short(health: Option<&Health>) -> &'static str {
    match health {
        None | Some(Health::Starting { .. }) => "",
        Some(Health::Healthy { .. }) => ", healthy",
        Some(Health::Unhealthy { .. }) => ", unhealthy",
    }
}

fn desired_text(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "running",
        Desired::Stopped => "stopped",
    }
}

/// A policy, as it is typed.
pub fn restart_text(restart: RestartPolicy) -> &'static str {
    match restart {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    }
}

fn address_text(machine: &Machine) -> String {
    let address = machine.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    match machine.spec.network() {
        Network::Own => address,
        Network::Host | Network::None => {
            format!("{address} (not in use: network = \"own\" gives it an interface)")
        }
    }
}

fn mounts_text(mounts: &BTreeMap<VolumeName, Mount>) -> String {
    let one = |(name, mount): (&VolumeName, &Mount)| {
        let how = if mount.read_only { ", read-only" } else { "" };
        format!("{name} at {} ({}{how})", mount.path, mount.fs)
    };
    let all: Vec<String> = mounts.iter().map(one).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn isolation_text(spec: &MachineSpec) -> String {
    match (spec.is_isolated(), spec.driver.is_vm()) {
        (false, _) => return "-".to_owned(),
        (true, true) => return "a VM with a network of its own".to_owned(),
        (true, false) => {}
    }
    let Isolation { user, root, network } = spec.isolation.clone().unwrap_or_default();
    let user = user.map(|user| format!(", as user {user}")).unwrap_or_default();
    let root = root.map(|root| format!(", in {}", root.display())).unwrap_or_default();
    let network = match network {
        Network::Host => "",
        Network::None => ", no network",
        Network::Own => ", a network of its own",
    };
    format!("namespaces of its own{user}{root}{network}")
}

fn command_text(driver: &Driver) -> String {
    match driver {
        Driver::Process(ProcessSpec { command, args, .. }) => {
            in_one_line(std::iter::once(command).chain(args))
        }
        Driver::Qemu(vm) => {
            let boots =
                vm.kernel.as_ref().map_or_else(String::new, |kernel| format!(", {}", kernel.display()));
            format!("VM: {}, {} vcpus, {} MiB{boots}", vm.machine, vm.vcpus, vm.memory_mib)
        }
        Driver::CloudHypervisor(vm) | Driver::Firecracker(vm) => {
            format!(
                "VM: {}, {} vcpus, {} MiB, {}",
                driver.kind(),
                vm.vcpus,
                vm.memory_mib,
                vm.kernel.display()
            )
        }
        Driver::Oci(OciSpec { from, command, .. }) => {
            let from = match from {
                OciSource::Bundle(path) => format!("bundle {}", path.display()),
                OciSource::Image { path, tag: None } => format!("image {}", path.display()),
                OciSource::Image { path, tag: Some(tag) } => format!("image {}:{tag}", path.display()),
            };
            in_one_line(std::iter::once(&from).chain(command))
        }
    }
}

/// How it is asked to stop.
fn stop_text(spec: &MachineSpec) -> String {
    match spec.driver {
        Driver::Process(_) | Driver::Oci(_) => spec.stop_signal.to_string(),
        Driver::Qemu(_) | Driver::CloudHypervisor(_) => "its power button".to_owned(),
        Driver::Firecracker(_) => "Ctrl-Alt-Del".to_owned(),
    }
}

/// Words as they are told, a script of several lines among them, too.
fn in_one_line<'a>(words: impl Iterator<Item = &'a String>) -> String {
    words.flat_map(|word| word.split_whitespace()).collect::<Vec<_>>().join(" ")
}

fn limits_text(limits: &Limits) -> String {
    let memory = limits.memory_bytes.map(|bytes| format!("{} of memory", Bytes(bytes.get())));
    let cpus = limits.cpu_millis.map(|millis| format!("{} processors", f64::from(millis.get()) / 1000.0));
    let pids = limits.pids.map(|pids| format!("{pids} processes and threads"));
    let all: Vec<String> = [memory, cpus, pids].into_iter().flatten().collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn exit_text(exit: MachineExit) -> String {
    let how = match (exit.code, exit.signal) {
        _ if exit.lost_its_disk => {
            "killed, since a volume that it had mounted was gone with its server".to_owned()
        }
        _ if exit.out_of_memory => "killed, since it wanted more memory than its limit".to_owned(),
        (Some(code), _) => format!("with code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "in an unknown way".to_owned(),
    };
    let by = exit.asked.map(|by| format!(", asked by {by},")).unwrap_or_default();
    format!("{how}{by} at {}", utc(exit.at_ms))
}
