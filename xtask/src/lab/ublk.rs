//! `cargo xtask lab ublk`: an agent and its volumes in a guest whose kernel has ublk, for this host's may have none. The
//! guest's script does everything and says what it saw.

use super::seen::Experiment;

/// With a kernel whose devices cannot grow while they are used, and a later one.
pub const UBLK: Experiment = Experiment {
    name: "ublk",
    suites: &["trixie", "trixie-backports"],
    modules: &["ublk_drv", "loop"],
    programs: &[
        ("mke2fs", "e2fsprogs"),
        ("e2fsck", "e2fsprogs"),
        ("fstrim", "util-linux"),
        ("partx", "util-linux"),
    ],
    script: include_str!("ublk.sh"),
    rows: 18,
};
