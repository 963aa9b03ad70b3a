//! What a drain said that it would do, beside what came of it.

use super::machines::Guest;
use crate::support::cluster::Worker;
use ferry_api::{DrainPlan, Job, JobKind, JobState, JobStep, PlannedMove, WorkerName};
use std::io::Write;

const MIB: f64 = 1024.0 * 1024.0;

/// A drain, and its moves so far.
pub struct Outcome {
    drain: Job,
    moves: Vec<Job>,
}

impl Outcome {
    /// Looks at the drain on the worker that was drained.
    pub fn of(drain: Job, worker: &Worker) -> Self {
        let moves = drain.children.iter().map(|child| worker.ask(&["job", "show", &child.job.to_string()]));
        Self { moves: moves.collect(), drain }
    }

    /// Where a machine went; none if no move of it succeeded.
    pub fn went_to<'a>(&'a self, machine: &'a str) -> Option<&'a WorkerName> {
        target(self.move_of(machine)?)
    }

    /// Where those of its moves go that have not ended.
    pub fn unfinished(&self) -> Vec<&WorkerName> {
        self.moves.iter().filter(|job| !job.state.is_final()).filter_map(target).collect()
    }

    fn moves_of<'a>(&'a self, machine: &'a str) -> impl Iterator<Item = &'a Job> {
        self.moves.iter().filter(
            move |job| matches!(&job.kind, JobKind::Move { machine_name, .. } if machine_name.as_str() == machine),
        )
    }

    fn move_of<'a>(&'a self, machine: &'a str) -> Option<&'a Job> {
        self.moves_of(machine).find(|job| job.state == JobState::Succeeded)
    }

    /// Tells both, a line for each machine, also where the test runner shows nothing of what it captures.
    pub fn tell(&self, plan: &DrainPlan, guests: &[Guest]) {
        let took_s = (self.drain.finished_at_ms.unwrap() - self.drain.created_at_ms).div_ceil(1_000);
        let ends =
            plan.ends_after_ms().map_or("not known".to_owned(), |ms| format!("{} s", ms.div_ceil(1_000)));
        let mut lines = vec![
            format!(
                "drain of {}: planned {} machines in {} turns, {:.1} MiB, over after {ends}; was over after {took_s} s, {} moves",
                plan.from,
                plan.moves().count(),
                plan.waves(),
                plan.bytes() as f64 / MIB,
                self.moves.len(),
            ),
            format!(
                "{:<12}{:>5} {:<12}{:>6}  {:>21}  {:>12}  {:>19}  {:>17}",
                "MACHINE", "TURN", "TO", "TRIES", "DOWN", "ITS OWN LOG", "CROSSED", "WHOLE AFTER"
            ),
        ];
        lines.extend(plan.machines.iter().map(|planned| self.line(planned, guests)));
        writeln!(std::io::stderr().lock(), "{}", lines.join("\n")).expect("stderr takes lines");
    }

    /// Each figure as planned, and what it was.
    fn line(&self, planned: &PlannedMove, guests: &[Guest]) -> String {
        let name = planned.machine_name.as_str();
        let Some(job) = self.move_of(name) else { return format!("{name}: did not move") };
        let or_unknown = |ms: Option<u64>| ms.map_or("?".to_owned(), |ms| ms.to_string());
        let seconds = |ms: Option<u64>| ms.map_or("?".to_owned(), |ms| format!("{:.1}", ms as f64 / 1e3));
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB);
        let to = planned.to.as_ref().map_or("-", WorkerName::as_str);
        let guest = guests.iter().find(|guest| guest.name == name).expect("all machines are the fleet's");
        let own = guest.longest_pause_ms(
            self.drain.created_at_ms * 1_000_000..self.drain.finished_at_ms.unwrap() * 1_000_000,
        );
        let whole_ms =
            step(job, "Hydrate").and_then(|step| step.finished_at_ms).map(|at| at - self.drain.created_at_ms);
        format!(
            "{name:<12}{:>5} {:<12}{:>6}  {:>21}  {:>12}  {:>19}  {:>17}",
            planned.wave.unwrap_or(0),
            format!("{to} -> {}", target(job).map_or("-", WorkerName::as_str)),
            self.moves_of(name).count(),
            format!("{} -> {} ms", or_unknown(planned.interruption.down_ms()), or_unknown(down_ms(job))),
            own.map_or("-".to_owned(), |ms| format!("{ms} ms")),
            format!("{} -> {} MiB", mib(planned.bytes_in_use), mib(crossed_bytes(job))),
            format!("{} -> {} s", seconds(planned.whole_after_ms), seconds(whole_ms)),
        )
    }
}

/// Where a move goes.
pub fn target(job: &Job) -> Option<&WorkerName> {
    let JobKind::Move { to, .. } = &job.kind else { return None };
    Some(to)
}

fn step<'a>(job: &'a Job, name: &str) -> Option<&'a JobStep> {
    job.steps.iter().find(|step| step.step == name)
}

/// From when its volumes were being sealed to when its first process ran.
fn down_ms(job: &Job) -> Option<u64> {
    Some(step(job, "Boot")?.finished_at_ms?.saturating_sub(step(job, "Seal")?.started_at_ms?))
}

/// What crossed ahead, and what was fetched after.
fn crossed_bytes(job: &Job) -> u64 {
    let memo = |name| step(job, name).and_then(|step| step.memo.as_ref());
    let rounds = memo("Prepare").and_then(|memo| memo["ahead"]["rounds"].as_array());
    let ahead = rounds.into_iter().flatten().filter_map(|round| round["bytes"].as_u64());
    let volumes = memo("Verify").and_then(|memo| memo["volumes"].as_array());
    let after =
        volumes.into_iter().flatten().filter_map(|volume| volume["counted"]["bytes_fetched"].as_u64());
    ahead.chain(after).sum()
}
