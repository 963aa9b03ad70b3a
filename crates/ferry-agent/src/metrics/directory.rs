//! Figures of how a worker hears of the others, where others keep what is heard.

use super::page::{Page, seconds};
use ferry_api::{Hears, HearsBy};

/// Writes them; nothing where nobody keeps it.
pub(super) fn write(page: &mut Page<'_>, hears: &Hears) -> std::fmt::Result {
    if !matches!(hears.by, HearsBy::Nats { .. }) {
        return Ok(());
    }
    let is_heard = hears.heard_ms_ago.is_some() && hears.trouble.is_none();
    let help = "1 if the bucket in which workers tell of themselves can be read and written.";
    page.one("ferry_directory_connected", help, f64::from(u8::from(is_heard)))?;
    let age = hears.heard_ms_ago.map(|ms| (Vec::new(), seconds(ms)));
    page.gauge("ferry_directory_age_seconds", "How long ago that was last so.", age)?;
    let help = "Values there that were no member's word.";
    page.counter("ferry_directory_ignored", help, [(Vec::new(), hears.ignored)])
}
