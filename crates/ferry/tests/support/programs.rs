//! Programs that stand in for those of another worker.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A QEMU of another version than any that is installed; it knows one kind of machine and one CPU.
const QEMU: &str = "#!/bin/sh
case $1 in
--version) echo 'QEMU emulator version 99.9.0 (a stand-in)';;
-machine) printf 'Supported machines are:\\nq35 Standard PC\\n';;
-cpu) printf 'Available CPUs:\\n  qemu64  QEMU Virtual CPU\\n\\nRecognized CPUID flags:\\n';;
esac
";

/// Puts that QEMU into a directory.
pub fn put_qemu(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let qemu = dir.join("qemu-system-x86_64");
    std::fs::write(&qemu, QEMU).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
}
