//! Appends to a journal, by the product's own records: a bench of its crate, built for release.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use super::table::{Line, Samples};

const GOAL_MS: f64 = 2.0;

pub fn run(root: &Path, dir: &Path, appends: usize) -> anyhow::Result<Vec<Line>> {
    eprintln!("bench: {appends} appends");
    let dir = dir.join("appends");
    std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let arguments = ["bench", "--quiet", "--locked", "--package", "ferry-agent", "--bench", "append", "--"];
    let mut command = crate::ci::cargo(root, &arguments);
    let output = command.arg(&dir).arg(appends.to_string()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the bench of appends failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let told: Value =
        serde_json::from_slice(&output.stdout).context("the bench of appends tells something else")?;
    let millis = |name: &str| -> anyhow::Result<Vec<f64>> {
        let values = told[name].as_array().context("the bench of appends tells no times")?;
        Ok(values.iter().filter_map(Value::as_f64).map(|us| us / 1_000.0).collect())
    };
    let beside =
        format!("{} bytes written and synced {}", told["bytes"], Samples::of(millis("plain_us")?).told("ms"));
    Ok(vec![Line::new("an append to a journal", "ms", millis("append_us")?).at_most(GOAL_MS).beside(beside)])
}
