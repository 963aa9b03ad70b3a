//! Workers that are emptied, with real agents that are killed, paused and cancelled in the middle of it.

use crate::house::{Worker, a_moment, create, end, gated, is_up, runs_on, sleeper, until, workers};
use ferry_api::{
    ADDED_MS_MAX, AgentApi, AskCordon, AskDrain, DeviationKind, ErrorCode, Expected, Job, JobState,
    MachineState, PauseDrain, StartDrain, StartMove,
};
use std::num::NonZeroU32;

async fn drain(worker: &Worker, ask: AskDrain) -> Job {
    let start = StartDrain { ask, ..StartDrain::default() };
    worker.door().drain_start(start).await.unwrap().job.unwrap()
}

async fn is_safe_to_stop(worker: &Worker) -> bool {
    worker.door().worker_safe_to_stop().await.unwrap().reasons.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_runs_nothing_owes_nothing_and_takes_nothing() {
    let workers = workers(["", "", ""]).await;
    let [w1, w2, w3] = &workers;
    for name in ["a", "b", "c"] {
        create(w1, sleeper(name)).await;
    }
    w1.door().machine_stop(&"c".parse().unwrap()).await.unwrap();
    let plan = w1.door().drain_plan(AskDrain::default()).await.unwrap();
    assert_eq!((plan.moves().count(), plan.blocked().count()), (3, 0), "{plan:#?}");
    let job = drain(w1, AskDrain::default()).await;
    let job = w1.finished(job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert_eq!(w1.door().job(job.id).await.unwrap().children.len(), 3);
    assert!(is_safe_to_stop(w1).await);
    for name in ["a", "b"] {
        assert!(runs_on(w2, name).await || runs_on(w3, name).await, "{name}");
    }
    assert!(w1.door().worker().await.unwrap().cordon.is_some());
    assert_eq!(w1.door().machine_create(sleeper("d")).await.unwrap_err().code, ErrorCode::Conflict);
    // Once more there is nothing to do.
    let again = drain(w1, AskDrain::default()).await;
    assert_eq!(w1.finished(again.id).await.state, JobState::Succeeded);
    w1.door().worker_uncordon().await.unwrap();
    create(w1, sleeper("d")).await;
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_drain_of_a_worker_foresees_how_long_machines_are_down_also_after_its_agent_was_killed() {
    let mut workers = workers(["", ""]).await;
    for name in ["a", "b", "halted"] {
        create(&workers[0], sleeper(name)).await;
    }
    workers[0].door().machine_stop(&"halted".parse().unwrap()).await.unwrap();
    let foreseen = async |worker: &Worker, name: &str| {
        let plan = worker.door().drain_plan(AskDrain::default()).await.unwrap();
        plan.machines.iter().find(|one| one.machine_name.as_str() == name).unwrap().interruption
    };
    let first = foreseen(&workers[0], "a").await;
    assert_eq!((first.down_ms(), first.promised_ms), (None, first.start_ms.map(|ms| ms + ADDED_MS_MAX)));
    assert!(first.promised_ms.is_some(), "{first:?}");
    assert_eq!(foreseen(&workers[0], "halted").await, Expected::default(), "it is not down for its move");
    workers[0].kill().await;
    workers[0].start().await;
    until(async || runs_on(&workers[0], "a").await.then_some(())).await;
    assert_eq!(foreseen(&workers[0], "a").await, first);
    // Once one has moved, the others may be sealed and handed over as that was; where it is now nothing was measured.
    let start = StartMove::new("b".parse().unwrap(), "w2".parse().unwrap());
    let moved = workers[0].door().move_start(start).await.unwrap();
    assert_eq!(workers[0].finished(moved.id).await.state, JobState::Succeeded);
    let second = foreseen(&workers[0], "a").await;
    assert!(second.down_ms().is_some() && second.promised_ms.is_none(), "{second:?}");
    assert!(foreseen(&workers[1], "b").await.promised_ms.is_some());
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_goes_on_after_every_agent_was_killed_and_asked_twice_is_one() {
    let mut workers = workers(["", ""]).await;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create(&workers[0], gated("slow", &gate)).await;
    create(&workers[0], sleeper("web")).await;
    is_up(&workers[0], "slow", 1).await;
    let ask = AskDrain { max_parallel: NonZeroU32::new(1), ..AskDrain::default() };
    let job = drain(&workers[0], ask.clone()).await;
    assert_eq!(drain(&workers[0], ask.clone()).await.id, job.id);
    let other = StartDrain { ask: AskDrain { force: true, ..ask.clone() }, ..StartDrain::default() };
    let refusal = workers[0].door().drain_start(other).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Busy);
    assert!(refusal.message.contains("being drained"), "{refusal}");
    let children = async |worker: &Worker| worker.door().job(job.id).await.unwrap().children.len();
    until(async || (children(&workers[0]).await > 0).then_some(())).await;
    for index in [0, 1] {
        workers[index].kill().await;
        workers[index].start().await;
    }
    assert_eq!(drain(&workers[0], ask).await.id, job.id);
    std::fs::write(&gate, "").unwrap();
    let ended = workers[0].finished(job.id).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    assert_eq!(children(&workers[0]).await, 2, "each machine moved once");
    assert!(runs_on(&workers[1], "slow").await && runs_on(&workers[1], "web").await);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_drain_leaves_each_machine_at_home_or_across_and_the_cordon_as_it_was() {
    let workers = workers(["", ""]).await;
    let [w1, w2] = &workers;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    for name in ["db", "web"] {
        create(w1, gated(name, &gate)).await;
        is_up(w1, name, 1).await;
    }
    for (times, reason) in [(1, None), (2, Some("a bad fan"))] {
        is_up(w1, "db", times).await;
        if let Some(reason) = reason {
            let ask = AskCordon { reason: Some(reason.to_owned()) };
            w1.door().worker_cordon(ask).await.unwrap();
        }
        let one = AskDrain { max_parallel: NonZeroU32::new(1), ..AskDrain::default() };
        let job = drain(w1, one).await;
        let uncordon = w1.door().worker_uncordon().await.unwrap_err();
        assert!(uncordon.message.contains("being drained"), "{uncordon}");
        let told_to_stop = |job: &Job| job.steps.iter().any(|step| step.step == "Stop" && step.attempts > 0);
        until(async || {
            let child = w1.door().job(job.id).await.unwrap().children.first()?.job;
            Some(w1.door().job(child).await.unwrap()).filter(told_to_stop)
        })
        .await;
        assert_eq!(w1.door().drain_cancel().await.unwrap().id, job.id);
        // One that has been told to stop ends, and is started again where it is.
        std::fs::write(&gate, "").unwrap();
        let ended = w1.finished(job.id).await;
        assert_eq!(ended.state, JobState::Cancelled, "{ended:#?}");
        std::fs::remove_file(&gate).unwrap();
        for name in ["db", "web"] {
            assert!(!runs_on(w2, name).await, "{name}");
            w1.machine_when(name, |one| {
                matches!(one.state, MachineState::Running { .. }) && one.job.is_none()
            })
            .await;
        }
        let cordon = w1.door().worker().await.unwrap().cordon;
        assert_eq!(cordon.and_then(|cordon| cordon.reason).as_deref(), reason);
        assert_eq!(w1.door().drain_cancel().await.unwrap_err().code, ErrorCode::Conflict);
    }
    std::fs::write(&gate, "").unwrap();
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_drain_begins_nothing_more_until_it_is_resumed() {
    let workers = workers(["", ""]).await;
    let [w1, _] = &workers;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    for name in ["a", "b"] {
        create(w1, gated(name, &gate)).await;
        is_up(w1, name, 1).await;
    }
    let job = drain(w1, AskDrain { max_parallel: NonZeroU32::new(1), ..AskDrain::default() }).await;
    let children = async || w1.door().job(job.id).await.unwrap().children;
    until(async || (!children().await.is_empty()).then_some(())).await;
    w1.door().drain_pause(PauseDrain { paused: true }).await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let first = children().await[0].job;
    assert_eq!(w1.finished(first).await.state, JobState::Succeeded);
    // Several looks of the drain later nothing else has begun.
    for _ in 0..200 {
        a_moment().await;
    }
    assert_eq!(children().await.len(), 1);
    w1.door().drain_pause(PauseDrain { paused: false }).await.unwrap();
    assert_eq!(w1.finished(job.id).await.state, JobState::Succeeded);
    assert_eq!(children().await.len(), 2);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_carried_out_as_it_stands_or_not_at_all() {
    let workers = workers(["", "", "cpu_millis = 64000"]).await;
    let [w1, w2, w3] = &workers;
    create(w1, sleeper("web")).await;
    let mut plan = w1.door().drain_plan(AskDrain::default()).await.unwrap();
    // Not the one that fits best: a person may say so.
    plan.machines[0].to = Some("w2".parse().unwrap());
    let start = StartDrain { plan: Some(plan), ..StartDrain::default() };
    w2.door().worker_cordon(AskCordon::default()).await.unwrap();
    create(w1, sleeper("new")).await;
    let refused = w1.door().drain_start(start.clone()).await.unwrap();
    let kinds: Vec<_> = refused.deviations.iter().map(|deviation| deviation.kind).collect();
    assert!(refused.job.is_none());
    assert_eq!(kinds, [DeviationKind::TargetRefuses, DeviationKind::Came]);
    assert!(w1.door().worker().await.unwrap().cordon.is_none(), "nothing has begun");
    w2.door().worker_uncordon().await.unwrap();
    w1.door()
        .machine_destroy(&"new".parse().unwrap(), ferry_api::DestroyMachine { stop: true })
        .await
        .unwrap();
    let job = w1.door().drain_start(start).await.unwrap().job.unwrap();
    assert_eq!(w1.finished(job.id).await.state, JobState::Succeeded);
    assert!(runs_on(w2, "web").await && !runs_on(w3, "web").await);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_takes_is_told_before_anything_begins_and_while_it_goes_on() {
    let mut workers = workers(["", "region = \"north\""]).await;
    let mut db = sleeper("db");
    db.spec.placement.region = Some("south".parse().unwrap());
    create(&workers[0], db).await;
    create(&workers[0], sleeper("web")).await;
    let door = workers[0].door().clone();
    let start = |ask| StartDrain { ask, ..StartDrain::default() };
    let refusal = door.drain_start(start(AskDrain::default())).await.unwrap_err();
    for part in ["machine db cannot leave", "worker w2 is in region north and the machine belongs to south"] {
        assert!(refusal.message.contains(part), "{part}: {refusal}");
    }
    assert!(door.worker().await.unwrap().cordon.is_none());
    // Without it all others go ...
    let ask = AskDrain { except: vec!["db".parse().unwrap()], ..AskDrain::default() };
    let job = drain(&workers[0], ask.clone()).await;
    assert_eq!(workers[0].finished(job.id).await.state, JobState::Succeeded);
    assert!(runs_on(&workers[0], "db").await && runs_on(&workers[1], "web").await);
    // ... and the worker that keeps one takes machines as before, by an operator's own word none ...
    assert_eq!(door.worker().await.unwrap().cordon, None);
    let own = door.worker_cordon(AskCordon { reason: Some("a bad fan".to_owned()) }).await.unwrap().cordon;
    let job = drain(&workers[0], ask).await;
    assert_eq!(workers[0].finished(job.id).await.state, JobState::Succeeded);
    assert_eq!(door.worker().await.unwrap().cordon, own);
    door.worker_uncordon().await.unwrap();
    // ... and by force it goes, too: a target that is gone by then is waited for by a person.
    let force = AskDrain { force: true, ..AskDrain::default() };
    let plan = door.drain_plan(force.clone()).await.unwrap();
    assert!(plan.machines[0].costs[0].contains("is in region north"), "{plan:#?}");
    let job = drain(&workers[0], force).await;
    assert_eq!(workers[0].finished(job.id).await.state, JobState::Succeeded);
    assert!(runs_on(&workers[1], "db").await);
    // Two at once: neither has anywhere to go.
    let there = drain_refused(&workers[1]).await;
    assert!(there.contains("worker w1 is cordoned"), "{there}");
    workers[0].kill().await;
    let there = drain_refused(&workers[1]).await;
    assert!(there.contains("worker w1 gives no bid"), "{there}");
    workers[0].start().await;
    end(workers).await;
}

async fn drain_refused(worker: &Worker) -> String {
    worker.door().drain_start(StartDrain::default()).await.unwrap_err().message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_target_does_not_take_it_after_all_goes_to_the_next() {
    let workers = workers(["", "cpu_millis = 64000", "cpu_millis = 1000"]).await;
    let [w1, w2, w3] = &workers;
    create(w1, sleeper("web")).await;
    // Of its name its bid says nothing.
    create(w2, sleeper("web")).await;
    let job = drain(w1, AskDrain::default()).await;
    assert_eq!(w1.finished(job.id).await.state, JobState::Succeeded);
    assert!(runs_on(w3, "web").await);
    // One that somebody else moves already is waited for.
    create(w3, sleeper("db")).await;
    let start = StartMove::new("db".parse().unwrap(), "w2".parse().unwrap());
    let moved = w3.door().move_start(start).await.unwrap();
    w1.door().worker_uncordon().await.unwrap();
    let job = drain(w3, AskDrain::default()).await;
    assert_eq!(w3.finished(job.id).await.state, JobState::Succeeded);
    assert_eq!(w3.door().job(moved.id).await.unwrap().state, JobState::Succeeded);
    assert!(is_safe_to_stop(w3).await);
    end(workers).await;
}
