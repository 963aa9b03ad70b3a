//! One row: a move, what goes wrong in it, and what came of it.
//!
//! ```text
//!   move ──▶ the point: its agent waits ──▶ kill, or the link goes ──▶ the agent goes on, the dead are started again
//!        ──▶ the move ends by itself ──▶ judge
//! ```
//!
//! The disk is held back until the point has been reached, so that it surely follows while somebody dies over it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ferry_api::{Job, JobState};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::cancel;
use super::crossing::{Crossing, Way, in_words, release_all};
use super::hook;
use super::judge::{judge, one_at_most, owner};
use super::lane::Lane;
use super::point::{Heard, Moment, Point, Role, points};
use super::row::{Fault, Guest, Kind, Outage, Row, Victim, WentThere};
use crate::demo::acks::{Entry, acknowledged};
use crate::demo::processes;
use crate::demo::writer::now_ns;
use crate::output::in_one_line;

/// How long the link is down or silent.
const OUTAGE: Duration = Duration::from_millis(300);
/// How long an agent is held in a rehearsal before is looked who lives: what ends or begins at the same moment has, then.
const SETTLE: Duration = Duration::from_millis(30);
/// How long a copy is kept that a machine left behind before it goes back, in hours.
const KEPT_HOURS: u64 = 1;
/// How long after the end of a move a point may still come.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The machine has moved.
    Moved,
    /// The move was undone, and the machine is at home.
    Undone,
    /// The move was cancelled, and the machine is at home.
    Cancelled,
    /// The move was never taken on.
    NeverBegan,
}

/// What came of a row.
#[derive(Clone, Debug)]
pub struct Played {
    /// How it ended; why it is not as it must be otherwise.
    pub ending: Result<Ending, String>,
    /// Processes that were killed.
    pub kills: usize,
    /// Whether one of those to be killed had ended by itself by then.
    pub is_short: bool,
    /// All it took, in milliseconds.
    pub took_ms: u64,
    /// The longest time without an acknowledged record of the machine, in milliseconds.
    pub pause_ms: u64,
}

impl Played {
    /// A row that could not be played, or went wrong.
    pub fn failed(error: &anyhow::Error) -> Self {
        Self { ending: Err(in_one_line(error)), kills: 0, is_short: false, took_ms: 0, pause_ms: 0 }
    }
}

/// Plays one row.
pub async fn play(lane: &mut Lane, row: &Row) -> Played {
    let (began, began_ns) = (Instant::now(), now_ns());
    let (mut kills, mut is_short) = (0, false);
    let ending = act(lane, row, &mut kills, &mut is_short).await.map_err(|error| in_one_line(&error));
    lane.gate.rest();
    lane.link.mend();
    let pause_ms = lane.entries().map_or(0, |entries| longest_pause_ms(&entries, began_ns));
    Played {
        ending,
        kills,
        is_short,
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        pause_ms,
    }
}

async fn act(lane: &mut Lane, row: &Row, kills: &mut usize, is_short: &mut bool) -> Result<Ending> {
    let point = &row.point;
    let (boots, told) = (lane.boots()?, hook::read(&lane.ledger())?.len());
    let mut crossing = ready(lane, row.kind).await?;
    let awaited =
        Moment { worker: lane.seats[lane.seat_of(point.role)].name.to_owned(), at: point.at.clone() };
    if point.is_late {
        crossing.let_disk_go();
    }
    let mut came = lane.gate.await_moment(awaited);
    crossing.start()?;
    let held = tokio::select! {
        held = &mut came => held,
        ended = crossing.ended() => {
            // The last points come when the move has ended.
            let job = ended?;
            let came = timeout(AFTERWARDS, came).await;
            came.map_err(|_| anyhow!("the move never came to the point ({})", in_words(job.as_ref())))?
        }
    };
    let held = held.context("nobody waits for the point any more")?;
    one_at_most(lane)?;
    *is_short = !lane.are_there(&row.fault.victims()).await;
    *kills = lane.kill(&row.fault.victims()).await?;
    one_at_most(lane)?;
    owner(lane).await?;
    strike(lane, row.fault);
    drop(held);
    recover(lane, row.fault).await?;
    crossing.let_disk_go();
    let job = crossing.ended().await?;
    let ending = ending(row, job.as_ref())?;
    if ending == Ending::Moved {
        lane.home = 1 - lane.home;
    }
    release_all(lane).await?;
    judge(lane).await?;
    if lane.guest == Guest::Hooked && !row.fault.victims().contains(&Victim::Machine) {
        hook::check(&hook::read(&lane.ledger())?[told..], ending)?;
    }
    if keeps_memory(row) && lane.boots()? != boots {
        bail!("the machine was started anew; its memory is lost");
    }
    Ok(ending)
}

