//! `ferry top`: workers, what moves and hydrates between them, and what is sick.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ApiError, AskJobs, Bid, ErrorCode, Health, Job, JobKind, JobState, Machine, MachineId,
    MachineName, MachineState, Progress, ServerState, Volume, WorkerName,
};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::agent_of_peer;
use super::board::now_ms;
use super::job::kind_text;
use super::loss;
use super::machine::state_text;
use crate::exit::Exit;
use crate::output::board::{Row, bar, cut, hydration, lines};
use crate::output::live::Live;
use crate::output::{say, say_json, table, terminal_size};

/// How long a worker may take to answer, until it is shown as silent.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many sentences about what is sick are shown, and so many volumes that hydrate beside moves.
const SHOWN_MAX: usize = 8;
/// Columns of the bar of a worker's room.
const ROOM_BAR: usize = 10;

/// What was seen of all workers at one moment.
#[derive(Debug, Serialize)]
struct Seen {
    /// The worker whose view it is.
    of: WorkerName,
    /// By name.
    workers: Vec<SeenWorker>,
}

/// Why nothing was seen of a worker, in a word.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Unseen {
    /// It does not answer.
    Silent,
    /// It answers, and tells this command nothing.
    Refuses,
    /// There is no way to one over TLS without an authority to believe.
    NotAsked,
}

/// What was seen of a worker.
#[derive(Debug, Serialize)]
struct SeenWorker {
    worker: WorkerName,
    /// Why nothing was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    unseen: Option<Unseen>,
    /// The same in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bid: Option<Bid>,
    /// Jobs there that have not ended.
    jobs: Vec<Job>,
    /// Volumes there that are not whole yet.
    hydrating: Vec<Hydrates>,
    /// What is sick there, each in one sentence.
    sick: Vec<String>,
}

/// Shows all workers, over and over on a terminal, once elsewhere or if that is asked for.
pub async fn top(agent: &Client, json: bool, once: bool) -> Result<Exit> {
    let mut live = Live::new(json);
    if json || once || !live.is_terminal() {
        let seen = look(agent).await?;
        match json {
            true => say_json(&seen)?,
            // What is written to a file or a pipe is not cut.
            false => say(sheet(&seen, now_ms(), usize::MAX, usize::MAX).join("\n"))?,
        }
        return Ok(Exit::Done);
    }
    loop {
        let seen = tokio::select! {
            seen = look(agent) => seen?,
            _ = tokio::signal::ctrl_c() => break,
        };
        let (width, height) = terminal_size();
        live.lines(&sheet(&seen, now_ms(), width, height.saturating_sub(1)));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    live.clear();
    Ok(Exit::Done)
}

/// Asks the agent, and all workers that it knows, at the same time.
async fn look(agent: &Client) -> Result<Seen> {
    let own = agent.worker().await?;
    let mut asking = JoinSet::new();
    let others = own.peers.iter().filter(|peer| peer.name != own.name);
    let (mut clients, mut not_asked) = (vec![(own.name.clone(), agent.clone())], Vec::new());
    for peer in others {
        match agent_of_peer(agent, peer) {
            Ok(client) => clients.push((peer.name.clone(), client)),
            Err(error) => not_asked.push(unasked(peer.name.clone(), format!("{error:#}"))),
        }
    }
    for (worker, client) in clients {
        asking.spawn(async move {
            match timeout(LOOK_MAX, look_at(&worker, &client)).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(error)) => unheard(worker, error),
                Err(_) => silent(worker, format!("it did not answer within {} s", LOOK_MAX.as_secs())),
            }
        });
    }
    let mut workers = asking.join_all().await;
    workers.append(&mut not_asked);
    workers.sort_by(|one, other| one.worker.cmp(&other.worker));
    Ok(Seen { of: own.name, workers })
}

/// A worker that told nothing.
fn unheard(worker: WorkerName, error: ApiError) -> SeenWorker {
    if !matches!(error.code, ErrorCode::Unauthenticated | ErrorCode::Forbidden) {
        return silent(worker, error.message);
    }
    let sick = vec![format!("worker {worker} tells nothing: {}", error.message)];
    SeenWorker { unseen: Some(Unseen::Refuses), sick, ..unseen(worker, error.message) }
}

