//! What udev is told of the block devices of volumes: that they are none of the host's business. It does not look for file systems, RAID
//! or LVM on them then, and so nothing activates or mounts what is a machine's.
//!
//! The rule lies in `/run`, so it is gone when the host boots. It is the same for all agents of a host, and stays when one ends, since
//! machines do.

use std::io;
use std::path::Path;

/// Where udev keeps what holds until the host boots.
const RUN: &str = "/run/udev";
/// There while a udev runs.
const CONTROL: &str = "control";
const RULES: &str = "rules.d";
/// Before those that look into devices (`60-persistent-storage.rules`), which heed the flag; so do LVM's and RAID's, which go by what these
/// have found.
const NAME: &str = "59-ferry.rules";
const RULE: &str = r#"# Written by the agent of Ferry: volumes of machines are none of the host's business.
ACTION!="remove", SUBSYSTEM=="block", KERNEL=="ublkb*", ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1", ENV{UDISKS_IGNORE}="1", ENV{SYSTEMD_READY}="0"
ACTION!="remove", SUBSYSTEM=="block", KERNEL=="loop*", ATTR{loop/backing_file}=="*/volumes/*/fuse/*", ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1", ENV{UDISKS_IGNORE}="1", ENV{SYSTEMD_READY}="0"
"#;

/// Tells the udev of this host, if one runs. What cannot be told is said in the log: machines run all the same.
pub(crate) fn tell() {
    match tell_below(Path::new(RUN)) {
        Ok(()) => {}
        // Whoever may not do that can make no devices either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!(%error, "udev is told nothing of volumes");
        }
        Err(error) => tracing::warn!(
            %error,
            "udev cannot be told to leave volumes alone, and this host may look into them; put the rule into /etc/udev/rules.d by hand"
        ),
    }
}

fn tell_below(run: &Path) -> io::Result<()> {
    let (dir, at) = (run.join(RULES), run.join(RULES).join(NAME));
    if !run.join(CONTROL).exists() || std::fs::read_to_string(&at).is_ok_and(|there| there == RULE) {
        return Ok(());
    }
    std::fs::create_dir_all(&dir)?;
    // Whole or not at all: udev reads it whenever it likes.
    let mut file = tempfile::NamedTempFile::new_in(&dir)?;
    io::Write::write_all(&mut file, RULE.as_bytes())?;
    file.persist(at).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_udev_that_runs_is_told_once_and_where_none_runs_nothing_is_left() {
        let run = tempfile::tempdir().unwrap();
        let at = run.path().join(RULES).join(NAME);
        tell_below(run.path()).unwrap();
        assert!(!at.exists());
        std::fs::write(run.path().join(CONTROL), "").unwrap();
        // One of another version is replaced.
        for before in ["", "# another\n"] {
            std::fs::create_dir_all(run.path().join(RULES)).unwrap();
            std::fs::write(&at, before).unwrap();
            tell_below(run.path()).unwrap();
            assert_eq!(std::fs::read_to_string(&at).unwrap(), RULE);
        }
        let left = std::fs::read_dir(run.path().join(RULES)).unwrap().count();
        assert_eq!(left, 1, "nothing else is left there");
    }
}
