//! Frontends that cannot be had, and what is remembered of them.

use super::{A, MIB, Volume};
use ferry_volume::directory::VolumeConfig;
use ferry_volume::{Frontend, FrontendKind, probe_ublk};
use std::fs;

const VMM: Frontend = Frontend::VhostUserBlk {};

fn remembered(volume: &Volume) -> Vec<Frontend> {
    VolumeConfig::read(&volume.dir).unwrap().frontends
}

#[test]
fn a_frontend_that_never_ran_is_forgotten_and_one_that_did_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(dir.path().join("v"), A, MIB, 1, None);
    let in_the_way = volume.dir.join("vhost.sock");
    fs::create_dir(&in_the_way).unwrap();
    let refusal = volume.control().attach(&VMM).unwrap_err().to_string();
    assert!(refusal.contains("vhost.sock"), "{refusal}");
    assert_eq!((volume.control().status().unwrap().frontends, remembered(&volume)), (vec![], vec![]));

    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(volume.control().attach(&VMM).unwrap(), in_the_way);
    assert_eq!(remembered(&volume), [VMM]);
    volume.stop();
    fs::create_dir(&in_the_way).unwrap();
    volume.start();
    let failed = loop {
        let status = volume.control().status().unwrap();
        if let Some(reason) = status.frontends[0].error.clone() {
            break reason;
        }
    };
    assert!(failed.contains("vhost.sock"), "{failed}");
    assert_eq!(remembered(&volume), [VMM]);

    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(volume.control().attach(&VMM).unwrap(), in_the_way, "asking again is trying again");
    volume.control().detach(FrontendKind::VhostUserBlk).unwrap();
    assert_eq!((volume.control().status().unwrap().frontends, remembered(&volume)), (vec![], vec![]));
    assert!(!in_the_way.exists());
    volume.stop();
}

#[test]
fn ublk_is_had_exactly_where_the_probe_finds_it() {
    const UBLK: Frontend = Frontend::Ublk {};
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(dir.path().join("v"), A, MIB, 1, None);
    let attached = volume.control().attach(&UBLK).map_err(|refusal| refusal.to_string());
    match (probe_ublk(), attached) {
        (Err(reason), Err(refusal)) => {
            assert!(refusal.contains(&reason), "{refusal}");
            assert_eq!(remembered(&volume), []);
        }
        (Ok(_), Ok(device)) => {
            assert_eq!(remembered(&volume), [UBLK]);
            volume.control().detach(FrontendKind::Ublk).unwrap();
            assert!(!device.exists());
        }
        (probe, attached) => panic!("{probe:?}, but {attached:?}"),
    }
    volume.stop();
}