fn silent(worker: WorkerName, why: String) -> SeenWorker {
    let sick = vec![format!("worker {worker} does not answer: {why}")];
    SeenWorker { sick, ..unseen(worker, why) }
}

/// A worker that this command has no way to ask, for the reason that names it.
fn unasked(worker: WorkerName, why: String) -> SeenWorker {
    SeenWorker { unseen: Some(Unseen::NotAsked), sick: vec![why.clone()], ..unseen(worker, why) }
}

fn unseen(worker: WorkerName, why: String) -> SeenWorker {
    SeenWorker {
        worker,
        unseen: Some(Unseen::Silent),
        why: Some(why),
        bid: None,
        jobs: Vec::new(),
        hydrating: Vec::new(),
        sick: Vec::new(),
    }
}

/// A volume that is not whole yet.
#[derive(Debug, Serialize)]
struct Hydrates {
    /// The machine whose disk it is, if it is there.
    machine_name: Option<MachineName>,
    #[serde(flatten)]
    volume: Volume,
}

async fn look_at(worker: &WorkerName, client: &Client) -> Result<SeenWorker, ApiError> {
    let (bid, jobs, volumes, machines) = tokio::try_join!(
        client.bid(),
        client.jobs(AskJobs { ended_max: 0, before: None }),
        client.volumes(),
        client.machines(),
    )?;
    let sick = sick(worker, &bid, &jobs, &volumes, &machines);
    let name_of = |volume: &Volume| {
        let machine = machines.iter().find(|machine| volume.machine == Some(machine.id))?;
        Some(machine.name.clone())
    };
    let is_partial = |volume: &Volume| {
        volume.source.is_some() && volume.hydration.is_some_and(|hydration| !hydration.complete)
    };
    let partial = volumes.into_iter().filter(is_partial);
    let hydrating = partial.map(|volume| Hydrates { machine_name: name_of(&volume), volume }).collect();
    Ok(SeenWorker { worker: worker.clone(), unseen: None, why: None, bid: Some(bid), jobs, hydrating, sick })
}

/// What a person should look at.
fn sick(
    worker: &WorkerName,
    bid: &Bid,
    jobs: &[Job],
    volumes: &[Volume],
    machines: &[Machine],
) -> Vec<String> {
    let mut sick: Vec<String> =
        bid.troubles.iter().map(|trouble| format!("worker {worker}: {trouble}")).collect();
    for machine in machines {
        let name = &machine.name;
        if matches!(machine.state, MachineState::Starting { .. } | MachineState::Restarting { .. }) {
            sick.push(format!("machine {name} on {worker}: {}", state_text(&machine.state)));
        }
        if let Some(Health::Unhealthy { why, .. }) = &machine.health {
            sick.push(format!("machine {name} on {worker} is not well: {why}"));
        }
    }
    for volume in volumes {
        if let ServerState::Down { reason } = &volume.server {
            sick.push(format!("volume {} on {worker}: {reason}", volume.name));
        }
        if let Some(slow_ms) = volume.source.as_ref().and_then(|source| source.slow_ms) {
            sick.push(format!("source of volume {} on {worker}: {}", volume.name, loss::slow_text(slow_ms)));
        }
        if let Some(trouble) = &volume.disk_trouble {
            sick.push(format!("volume {} on {worker}: {trouble}", volume.name));
        }
    }
    for job in jobs.iter().filter(|job| job.state == JobState::Parked) {
        let why = job.reason.as_deref().unwrap_or("it waits for you");
        sick.push(format!("{} ({}): {why}", kind_text(&job.kind), job.id));
    }
    sick
}

/// What was seen, as lines no wider than `width` and no more than `height`.
fn sheet(seen: &Seen, now_ms: u64, width: usize, height: usize) -> Vec<String> {
    let mut shown = vec![format!("as worker {} reaches them", seen.of)];
    let header = ["WORKER", "STATE", "MACHINES", "ROOM", "LOAD", "OUT", "IN"];
    let moving: Vec<&Job> = seen.workers.iter().flat_map(|worker| &worker.jobs).collect();
    let workers = table::columns(header, seen.workers.iter().map(|worker| worker_row(worker, &moving)));
    shown.extend(workers.lines().map(str::to_owned));
    let sick: Vec<&String> = seen.workers.iter().flat_map(|worker| &worker.sick).collect();
    let sick = section("SICK", &sick.into_iter().cloned().collect::<Vec<_>>());
    let follows = section("HYDRATES", &follows(seen, &moving, width));
    let mut rows: Vec<Row> = moving.iter().filter_map(|job| Row::of(job, now_ms)).collect();
    rows.sort_by(|one, other| (&one.from, &one.machine).cmp(&(&other.from, &other.machine)));
    // Moves have whatever place the others leave.
    let place = height.saturating_sub(shown.len() + sick.len() + follows.len() + 1);
    let moves = lines(&rows, width, place);
    if !moves.is_empty() {
        shown.push(String::new());
    }
    shown.extend(moves.into_iter().chain(follows).chain(sick));
    shown.truncate(height);
    shown.iter().map(|line| cut(line, width)).collect()
}

