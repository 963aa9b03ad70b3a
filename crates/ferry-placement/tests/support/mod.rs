//! Workers and machines to plan with.

use ferry_api::{
    API_VERSION, Bid, Capacity, DriverInfo, Expected, Frontend, Generation, MachineId, MachineSpec, MoveMode,
    Room, SPEC_VERSION, VolumeId, WorkerInfo, WorkerName,
};
use ferry_crossing::PlannedVolume;
use ferry_placement::drain::{Candidate, Circumstances};
use ferry_placement::{Market, Requirements};

pub const GIB: u64 = 1 << 30;
pub const SOURCE: &str = "w0";

pub fn worker(name: &str) -> WorkerName {
    name.parse().unwrap()
}

/// A worker with so many GiB of room, 16 processors and 64 GiB of memory, that runs nothing.
pub fn bid(name: &str, free_gib: u64) -> Bid {
    let info = WorkerInfo {
        troubles: Vec::new(),
        name: worker(name),
        api_version: API_VERSION,
        spec_version: SPEC_VERSION,
        program_version: "0".to_owned(),
        pid: 1,
        started_at_ms: 0,
        state_dir: "/s".into(),
        listen: "127.0.0.1:1".to_owned(),
        room: Room {
            limit_bytes: None,
            used_bytes: 0,
            handed_over_bytes: 0,
            promised_bytes: 0,
            free_bytes: free_gib * GIB,
        },
        has: None,
        region: None,
        labels: Default::default(),
        cordon: None,
        drivers: vec![DriverInfo {
            name: "process".to_owned(),
            found: None,
            limits: vec!["memory".to_owned(), "cpu".to_owned()],
            error: None,
            live: None,
            models: None,
        }],
        direct_io: true,
        budget_bytes_per_s: None,
        pair_budgets_bytes_per_s: Default::default(),
        machines: 0,
        volumes: 0,
        peers: Vec::new(),
    };
    Bid {
        worker: info,
        frontends: vec![Frontend::Fuse],
        capacity: Capacity { cpu_millis: 16_000, memory_bytes: 64 * GIB },
        busy_cpu_millis: 0,
        residents: Vec::new(),
        troubles: Vec::new(),
    }
}

/// A machine on the worker [`SOURCE`] with so many GiB on its one disk.
pub fn wants(name: &str, disk_gib: u64) -> Requirements {
    Requirements {
        machine: MachineId::fresh(),
        name: name.parse().unwrap(),
        from: worker(SOURCE),
        spec: MachineSpec::process("sleep", ["1"]),
        volumes: vec![PlannedVolume {
            id: VolumeId::fresh(),
            name: "data".parse().unwrap(),
            generation: Generation(1),
            size_bytes: 2 * disk_gib * GIB,
            region_bytes: 1 << 20,
            bytes_in_use: disk_gib * GIB,
            direct: false,
            born_from: None,
            origin: None,
        }],
    }
}

/// A machine that nothing keeps from moving, cold.
pub fn candidate(wants: Requirements) -> Candidate {
    Candidate {
        wants,
        generation: Generation(1),
        mode: MoveMode::Cold,
        why: "it is asked for as a cold one".to_owned(),
        interruption: Expected::default(),
        bytes_ahead: 0,
        blockers: Vec::new(),
    }
}

pub fn market(bids: impl IntoIterator<Item = Bid>) -> Market {
    Market::new(bids.into_iter().map(|bid| (bid.worker.name.clone(), Ok(bid))))
}

#[allow(dead_code, reason = "not every test plans a drain")]
pub fn circumstances() -> Circumstances {
    Circumstances { from: worker(SOURCE), now_ms: 1_000, rate_bytes_per_s: None }
}
