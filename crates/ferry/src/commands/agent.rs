//! `ferry agent`: the agent of this worker, until it is told to end. Machines and volume servers go on without it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ferry_agent::drivers::Side;
use ferry_agent::{Config, moments};

use crate::args::MachineInit;
use crate::exit::Exit;

pub async fn run(config: &Path, drill: Option<PathBuf>) -> Result<Exit> {
    let config = Config::read(config)?;
    if let Some(socket) = drill {
        moments::drill(config.name.clone(), socket);
    }
    ferry_agent::run(config).await?;
    Ok(Exit::Done)
}

/// Is the keeper of a machine with namespaces of its own, or its first process; ends as the machine does.
pub fn machine_init(init: &MachineInit) -> Result<Exit> {
    let side = if init.inside { Side::Init } else { Side::Keeper };
    Ok(Exit::AsMachine(ferry_agent::drivers::init(&init.plan, side)?))
}

/// Tries once how a machine is; ends as its health command does.
pub fn machine_probe(words: &str) -> Result<Exit> {
    Ok(Exit::AsMachine(ferry_agent::drivers::probe(words)?))
}
