//! libnbd's programs as clients: `nbdinfo` and `nbdcopy`.

use super::support::image::{self, Dice};
use super::support::peers::path_text;
use super::support::volume::{MIB, Volume};
use super::support::{NBDCOPY, NBDINFO, NBDKIT, QEMU_IO, needs, succeed};
use super::{assert_reads_as, assert_still_hydrating, slow_source};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;

fn json(program: &str, arguments: &[&str]) -> Value {
    let printed = succeed(program, arguments);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{program}: {error}\n{printed}"))
}

/// Data ranges (offset, length) of `nbdinfo --map`, neighbours joined.
fn data_ranges(uri: &str) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for extent in json("nbdinfo", &["--map", "--json", uri]).as_array().unwrap() {
        let (offset, length) = (extent["offset"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
        if extent["type"].as_u64().unwrap() & 0b11 != 0 {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.0 + last.1 == offset => last.1 += length,
            Some(_) | None => ranges.push((offset, length)),
        }
    }
    ranges
}

#[test]
fn nbdinfo_sees_the_size_and_what_the_export_can() {
    needs!(NBDINFO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 64 * MIB, None);
    let info = json("nbdinfo", &["--json", &volume.uri()]);
    assert_eq!(info["protocol"], "newstyle-fixed", "{info}");
    assert_eq!(info["structured"], true, "{info}");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 64 * MIB, "{export}");
    assert_eq!(export["is_read_only"], false, "{export}");
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df"] {
        assert_eq!(export[can], true, "{can}: {export}");
    }
    let contexts = export["contexts"].as_array().unwrap();
    assert!(contexts.iter().any(|context| context == "base:allocation"), "{export}");
}

#[test]
fn nbdinfo_list_names_an_export_that_nbdinfo_can_open() {
    needs!(NBDINFO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 16 * MIB, None);
    let listed = json("nbdinfo", &["--list", "--json", &volume.uri()]);
    let exports = listed["exports"].as_array().unwrap();
    assert!(!exports.is_empty(), "{listed}");
    for export in exports {
        let name = export["export-name"].as_str().unwrap();
        let uri = volume.uri().replace("///", &format!("///{name}"));
        assert_eq!(succeed("nbdinfo", &["--size", &uri]).trim(), (16 * MIB).to_string());
    }
}

#[test]
fn nbdinfo_map_shows_where_a_sparse_volume_holds_data() {
    needs!(NBDINFO, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 64 * MIB, None);
    assert_eq!(data_ranges(&volume.uri()), []);
    succeed("qemu-io", &["-f", "raw", "-c", "write -P 7 8M 1M", "-c", "flush", &volume.uri()]);
    assert_eq!(data_ranges(&volume.uri()), [(8 * MIB, MIB)]);
    succeed("qemu-io", &["-f", "raw", "-c", "discard 8M 512k", &volume.uri()]);
    assert_eq!(data_ranges(&volume.uri()), [(8 * MIB + MIB / 2, MIB / 2)]);
}

#[test]
fn nbdinfo_map_of_a_clone_never_calls_data_a_hole() {
    needs!(NBDINFO, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::sparse(&image, 32 * MIB, 2);
    let source = slow_source(dir.path(), &image, "8M");
    let volume = Volume::start_slowly(dir.path(), 32 * MIB, &source.uri());
    let while_hydrating = data_ranges(&volume.uri());
    assert_still_hydrating(&volume);
    let bytes = std::fs::read(&image).unwrap();
    for (at, block) in bytes.chunks(512).enumerate() {
        let at = at as u64 * 512;
        let in_data = while_hydrating.iter().any(|(from, len)| (*from..from + len).contains(&at));
        assert!(in_data || block.iter().all(|byte| *byte == 0), "data at {at} is shown as a hole");
    }
}

#[test]
fn nbdcopy_reads_back_what_nbdcopy_wrote() {
    needs!(NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::sparse(&image, 48 * MIB, 3);
    let volume = Volume::start(dir.path(), 48 * MIB, None);
    succeed("nbdcopy", &["--flush", path_text(&image), &volume.uri()]);
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}

#[test]
fn nbdcopy_with_one_connection_and_one_request_in_flight_gets_the_same_bytes() {
    needs!(NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::sparse(&image, 8 * MIB, 4);
    let volume = Volume::start(dir.path(), 8 * MIB, None);
    succeed("nbdcopy", &["--synchronous", path_text(&image), &volume.uri()]);
    let copy = dir.path().join("copy");
    succeed("nbdcopy", &["--no-extents", "--connections=1", &volume.uri(), path_text(&copy)]);
    image::assert_same(&image, &copy);
}

#[test]
fn a_volume_is_whole_for_nbdcopy_from_the_first_moment_of_its_hydration() {
    needs!(NBDCOPY, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::sparse(&image, 32 * MIB, 5);
    let source = slow_source(dir.path(), &image, "64M");
    let volume = Volume::start_slowly(dir.path(), 32 * MIB, &source.uri());
    assert_still_hydrating(&volume);
    volume.let_go();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy while hydrating");
    volume.wait_hydrated();
    drop(source);
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy from local");
}

#[test]
fn what_nbdcopy_writes_while_the_volume_hydrates_wins_over_the_source() {
    needs!(NBDCOPY, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let (image, written) = (dir.path().join("image"), dir.path().join("written"));
    image::dense(&image, 16 * MIB, 6);
    image::sparse(&written, 16 * MIB, 7);
    let source = slow_source(dir.path(), &image, "32M");
    let volume = Volume::start_slowly(dir.path(), 16 * MIB, &source.uri());
    assert_still_hydrating(&volume);
    volume.let_go();
    succeed("nbdcopy", &["--flush", path_text(&written), &volume.uri()]);
    volume.wait_hydrated();
    assert_reads_as(&written, &volume.uri(), dir.path(), "copy");
}

#[test]
fn a_size_that_ends_inside_a_block_is_served_to_the_last_sector() {
    needs!(NBDCOPY, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let size_bytes = 5 * MIB + 3 * 512;
    image::dense(&image, size_bytes, 8);
    let source = slow_source(dir.path(), &image, "100M");
    let volume = Volume::start(dir.path(), size_bytes, Some(&source.uri()));
    // The last sectors of the last, short block: written by the guest while the rest of it is remote.
    let patch = Dice::new(9).bytes(512);
    File::options().write(true).open(&image).unwrap().write_all_at(&patch, size_bytes - 512).unwrap();
    let sector = dir.path().join("sector");
    std::fs::write(&sector, &patch).unwrap();
    succeed(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            &format!("write -s {} {} 512", path_text(&sector), size_bytes - 512),
            &volume.uri(),
        ],
    );
    volume.wait_hydrated();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}
