//! Asks all workers that are known here what they offer.

use super::wants;
use crate::core::Core;
use crate::jobs::{Clock, Mover};
use crate::records::MachineRecord;
use ferry_api::{AgentApi, ApiError, Bid, MoveMode, PlacementExplained};
use ferry_placement::Market;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a worker may take to say what it offers, until it counts as silent.
const BID_MAX: Duration = Duration::from_secs(5);

/// The bids of all other workers that are known here.
pub(crate) async fn market(core: &Core) -> Market {
    let mut asked = JoinSet::new();
    for peer in core.peers.list() {
        let Ok(client) = core.peers.client(&peer.name) else { continue };
        asked.spawn(async move {
            let answer = match timeout(BID_MAX, client.bid()).await {
                Ok(Ok(bid)) if bid.worker.name != peer.name => Err(format!(
                    "the agent that is configured as {} calls itself {}; correct the peer's url",
                    peer.name, bid.worker.name
                )),
                Ok(answer) => answer.map_err(|error| error.message),
                Err(_) => Err(format!("it did not answer within {} s", BID_MAX.as_secs())),
            };
            (peer.name, answer)
        });
    }
    Market::new(asked.join_all().await).with_remedy(core.peers.remedy())
}

/// What is found of each worker for a machine, of this one as well.
///
/// # Errors
/// The machine cannot be looked at.
pub(crate) async fn explain<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    machine: &MachineRecord,
    here: Bid,
) -> Result<PlacementExplained, ApiError> {
    let own = core.config.name.clone();
    let looked = mover.look(machine.id, MoveMode::Auto, &[]).await?;
    let wants = wants(&own, &looked);
    let mut market = market(core).await;
    market.join(own.clone(), here);
    Ok(PlacementExplained {
        machine_name: machine.name.clone(),
        from: own,
        blockers: looked.blockers,
        workers: market.explain(&wants),
    })
}
