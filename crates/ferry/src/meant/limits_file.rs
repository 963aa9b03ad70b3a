//! The part of a machine's file that says what it may use at most.

use crate::output::bytes::{parse_size, whole_bytes};
use ferry_api::Limits;
use serde::{Deserialize, Deserializer, Serialize};
use std::num::{NonZeroU32, NonZeroU64};

/// Thousandths of a processor.
const MILLIS: f64 = 1000.0;

/// Limits as a person writes them down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsInFile {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "memory")]
    memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "cpus")]
    cpus: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pids: Option<NonZeroU32>,
}

impl LimitsInFile {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl From<LimitsInFile> for Limits {
    fn from(file: LimitsInFile) -> Self {
        Self {
            // Both were checked when they were read.
            memory_bytes: file.memory.and_then(|text| bytes(&text).ok()),
            cpu_millis: file.cpus.and_then(|cpus| millis(cpus).ok()),
            pids: file.pids,
        }
    }
}

impl From<Limits> for LimitsInFile {
    fn from(limits: Limits) -> Self {
        Self {
            memory: limits.memory_bytes.map(|bytes| whole_bytes(bytes.get())),
            cpus: limits.cpu_millis.map(|millis| f64::from(millis.get()) / MILLIS),
            pids: limits.pids,
        }
    }
}

fn bytes(text: &str) -> Result<NonZeroU64, String> {
    let bytes = parse_size(text)?;
    NonZeroU64::new(bytes).ok_or_else(|| "a machine needs some memory; give it as in \"512MiB\"".to_owned())
}

fn millis(cpus: f64) -> Result<NonZeroU32, String> {
    let millis = (cpus * MILLIS).round();
    // The cast ends at the limits of the number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    let whole = NonZeroU32::new(millis as u32).filter(|whole| f64::from(whole.get()) == millis);
    whole.ok_or_else(|| format!("{cpus} is no number of processors; give it as in 1.5, at least 0.001"))
}

/// Checked here, so that the line is told.
fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    bytes(&text).map_err(serde::de::Error::custom)?;
    Ok(Some(text))
}

/// As [`memory`].
fn cpus<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let cpus = f64::deserialize(from)?;
    millis(cpus).map_err(serde::de::Error::custom)?;
    Ok(Some(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_thousandths() {
        assert_eq!(millis(1.5).unwrap().get(), 1500);
        assert_eq!(millis(0.1).unwrap().get(), 100);
        for none in [0.0, 0.0001, -1.0, f64::NAN, f64::INFINITY] {
            assert!(millis(none).is_err(), "{none}");
        }
    }
}
