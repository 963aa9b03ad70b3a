//! Verdicts over what a few workers may tell.

use super::*;
use crate::fence::Fence;
use crate::line::HandedOver;
use crate::records::{MachineRecord, SourceRecord, Standing, VolumeRecord};
use ferry_api::{
    Desired, Evidence, JobId, MachineId, MachineSpec, MachineVolume, OnDisk, VolumeId, VolumeKey, Worth,
};
use std::collections::BTreeMap;

const SIZE: u64 = 1 << 20;
const MACHINE: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCY";

fn w(name: &str) -> WorkerName {
    name.parse().unwrap()
}

fn job() -> JobId {
    "01JD9Z6M4Q5R6S7T8V9WAXBYCZ".parse().unwrap()
}

/// A volume of the world of these tests.
struct One {
    id: VolumeId,
}

impl One {
    fn new() -> Self {
        Self { id: VolumeId::fresh() }
    }

    fn key(&self, generation: u64) -> VolumeKey {
        VolumeKey { id: self.id, generation: Generation(generation) }
    }

    fn record(&self, generation: u64, ownership: Ownership) -> VolumeRecord {
        VolumeRecord {
            id: self.id,
            generation: Generation(generation),
            name: "data".parse().unwrap(),
            machine: None,
            size_bytes: SIZE,
            region_bytes: SIZE as u32,
            ownership,
            source: (generation > 1).then(|| SourceRecord { uri: String::new(), worker: Some(w("w1")) }),
            base: None,
            rests: false,
            made: true,
            bytes_expected: 0,
            store: None,
            direct: false,
            filesystem: None,
            forks: Vec::new(),
            created_at_ms: 7,
        }
    }

    fn directory(&self, generation: u64, phase: VolumePhase, bytes_remote: u64) -> (VolumeKey, OnDisk) {
        (self.key(generation), OnDisk { phase: Some(phase), bytes_total: SIZE, bytes_remote })
    }

    fn judge(&self, told: &[Testimony], silent: &[SilentWorker]) -> SubjectTruth {
        judge(Subject::Volume(self.id), told, silent)
    }

    /// What a worker tells that has one copy, with a directory, and remembers what it handed over.
    fn told(
        &self,
        worker: &str,
        record: &VolumeRecord,
        on_disk: (VolumePhase, u64),
        fence: Option<Fence>,
    ) -> Testimony {
        let disk = OnOneDisk {
            volumes: vec![record],
            directories: BTreeMap::from([self.directory(record.generation.0, on_disk.0, on_disk.1)]),
            fences: fence.map(|fence| (Subject::Volume(self.id), fence)).into_iter().collect(),
            ..OnOneDisk::default()
        };
        testimony(&w(worker), &disk)
    }
}

fn fence(generation: u64, to: &str) -> Fence {
    Fence { generation: Generation(generation), to: w(to), job: job() }
}

fn handed_over() -> Ownership {
    Ownership::HandedOver { to: w("w2"), job: job() }
}

fn silent(worker: &str) -> SilentWorker {
    SilentWorker { worker: w(worker), reason: "it cannot be reached".to_owned() }
}

fn worths(truth: &SubjectTruth) -> Vec<(&str, Worth)> {
    truth.copies.iter().map(|copy| (copy.worker.as_str(), copy.worth.clone())).collect()
}

#[test]
fn a_volume_in_use_is_known_for_sure_whoever_else_is_silent() {
    let one = One::new();
    let told = [one.told("w1", &one.record(1, Ownership::Ours), (VolumePhase::Open, 0), None)];
    let truth = one.judge(&told, &[silent("w2")]);
    let (owner, generation) = (w("w1"), Generation(1));
    assert_eq!(truth.verdict, Verdict::Known { owner, generation, stands: Stands::InUse });
    assert_eq!(truth.by.unwrap().evidence, Evidence::InUse { created_at_ms: 7 });
    assert_eq!((truth.gaps, truth.advice), (vec![], vec![]));
}

