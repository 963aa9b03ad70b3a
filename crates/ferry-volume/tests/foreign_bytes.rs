//! The fuzz bodies of this crate on stable: seeds from valid JSON, and mutations of it.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;
#[path = "../../../fuzz/src/ublk.rs"]
mod ublk;
#[path = "../../../fuzz/src/virtio_blk.rs"]
mod virtio_blk;
#[path = "../../../fuzz/src/volume.rs"]
mod volume;

use ferry_volume::control::{
    Answer, BadRanges, BaseStatus, DiskTrouble, Hydration, LossPolicy, Losses, MarkStatus, Mismatch, Phase,
    Request, SnapshotStatus, SourceStatus, Span, StandIn, Status,
};
use ferry_volume::{Base, Frontend, FrontendKind, FrontendStatus};
use std::num::NonZeroU64;

fn line<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn status() -> Status {
    let source = SourceStatus {
        uri: "nbd://h/V".into(),
        connected: false,
        last_error: Some("gone".into()),
        is_gone: true,
        bad: BadRanges { bytes: 4096, count: 1, listed: vec![Span { offset: 8192, len_bytes: 4096 }] },
        away_ms: Some(7),
        requests_waiting: 1,
        slow_ms: Some(900),
        more: vec![StandIn { uri: "file:///b".into(), connected: true, last_error: None }],
    };
    Status {
        pid: 7,
        id: "01J9ZZZZZZZZZZZZZZZZZZZZZZ".into(),
        generation: 3,
        size_bytes: 1 << 30,
        phase: Phase::Open,
        source: Some(source),
        export: "[::1]:7000".parse().ok(),
        secured: true,
        guest_socket: "/run/guest.sock".into(),
        guests: 1,
        readers: 2,
        hydration: Hydration { bytes_total: 1 << 30, ..Hydration::default() },
        budget_bytes_per_s: NonZeroU64::new(1 << 20),
        share_bytes_per_s: NonZeroU64::new(1 << 19),
        frontends: vec![FrontendStatus {
            frontend: Frontend::Fuse {},
            address: Some("/dev/loop0".into()),
            error: Some("gone".into()),
        }],
        guard_us: NonZeroU64::new(5_000),
        guard_bytes_per_s: Some(4 << 20),
        finish_by_ms: Some(1_800_000_000_000),
        expected_end_ms: Some(1_800_000_060_000),
        guest_p99_us: Some(180),
        mismatches: vec![Mismatch {
            span: Span { offset: 4096, len_bytes: 4096 },
            times: 3,
            same_bytes: true,
        }],
        loss_policy: LossPolicy::FailAfterMs(NonZeroU64::new(30_000).unwrap()),
        snapshots: vec![SnapshotStatus {
            id: "01J9ZZZZZZZZZZZZZZZZZZZZZY".into(),
            size_bytes: 1 << 29,
            bytes_kept: 65_536,
            bytes_owed: 8_192,
            readers: 5,
        }],
        marks: vec![MarkStatus { mark: 3, bytes_changed: 8192 }],
        born_from: Some(2),
        bytes_changed: Some(4096),
        base: Some(BaseStatus {
            uri: "nbd://h/V@2".into(),
            generation: 2,
            connected: true,
            is_used: true,
            last_error: None,
        }),
        precopy: None,
        hydration_held: true,
        disk_trouble: Some(DiskTrouble::MapUnwritten { why: "no room".into() }),
        store_failed: false,
        store_bytes_allocated: 4096,
    }
}

