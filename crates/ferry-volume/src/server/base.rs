//! What this copy was made from, and what its source was: the copy tells others in what it differs from the one, and may be
//! read from the other where its source does not differ.

use super::Server;
use super::command::refused;
use super::source::Source;
use crate::base::Base;
use crate::control::{Answer, BaseStatus};
use ferry_engine::{BlockMap, Command, MarkId};

/// Who wants hydration to rest. Reads go on all the same.
#[derive(Default)]
pub(super) struct Rest {
    /// A person.
    is_paused: bool,
    /// An agent, since whoever reads this copy has another base for what it lacks.
    pub(super) is_held: bool,
    /// We ourselves, since the base may be there in a moment.
    waits_for_base: bool,
}

impl Server {
    /// The generation of the copy that this one was made from, while it is known in what they may differ.
    pub(super) fn born_from(&self) -> Option<u64> {
        self.changed_since_birth().and(self.store.config.born_from)
    }

    fn changed_since_birth(&self) -> Option<&BlockMap> {
        self.store.config.born_from.and(self.engine.marks().since(MarkId::BIRTH))
    }

    /// Bytes in which this copy may differ from what it was made from.
    pub(super) fn bytes_changed_since_birth(&self) -> Option<u64> {
        self.changed_since_birth().map(BlockMap::bytes)
    }

    pub(super) fn set_base(&mut self, base: Option<Base>) -> Answer {
        let config = &self.store.config;
        if let Some(base) = &base {
            if config.source.is_none() {
                return refused("the volume has no source, so it needs no base".to_owned());
            }
            if !base.is_plausible(&config.id) {
                return refused(format!(
                    "{} is not volume {} at generation {}; name the copy that the source was made from",
                    base.uri, config.id, base.generation
                ));
            }
        }
        self.change_sources(|config| config.base = base)
    }

    pub(super) fn base_status(&self) -> Option<BaseStatus> {
        let base = self.store.config.base.as_ref()?;
        let link = self.sources.base();
        Some(BaseStatus {
            uri: base.uri.to_string(),
            generation: base.generation,
            connected: link.is_some_and(Source::is_connected),
            is_used: self.sources.knows_differences(),
            last_error: link.and_then(Source::last_error).map(str::to_owned),
        })
    }

    pub(super) fn pause_hydration(&mut self, is_paused: bool) -> Answer {
        self.rest.is_paused = is_paused;
        self.rest_or_hydrate()
    }

    pub(super) fn hold_hydration(&mut self, is_held: bool) -> Answer {
        self.rest.is_held = is_held;
        self.rest_or_hydrate()
    }

    /// Lets the background wait for a base that is away, or go on.
    pub(super) fn wait_for_base(&mut self, waits: bool) {
        if waits != self.rest.waits_for_base {
            self.rest.waits_for_base = waits;
            self.rest_or_hydrate();
        }
    }

    fn rest_or_hydrate(&mut self) -> Answer {
        let Rest { is_paused, is_held, waits_for_base } = self.rest;
        let rests = is_paused || is_held || waits_for_base;
        self.command_at_once(if rests { Command::PauseHydration } else { Command::ResumeHydration })
    }
}
