//! Taking a machine back, and cancelling its move, where that cannot be.

use super::support::cluster::Cluster;
use super::support::until;
use super::{create, create_deaf, refused};
use ferry_api::{Job, JobState, MachineState};
use rustix::process::{Pid, Signal, kill_process};
use std::thread;

#[test]
fn what_did_not_move_is_neither_taken_back_nor_cancelled() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    create(w1, "web", &["data=1MiB"]);
    let cases: [(&[&str], String); 2] = [
        (
            &["move", "--undo", "web"],
            "machine web did not come here with a move, so there is nothing to take back".to_owned(),
        ),
        (
            &["move", "--cancel", "web"],
            "machine web is not about to move; there is nothing to cancel".to_owned(),
        ),
    ];
    refused(&cluster, w1, &cases);
}

#[test]
fn a_machine_whose_worker_cannot_be_reached_is_not_taken_back_and_what_that_would_lose_is_said() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=1MiB"]);
    let there = w1.moves("web", w2).id;
    let late = format!(
        "machine web was handed over to worker w2 by job {there}, which cannot be cancelled any more; take the machine \
         back with: ferry move --undo web"
    );
    refused(&cluster, w1, &[(&["move", "--cancel", "web"], late)]);
    w2.kill();
    let there = there.to_string();
    for name in ["web", &there] {
        let said = w1.refusal(&["move", "--undo", name], 1);
        let begin =
            format!("machine web cannot be taken back while its worker w2 cannot be reached at {}", w2.url());
        let end = "what it wrote since it was handed over exists only there, so bring that worker back and ask again";
        assert!(said.starts_with(&begin) && said.ends_with(end), "{said}");
    }
}

#[test]
fn a_machine_that_has_moved_on_since_a_job_is_not_taken_back_by_the_name_of_that_job() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=1MiB"]);
    let first = w1.moves("web", w2).id.to_string();
    let back: Job = w2.ask(&["move", "--undo", "web"]);
    assert_eq!(back.state, JobState::Succeeded);
    let said = w1.refusal(&["move", "--undo", &first], 1);
    let back = back.id;
    assert_eq!(
        said,
        format!(
            "machine web has moved on since job {first}: job {back} brought it here from worker w2; say which worker it \
             shall go to (--to)"
        )
    );
}

#[test]
fn a_move_is_cancelled_by_the_name_of_its_machine_and_told_when_that_runs_again() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let web = create_deaf(w1, "web");
    let MachineState::Running { pid, .. } = web.state else { panic!("{web:?}") };
    let job: Job = w1.ask(&["move", "web", "--to", "w2", "--detach"]);
    let show = || -> Job { w1.ask(&["job", "show", &job.id.to_string()]) };
    let stops = |job: &Job| job.steps.iter().any(|step| step.step == "Stop" && step.attempts > 0);
    let asked_to_stop = until("it is asked to stop", || Some(show()).filter(stops));
    let said = w1.refusal(&["move", "--undo", "web"], 1);
    assert!(said.ends_with("cancel that with: ferry move --cancel web"), "{said}");
    let said = thread::scope(|scope| {
        let cancelling = scope.spawn(|| w1.ferry(&["move", "--cancel", "web", "--json"]));
        until("that is in the journal", || Some(show()).filter(|now| now.last_seq > asked_to_stop.last_seq));
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        cancelling.join().unwrap()
    });
    assert_eq!(said.code, Some(0), "{said:?}");
    let cancelled: Job = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((cancelled.id, cancelled.state), (job.id, JobState::Cancelled));
    let home = w1.machine("web");
    assert!(matches!(home.state, MachineState::Running { .. }), "{home:?}");
    assert_eq!(w2.belongings().volumes, Vec::<String>::new());
}