#[test]
fn a_line_of_the_control_socket_that_is_understood_survives_the_way_back() {
    let seeds = [
        ("export", line(&Request::Export { listen: "[fe80::1%3]:0".parse().unwrap(), live: false })),
        ("certify", line(&Request::Certify { dir: "/tls".into() })),
        ("admit", line(&Request::Admit { reader: "spiffe://c/worker/w2".to_owned() })),
        ("expel", line(&Request::Expel { reader: "spiffe://c/worker/w2".to_owned() })),
        ("export_live", line(&Request::Export { listen: "10.0.0.1:0".parse().unwrap(), live: true })),
        ("set_source", line(&Request::SetSource { uri: "nbd+unix:///x?socket=/s".into() })),
        ("add_source", line(&Request::AddSource { uri: "nbd://h/V@1".into() })),
        ("remove_source", line(&Request::RemoveSource { uri: "file:///b".into() })),
        ("set_budget", line(&Request::SetBudget { bytes_per_s: NonZeroU64::new(1 << 20) })),
        ("set_guard", line(&Request::SetGuard { bound_us: NonZeroU64::new(5_000) })),
        ("set_share", line(&Request::SetShare { bytes_per_s: NonZeroU64::new(1 << 19) })),
        ("no_share", line(&Request::SetShare { bytes_per_s: None })),
        ("loss_policy", line(&Request::SetLossPolicy { policy: LossPolicy::Wait })),
        ("abandon_source", line(&Request::AbandonSource { lose_bytes: Some(4096), force: true })),
        ("what_is_lost", line(&Request::AbandonSource { lose_bytes: None, force: false })),
        (
            "answer_losing",
            line(&Answer::Losing(Losses {
                bytes: 1,
                count: 1,
                listed: vec![Span { offset: 0, len_bytes: 1 }],
            })),
        ),
        ("set_finish_by", line(&Request::SetFinishBy { at_ms: Some(1_800_000_000_000) })),
        ("set_base", {
            let uri = "nbd://h/01J9ZZZZZZZZZZZZZZZZZZZZZZ@1".parse().unwrap();
            line(&Request::SetBase { base: Some(Base { uri, generation: 1 }) })
        }),
        ("no_base", line(&Request::SetBase { base: None })),
        ("hold_hydration", line(&Request::HoldHydration { held: true })),
        ("no_budget", line(&Request::SetBudget { bytes_per_s: None })),
        ("attach", line(&Request::Attach { frontend: Frontend::Fuse {} })),
        ("detach", line(&Request::Detach { frontend: FrontendKind::VhostUserBlk })),
        ("mark", line(&Request::Mark)),
        ("forget_mark", line(&Request::ForgetMark { mark: 3 })),
        ("grow", line(&Request::Grow { size_bytes: 1 << 40 })),
        ("snapshot", line(&Request::Snapshot { id: "01J9ZZZZZZZZZZZZZZZZZZZZZZ".into() })),
        ("forget_snapshot", line(&Request::ForgetSnapshot { id: "01J9ZZZZZZZZZZZZZZZZZZZZZZ".into() })),
        ("status", line(&Request::Status)),
        ("receipt", line(&Request::Receipt { of_generation: 3, first_region: 1, regions: Some(8) })),
        ("verify", line(&Request::Verify { anew: true })),
        ("answer_receipt", line(&Answer::Receipt(Box::default()))),
        ("answer_check", line(&Answer::Check(Box::default()))),
        ("answer_refused", line(&Answer::Refused { reason: "no\nway".into() })),
        ("answer_status", line(&Answer::Status(Box::new(status())))),
    ];
    smoke::smoke("control_socket", &seeds, volume::control_socket);
}