/// Whether what goes wrong in a row may cost a machine no boot: neither it is struck, nor the way of its memory after the source
/// has looked at it for the last time, right before it hands over.
fn keeps_memory(row: &Row) -> bool {
    let is_spared = match row.fault {
        Fault::Kill(_) | Fault::Pair(..) => !row.fault.victims().contains(&Victim::Machine),
        Fault::Link(_) => matches!(row.point.phase.as_str(), "Prepare" | "Stop"),
    };
    row.kind == Kind::Live && is_spared
}

/// Gets ready for a move of this kind: a machine that is to go back must have moved first.
async fn ready(lane: &mut Lane, kind: Kind) -> Result<Crossing> {
    match kind.went_there() {
        None => {}
        Some(WentThere::Whole) => {
            lane.keeps_copies = true;
            let mut there = Crossing::prepare(lane, Way::There(KEPT_HOURS)).await?;
            there.let_disk_go();
            there.start()?;
            let job = there.ended().await?;
            if job.as_ref().is_none_or(|job| job.state != JobState::Succeeded) {
                bail!("the way there went wrong ({})", in_words(job.as_ref()));
            }
            lane.home = 1 - lane.home;
            judge(lane).await.context("the way there went wrong")?;
        }
        Some(WentThere::Halfway) => {
            let mut there = Crossing::prepare(lane, Way::There(0)).await?;
            there.start()?;
            there.halfway().await?;
            lane.home = 1 - lane.home;
            lane.wait_for_records().await?;
        }
    }
    lane.gate.fail(kind.fails_at());
    let way = match kind {
        Kind::Back | Kind::BackHalfway => Way::Back,
        Kind::Warm => Way::Warm,
        Kind::Live => Way::Live,
        Kind::Move | Kind::Undone | Kind::Cancelled | Kind::Told | Kind::ToldUndone => Way::There(0),
    };
    let mut crossing = Crossing::prepare(lane, way).await?;
    if kind == Kind::Cancelled {
        crossing.is_cancelled_by(cancel::while_it_seals(lane)?);
    }
    Ok(crossing)
}

fn strike(lane: &Lane, fault: Fault) {
    match fault {
        Fault::Link(Outage::Cut) => lane.link.cut(),
        Fault::Link(Outage::Stall) => lane.link.stall(),
        Fault::Link(Outage::Reset) => lane.link.reset(),
        Fault::Kill(_) | Fault::Pair(..) => {}
    }
}

/// Agents are started again, as a service manager does; the rest is theirs to do.
async fn recover(lane: &Lane, fault: Fault) -> Result<()> {
    if matches!(fault, Fault::Link(Outage::Cut | Outage::Stall)) {
        sleep(OUTAGE).await;
    }
    lane.link.mend();
    let victims = fault.victims();
    let back = |agent: Victim, role| {
        let is_dead = victims.contains(&agent);
        async move { if is_dead { lane.start_agent(lane.seat_of(role)).await } else { Ok(()) } }
    };
    let (source, target) =
        tokio::join!(back(Victim::SourceAgent, Role::Source), back(Victim::TargetAgent, Role::Target));
    source.and(target)
}

