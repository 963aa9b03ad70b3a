//! The word of a person that nothing is to come here.

use crate::core::Core;
use crate::records::Change;
use ferry_api::{ApiError, AskCordon, Cordon, ErrorCode};
use ferry_crossing::reckoning::cordoned;

/// Takes no machines from now on. Durable when it answers.
///
/// # Errors
/// The reason is too long; the records cannot be written.
pub(crate) async fn cordon(core: &Core, ask: AskCordon) -> Result<(), ApiError> {
    if let Some(reason) = ask.reason.as_ref().filter(|reason| reason.len() > AskCordon::REASON_BYTES_MAX) {
        let most = AskCordon::REASON_BYTES_MAX;
        let message =
            format!("the reason has {} bytes and at most {most} are kept; say it shorter", reason.len());
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let cordon = Cordon { since_ms: core.host.now_ms(), reason: ask.reason };
    Ok(core.records.change(vec![Change::Cordon(Some(cordon))]).await?)
}

/// Refuses a new machine on a worker that takes none.
///
/// # Errors
/// `Conflict`.
pub(crate) async fn refuse_if_cordoned(core: &Core) -> Result<(), ApiError> {
    match core.records.worker().await?.cordon_now() {
        None => Ok(()),
        Some(cordon) => Err(ApiError::new(ErrorCode::Conflict, cordoned(&core.config.name, &cordon))),
    }
}
