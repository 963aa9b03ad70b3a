//! What was meant by the words of `ferry cluster` and `ferry agent join`.

use ferry_api::{AskApiToken, AskJoinToken, Revoke, Revoked, Role};

use super::{Meant, Misuse, Question, ask, parsed, when};
use crate::args::cluster::{Cluster, Join, TypedRole};

/// What every token for joining begins with.
const TOKEN: &str = "ferry-join-";

pub(super) fn question(typed: Cluster) -> Result<Meant, Misuse> {
    match typed {
        Cluster::Init { config, json } => Ok(Meant::ClusterInit { config, json }),
        Cluster::Token(typed) => {
            let worker = typed.worker.as_deref().map(parsed).transpose()?;
            let wanted = AskJoinToken { ttl_ms: typed.ttl.map(when::span_ms), worker, again: typed.again };
            ask(&typed.asking, Question::ClusterToken(wanted))
        }
        Cluster::ApiToken(typed) => {
            let role = match typed.role {
                TypedRole::View => Role::View,
                TypedRole::Operate => Role::Operate,
                TypedRole::Admin => Role::Admin,
            };
            let ttl_ms = typed.ttl.map(when::span_ms);
            let wanted = AskApiToken { name: parsed(&typed.name)?, role, ttl_ms };
            ask(&typed.asking, Question::ClusterApiToken(wanted))
        }
        Cluster::Revoke(typed) => {
            let what = match (typed.worker, typed.api_token) {
                (Some(worker), _) => Revoked::Worker(parsed(&worker)?),
                (None, Some(token)) => Revoked::ApiToken(parsed(&token)?),
                (None, None) => return Err(Misuse("say which worker is to be revoked".to_owned())),
            };
            ask(&typed.asking, Question::ClusterRevoke(Revoke { what, reason: typed.reason }))
        }
        Cluster::Status { asking } => ask(&asking, Question::ClusterStatus),
    }
}

/// The token may come first, or by itself with the address before it.
pub(super) fn join(typed: Join) -> Result<Meant, Misuse> {
    let Join { first, token, config, json } = typed;
    let is_token = first.as_ref().is_some_and(|first| first.trim().starts_with(TOKEN));
    let (token, address) = match (first, token) {
        // One that lies in the environment counts only if none is typed.
        (Some(first), _) if is_token => (first, None),
        (first, Some(token)) => (token, first),
        (_, None) => {
            let what = "a worker joins by a token; give the one that `ferry cluster token` printed on the first worker";
            return Err(Misuse(what.to_owned()));
        }
    };
    let address = address.map(|address| match address.contains("://") {
        true => address,
        false => format!("https://{address}"),
    });
    Ok(Meant::AgentJoin { config, token, address, json })
}
