//! `ferry agent`: the agent of this worker, until it is told to end. Machines and volume servers go on without it.

use std::path::Path;

use anyhow::Result;
use ferry_agent::Config;

use crate::exit::Exit;

pub async fn run(config: &Path) -> Result<Exit> {
    ferry_agent::run(Config::read(config)?).await?;
    Ok(Exit::Done)
}
