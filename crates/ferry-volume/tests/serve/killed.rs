//! What a killed server leaves: nothing that was answered is lost, flushed or not.

use super::*;
use ferry_volume::control::LossPolicy;

/// Whoever reads what is lost hears of it.
const FAIL_AT_ONCE: LossPolicy = LossPolicy::FailAfterMs(NonZeroU64::MIN);

/// A clone whose background is held still from the first, and its source.
fn quiet_clone(dir: &Path) -> (Volume, Volume) {
    let home = Volume::create(dir.join("home"), A, 16 * MIB, 1, None);
    let mut guest = home.guest();
    (0..16).for_each(|at| guest.write_at(at * MIB, &pattern(at as u8, MIB as usize)).unwrap());
    let options = CreateOptions {
        dir: dir.join("away"),
        id: A.to_owned(),
        size_bytes: 16 * MIB,
        region_bytes: REGION_BYTES_DEFAULT,
        generation: 2,
        phase: Phase::Standby,
        source: Some(home.seal_and_export()),
        born_from: None,
        base: None,
        device: None,
        direct: stores_are_direct(),
    };
    create(&options).unwrap();
    let mut clone = Volume { dir: options.dir, io: IoBackend::Auto, server: None };
    clone.start();
    clone.control().pause_hydration().unwrap();
    clone.control().open().unwrap();
    // Before it is there for the first time, it is away.
    clone.until(|status| status.source.as_ref().is_some_and(|source| source.connected));
    clone.control().set_loss_policy(FAIL_AT_ONCE).unwrap();
    (home, clone)
}

/// What the source has from `offset` on.
fn of_source(offset: u64, len: usize) -> Vec<u8> {
    let mib = pattern((offset / MIB) as u8, MIB as usize);
    mib[(offset % MIB) as usize..][..len].to_vec()
}

/// Whole blocks, a part of one, a part of two, and a trim: what is local after that.
fn write_here_and_there(volume: &Volume) -> Vec<(u64, Vec<u8>)> {
    let mut guest = volume.guest();
    let written = [(2 * MIB, 64 << 10), (5 * MIB + 512, 1_000), (7 * MIB + 4_000, 200)];
    let mut expected = Vec::new();
    for (offset, len) in written {
        let bytes = pattern(200, len);
        guest.write_at(offset, &bytes).unwrap();
        expected.push((offset, bytes));
    }
    guest.trim(9 * MIB, 8192).unwrap();
    expected.push((9 * MIB, vec![0; 8192]));
    // What was written in part has the rest from the source.
    let around = [(5 * MIB, 512), (5 * MIB + 1_512, 2_000), (7 * MIB, 4_000)];
    expected.extend(around.map(|(offset, len)| (offset, of_source(offset, len))));
    expected
}

/// What lies in the volume's directory when its server is killed now. Nothing may be under way: the source is away.
fn killed(volume: &Volume, dir: PathBuf) -> Volume {
    copy_files(&volume.dir, &dir);
    Volume { dir, io: IoBackend::Auto, server: None }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn assert_holds(volume: &Volume, expected: &[(u64, Vec<u8>)]) {
    let mut guest = volume.guest();
    for (offset, bytes) in expected {
        let found = read(&mut guest, *offset, bytes.len());
        assert!(found == *bytes, "{} bytes at {offset} are not what they must be", bytes.len());
    }
}

/// What only the source has, beside what was written.
fn beside_it() -> Vec<(u64, Vec<u8>)> {
    let ranges = [(2 * MIB - 4096, 4096), (7 * MIB + 8192, 4096), (9 * MIB + 8192, 4096), (12 * MIB, 4096)];
    ranges.map(|(offset, len)| (offset, of_source(offset, len))).to_vec()
}

#[test]
fn a_killed_server_of_a_clone_loses_nothing_that_was_answered() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, clone) = quiet_clone(tmp.path());
    let expected = write_here_and_there(&clone);
    home.stop();
    let mut after = killed(&clone, tmp.path().join("after"));
    after.start();
    assert_holds(&after, &expected);
    // This one is killed, too, before anybody has flushed.
    let mut later = killed(&after, tmp.path().join("later"));
    later.start();
    assert_holds(&later, &expected);
    home.start();
    later.until(|status| status.hydration.complete);
    assert_holds(&later, &beside_it());
    assert_holds(&later, &expected);
}

#[test]
fn notes_of_another_boot_and_what_they_speak_of_are_gone_and_nothing_else_is() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, clone) = quiet_clone(tmp.path());
    let flushed = write_here_and_there(&clone);
    clone.guest().flush().unwrap();
    clone.guest().write_at(12 * MIB, &pattern(201, 8192)).unwrap();
    home.stop();
    let mut after = killed(&clone, tmp.path().join("after"));
    let path = after.dir.join("unflushed");
    let mut notes = fs::read(&path).unwrap();
    notes[40] ^= 1;
    let checksum = crc32c::crc32c(&notes[..68]);
    notes[68..72].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, notes).unwrap();
    after.start();
    assert!(!path.exists(), "it speaks of a page cache that is gone");
    assert_holds(&after, &flushed);
    home.start();
    after.until(|status| status.hydration.complete);
    assert_holds(&after, &flushed);
    assert_holds(&after, &beside_it());
}

#[test]
fn a_write_that_cannot_be_noted_is_durable_when_it_is_answered() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, clone) = quiet_clone(tmp.path());
    // Where the file of notes is made, something stands in its way.
    fs::create_dir(clone.dir.join("unflushed.new")).unwrap();
    let expected = write_here_and_there(&clone);
    assert!(!clone.dir.join("unflushed").exists());
    home.stop();
    let mut after = killed(&clone, tmp.path().join("after"));
    after.start();
    assert_holds(&after, &expected);
}

#[test]
fn a_volume_that_is_all_there_has_no_notes() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(A), A, 16 * MIB, 1, None);
    write_here_and_there(&volume);
    assert!(!volume.dir.join("unflushed").exists());
}
