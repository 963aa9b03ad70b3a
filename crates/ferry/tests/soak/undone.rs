//! A way back during which either agent is killed: whatever dies, when it is back the machine comes home with all it wrote,
//! whether its disk had all arrived over there or not.

use super::{Soak, has_booted};
use crate::support::moments::Die;
use crate::support::until;
use ferry_api::{Job, JobId, JobKind, JobState};

/// When the worker that the machine leaves again dies: behind each entry of its journal, and before those that say what was
/// done at the other worker.
const LEADER_DIES: [&str; 20] = [
    "after started",
    "after done:Plan",
    "after begun:Reserve",
    "before done:Reserve",
    "after done:Reserve",
    "before done:Prepare",
    "after done:Prepare",
    "after done:Stop",
    "after done:Seal",
    "before done:HandOver",
    "after done:HandOver",
    "before done:Activate",
    "after done:Activate",
    "after done:Boot",
    "before done:Hydrate",
    "after done:Hydrate",
    "after done:Verify",
    "after begun:Retire",
    "before done:Retire",
    "after done:Retire",
];
/// When the worker that it comes back to dies.
const HOME_DIES: [&str; 8] = [
    "before crossing:reserved",
    "after crossing:reserved",
    "after crossing:prepared",
    "before call activate",
    "after crossing:activated",
    "after call activate",
    "after call boot",
    "before crossing:settled",
];

#[test]
fn a_machine_comes_home_with_all_it_wrote_whenever_the_agent_it_leaves_dies() {
    let mut soak = Soak::start(1, "");
    for (round, at) in LEADER_DIES.into_iter().enumerate() {
        soak.there_and_back(1, at, round % 2 == 0);
    }
}

#[test]
fn a_machine_comes_home_with_all_it_wrote_whenever_the_agent_at_home_dies() {
    let mut soak = Soak::start(1, "");
    for (round, at) in HOME_DIES.into_iter().enumerate() {
        soak.there_and_back(0, at, round % 2 == 0);
    }
}

impl Soak {
    /// From the first worker to the second and back, on which the agent of `dies` is killed at a moment. With `hurries` while
    /// the disk still follows.
    fn there_and_back(&mut self, dies: usize, at: &str, hurries: bool) {
        println!("undone: worker {} dies {at}", dies + 1);
        let there: Job = self.here().ask(&["move", "writer", "--to", "w2", "--detach"]);
        self.come_to(there.id, hurries);
        self.here = 1;
        self.wait_for_records();
        let worker = &self.cluster.workers[dies];
        worker.kill();
        worker.start_wishing(&[Die(at)]);
        // It may die before it answers.
        let said = self.here().ferry(&["move", "--undo", "writer", "--detach"]);
        assert!(matches!(said.code, Some(0 | 1 | 3)), "{said:?}");
        let worker = &self.cluster.workers[dies];
        worker.wait_for_end();
        worker.start();
        let back = self.last_move_here();
        self.come_to(back, false);
        self.here = 0;
        // The first move has ended, too, whatever it was at.
        self.come_to(there.id, false);
        self.check();
    }

    /// The move of the worker that the machine is on which was taken on last.
    fn last_move_here(&self) -> JobId {
        let jobs: Vec<Job> = self.here().ask(&["job", "list"]);
        let moves = jobs.iter().filter(|job| matches!(job.kind, JobKind::Move { .. }));
        moves.map(|job| job.id).max().expect("it has taken one on")
    }

    /// Waits until a job of the machine's worker has succeeded, or with `booted` at least started the machine.
    fn come_to(&self, job: JobId, booted: bool) {
        until("the move gets on", || {
            let job = self.job(job)?;
            let is_undone = matches!(job.state, JobState::Failed | JobState::Cancelled | JobState::Unwinding);
            assert!(!is_undone, "{job:#?}");
            (job.state == JobState::Succeeded || (booted && has_booted(&job))).then_some(())
        });
    }
}
