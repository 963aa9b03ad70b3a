//! A stand-in for cloud-hypervisor and firecracker, which need KVM: it takes what each of them is told and asked, checks all of it
//! against what they publish, and is strict where they are. Its "guest" is a script at the end of the kernel's command line.
//!
//! Sources: vmm/src/api/openapi/cloud-hypervisor.yaml and `cloud-hypervisor --help` (v44 and later);
//! src/firecracker/swagger/firecracker.yaml and docs/getting-started.md (v1.10 and later). It proves no more than that Ferry speaks as
//! these say.

#![expect(clippy::print_stderr, reason = "it is a program whose output is its machine's log")]

use rustix::process::PidfdFlags;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a guest's script begins in its kernel's command line.
pub const SCRIPT: &str = "-- ";
const TERM: rustix::process::Signal = rustix::process::Signal::TERM;

/// What a field of a description must be.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Text,
    Number,
    Flag,
    /// A text, one of these.
    OneOf(&'static [&'static str]),
}

/// The model of a body: its fields, and whether each is required.
type Model = &'static [(&'static str, Is, bool)];

const BOOT_SOURCE: Model = &[
    ("kernel_image_path", Is::Text, true),
    ("boot_args", Is::Text, false),
    ("initrd_path", Is::Text, false),
];
const MACHINE_CONFIGURATION: Model = &[
    ("vcpu_count", Is::Number, true),
    ("mem_size_mib", Is::Number, true),
    ("smt", Is::Flag, false),
    ("track_dirty_pages", Is::Flag, false),
    ("huge_pages", Is::OneOf(&["None", "2M"]), false),
];
/// Of a vhost-user drive: what is for other drives "should be omitted".
const DRIVE: Model = &[
    ("drive_id", Is::Text, true),
    ("is_root_device", Is::Flag, true),
    ("partuuid", Is::Text, false),
    ("cache_type", Is::OneOf(&["Unsafe", "Writeback"]), false),
    ("socket", Is::Text, true),
];
const INSTANCE_ACTION_INFO: Model =
    &[("action_type", Is::OneOf(&["FlushMetrics", "InstanceStart", "SendCtrlAltDel"]), true)];

/// The calls that each of them publishes, as far as a VM that runs takes them, with the models of their bodies.
const CLOUD_HYPERVISOR: &[(&str, &str, Option<Model>)] = &[
    ("GET", "/api/v1/vmm.ping", None),
    ("GET", "/api/v1/vm.info", None),
    ("PUT", "/api/v1/vm.power-button", None),
    ("PUT", "/api/v1/vm.shutdown", None),
    ("PUT", "/api/v1/vmm.shutdown", None),
];
const FIRECRACKER: &[(&str, &str, Option<Model>)] =
    &[("GET", "/", None), ("GET", "/version", None), ("PUT", "/actions", Some(INSTANCE_ACTION_INFO))];

fn check(model: Model, body: &Value) -> Result<(), String> {
    let fields = body.as_object().ok_or("it is no object")?;
    if let Some(unknown) = fields.keys().find(|name| model.iter().all(|(known, ..)| known != name)) {
        return Err(format!("unknown field {unknown}"));
    }
    for (name, is, is_required) in model {
        match (fields.get(*name), is) {
            (None, _) if !is_required => {}
            (Some(Value::String(_)), Is::Text) | (Some(Value::Bool(_)), Is::Flag) => {}
            (Some(Value::Number(number)), Is::Number) if number.is_u64() => {}
            (Some(Value::String(text)), Is::OneOf(these)) if these.contains(&text.as_str()) => {}
            (found, _) => return Err(format!("field {name} is {found:?}")),
        }
    }
    Ok(())
}

/// What it was told as it started.
struct Told {
    api: PathBuf,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    append: String,
    disks: Vec<PathBuf>,
    calls: &'static [(&'static str, &'static str, Option<Model>)],
}

