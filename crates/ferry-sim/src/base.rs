//! Bases, as the product's server has them: a source tells once in what it differs from what it was made from, and the
//! rest is read from that.
//!
//! Invariant: nothing waits for a base for ever, and what it gives is what the source has; that is checked of every
//! sector that is read from one.

use crate::server::{Link, Server};
use crate::store::{Token, span};
use crate::wire;
use crate::world::{At, State};
use ferry_engine::{ByteRange, Command, Differences, Event, Holder, MarkId, Phase, Residence};
use ferry_volume::control::{Answer, BaseStatus};

/// How long the background waits for a base that is away, in milliseconds.
const PATIENCE_MS: u64 = 3_000;
/// How long a base that was asked may send nothing, in milliseconds: then the source is.
pub const SILENCE_MS: u64 = 5_000;

/// What a server knows of its base.
#[derive(Default)]
pub struct BaseSide {
    /// Where it is connected to it.
    pub link: Option<Link>,
    /// In what the source differs from it, once the source has told.
    differences: Option<Differences>,
    away_since_ms: Option<u64>,
    /// An agent wants hydration to rest.
    pub is_held: bool,
    rests: bool,
}

/// The generation that a copy was made from, while it is known in what they may differ.
#[must_use]
pub fn born_from(state: &State, at: At) -> Option<u64> {
    let born_from = state.hosts[at.host].copies.get(&at.key)?.born_from?;
    state.server(at)?.engine.marks().since(MarkId::BIRTH).map(|_| born_from)
}

/// Bytes in which a copy may differ from what it was made from.
#[must_use]
pub fn bytes_changed(state: &State, at: At) -> Option<u64> {
    born_from(state, at)?;
    state.server(at)?.engine.marks().since(MarkId::BIRTH).map(ferry_engine::BlockMap::bytes)
}

/// How a base stands, for an agent.
#[must_use]
pub fn status(state: &State, at: At) -> Option<BaseStatus> {
    let base = state.hosts[at.host].copies.get(&at.key)?.base.as_ref()?;
    let side = &state.server(at)?.base;
    Some(BaseStatus {
        uri: base.uri.to_string(),
        generation: base.generation,
        connected: side.link.is_some(),
        is_used: side.differences.is_some(),
        last_error: None,
    })
}

/// From now on a copy has this base.
pub fn set(state: &mut State, at: At, base: Option<ferry_volume::Base>) -> Option<Answer> {
    let copy = state.hosts[at.host].copies.get_mut(&at.key)?;
    if base.is_some() && copy.source.is_none() {
        return Some(Answer::Refused { reason: "the volume has no source, so it needs no base".to_owned() });
    }
    let generation = |base: &Option<ferry_volume::Base>| base.as_ref().map(|base| base.generation);
    let is_other = generation(&copy.base) != generation(&base);
    copy.base = base;
    if is_other {
        state.server_mut(at)?.base.differences = None;
        // It is asked in what it differs from the base when it is connected to.
        wire::break_link(state, at);
    }
    let now_ms = state.now_ms();
    state.server_mut(at)?.base.away_since_ms = Some(now_ms);
    wire::look_for_source(state, at);
    Some(Answer::Done)
}

/// An agent wants hydration to rest, or to go on.
pub fn hold(state: &mut State, at: At, is_held: bool) {
    if let Some(server) = state.server_mut(at) {
        server.base.is_held = is_held;
    }
    rest_or_hydrate(state, at);
}

/// A source that was just connected to tells in what it differs from the base, if it knows.
pub fn ask_differences(state: &mut State, at: At, source: At) {
    let base = state.hosts[at.host].copies.get(&at.key).and_then(|copy| copy.base.as_ref());
    let Some(generation) = base.map(|base| base.generation) else { return };
    if born_from(state, source) != Some(generation)
        || state.server(at).is_none_or(|server| server.base.differences.is_some())
    {
        return;
    }
    let says_nothing_differs = state.planted == Some(crate::faults::Planted::NothingDiffers);
    let mut differences = Differences::none();
    if let Some(server) = state.server(source).filter(|_| !says_nothing_differs) {
        let geometry = server.engine.geometry();
        let changed = server.engine.changed_since(MarkId::BIRTH, geometry.all_bytes());
        changed
            .into_iter()
            .flatten()
            .filter(|(_, differs)| *differs)
            .for_each(|(run, _)| differences.add(run));
    }
    state.say_of(at.host, format!("{} knows what its base does not have", at.key));
    if let Some(server) = state.server_mut(at) {
        server.base.differences = Some(differences);
    }
}

