//! The network: calls between agents, and fetches between volume servers. Both may be lost, late or twice.

use crate::faults::Planted;
use crate::host::Simulated;
use crate::server::{Link, Reply};
use crate::store::{Token, sectors, span};
use crate::world::{At, HostIndex, State, World};
use ferry_api::VolumeKey;
use ferry_api::http::{Call, Carried, Courier, router};
use ferry_engine::{
    Arrival, BLOCK_BYTES, ByteRange, Content, Errno, Event, FetchFailure, Holder, OpId, Phase, RequestKind,
    Residence, SourceExtent,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Calls from one agent to others.
pub struct Wire {
    /// Who calls.
    pub from: Simulated,
    /// Who is called.
    pub to: HostIndex,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("to", &self.to).finish_non_exhaustive()
    }
}

/// What becomes of a call.
struct Fate {
    there_ms: u64,
    back_ms: u64,
    arrives: bool,
    is_answered: bool,
    again_ms: Option<u64>,
    fails_ms: u64,
}

impl Fate {
    fn choose(state: &mut State, from: HostIndex, to: HostIndex) -> Self {
        let (lost, twice) = (state.faults.calls_lost, state.faults.calls_twice);
        let slow = state.mishap(lost);
        let ms =
            |state: &mut State| if slow { state.dice.between(10, 5_000) } else { state.dice.between(0, 2) };
        let (there_ms, back_ms) = (ms(state), ms(state));
        let arrives = state.hear(from, to) && !state.mishap(lost);
        let is_answered = !state.mishap(lost);
        let again_ms = state.mishap(twice).then(|| state.dice.between(0, 40_000));
        let fails_ms = if state.dice.coin() { state.dice.between(0, 500) } else { 120_000 };
        Self { there_ms, back_ms, arrives, is_answered, again_ms, fails_ms }
    }
}

impl Courier for Wire {
    fn carry(&self, call: Call) -> Carried<'_> {
        Box::pin(async move {
            let (world, to) = (&self.from.world, self.to);
            world.let_through(self.from.index, &self.from.life, 0).await;
            let fate = {
                let mut state = world.lock();
                state.count("calls");
                let fate = Fate::choose(&mut state, self.from.index, to);
                let lost = if fate.arrives { "" } else { " (lost)" };
                state.say_of(self.from.index, format!("→ w{} {} {}{lost}", to + 1, call.method, call.path));
                fate
            };
            if let Some(again_ms) = fate.again_ms {
                world.lock().count("calls made twice");
                tokio::spawn(deliver(Arc::clone(world), to, call.clone(), again_ms, oneshot::channel().0));
            }
            if fate.arrives {
                let (tell, told) = oneshot::channel();
                tokio::spawn(deliver(Arc::clone(world), to, call, fate.there_ms, tell));
                let answer = told.await;
                tokio::time::sleep(Duration::from_millis(fate.back_ms)).await;
                let is_heard = fate.is_answered && world.lock().hear(self.from.index, to);
                if let (Ok(answer), true) = (answer, is_heard) {
                    world.let_through(self.from.index, &self.from.life, 0).await;
                    return Ok(answer);
                }
            }
            world.lock().count("calls or answers lost");
            world.let_through(self.from.index, &self.from.life, fate.fails_ms).await;
            Err("the connection was lost".to_owned())
        })
    }
}

/// Brings a call to the agent of a host; whoever waits hears nothing if there is none, or if it dies first.
async fn deliver(
    world: Arc<World>,
    to: HostIndex,
    call: Call,
    ms: u64,
    tell: oneshot::Sender<(u16, Vec<u8>)>,
) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    world.awake(to).await;
    let (agent, life) = {
        let state = world.lock();
        (state.hosts[to].agent.clone(), state.hosts[to].life.clone())
    };
    let (Some(agent), Some(life)) = (agent, life) else { return };
    let path = call.path.clone();
    tokio::select! {
        biased;
        () = life.ended() => {}
        (status, body) = call.answered_by(router(agent)) => {
            world.lock().say_of(to, format!("answers {status} to {path}"));
            drop(tell.send((status, body)));
        }
    }
}

/// The copy that a URI names, and the port at which it is to be read.
#[must_use]
pub fn parse_uri(state: &State, uri: &str) -> Option<(At, u16)> {
    let (place, copy) = uri.strip_prefix("nbd://")?.split_once('/')?;
    let (host, port) = place.split_once(':')?;
    Some((At { host: state.host_named(host)?, key: parse_key(copy)? }, port.parse().ok()?))
}

/// A copy as exports and directories name it.
#[must_use]
pub fn parse_key(text: &str) -> Option<VolumeKey> {
    let (id, generation) = text.split_once('@')?;
    Some(VolumeKey { id: id.parse().ok()?, generation: ferry_api::Generation(generation.parse().ok()?) })
}

