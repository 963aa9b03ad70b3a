//! Where a worker keeps what it knows, and its volumes.

use super::super::facts::{Facts, Store, Unwritable};
use super::Finding;
use std::path::Path;

/// Judges the directories of a worker.
pub(super) fn store(facts: &Facts) -> Vec<Finding> {
    let own = can_be_written("state directory", "keeping volumes", &facts.store);
    let Some(volumes) = &facts.volumes else {
        return std::iter::once(own).chain(offers(&facts.store)).collect();
    };
    // Each is needed: without the one nothing can be noted, without the other no machine writes.
    let apart = can_be_written("volumes", "machines that write", volumes);
    [own, apart].into_iter().chain(offers(volumes)).collect()
}

fn can_be_written(what: &'static str, purpose: &'static str, store: &Store) -> Finding {
    let dir = store.dir.display();
    let Err(why) = &store.writable else {
        return Finding::works(what, purpose, format!("{dir} can be written")).required();
    };
    let (seen, advice) = match why {
        Unwritable::ReadOnly => (
            format!("the file system of {dir} is read-only"),
            "see in `dmesg` what happened to its disk, and mend it while it is not mounted; what reads volumes there goes on until \
             then, and where only the volumes are on it their machines can be moved away"
                .to_owned(),
        ),
        Unwritable::Full(None) => (
            format!("the file system of {dir} is full"),
            "make room there, or move machines away (`ferry drain`)".to_owned(),
        ),
        Unwritable::Full(Some(left)) => (
            format!(
                "the file system of {dir} is full, and the agent lives on the {} KiB that it has kept",
                left >> 10
            ),
            "make room there, or move machines away (`ferry drain`)".to_owned(),
        ),
        Unwritable::Other(reason) => (
            format!("nothing can be written in {dir}: {reason}"),
            "run the agent as a user who may write there, or choose another state_dir".to_owned(),
        ),
    };
    Finding::missing(what, purpose, seen, advice).required()
}

/// What the file system of volumes has for them; nobody knows of one that takes nothing.
fn offers(store: &Store) -> Vec<Finding> {
    let dir: &Path = &store.dir;
    let dir = dir.display();
    if store.writable.is_err() {
        return Vec::new();
    }
    let offer = |is_there: bool, what, purpose, (works, lacks): (String, String), advice: &'static str| {
        match is_there {
            true => Finding::works(what, purpose, works),
            false => Finding::missing(what, purpose, lacks, advice),
        }
    };
    let sockets = offer(
        store.sockets_fit,
        "socket paths",
        "reaching a volume",
        ("short enough".to_owned(), format!("sockets below {dir} have too long a path")),
        "choose a shorter state_dir",
    );
    let holes = offer(
        store.punches_holes,
        "holes in files",
        "volumes that stay sparse",
        (format!("{dir} punches them"), format!("the filesystem of {dir} cannot punch them")),
        "put the state_dir on ext4, XFS or btrfs, or let volumes take all the room they may need",
    );
    let direct = offer(
        store.direct_io,
        "direct I/O",
        "volumes past the page cache",
        (format!("{dir} has it"), format!("the filesystem of {dir} refuses it")),
        "nothing needs to be done: volumes go through the page cache; ext4 and XFS have it",
    );
    let reflinks = offer(
        store.reflinks,
        "reflinks",
        "copies of volumes that share blocks",
        (format!("{dir} has them"), format!("the filesystem of {dir} has none")),
        "nothing needs to be done: a fork copies what it needs; XFS and btrfs have them",
    );
    vec![sockets.required(), holes, direct, reflinks]
}
