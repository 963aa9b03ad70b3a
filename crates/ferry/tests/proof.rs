//! The receipt of a move, and volumes that are verified later, asked as people ask.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_agent::jobs::Receipt;
use ferry_api::{JobId, JobState, Ownership, Span, Volume, VolumeCheck, VolumeId, VolumeKey};
use ferry_volume::client::BlockClient;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use support::cluster::{Cluster, Said, Worker};

const MIB: u64 = 1 << 20;

fn key(volume: &Volume) -> VolumeKey {
    VolumeKey { id: volume.id, generation: volume.generation }
}

/// Flips a bit of what a copy holds, behind everybody's back.
fn flip(worker: &Worker, copy: VolumeKey, offset: u64) {
    let path = worker.volume_dir(copy).join("data");
    let data = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    data.read_exact_at(&mut byte, offset).unwrap();
    data.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn a_move_leaves_a_receipt_and_both_copies_can_be_verified_against_it() {
    let cluster = Cluster::two();
    let (home, away) = cluster.pair();
    let words = ["machine", "create", "db", "--volume", "data=16MiB", "--", "sleep", "1000000"];
    let _: serde_json::Value = home.ask(&words);
    let source = home.volume("data");
    let mut guest = BlockClient::connect_text(&source.guest_uri).unwrap();
    guest.write_at(3 * MIB, &vec![7; 2 * MIB as usize]).unwrap();
    guest.flush().unwrap();
    drop(guest);

    let job = home.moves("db", away);
    assert_eq!(job.state, JobState::Succeeded);
    let id = job.id.to_string();
    let receipt: Receipt = home.ask(&["job", "receipt", &id]);
    let proof = receipt.volumes[0].proof.clone().unwrap();
    let root = proof.agreed_root().unwrap().to_owned();
    assert_eq!((proof.bytes_arrived, proof.bytes_zero), (2 * MIB, 14 * MIB), "{proof:?}");
    let told = home.ferry(&["job", "receipt", &id]).stdout;
    assert!(told.contains(&format!("{root} on both sides")), "{told}");
    assert!(told.contains("as asked, by signal 15") && told.contains("by the source's clock"), "{told}");
    let document: serde_json::Value = home.ask(&["job", "receipt", &id]);
    assert_eq!((&document["job"], &document["to"]), (&id.as_str().into(), &"w2".into()), "{document:#}");
    assert_eq!(document["stop"], serde_json::json!({ "how": "asked", "code": null, "signal": 15 }));
    let down = &document["interruption"];
    assert!(down["ms_by_source"].is_u64() && down["ms_by_both"].is_i64(), "{document:#}");
    let steps = document["steps"].as_array().unwrap();
    assert_eq!((steps.len(), &steps[3]["step"]), (11, &"Stop".into()), "{document:#}");
    let told = home.ferry(&["job", "show", &id]).stdout;
    assert!(told.contains("the root checksums of both sides agree"), "{told}");

    // The copy that is used: what the machine has written is not judged.
    let target = away.volume("data");
    BlockClient::connect_text(&target.guest_uri).unwrap().write_at(9 * MIB, &[1; 512]).unwrap();
    let check: VolumeCheck = away.ask(&["volume", "verify", "data"]);
    assert_eq!((check.regions_equal, check.regions_changed, check.regions_differing), (15, 1, 0));
    flip(away, key(&target), 4 * MIB + 5);
    let said = away.ferry(&["volume", "verify", "data"]);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(
        said.sentence().contains("1 of 16 regions differ") && said.stdout.contains("4194304+1048576"),
        "{said:?}"
    );

    // The copy that is kept, which nobody serves.
    let retired = home.wait_for_volume("data", "is retired", |volume| {
        matches!(volume.ownership, Ownership::Retired { .. })
    });
    let check: VolumeCheck = home.ask(&["volume", "verify", "data"]);
    assert_eq!((check.regions_equal, check.root.as_deref()), (16, Some(root.as_str())));
    flip(home, key(&retired), 3 * MIB);
    let said = home.ferry(&["volume", "verify", "data", "--json"]);
    assert_eq!(said.code, Some(5), "{said:?}");
    let check: VolumeCheck = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(check.differing, [Span { offset: 3 * MIB, len_bytes: MIB }]);
    assert_eq!(check.root, None);
}

/// A machine `db` on `home` whose volume `data` has some bytes, moved to `away`; the receipt of that as a file.
fn moved_with_a_receipt(cluster: &Cluster) -> (JobId, PathBuf) {
    let (home, away) = cluster.pair();
    let words = ["machine", "create", "db", "--volume", "data=16MiB", "--", "sleep", "1000000"];
    let _: serde_json::Value = home.ask(&words);
    let mut guest = BlockClient::connect_text(&home.volume("data").guest_uri).unwrap();
    guest.write_at(3 * MIB, &vec![7; 2 * MIB as usize]).unwrap();
    guest.flush().unwrap();
    let job = home.moves("db", away).id;
    let receipt = cluster.dir().join("receipt");
    let said = home.ferry(&["job", "receipt", &job.to_string(), "--json"]);
    std::fs::write(&receipt, said.stdout).unwrap();
    (job, receipt)
}

fn verify(worker: &Worker, receipt: &str) -> Said {
    worker.ferry(&["volume", "verify", "data", "--receipt", receipt])
}

#[test]
fn either_copy_is_held_against_the_receipt_of_the_move_it_came_or_left_by() {
    let cluster = Cluster::two();
    let (home, away) = cluster.pair();
    let (job, receipt) = moved_with_a_receipt(&cluster);
    let file = receipt.to_str().unwrap();

    let target = away.volume("data");
    BlockClient::connect_text(&target.guest_uri).unwrap().write_at(9 * MIB, &[1; 512]).unwrap();
    let said = verify(away, file);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("1 of 16 regions by the machine since"), "{said:?}");
    assert!(said.stdout.contains("vouches for what arrived"), "{said:?}");
    let checked: serde_json::Value = away.ask(&["volume", "verify", "data", "--receipt", file]);
    assert_eq!(
        (&checked["receipt"], &checked["regions_equal"]),
        (&"agrees".into(), &15.into()),
        "{checked:#}"
    );
    let said = verify(home, &job.to_string());
    assert_eq!(said.code, Some(0), "{said:?}");

    // A document of something else, as one that was changed would be.
    let document = std::fs::read_to_string(&receipt).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&document).unwrap();
    let root = parsed["volumes"][0]["proof"]["root_on_source"].as_str().unwrap();
    let changed = cluster.dir().join("changed");
    std::fs::write(&changed, document.replace(root, &"0".repeat(root.len()))).unwrap();
    for worker in [home, away] {
        let said = verify(worker, changed.to_str().unwrap());
        assert_eq!(said.code, Some(5), "{said:?}");
        assert!(said.sentence().contains(&format!("its root is {root}")), "{said:?}");
    }
    // What lies on the disk is held against it, too.
    flip(away, key(&target), 4 * MIB + 5);
    let said = verify(away, file);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.sentence().contains("1 of 16 regions differ"), "{said:?}");

    // It speaks of what arrived, also when the volume has grown since.
    flip(away, key(&target), 4 * MIB + 5);
    let _: Volume = away.ask(&["volume", "grow", "data", "24MiB"]);
    let said = verify(away, file);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn a_receipt_that_says_nothing_of_a_copy_is_refused() {
    let cluster = Cluster::two();
    let (home, away) = cluster.pair();
    let (job, receipt) = moved_with_a_receipt(&cluster);
    let file = receipt.to_str().unwrap();
    let document = std::fs::read_to_string(&receipt).unwrap();
    let changed = cluster.dir().join("changed");
    let refusal_of = |text: &str| {
        std::fs::write(&changed, text).unwrap();
        away.refusal(&["volume", "verify", "data", "--receipt", changed.to_str().unwrap()], 1)
    };
    let refusal = refusal_of(&document.replacen("\"version\": 1", "\"version\": 2", 1));
    assert!(refusal.contains("use a later ferry"), "{refusal}");
    let refusal = refusal_of("{ \"volumes\": []");
    assert!(refusal.contains("no receipt of a move"), "{refusal}");
    let other = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<VolumeId>().unwrap();
    let id = away.volume("data").id.to_string();
    let refusal = refusal_of(&document.replace(&id, &other.to_string()));
    assert!(refusal.contains("is not about volume data"), "{refusal}");
    let asked = ["volume", "verify", "data", "--receipt"];
    let refusal = away.refusal(&[&asked[..], &["no-such-file"]].concat(), 1);
    assert!(refusal.contains("cannot read no-such-file"), "{refusal}");

    // Back again: what arrived was sealed since, and here is another generation.
    away.moves("db", home);
    let refusal = away.refusal(&[&asked[..], &[file]].concat(), 1);
    assert!(refusal.contains("was sealed since it arrived"), "{refusal}");
    let refusal = home.refusal(&[&asked[..], &[file]].concat(), 1);
    assert!(refusal.contains("here is generation 3"), "{refusal}");

    // How the machine stopped is in the journal, whatever became of the machine.
    let _: serde_json::Value = home.ask(&["machine", "destroy", "db", "--stop"]);
    let again: serde_json::Value = home.ask(&["job", "receipt", &job.to_string()]);
    assert_eq!(again["stop"], serde_json::json!({ "how": "asked", "code": null, "signal": 15 }));
}
