//! Moving the memory of a machine that runs: whether it can be, and how it stands.
//!
//! ```text
//!   Here ──send──▶ Leaving ──all but the rest──▶ Paused ──let go──▶ Finishing ──▶ Left
//!    ▲                │ failed, or kept            │ kept (the only way back)      (never continued)
//!    └────────────────┴────────────────────────────┘
//! ```
//!
//! Invariant: nothing lets the rest go before the hand-over is in the journal; until then the machine goes on where it is, with
//! all of its memory. After that it goes on at the target, or is started anew there.

use crate::records::{MachineRecord, Standing};
use ferry_api::{Driver, JobId, LiveFacts, MachineSpec, QemuDisk, WorkerName};
use serde::{Deserialize, Serialize};

/// Passes over the memory after which the machine is paused for longer, so that the rest of it crosses: at first a little longer ...
pub const PASSES_SHORT: u64 = 5;
/// ... and then much.
pub const PASSES_PATIENT: u64 = 20;
/// Passes after which it is given up: the machine writes faster than its memory crosses.
pub const PASSES_MAX: u64 = 60;
/// How long a machine may be paused for the rest of its memory, in milliseconds: most change little of it while little of it crosses.
pub const REST_MS_SHORT: u64 = 50;
/// The same after [`PASSES_SHORT`].
pub const REST_MS: u64 = 300;
/// And after [`PASSES_PATIENT`].
pub const REST_MS_PATIENT: u64 = 2_000;

/// What was copied of a machine's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCopied {
    /// Bytes that were sent.
    pub bytes: u64,
    /// Bytes that are still to be sent, as far as is known.
    pub bytes_left: u64,
    /// How often it was looked through for what has changed.
    pub passes: u64,
}

/// How the memory of a machine stands that runs on a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It is here, and nobody moves it.
    Here,
    /// It is copied while the machine runs.
    Leaving(MemoryCopied),
    /// The machine is paused; the rest of it waits to be let go.
    Paused(MemoryCopied),
    /// The rest of it is on its way.
    Finishing,
    /// It has left. What remains here is never continued.
    Left,
    /// Copying it failed, or was taken back; it is here.
    Failed {
        /// Why, in one sentence.
        why: String,
    },
    /// It is still to arrive.
    Awaited,
}

/// Whether the memory that `job` has handed over left long ago: the machine is no longer where that left it, so it went on elsewhere, and
/// what runs of it here is none of the job's.
#[must_use]
pub fn has_left(here: Option<&MachineRecord>, job: JobId) -> bool {
    !matches!(here.map(|here| &here.standing), Some(Standing::HandedOver { job: by, .. }) if *by == job)
}

/// Why the copying of a machine's memory is given up, if it is.
#[must_use]
pub fn why_given_up(copied: &MemoryCopied) -> Option<String> {
    (copied.passes > PASSES_MAX).then(|| {
        format!(
            "the machine writes to its memory as fast as it crosses: {} bytes are left after {PASSES_MAX} passes; move it \
             --mode warm",
            copied.bytes_left
        )
    })
}

/// How long the machine may be paused for the rest, in milliseconds.
#[must_use]
pub fn rest_ms(copied: &MemoryCopied) -> u64 {
    if copied.passes > PASSES_PATIENT {
        REST_MS_PATIENT
    } else if copied.passes > PASSES_SHORT {
        REST_MS
    } else {
        REST_MS_SHORT
    }
}

/// How far memory was at a time, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// When that was.
    pub at_ms: u64,
    /// How far it was.
    pub copied: MemoryCopied,
}

/// How long it is from now until the machine is paused for the rest of its memory, at the pace since it was first seen, in milliseconds;
/// none: nothing was sent since. What it writes meanwhile makes it longer.
#[must_use]
pub fn paused_in_ms(first: Seen, now: Seen) -> Option<u64> {
    let took_ms = now.at_ms.saturating_sub(first.at_ms);
    let sent = now.copied.bytes.saturating_sub(first.copied.bytes);
    let left_ms = (u128::from(now.copied.bytes_left) * u128::from(took_ms)).checked_div(u128::from(sent))?;
    Some(u64::try_from(left_ms).unwrap_or(u64::MAX).saturating_sub(rest_ms(&now.copied)))
}

