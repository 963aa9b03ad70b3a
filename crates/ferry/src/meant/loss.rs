//! What the words about lost sources mean.

use std::num::NonZeroU64;

use ferry_api::LossPolicy;

use super::Misuse;
use crate::output::bytes::parse_span;

/// `wait` or `fail-after=SPAN`.
pub(super) fn policy(typed: &str) -> Result<LossPolicy, Misuse> {
    let how = "write wait, or fail-after=SPAN as in fail-after=30s";
    if typed == "wait" {
        return Ok(LossPolicy::Wait);
    }
    let span = typed.strip_prefix("fail-after=").and_then(|span| parse_span(span).ok());
    let span = span.ok_or_else(|| Misuse(format!("{typed:?} is no policy; {how}")))?;
    let ms = u64::try_from(span.as_millis()).ok().and_then(NonZeroU64::new);
    let ms = ms.ok_or_else(|| Misuse("fail-after is at least 1ms; for ever is wait".to_owned()))?;
    Ok(LossPolicy::FailAfterMs(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_to_wait_or_to_fail_after_a_span() {
        assert_eq!(policy("wait").unwrap(), LossPolicy::Wait);
        let after = |ms| LossPolicy::FailAfterMs(NonZeroU64::new(ms).unwrap());
        assert_eq!(policy("fail-after=30s").unwrap(), after(30_000));
        for wrong in ["", "fail", "fail-after", "fail-after=", "fail-after=0s", "fail-after=soon", "never"] {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
    }
}
