//! How long a machine wrote nothing, from the moments at which its records became durable: before a move stopped it, around that,
//! and long after, when the rest of its disk still follows. Only the second is the move's interruption; the others are waits for
//! a flush on a disk that somebody else copies on.

use anyhow::Context;
use serde_json::Value;

/// So long after its boot what keeps a machine waiting still counts as its interruption, in nanoseconds.
const SETTLING_NS: u64 = 1_000_000_000;

/// When a move stopped its machine and when that was up again, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Crossed {
    stop_ns: u64,
    boot_ns: u64,
}

/// The longest gap of each time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gaps {
    pub ahead_ms: f64,
    pub away_ms: f64,
    pub after_ms: f64,
}

impl Crossed {
    /// As the move's job tells it.
    pub fn of(job: &Value) -> anyhow::Result<Self> {
        let at = |name: &str, at: &str| {
            let step = job["steps"].as_array().into_iter().flatten().find(|step| step["step"] == name);
            let ms = step.and_then(|step| step[at].as_u64());
            ms.map(|ms| ms * 1_000_000).with_context(|| format!("a move tells no {at} of its {name}"))
        };
        Ok(Self { stop_ns: at("Stop", "started_at_ms")?, boot_ns: at("Boot", "finished_at_ms")? })
    }
}

impl Gaps {
    /// Between these moments, in order and in nanoseconds since 1970.
    pub fn around(crossed: Crossed, moments_ns: &[u64]) -> Self {
        let mut gaps = Self::default();
        for pair in moments_ns.windows(2) {
            let longest = match (pair[0], pair[1]) {
                (_, end) if end < crossed.stop_ns => &mut gaps.ahead_ms,
                (begin, _) if begin <= crossed.boot_ns + SETTLING_NS => &mut gaps.away_ms,
                _ => &mut gaps.after_ms,
            };
            *longest = longest.max(ms(pair));
        }
        gaps
    }
}

/// The longest of all gaps, in milliseconds.
pub fn longest_ms(moments_ns: &[u64]) -> f64 {
    moments_ns.windows(2).map(ms).fold(0.0, f64::max)
}

fn ms(pair: &[u64]) -> f64 {
    pair[1].saturating_sub(pair[0]) as f64 / 1e6
}

/// How long each step took from the stop to the boot, in milliseconds: what an interruption consists of.
pub fn steps_told(job: &Value) -> String {
    let steps = job["steps"].as_array().into_iter().flatten();
    let told = steps
        .skip_while(|step| step["step"] != "Stop")
        .take_while(|step| step["step"] != "Hydrate")
        .map(|step| {
            let ms = |at: &str| step[at].as_u64().unwrap_or_default();
            let took_ms = ms("finished_at_ms").saturating_sub(ms("started_at_ms"));
            format!("{} {took_ms}", step["step"].as_str().unwrap_or("?"))
        });
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_wait_long_after_the_boot_is_no_interruption() {
        let steps = json!({ "steps": [
            { "step": "Stop", "started_at_ms": 100, "finished_at_ms": 110 },
            { "step": "Seal", "started_at_ms": 110, "finished_at_ms": 140 },
            { "step": "Boot", "started_at_ms": 140, "finished_at_ms": 160 },
            { "step": "Hydrate", "started_at_ms": 160, "finished_at_ms": 9_000 },
        ] });
        let crossed = Crossed::of(&steps).unwrap();
        let moments = [0, 40, 90, 170, 1_100, 1_200, 1_600, 2_000].map(|ms| ms * MS);
        let gaps = Gaps::around(crossed, &moments);
        assert_eq!(gaps, Gaps { ahead_ms: 50.0, away_ms: 930.0, after_ms: 400.0 });
        assert_eq!(longest_ms(&moments), 930.0);
        assert_eq!(steps_told(&steps), "Stop 10, Seal 30, Boot 20");
    }
}
