//! `ferry agent`: the agent of this worker, until it is told to end. Machines and volume servers go on without it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ferry_agent::{Config, moments};

use crate::exit::Exit;

pub async fn run(config: &Path, drill: Option<PathBuf>) -> Result<Exit> {
    let config = Config::read(config)?;
    if let Some(socket) = drill {
        moments::drill(config.name.clone(), socket);
    }
    ferry_agent::run(config).await?;
    Ok(Exit::Done)
}
