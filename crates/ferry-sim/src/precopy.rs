//! Copying ahead, as the product's volume server does it: rounds from a source whose guest still writes, and what of it is right
//! once that is sealed. A round takes its time, and anything may go wrong in it; the last question is answered at one instant.

use crate::faults::Planted;
use crate::process::Process;
use crate::server::Link;
use crate::store::span;
use crate::world::{At, State, World};
use ferry_engine::{ByteRange, MarkId, Phase, RequestKind};
use ferry_volume::control::PrecopyStatus;
use std::sync::Arc;

/// What is read of the source at a time, in bytes.
const READ_BYTES: u64 = 64 << 10;

/// What a server that stands by has copied.
#[derive(Debug, Default)]
pub struct Precopy {
    /// The mark of the source's as of which it is held.
    held_since: Option<u64>,
    /// The round that is under way: its mark, and that of what is held.
    round: Option<(u64, Option<u64>)>,
    bytes: u64,
    failure: Option<String>,
}

impl Precopy {
    /// How it stands; none before the first round.
    #[must_use]
    pub fn status(&self) -> Option<PrecopyStatus> {
        let is_there = self.round.is_some() || self.held_since.is_some() || self.failure.is_some();
        is_there.then(|| PrecopyStatus {
            held_since: self.round.map_or(self.held_since, |(_, since)| since),
            copies: self.round.is_some(),
            bytes_to_copy: self.bytes,
            bytes_copied: self.bytes,
            failure: self.failure.clone(),
        })
    }
}

/// Begins a round.
///
/// # Errors
/// As the product's server refuses it.
pub fn begin_round(
    state: &mut State,
    at: At,
    uri: &str,
    mark: u64,
    since: Option<u64>,
) -> Result<(), String> {
    let world = state.world.upgrade().expect("the world is there while something happens in it");
    let server = state.server_mut(at).ok_or("gone")?;
    if server.precopy.round == Some((mark, since)) {
        return Ok(());
    }
    stands_by(server)?;
    if since.is_some() && server.precopy.held_since != since {
        return Err("nothing is held as of that mark; copy everything first".to_owned());
    }
    server.precopy.round = Some((mark, since));
    server.precopy.failure = None;
    let (pid, uri) = (server.pid, uri.to_owned());
    state.count("rounds of copying ahead");
    if state.hosts.iter().flat_map(|host| host.processes.values()).any(Process::is_leaving) {
        state.count("rounds of copying ahead while memory crosses");
    }
    tokio::spawn(async move {
        let ended = copy(&world, at, pid, &uri, since).await;
        let mut state = world.lock();
        let Some(server) = state.server_mut(at).filter(|server| server.pid == pid) else { return };
        if server.precopy.round.take_if(|round| *round == (mark, since)).is_none() {
            return;
        }
        match ended {
            Ok(bytes) => (server.precopy.held_since, server.precopy.bytes) = (Some(mark), bytes),
            // What was held before is still, but for a first round, which begins with nothing.
            Err(why) => {
                server.precopy.held_since = since;
                server.precopy.failure = Some(why);
            }
        }
    });
    Ok(())
}

/// Finds out what is right; the engine takes that over with the next `Adopt`.
///
/// # Errors
/// As the product's server refuses it.
pub fn adopt(state: &mut State, at: At, uri: &str, since: u64) -> Result<(), String> {
    let server = state.server_mut(at).ok_or("gone")?;
    if is_adopted(server) {
        return Ok(());
    }
    stands_by(server)?;
    if server.precopy.held_since != Some(since) {
        return Err("nothing is held as of that mark".to_owned());
    }
    let link = connect(state, at, uri, Phase::Sealed).ok_or("the source cannot be read")?;
    let mut changed = changes(state, link, since).ok_or("the source does not know what has changed")?;
    if state.planted == Some(Planted::NothingSince) {
        changed.clear();
    }
    let server = state.server_mut(at).ok_or("gone")?;
    let geometry = server.engine.geometry();
    let mut offset = 0;
    for range in
        changed.iter().copied().chain([ByteRange::new(geometry.size_bytes(), 1)].into_iter().flatten())
    {
        let kept = ByteRange::new(offset, range.offset().saturating_sub(offset));
        kept.into_iter().for_each(|kept| server.engine.adopt(geometry.blocks_touched(kept)));
        offset = range.end();
    }
    server.engine.store_may_hold_anything();
    server.precopy = Precopy::default();
    state.count("clones that kept what was copied ahead");
    Ok(())
}

