//! `ferry volume-server`: one process that serves one volume, until it is told to end.

use std::path::PathBuf;

use anyhow::Result;
use ferry_volume::{IoBackend, ServeOptions, serve};

use crate::exit::Exit;

pub fn run(dir: PathBuf, tls: Option<PathBuf>, count_heat: bool) -> Result<Exit> {
    serve(&ServeOptions { dir, io: IoBackend::Auto, tls, count_heat })?;
    Ok(Exit::Done)
}
