//! What an agent asks of a volume server, done as the product's server does it, all at one instant of the simulation.

use crate::precopy;
use crate::server::Server;
use crate::store::sectors;
use crate::world::{At, State, World};
use ferry_engine::{Command, Event, MarkId, Notice, RequestKind};
use ferry_volume::control::{
    Adopted, Answer, Courier, Hydration, LossPolicy, MarkStatus, Phase, Receipt, Request, RootState,
    SourceStatus, Status,
};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Volumes are small here: whoever decides by how much of one has changed is told so many bytes for each.
const BYTES_TOLD: u64 = 64;

/// A connection to the control socket of a server.
pub struct Socket {
    /// The world it is in.
    pub world: Arc<World>,
    /// The copy.
    pub at: At,
    /// Its server.
    pub pid: u32,
}

impl Courier for Socket {
    fn carry(&mut self, line: &str) -> io::Result<String> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let request: Request = serde_json::from_str(line).map_err(io::Error::other)?;
        let mut state = self.world.lock();
        if state.server(self.at).is_none_or(|server| server.pid != self.pid) {
            return Err(gone());
        }
        if request != Request::Status {
            state.say_of(self.at.host, format!("asks {}: {request:?}", self.at.key));
        }
        let answer = obey(&mut state, self.at, request).ok_or_else(gone)?;
        Ok(serde_json::to_string(&answer).expect("answers are plain data and always encode"))
    }
}

fn set_source(state: &mut State, at: At, uri: String) -> Option<Answer> {
    let copy = state.hosts[at.host].copies.get_mut(&at.key)?;
    let copy_of = |uri: &str| uri.rsplit('/').next().map(str::to_owned);
    if copy.source.as_ref().is_some_and(|first| copy_of(first) != copy_of(&uri)) {
        (copy.base, copy.born_from) = (None, None);
    }
    copy.source = Some(uri);
    crate::wire::look_for_source(state, at);
    Some(Answer::Done)
}

/// Does what is asked; nothing comes back if the server dies over it.
fn obey(state: &mut State, at: At, request: Request) -> Option<Answer> {
    match request {
        Request::Status => status(state, at).map(|status| Answer::Status(Box::new(status))),
        Request::Open => {
            precopy::drop_copied(state, at);
            command(state, at, Command::Open)
        }
        Request::Mark => command(state, at, Command::Mark),
        Request::ForgetMark { mark } => command(state, at, Command::ForgetMark { mark: MarkId(mark) }),
        Request::Precopy { uri, mark, since } => {
            let begun = precopy::begin_round(state, at, &uri, mark, since);
            Some(begun.map_or_else(|reason| Answer::Refused { reason }, |()| Answer::Done))
        }
        Request::Adopt { uri, since } => match precopy::adopt(state, at, &uri, since) {
            Ok(()) => command(state, at, Command::Adopt),
            Err(reason) => Some(Answer::Refused { reason }),
        },
        Request::Seal => command(state, at, Command::Seal),
        Request::Unseal => command(state, at, Command::Unseal),
        Request::DetachSource => {
            let answer = command(state, at, Command::DetachSource)?;
            if answer == Answer::Done {
                crate::wire::break_link(state, at);
                let copy = state.hosts[at.host].copies.get_mut(&at.key)?;
                (copy.source, copy.base) = (None, None);
            }
            Some(answer)
        }
        Request::Flush => flush(state, at),
        Request::Export { live, .. } => export(state, at, live),
        Request::Withdraw => withdraw(state, at),
        Request::SetSource { uri } => set_source(state, at, uri),
        Request::Grow { size_bytes } => grow(state, at, size_bytes),
        Request::SetBase { base } => crate::base::set(state, at, base),
        Request::HoldHydration { held } => {
            crate::base::hold(state, at, held);
            Some(Answer::Done)
        }
        Request::Receipt { .. } => {
            let root = RootState::Unknown { reason: "checksums are not simulated".to_owned() };
            Some(Answer::Receipt(Box::new(Receipt { root, ..Receipt::default() })))
        }
        Request::Shutdown => {
            let is_standby = state.server(at)?.engine.status().phase == ferry_engine::Phase::Standby;
            let flushed = if is_standby { Answer::Done } else { flush(state, at)? };
            if flushed == Answer::Done {
                state.server_ends(at);
            }
            Some(flushed)
        }
        Request::Attach { .. } => {
            Some(Answer::Attached { address: format!("/sim/volumes/{}/vhost.sock", at.key).into() })
        }
        Request::Certify { .. }
        | Request::Admit { .. }
        | Request::Expel { .. }
        | Request::SetBudget { .. }
        | Request::SetGuard { .. }
        | Request::SetFinishBy { .. }
        | Request::SetShare { .. } => Some(Answer::Done),
        other => Some(Answer::Refused { reason: format!("{other:?} is not simulated") }),
    }
}

