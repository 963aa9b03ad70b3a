//! What is shown of a source that is lost, or that cannot give all it should.

use ferry_api::{BadRanges, Span, VolumeSource};

use crate::output::bytes::Bytes;

/// Ranges that people are shown; `--json` has more.
const SHOWN_MAX: usize = 8;

/// The facts of a source that `volume show` adds when there is something to say.
pub fn facts(source: &VolumeSource) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if source.bad.count > 0 {
        facts.push(("bad blocks", bad_text(&source.bad)));
    }
    facts
}

fn bad_text(bad: &BadRanges) -> String {
    let noun = if bad.count == 1 { "range" } else { "ranges" };
    format!(
        "{} {noun}, {}, which the source cannot give; tried again, healed by a write: {}",
        bad.count,
        Bytes(bad.bytes),
        ranges_text(&bad.listed, bad.count)
    )
}

/// Ranges as `OFFSET+LENGTH` in bytes.
pub fn ranges_text(listed: &[Span], count: u64) -> String {
    let shown: Vec<String> =
        listed.iter().take(SHOWN_MAX).map(|span| format!("{}+{}", span.offset, span.len_bytes)).collect();
    let rest = count - shown.len() as u64;
    let more = if rest > 0 { format!(" and {rest} more (--json lists them)") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_ranges_are_shown_exactly_and_a_long_list_is_cut() {
        let listed: Vec<Span> = (0..20).map(|at| Span { offset: at * 8192, len_bytes: 4096 }).collect();
        let bad = BadRanges { bytes: 20 * 4096, count: 20, listed };
        let text = bad_text(&bad);
        assert!(text.starts_with("20 ranges, 80 KiB,"), "{text}");
        assert!(
            text.contains(": 0+4096, 8192+4096,") && text.ends_with("and 12 more (--json lists them)"),
            "{text}"
        );
        let one = BadRanges { bytes: 4096, count: 1, listed: bad.listed[..1].to_vec() };
        assert!(bad_text(&one).ends_with(": 0+4096"), "{}", bad_text(&one));
    }
}
