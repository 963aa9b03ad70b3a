//! Moves of real agents that wait: for later, and for their turn.

use crate::house::{a_moment, machine, workers};
use ferry_api::{
    AgentApi, AskJobs, CancelMove, Job, JobState, MachineState, MoveMode, StartMove, StartMoves,
};

const DAY_MS: u64 = 86_400_000;

fn later(name: &str) -> StartMove {
    StartMove {
        after_ms: Some(DAY_MS),
        within_ms: Some(DAY_MS),
        ..StartMove::new(name.parse().unwrap(), "w2".parse().unwrap())
    }
}

fn waits_a_day(job: &Job) -> bool {
    let until_ms = job.waiting.as_ref().and_then(|waiting| waiting.until_ms).unwrap();
    job.state == JobState::Waiting && until_ms.abs_diff(job.created_at_ms + DAY_MS) < 60_000
}

#[tokio::test]
async fn a_move_for_later_leaves_its_machine_alone_until_it_begins_also_when_the_agent_was_killed() {
    let mut workers = workers(["", ""]).await;
    workers[0].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let job = workers[0].door().move_start(later("web")).await.unwrap();
    assert!(waits_a_day(&job), "{job:?}");
    workers[0].kill().await;
    workers[0].start().await;
    let web = "web".parse().unwrap();
    let stopped = workers[0].door().machine_stop(&web).await.unwrap();
    assert_eq!((stopped.state, stopped.job), (MachineState::Stopped, None));
    workers[0].door().machine_start(&web).await.unwrap();
    assert!(waits_a_day(&workers[0].door().job(job.id).await.unwrap()));
    workers[0].door().job_resume(job.id).await.unwrap();
    let ended = workers[0].finished(job.id).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:?}");
    for worker in workers {
        worker.end().await;
    }
}

#[tokio::test]
async fn a_move_for_later_is_cancelled_by_the_name_of_its_machine() {
    let workers = workers(["", ""]).await;
    workers[0].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let job = workers[0].door().move_start(later("web")).await.unwrap();
    workers[0].door().move_cancel(CancelMove { machine: "web".parse().unwrap() }).await.unwrap();
    let ended = workers[0].finished(job.id).await;
    assert_eq!(ended.state, JobState::Cancelled);
    assert!(ended.steps.iter().all(|step| step.attempts == 0), "{ended:?}");
    for worker in workers {
        worker.end().await;
    }
}

#[tokio::test]
async fn moves_beyond_the_limit_wait_for_their_turn_and_all_arrive() {
    let workers = workers(["moves_at_once = 1", ""]).await;
    let names = ["a", "b", "c"];
    let mut jobs = Vec::new();
    for name in names {
        workers[0].door().machine_create(machine(name, "exec sleep 1000")).await.unwrap();
    }
    for name in names {
        let start = StartMove::new(name.parse().unwrap(), "w2".parse().unwrap());
        jobs.push(workers[0].door().move_start(start).await.unwrap().id);
    }
    let mut ends = Vec::new();
    for job in jobs {
        let ended = workers[0].finished(job).await;
        assert_eq!(ended.state, JobState::Succeeded, "{ended:?}");
        ends.push((ended.steps[0].started_at_ms.unwrap(), ended.finished_at_ms.unwrap()));
    }
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two at once: {ends:?}");
    for worker in workers {
        worker.end().await;
    }
}

fn several(names: [&str; 3], after_ms: Option<u64>) -> StartMoves {
    StartMoves {
        machines: names.map(|name| name.parse().unwrap()).to_vec(),
        to: "w2".parse().unwrap(),
        retention_hours: None,
        at_ms: None,
        after_ms,
        within_ms: None,
        mode: MoveMode::Cold,
        undo_unhealthy: false,
        force: false,
    }
}

fn states(parent: &Job) -> Vec<Option<JobState>> {
    parent.children.iter().map(|child| child.state).collect()
}

#[tokio::test]
async fn a_child_that_fails_stops_none_of_the_others_and_the_parent_tells_also_over_a_kill() {
    let mut workers = workers(["", ""]).await;
    for name in ["a", "b", "c"] {
        workers[0].door().machine_create(machine(name, "exec sleep 1000")).await.unwrap();
    }
    // The name is taken over there.
    workers[1].door().machine_create(machine("b", "exec sleep 1000")).await.unwrap();
    let parent = workers[0].door().moves_start(several(["a", "b", "c"], None)).await.unwrap().id;
    workers[0].kill().await;
    workers[0].start().await;
    let ended = workers[0].finished(parent).await;
    assert_eq!(ended.state, JobState::Failed, "{ended:?}");
    let reason = ended.reason.as_ref().unwrap();
    assert!(reason.starts_with("Arrive: 1 of 3 machines did not move (b: "), "{reason}");
    let (good, bad) = (Some(JobState::Succeeded), Some(JobState::Failed));
    assert_eq!(states(&ended), [good, bad, good]);
    let child = workers[0].door().job(ended.children[0].job).await.unwrap();
    assert_eq!(child.parent, Some(parent));
    assert!(matches!(workers[0].machine("b").await.state, MachineState::Running { .. }));
    for worker in workers {
        worker.end().await;
    }
}

#[tokio::test]
async fn cancelling_the_parent_cancels_the_children_that_are_not_handed_over() {
    let workers = workers(["", ""]).await;
    for name in ["a", "b", "c"] {
        workers[0].door().machine_create(machine(name, "exec sleep 1000")).await.unwrap();
    }
    let parent = workers[0].door().moves_start(several(["a", "b", "c"], Some(DAY_MS))).await.unwrap().id;
    let waiting = || async {
        let job = workers[0].door().job(parent).await.unwrap();
        (states(&job) == [Some(JobState::Waiting); 3]).then_some(job)
    };
    let children = loop {
        if let Some(job) = waiting().await {
            break job.children;
        }
        a_moment().await;
    };
    workers[0].door().job_resume(children[0].job).await.unwrap();
    workers[0].finished(children[0].job).await;
    workers[0].door().job_cancel(parent).await.unwrap();
    let ended = workers[0].finished(parent).await;
    assert_eq!(ended.state, JobState::Cancelled, "{ended:?}");
    let cancelled = Some(JobState::Cancelled);
    assert_eq!(states(&ended), [Some(JobState::Succeeded), cancelled, cancelled]);
    for worker in workers {
        worker.end().await;
    }
}

#[tokio::test]
async fn machines_that_are_named_twice_or_not_here_are_refused_before_anything_begins() {
    let workers = workers(["", ""]).await;
    workers[0].door().machine_create(machine("a", "exec sleep 1000")).await.unwrap();
    for (names, said) in [(["a", "a", "a"], "named twice"), (["a", "x", "y"], "x")] {
        let refused = workers[0].door().moves_start(several(names, None)).await.unwrap_err();
        assert!(refused.message.contains(said), "{refused}");
    }
    assert_eq!(workers[0].door().jobs(AskJobs::default()).await.unwrap(), []);
    for worker in workers {
        worker.end().await;
    }
}
