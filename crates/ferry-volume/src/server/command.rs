//! What agents ask, done. Most is answered at once; what must become durable is answered when it is.

use super::Server;
use super::asks::Asker;
use super::connection::Connection;
use super::doors::Door;
use super::requests::Origin;
use crate::control::{Answer, DiskTrouble, Hydration, Phase, Request, Status};
use crate::directory::{GUEST_SOCKET, VolumeConfig};
use crate::{Credentials, SourceUri};
use ferry_engine::{Command, EngineStatus, Errno, Event, Notice, RequestKind};
use std::net::SocketAddr;
use std::path::Path;

/// How many may be named who read over TLS: more than read at once, each worker of a small cluster.
const READERS_MAX: usize = 256;

/// A flush that an agent asked for.
pub(super) struct AskedFlush {
    asker: u64,
    then: Then,
}

/// What follows a flush.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Server {
    /// Lets something happen to an agent's connection, then does what it asks.
    pub(super) fn with_asker(&mut self, id: u64, act: impl FnOnce(&mut Asker)) {
        let Some(asker) = self.askers.get_mut(&id) else { return };
        act(asker);
        while let Some(request) = self.askers.get_mut(&id).and_then(Asker::next) {
            if let Some(answer) = self.obey(id, request) {
                self.answer(id, &answer);
            }
        }
        let Some(asker) = self.askers.get_mut(&id) else { return };
        asker.flow(&mut self.ring, id);
        if asker.is_over() {
            self.askers.remove(&id);
        }
    }

    pub(super) fn answer(&mut self, id: u64, answer: &Answer) {
        if let Some(asker) = self.askers.get_mut(&id) {
            asker.answer(answer);
            asker.flow(&mut self.ring, id);
        }
    }

    /// Does what an agent asks; no answer yet when it must first become durable.
    fn obey(&mut self, asker: u64, request: Request) -> Option<Answer> {
        match request {
            Request::Status => Some(Answer::Status(Box::new(self.status()))),
            Request::Open => self.open_guest_door(asker),
            Request::Seal => self.command(asker, Command::Seal),
            Request::Unseal => self.command(asker, Command::Unseal),
            Request::DetachSource => self.command(asker, Command::DetachSource),
            Request::PauseHydration => Some(self.pause_hydration(true)),
            Request::ResumeHydration => Some(self.pause_hydration(false)),
            Request::HoldHydration { held } => Some(self.hold_hydration(held)),
            Request::Export { listen, live } => Some(self.export(listen, live)),
            Request::Certify { dir } => Some(self.certify(&dir)),
            Request::Admit { reader } => Some(self.admit(reader)),
            Request::Expel { reader } => Some(self.expel(&reader)),
            Request::Withdraw => Some(self.withdraw()),
            Request::Receipt { of_generation, first_region, regions } => {
                Some(self.receipt(of_generation, first_region, regions))
            }
            Request::Verify { anew } => Some(self.verify(anew)),
            Request::SetSource { uri } => Some(self.set_source(&uri)),
            Request::AddSource { uri } => Some(self.add_source(&uri)),
            Request::RemoveSource { uri } => Some(self.remove_source(&uri)),
            Request::SetBase { base } => Some(self.set_base(base)),
            Request::SetBudget { bytes_per_s } => Some(self.set_budget(bytes_per_s)),
            Request::SetShare { bytes_per_s } => Some(self.set_share(bytes_per_s)),
            Request::Grow { size_bytes } => self.grow(asker, size_bytes),
            Request::SetFinishBy { at_ms } => Some(self.set_finish_by(at_ms)),
            Request::SetGuard { bound_us } => Some(self.set_guard(bound_us)),
            Request::SetLossPolicy { policy } => Some(self.set_loss_policy(policy)),
            Request::AbandonSource { lose_bytes: None, .. } => Some(self.tell_losses()),
            Request::AbandonSource { lose_bytes: Some(bytes), force } => self.abandon(asker, bytes, force),
            Request::Snapshot { id } => self.take_snapshot(asker, &id),
            Request::ForgetSnapshot { id } => self.forget_snapshot(asker, &id),
            Request::Precopy { uri, mark, since } => Some(self.begin_round(&uri, mark, since)),
            Request::Adopt { uri, since } => self.begin_adoption(asker, &uri, since),
            Request::Mark => self.set_mark(asker),
            Request::ForgetMark { mark } => self.forget_mark(asker, mark),
            Request::Flush => self.flush(AskedFlush { asker, then: Then::GoOn }),
            Request::Attach { frontend } => self.attach(asker, frontend),
            Request::Detach { frontend } => self.detach(asker, frontend),
            Request::Shutdown => {
                self.shutdown_asked.push(asker);
                self.end_frontends();
                self.end_if_asked();
                None
            }
        }
    }

    /// Goes on with a shutdown once no frontend holds the volume.
    pub(super) fn end_if_asked(&mut self) {
        if !self.frontends.are_down() {
            return;
        }
        for asker in std::mem::take(&mut self.shutdown_asked) {
            // Nobody has written a volume that stands by, and it would refuse the flush.
            if self.phase() == Phase::Standby {
                self.ending.push(asker);
                self.answer(asker, &Answer::Done);
            } else {
                self.flush(AskedFlush { asker, then: Then::End });
            }
        }
    }

    fn flush(&mut self, asked: AskedFlush) -> Option<Answer> {
        self.submit(RequestKind::Flush, None, Origin::Agent(asked));
        None
    }

    pub(super) fn command(&mut self, asker: u64, command: Command) -> Option<Answer> {
        self.commanded.push((asker, command));
        self.feed(Event::Command(command));
        None
    }

    /// A command that the engine obeys at once and without a notice.
    pub(super) fn command_at_once(&mut self, command: Command) -> Answer {
        self.feed(Event::Command(command));
        Answer::Done
    }

    /// Answers those who wait for what the engine has just told.
    pub(super) fn answer_commanded(&mut self, notice: &Notice) {
        let (command, answer) = match notice {
            Notice::Opened => (Command::Open, Answer::Done),
            Notice::Adopted => (Command::Adopt, Answer::Adopted(self.adopted())),
            Notice::Sealed => (Command::Seal, Answer::Done),
            Notice::Unsealed => (Command::Unseal, Answer::Done),
            Notice::SourceDetached => (Command::DetachSource, Answer::Done),
            Notice::SnapshotTaken { id } => (Command::Snapshot { id: *id }, Answer::Done),
            Notice::SnapshotForgotten { id } => (Command::ForgetSnapshot { id: *id }, Answer::Done),
            Notice::Grown { size_bytes } => (Command::Grow { size_bytes: *size_bytes }, Answer::Done),
            Notice::SourceAbandoned => (Command::AbandonSource, Answer::Done),
            Notice::Marked { mark } => (Command::Mark, Answer::Marked { mark: mark.0 }),
            Notice::MarkForgotten { mark } => (Command::ForgetMark { mark: *mark }, Answer::Done),
            Notice::CommandRefused { command, refusal } => (*command, refused(refusal.to_string())),
            Notice::CommandFailed { command, errno } => {
                (*command, refused(format!("the volume's disk failed: {}", describe(*errno))))
            }
            Notice::HydrationComplete
            | Notice::SnapshotLost { .. }
            | Notice::SourceFailed { .. }
            | Notice::SourceBad { .. }
            | Notice::KeepFailed { .. }
            | Notice::PersistFailed { .. }
            | Notice::StoreFailed { .. } => return,
        };
        // One notice for each command, in the order in which they came: a second seal is not done with the first.
        if let Some(first) = self.commanded.iter().position(|(_, asked)| *asked == command) {
            let (asker, _) = self.commanded.remove(first);
            self.answer(asker, &answer);
        }
    }

    fn certify(&mut self, dir: &Path) -> Answer {
        if self.credentials.is_some() {
            return Answer::Done;
        }
        match Credentials::load(dir) {
            Ok(credentials) => self.credentials = Some(credentials),
            Err(e) => return refused(whole_story(&e)),
        }
        // Nobody has proved who they are. Whoever may read comes back, and does.
        self.close_connections(Door::Reader);
        Answer::Done
    }

    fn admit(&mut self, reader: String) -> Answer {
        let readers = self.store.config.readers.as_deref().unwrap_or_default();
        if readers.contains(&reader) {
            return Answer::Done;
        }
        if readers.len() >= READERS_MAX {
            return refused(format!("{READERS_MAX} may read the volume already; withdraw its export first"));
        }
        self.described(|config| config.readers.get_or_insert_default().push(reader))
    }

    fn expel(&mut self, reader: &str) -> Answer {
        let theirs = |(door, connection): &(Door, Connection)| {
            *door == Door::Reader && connection.peer().is_some_and(|peer| peer == reader)
        };
        self.close_those(theirs);
        self.described(|config| {
            config.readers.iter_mut().for_each(|readers| readers.retain(|other| other != reader));
        })
    }

    /// Who may read is said again by whoever exports it, should the server end.
    fn described(&mut self, change: impl FnOnce(&mut VolumeConfig)) -> Answer {
        match self.store.describe_at_least_for_now(change) {
            Ok(()) => Answer::Done,
            Err(e) => refused(whole_story(&e)),
        }
    }

    fn export(&mut self, listen: SocketAddr, live: bool) -> Answer {
        self.offer_live(live);
        if let Some((_, bound)) = &self.reader_door {
            return Answer::Exported { listen: *bound };
        }
        match self.listen_for_readers(listen) {
            Ok(listen) => Answer::Exported { listen },
            Err(e) => refused(format!("cannot listen on {listen}: {e}; choose another export address")),
        }
    }

    fn withdraw(&mut self) -> Answer {
        self.offer_live(false);
        if let Some((listener, _)) = self.reader_door.take() {
            // Ends the accept that is under way.
            let _ = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both);
            self.close_connections(Door::Reader);
        }
        self.described(|config| (config.export, config.readers) = (None, None))
    }

    fn set_source(&mut self, uri: &str) -> Answer {
        let uri: SourceUri = match uri.parse() {
            Ok(uri) => uri,
            Err(e) => return refused(whole_story(&e)),
        };
        self.change_sources(|config| config.set_source(uri))
    }

    /// The map no longer asks for a source; the description follows.
    pub(super) fn source_detached(&mut self) {
        self.leave_source();
        self.pool.shrink();
        if let Err(e) = self.store.describe(VolumeConfig::forget_sources) {
            // The map is what counts; the name of a source that nobody asks is harmless.
            tracing::warn!(error = %e, "volume.json still names the source");
        }
    }

    /// A flush that an agent asked for is over.
    pub(super) fn flushed(&mut self, flush: &AskedFlush, result: Result<(), Errno>) {
        // A volume on standby has nothing to flush, and one that was sealed as it is nothing that could be.
        let is_as_it_is = self.phase() == Phase::Sealed && self.engine.status().store_read_only;
        let result = if self.phase() == Phase::Standby || is_as_it_is { Ok(()) } else { result };
        let answer = match result {
            Ok(()) => Answer::Done,
            Err(errno) => refused(format!("the last writes are not durable: {}", describe(errno))),
        };
        if flush.then == Then::End {
            self.ending.push(flush.asker);
        }
        self.answer(flush.asker, &answer);
    }

    fn status(&self) -> Status {
        let engine = self.engine.status();
        let count = |door| self.connections_through(door) as u32;
        Status {
            pid: std::process::id(),
            id: self.store.config.id.clone(),
            generation: self.store.config.generation,
            size_bytes: self.store.config.size_bytes,
            phase: self.phase(),
            source: self.source_status(),
            export: self.reader_door.as_ref().map(|(_, bound)| *bound),
            secured: self.credentials.is_some(),
            guest_socket: self.store.dir.join(GUEST_SOCKET),
            guests: count(Door::Guest) + self.mailbox.guests(),
            readers: count(Door::Reader),
            hydration: Hydration {
                complete: engine.complete,
                bytes_total: engine.bytes_total,
                bytes_local: engine.bytes_local,
                bytes_remote: engine.bytes_remote,
                bytes_fetched: engine.bytes_fetched,
                bytes_from_base: engine.bytes_from_base,
                bytes_zero: engine.bytes_zero_skipped,
                bytes_written_by_guest: engine.bytes_claimed_by_guest,
                bytes_verified: engine.bytes_verified,
                bytes_sick: engine.bytes_sick,
                bytes_read_ahead: engine.bytes_read_ahead,
                hot_ranges: engine.hot_ranges,
                bytes_abandoned: self.losing.bytes_lost,
                cold_reads: engine.cold_reads,
                fetch_errors: engine.fetch_errors,
                checksum_errors: engine.checksum_errors,
                rate_bytes_per_s: self.rate.bytes_per_s as u64,
            },
            budget_bytes_per_s: self.store.config.budget_bytes_per_s,
            share_bytes_per_s: self.share.at(self.now_ms()).filter(|_| !engine.complete),
            frontends: self.frontends.status(),
            guard_us: engine.guard_us,
            guard_bytes_per_s: engine.guard_bytes_per_s,
            finish_by_ms: self.store.config.finish_by_ms,
            expected_end_ms: self.expected_end_ms(),
            guest_p99_us: self.latency.p99().map(|p99| p99.as_micros() as u64),
            mismatches: self.ledger.suspects.reported(),
            loss_policy: self.store.config.loss_policy,
            snapshots: self.snapshot_status(),
            marks: self.mark_status(),
            born_from: self.born_from(),
            bytes_changed: self.bytes_changed_since_birth(),
            base: self.base_status(),
            precopy: self.precopy.status(),
            hydration_held: self.rest.is_held,
            disk_trouble: disk_trouble(&engine),
            store_failed: engine.store_failed,
            store_bytes_allocated: self.store.bytes_allocated(),
        }
    }
}

fn disk_trouble(engine: &EngineStatus) -> Option<DiskTrouble> {
    let unwritten = |errno| DiskTrouble::MapUnwritten { why: describe(errno).to_string() };
    match engine.store_read_only {
        true => Some(DiskTrouble::ReadOnly),
        false => engine.persist_failed.map(unwritten),
    }
}

pub(super) fn refused(reason: String) -> Answer {
    Answer::Refused { reason }
}

/// An error and what it came from, in one line.
pub(super) fn whole_story(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |story, cause| format!("{story}: {cause}"))
}

fn describe(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.0)
}
