//! `cargo xtask lab cgroups`: machines with limits in a guest whose control groups are of version 2, for this host's may be of version
//! 1. The guest's script does everything and says what it saw.

use super::seen::Experiment;

/// With the kernel that `lab vm` has fetched, too. With and without namespaces, and in a container.
pub const CGROUPS: Experiment = Experiment {
    name: "cgroups",
    suites: &["bookworm"],
    modules: &["overlay"],
    programs: &[("runc", "runc")],
    script: include_str!("cgroups.sh"),
    rows: 14,
};
