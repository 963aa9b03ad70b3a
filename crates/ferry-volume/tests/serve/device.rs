//! Volumes on a block device: a loop device on a file of the test's.

use super::{A, B, MIB, Volume, pattern, read, stores_are_direct};
use ferry_volume::control::Phase;
use ferry_volume::{CreateOptions, IoBackend, REGION_BYTES_DEFAULT, SourceUri, create};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE_BYTES: u64 = 24 * MIB + 512;
const DEVICE_BYTES: u64 = 32 * MIB;
const GARBAGE: u8 = 0xEE;

/// A loop device whose file is full of garbage.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    /// None, loudly, where this host gives us none.
    #[expect(clippy::print_stderr, reason = "who runs the tests is told what was not tested")]
    fn on_garbage(dir: &Path) -> Option<Self> {
        let file = dir.join("disk");
        std::fs::write(&file, vec![GARBAGE; DEVICE_BYTES as usize]).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        let why = match made {
            Ok(made) if made.status.success() => {
                let device = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
                return Some(Self { device, file });
            }
            Ok(made) => String::from_utf8_lossy(&made.stderr).into_owned(),
            Err(e) => e.to_string(),
        };
        assert!(std::env::var_os("CI").is_none(), "no loop device: {why}");
        eprintln!("SKIPPED: no loop device: {why}");
        None
    }

    fn volume(&self, dir: PathBuf, source: Option<SourceUri>) -> Volume {
        create(&self.options(dir.clone(), SIZE_BYTES, source)).unwrap();
        let mut volume = Volume { dir, io: IoBackend::Auto, server: None };
        volume.start();
        volume
    }

    fn options(&self, dir: PathBuf, size_bytes: u64, source: Option<SourceUri>) -> CreateOptions {
        CreateOptions {
            dir,
            id: B.to_owned(),
            size_bytes,
            region_bytes: REGION_BYTES_DEFAULT,
            generation: 1,
            phase: Phase::Open,
            source,
            born_from: None,
            base: None,
            device: Some(self.device.clone()),
            direct: stores_are_direct(),
        }
    }

    fn occupied_bytes(&self) -> u64 {
        File::open(&self.device).unwrap().sync_all().unwrap();
        self.file.metadata().unwrap().blocks() * 512
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// A raw image that is away for a while.
struct Away<'a> {
    path: &'a Path,
    meanwhile: PathBuf,
}

impl<'a> Away<'a> {
    fn take(source: &'a SourceUri) -> Self {
        let SourceUri::File(path) = source else { unreachable!("it is a file") };
        let meanwhile = path.with_extension("away");
        std::fs::rename(path, &meanwhile).unwrap();
        Self { path, meanwhile }
    }

    fn bring_back(self) {
        std::fs::rename(&self.meanwhile, self.path).unwrap();
    }
}

/// A raw image with two stretches of data, and what it holds.
fn image(dir: &Path) -> (SourceUri, Vec<u8>) {
    let mut bytes = vec![0; SIZE_BYTES as usize];
    for (at, len, seed) in [(3 * MIB + 4096, 2 * MIB, 5), (SIZE_BYTES - 9000, 9000, 6)] {
        bytes[at as usize..(at + len) as usize].copy_from_slice(&pattern(seed, len as usize));
    }
    let path = dir.join("image");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    file.write_all_at(&bytes[3 << 20..6 << 20], 3 * MIB).unwrap();
    file.write_all_at(&bytes[(SIZE_BYTES - 9000) as usize..], SIZE_BYTES - 9000).unwrap();
    (SourceUri::File(path), bytes)
}

#[test]
fn a_clone_on_a_device_full_of_garbage_is_what_its_source_is_and_stays_sparse() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = Loop::on_garbage(tmp.path()) else { return };
    let (source, mut oracle) = image(tmp.path());
    let mut volume = disk.volume(tmp.path().join(B), Some(source));
    let mut guest = volume.guest();
    guest.write_at(10 * MIB + 100, &[9; 1000]).unwrap();
    oracle[(10 << 20) + 100..(10 << 20) + 1100].fill(9);
    assert_eq!(read(&mut guest, 0, oracle.len()), oracle, "while it hydrates");
    volume.until(|status| status.hydration.complete);
    assert_eq!(read(&mut guest, 0, oracle.len()), oracle, "when it is whole");
    guest.flush().unwrap();
    let occupied = disk.occupied_bytes();
    assert!(occupied < DEVICE_BYTES - SIZE_BYTES + 8 * MIB, "{occupied} bytes of {SIZE_BYTES} are occupied");
    guest.trim(3 * MIB, 2 * MIB).unwrap();
    guest.flush().unwrap();
    assert!(disk.occupied_bytes() <= occupied - MIB, "a trim reaches the device");
    oracle[3 << 20..5 << 20].fill(0);
    volume.stop();
    volume.start();
    assert_eq!(read(&mut volume.guest(), 0, oracle.len()), oracle, "when it was opened again");
    volume.stop();
}

