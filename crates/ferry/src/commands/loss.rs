//! `ferry volume on-source-loss` and `abandon-source`, and what is shown of a source that is lost.

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{
    AbandonSource, AgentApi, BadRanges, LossPolicy, Losses, OnSourceLoss, Span, Volume, VolumeName,
    VolumeRef, VolumeSource,
};
use std::time::Duration;

use crate::exit::Exit;
use crate::output::bytes::{Bytes, Span as Time};
use crate::output::{Paint, say, say_json};

/// Ranges that people are shown; `--json` has more.
const SHOWN_MAX: usize = 8;

pub async fn policy(agent: &Client, json: bool, volume: &VolumeRef, wish: OnSourceLoss) -> Result<Exit> {
    let volume = agent.volume_on_source_loss(volume, wish).await?;
    if json {
        say_json(&volume)?;
    } else {
        let name = Paint::for_stdout().strong(volume.name.as_str());
        say(format_args!("when the source of volume {name} is away, {}", policy_text(wish.policy)))?;
    }
    Ok(Exit::Done)
}

pub async fn abandon(agent: &Client, json: bool, volume: &VolumeRef, abandon: AbandonSource) -> Result<Exit> {
    let losses = agent.volume_abandon_source(volume, abandon).await?;
    if json {
        say_json(&losses)?;
        return Ok(Exit::Done);
    }
    let name = Paint::for_stdout().strong(&volume.to_string());
    if losses.abandoned {
        let list = losses.list.as_deref().unwrap_or("-");
        let lost = Bytes(losses.bytes);
        say(format_args!(
            "the source of volume {name} is given up: {lost} read as zeroes, listed in {list}"
        ))?;
        return Ok(Exit::Done);
    }
    say(cost_text(&name.to_string(), &volume.to_string(), &losses))?;
    Ok(Exit::Done)
}

fn cost_text(name: &str, typed: &str, losses: &Losses) -> String {
    let head = format!(
        "giving up the source of volume {name} loses {} bytes ({}) in {} ranges:",
        losses.bytes,
        Bytes(losses.bytes),
        losses.count
    );
    let lines = losses.listed.iter().map(|span| format!("  {}+{}", span.offset, span.len_bytes));
    let rest = losses.count - losses.listed.len() as u64;
    let more = (rest > 0).then(|| format!("  and {rest} more"));
    let end = format!(
        "nothing has changed; they would read as zeroes, for good, after\n  ferry volume abandon-source {typed} --lose {}",
        losses.bytes
    );
    let all: Vec<String> = [head].into_iter().chain(lines).chain(more).chain([end]).collect();
    all.join("\n")
}

/// The facts that `volume show` adds when there is something to say.
pub fn facts(volume: &Volume) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(source) = &volume.source {
        if source.is_gone {
            facts.push(("CUT OFF", cut_off_text(&volume.name)));
        }
        facts.extend(source.away_ms.map(|ms| ("SOURCE AWAY", away_text(source, ms, volume.loss_policy))));
        facts.extend(source.slow_ms.map(|ms| ("source slow", slow_text(ms))));
        facts.extend(source.more.iter().map(|more| ("stands in", super::sources::text(more))));
        if source.bad.count > 0 {
            facts.push(("bad blocks", bad_text(&source.bad)));
        }
    }
    if volume.loss_policy != LossPolicy::Wait {
        facts.push(("on loss", policy_text(volume.loss_policy)));
    }
    let lost = volume.hydration.map_or(0, |hydration| hydration.bytes_abandoned);
    if lost > 0 {
        facts.push(("GIVEN UP", format!("{} of its source; zeroes unless written since", Bytes(lost))));
    }
    facts
}

fn cut_off_text(name: &VolumeName) -> String {
    format!(
        "the snapshot that it is a fork of ended before all of it was here; delete {name} and fork again, or keep what is \
         here (ferry volume abandon-source {name})"
    )
}

fn away_text(source: &VolumeSource, away_ms: u64, policy: LossPolicy) -> String {
    let waiting = match source.requests_waiting {
        0 => "nobody waits for it".to_owned(),
        1 => "1 request waits for it".to_owned(),
        many => format!("{many} requests wait for it"),
    };
    format!("for {}; {waiting}; {}", Time(Duration::from_millis(away_ms)), policy_text(policy))
}

/// Said of a source that lets those wait who ask it.
pub(super) fn slow_text(slow_ms: u64) -> String {
    format!(
        "it lately sent nothing for up to {}; reads of what only it has wait so long",
        Time(Duration::from_millis(slow_ms))
    )
}

fn policy_text(policy: LossPolicy) -> String {
    match policy {
        LossPolicy::Wait => "reads of what only it has wait until it is back".to_owned(),
        LossPolicy::FailAfterMs(ms) => {
            format!("reads of what only it has fail after {}", Time(Duration::from_millis(ms.get())))
        }
    }
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
    fn what_giving_up_costs_is_told_with_the_command_that_does_it() {
        let listed = vec![Span { offset: 0, len_bytes: 4096 }, Span { offset: 1 << 20, len_bytes: 8192 }];
        let losses = Losses { abandoned: false, bytes: 12288, count: 2, listed, list: None };
        let text = cost_text("web", "web", &losses);
        assert!(
            text.contains("loses 12288 bytes (12 KiB) in 2 ranges:\n  0+4096\n  1048576+8192\n"),
            "{text}"
        );
        assert!(text.ends_with("ferry volume abandon-source web --lose 12288"), "{text}");
    }

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