/// This very test program is also the VMM; without words there is nothing to run.
#[test]
fn a_vmm() {
    let mut words = std::env::args().skip_while(|word| word != "--").skip(1);
    let told = match words.next().as_deref() {
        Some("cloud-hypervisor") => as_cloud_hypervisor(words),
        Some("firecracker") => as_firecracker(words),
        _ => return,
    };
    let code = match told.and_then(|told| run(&told)) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("the VMM refuses: {why}");
            1
        }
    };
    std::process::exit(code);
}

fn as_cloud_hypervisor(words: impl Iterator<Item = String>) -> Result<Told, String> {
    let words: Vec<String> = words.collect();
    let mut given: Vec<(&str, Vec<&str>)> = Vec::new();
    for word in &words {
        // What begins so in the kernel's command line is a value.
        let lacks_value = given.last().is_some_and(|(_, values)| values.is_empty());
        match (word.strip_prefix("--").filter(|_| !lacks_value), given.last_mut()) {
            (Some(option), _) => given.push((option, Vec::new())),
            (None, Some((_, values))) => values.push(word),
            (None, None) => return Err(format!("{word} belongs to no option")),
        }
    }
    let mut told = Told {
        api: PathBuf::new(),
        kernel: PathBuf::new(),
        initrd: None,
        append: String::new(),
        disks: Vec::new(),
        calls: CLOUD_HYPERVISOR,
    };
    for (option, values) in given {
        let one = || match values[..] {
            [value] => Ok(value),
            _ => Err(format!("--{option} takes one value and has {values:?}")),
        };
        match option {
            "api-socket" => told.api = one()?.strip_prefix("path=").ok_or("--api-socket has no path")?.into(),
            "kernel" => told.kernel = one()?.into(),
            "initramfs" => told.initrd = Some(one()?.into()),
            "cmdline" => told.append = one()?.to_owned(),
            "cpus" => drop(keys(one()?, &["boot"])?),
            "memory" => {
                let keys = keys(one()?, &["size", "shared"])?;
                if !keys.contains(&("shared", "on")) {
                    return Err("vhost-user needs shared memory".to_owned());
                }
            }
            "disk" => {
                for disk in &values {
                    let keys = keys(disk, &["vhost_user", "socket", "num_queues"])?;
                    let of = |name| keys.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
                    if of("vhost_user") != Some("on") {
                        return Err(format!("the disk {disk} has neither a path nor vhost_user=on"));
                    }
                    told.disks.push(of("socket").ok_or("a vhost-user disk has a socket")?.into());
                }
            }
            "serial" | "console" if ["off", "null", "tty"].contains(&one()?) => {}
            _ => return Err(format!("unknown option --{option} {values:?}")),
        }
    }
    Ok(told)
}

/// `a=b,c=d`, if all that is required is there and nothing else.
fn keys<'a>(value: &'a str, known: &[&str]) -> Result<Vec<(&'a str, &'a str)>, String> {
    let pairs = value.split(',').map(|pair| pair.split_once('=').ok_or(format!("{pair} is no key=value")));
    let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
    let is_known = |(key, _): &(&str, &str)| known.contains(key);
    match pairs.iter().all(is_known) && pairs.len() == known.len() {
        true => Ok(pairs),
        false => Err(format!("{value} should have {known:?}")),
    }
}

fn as_firecracker(words: impl Iterator<Item = String>) -> Result<Told, String> {
    let words: Vec<String> = words.collect();
    let [api_word, api, config_word, config] = &words[..] else { return Err(format!("words {words:?}")) };
    if api_word != "--api-sock" || config_word != "--config-file" {
        return Err(format!("words {words:?}"));
    }
    let text = std::fs::read_to_string(config).map_err(|error| format!("{config}: {error}"))?;
    let said: Value = serde_json::from_str(&text).map_err(|error| format!("{config}: {error}"))?;
    let known = ["boot-source", "machine-config", "drives"];
    if said.as_object().is_none_or(|all| all.keys().any(|key| !known.contains(&key.as_str()))) {
        return Err(format!("{config} has other parts than {known:?}"));
    }
    check(BOOT_SOURCE, &said["boot-source"])?;
    check(MACHINE_CONFIGURATION, &said["machine-config"])?;
    let drives = said["drives"].as_array().ok_or("there are no drives")?;
    drives.iter().try_for_each(|drive| check(DRIVE, drive))?;
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    let boot = &said["boot-source"];
    Ok(Told {
        api: api.into(),
        kernel: path(&boot["kernel_image_path"]).expect("it was checked"),
        initrd: path(&boot["initrd_path"]),
        append: boot["boot_args"].as_str().unwrap_or_default().to_owned(),
        disks: drives.iter().filter_map(|drive| path(&drive["socket"])).collect(),
        calls: FIRECRACKER,
    })
}

