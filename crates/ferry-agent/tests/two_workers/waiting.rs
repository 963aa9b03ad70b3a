//! Moves of real agents that wait: for later, and for their turn.

use crate::house::{machine, workers};
use ferry_api::{AgentApi, CancelMove, Job, JobState, MachineState, StartMove};

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
