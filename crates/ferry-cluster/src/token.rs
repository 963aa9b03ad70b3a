//! The token by which a worker joins: one line that carries all that it must know, and a secret.
//!
//! ```text
//!   ferry-join-1.BASE64URL( expires u64 le, ms │ secret 32 │ CA's fingerprint 32 │ URL of the keeper, UTF-8 │ CRC-32C u32 le )
//! ```
//!
//! The checksum tells a token that was cut or mistyped from one that is refused. Who has the token can join; so it expires, is
//! used once, and is kept by the keeper only as a hash.

use crate::encoding::{bytes_of, text_of};
use crate::fingerprint::Fingerprint;
use std::fmt;

/// What every token of this version begins with.
const PREFIX: &str = "ferry-join-1.";
/// What a token of any version begins with.
const ANY_PREFIX: &str = "ferry-join-";
/// What comes before the URL, in bytes.
const FIXED_BYTES: usize = 8 + Secret::BYTES + Fingerprint::BYTES;
const CHECKSUM_BYTES: usize = 4;
/// Longest URL of a keeper, in bytes.
const URL_BYTES_MAX: usize = 300;
/// Longest text that is looked at, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else.
    #[error("this is no token for joining; `ferry cluster token` on the cluster's first worker prints one")]
    NotOne,
    /// It is of another version.
    #[error(
        "this token is of a version that this program does not know; use the same version of ferry on both workers"
    )]
    Version,
    /// It is not whole.
    #[error("this token is cut off or mistyped (its checksum is wrong); copy the whole line")]
    Damaged,
}

/// Something that only those may know who are to know it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; Secret::BYTES]);

impl Secret {
    /// Its length in bytes.
    pub const BYTES: usize = 32;

    /// This one.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }

    /// As it is told to the keeper.
    #[must_use]
    pub fn reveal(&self) -> String {
        text_of(&self.0)
    }

    /// As it was told.
    #[must_use]
    pub fn heard(text: &str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        Some(Self(bytes_of(text)?.try_into().ok()?))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }
}

/// What a token carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// What lets its holder in.
    pub secret: Secret,
    /// The fingerprint of the authority's certificate: who answers must be certified by that one.
    pub authority: Fingerprint,
    /// Where the keeper is.
    pub url: String,
    /// Until when it is good by the keeper's clock, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl JoinToken {
    /// As it is printed.
    #[must_use]
    pub fn text(&self) -> String {
        let mut bytes = self.expires_ms.to_le_bytes().to_vec();
        bytes.extend(self.secret.0);
        bytes.extend(self.authority.as_bytes());
        bytes.extend(self.url.as_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        format!("{PREFIX}{}", text_of(&bytes))
    }

    /// Reads a token; white space around it is none of it.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(match text.strip_prefix(ANY_PREFIX).map(str::as_bytes) {
                Some([b'0'..=b'9', ..]) => TokenError::Version,
                Some(_) | None => TokenError::NotOne,
            });
        };
        if encoded.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = bytes_of(encoded).ok_or(TokenError::Damaged)?;
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Damaged)?;
        if crc32c::crc32c(payload) != u32::from_le_bytes(*checksum) {
            return Err(TokenError::Damaged);
        }
        Self::of_payload(payload).ok_or(TokenError::Damaged)
    }

    fn of_payload(payload: &[u8]) -> Option<Self> {
        let (fixed, url) = payload.split_at_checked(FIXED_BYTES)?;
        let (expires, rest) = fixed.split_first_chunk::<8>()?;
        let (secret, authority) = rest.split_first_chunk::<{ Secret::BYTES }>()?;
        let url = std::str::from_utf8(url).ok().filter(|url| url.len() <= URL_BYTES_MAX)?;
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return None;
        }
        Some(Self {
            secret: Secret(*secret),
            authority: Fingerprint::from_bytes(authority.try_into().ok()?),
            url: url.to_owned(),
            expires_ms: u64::from_le_bytes(*expires),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            secret: Secret([7; 32]),
            authority: Fingerprint::of(b"ca"),
            url: "https://10.0.0.1:7433".to_owned(),
            expires_ms: 1_800_000_000_000,
        }
    }

    #[test]
    fn a_token_is_one_printable_line_and_is_read_again() {
        let text = token().text();
        assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
        assert!(text.len() < 200, "{} bytes", text.len());
        assert_eq!(JoinToken::parse(&format!("  {text}\n")), Ok(token()));
    }

    #[test]
    fn a_token_that_was_cut_or_mistyped_is_told_from_something_else() {
        let text = token().text();
        for cut in PREFIX.len()..text.len() {
            assert_eq!(JoinToken::parse(&text[..cut]), Err(TokenError::Damaged), "{cut}");
        }
        assert_eq!(JoinToken::parse("ferry-join-2.AAAA"), Err(TokenError::Version));
        for other in ["", "abc", "ferry-join-", "ferry-join-x", "ferry-api-1.abc.def"] {
            assert_eq!(JoinToken::parse(other), Err(TokenError::NotOne), "{other}");
        }
    }

    #[test]
    fn a_secret_is_never_shown_in_a_log() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains(&token().secret.reveal()) && shown.contains("a secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn one_wrong_letter_is_always_found(at in 0usize..180, letter in "[A-Za-z0-9_-]") {
            let text = token().text();
            let at = PREFIX.len() + at % (text.len() - PREFIX.len());
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &letter);
            prop_assume!(wrong != text);
            prop_assert_eq!(JoinToken::parse(&wrong), Err(TokenError::Damaged));
        }

        #[test]
        fn any_token_is_read_as_it_was_made(secret: [u8; 32], authority: [u8; 32], expires_ms: u64, host in "[a-z0-9.]{1,60}") {
            let token = JoinToken {
                secret: Secret(secret),
                authority: Fingerprint::from_bytes(authority),
                url: format!("https://{host}:1"),
                expires_ms,
            };
            prop_assert_eq!(JoinToken::parse(&token.text()), Ok(token));
        }
    }
}
