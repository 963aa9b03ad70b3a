//! What this worker has of QEMU, found by running it.
//!
//! That there is a `/dev/kvm` proves nothing: where KVM runs on a kernel that is a guest itself, it may interpret a guest's
//! instructions one by one, or break off. So a guest is run on it, which counts as far as any real KVM counts in a moment.

use super::words::Accel;
use crate::drivers::DriverError;
use crate::drivers::process::find_program;
use ferry_api::VmModels;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// The program.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";
/// What it comes with.
const PACKAGE: &str = "qemu-system-x86";
/// The earliest version that knows all that it is told here (`reconnect-ms`).
const VERSION_MIN: (u32, u32) = (9, 2);
/// How long QEMU may take to say its version, or what it knows.
const VERSION_MAX: Duration = Duration::from_secs(10);
/// How long a guest may take to count, with the time that QEMU and the firmware take before.
const COUNTING_MAX: Duration = Duration::from_secs(20);
/// So many times as long as a guest that QEMU translates may one take that the processor runs. Where KVM works it is done long
/// before the other; where it interprets it takes minutes. Both run at once, so a busy host makes both slow.
const TIMES_MAX: u32 = 5;
/// What QEMU exits with when the guest has counted to the end: twice what it says, and 1 (QEMU, hw/misc/debugexit.c).
const COUNTED: i32 = 0x10 * 2 + 1;

/// Where a guest's program is put in its memory (any place above the first MiB does).
const LOADED_AT: u32 = 0x10_0000;
/// The header by which a loader knows a program, and asks it to be copied and entered as this says (Multiboot 0.6.96, 3.1).
const MAGIC: u32 = 0x1bad_b002;
const ADDRESSES_FOLLOW: u32 = 1 << 16;
const HEADER_BYTES: u32 = 32;
/// How far the guest counts.
const COUNT: u32 = 1 << 28;

/// Finds a QEMU that knows what it is told here.
///
/// # Errors
/// It is not there, or too old.
pub(super) async fn qemu() -> Result<PathBuf, DriverError> {
    let program = find()?;
    let said = version(&program).await?;
    let version = said.split_whitespace().skip_while(|word| *word != "version").nth(1).unwrap_or_default();
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= VERSION_MIN => Ok(program),
        (_, _) => Err(DriverError::TooOld {
            program: PROGRAM,
            found: said,
            needed: format!("{}.{}", VERSION_MIN.0, VERSION_MIN.1),
        }),
    }
}

/// What a QEMU says that it is.
///
/// # Errors
/// It cannot be run.
pub(super) async fn version(program: &Path) -> Result<String, DriverError> {
    let failed = |cause| DriverError::Io { doing: format!("run {}", program.display()), cause };
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let said = timeout(VERSION_MAX, said).await.map_err(|late| failed(late.into()))?.map_err(failed)?;
    Ok(String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().to_owned())
}

/// What VMs a QEMU can be told to be; none if it does not tell.
pub(super) async fn models(program: &Path) -> Option<VmModels> {
    let told = |what: &'static str| async move {
        let said =
            Command::new(program).args([what, "help"]).stdin(Stdio::null()).kill_on_drop(true).output();
        let said = timeout(VERSION_MAX, said).await.ok()?.ok()?;
        Some(names(&String::from_utf8_lossy(&said.stdout))).filter(|names| !names.is_empty())
    };
    let (machines, cpus) = tokio::join!(told("-machine"), told("-cpu"));
    Some(VmModels { machines: machines?, cpus: cpus? })
}

