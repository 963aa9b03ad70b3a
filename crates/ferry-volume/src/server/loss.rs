//! What is told of the source: whether it is there, and what it cannot give.

use super::{Server, Source};
use crate::control::{BAD_RANGES_LISTED_MAX, BadRanges, SourceStatus, Span};
use ferry_engine::ByteRange;

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
            connected: self.source.as_ref().is_some_and(Source::is_connected),
            last_error: self.source.as_ref().and_then(Source::last_error).map(str::to_owned),
            bad,
        })
    }

    /// Said once for each range, not at each of the tries that follow.
    pub(super) fn say_bad(&self, range: ByteRange) {
        tracing::warn!(
            offset = range.offset(),
            len_bytes = range.len_bytes(),
            "the source cannot give this range: its readers get an error; it is tried again"
        );
    }
}
