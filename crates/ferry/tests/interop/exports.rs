//! What other workers read: a sealed volume over TCP, seen by foreign clients, and cloned by another of our servers.

use super::assert_reads_as;
use super::support::image;
use super::support::peers::path_text;
use super::support::volume::{MIB, Volume};
use super::support::{NBDCOPY, NBDINFO, QEMU_IO, needs, qemu_io, run, succeed, text};
use ferry_volume::control::Phase;
use std::path::Path;

const SIZE_BYTES: u64 = 24 * MIB;

/// A volume that holds `dir/image`, sealed and exported; and where, without the name.
fn sealed(dir: &Path) -> (Volume, String) {
    let image = dir.join("image");
    image::sparse(&image, SIZE_BYTES, 60);
    let home = dir.join("home");
    std::fs::create_dir(&home).unwrap();
    let volume = Volume::start(&home, SIZE_BYTES, None);
    succeed("nbdcopy", &["--flush", path_text(&image), &volume.uri()]);
    volume.control().seal().unwrap();
    let listen = volume.control().export("127.0.0.1:0".parse().unwrap()).unwrap();
    (volume, format!("nbd://{listen}"))
}

fn export_of(volume: &Volume, address: &str) -> String {
    let status = volume.status();
    format!("{address}/{}@{}", status.id, status.generation)
}

#[test]
fn a_sealed_volume_is_read_over_tcp_and_never_written() {
    needs!(NBDINFO, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let (volume, address) = sealed(dir.path());
    let uri = export_of(&volume, &address);
    let info: serde_json::Value = serde_json::from_str(&succeed("nbdinfo", &["--json", &uri])).unwrap();
    assert_eq!(info["exports"][0]["is_read_only"], true, "{info}");
    assert_eq!(info["exports"][0]["can_multi_conn"], true, "{info}");
    assert_reads_as(&dir.path().join("image"), &uri, dir.path(), "copy");
    for uri in [&uri, &volume.uri()] {
        let refused = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", uri]);
        assert!(text(&refused).contains("Permission denied"), "{}", text(&refused));
    }
    assert_reads_as(&dir.path().join("image"), &volume.uri(), dir.path(), "copy of the guest's");
}

#[test]
fn a_reader_of_another_generation_cannot_even_open_the_export() {
    needs!(NBDINFO, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let (volume, address) = sealed(dir.path());
    let id = volume.status().id;
    for name in [format!("{id}@0"), format!("{id}@2"), id, String::new(), "@1".to_owned()] {
        let refused = run("nbdinfo", &["--size", &format!("{address}/{name}")]);
        assert!(!refused.status.success(), "{name:?} was opened: {}", text(&refused));
    }
    succeed("nbdinfo", &["--size", &export_of(&volume, &address)]);
}

#[test]
fn an_export_that_was_withdrawn_is_gone_and_an_unsealed_volume_is_written_again() {
    needs!(NBDINFO, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let (volume, address) = sealed(dir.path());
    let uri = export_of(&volume, &address);
    volume.control().withdraw().unwrap();
    assert!(!run("nbdinfo", &["--size", &uri]).status.success());
    volume.control().unseal().unwrap();
    qemu_io(&volume.uri(), &["write -P 1 0 4k", "flush", "read -P 1 0 4k"]);
}

#[test]
fn a_seal_and_its_export_outlive_a_kill() {
    needs!(NBDINFO, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let (mut volume, _address) = sealed(dir.path());
    volume.kill();
    volume.serve();
    let status = volume.status();
    assert_eq!(status.phase, Phase::Sealed);
    // On the same port if nobody has taken it; the status tells.
    let uri = export_of(&volume, &format!("nbd://{}", status.export.unwrap()));
    assert_reads_as(&dir.path().join("image"), &uri, dir.path(), "copy");
}

#[test]
fn a_clone_checks_every_byte_that_it_gets_from_a_sealed_volume() {
    needs!(NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let (home, address) = sealed(dir.path());
    let clone = Volume::start(dir.path(), SIZE_BYTES, Some(&export_of(&home, &address)));
    let hydration = clone.wait_hydrated().hydration;
    assert!(hydration.bytes_fetched > 0, "{hydration:?}");
    assert!(hydration.bytes_verified >= hydration.bytes_fetched, "{hydration:?}");
    drop(home);
    assert_reads_as(&dir.path().join("image"), &clone.uri(), dir.path(), "copy of the clone");
}
