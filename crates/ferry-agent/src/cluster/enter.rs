//! How a worker comes into a cluster: it makes one, or joins one. Both before its agent starts, or starts again.

use crate::config::Config;
use crate::host::now_ms;
use ferry_api::http::{Client, ClientError, ClientTls};
use ferry_api::{AgentApi, ApiError, Join, WorkerName};
use ferry_cluster::{
    Founding, Home, HomeError, JoinToken, Keeper, KeeperError, KeyError, TlsError, TokenError,
};

/// Why a worker does not come into a cluster.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The cluster cannot be made.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address of the keeper is none.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The keeper refuses, or cannot be reached.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// Nobody could reach the worker.
    #[error("other workers cannot reach port 0; give `listen` in the configuration a port")]
    NoPort,
    /// Others reach only this host itself.
    #[error(
        "the configuration has certificates of its own (`tls`), and a worker of a cluster has its cluster's; remove it"
    )]
    OwnTls,
    /// The state directory cannot be made.
    #[error("cannot make the state directory; check `state_dir` in the configuration")]
    StateDir(#[source] std::io::Error),
}

/// The cluster that a worker has come into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The cluster's id.
    pub cluster: String,
    /// The worker.
    pub worker: WorkerName,
    /// Where others reach its agent.
    pub url: String,
    /// Whether only this host itself reaches it there.
    pub is_local: bool,
    /// The others that belong to it.
    pub others: Vec<WorkerName>,
}

/// Makes a cluster of the worker that `config` describes.
///
/// # Errors
/// It belongs to one; its state directory cannot be used.
pub fn found(config: &Config) -> Result<Entered, EnterError> {
    let (home, url) = begin(config)?;
    let cluster = Keeper::found(&home, &config.name, &url, now_ms())?.to_string();
    Ok(Entered {
        cluster,
        worker: config.name.clone(),
        url,
        is_local: config.listen.ip().is_loopback(),
        others: Vec::new(),
    })
}

/// Has the worker that `config` describes join a cluster by a token; `address`: where the keeper is, if not where the token says.
///
/// # Errors
/// It belongs to one; the token lets it in no longer; the keeper cannot be reached.
pub async fn join(config: &Config, token: &str, address: Option<&str>) -> Result<Entered, EnterError> {
    let token = JoinToken::parse(token)?;
    let (home, url) = begin(config)?;
    if let Some(papers) = home.papers()? {
        let (cluster, dir) = (papers.roster.cluster.to_string(), home.dir());
        return Err(HomeError::There { cluster, dir }.into());
    }
    let key = home.joining_key()?;
    let tls = ferry_cluster::client_with_token(token.authority)?;
    let keeper = Client::secured(address.unwrap_or(&token.url), ClientTls::new(tls))?;
    let (secret, request) = (token.secret.reveal(), key.request()?);
    let joined =
        keeper.cluster_join(Join { secret, worker: config.name.clone(), url: url.clone(), request }).await?;
    home.found(&Founding {
        authority: &joined.authority,
        authority_key: None,
        certificate: &joined.certificate,
        key: &key.pem(),
        membership: &joined.membership,
    })?;
    home.joining_is_over()?;
    let papers = home.papers()?.expect("it was made just now");
    let others = papers.roster.members().map(|entry| entry.name.clone());
    let others = others.filter(|name| *name != config.name).collect();
    Ok(Entered {
        cluster: papers.roster.cluster.to_string(),
        worker: config.name.clone(),
        url,
        is_local: config.listen.ip().is_loopback(),
        others,
    })
}

/// The worker's state directory, and where others reach its agent.
fn begin(config: &Config) -> Result<(Home, String), EnterError> {
    if config.tls.is_some() {
        return Err(EnterError::OwnTls);
    }
    if config.listen.port() == 0 {
        return Err(EnterError::NoPort);
    }
    std::fs::create_dir_all(&config.state_dir).map_err(EnterError::StateDir)?;
    Ok((Home::new(&config.state_dir), url_of(config)))
}

/// Where others reach the agent, as its configuration says.
pub(super) fn url_of(config: &Config) -> String {
    format!("https://{}:{}", config.advertise, config.listen.port())
}
