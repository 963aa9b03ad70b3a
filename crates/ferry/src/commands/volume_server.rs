//! `ferry volume-server`: one process that serves one volume, until it is told to end.

use anyhow::Result;
use ferry_volume::{IoBackend, ServeOptions, serve};

use crate::args::VolumeServer;
use crate::exit::Exit;

pub fn run(server: VolumeServer) -> Result<Exit> {
    let VolumeServer { dir, tls, no_heat } = server;
    serve(&ServeOptions { dir, io: IoBackend::Auto, tls, count_heat: !no_heat })?;
    Ok(Exit::Done)
}