/// The connection that a server at `from` gets to where its description says its source is.
fn connect_to_source(state: &State, from: At) -> Option<Link> {
    connect(state, from, state.hosts[from.host].copies.get(&from.key)?.source.as_ref()?)
}

/// The connection that a server at `from` gets to the copy of a URI.
#[must_use]
pub fn connect(state: &State, from: At, uri: &str) -> Option<Link> {
    let (to, port) = parse_uri(state, uri)?;
    let server = state.server(to)?;
    let serves = server.exports == Some(port) && server.engine.status().phase == Phase::Sealed;
    (serves && state.hear(from.host, to.host)).then_some(Link { to, pid: server.pid, epoch: server.epoch })
}

/// Connects a server to its source and its base, or notices that it is not connected any more.
pub fn look_for_source(state: &mut State, at: At) {
    crate::base::look(state, at);
    let Some(server) = state.server(at) else { return };
    let link = server.link;
    let wants = server.engine.status().phase != Phase::Standby && !server.engine.status().complete;
    let now = if wants { connect_to_source(state, at) } else { None };
    if link == now {
        return;
    }
    if link.is_some() {
        state.say_of(at.host, format!("{} has lost its source", at.key));
        break_link(state, at);
    }
    if let Some(link) = now
        && let Some(server) = state.server_mut(at)
    {
        server.link = Some(link);
        state.say_of(at.host, format!("{} reads from {} on w{}", at.key, link.to.key, link.to.host + 1));
        crate::base::ask_differences(state, at, link.to);
        // The background stops before it hears of a source, where it waits for a base.
        crate::base::rest_or_hydrate(state, at);
        state.tell(at, Event::SourceUp);
    }
}

/// What a server asked was lost with its link; nothing happens if that server is gone, too.
fn lose_link(state: &mut State, at: At, pid: u32) {
    if state.server(at).is_some_and(|server| server.pid == pid) {
        break_link(state, at);
    }
}

/// The connection to the source is lost, with everything that was asked over it.
pub fn break_link(state: &mut State, at: At) {
    let Some(server) = state.server_mut(at) else { return };
    if server.link.take().is_none() {
        return;
    }
    let pid = server.pid;
    state.tell(at, Event::SourceDown);
    for (op, is_fetch) in state.for_source(at) {
        if state.take_asking(at, pid, op) {
            state.tell(at, failed(op, is_fetch));
        }
    }
}

fn failed(op: OpId, is_fetch: bool) -> Event {
    match is_fetch {
        true => Event::Fetched { op, result: Err(FetchFailure::Disconnected) },
        false => Event::Extents { op, result: Err(FetchFailure::Disconnected) },
    }
}

/// The link of a server, if it still is one.
fn link_of(state: &State, at: At, pid: u32) -> Option<Link> {
    let link = state.server(at).filter(|server| server.pid == pid)?.link?;
    (connect_to_source(state, at) == Some(link)).then_some(link)
}

/// Waits as long as something is under way between two volume servers; tells whether the host is still up.
pub async fn travel(world: &Arc<World>, host: HostIndex) -> bool {
    let ms = {
        let mut state = world.lock();
        let most = if state.is_quiet { 2 } else { state.travel_ms_max };
        state.dice.roll(most + 1)
    };
    world.pass(host, ms).await
}

/// Fetches a range from the source of a server, and from its base what that has.
pub async fn fetch(world: Arc<World>, at: At, pid: u32, op: OpId, range: ByteRange) {
    if !travel(&world, at.host).await {
        return;
    }
    let (mut came, mut bytes_from_base) = (Some(Ok(Vec::new())), 0);
    let parts = crate::base::parts(&world.lock(), at, range);
    for (part, holder) in parts {
        let (reply, is_from_base) = bring(&world, at, pid, part, holder).await;
        bytes_from_base += if is_from_base { part.len_bytes() } else { 0 };
        came = match (came, reply) {
            (Some(Ok(mut all)), Some(Ok(tokens))) => {
                all.extend(tokens);
                Some(Ok(all))
            }
            (Some(Err(errno)), Some(_)) | (Some(Ok(_)), Some(Err(errno))) => Some(Err(errno)),
            (None, _) | (_, None) => None,
        };
    }
    if !travel(&world, at.host).await {
        return;
    }
    let mut state = world.lock();
    if link_of(&state, at, pid).is_none() {
        return lose_link(&mut state, at, pid);
    }
    let Some(came) = came else { return lose_link(&mut state, at, pid) };
    if state.take_asking(at, pid, op) {
        let result = match came {
            Ok(tokens) => Ok(Arrival { bytes_from_base, ..arrive(&mut state, at, op, tokens) }),
            Err(errno) => Err(FetchFailure::Errno(errno)),
        };
        state.tell(at, Event::Fetched { op, result });
    }
}