/// Why a machine cannot move live to a worker, each in one sentence. `here`: how it runs now, or why that is no matter of
/// memory; `there`: what the target has.
#[must_use]
pub fn against_live(
    spec: &MachineSpec,
    here: &Result<LiveFacts, String>,
    there: Option<&LiveFacts>,
    to: &WorkerName,
) -> Vec<String> {
    let Driver::Qemu(qemu) = &spec.driver else {
        return vec![format!(
            "the memory of a machine of the driver {} cannot be moved; move it --mode warm",
            spec.driver.kind()
        )];
    };
    let here = match here {
        Ok(here) => here,
        Err(why) => return vec![why.clone()],
    };
    let Some(there) = there else {
        return vec![format!("worker {to} takes no machines with their memory; move it --mode warm")];
    };
    let sees_host_cpu =
        here.kvm && qemu.cpu.as_ref().is_none_or(|cpu| ["host", "max"].contains(&cpu.as_str()));
    let checks = [
        (qemu.disk != QemuDisk::VhostUserBlk).then(|| {
            "a VM moves live only with disks by vhost-user-blk, and this one has them by nbd; move it --mode warm".to_owned()
        }),
        (here.program != there.program).then(|| {
            format!(
                "the machine runs on {} and worker {to} has {}; bring both to the same version, or move it --mode warm",
                here.program, there.program
            )
        }),
        (here.kvm && !there.kvm)
            .then(|| format!("the machine runs on KVM, which worker {to} is not known to have; move it --mode warm")),
        (sees_host_cpu && there.kvm && here.cpu != there.cpu).then(|| {
            format!(
                "the machine sees the CPU of its host, and that of worker {to} is another one; name one that both have \
                 (`cpu` in [qemu]), or move it --mode warm"
            )
        }),
        (here.tls != there.tls)
            .then(|| format!("only one of the two workers has `tls`; set it on worker {to} and here alike")),
        (!there.tls && !there.local).then(|| {
            format!(
                "memory would come to worker {to} from whoever connects; set `tls` on both workers, or move it --mode warm"
            )
        }),
    ];
    checks.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::QemuSpec;

    fn facts() -> LiveFacts {
        LiveFacts { program: "QEMU 10.0.2".to_owned(), kvm: false, cpu: None, tls: true, local: false }
    }

    fn against(qemu: QemuSpec, here: LiveFacts, there: Option<LiveFacts>) -> String {
        let spec = MachineSpec { driver: Driver::Qemu(qemu), ..MachineSpec::process("x", ["y"]) };
        against_live(&spec, &Ok(here), there.as_ref(), &"w2".parse().unwrap()).join("\n")
    }

    #[test]
    fn what_has_come_back_since_is_none_of_the_memory_that_a_job_handed_over() {
        let job = JobId::fresh();
        let handed_over = |by| Standing::HandedOver { to: "w2".parse().unwrap(), job: by };
        let here = |standing| has_left(Some(&crate::back::tests::machine(standing, None)), job);
        assert!(!here(handed_over(job)));
        assert!(here(Standing::Ours), "it came back");
        assert!(here(handed_over(JobId::fresh())), "and left again");
        assert!(has_left(None, job), "and was destroyed");
    }

    #[test]
    fn a_vm_moves_live_between_workers_that_are_alike() {
        assert_eq!(against(QemuSpec::default(), facts(), Some(facts())), "");
        let kvm = |cpu: &str| LiveFacts { kvm: true, cpu: Some(cpu.to_owned()), ..facts() };
        assert_eq!(against(QemuSpec::default(), kvm("a"), Some(kvm("a"))), "");
        let named = QemuSpec { cpu: Some("Haswell".parse().unwrap()), ..QemuSpec::default() };
        assert_eq!(against(named, kvm("a"), Some(kvm("b"))), "");
        assert_eq!(
            against(QemuSpec::default(), facts(), Some(kvm("b"))),
            "",
            "without KVM here it has none there"
        );
    }

    #[test]
    fn what_is_not_alike_is_told_in_a_sentence() {
        let kvm = |cpu: &str| LiveFacts { kvm: true, cpu: Some(cpu.to_owned()), ..facts() };
        let newer = LiveFacts { program: "QEMU 10.1.0".to_owned(), ..facts() };
        let open = LiveFacts { tls: false, ..facts() };
        let nbd = QemuSpec { disk: QemuDisk::Nbd, ..QemuSpec::default() };
        let vm = QemuSpec::default;
        assert!(against(vm(), facts(), Some(newer)).contains("and worker w2 has QEMU 10.1.0; bring both"));
        assert!(against(vm(), kvm("a"), Some(kvm("b"))).contains("that of worker w2 is another one"));
        assert!(against(vm(), kvm("a"), Some(facts())).contains("is not known to have"));
        assert!(against(vm(), facts(), Some(open.clone())).contains("only one of the two workers has `tls`"));
        assert!(against(vm(), open.clone(), Some(open.clone())).contains("from whoever connects"));
        let local = LiveFacts { local: true, ..open.clone() };
        assert_eq!(against(vm(), open, Some(local)), "");
        assert!(against(nbd, facts(), Some(facts())).contains("this one has them by nbd"));
        assert!(against(vm(), facts(), None).contains("takes no machines with their memory"));
    }

    #[test]
    fn a_machine_is_paused_when_only_the_rest_is_left_at_the_pace_of_its_memory() {
        let seen =
            |at_ms, bytes, bytes_left| Seen { at_ms, copied: MemoryCopied { bytes, bytes_left, passes: 1 } };
        let first = seen(1_000, 100, 900);
        assert_eq!(paused_in_ms(first, seen(1_500, 600, 400)), Some(400 - REST_MS_SHORT));
        assert_eq!(paused_in_ms(first, seen(1_860, 960, 40)), Some(0));
        assert_eq!(paused_in_ms(first, first), None, "it tells no pace");
    }

    #[test]
    fn memory_that_changes_as_fast_as_it_crosses_gets_more_time_and_is_given_up_at_last() {
        let after = |passes| MemoryCopied { bytes: 1, bytes_left: 7, passes };
        let rests = [0, PASSES_SHORT, PASSES_SHORT + 1, PASSES_PATIENT, PASSES_PATIENT + 1]
            .map(|n| rest_ms(&after(n)));
        assert_eq!(rests, [REST_MS_SHORT, REST_MS_SHORT, REST_MS, REST_MS, REST_MS_PATIENT]);
        assert_eq!(why_given_up(&after(PASSES_MAX)), None);
        assert!(why_given_up(&after(PASSES_MAX + 1)).unwrap().contains("7 bytes are left"));
    }
}
