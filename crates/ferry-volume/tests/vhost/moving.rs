//! What a VM needs whose memory is moved to another host.

use super::vmm::{DATA, USED};
use super::wait::until;
use super::{
    ID, IO_ERROR, MIB, MODERN, OK, PLAIN, Phase, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_OUT, Vmm, Volume, read,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The pages whose bits are set; the VMM clears them as it looks.
fn pages(log: &File) -> BTreeSet<u64> {
    let mut bytes = vec![0; log.metadata().unwrap().len() as usize];
    log.read_exact_at(&mut bytes, 0).unwrap();
    log.write_all_at(&vec![0; bytes.len()], 0).unwrap();
    (0..8 * bytes.len() as u64).filter(|page| bytes[(page / 8) as usize] >> (page % 8) & 1 == 1).collect()
}

#[test]
fn every_page_of_the_guest_that_the_device_writes_is_in_the_log_while_it_is_kept_and_no_other() {
    for manners in [MODERN, PLAIN] {
        let tmp = tempfile::tempdir().unwrap();
        let volume = Volume::create(tmp.path().join(ID), 1, None);
        let mut vmm = Vmm::boot(&volume.attach(), 2, manners);
        assert_eq!(vmm.queues[1].status(VIRTIO_BLK_T_OUT, 0, &[5; 8192]), OK);
        let log = vmm.share_log();
        vmm.queues[1].read(0, 8192);
        assert_eq!(pages(&log), BTreeSet::new(), "nobody has asked for it");

        vmm.keep_log(true);
        let answer = vmm.queues[1].ask(&read(0, 8192));
        assert_eq!((answer.status, answer.data), (OK, vec![5; 8192]));
        let slot = vmm.queues[1].slot(answer.slot);
        let base = vmm.queues[1].slot(0) - vmm.queues[0].slot(0);
        // The status lies with the request, and the bytes behind it.
        let written = [base + USED, slot, slot + DATA, slot + DATA + 4096].map(|at| at / 4096);
        let noted = pages(&log);
        assert!(noted.is_superset(&BTreeSet::from(written)), "{noted:x?} is not all of {written:x?}");
        // Of the queue that is idle only the word by which the device asks not to be rung.
        let may_be = BTreeSet::from(written).into_iter().chain([USED / 4096]).collect();
        assert!(noted.is_subset(&may_be), "{noted:x?} is more than {may_be:x?}");

        // What the guest writes to its disk changes no memory but the status and the ring.
        assert_eq!(vmm.queues[1].status(VIRTIO_BLK_T_OUT, 0, &[6; 4096]), OK);
        assert!(!pages(&log).contains(&((slot + DATA) / 4096)));
        vmm.keep_log(false);
        // Until then the device had the last word.
        pages(&log);
        vmm.queues[1].read(0, 4096);
        assert_eq!(pages(&log), BTreeSet::new());
    }
}

#[test]
fn a_vm_finds_its_disk_on_a_volume_that_stands_by_and_can_do_nothing_with_it_before_it_is_open() {
    let tmp = tempfile::tempdir().unwrap();
    let there = Volume::create(tmp.path().join("there"), 1, None);
    assert_eq!(Vmm::boot(&there.attach(), 1, MODERN).queues[0].status(VIRTIO_BLK_T_OUT, 8, &[7; 4096]), OK);
    let source = there.seal_and_export();
    let mut here = Volume::create_in(Phase::Standby, tmp.path().join(ID), 2, Some(source));
    let socket = here.attach();
    // Its server may be started again meanwhile.
    here.stop();
    here.start();
    until(|| socket.exists().then_some(()));
    let mut vmm = Vmm::boot(&socket, 1, MODERN);
    assert_eq!(vmm.config(0, 8), 64 * MIB / 512);
    for kind in [VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH] {
        let data: &[u8] = if kind == VIRTIO_BLK_T_OUT { &[1; 512] } else { &[] };
        assert_eq!(vmm.queues[0].status(kind, 0, data), IO_ERROR);
    }
    assert_eq!(vmm.queues[0].ask(&read(8, 4096)).status, IO_ERROR);
    here.control().open().unwrap();
    assert_eq!(vmm.queues[0].read(8, 4096), [7; 4096], "the very same VMM");
    assert_eq!(vmm.queues[0].status(VIRTIO_BLK_T_OUT, 0, &[1; 512]), OK);
}