#[test]
fn the_deed_in_the_journal_is_what_says_most() {
    let one = One::new();
    let (sealed, arrived) = (one.record(1, handed_over()), one.record(2, Ownership::Ours));
    let memo = HandedOver { to: w("w2"), machine_generation: Generation(2), volumes: vec![one.key(2)] };
    let disk = OnOneDisk {
        volumes: vec![&sealed],
        directories: BTreeMap::from([one.directory(1, VolumePhase::Sealed, 0)]),
        deeds: vec![Deed { job: job(), seq: 14, at_ms: 5, machine: MachineId::fresh(), memo }],
        fences: BTreeMap::from([(Subject::Volume(one.id), fence(1, "w2"))]),
        ..OnOneDisk::default()
    };
    let told = [testimony(&w("w1"), &disk), one.told("w2", &arrived, (VolumePhase::Open, 4096), None)];
    let truth = one.judge(&told, &[]);
    assert!(matches!(&truth.verdict, Verdict::Known { owner, .. } if *owner == w("w2")), "{truth:?}");
    let by = truth.by.as_ref().unwrap();
    assert_eq!((&by.evidence, &by.told_by), (&Evidence::Journal { job: job(), seq: 14, at_ms: 5 }, &w("w1")));
    assert_eq!(worths(&truth), [("w2", Worth::Real), ("w1", Worth::Source { bytes_needed: Some(4096) })]);
    assert_eq!(truth.advice, [format!("keep {} on w1: worker w2 may still need it", one.key(1))]);
}

#[test]
fn a_retired_copy_is_equal_to_the_real_one_at_the_hand_over_and_an_earlier_one_is_older() {
    let one = One::new();
    let retired =
        |generation, to: &str| one.record(generation, Ownership::Retired { to: w(to), until_ms: 9 });
    let told = [
        one.told("w1", &retired(1, "w2"), (VolumePhase::Sealed, 0), Some(fence(1, "w2"))),
        one.told("w2", &retired(2, "w3"), (VolumePhase::Sealed, 0), Some(fence(2, "w3"))),
        one.told("w3", &one.record(3, Ownership::Ours), (VolumePhase::Open, 0), None),
    ];
    let truth = one.judge(&told, &[]);
    assert_eq!(
        worths(&truth),
        [("w3", Worth::Real), ("w2", Worth::Base { until_ms: 9 }), ("w1", Worth::Older)]
    );
    assert_eq!(truth.gaps, [] as [String; 0]);
}

#[test]
fn an_owner_that_is_silent_may_have_handed_it_on() {
    let one = One::new();
    let told =
        [one.told("w1", &one.record(1, handed_over()), (VolumePhase::Sealed, 0), Some(fence(1, "w2")))];
    let truth = one.judge(&told, &[silent("w2")]);
    let Verdict::Likely { owner, generation, why } = &truth.verdict else { panic!("{truth:?}") };
    assert_eq!((owner, *generation), (&w("w2"), Generation(2)));
    assert!(why.contains("it cannot be reached") && why.contains("handed it on since"), "{why}");
    assert!(truth.advice[0].contains("do not start it on any other worker"), "{:?}", truth.advice);
    assert_eq!(worths(&truth), [("w1", Worth::Source { bytes_needed: None })]);
}

#[test]
fn what_was_handed_over_and_not_yet_activated_is_the_owners_and_lies_at_the_source() {
    let one = One::new();
    let prepared = one.record(2, Ownership::Prepared { job: job(), from: w("w1") });
    let told = [
        one.told("w1", &one.record(1, handed_over()), (VolumePhase::Sealed, 0), Some(fence(1, "w2"))),
        one.told("w2", &prepared, (VolumePhase::Standby, SIZE), None),
    ];
    let truth = one.judge(&told, &[]);
    let stands = Stands::OnItsWay { job: job(), from: w("w1") };
    assert_eq!(truth.verdict, Verdict::Known { owner: w("w2"), generation: Generation(2), stands });
    assert!(truth.advice[0].ends_with("do not start it on w1"), "{:?}", truth.advice);
}