/// How the row ended, if it may end so.
fn ending(row: &Row, job: Option<&Job>) -> Result<Ending> {
    let Some(job) = job else {
        // Only an agent that died before the move was durable may forget it.
        return match row.point.at.starts_with("before write started") {
            true => Ok(Ending::NeverBegan),
            false => Err(anyhow!("the move was taken on and is not known any more")),
        };
    };
    // Only an agent that died before the wish was durable may forget it.
    let is_forgotten = row.point.at == cancel::HEARD && row.fault.victims().contains(&Victim::SourceAgent);
    let is_cancelled = row.kind == Kind::Cancelled && !is_forgotten;
    match job.state {
        JobState::Cancelled if row.kind == Kind::Cancelled => Ok(Ending::Cancelled),
        JobState::Succeeded if row.kind.fails_at().is_none() && !is_cancelled => Ok(Ending::Moved),
        JobState::Failed if row.kind.fails_at().is_some() || !(row.point.is_behind || is_cancelled) => {
            Ok(Ending::Undone)
        }
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            Err(anyhow!("the move must not end like this: {}", in_words(Some(job))))
        }
        JobState::Waiting | JobState::Running | JobState::Unwinding | JobState::Parked => {
            Err(anyhow!("the move has not ended"))
        }
    }
}

/// A rehearsal: a move in which nothing goes wrong, and the points it comes by.
///
/// # Errors
/// It goes wrong all the same.
pub async fn rehearse(lane: &mut Lane, kind: Kind) -> Result<Vec<Point>> {
    let mut crossing = ready(lane, kind).await?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (notes, disk_was_let_go) = (Arc::clone(&heard), crossing.disk_was_let_go());
    let victims = Victim::ALL.map(|victim| (victim, lane.is_victim(victim)));
    let source = lane.seats[lane.home].name;
    lane.gate.listen_in(SETTLE, move |moment| {
        let lines = processes::command_lines();
        let there = victims.iter().filter(|(_, is_victim)| lines.iter().any(|line| is_victim(line)));
        let moment = Heard {
            role: if moment.worker == source { Role::Source } else { Role::Target },
            at: moment.at.clone(),
            there: there.map(|(victim, _)| *victim).collect(),
            disk_was_let_go: disk_was_let_go.load(Ordering::Relaxed),
        };
        notes.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    });
    crossing.let_disk_go_later();
    crossing.start()?;
    let job = crossing.ended().await?.ok_or_else(|| anyhow!("the rehearsal never began"))?;
    match (kind, job.state) {
        (
            Kind::Move | Kind::Back | Kind::BackHalfway | Kind::Warm | Kind::Live | Kind::Told,
            JobState::Succeeded,
        ) => lane.home = 1 - lane.home,
        (Kind::Undone | Kind::ToldUndone, JobState::Failed) | (Kind::Cancelled, JobState::Cancelled) => {}
        _ => bail!("the rehearsal went wrong: {}", in_words(Some(&job))),
    }
    release_all(lane).await?;
    judge(lane).await.context("the rehearsal went wrong")?;
    lane.gate.rest();
    let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(points(heard))
}

/// The longest time between two acknowledgements since `since_ns`, counted from the last one before.
fn longest_pause_ms(entries: &[Entry], since_ns: u64) -> u64 {
    let mut longest_ns = 0;
    let mut last = None;
    for at_ns in acknowledged(entries).map(|ack| ack.at_ns) {
        if let Some(last) = last.filter(|_| at_ns >= since_ns) {
            longest_ns = longest_ns.max(at_ns.saturating_sub(last));
        }
        last = Some(at_ns);
    }
    longest_ns / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::acks::Ack;

    #[test]
    fn a_pause_is_counted_from_the_last_record_before_the_row() {
        let ack = |ms: u64| Entry::Ack(Ack { at_ns: ms * 1_000_000, number: ms, offset: 0, checksum: 0 });
        let entries = [ack(1), ack(900), ack(1000), ack(1250), Entry::Stop { at_ns: 0 }, ack(1300)];
        assert_eq!(longest_pause_ms(&entries, 1_100_000_000), 250);
        assert_eq!(longest_pause_ms(&entries, 0), 899);
        assert_eq!(longest_pause_ms(&[], 0), 0);
    }
}