#[test]
fn a_volume_json_that_is_understood_survives_being_replaced() {
    let config = |source: &str| {
        format!(
            r#"{{"format":1,"id":"01J9ZZZZZZZZZZZZZZZZZZZZZZ","size_bytes":4096,"region_bytes":4096,"generation":1{source}}}"#
        )
    };
    let seeds = [
        ("alone", config("").into_bytes()),
        ("clone", config(r#","source":"nbd://[::1]:7000/V@3","export":"10.0.0.1:7001""#).into_bytes()),
        ("paced", config(r#","budget_bytes_per_s":52428800"#).into_bytes()),
        (
            "attached",
            config(r#","frontends":[{"kind":"fuse"},{"kind":"ublk"},{"kind":"vhost_user_blk"}]"#)
                .into_bytes(),
        ),
        ("guarded", config(r#","guard_us":5000,"finish_by_ms":1800000000000"#).into_bytes()),
        ("impatient", config(r#","loss_policy":{"fail_after_ms":30000}"#).into_bytes()),
        (
            "moved",
            config(r#","source":"nbd://h/V@3","born_from":3,"base":{"uri":"nbd://h/V@2","generation":2}"#)
                .into_bytes(),
        ),
        ("named", config(r#","readers":["spiffe://c/worker/w2"]"#).into_bytes()),
        ("image", config(r#","source":"file:///srv/disk.raw""#).into_bytes()),
    ];
    smoke::smoke("volume_json", &seeds, volume::volume_json);
}

/// The memory of a guest that asks one thing: descriptors (address, length, flags), then what they point to.
fn request(descriptors: &[(u64, u32, u16)], kind: u32, sector: u64, payload: &[u8]) -> Vec<u8> {
    let mut memory = Vec::new();
    for (next, (address, len, flags)) in (1_u16..).zip(descriptors) {
        memory.extend(address.to_le_bytes());
        memory.extend(len.to_le_bytes());
        memory.extend(flags.to_le_bytes());
        memory.extend(next.to_le_bytes());
    }
    memory.resize(256, 0);
    memory.extend(kind.to_le_bytes());
    memory.extend([0; 4]);
    memory.extend(sector.to_le_bytes());
    memory.extend(payload);
    memory.resize(1024, 0xee);
    memory
}

#[test]
fn a_request_of_a_virtio_driver_that_is_understood_lies_on_the_disk() {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let range = [&8_u64.to_le_bytes()[..], &16_u32.to_le_bytes(), &1_u32.to_le_bytes()].concat();
    let to_device = |len| [(256, 16, NEXT), (272, len, NEXT), (1023, 1, WRITE)];
    let to_guest = |len| [(256, 16, NEXT), (272, len, NEXT | WRITE), (1023, 1, WRITE)];
    let through_a_table = [(16, 48, INDIRECT), (256, 16, NEXT), (272, 512, NEXT | WRITE), (1023, 1, WRITE)];
    let seeds = [
        ("read", request(&to_guest(512), 0, 8, &[])),
        ("write", request(&to_device(512), 1, 8, &[7; 512])),
        ("flush", request(&[(256, 16, NEXT), (1023, 1, WRITE)], 4, 0, &[])),
        ("serial", request(&to_guest(20), 8, 0, &[])),
        ("discard", request(&to_device(16), 11, 0, &range[..12])),
        ("write_zeroes", request(&to_device(16), 13, 0, &range)),
        ("indirect", request(&through_a_table, 0, 8, &[])),
        ("endless", request(&[(256, 16, NEXT); 16], 0, 0, &[])),
    ];
    smoke::smoke("virtio_blk", &seeds, virtio_blk::run);
}

#[test]
fn a_request_of_a_ublk_driver_that_is_understood_lies_on_the_disk() {
    let descriptor = |operation: u32, sectors: u32, first_sector: u64| {
        [&operation.to_ne_bytes()[..], &sectors.to_ne_bytes(), &first_sector.to_ne_bytes(), &[0; 8]].concat()
    };
    let seeds = [
        ("read", descriptor(0, 8, 16)),
        ("write", descriptor(1 | 1 << 13, 1024, 16)),
        ("flush", descriptor(2, 0, 0)),
        ("discard", descriptor(3, 1 << 21, 0)),
        ("write_zeroes", descriptor(5 | 1 << 15, 2048, 8)),
        ("past_the_end", descriptor(0, 2, (1 << 21) - 1)),
    ];
    smoke::smoke("ublk", &seeds, ublk::run);
}