#[test]
fn a_clone_for_a_move_that_has_not_handed_over_is_worth_nothing() {
    let one = One::new();
    let from = w("w1");
    let told = [
        one.told("w1", &one.record(1, Ownership::Sealed { job: job() }), (VolumePhase::Sealed, 0), None),
        one.told(
            "w2",
            &one.record(2, Ownership::Prepared { job: job(), from }),
            (VolumePhase::Standby, SIZE),
            None,
        ),
    ];
    let truth = one.judge(&told, &[]);
    let stands = Stands::Sealed { job: job() };
    assert_eq!(truth.verdict, Verdict::Known { owner: w("w1"), generation: Generation(1), stands });
    assert_eq!(worths(&truth), [("w2", Worth::Clone), ("w1", Worth::Real)]);
}

#[test]
fn records_from_a_backup_make_nobody_an_owner_again() {
    let one = One::new();
    let told = [
        one.told("w1", &one.record(1, Ownership::Ours), (VolumePhase::Sealed, 0), Some(fence(1, "w2"))),
        one.told("w2", &one.record(2, Ownership::Ours), (VolumePhase::Open, 0), None),
    ];
    let truth = one.judge(&told, &[]);
    assert!(matches!(&truth.verdict, Verdict::Known { owner, .. } if *owner == w("w2")), "{truth:?}");
    assert_eq!(worths(&truth), [("w2", Worth::Real), ("w1", Worth::Overtaken)]);
    assert!(truth.gaps[0].contains("they are from a backup"), "{:?}", truth.gaps);
    assert!(truth.advice[0].contains("do not start it on w1"), "{:?}", truth.advice);
    // Without the other worker it is not sure, but never the one that handed it over.
    let alone = one.judge(&told[..1], &[silent("w2")]);
    assert!(matches!(&alone.verdict, Verdict::Likely { owner, .. } if *owner == w("w2")), "{alone:?}");
}

#[test]
fn an_owner_whose_records_do_not_know_of_it_is_not_sure() {
    let one = One::new();
    let sealed =
        one.told("w1", &one.record(1, handed_over()), (VolumePhase::Sealed, 0), Some(fence(1, "w2")));
    let nothing = testimony(&w("w2"), &OnOneDisk::default());
    let only_the_directory = OnOneDisk {
        directories: BTreeMap::from([one.directory(2, VolumePhase::Open, 0)]),
        ..OnOneDisk::default()
    };
    let only_the_directory = testimony(&w("w2"), &only_the_directory);
    let opened = one.record(2, Ownership::Prepared { job: job(), from: w("w1") });
    let opened = one.told("w2", &opened, (VolumePhase::Open, 0), None);
    for (other, says) in [
        (nothing, "deleted there, or is lost"),
        (only_the_directory, "do not know of its directory"),
        (opened, "say otherwise"),
    ] {
        let truth = one.judge(&[sealed.clone(), other], &[]);
        let Verdict::Likely { owner, why, .. } = &truth.verdict else { panic!("{truth:?}") };
        assert!(*owner == w("w2") && why.contains(says), "{truth:?}");
    }
}

#[test]
fn a_mark_that_cannot_be_understood_makes_its_worker_no_owner() {
    let one = One::new();
    let record = one.record(1, Ownership::Ours);
    let subject = Subject::Volume(one.id);
    let disk = OnOneDisk {
        volumes: vec![&record],
        mistrusted: BTreeSet::from([subject]),
        troubles: vec!["its mark is damaged".to_owned()],
        directories: BTreeMap::from([one.directory(1, VolumePhase::Open, 0)]),
        ..OnOneDisk::default()
    };
    let truth = one.judge(&[testimony(&w("w1"), &disk)], &[]);
    assert!(
        matches!(&truth.verdict, Verdict::Likely { why, .. } if why.contains("its mark is damaged")),
        "{truth:?}"
    );
}

#[test]
fn two_that_have_the_same_generation_are_shown_as_such() {
    let one = One::new();
    let record = one.record(2, Ownership::Ours);
    let told = ["w1", "w2"].map(|worker| one.told(worker, &record, (VolumePhase::Open, 0), None));
    let truth = one.judge(&told, &[]);
    let owners = vec![w("w1"), w("w2")];
    assert_eq!(truth.verdict, Verdict::Disputed { generation: Generation(2), owners });
    assert_eq!(worths(&truth), [("w1", Worth::PerhapsReal), ("w2", Worth::PerhapsReal)]);
    assert!(truth.advice[0].starts_with("start it nowhere"), "{:?}", truth.advice);
    assert!(truth.by.is_none() && truth.claims.len() == 4, "{truth:?}");
}

