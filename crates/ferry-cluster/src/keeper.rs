//! The keeper: the one worker that has the authority's key. What it gives away is durable before.

use crate::authority::{Authority, AuthorityError, AuthorityKey, KeyError, Request, WorkerKey, random};
use crate::bearer::Bearer;
use crate::encoding::text_of;
use crate::home::{Founding, Home, HomeError, Papers};
use crate::identity::ClusterId;
use crate::ledger::{Ledger, Ticket, TicketRefusal};
use crate::roster::{Admission, JoinRefusal, Roster, Stranger};
use crate::signed;
use crate::token::{JoinToken, Secret};
use ferry_api::{
    ApiTokenMade, ApiTokenTold, AskApiToken, AskJoinToken, GossipKey, Join, JoinTokenMade, Joined,
    Membership, Renew, Renewed, Revoke, Revoked, TokenName, WorkerName,
};

const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// For how long a token for joining is good if nothing is said, and at most, in milliseconds.
const JOIN_MS_DEFAULT: u64 = HOUR_MS;
const JOIN_MS_MAX: u64 = 7 * DAY_MS;
/// The same of an API token.
const API_MS_DEFAULT: u64 = 90 * DAY_MS;
const API_MS_MAX: u64 = 3660 * DAY_MS;
/// How many joiners with a wrong token are heard in a minute.
const WRONG_PER_MINUTE_MAX: u32 = 60;
const MINUTE_MS: u64 = 60 * 1000;

