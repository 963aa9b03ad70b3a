//! The cells, in the order of the table, and what they share: alternating rounds and the volume that is cloned.

mod copying;
mod empty;
mod requests;
mod tracking;
mod waiting;
mod weight;

use std::path::PathBuf;

use ferry_volume::control::Phase;

use super::content::MIB;
use super::figures::{Comparison, Goal, Outcome, Samples, Unit, compare};
use super::volume::Volume;
use super::{Bench, interrupt};

/// The name of our own contender.
const OURS: &str = "ferry";

/// Runs every cell that was asked for; an error only when somebody asked to end.
pub fn run_all(bench: &mut Bench) -> anyhow::Result<()> {
    requests::run(bench)?;
    tracking::run(bench)?;
    cloning(bench)?;
    empty::run(bench)
}

/// The cells that clone the same sealed volume.
fn cloning(bench: &mut Bench) -> anyhow::Result<()> {
    let works: Vec<String> = copying::works(bench)
        .into_iter()
        .chain(waiting::WORKS.into_iter().chain(weight::WORKS).map(str::to_owned))
        .filter(|work| bench.wants(work))
        .collect();
    if works.is_empty() {
        return Ok(());
    }
    eprintln!("bench: filling the volume that is cloned");
    match Source::new(bench) {
        Ok(source) => {
            copying::run(bench, &source)?;
            waiting::run(bench, &source)?;
            weight::run(bench, &source)?;
            copying::run_with_tls(bench, source)
        }
        Err(error) => {
            interrupt::check()?;
            bench.keep_all(&works, &Outcome::Failed(format!("{error:#}")));
            Ok(())
        }
    }
}

/// A full volume, sealed and exported over TCP; its data file is what the others copy from.
struct Source {
    volume: Volume,
    uri: String,
    /// The certificates, when it speaks TLS.
    tls: Option<PathBuf>,
}

impl Source {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let volume = Volume::filled(&bench.ferry, bench.path("source"), bench.options.hydration_mib)?;
        let uri = volume.seal_and_export()?;
        Ok(Self { volume, uri, tls: None })
    }

    /// The same volume over mutual TLS.
    fn secured(mut self, bench: &Bench, certificates: PathBuf) -> anyhow::Result<Self> {
        let uri = self.volume.restart_with_tls(&bench.ferry, &certificates)?;
        Ok(Self { uri, tls: Some(certificates), ..self })
    }

    fn data(&self) -> PathBuf {
        self.volume.data()
    }

    /// A clone in the fresh directory `name`.
    fn clone(&self, bench: &Bench, name: &str, phase: Phase) -> anyhow::Result<Volume> {
        let size_bytes = bench.options.hydration_mib * MIB;
        let (dir, tls) = (bench.path(name), self.tls.as_deref());
        Volume::start(&bench.ferry, dir, size_bytes, phase, Some(&self.uri), tls)
    }

    /// An open clone that is connected to its source and fetches only what its guest asks for.
    fn paused_clone(&self, bench: &Bench, name: &str) -> anyhow::Result<Volume> {
        let clone = self.clone(bench, name, Phase::Standby)?;
        let mut control = clone.control()?;
        control.pause_hydration()?;
        control.open()?;
        clone.wait_for("a clone is connected to its source", |status| {
            status.source.as_ref().is_some_and(|source| source.connected)
        })?;
        Ok(clone)
    }
}

/// One sample of each contender in every round; every second round goes the other way round.
fn alternate<C>(
    rounds: usize,
    contenders: &[C],
    mut sample: impl FnMut(&C) -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut values = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let at = if round % 2 == 0 { turn } else { contenders.len() - 1 - turn };
            values[at].push(sample(&contenders[at])?);
            interrupt::check()?;
        }
    }
    Ok(values)
}

/// Names and samples together, as an outcome; the first name is ours.
fn compared(names: Vec<String>, values: Vec<Vec<f64>>, unit: Unit, goal: Goal) -> Outcome {
    let samples: Vec<Samples> =
        names.into_iter().zip(values).map(|(name, values)| Samples { name, values }).collect();
    match compare(&samples, unit, goal) {
        Some(comparison) => Outcome::Compared(comparison),
        None => Outcome::Skipped("nothing to compare with is installed".to_owned()),
    }
}

/// The same work of ours under two conditions: `theirs` is the one named `name`.
fn beside(ours: &[f64], name: &str, theirs: &[f64], unit: Unit, goal: Goal) -> Option<Comparison> {
    let samples = |name: &str, values: &[f64]| Samples { name: name.to_owned(), values: values.to_vec() };
    compare(&[samples(OURS, ours), samples(name, theirs)], unit, goal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_round_goes_the_other_way_round() {
        let mut order = String::new();
        let values = alternate(3, &['a', 'b', 'c'], |name| {
            order.push(*name);
            Ok(order.len() as f64)
        });
        assert_eq!(order, "abccbaabc");
        assert_eq!(values.unwrap(), [[1.0, 6.0, 7.0], [2.0, 5.0, 8.0], [3.0, 4.0, 9.0]]);
    }

    #[test]
    fn a_sample_that_fails_ends_the_cell() {
        assert!(alternate(2, &[1], |_| anyhow::bail!("no")).is_err());
    }
}