#[test]
fn garbage_that_a_crash_left_on_a_device_where_all_is_still_remote_is_never_read() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = Loop::on_garbage(tmp.path()) else { return };
    let (source, mut oracle) = image(tmp.path());
    let away = Away::take(&source);
    let mut volume = disk.volume(tmp.path().join(B), Some(source.clone()));
    let mut guest = volume.guest();
    guest.write_at(8 * MIB, &[3; 8192]).unwrap();
    guest.flush().unwrap();
    oracle[8 << 20..(8 << 20) + 8192].fill(3);
    volume.stop();
    let torn = OpenOptions::new().write(true).open(&disk.device).unwrap();
    torn.write_all_at(&[GARBAGE; 65536], 7 * MIB).unwrap();
    torn.sync_all().unwrap();
    drop(torn);
    away.bring_back();
    volume.start();
    volume.until(|status| status.hydration.complete);
    assert_eq!(read(&mut volume.guest(), 0, oracle.len()), oracle);
    volume.stop();
}

#[test]
fn an_empty_volume_on_a_device_reads_as_zeroes_and_has_the_device_for_itself() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = Loop::on_garbage(tmp.path()) else { return };
    let mut volume = disk.volume(tmp.path().join(B), None);
    assert!(read(&mut volume.guest(), 0, SIZE_BYTES as usize).iter().all(|&byte| byte == 0));
    let refusal = create(&disk.options(tmp.path().join(A), SIZE_BYTES, None)).unwrap_err().to_string();
    assert!(refusal.contains("something else uses it"), "{refusal}");
    volume.stop();
    let beyond = File::open(&disk.device).unwrap();
    let mut rest = [0; 4096];
    beyond.read_exact_at(&mut rest, DEVICE_BYTES - 4096).unwrap();
    assert_eq!(rest, [GARBAGE; 4096], "what lies beyond the volume is nobody's business");
    let too_large = disk.options(tmp.path().join("C"), DEVICE_BYTES + MIB, None);
    let refusal = create(&too_large).unwrap_err().to_string();
    assert!(refusal.contains("choose or make a larger one"), "{refusal}");
    let file =
        CreateOptions { device: Some(disk.file.clone()), ..disk.options(tmp.path().join("D"), 4096, None) };
    assert!(create(&file).unwrap_err().to_string().contains("no block device"));
}

#[test]
fn a_volume_grows_on_its_device_to_the_last_byte_and_no_garbage_is_read_there() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = Loop::on_garbage(tmp.path()) else { return };
    let mut volume = disk.volume(tmp.path().join(B), None);
    let mut guest = volume.guest();
    guest.write_at(SIZE_BYTES - 100, &[7; 100]).unwrap();
    assert_eq!(volume.control().status().unwrap().store_bytes_allocated, SIZE_BYTES);
    let refusal = volume.control().grow(DEVICE_BYTES + 512).unwrap_err().to_string();
    assert!(refusal.contains(&format!("has {DEVICE_BYTES} bytes; enlarge the device")), "{refusal}");
    let mut oracle = vec![0; SIZE_BYTES as usize];
    oracle[SIZE_BYTES as usize - 100..].fill(7);
    // Within the block, to the middle of another, and to the end.
    for (seed, size_bytes) in (1..).zip([SIZE_BYTES + 512, SIZE_BYTES + MIB + 1024, DEVICE_BYTES]) {
        volume.control().grow(size_bytes).unwrap();
        oracle.resize(size_bytes as usize, 0);
        let mut guest = volume.guest();
        assert_eq!(read(&mut guest, 0, oracle.len()), oracle, "at {size_bytes} bytes");
        let end = pattern(seed, 300);
        guest.write_at(size_bytes - 300, &end).unwrap();
        oracle[size_bytes as usize - 300..].copy_from_slice(&end);
        guest.flush().unwrap();
    }
    let refusal = volume.control().grow(SIZE_BYTES).unwrap_err().to_string();
    assert!(refusal.contains("never shrinks"), "{refusal}");
    volume.stop();
    // As a crash between map and description leaves it.
    let description = volume.dir.join("volume.json");
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, text.replace(&DEVICE_BYTES.to_string(), &SIZE_BYTES.to_string())).unwrap();
    volume.start();
    assert_eq!(read(&mut volume.guest(), 0, oracle.len()), oracle, "when it was opened again");
    volume.stop();
}

#[test]
fn a_clone_on_a_device_grows_beyond_its_source_while_all_is_still_remote() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(disk) = Loop::on_garbage(tmp.path()) else { return };
    let (source, mut oracle) = image(tmp.path());
    let away = Away::take(&source);
    let mut volume = disk.volume(tmp.path().join(B), Some(source.clone()));
    volume.control().grow(DEVICE_BYTES).unwrap();
    oracle.resize(DEVICE_BYTES as usize, 0);
    away.bring_back();
    volume.stop();
    volume.start();
    volume.until(|status| status.hydration.complete);
    assert_eq!(read(&mut volume.guest(), 0, oracle.len()), oracle);
    volume.stop();
}
