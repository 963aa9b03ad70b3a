//! Deletes the copies that were retired, when the time has come until which they are kept.
//!
//! Invariant: what is to be deleted, and when, is in the records and nowhere else; so a restart forgets nothing.

use std::future::Future;

use ferry_api::{ApiError, VolumeKey};

use super::Clock;

/// Longest time between two looks at what is due, in milliseconds.
const LOOK_MS: u64 = 60_000;

/// The retired copies of this worker.
pub trait Attic: Send + Sync + 'static {
    /// All of them, each with the time when it is to be deleted, in milliseconds since 1970.
    fn retired(&self) -> impl Future<Output = Result<Vec<(VolumeKey, u64)>, ApiError>> + Send;

    /// Deletes one: its server, its directory, then its record. May be repeated.
    fn delete(&self, copy: VolumeKey) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Returns when something was retired lately.
    fn news(&self) -> impl Future<Output = ()> + Send;
}

/// Deletes for ever what is due. A copy that cannot be deleted is tried again at the next look.
pub async fn reap<A: Attic, C: Clock>(attic: &A, clock: &C) {
    loop {
        let next_ms = match reap_once(attic, clock.now_ms()).await {
            Ok(next_ms) => next_ms,
            Err(error) => {
                tracing::warn!(%error, "cannot look which copies of volumes are to be deleted");
                None
            }
        };
        let look_ms = clock.now_ms().saturating_add(LOOK_MS);
        tokio::select! {
            biased;
            () = clock.sleep_until(next_ms.map_or(look_ms, |next_ms| next_ms.min(look_ms))) => {}
            () = attic.news() => {}
        }
    }
}

/// Deletes what is due at `now_ms`; answers when the next copy will be.
async fn reap_once<A: Attic>(attic: &A, now_ms: u64) -> Result<Option<u64>, ApiError> {
    let mut next_ms: Option<u64> = None;
    for (copy, until_ms) in attic.retired().await? {
        if until_ms > now_ms {
            next_ms = Some(next_ms.map_or(until_ms, |next| next.min(until_ms)));
            continue;
        }
        match attic.delete(copy).await {
            Ok(()) => tracing::info!(%copy, "deleted a copy that was kept after its volume had moved"),
            Err(error) => tracing::warn!(%copy, %error, "cannot delete a retired copy; it is tried again"),
        }
    }
    Ok(next_ms)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ferry_api::{ErrorCode, Generation, VolumeId};

    use super::*;

    struct Shelf {
        copies: Mutex<Vec<(VolumeKey, u64)>>,
        stuck: Mutex<Option<VolumeKey>>,
    }

    impl Attic for Shelf {
        async fn retired(&self) -> Result<Vec<(VolumeKey, u64)>, ApiError> {
            Ok(self.copies.lock().unwrap().clone())
        }

        async fn delete(&self, copy: VolumeKey) -> Result<(), ApiError> {
            if *self.stuck.lock().unwrap() == Some(copy) {
                return Err(ApiError::new(ErrorCode::Internal, "the directory is not empty"));
            }
            self.copies.lock().unwrap().retain(|(key, _)| *key != copy);
            Ok(())
        }

        async fn news(&self) {
            std::future::pending().await
        }
    }

    fn shelf(until_ms: &[u64]) -> Shelf {
        let generation = Generation::FIRST;
        let copies =
            until_ms.iter().map(|until_ms| (VolumeKey { id: VolumeId::fresh(), generation }, *until_ms));
        Shelf { copies: Mutex::new(copies.collect()), stuck: Mutex::new(None) }
    }

    #[tokio::test]
    async fn a_copy_is_deleted_when_its_time_has_come_and_not_before() {
        let shelf = shelf(&[100, 200, 300]);
        assert_eq!(reap_once(&shelf, 99).await, Ok(Some(100)));
        assert_eq!(reap_once(&shelf, 200).await, Ok(Some(300)));
        assert_eq!(shelf.copies.lock().unwrap().len(), 1);
        assert_eq!(reap_once(&shelf, 300).await, Ok(None));
        assert!(shelf.copies.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_copy_that_cannot_be_deleted_does_not_keep_the_others() {
        let shelf = shelf(&[100, 100]);
        let stuck = shelf.copies.lock().unwrap()[0].0;
        *shelf.stuck.lock().unwrap() = Some(stuck);
        assert_eq!(reap_once(&shelf, 100).await, Ok(None));
        assert_eq!(*shelf.copies.lock().unwrap(), [(stuck, 100)]);
        *shelf.stuck.lock().unwrap() = None;
        assert_eq!(reap_once(&shelf, 100).await, Ok(None));
        assert!(shelf.copies.lock().unwrap().is_empty());
    }
}
