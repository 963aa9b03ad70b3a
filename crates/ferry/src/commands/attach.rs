//! `ferry volume attach` and `detach`: the ways to a volume beside its NBD socket.

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, AttachVolume, AttachedFrontend, DetachVolume, Frontend, Volume, VolumeRef};

use crate::exit::Exit;
use crate::output::{Paint, say, say_json, stdout_is_terminal};

/// Attaches a frontend, and prints the device or socket alone, for the next command to take.
pub async fn attach(agent: &Client, json: bool, volume: &VolumeRef, wanted: AttachVolume) -> Result<Exit> {
    let attached = agent.volume_attach(volume, wanted).await?;
    if json {
        say_json(&attached)?;
    } else {
        say(address(&attached))?;
        // For a person; whoever catches the output wants the path alone.
        if stdout_is_terminal()
            && let Some(options) = qemu_options(&attached)
        {
            say(format_args!("\nQEMU opens it with (SIZE as in -m):\n{options}"))?;
        }
    }
    Ok(Exit::Done)
}

/// How QEMU is given a socket for VMMs; none for what is no such socket.
fn qemu_options(attached: &AttachedFrontend) -> Option<String> {
    let socket = attached.address.as_ref()?.display();
    match attached.frontend {
        Frontend::Fuse | Frontend::Ublk => None,
        Frontend::VhostUserBlk => Some(format!(
            "  -object memory-backend-memfd,id=ram,size=SIZE,share=on -machine q35,memory-backend=ram \\\n  \
             -chardev socket,id=disk,reconnect-ms=1000,path={socket} \\\n  \
             -device vhost-user-blk-pci,chardev=disk"
        )),
    }
}

/// Takes one or all away.
pub async fn detach(agent: &Client, json: bool, volume: &VolumeRef, wanted: DetachVolume) -> Result<Exit> {
    let volume = agent.volume_detach(volume, wanted).await?;
    if json {
        say_json(&volume)?;
        return Ok(Exit::Done);
    }
    let name = Paint::for_stdout().strong(volume.name.as_str());
    match volume.frontends.is_empty() {
        true => say(format_args!("volume {name} is detached"))?,
        false => say(format_args!("volume {name} is detached; it still has {}", list(&volume)))?,
    }
    Ok(Exit::Done)
}

/// What `volume show` tells of them.
pub fn facts(volume: &Volume) -> Option<(&'static str, String)> {
    (!volume.frontends.is_empty()).then(|| ("attached", list(volume)))
}

fn list(volume: &Volume) -> String {
    let one = |attached: &AttachedFrontend| format!("{} ({})", attached.frontend, address(attached));
    volume.frontends.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn address(attached: &AttachedFrontend) -> String {
    match (&attached.address, &attached.error) {
        (Some(address), _) => address.display().to_string(),
        (None, Some(error)) => format!("failed: {error}"),
        (None, None) => "not now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_for_vmms_comes_with_the_options_that_qemu_needs() {
        let attached =
            |frontend| AttachedFrontend { frontend, address: Some("/v/vhost.sock".into()), error: None };
        let options = qemu_options(&attached(Frontend::VhostUserBlk)).unwrap();
        assert!(options.contains("share=on") && options.contains("path=/v/vhost.sock \\\n"), "{options}");
        assert_eq!(qemu_options(&attached(Frontend::Fuse)), None);
    }
}