fn withdraw(state: &mut State, at: At) -> Option<Answer> {
    let server = state.server_mut(at)?;
    server.epoch += 1;
    (server.exports, server.lives) = (None, false);
    state.hosts[at.host].copies.get_mut(&at.key)?.export = None;
    Some(Answer::Done)
}

/// Carries out a command of the engine with all that disks do for it.
fn command(state: &mut State, at: At, command: Command) -> Option<Answer> {
    state.server_mut(at)?.notices.clear();
    state.tell(at, Event::Command(command));
    loop {
        let notices = std::mem::take(&mut state.server_mut(at)?.notices);
        if let Some(answer) = notices.iter().find_map(|notice| answer(command, notice)) {
            return match (command, &answer) {
                (Command::Adopt, Answer::Done) => {
                    let engine = state.server(at)?.engine.status();
                    let (bytes_held, bytes_remote) = (engine.bytes_local, engine.bytes_remote);
                    Some(Answer::Adopted(Adopted { bytes_held, bytes_remote }))
                }
                _ => Some(answer),
            };
        }
        // A growth waits for a last block that was short and is being fetched. While a command is carried out here nothing
        // else happens, so the link breaks over it.
        one_step(state, at, matches!(command, Command::Grow { .. }))?;
    }
}

fn answer(asked: Command, notice: &Notice) -> Option<Answer> {
    match (notice, asked) {
        (Notice::Opened, Command::Open)
        | (Notice::Sealed, Command::Seal)
        | (Notice::Unsealed, Command::Unseal)
        | (Notice::SourceDetached, Command::DetachSource) => Some(Answer::Done),
        (Notice::Grown { size_bytes }, Command::Grow { size_bytes: asked }) if *size_bytes == asked => {
            Some(Answer::Done)
        }
        (Notice::Adopted, Command::Adopt) => Some(Answer::Done),
        (Notice::MarkForgotten { mark }, Command::ForgetMark { mark: asked }) if *mark == asked => {
            Some(Answer::Done)
        }
        (Notice::Marked { mark }, Command::Mark) => Some(Answer::Marked { mark: mark.0 }),
        (Notice::CommandRefused { command, refusal }, asked) if *command == asked => {
            Some(Answer::Refused { reason: refusal.to_string() })
        }
        (Notice::CommandFailed { command, errno }, asked) if *command == asked => {
            Some(Answer::Refused { reason: format!("the volume's disk failed: {errno}") })
        }
        _ => None,
    }
}

/// Makes a volume larger, as the product does it: first its file, then its map.
fn grow(state: &mut State, at: At, size_bytes: u64) -> Option<Answer> {
    let sectors = sectors(0, size_bytes).len();
    state.hosts[at.host].copies.get_mut(&at.key)?.data.lengthen(sectors);
    // A guest may use what it has before the agent hears of it.
    state.oracle.lengthen(at.key.id, sectors);
    let answer = command(state, at, Command::Grow { size_bytes })?;
    if answer == Answer::Done {
        state.count("volumes that grew");
        state.oracle.grown_told(at.key.id, sectors);
    }
    Some(answer)
}

fn flush(state: &mut State, at: At) -> Option<Answer> {
    let mut flushed = state.request(at, RequestKind::Flush, Vec::new())?;
    loop {
        match flushed.try_recv() {
            Ok(Ok(_)) => return Some(Answer::Done),
            Ok(Err(_)) if state.server(at)?.engine.status().phase == ferry_engine::Phase::Standby => {
                return Some(Answer::Done);
            }
            Ok(Err(errno)) => {
                return Some(Answer::Refused { reason: format!("the last writes are not durable: {errno}") });
            }
            Err(_) => one_step(state, at, false)?,
        }
    }
}

