//! A person who cancels a move (`ferry move --cancel`) while its volume is sealed: the last step before the hand-over.
//!
//! The volume's server stands still from when that step begins until the agent has heard the wish, so that it never comes
//! too late.

use anyhow::Result;
use ferry_api::{AgentApi, CancelMove};
use tokio::task::JoinSet;

use super::lane::Lane;
use super::point::Moment;
use crate::demo::machine_ref;
use crate::demo::processes;

/// The step begins.
const SEALS: &str = "after write done:Stop begun:Seal";
/// The agent has heard the wish, and nothing of it is durable yet.
pub const HEARD: &str = "before write cancel_asked";

/// Has somebody cancel the next move from where the machine is. Dropped, nobody does any more.
///
/// # Errors
/// None: the name of the machine is one.
pub fn while_it_seals(lane: &Lane) -> Result<JoinSet<()>> {
    let seat = &lane.seats[lane.home];
    let comes = |at: &str| lane.gate.await_moment(Moment { worker: seat.name.to_owned(), at: at.to_owned() });
    let (seals, heard) = (comes(SEALS), comes(HEARD));
    let (client, cancel, is_server) =
        (seat.client.clone(), CancelMove { machine: machine_ref()? }, seat.is_server());
    let mut person = JoinSet::new();
    person.spawn(async move {
        let Ok(held) = seals.await else { return };
        let frozen = processes::freeze(is_server);
        let asking = tokio::spawn(async move { client.move_cancel(cancel).await });
        drop(held);
        // Whether it comes or never will: nobody need stand still any more.
        drop(heard.await);
        drop(frozen);
        // An agent that dies over it leaves it without an answer; what became of it is seen in the move.
        let _ = asking.await;
    });
    Ok(person)
}
