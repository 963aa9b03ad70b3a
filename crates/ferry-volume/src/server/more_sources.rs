//! Sources that are added and taken away while the volume is served: which may stand beside the first.

use super::Server;
use super::command::{refused, whole_story};
use super::source::Source;
use crate::SourceUri;
use crate::base::ferry_export;
use crate::control::{Answer, StandIn};
use crate::directory::VolumeConfig;

/// Sources that a volume has at a time, with the first.
const SOURCES_MAX: usize = 4;

impl VolumeConfig {
    /// All sources, the preferred one first.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &SourceUri> {
        self.source.iter().chain(&self.more_sources)
    }

    /// Another first source. Those that cannot stand beside it go; and if it is another copy than the first, what was known
    /// of that one goes, too: what it was made from, and what this copy is.
    pub(crate) fn set_source(&mut self, uri: SourceUri) {
        self.more_sources.retain(|more| *more != uri && may_stand_beside(more, &uri));
        if self.source.as_ref().is_some_and(|first| ferry_export(first) != ferry_export(&uri)) {
            self.base = None;
            self.born_from = None;
        }
        self.source = Some(uri);
    }

    pub(crate) fn forget_sources(&mut self) {
        self.source = None;
        self.more_sources.clear();
        self.base = None;
    }
}

impl Server {
    pub(super) fn add_source(&mut self, uri: &str) -> Answer {
        let uri: SourceUri = match uri.parse() {
            Ok(uri) => uri,
            Err(e) => return refused(whole_story(&e)),
        };
        let config = &self.store.config;
        let Some(first) = &config.source else {
            return refused("the volume has no source, so it needs no second one".to_owned());
        };
        if config.sources().any(|known| *known == uri) {
            return Answer::Done;
        }
        if !may_stand_beside(&uri, first) {
            return refused(format!(
                "{uri} is another volume or another generation than {first}; add a copy of the same generation"
            ));
        }
        if config.sources().count() >= SOURCES_MAX {
            return refused(format!(
                "the volume has {SOURCES_MAX} sources already; remove one of them first"
            ));
        }
        self.change_sources(|config| config.more_sources.push(uri))
    }

    pub(super) fn remove_source(&mut self, uri: &str) -> Answer {
        let uri: SourceUri = match uri.parse() {
            Ok(uri) => uri,
            Err(e) => return refused(whole_story(&e)),
        };
        if self.store.config.source.as_ref() == Some(&uri) {
            return refused(format!(
                "{uri} is what the volume was made from and stays its first source; only what was added can be removed"
            ));
        }
        self.change_sources(|config| config.more_sources.retain(|more| *more != uri))
    }

    pub(super) fn change_sources(&mut self, change: impl FnOnce(&mut VolumeConfig)) -> Answer {
        if let Err(e) = self.store.describe(change) {
            return refused(whole_story(&e));
        }
        self.follow_source();
        Answer::Done
    }

    pub(super) fn more_sources_status(&self) -> Vec<StandIn> {
        let stand_in = |uri: &SourceUri| {
            let source = self.sources.at(uri);
            StandIn {
                uri: uri.to_string(),
                connected: source.is_some_and(Source::is_connected),
                last_error: source.and_then(Source::last_error).map(str::to_owned),
            }
        };
        self.store.config.more_sources.iter().map(stand_in).collect()
    }
}

/// Whether a source may stand in for the first: both are the same volume at the same generation, as Ferry names exports,
/// or it is a foreign one, for which whoever adds it vouches.
fn may_stand_beside(uri: &SourceUri, first: &SourceUri) -> bool {
    ferry_export(uri).is_none_or(|export| ferry_export(first) == Some(export))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_generation_or_a_foreign_source_stands_in() {
        let uri = |text: &str| text.parse::<SourceUri>().unwrap();
        let first = uri("nbd://10.0.0.1:1/01JD9Z6M4Q5R6S7T8V9WAXBYCZ@1");
        for (text, may) in [
            ("nbd://10.0.0.2:7/01JD9Z6M4Q5R6S7T8V9WAXBYCZ@1", true),
            ("nbd://10.0.0.2:7/01JD9Z6M4Q5R6S7T8V9WAXBYCZ@2", false),
            ("nbd://10.0.0.2:7/01JD9Z6M4Q5R6S7T8V9WAXBYC0@1", false),
            ("nbd://10.0.0.2:7/01JD9Z6M4Q5R6S7T8V9WAXBYCZ@1~01JD9Z6M4Q5R6S7T8V9WAXBYC9", false),
            ("nbd://10.0.0.2:7/backup", true),
            ("file:///srv/backup.raw", true),
        ] {
            assert_eq!(may_stand_beside(&uri(text), &first), may, "{text}");
        }
    }
}
