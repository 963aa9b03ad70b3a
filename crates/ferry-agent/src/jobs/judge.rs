//! Takes a machine back that has arrived with a move which asks for that, and is not well here.
//!
//! Invariant: what is decided of a move is in the records with the job that comes of it, in one transaction; so a machine is taken
//! back once, whichever agent dies when.

use std::future::Future;

use ferry_api::{ApiError, JobId, Machine};
use ferry_crossing::judging::{Judgement, judge};

use super::Clock;

/// Time between two looks while a machine is waited for, in milliseconds.
const LOOK_MS: u64 = 200;

/// Machines that have arrived and are to be judged.
pub trait Arrivals: Send + Sync + 'static {
    /// The moves that wait for a judgement here, each with its machine if that is still here as it arrived.
    fn waiting(&self) -> impl Future<Output = Result<Vec<(JobId, Option<Machine>)>, ApiError>> + Send;

    /// Notes that a machine stays: it is well, or why it stays all the same. Does nothing if it was judged before.
    fn stays(&self, job: JobId, why: Option<String>) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Begins to take a machine back, and notes why. Does nothing if it was judged before.
    fn take_back(&self, job: JobId, why: String) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Resolves when one may have arrived.
    fn come(&self) -> impl Future<Output = ()> + Send;
}

/// Judges for ever whatever arrives.
pub async fn judge_arrivals<A: Arrivals, C: Clock>(arrivals: &A, clock: &C) {
    loop {
        // At once: this agent may have been away while one became unwell.
        let waits = match judge_once(arrivals).await {
            Ok(waits) => waits,
            Err(error) => {
                tracing::warn!(%error, "cannot tell yet whether what arrived is well");
                true
            }
        };
        match waits {
            true => clock.sleep_until(clock.now_ms().saturating_add(LOOK_MS)).await,
            false => arrivals.come().await,
        }
    }
}

/// Judges what can be judged; tells whether something is left.
async fn judge_once<A: Arrivals>(arrivals: &A) -> Result<bool, ApiError> {
    let mut waits = false;
    for (job, now) in arrivals.waiting().await? {
        match judge(now.as_ref()) {
            Judgement::Wait => waits = true,
            Judgement::Well => arrivals.stays(job, None).await?,
            Judgement::Stays(why) => arrivals.stays(job, Some(why)).await?,
            Judgement::Unwell(why) => {
                tracing::warn!(%job, why, "a machine that arrived is not well; it is taken back");
                arrivals.take_back(job, why).await?;
            }
        }
    }
    Ok(waits)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ferry_api::{Desired, ErrorCode, Health, MachineSpec, MachineState};

    use super::*;

    /// A worker made of memory. Each call passes two points, before and after its effect; at one of them the agent dies.
    struct Inn {
        state: Mutex<State>,
        dies_at: Option<u64>,
    }

    struct State {
        points: u64,
        job: JobId,
        now: Option<Machine>,
        /// What was noted: how it ended, and the reason.
        noted: Vec<(&'static str, Option<String>)>,
    }

    impl Inn {
        fn new(health: Option<Health>, dies_at: Option<u64>) -> Self {
            let now = Machine { health, ..machine() };
            let state = State { points: 0, job: JobId::fresh(), now: Some(now), noted: Vec::new() };
            Self { state: Mutex::new(state), dies_at }
        }

        fn point(&self) -> Result<(), ApiError> {
            let mut state = self.state.lock().unwrap();
            state.points += 1;
            match self.dies_at == Some(state.points) {
                true => Err(ApiError::new(ErrorCode::Unavailable, "the agent has died")),
                false => Ok(()),
            }
        }

        /// One call, which has no effect on what was judged before.
        fn note(&self, end: &'static str, why: Option<String>) -> Result<(), ApiError> {
            self.point()?;
            {
                let mut state = self.state.lock().unwrap();
                if state.noted.is_empty() {
                    state.noted.push((end, why));
                }
            }
            self.point()
        }

        fn noted(&self) -> Vec<(&'static str, Option<String>)> {
            self.state.lock().unwrap().noted.clone()
        }
    }

    impl Arrivals for Inn {
        async fn waiting(&self) -> Result<Vec<(JobId, Option<Machine>)>, ApiError> {
            self.point()?;
            let state = self.state.lock().unwrap();
            Ok(if state.noted.is_empty() { vec![(state.job, state.now.clone())] } else { Vec::new() })
        }

        async fn stays(&self, _job: JobId, why: Option<String>) -> Result<(), ApiError> {
            self.note("stays", why)
        }

        async fn take_back(&self, _job: JobId, why: String) -> Result<(), ApiError> {
            self.note("goes back", Some(why))
        }

        async fn come(&self) {}
    }

    fn machine() -> Machine {
        Machine {
            id: ferry_api::MachineId::fresh(),
            address: None,
            name: "web".parse().unwrap(),
            worker: "beta".parse().unwrap(),
            generation: ferry_api::Generation(2),
            spec: MachineSpec::process("sleep", ["1"]),
            volumes: Vec::new(),
            desired: Desired::Running,
            state: MachineState::Running { pid: 1, since_ms: 1 },
            health: None,
            job: None,
            last_exit: None,
            start_ms: None,
            log: "log".into(),
            created_at_ms: 1,
        }
    }

    fn unwell() -> Health {
        Health::Unhealthy { since_ms: 1, why: "its head aches".to_owned() }
    }

    #[tokio::test]
    async fn what_is_unwell_is_taken_back_once_wherever_the_agent_dies() {
        let calm = Inn::new(Some(unwell()), None);
        assert!(!judge_once(&calm).await.unwrap());
        let points = calm.state.lock().unwrap().points;
        for point in 1..=points {
            let inn = Inn::new(Some(unwell()), Some(point));
            assert!(judge_once(&inn).await.is_err(), "it died at point {point}");
            // The next one finds what is durable.
            assert!(!judge_once(&inn).await.unwrap());
            assert_eq!(inn.noted(), [("goes back", Some("its head aches".to_owned()))], "point {point}");
        }
    }

    #[tokio::test]
    async fn what_was_well_once_stays() {
        let inn = Inn::new(Some(Health::Starting { why: None }), None);
        assert!(judge_once(&inn).await.unwrap(), "it waits");
        assert_eq!(inn.noted(), []);
        inn.state.lock().unwrap().now.as_mut().unwrap().health = Some(Health::Healthy { since_ms: 2 });
        assert!(!judge_once(&inn).await.unwrap());
        inn.state.lock().unwrap().now.as_mut().unwrap().health = Some(unwell());
        assert!(!judge_once(&inn).await.unwrap());
        assert_eq!(inn.noted(), [("stays", None)]);
    }
}
