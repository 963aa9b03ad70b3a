//! `ferry drill`: what a machine sees and what becomes of it when something dies in the middle of a move.
//!
//! Invariant: each row is a real move between two real workers, in which one thing goes wrong at one exact moment; it counts
//! as well only if afterwards the machine runs once, on the right side, with every record it was ever promised. Nothing
//! but the directories of rows that are not as they must be is left behind.
//!
//! ```text
//!   rehearse ──▶ points ──▶ rows ──▶ lanes, some at once ──▶ play, judge ──▶ report
//! ```
//!
//! `point`, `row` what there is to drill, without I/O · `gate` where agents say where they are and are held · `link` what is between
//! two workers · `lane` two workers and their machine · `crossing` one move followed to its end · `cancel` who cancels it · `play`, `judge` one row ·
//! `vm` what stands for a VM · `hook` the hooks of a machine ·
//! `house` what all lanes share · `report` what came of it.

mod cancel;
mod crossing;
mod gate;
pub mod hook;
mod house;
mod judge;
mod lane;
mod link;
mod play;
mod point;
mod report;
mod row;
pub mod vm;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::demo::interrupted;
use crate::exit::Exit;
use crate::output::bytes::Span;
use crate::output::live::Live;
use crate::output::{Paint, complain, say, say_json, stdout_is_terminal};
use house::House;
use lane::{Lane, Wiring};
use play::{Played, play, rehearse};
use point::Point;
use report::{Report, Told};
pub use row::Choice;
use row::{Fault, Guest, Kind, Row, WentThere, rows};

/// After so many rows a lane has new workers and a new machine: what it carries along stays small.
const ROWS_PER_LANE: usize = 25;
/// The same where the copies that a machine left are kept.
const ROWS_PER_LANE_KEEPING: usize = 5;
/// How many rows may be played at once.
pub const AT_ONCE_MAX: u8 = lane::SLOTS_MAX;
/// How often is told how far it is where nothing can be redrawn.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// What shall be drilled.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// Which rows.
    pub choice: Choice,
    /// Of these, those whose name contains this.
    pub only: Option<String>,
    /// Of these, each so-many-th.
    pub every: usize,
    /// Only say which.
    pub list: bool,
    /// How many rows are played at once.
    pub at_once: u8,
    /// Where the workers are made; none: where temporary files are.
    pub dir: Option<PathBuf>,
    /// Leave the directories.
    pub keep: bool,
    /// Report as JSON and nothing else.
    pub json: bool,
}

/// Drills, and cleans up behind it.
///
/// # Errors
/// The workers cannot be started, or the rehearsal goes wrong.
pub async fn run(options: DrillOptions) -> Result<Exit> {
    let house = Arc::new(House::found(options.dir.as_deref(), options.keep)?);
    let ended = house.ended();
    let mut live = Live::new(options.json || options.list);
    let drilled = tokio::select! {
        drilled = drill(&options, &house, &mut live) => Some(drilled),
        never = ended.reap_for_ever() => Some(never.map(|never| match never {})),
        () = interrupted() => None,
    };
    live.clear();
    house.clear_up();
    let Some(drilled) = drilled else {
        complain("interrupted; the drill has ended and removed everything it had started");
        return Ok(Exit::Interrupted);
    };
    let Some(report) = drilled? else { return Ok(Exit::Done) };
    if options.json {
        say_json(&report)?;
    } else {
        say(format_args!("\n{}", report.for_people(Paint::for_stdout())))?;
    }
    Ok(if report.ok { Exit::Done } else { Exit::DataMissing })
}

/// None if the rows were only to be told.
async fn drill(options: &DrillOptions, house: &Arc<House>, live: &mut Live) -> Result<Option<Report>> {
    live.now("rehearsal", "moves in which nothing goes wrong, to find the points at which something may");
    let (rows, per_row) = choose(options, house).await?;
    if rows.is_empty() {
        bail!("no row has that in its name; `ferry drill --all --list` tells the names of all");
    }
    if options.list {
        rows.iter().try_for_each(say)?;
        return Ok(None);
    }
    let count = rows.len();
    let slots = options.at_once.min(u8::try_from(count).unwrap_or(u8::MAX));
    let at_once = usize::from(slots);
    let guess = per_row.saturating_mul(u32::try_from(count / at_once + 1).unwrap_or(u32::MAX));
    live.line(&format!(
        "{count} rows, {at_once} at once: about {}",
        Span(Duration::from_secs(guess.as_secs() + 1))
    ))?;

    let began = Instant::now();
    // Those that need the same lane come after each other, so that it changes seldom.
    let mut turns: Vec<_> = rows.into_iter().enumerate().collect();
    turns.sort_by_key(|(_, row)| (row.kind.guest(), wiring_for(row.fault) == Wiring::Linked));
    let queue = Arc::new(Mutex::new(VecDeque::from(turns)));
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut playing = JoinSet::new();
    for slot in 0..slots {
        let player = Player { house: Arc::clone(house), slot, lane: None };
        playing.spawn(player.take_turns(Arc::clone(&queue), tell.clone()));
    }
    drop(tell);
    let mut progress = Progress { began, count, told_at: began };
    let mut all = Vec::new();
    while let Some(one) = told.recv().await {
        all.push(one);
        progress.show(live, &all)?;
    }
    while let Some(ended) = playing.join_next().await {
        ended.context("a row broke off")?;
    }
    all.sort_by_key(|(turn, _)| *turn);
    Ok(Some(Report::new(all.into_iter().map(|(_, told)| told).collect(), began.elapsed())))
}