/// The first words below a headline, up to an empty line.
fn names(help: &str) -> Vec<String> {
    let lines = help.lines().skip(1).take_while(|line| !line.trim().is_empty());
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Where QEMU is, whatever it is.
pub(super) fn find() -> Result<PathBuf, DriverError> {
    find_program(PROGRAM).map_err(|_| DriverError::NoTool { tool: PROGRAM, package: PACKAGE })
}

/// Says in a few words why KVM is of no use here, if it is not.
pub(super) async fn kvm(qemu: &Path) -> Result<(), String> {
    let translated = async {
        let begun = Instant::now();
        match counts(qemu, &Accel::Tcg.words(), COUNTING_MAX).await {
            Ok(()) => sleep(begun.elapsed() * (TIMES_MAX - 1)).await,
            Err(_) => std::future::pending().await,
        }
    };
    let words = Accel::Kvm.words();
    tokio::select! {
        counted = counts(qemu, &words, COUNTING_MAX) => counted,
        () = translated => Err(format!("a guest counts more than {TIMES_MAX} times as fast without it")),
    }
}

/// Runs a guest with these words, which choose how instructions are run, for at most so long. Says in a few words why that is of no use, if it
/// is.
async fn counts(qemu: &Path, how: &[&str], at_most: Duration) -> Result<(), String> {
    let image = tempfile::NamedTempFile::new().map_err(|e| format!("a guest cannot be made: {e}"))?;
    std::fs::write(image.path(), guest()).map_err(|e| format!("a guest cannot be made: {e}"))?;
    let ended = Command::new(qemu)
        .args(["-machine", "q35", "-m", "32", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(how)
        .arg("-kernel")
        .arg(image.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(at_most, ended).await {
        Err(_) => Err(format!("a guest that counts is not done after {} s", at_most.as_secs())),
        Ok(Err(cause)) => Err(format!("QEMU cannot be run: {cause}")),
        Ok(Ok(ended)) if ended.status.code() == Some(COUNTED) => Ok(()),
        Ok(Ok(ended)) => {
            let said = String::from_utf8_lossy(&ended.stderr);
            Err(format!("QEMU ended with {}: {}", ended.status, said.lines().next().unwrap_or_default()))
        }
    }
}

/// A guest that counts, and says when it has.
fn guest() -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESSES_FOLLOW);
    let entry = LOADED_AT + HEADER_BYTES;
    let header = [MAGIC, ADDRESSES_FOLLOW, checksum, LOADED_AT, LOADED_AT, 0, 0, entry];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.push(0xb9); // mov ecx, COUNT
    bytes.extend(COUNT.to_le_bytes());
    bytes.extend([0x49, 0x75, 0xfd]); // again: dec ecx; jnz again
    bytes.extend([0xb0, 0x10, 0xe6, 0xf4]); // mov al, 0x10; out 0xf4, al
    bytes.push(0xf4); // hlt
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A starved host may take long to translate.
    const PATIENCE: Duration = Duration::from_secs(300);

    #[test]
    fn what_a_qemu_knows_is_read_by_its_names() {
        let machines = "Supported machines are:\nmicrovm              microvm (i386)\nq35   Standard PC (alias of pc-q35-10.0)\n";
        assert_eq!(names(machines), ["microvm", "q35"]);
        let cpus = "Available CPUs:\n  486                   (alias configured by machine type)\n  max\n\nRecognized CPUID flags:\n  3dnow\n";
        assert_eq!(names(cpus), ["486", "max"]);
        assert_eq!(names(""), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_guest_counts_where_instructions_are_translated_and_a_qemu_that_fails_is_quoted() {
        let Ok(qemu) = qemu().await else {
            assert!(std::env::var_os("CI").is_none(), "{PROGRAM} is needed; in CI a skip is a failure");
            // The test runner captures only what the print macros write.
            let mut out = std::io::stderr().lock();
            return writeln!(out, "SKIP: needs {PROGRAM} (apt-get install {PACKAGE})").unwrap();
        };
        assert_eq!(counts(&qemu, &["-accel", "tcg", "-cpu", "max"], PATIENCE).await, Ok(()));
        let failed = counts(&qemu, &["-accel", "no-such-thing"], PATIENCE).await.unwrap_err();
        assert!(failed.starts_with("QEMU ended with ") && failed.contains("no-such-thing"), "{failed}");
    }
}