/// Connects a server to its base, or notices that it is not connected any more.
pub fn look(state: &mut State, at: At) {
    let Some(server) = state.server(at) else { return };
    let (link, wants) = (server.base.link, is_wanted(server));
    let uri = state.hosts[at.host].copies.get(&at.key).and_then(|copy| copy.base.as_ref());
    let uri = uri.map(|base| base.uri.to_string());
    let now = uri.as_ref().filter(|_| wants).and_then(|uri| wire::connect(state, at, uri));
    if link != now {
        let what = if now.is_some() { "reads from its base" } else { "has lost its base" };
        state.say_of(at.host, format!("{} {what}", at.key));
        let now_ms = state.now_ms();
        if let Some(server) = state.server_mut(at) {
            server.base.away_since_ms = now.is_none().then_some(now_ms);
            server.base.link = now;
        }
    }
    rest_or_hydrate(state, at);
}

fn is_wanted(server: &Server) -> bool {
    let status = server.engine.status();
    status.phase != Phase::Standby && !status.complete
}

/// Lets the background rest while somebody wants that, or while a base that has most of it may be there in a moment.
pub fn rest_or_hydrate(state: &mut State, at: At) {
    let now_ms = state.now_ms();
    let has_base = state.hosts[at.host].copies.get(&at.key).is_some_and(|copy| copy.base.is_some());
    let Some(server) = state.server_mut(at) else { return };
    let side = &mut server.base;
    let is_away = side.away_since_ms.is_some_and(|since| now_ms.saturating_sub(since) < PATIENCE_MS);
    let rests = side.is_held || (has_base && side.differences.is_some() && is_away);
    if rests != side.rests {
        side.rests = rests;
        let command = if rests { Command::PauseHydration } else { Command::ResumeHydration };
        state.tell(at, Event::Command(command));
    }
}

/// A range in parts by who has them.
#[must_use]
pub fn parts(state: &State, at: At, range: ByteRange) -> Vec<(ByteRange, Holder)> {
    match usable(state, at) {
        Some((differences, base_bytes)) => differences.cut(range, base_bytes).collect(),
        None => vec![(range, Holder::Source)],
    }
}

/// What is used of the base of a server: in what the source differs from it, and its length in bytes.
#[must_use]
pub fn usable(state: &State, at: At) -> Option<(&Differences, u64)> {
    let side = &state.server(at)?.base;
    let base_bytes = state.server(link_of(state, at)?.to)?.engine.geometry().size_bytes();
    Some((side.differences.as_ref()?, base_bytes))
}

/// The link of a server to its base, if it still is one.
#[must_use]
pub fn link_of(state: &State, at: At) -> Option<Link> {
    let link = state.server(at)?.base.link?;
    let base = state.hosts[at.host].copies.get(&at.key)?.base.as_ref()?;
    (wire::connect(state, at, &base.uri.to_string()) == Some(link)).then_some(link)
}

/// What came from the base is what the source holds, as far as that can be seen on its disk.
pub fn compare(state: &mut State, at: At, range: ByteRange, got: &[Token]) {
    state.count("fetches from a base");
    let Some(source) = state.server(at).and_then(|server| server.link).map(|link| link.to) else { return };
    let here = &state.hosts[source.host];
    let (Some(server), Some(copy)) = (here.servers.get(&source.key), here.copies.get(&source.key)) else {
        return;
    };
    let local = server.engine.truth(range).filter(|(_, residence)| *residence == Residence::Local);
    let differs = local.map(|(run, _)| run).find(|run| {
        let first = span(range).start;
        copy.data.read(span(*run)) != &got[span(*run).start - first..span(*run).end - first]
    });
    if let Some(run) = differs {
        let (key, begins) = (at.key, run.offset());
        state.find(format!("the base of {key} is not what its source holds, from byte {begins} on"));
    }
}