/// Lines under a heading, and how many more there are; nothing if there are none.
fn section(heading: &str, all: &[String]) -> Vec<String> {
    if all.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new(), heading.to_owned()];
    lines.extend(all.iter().take(SHOWN_MAX).cloned());
    if all.len() > SHOWN_MAX {
        lines.push(format!("and {} more", all.len() - SHOWN_MAX));
    }
    lines
}

fn worker_row(seen: &SeenWorker, moving: &[&Job]) -> [String; 7] {
    let count = |is: &dyn Fn(&WorkerName, &WorkerName) -> bool| {
        let count = moving.iter().filter(|job| match &job.kind {
            JobKind::Move { from, to, .. } => is(from, to),
            JobKind::Drain { .. } | JobKind::Rebalance { .. } | JobKind::Moves { .. } => false,
        });
        count.count().to_string()
    };
    let name = seen.worker.to_string();
    let Some(bid) = &seen.bid else {
        let none = || "-".to_owned();
        let state = match seen.unseen {
            Some(Unseen::Silent) | None => "silent",
            Some(Unseen::Refuses) => "refuses",
            Some(Unseen::NotAsked) => "not asked",
        };
        return [name, state.to_owned(), none(), none(), none(), none(), none()];
    };
    let is_drained =
        seen.jobs.iter().any(|job| matches!(job.kind, JobKind::Drain { .. }) && !job.state.is_final());
    let state = match (is_drained, &bid.worker.cordon, bid.troubles.is_empty()) {
        (true, _, _) => "is drained",
        (false, Some(_), _) => "cordoned",
        (false, None, false) => "not well",
        (false, None, true) => "takes machines",
    };
    let room = &bid.worker.room;
    let taken = room.used_bytes.saturating_add(room.promised_bytes);
    let percent =
        (u128::from(taken) * 100).checked_div(u128::from(taken) + u128::from(room.free_bytes)).unwrap_or(0);
    let cpus = |millis: u64| millis as f64 / 1_000.0;
    [
        name,
        state.to_owned(),
        bid.worker.machines.to_string(),
        format!("{} {percent:3} %", bar(percent, ROOM_BAR)),
        format!("{:.1} of {:.1}", cpus(bid.busy_cpu_millis), cpus(bid.capacity.cpu_millis)),
        count(&|from, _| *from == seen.worker),
        count(&|_, to| *to == seen.worker),
    ]
}

