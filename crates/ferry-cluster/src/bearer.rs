//! Tokens for people and programs: what they may do, signed by the authority, so that each worker can check one by itself.
//!
//! ```text
//!   ferry-api-1.BASE64URL( JSON ).BASE64URL( signature of the JSON )
//! ```

use crate::authority::{Authority, AuthorityError, AuthorityKey};
use crate::encoding::{bytes_of, text_of};
use crate::fingerprint::Fingerprint;
use crate::roster::Roster;
use ferry_api::{Role, TokenName};
use serde::{Deserialize, Serialize};

const PREFIX: &str = "ferry-api-1.";
const PURPOSE: &str = "ferry-api-1";
/// Longest text that is looked at, in bytes.
const TEXT_BYTES_MAX: usize = 2048;
/// By how much the clocks of a cluster may differ, in milliseconds.
const SKEW_MS: u64 = 24 * 60 * 60 * 1000;

/// Why a token is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// It is something else, or not whole.
    #[error(
        "this is no API token, or not the whole of one; `ferry cluster api-token` on the cluster's first worker makes one"
    )]
    NotOne,
    /// Somebody else signed it.
    #[error("this API token is not one of this cluster")]
    Foreign,
    /// Its time is over.
    #[error("the API token {0} has expired; make another with `ferry cluster api-token`")]
    Expired(TokenName),
    /// Its time has not come.
    #[error(
        "the API token {0} was made in the future, by this worker's clock; set the clocks of both workers"
    )]
    Early(TokenName),
    /// It was revoked.
    #[error("the API token {0} was revoked; make another with `ferry cluster api-token`")]
    Revoked(TokenName),
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bearer {
    /// What it is called.
    pub name: TokenName,
    /// What it is good for.
    pub role: Role,
    /// When it was made, by the keeper's clock, in milliseconds since 1970.
    pub made_ms: u64,
    /// Until when it is good, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The fingerprint of the authority's certificate, by which its holder knows whom to show it to.
    pub authority: Fingerprint,
}

impl Bearer {
    /// As it is printed.
    ///
    /// # Errors
    /// The authority does not sign.
    pub fn signed_by(&self, authority: &Authority) -> Result<String, AuthorityError> {
        let text = serde_json::to_string(self).expect("a token is plain data and always encodes");
        let signature = authority.sign(PURPOSE, &text)?;
        Ok(format!("{PREFIX}{}.{signature}", text_of(text.as_bytes())))
    }

    /// Whether to believe a token.
    ///
    /// # Errors
    /// It is not believed, and why.
    pub fn believe(
        text: &str,
        key: &AuthorityKey,
        roster: &Roster,
        now_ms: u64,
    ) -> Result<Self, BearerError> {
        let (bearer, json, signature) = read(text)?;
        if !key.has_signed(PURPOSE, &json, signature) {
            return Err(BearerError::Foreign);
        }
        if now_ms >= bearer.expires_ms {
            return Err(BearerError::Expired(bearer.name));
        }
        if bearer.made_ms > now_ms.saturating_add(SKEW_MS) {
            return Err(BearerError::Early(bearer.name));
        }
        if roster.is_token_revoked(&bearer.name, bearer.made_ms) {
            return Err(BearerError::Revoked(bearer.name));
        }
        Ok(bearer)
    }
}

/// To whom a token may be shown: those that this authority has certified. Nothing else of it is checked.
///
/// # Errors
/// It is none.
pub fn authority_of(text: &str) -> Result<Fingerprint, BearerError> {
    read(text).map(|(bearer, ..)| bearer.authority)
}

fn read(text: &str) -> Result<(Bearer, String, &str), BearerError> {
    let text = text.trim();
    let body = text.strip_prefix(PREFIX).filter(|body| body.len() <= TEXT_BYTES_MAX);
    let (json, signature) = body.and_then(|body| body.split_once('.')).ok_or(BearerError::NotOne)?;
    let json = bytes_of(json).and_then(|json| String::from_utf8(json).ok()).ok_or(BearerError::NotOne)?;
    let bearer = serde_json::from_str(&json).map_err(|_| BearerError::NotOne)?;
    Ok((bearer, json, signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClusterId;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn made() -> (Authority, Roster, Bearer, String) {
        let cluster = ClusterId::of([1; 16]);
        let authority = Authority::fresh(&cluster, NOW_MS).unwrap();
        let w1 = "w1".parse().unwrap();
        let roster = Roster::first(cluster, w1, "https://w1:1".to_owned(), Fingerprint::of(b"w1"), NOW_MS);
        let bearer = Bearer {
            name: "grafana".parse().unwrap(),
            role: Role::View,
            made_ms: NOW_MS,
            expires_ms: NOW_MS + 1000,
            authority: authority.key().fingerprint,
        };
        let text = bearer.signed_by(&authority).unwrap();
        (authority, roster, bearer, text)
    }

    #[test]
    fn each_worker_believes_a_token_of_the_authority_until_it_expires() {
        let (authority, roster, bearer, text) = made();
        let believe = |now_ms| Bearer::believe(&text, authority.key(), &roster, now_ms);
        assert_eq!(believe(NOW_MS).as_ref(), Ok(&bearer));
        assert_eq!(believe(NOW_MS + 999), Ok(bearer.clone()));
        assert_eq!(believe(NOW_MS + 1000), Err(BearerError::Expired(bearer.name.clone())));
        assert_eq!(believe(NOW_MS - SKEW_MS - 1), Err(BearerError::Early(bearer.name.clone())));
        assert_eq!(authority_of(&text), Ok(bearer.authority));
    }

    #[test]
    fn a_token_that_was_revoked_is_not_believed_and_its_successor_is() {
        let (authority, roster, mut bearer, text) = made();
        let roster = roster.revoke_token(&bearer.name, bearer.expires_ms, NOW_MS);
        let believe = |text: &str| Bearer::believe(text, authority.key(), &roster, NOW_MS + 1);
        assert_eq!(believe(&text), Err(BearerError::Revoked(bearer.name.clone())));
        bearer.made_ms = NOW_MS + 1;
        assert_eq!(believe(&bearer.signed_by(&authority).unwrap()), Ok(bearer));
    }

    #[test]
    fn nobody_makes_more_of_a_token_than_it_is() {
        let (authority, roster, bearer, text) = made();
        let believe = |text: &str| Bearer::believe(text, authority.key(), &roster, NOW_MS);
        let stronger = Bearer { role: Role::Admin, ..bearer.clone() };
        let json = text_of(serde_json::to_string(&stronger).unwrap().as_bytes());
        let signature = text.rsplit_once('.').unwrap().1;
        assert_eq!(believe(&format!("{PREFIX}{json}.{signature}")), Err(BearerError::Foreign));
        let other = Authority::fresh(&roster.cluster, NOW_MS).unwrap();
        assert_eq!(believe(&bearer.signed_by(&other).unwrap()), Err(BearerError::Foreign));
        for cut in 0..text.len() {
            assert!(believe(&text[..cut]).is_err(), "cut to {cut}");
        }
    }
}
