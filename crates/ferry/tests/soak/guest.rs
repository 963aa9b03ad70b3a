//! A machine that is a database ([`crate::support::sqlite`]) on ext4 on the block device of its volume, mounted in a namespace of its
//! own.

use crate::support::sqlite::{Work, check, commit, live, open};
use std::time::Duration;

/// The machine: `$0` is the diary, `$1` the program, `$2` the test program that has [`database`] in it. It finds its agent
/// by the configuration beside the worker's directory. When it is stopped the database is killed amid whatever it does.
pub const MACHINE: &str = r#"
set -e
export FERRY_AGENT=http://$(sed -n 's/^listen = "\(.*\)"$/\1/p' "$TMPDIR.toml")
device=$("$1" volume attach data)
mkdir -p disk
export FERRY_GUEST_DIARY="$0" FERRY_GUEST_DISK="$PWD/disk"
exec unshare --mount --propagation=private /bin/sh -ec '
    mount -t ext4 "$1" disk
    "$2" --exact --ignored --nocapture guest::database & guest=$!
    trap "kill -KILL $guest" TERM
    wait $guest || wait $guest || :
    umount disk
' sh "$device" "$2"
"#;
/// So that its file does not grow later.
const ROOM_BYTES: i64 = 32 << 20;

/// The database itself: started by the machine above and by nobody else.
#[test]
#[ignore = "the machine of the test of a database that moves"]
fn database() {
    live(&Work { room_bytes: ROOM_BYTES, pause: Duration::ZERO });
}

#[test]
fn a_commit_that_is_gone_or_half_there_is_found() {
    let disk = tempfile::tempdir().unwrap();
    let mut database = open(disk.path(), ROOM_BYTES).unwrap();
    (1..=5).for_each(|id| commit(&mut database, id).unwrap());
    assert_eq!(check(&database, 5).unwrap(), Ok(5));
    assert!(check(&database, 6).unwrap().is_err(), "the last is gone");
    database.execute("UPDATE counters SET commits = 0 WHERE id = 5", []).unwrap();
    assert!(check(&database, 5).unwrap().is_err(), "one is half there");
    database.execute("DELETE FROM commits WHERE id = 3", []).unwrap();
    assert!(check(&database, 5).unwrap().unwrap_err().contains("commit 3"));
}