/// One thing that a disk does for a server, unless the server dies before.
fn one_step(state: &mut State, at: At, breaks_link: bool) -> Option<()> {
    let often = state.faults.server_dies;
    if state.mishap(often) {
        state.count("volume servers killed over a command");
        state.kill_server(at, "is killed over what it was asked");
        return None;
    }
    let pid = state.server(at)?.pid;
    match state.one_for_disk(at) {
        Some(op) => state.complete(at, pid, op),
        None if breaks_link && state.server(at)?.link.is_some() => crate::wire::break_link(state, at),
        None => {
            state.find(format!("the engine of {} waits for something that no disk does", at.key));
            return None;
        }
    }
    Some(())
}

fn export(state: &mut State, at: At, live: bool) -> Option<Answer> {
    let known = state.server(at)?.exports.or(state.hosts[at.host].copies.get(&at.key)?.export);
    let port = known.unwrap_or_else(|| state.hosts[at.host].fresh_port());
    let server = state.server_mut(at)?;
    (server.exports, server.lives) = (Some(port), live);
    state.hosts[at.host].copies.get_mut(&at.key)?.export = Some(port);
    Some(Answer::Exported { listen: SocketAddr::from(([10, 0, 0, 1], port)) })
}

fn status(state: &State, at: At) -> Option<Status> {
    let (server, copy) = (state.server(at)?, state.hosts[at.host].copies.get(&at.key)?);
    let engine = server.engine.status();
    let source = copy.source.as_ref().map(|uri| SourceStatus {
        uri: uri.clone(),
        connected: server.link.is_some(),
        last_error: None,
        is_gone: false,
        bad: Default::default(),
        away_ms: None,
        requests_waiting: 0,
        slow_ms: None,
        more: Vec::new(),
    });
    Some(Status {
        pid: server.pid,
        id: at.key.id.to_string(),
        generation: at.key.generation.0,
        size_bytes: engine.bytes_total,
        phase: Phase::of_map(engine.phase),
        source,
        export: server.exports.map(|port| SocketAddr::from(([10, 0, 0, 1], port))),
        secured: false,
        guest_socket: format!("/sim/volumes/{}/guest.sock", at.key).into(),
        guests: 0,
        readers: readers(state, at),
        hydration: hydration(server),
        budget_bytes_per_s: None,
        share_bytes_per_s: None,
        frontends: Vec::new(),
        guard_us: None,
        guard_bytes_per_s: None,
        guest_p99_us: None,
        mismatches: Vec::new(),
        loss_policy: LossPolicy::Wait,
        snapshots: Vec::new(),
        finish_by_ms: None,
        expected_end_ms: None,
        marks: marks(server),
        precopy: server.precopy.status(),
        born_from: crate::base::born_from(state, at),
        bytes_changed: crate::base::bytes_changed(state, at),
        base: crate::base::status(state, at),
        hydration_held: server.base.is_held,
        disk_trouble: None,
        store_failed: engine.store_failed,
        store_bytes_allocated: copy.data.bytes_used(),
    })
}

fn marks(server: &Server) -> Vec<MarkStatus> {
    let marks = server.engine.marks().iter();
    let told = |changed: u64| changed * BYTES_TOLD;
    marks.map(|(mark, changed)| MarkStatus { mark: mark.0, bytes_changed: told(changed.bytes()) }).collect()
}

fn readers(state: &State, at: At) -> u32 {
    let servers = state.hosts.iter().flat_map(|host| host.servers.values());
    let reads = |server: &&Server| server.link.is_some_and(|link| link.to == at);
    u32::try_from(servers.filter(reads).count()).expect("there are few servers")
}

fn hydration(server: &Server) -> Hydration {
    let engine = server.engine.status();
    Hydration {
        complete: engine.complete,
        bytes_total: engine.bytes_total,
        bytes_local: engine.bytes_local,
        bytes_remote: engine.bytes_remote,
        bytes_fetched: engine.bytes_fetched,
        bytes_from_base: engine.bytes_from_base,
        bytes_zero: engine.bytes_zero_skipped,
        bytes_verified: engine.bytes_verified,
        cold_reads: engine.cold_reads,
        fetch_errors: engine.fetch_errors,
        ..Hydration::default()
    }
}