#[test]
fn a_generation_of_which_nobody_tells_is_a_gap() {
    let one = One::new();
    let told = [
        one.told("w1", &one.record(1, handed_over()), (VolumePhase::Sealed, 0), Some(fence(1, "w2"))),
        one.told("w3", &one.record(4, Ownership::Ours), (VolumePhase::Open, 0), None),
    ];
    let truth = one.judge(&told, &[silent("w2")]);
    assert!(matches!(&truth.verdict, Verdict::Known { owner, .. } if *owner == w("w3")), "{truth:?}");
    assert_eq!(
        truth.gaps,
        ["nothing that was heard tells who owned it between generation 2 and generation 4"]
    );
}

#[test]
fn of_what_nobody_knows_there_is_no_real_one() {
    let one = One::new();
    let truth = one.judge(&[testimony(&w("w1"), &OnOneDisk::default())], &[]);
    assert_eq!((truth.verdict, truth.copies), (Verdict::Nobody, vec![]));
}

fn machine(generation: u64, standing: Standing, volumes: Vec<VolumeKey>) -> MachineRecord {
    let disk = |key: VolumeKey| MachineVolume {
        name: "data".parse().unwrap(),
        volume: key.id,
        generation: key.generation,
    };
    MachineRecord {
        id: MACHINE.parse().unwrap(),
        name: "web".parse().unwrap(),
        spec: MachineSpec::process("sleep", ["1"]),
        volumes: volumes.into_iter().map(disk).collect(),
        desired: Desired::Running,
        generation: Generation(generation),
        standing,
        job: None,
        halted: false,
        doomed: false,
        process: None,
        memory: None,
        last_exit: None,
        start_ms: None,
        created_at_ms: 3,
    }
}

#[test]
fn a_machine_is_named_with_its_disks_and_judged_like_a_volume() {
    let one = One::new();
    let gone = machine(1, Standing::HandedOver { to: w("w2"), job: job() }, vec![one.key(1)]);
    let here = machine(2, Standing::Ours, vec![one.key(2)]);
    let told = [
        testimony(&w("w1"), &OnOneDisk { machines: vec![&gone], ..OnOneDisk::default() }),
        testimony(&w("w2"), &OnOneDisk { machines: vec![&here], ..OnOneDisk::default() }),
    ];
    let subjects = resolve(&"web".parse().unwrap(), &told).unwrap();
    assert_eq!(subjects, [Subject::Machine(gone.id), Subject::Volume(one.id)]);
    let truth = truth(&subjects, &told, Vec::new());
    let [of_machine, of_volume] = &truth.subjects[..] else { panic!("{truth:?}") };
    let owner = w("w2");
    assert_eq!(
        of_machine.verdict,
        Verdict::Known { owner, generation: Generation(2), stands: Stands::InUse }
    );
    assert_eq!(of_machine.name.as_deref(), Some("web"));
    // The machine's record tells of its disk, whose own record is missing.
    assert!(
        matches!(&of_volume.verdict, Verdict::Likely { owner, .. } if *owner == w("w2")),
        "{of_volume:?}"
    );
    assert!(!truth.is_certain());
}

#[test]
fn a_name_that_means_two_things_or_nothing_is_refused() {
    let (one, other) = (One::new(), One::new());
    let told = [
        one.told("w1", &one.record(1, Ownership::Ours), (VolumePhase::Open, 0), None),
        other.told("w2", &other.record(1, Ownership::Ours), (VolumePhase::Open, 0), None),
    ];
    let refused = resolve(&"data".parse().unwrap(), &told).unwrap_err();
    assert!(refused.message.contains(&one.id.to_string()), "{refused}");
    assert_eq!(resolve(&one.id.to_string().parse().unwrap(), &told), Ok(vec![Subject::Volume(one.id)]));
    assert!(resolve(&"web".parse().unwrap(), &told).is_err());
}