/// Comes to the disks, listens, and runs the guest until that is off.
fn run(told: &Told) -> Result<(), String> {
    for image in [Some(&told.kernel), told.initrd.as_ref()].into_iter().flatten() {
        std::fs::metadata(image).map_err(|error| format!("{}: {error}", image.display()))?;
    }
    let disk = |socket: &PathBuf| {
        UnixStream::connect(socket).map_err(|error| format!("disk {}: {error}", socket.display()))
    };
    let _disks = told.disks.iter().map(disk).collect::<Result<Vec<_>, _>>()?;
    let listener =
        UnixListener::bind(&told.api).map_err(|error| format!("{}: {error}", told.api.display()))?;
    let script = told.append.split_once(SCRIPT).map_or("", |(_, script)| script);
    let mut guest = Command::new("sh").args(["-c", script]).spawn().map_err(|error| error.to_string())?;
    let pid = rustix::process::Pid::from_child(&guest);
    let button = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let calls = told.calls;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, calls, &button);
        }
    });
    guest.wait().map(drop).map_err(|error| error.to_string())
}

fn answer(stream: UnixStream, calls: &[(&str, &str, Option<Model>)], button: &OwnedFd) {
    let said = heard(&stream).and_then(|(method, path, body)| {
        let call = calls.iter().find(|(m, p, _)| *m == method && *p == path);
        let (.., model) = call.ok_or_else(|| format!("there is no {method} {path}"))?;
        match (model, body.is_empty()) {
            (None, true) => {}
            (Some(model), false) => {
                let body = serde_json::from_str(&body).map_err(|error| error.to_string())?;
                check(model, &body)?;
            }
            (_, _) => return Err(format!("{method} {path} with the body {body:?}")),
        }
        if path.ends_with("power-button") || body.contains("SendCtrlAltDel") {
            // It may be off by now.
            let _ = rustix::process::pidfd_send_signal(button, TERM);
        }
        Ok(())
    });
    let (status, body) = match said {
        Ok(()) => ("204 No Content", String::new()),
        Err(why) => {
            eprintln!("the VMM refuses a call: {why}");
            ("400 Bad Request", serde_json::json!({ "fault_message": why }).to_string())
        }
    };
    let _ = write!(
        &stream,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// A request: its method, its path and its body.
fn heard(stream: &UnixStream) -> Result<(String, String, String), String> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(|error| error.to_string())?;
    let mut parts = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (parts.next(), parts.next()) else {
        return Err(format!("no request: {line}"));
    };
    let mut bytes = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).map_err(|error| error.to_string())?;
        match header.trim().to_ascii_lowercase().split_once(':') {
            None => break,
            Some(("content-length", count)) => bytes = count.trim().parse().map_err(|_| header.clone())?,
            Some(_) => {}
        }
    }
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body).map_err(|error| error.to_string())?;
    Ok((method, path, String::from_utf8_lossy(&body).into_owned()))
}

/// Makes the program by which a driver runs this, as one of the two.
pub fn make(dir: &Path, vmm: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let (program, this) = (dir.join(vmm), std::env::current_exe().unwrap());
    let script = format!(
        "#!/bin/sh\nexec '{}' --exact --nocapture --quiet stand_in::a_vmm -- {vmm} \"$@\"\n",
        this.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}