/// Rehearses each kind of move, and chooses the rows. Tells also how long one may take.
async fn choose(options: &DrillOptions, house: &Arc<House>) -> Result<(Vec<Row>, Duration)> {
    let began = Instant::now();
    let mut rehearsals = JoinSet::new();
    for (slot, kind) in (0..).zip(Kind::ALL) {
        let house = Arc::clone(house);
        rehearsals.spawn(async move {
            let mut lane = house.lane(slot, Wiring::Direct, kind.guest()).await?;
            let points = rehearse(&mut lane, kind).await?;
            house.give_up(lane, false).await;
            anyhow::Ok((kind, points))
        });
    }
    let mut rehearsed = BTreeMap::new();
    while let Some(done) = rehearsals.join_next().await {
        let (kind, points) = done.context("a rehearsal broke off")??;
        rehearsed.insert(kind, points);
    }
    let rehearsed: Vec<_> =
        rehearsed.iter().map(|(kind, points)| (*kind, own(*kind, points, &rehearsed))).collect();
    let rows = rows(&rehearsed, options.choice, options.only.as_deref(), options.every);
    // Agents are held at each moment of a rehearsal, and at one of a row.
    Ok((rows, began.elapsed() / 3))
}

/// The points of a kind that are its own, and always come.
fn own(kind: Kind, points: &[Point], all: &BTreeMap<Kind, Vec<Point>>) -> Vec<Point> {
    let known = kind.begins_as().and_then(|other| all.get(&other)).map_or(&[][..], Vec::as_slice);
    let is_own = |point: &&Point| {
        // Halfway two moves are under way at once, and end in no fixed order.
        let always_comes = kind.went_there() != Some(WentThere::Halfway) || !point.is_late;
        always_comes && kind.is_drilled_at(point) && !known.iter().any(|known| known.is_same(point))
    };
    points.iter().filter(is_own).cloned().collect()
}

fn wiring_for(fault: Fault) -> Wiring {
    match fault {
        Fault::Link(_) => Wiring::Linked,
        Fault::Kill(_) | Fault::Pair(..) => Wiring::Direct,
    }
}

/// One of those who play rows at the same time, each on lanes of its own.
struct Player {
    house: Arc<House>,
    slot: u8,
    /// The lane, and how many rows were played on it.
    lane: Option<(Lane, usize)>,
}

impl Player {
    /// Plays rows from the queue until there are none left.
    async fn take_turns(
        mut self,
        queue: Arc<Mutex<VecDeque<(usize, Row)>>>,
        tell: mpsc::UnboundedSender<(usize, Told)>,
    ) {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some((turn, row)) = next() {
            let told = self.play(row).await;
            if tell.send((turn, told)).is_err() {
                break;
            }
        }
        if let Some((lane, _)) = self.lane.take() {
            self.house.give_up(lane, false).await;
        }
    }

    async fn play(&mut self, row: Row) -> Told {
        let (mut lane, rows) = match self.lane_for(wiring_for(row.fault), row.kind.guest()).await {
            Ok(lane) => lane,
            Err(error) => return Told::new(row, Played::failed(&error), self.house.dir().to_owned()),
        };
        let (played, dir) = (play(&mut lane, &row).await, lane.dir.clone());
        match played.ending.is_ok() {
            true => self.lane = Some((lane, rows + 1)),
            false => self.house.give_up(lane, true).await,
        }
        Told::new(row, played, dir)
    }

    /// The lane that was used last, or a new one.
    async fn lane_for(&mut self, wiring: Wiring, guest: Guest) -> Result<(Lane, usize)> {
        if let Some((lane, rows)) = self.lane.take() {
            let rows_max = if lane.keeps_copies { ROWS_PER_LANE_KEEPING } else { ROWS_PER_LANE };
            if lane.wiring == wiring && lane.guest == guest && rows < rows_max {
                return Ok((lane, rows));
            }
            self.house.give_up(lane, false).await;
        }
        Ok((self.house.lane(self.slot, wiring, guest).await?, 0))
    }
}

/// How far it is.
struct Progress {
    began: Instant,
    count: usize,
    told_at: Instant,
}

impl Progress {
    /// `told` is what there is so far, the latest last.
    fn show(&mut self, live: &mut Live, told: &[(usize, Told)]) -> Result<()> {
        if let Some(complaint) = told.last().and_then(|(_, last)| last.complaint()) {
            live.line(&format!("  {} {complaint}", Paint::for_stdout().bad("✗")))?;
        }
        let wrong = told.iter().filter(|(_, told)| !told.ok).count();
        let per_row = self.began.elapsed() / u32::try_from(told.len()).unwrap_or(u32::MAX);
        let left = per_row.saturating_mul(u32::try_from(self.count - told.len()).unwrap_or(u32::MAX));
        let left = Span(Duration::from_secs(left.as_secs()));
        let text = format!("{} of {}, {wrong} wrong, about {left} left", told.len(), self.count);
        live.now("rows", &text);
        if !stdout_is_terminal() && self.told_at.elapsed() > PLAIN_EVERY {
            self.told_at = Instant::now();
            live.line(&format!("  .. {text}"))?;
        }
        Ok(())
    }
}
