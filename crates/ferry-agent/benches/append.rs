//! How long an append to a journal takes, beside a plain write of as many bytes made durable in the same directory, by
//! turns. `cargo xtask bench --what control` runs it and reads what it prints: one line of JSON.
//!
//! usage: append DIR ROUNDS
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench ends at whatever it did not expect, and speaks"
)]

use ferry_agent::records::{Change, JobRecord, Records};
use ferry_api::{JobId, JobKind, MachineId};
use ferry_fsm::{Count, Counted, Entry, Event};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Appends before the first that counts.
const WARM_UP: u64 = 20;
/// The plain file is written round and round, as SQLite does with its log.
const PLAIN_BYTES: u64 = 4 * 1024 * 1024;

fn main() {
    // Cargo's own words come, too.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [dir, rounds] = &words[..] else { panic!("usage: append DIR ROUNDS") };
    let rounds: u64 = rounds.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{}", runtime.block_on(measure(Path::new(dir), rounds)));
}

async fn measure(dir: &Path, rounds: u64) -> Value {
    let records = Records::open(dir).unwrap();
    let job = begun(&records).await;
    let log = dir.join("records.db-wal");
    let before = std::fs::metadata(&log).unwrap().len();
    for seq in 2..2 + WARM_UP {
        append(&records, job, seq).await;
    }
    let bytes = (std::fs::metadata(&log).unwrap().len() - before) / WARM_UP;
    let plain = File::create(dir.join("plain")).unwrap();
    plain.write_all_at(&vec![1; usize::try_from(PLAIN_BYTES).unwrap()], 0).unwrap();
    plain.sync_all().unwrap();
    let (mut append_us, mut plain_us) = (Vec::new(), Vec::new());
    let content = vec![7; usize::try_from(bytes).unwrap()];
    for round in 0..rounds {
        let begun = Instant::now();
        append(&records, job, 2 + WARM_UP + round).await;
        append_us.push(begun.elapsed().as_micros());
        let at = round * bytes % (PLAIN_BYTES - bytes);
        let begun = Instant::now();
        plain.write_all_at(&content, at).unwrap();
        plain.sync_data().unwrap();
        plain_us.push(begun.elapsed().as_micros());
    }
    json!({ "append_us": append_us, "plain_us": plain_us, "bytes": bytes })
}

async fn begun(records: &Records) -> JobId {
    let kind = JobKind::Move {
        machine: MachineId::fresh(),
        machine_name: "web".parse().unwrap(),
        from: "w1".parse().unwrap(),
        to: "w2".parse().unwrap(),
    };
    let job = JobRecord { id: JobId::fresh(), kind, parent: None, created_at_ms: 1, finished: false };
    let id = job.id;
    let changes = vec![Change::AddJob(Box::new(job))];
    records.append(id, 1, &[json!({ "entry": "started" })], Vec::new(), changes).await.unwrap();
    id
}

/// What most appends of a move are: a step is done, the next one begins.
async fn append(records: &Records, job: JobId, seq: u64) {
    let done = Event::Done { step: "Seal".to_owned(), memo: Value::Null };
    let begun = Event::Begun { step: "Activate".to_owned(), attempt: 1 };
    let entries = [done, begun].map(|event| serde_json::to_value(Entry::new(seq, event)).unwrap());
    let what = Counted::Done { took_ms: seq % 100 };
    let counts = vec![Count { line: "move", step: Some("Seal".to_owned()), what }];
    // Two entries an append.
    records.append(job, 2 * seq - 2, &entries, counts, Vec::new()).await.unwrap();
}
