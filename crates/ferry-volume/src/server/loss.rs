//! A source that is lost: what is told of it, what becomes of those who wait, and giving it up.
//!
//! Giving up takes a person who repeats the figure that the server told: what only the source has, in bytes. Nothing
//! becomes remote again, so what was told is never less than what it costs in the end.

use super::Server;
use super::command::{refused, whole_story};
use super::source::Source;
use crate::abandoned::Abandoned;
use crate::control::{
    Answer, BAD_RANGES_LISTED_MAX, BadRanges, LOSSES_LISTED_MAX, LossPolicy, Losses, SourceStatus, Span,
};
use crate::directory::{ABANDONED, DirectoryError};
use ferry_engine::{ByteRange, Command, Errno, Event, MapRecord, OpId};
use std::time::Instant;

/// What giving up the source costs, and has cost.
#[derive(Debug, Default)]
pub(super) struct Losing {
    /// The figure that was told last.
    told_bytes: Option<u64>,
    /// What is being given up: all of it is lost once the map says so.
    at_stake_bytes: u64,
    /// What was given up.
    pub(super) bytes_lost: u64,
}

impl Losing {
    /// Reads what was given up before; removes what is left of an attempt that was cut off.
    pub(super) fn found(store: &crate::store::Store, has_source: bool) -> Result<Self, DirectoryError> {
        if has_source {
            Abandoned::remove(&store.dir)?;
            return Ok(Self::default());
        }
        Ok(Self { bytes_lost: Abandoned::bytes_in(&store.dir, &store.config)?, ..Self::default() })
    }
}

impl Server {
    pub(super) fn source_status(&self) -> Option<SourceStatus> {
        let uri = self.store.config.source.as_ref()?;
        let engine = self.engine.status();
        let bad = BadRanges {
            bytes: engine.bytes_bad,
            count: engine.bad_ranges,
            listed: self.engine.bad_ranges().take(BAD_RANGES_LISTED_MAX).map(Span::from).collect(),
        };
        Some(SourceStatus {
            uri: uri.to_string(),
            connected: self.sources.at(uri).is_some_and(Source::is_connected),
            last_error: self.sources.at(uri).and_then(Source::last_error).map(str::to_owned),
            is_gone: self.sources.at(uri).is_some_and(Source::is_gone),
            more: self.more_sources_status(),
            bad,
            away_ms: engine.source_away_ms.filter(|_| !engine.complete),
            requests_waiting: engine.waiting_for_source,
            slow_ms: self.slow_ms().filter(|_| !engine.complete),
        })
    }

    fn slow_ms(&self) -> Option<u64> {
        let slow = self.sources.serving()?.slow(Instant::now())?;
        Some(slow.as_millis() as u64)
    }

    /// Said once for each range, not at each of the tries that follow.
    pub(super) fn say_bad(&self, range: ByteRange) {
        tracing::warn!(
            offset = range.offset(),
            len_bytes = range.len_bytes(),
            "the source cannot give this range: its readers get an error; it is tried again"
        );
    }

    pub(super) fn set_loss_policy(&mut self, policy: LossPolicy) -> Answer {
        match self.store.describe(|config| config.loss_policy = policy) {
            Ok(()) => self.command_at_once(Command::SetLossPolicy { policy: policy.to_engine() }),
            Err(e) => refused(whole_story(&e)),
        }
    }

    pub(super) fn tell_losses(&mut self) -> Answer {
        let mut losses = Losses { bytes: self.engine.status().bytes_remote, ..Losses::default() };
        for range in self.engine.remote_ranges() {
            losses.count += 1;
            if losses.listed.len() < LOSSES_LISTED_MAX {
                losses.listed.push(Span::from(range));
            }
        }
        self.losing.told_bytes = Some(losses.bytes);
        Answer::Losing(losses)
    }

    /// Gives up the source if `lose_bytes` is what was told.
    pub(super) fn abandon(&mut self, asker: u64, lose_bytes: u64, force: bool) -> Option<Answer> {
        let bytes = self.engine.status().bytes_remote;
        if let Some(source) = self.sources.serving().filter(|_| !force) {
            let uri = source.uri();
            return Some(refused(format!(
                "{uri} is connected, so nothing needs to be given up: wait until hydration is complete, or force it"
            )));
        }
        // A guest that writes makes it less; what was told then is still what the person agreed to.
        let was_told = self.losing.told_bytes == Some(lose_bytes) && bytes <= lose_bytes;
        if lose_bytes != bytes && !was_told {
            return Some(refused(format!(
                "giving up the source costs {bytes} bytes now, not {lose_bytes}; nothing has changed: ask what is lost, \
                 and repeat that figure"
            )));
        }
        self.command(asker, Command::AbandonSource)
    }

    /// What is lost is on disk before the map says that it is.
    pub(super) fn persist(&mut self, op: OpId, records: Vec<MapRecord>) {
        if records.last() == Some(&MapRecord::Abandoned)
            && let Err(e) = self.record_losses()
        {
            tracing::error!(error = whole_story(&e), "what giving up the source costs cannot be recorded");
            return self.inbox.push_back(Event::Done { op, result: Err(Errno::EIO) });
        }
        self.disk().persist(op, records);
    }

    fn record_losses(&mut self) -> Result<(), DirectoryError> {
        let ranges = self.engine.remote_ranges().map(Span::from).collect();
        let list = Abandoned::new(&self.store.config, ranges);
        list.write(&self.store.dir)?;
        self.losing.at_stake_bytes = list.bytes;
        Ok(())
    }

    /// The source was not given up after all.
    pub(super) fn forget_losses(&mut self) {
        if let Err(e) = Abandoned::remove(&self.store.dir) {
            // It is removed when the volume is opened next.
            tracing::warn!(error = whole_story(&e), "a list of losses that came to nothing is left");
        }
    }

    /// The map says that the source is given up; the description follows.
    pub(super) fn source_abandoned(&mut self) {
        let Some(source) = self.store.config.source.clone() else { return };
        self.losing.bytes_lost = self.losing.at_stake_bytes;
        tracing::warn!(
            %source,
            bytes = self.losing.bytes_lost,
            list = %self.store.dir.join(ABANDONED).display(),
            "the source was given up: what only it had reads as zeroes"
        );
        self.source_detached();
    }
}