/// The keeper does not do it.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The token lets nobody in.
    #[error(transparent)]
    Ticket(#[from] TicketRefusal),
    /// The worker cannot belong to the cluster.
    #[error(transparent)]
    Join(#[from] JoinRefusal),
    /// Who asks does not belong to the cluster.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// The authority does not sign that.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// It cannot be kept.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// There is no worker of that name.
    #[error("no worker {0} belongs to the cluster; `ferry cluster status` lists those that do")]
    NoWorker(WorkerName),
    /// There is no token of that name.
    #[error("no API token {0} can be used any more; `ferry cluster status` lists those that can")]
    NoToken(TokenName),
    /// The keeper cannot be revoked.
    #[error("{0} has the cluster's key and cannot be revoked; what it has signed would be worth nothing")]
    IsKeeper(WorkerName),
    /// It would be good for too long.
    #[error("a token is good for at most {days} days; give a shorter time")]
    TooLong {
        /// The most, in days.
        days: u64,
    },
    /// The reason is too long.
    #[error("a reason has at most {} bytes; give a shorter one", Revoke::REASON_BYTES_MAX)]
    Reason,
    /// Too many have come with wrong tokens.
    #[error("too many have come with wrong tokens; try again in a minute")]
    TooMany,
}

impl From<KeyError> for KeeperError {
    fn from(cause: KeyError) -> Self {
        Self::Authority(cause.into())
    }
}

/// The authority, and what it has given out.
pub struct Keeper {
    home: Home,
    authority: Authority,
    ledger: Ledger,
    /// A minute, and how many wrong tokens were seen in it.
    wrong: (u64, u32),
}

impl Keeper {
    /// The keeper at a home; none if the authority is elsewhere.
    ///
    /// # Errors
    /// Its files cannot be read, or are damaged.
    pub fn at(home: &Home) -> Result<Option<Self>, HomeError> {
        let found = home.authority()?;
        Ok(found.map(|(authority, ledger)| Self { home: home.clone(), authority, ledger, wrong: (0, 0) }))
    }

    /// Makes a cluster whose first worker, and keeper, is this one, with its agent at `url`.
    ///
    /// # Errors
    /// It belongs to one; `url` is none that others can reach; the system refuses.
    pub fn found(home: &Home, worker: &WorkerName, url: &str, now_ms: u64) -> Result<ClusterId, KeeperError> {
        let cluster = ClusterId::of(random()?);
        let authority = Authority::fresh(&cluster, now_ms)?;
        let key = WorkerKey::fresh()?;
        let request = Request::parse(&key.request()?)?;
        let certificate = authority.certify(&request, &cluster, worker, url, now_ms)?;
        let roster =
            Roster::first(cluster.clone(), worker.clone(), url.to_owned(), key.fingerprint(), now_ms);
        let gossip_keys = vec![gossip_key(roster.version)?];
        let membership = Membership { roster: signed::sign(&roster, &authority)?, gossip_keys, now_ms };
        home.found(&Founding {
            authority: authority.pem(),
            authority_key: Some(&authority.key_pem()),
            certificate: &certificate,
            key: &key.pem(),
            membership: &membership,
        })?;
        Ok(cluster)
    }

    /// Whom those believe who believe this keeper.
    #[must_use]
    pub fn key(&self) -> &AuthorityKey {
        self.authority.key()
    }

    /// The API tokens that can still be used.
    #[must_use]
    pub fn api_tokens(&self, now_ms: u64) -> Vec<ApiTokenTold> {
        self.ledger.api_tokens(now_ms).cloned().collect()
    }

    /// Makes a token for joining; the keeper's agent is at `url`.
    ///
    /// # Errors
    /// It would be good for too long; it cannot be kept.
    pub fn token(&mut self, ask: AskJoinToken, url: &str, now_ms: u64) -> Result<JoinTokenMade, KeeperError> {
        let expires_ms = now_ms.saturating_add(ttl(ask.ttl_ms, JOIN_MS_DEFAULT, JOIN_MS_MAX)?);
        let secret = Secret::from_bytes(random()?);
        let AskJoinToken { worker, again, .. } = ask;
        let ticket = Ticket { hash: secret.hash(), expires_ms, worker: worker.clone(), again, spent: None };
        self.keep(self.ledger.with_ticket(ticket, now_ms)?)?;
        let authority = self.authority.key().fingerprint;
        let token = JoinToken { secret, authority, url: url.to_owned(), expires_ms };
        Ok(JoinTokenMade { token: token.text(), expires_ms, worker })
    }

    /// Takes a worker in. That its token is spent is durable first, then the roster with it; then it gets its certificate.
    ///
    /// # Errors
    /// Its token lets it in no longer; it cannot belong to the cluster.
    pub fn join(&mut self, papers: &mut Papers, join: &Join, now_ms: u64) -> Result<Joined, KeeperError> {
        if self.wrong.0 == now_ms / MINUTE_MS && self.wrong.1 >= WRONG_PER_MINUTE_MAX {
            return Err(KeeperError::TooMany);
        }
        let secret = Secret::heard(&join.secret).map(|secret| secret.hash());
        // Nothing else of a stranger is looked at before its token is known to be one.
        let Some(hash) = secret.filter(|hash| self.ledger.knows(*hash)) else {
            return Err(self.wrong_token(TicketRefusal::Unknown, now_ms));
        };
        let request = Request::parse(&join.request)?;
        let (ledger, ticket) = match self.ledger.spend(hash, &join.worker, request.key(), now_ms) {
            Ok(spent) => spent,
            Err(refusal) => return Err(self.wrong_token(refusal, now_ms)),
        };
        let admitted = papers.roster.admit(&join.worker, &join.url, request.key(), ticket.again, now_ms)?;
        if ledger != self.ledger {
            self.keep(ledger)?;
        }
        if let Admission::With(roster) = admitted {
            self.publish(papers, roster)?;
        }
        let (cluster, url) = (&papers.roster.cluster, &join.url);
        let certificate = self.authority.certify(&request, cluster, &join.worker, url, now_ms)?;
        Ok(Joined {
            authority: self.authority.pem().to_owned(),
            certificate,
            membership: papers.membership(),
        })
    }

    /// A new certificate of the key that the roster has for a worker. Whoever asks has that key, or the certificate is of
    /// no use to them; so it may be asked for with one that has expired.
    ///
    /// # Errors
    /// The worker does not belong to the cluster.
    pub fn renew(&self, papers: &Papers, renew: &Renew, now_ms: u64) -> Result<Renewed, KeeperError> {
        let request = Request::parse(&renew.request)?;
        let entry = papers.roster.believe(&renew.worker, request.key())?;
        let cluster = &papers.roster.cluster;
        let certificate = self.authority.certify(&request, cluster, &entry.name, &entry.url, now_ms)?;
        Ok(Renewed { certificate })
    }

    /// Lets a worker, or who comes with an API token, in no longer; durable when answered.
    ///
    /// # Errors
    /// There is none of that name; it is the keeper.
    pub fn revoke(&mut self, papers: &mut Papers, revoke: Revoke, now_ms: u64) -> Result<(), KeeperError> {
        let Revoke { what, reason } = revoke;
        if reason.as_ref().is_some_and(|reason| reason.len() > Revoke::REASON_BYTES_MAX) {
            return Err(KeeperError::Reason);
        }
        match what {
            Revoked::Worker(name) if name == papers.roster.keeper => Err(KeeperError::IsKeeper(name)),
            Revoked::Worker(name) => {
                let next = papers.roster.revoke(&name, reason, now_ms);
                let next = next.ok_or(KeeperError::NoWorker(name))?;
                // A key that nobody uses does no harm; one that is missing would leave the revoked worker listening.
                papers.keep_gossip_keys(vec![gossip_key(next.version)?])?;
                self.publish(papers, next)
            }
            Revoked::ApiToken(name) => {
                let theirs = self.ledger.api_tokens(now_ms).filter(|token| token.name == name);
                let expire_ms = theirs.map(|token| token.expires_ms).max();
                let expire_ms = expire_ms.ok_or_else(|| KeeperError::NoToken(name.clone()))?;
                self.publish(papers, papers.roster.revoke_token(&name, expire_ms, now_ms))?;
                self.keep(self.ledger.without_api_tokens(&name, now_ms))
            }
        }
    }

    /// Makes an API token.
    ///
    /// # Errors
    /// It would be good for too long; it cannot be kept.
    pub fn api_token(
        &mut self,
        papers: &Papers,
        ask: AskApiToken,
        now_ms: u64,
    ) -> Result<ApiTokenMade, KeeperError> {
        let AskApiToken { name, role, ttl_ms } = ask;
        let ttl_ms = ttl(ttl_ms, API_MS_DEFAULT, API_MS_MAX)?;
        // Not one of those that were revoked, also if that was just now.
        let revoked_ms = papers.roster.tokens_revoked.iter().filter(|revoked| revoked.name == name);
        let made_ms = revoked_ms.map(|revoked| revoked.until_ms + 1).fold(now_ms, u64::max);
        let expires_ms = made_ms.saturating_add(ttl_ms);
        let told = ApiTokenTold { name: name.clone(), role, made_ms, expires_ms };
        self.keep(self.ledger.with_api_token(told.clone(), now_ms)?)?;
        let authority = self.authority.key().fingerprint;
        let token = Bearer { name, role, made_ms, expires_ms, authority }.signed_by(&self.authority)?;
        Ok(ApiTokenMade { token, told })
    }

    fn keep(&mut self, ledger: Ledger) -> Result<(), KeeperError> {
        self.home.keep_ledger(&ledger)?;
        self.ledger = ledger;
        Ok(())
    }

    fn publish(&self, papers: &mut Papers, roster: Roster) -> Result<(), KeeperError> {
        let signed = signed::sign(&roster, &self.authority)?;
        Ok(papers.keep_roster(roster, signed)?)
    }

    fn wrong_token(&mut self, refusal: TicketRefusal, now_ms: u64) -> KeeperError {
        let minute = now_ms / MINUTE_MS;
        self.wrong = if self.wrong.0 == minute { (minute, self.wrong.1 + 1) } else { (minute, 1) };
        refusal.into()
    }
}

fn ttl(asked_ms: Option<u64>, default_ms: u64, max_ms: u64) -> Result<u64, KeeperError> {
    match asked_ms.unwrap_or(default_ms) {
        ttl_ms if ttl_ms > max_ms => Err(KeeperError::TooLong { days: max_ms / DAY_MS }),
        ttl_ms => Ok(ttl_ms),
    }
}

fn gossip_key(version: u64) -> Result<GossipKey, KeyError> {
    Ok(GossipKey { version, key: text_of(&random::<32>()?) })
}

#[cfg(test)]
mod tests;