/// Before a clone is opened: what was copied and not kept counts for nothing.
pub fn drop_copied(state: &mut State, at: At) {
    let Some(server) = state.server_mut(at) else { return };
    let is_there = server.engine.status().phase == Phase::Standby && server.precopy.status().is_some();
    if !is_there {
        return;
    }
    server.precopy = Precopy::default();
    server.engine.store_may_hold_anything();
}

fn is_adopted(server: &crate::server::Server) -> bool {
    let status = server.engine.status();
    status.phase == Phase::Standby && status.bytes_local > 0
}

fn stands_by(server: &crate::server::Server) -> Result<(), String> {
    if server.engine.status().phase != Phase::Standby {
        return Err("only a volume that stands by copies ahead".to_owned());
    }
    if is_adopted(server) {
        return Err("what was copied ahead is adopted already".to_owned());
    }
    match server.precopy.round {
        Some(_) => Err("it copies ahead already; wait until that has ended".to_owned()),
        None => Ok(()),
    }
}

/// The server of a copy that a URI names, if it gives that copy to others now.
fn connect(state: &State, from: At, uri: &str, phase: Phase) -> Option<Link> {
    let named = uri.strip_suffix("+live");
    let (to, port) = crate::wire::parse_uri(state, named.unwrap_or(uri))?;
    let server = state.server(to)?;
    let serves = server.exports == Some(port) && server.engine.status().phase == phase;
    let is_let = named.is_none() || server.lives;
    (serves && is_let && state.hear(from.host, to.host)).then_some(Link {
        to,
        pid: server.pid,
        epoch: server.epoch,
    })
}

/// What has changed in a copy since a mark, as whole blocks, in order; none if it is not kept.
fn changes(state: &State, link: Link, mark: u64) -> Option<Vec<ByteRange>> {
    let engine = &state.server(link.to)?.engine;
    let runs = engine.changed_since(MarkId(mark), engine.geometry().all_bytes())?;
    Some(runs.filter(|(_, has_changed)| *has_changed).map(|(run, _)| run).collect())
}

fn clear(state: &mut State, at: At, ranges: &[ByteRange]) {
    let Some(copy) = state.hosts[at.host].copies.get_mut(&at.key) else { return };
    for &range in ranges {
        copy.data.write(span(range).start, &vec![0; span(range).len()], || true);
    }
}

/// One round: what has changed since a mark, or everything. Tells how many bytes that were.
async fn copy(world: &Arc<World>, at: At, pid: u32, uri: &str, since: Option<u64>) -> Result<u64, String> {
    let away = || "the source cannot be read".to_owned();
    crate::wire::travel(world, at.host).await.then_some(()).ok_or_else(away)?;
    let (link, ranges) = {
        let mut state = world.lock();
        let link = connect(&state, at, uri, Phase::Open).ok_or_else(away)?;
        let geometry = state.server(at).ok_or_else(away)?.engine.geometry();
        let ranges = match since {
            Some(mark) => changes(&state, link, mark).ok_or("the source does not know what has changed")?,
            None => {
                // An earlier attempt may have left something.
                clear(&mut state, at, &[geometry.all_bytes()]);
                vec![geometry.all_bytes()]
            }
        };
        (link, ranges)
    };
    let mut bytes = 0;
    for range in ranges.into_iter().flat_map(pieces) {
        let asked = {
            let mut state = world.lock();
            let is_linked = connect(&state, at, uri, Phase::Open) == Some(link);
            let buffer = vec![0; span(range).len()];
            is_linked.then(|| state.request(link.to, RequestKind::Read { range }, buffer)).flatten()
        };
        let tokens = asked.ok_or_else(away)?.await.map_err(|_| away())?.map_err(|_| away())?;
        crate::wire::travel(world, at.host).await.then_some(()).ok_or_else(away)?;
        let mut state = world.lock();
        let (is_full, is_ours) = (
            state.hosts[at.host].is_full,
            // One that was opened or told to give it up meanwhile writes nothing more.
            state.server(at).is_some_and(|server| server.pid == pid && server.precopy.round.is_some()),
        );
        if is_full || !is_ours {
            return Err("what was read cannot be kept".to_owned());
        }
        let Some(copy) = state.hosts[at.host].copies.get_mut(&at.key) else { return Err(away()) };
        copy.data.write(span(range).start, &tokens, || true);
        bytes += range.len_bytes();
    }
    Ok(bytes)
}

fn pieces(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut at = range.offset();
    std::iter::from_fn(move || {
        let piece = ByteRange::new(at, READ_BYTES.min(range.end() - at));
        at += READ_BYTES.min(range.end() - at);
        piece
    })
}