/// Volumes that hydrate and are not shown as a part of a move.
fn follows(seen: &Seen, moving: &[&Job], width: usize) -> Vec<String> {
    let moves: BTreeSet<MachineId> = moving
        .iter()
        .filter_map(|job| match &job.kind {
            JobKind::Move { machine, .. } => Some(*machine),
            JobKind::Drain { .. } | JobKind::Rebalance { .. } | JobKind::Moves { .. } => None,
        })
        .collect();
    let volumes = seen.workers.iter().flat_map(|worker| worker.hydrating.iter());
    let beside = volumes.filter(|one| one.volume.machine.is_none_or(|machine| !moves.contains(&machine)));
    let line = |Hydrates { machine_name, volume }: &Hydrates| {
        let hydration_now = volume.hydration?;
        let all = hydration_now.bytes_local.saturating_add(hydration_now.bytes_to_copy);
        let rate = hydration_now.rate_bytes_per_s;
        let progress = Progress {
            bytes_total: all,
            bytes_done: hydration_now.bytes_local,
            rate_bytes_per_s: rate,
            eta_ms: hydration_now.bytes_to_copy.saturating_mul(1_000).checked_div(rate),
            ..Progress::default()
        };
        let of = machine_name.as_ref().map(|machine| format!(" of {machine}")).unwrap_or_default();
        let what = format!("{}{of} on {}  ", volume.name, volume.worker);
        let left = width.saturating_sub(what.chars().count());
        Some(format!("{what}{}", hydration(&progress, left)))
    };
    beside.filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Capacity, JobId, Room, WorkerInfo};

    fn worker(name: &str) -> SeenWorker {
        let info = serde_json::json!({
            "name": name, "api_version": 1, "program_version": "0", "pid": 1, "started_at_ms": 0, "state_dir": "/s",
            "listen": "127.0.0.1:1", "machines": 3, "volumes": 3, "peers": [],
            "room": Room { limit_bytes: None, used_bytes: 40, handed_over_bytes: 0, promised_bytes: 0, free_bytes: 60 },
        });
        let worker: WorkerInfo = serde_json::from_value(info).unwrap();
        let bid = Bid {
            frontends: Vec::new(),
            capacity: Capacity { cpu_millis: 8_000, memory_bytes: 0 },
            busy_cpu_millis: 1_500,
            residents: Vec::new(),
            troubles: Vec::new(),
            worker,
        };
        let worker = name.parse().unwrap();
        SeenWorker {
            worker,
            unseen: None,
            why: None,
            bid: Some(bid),
            jobs: Vec::new(),
            hydrating: Vec::new(),
            sick: Vec::new(),
        }
    }

    fn moving(machine: &str) -> Job {
        let job = serde_json::json!({
            "id": JobId::fresh(), "state": "running", "reason": null, "created_at_ms": 0, "finished_at_ms": null, "last_seq": 1,
            "kind": { "kind": "move", "machine": MachineId::fresh(), "machine_name": machine, "from": "w1", "to": "w2" },
            "steps": [{ "step": "Hydrate", "state": "running", "attempts": 1 }],
            "progress": { "bytes_total": 100, "bytes_done": 25, "rate_bytes_per_s": 1024, "eta_ms": 3000, "cold_reads": 0,
                "bytes_verified": 0 },
        });
        serde_json::from_value(job).unwrap()
    }

    fn seen() -> Seen {
        let mut w1 = worker("w1");
        w1.jobs.push(moving("db"));
        let silent = silent("w3".parse().unwrap(), "it did not answer within 3 s".to_owned());
        Seen { of: "w1".parse().unwrap(), workers: vec![w1, worker("w2"), silent] }
    }

    #[test]
    fn workers_moves_and_what_is_sick_fit_80_columns() {
        let lines = sheet(&seen(), 1_000, 80, 24);
        assert_eq!(
            lines,
            [
                "as worker w1 reaches them",
                "WORKER   STATE            MACHINES   ROOM                 LOAD         OUT   IN",
                "w1       takes machines   3          [====>     ]  40 %   1.5 of 8.0   1     0",
                "w2       takes machines   3          [====>     ]  40 %   1.5 of 8.0   0     1",
                "w3       silent           -          -                    -            -     -",
                "",
                "MACHINE  FROM, TO  STEP     DOWN  DISKS",
                "db       w1 → w2   Hydrate  -     [====>              ]  25 %  1 KiB/s  3 s left",
                "",
                "SICK",
                "worker w3 does not answer: it did not answer within 3 s",
            ]
        );
    }

    #[test]
    fn whatever_the_terminal_nothing_is_wider_or_longer_and_what_is_cut_is_counted() {
        let mut many = seen();
        many.workers[0].jobs = (0..40).map(|n| moving(&format!("machine-{n:02}"))).collect();
        many.workers[1].sick = (0..20).map(|n| format!("machine m{n} on w2: starting")).collect();
        for (width, height) in [(80, 24), (120, 40), (20, 10), (1, 1)] {
            let lines = sheet(&many, 1_000, width, height);
            assert!(lines.len() <= height && lines.iter().all(|line| line.chars().count() <= width));
        }
        let lines = sheet(&many, 1_000, 120, 40);
        assert!(lines.iter().any(|line| line.starts_with("and ") && line.ends_with(" more")), "{lines:#?}");
        assert!(lines.contains(&"and 13 more".to_owned()), "of the 21 that are sick: {lines:#?}");
    }
}
