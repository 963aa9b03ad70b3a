//! A roster on its way: its text, and the authority's signature under exactly that text.

use crate::authority::{Authority, AuthorityError, AuthorityKey};
use crate::roster::{Roster, RosterError};
use ferry_api::SignedRoster;

/// The form of what is made here.
const FORM: u32 = 1;
const PURPOSE: &str = "ferry-roster-1";
/// Longest text that is looked at, in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Why a signed roster is not believed.
#[derive(Debug, thiserror::Error)]
pub enum NotBelieved {
    /// It is of a later form.
    #[error(
        "the roster is of form {0}, which this program does not know; use the same version of ferry on all workers"
    )]
    Form(u32),
    /// Somebody else has signed it.
    #[error("the roster is not signed by the authority of this cluster")]
    Signature,
    /// It was signed, and yet it is none.
    #[error(transparent)]
    Roster(#[from] RosterError),
}

/// Signs a roster.
///
/// # Errors
/// The authority does not sign.
pub fn sign(roster: &Roster, authority: &Authority) -> Result<SignedRoster, AuthorityError> {
    let body = roster.text();
    let signature = authority.sign(PURPOSE, &body)?;
    Ok(SignedRoster { form: FORM, body, signature })
}

/// Reads a roster that the authority has signed.
///
/// # Errors
/// It has not, or it is none.
pub fn open(signed: &SignedRoster, key: &AuthorityKey) -> Result<Roster, NotBelieved> {
    if signed.form != FORM {
        return Err(NotBelieved::Form(signed.form));
    }
    if signed.body.len() > BODY_BYTES_MAX || !key.has_signed(PURPOSE, &signed.body, &signed.signature) {
        return Err(NotBelieved::Signature);
    }
    Ok(Roster::parse(&signed.body)?)
}