/// Brings a part of what is fetched, and tells whether the base gave it; nothing comes if the link to the source is lost.
async fn bring(
    world: &Arc<World>,
    at: At,
    pid: u32,
    range: ByteRange,
    holder: Holder,
) -> (Option<Reply>, bool) {
    if holder == Holder::Both {
        let base = crate::base::link_of(&world.lock(), at);
        // A base that is not whole itself may wait for its own source, which is gone.
        let silent = tokio::time::sleep(Duration::from_millis(crate::base::SILENCE_MS));
        let reply = tokio::select! {
            biased;
            reply = read(world, base, range) => reply,
            () = silent => None,
        };
        let mut state = world.lock();
        let is_good = base.is_some() && crate::base::link_of(&state, at) == base;
        if let Some(Ok(tokens)) = reply
            && is_good
        {
            crate::base::compare(&mut state, at, range, &tokens);
            return (Some(Ok(tokens)), true);
        }
    }
    let source = link_of(&world.lock(), at, pid);
    (read(world, source, range).await, false)
}

/// Reads from whom a link leads to. What lies beyond the end of that copy is zero: its reader has grown since.
async fn read(world: &Arc<World>, link: Option<Link>, range: ByteRange) -> Option<Reply> {
    let asked = {
        let (mut state, to) = (world.lock(), link?.to);
        let size_bytes = state.server(to)?.engine.geometry().size_bytes();
        let range = ByteRange::between(range.offset(), range.end().min(size_bytes))?;
        state.request(to, RequestKind::Read { range }, vec![0; span(range).len()])
    };
    let reply = asked?.await.ok()?.map(|mut tokens| {
        tokens.resize(span(range).len(), 0);
        tokens
    });
    let state = world.lock();
    let copy = link.and_then(|link| state.hosts[link.to.host].copies.get(&link.to.key))?;
    let is_bad = |bad: &std::ops::Range<usize>| bad.start < span(range).end && span(range).start < bad.end;
    Some(match reply {
        Ok(tokens) if copy.bad.as_ref().is_some_and(is_bad) => match state.planted {
            Some(Planted::BadSectorsGiven) => Ok(vec![0; tokens.len()]),
            _ => Err(Errno::EIO),
        },
        other => other,
    })
}

fn arrive(state: &mut State, at: At, op: OpId, mut tokens: Vec<Token>) -> Arrival {
    if state.planted == Some(Planted::StaleFetch) {
        tokens.iter_mut().for_each(|token| *token = token.saturating_sub(1));
    }
    let is_zero = tokens.iter().all(|token| *token == 0) && state.dice.coin();
    state.put_fetched(at, op, if is_zero { Vec::new() } else { tokens });
    let content = if is_zero { Content::Zeroes } else { Content::Data };
    Arrival { content, verified: true, bytes_from_base: 0 }
}

/// Asks the source of a server which parts of a range are zero.
pub async fn query(world: Arc<World>, at: At, pid: u32, op: OpId, range: ByteRange) {
    if !travel(&world, at.host).await || !travel(&world, at.host).await {
        return;
    }
    let mut state = world.lock();
    let Some(link) = link_of(&state, at, pid) else { return lose_link(&mut state, at, pid) };
    if state.take_asking(at, pid, op) {
        let mut extents = extents(&state, link.to, range);
        if let (Some((differences, base_bytes)), Some(base)) =
            (crate::base::usable(&state, at), crate::base::link_of(&state, at))
            && let Some(known) = ByteRange::between(range.offset(), range.end().min(base_bytes))
        {
            let of_base = self::extents(&state, base.to, known);
            extents = differences.zeroes(range.offset(), &extents, &of_base, base_bytes);
        }
        state.tell(at, Event::Extents { op, result: Ok(extents) });
    }
}

fn extents(state: &State, at: At, range: ByteRange) -> Vec<SourceExtent> {
    let copy = &state.hosts[at.host].copies[&at.key];
    let Some(server) = state.server(at) else { return Vec::new() };
    let mut extents = Vec::new();
    let mut offset = range.offset();
    // A reader that has grown since asks for whole blocks.
    let end = range.end().min(server.engine.geometry().size_bytes());
    while offset < end {
        let len_bytes = BLOCK_BYTES.min(end - offset);
        let piece = ByteRange::new(offset, len_bytes).expect("it is a part of a range");
        let is_local = server.engine.truth(piece).all(|(_, residence)| residence == Residence::Local);
        let zero = is_local && copy.data.read(sectors(offset, len_bytes)).iter().all(|token| *token == 0);
        extents.push(SourceExtent { len_bytes, zero });
        offset += len_bytes;
    }
    extents
}
