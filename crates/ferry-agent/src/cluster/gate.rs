//! Who is let in: members of the newest roster, and who bears a token of the cluster's. Asked at every call.

use super::Cluster;
use crate::host::now_ms;
use ferry_api::{ApiError, Caller, ErrorCode, Gate, Presented};
use ferry_cluster::{Bearer, Identity};

impl Gate for Cluster {
    fn admit(&self, presented: Presented<'_>) -> Result<Caller, ApiError> {
        let held = self.held();
        let papers = &held.papers;
        let refused = |error: &dyn std::error::Error| ApiError::because(ErrorCode::Unauthenticated, error);
        match presented {
            Presented::Certificate(certificate) => {
                let identity = Identity::of(certificate).map_err(|error| refused(&error))?;
                papers.roster.believe(&identity.worker, identity.key).map_err(|error| refused(&error))?;
                // A connection may outlive the certificate that it was made with.
                if identity.until_ms <= now_ms() {
                    let who = &identity.worker;
                    let message = format!(
                        "the certificate of worker {who} has expired; it must renew it, see its `ferry cluster status`"
                    );
                    return Err(ApiError::new(ErrorCode::Unauthenticated, message));
                }
                Ok(Caller::Worker(identity.worker))
            }
            Presented::Token(text) => {
                let believed = Bearer::believe(text, &papers.authority, &papers.roster, now_ms());
                let bearer = believed.map_err(|error| refused(&error))?;
                Ok(Caller::Token { name: bearer.name.to_string(), role: bearer.role })
            }
        }
    }
}
