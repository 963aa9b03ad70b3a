//! What was typed of `ferry cluster` and `ferry agent join`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::Asking;
use crate::output::bytes::parse_span;

/// `ferry cluster ...`
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Make a cluster whose first worker is this one; before its agent starts, or starts again
    Init {
        /// Configuration file of its agent
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print facts as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a token by which one worker may join
    Token(Token),
    /// Make a token for people and programs that come over TLS
    ApiToken(ApiToken),
    /// Let a worker, or who comes with an API token, in no longer
    Revoke(Revoke),
    /// Show who belongs to the cluster, and what is wrong with it
    Status {
        #[command(flatten)]
        asking: Asking,
    },
}

/// `ferry cluster token`
#[derive(Debug, Args)]
pub struct Token {
    /// For how long it is good [default: 1h]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub ttl: Option<Duration>,
    /// Only for the worker of this name
    #[arg(long, value_name = "NAME")]
    pub worker: Option<String>,
    /// Also if a worker of that name was revoked: this one is its successor
    #[arg(long, requires = "worker")]
    pub again: bool,
    #[command(flatten)]
    pub asking: Asking,
}

/// `ferry cluster api-token`
#[derive(Debug, Args)]
pub struct ApiToken {
    /// What it is called
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What it is good for
    #[arg(long, value_enum)]
    pub role: TypedRole,
    /// For how long [default: 90d]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub ttl: Option<Duration>,
    #[command(flatten)]
    pub asking: Asking,
}

/// A role, as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TypedRole {
    /// Look at everything, change nothing
    View,
    /// Run what is there: start, stop, move, drain
    Operate,
    /// Decide what is there: create, destroy, make tokens
    Admin,
}

/// `ferry cluster revoke`
#[derive(Debug, Args)]
pub struct Revoke {
    /// Name of the worker
    #[arg(required_unless_present = "api_token", conflicts_with = "api_token")]
    pub worker: Option<String>,
    /// Instead of a worker, all API tokens of this name
    #[arg(long, value_name = "NAME")]
    pub api_token: Option<String>,
    /// Why, for those who meet it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    #[command(flatten)]
    pub asking: Asking,
}

/// `ferry agent ...`
#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Have this worker join a cluster by a token; before its agent starts, or starts again
    Join(Join),
}

/// `ferry agent join`
#[derive(Debug, Args)]
pub struct Join {
    /// The token that `ferry cluster token` printed, or the address of that agent if the token comes otherwise
    #[arg(value_name = "TOKEN|ADDRESS")]
    pub first: Option<String>,
    /// The token, where other users of this host must not see it
    #[arg(long, value_name = "TOKEN", env = "FERRY_JOIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Configuration file of this worker's agent
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print facts as JSON
    #[arg(long)]
    pub json: bool,
}
