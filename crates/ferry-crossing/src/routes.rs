//! Which routes a worker's host has to machines of other workers: one to the address of each, by way of its worker.
//!
//! Invariants: a route leads only to a machine with a network of its own that is to run, and by way of the worker that owns it by the
//! directory's best word, so to none of this worker's own. Nothing is removed before it is settled what the others have.

use crate::directory::Known;
use ferry_api::{Ipv6Addr, Mapping, Network, Presence, WorkerName};
use std::collections::{BTreeMap, BTreeSet};

/// How many routes a worker keeps at most.
pub const ROUTES_MAX: usize = 16_384;

/// A route to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// That of a machine.
    pub to: Ipv6Addr,
    /// That of the worker that has it.
    pub via: Ipv6Addr,
}

/// What routes there are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By way of which address each machine's is reached.
    pub routes: BTreeMap<Ipv6Addr, Ipv6Addr>,
    /// Workers of which no IPv6 address is known, so that no route leads to their machines.
    pub passed_over: BTreeSet<WorkerName>,
    /// How many machines have none because there are [`ROUTES_MAX`] already.
    pub left_out: usize,
}

/// What is to be done about the routes that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be removed, before the others are made.
    pub remove: Vec<Route>,
    /// To be made, each in the place of another one to the same address.
    pub replace: Vec<Route>,
}

/// The routes that the worker `me` is to have; `reached` tells the IPv6 address of a worker.
#[must_use]
pub fn wanted(me: &WorkerName, known: &[Known], reached: impl Fn(&WorkerName) -> Option<Ipv6Addr>) -> Wanted {
    let mut wanted = Wanted::default();
    for Mapping { machine, owner, network, presence, .. } in known.iter().map(|known| &known.mapping) {
        // To one that is on its way it leads already: it comes there.
        if owner == me || *network != Network::Own || *presence == Presence::Stopped {
            continue;
        }
        match reached(owner) {
            None => {
                wanted.passed_over.insert(owner.clone());
            }
            Some(_) if wanted.routes.len() >= ROUTES_MAX => wanted.left_out += 1,
            Some(via) => {
                wanted.routes.insert(machine.address(), via);
            }
        }
    }
    wanted
}

/// What makes those that were `found` to be those that are `wanted`. Until it `is_settled` what other workers have, nothing is
/// removed: who has said nothing yet may have the machine.
#[must_use]
pub fn changes(wanted: &BTreeMap<Ipv6Addr, Ipv6Addr>, found: &[Route], is_settled: bool) -> Changes {
    let found: BTreeSet<Route> = found.iter().copied().collect();
    let wanted_to = |to: Ipv6Addr| wanted.get(&to).map(|via| Route { to, via: *via });
    // One to the same address goes when the right one takes its place.
    let is_left =
        |route: &Route| wanted_to(route.to).is_none_or(|right| right != *route && found.contains(&right));
    let remove = found.iter().copied().filter(|route| is_settled && is_left(route)).collect();
    let all = wanted.iter().map(|(to, via)| Route { to: *to, via: *via });
    Changes { remove, replace: all.filter(|route| !found.contains(route)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::MachineId;

    const RUNS: Presence = Presence::Runs { since_ms: 1 };

    fn known(owner: &str, network: Network, presence: Presence) -> Known {
        let known = crate::proxy::tests::known(owner, presence, true);
        Known { mapping: Mapping { network, ..known.mapping }, ..known }
    }

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn route(to: &str, via: &str) -> Route {
        Route { to: ip(to), via: ip(via) }
    }

    /// Where `me` wants routes, when w2 and w3 are reached by IPv6.
    fn wanted_of(known: &[Known]) -> Wanted {
        wanted(&"me".parse().unwrap(), known, |worker| match worker.as_str() {
            "w2" => Some(ip("fd77::2")),
            "w3" => Some(ip("fd77::3")),
            _ => None,
        })
    }

    fn to_one(to: &str, via: &str) -> BTreeMap<Ipv6Addr, Ipv6Addr> {
        BTreeMap::from([(ip(to), ip(via))])
    }

    #[test]
    fn a_route_leads_to_each_machine_with_a_network_of_its_own_by_way_of_its_worker() {
        let (there, comes) = (known("w2", Network::Own, RUNS), known("w3", Network::Own, Presence::Comes));
        let expected = BTreeMap::from([
            (there.mapping.machine.address(), ip("fd77::2")),
            (comes.mapping.machine.address(), ip("fd77::3")),
        ]);
        assert_eq!(wanted_of(&[there, comes]), Wanted { routes: expected, ..Wanted::default() });
    }

    #[test]
    fn none_leads_to_a_machine_that_is_here_or_stopped_or_without_an_interface() {
        let known = [
            known("me", Network::Own, RUNS),
            known("w2", Network::Own, Presence::Stopped),
            known("w2", Network::Host, RUNS),
            known("w2", Network::None, RUNS),
        ];
        assert_eq!(wanted_of(&known), Wanted::default());
    }

    #[test]
    fn a_worker_without_an_ipv6_address_is_passed_over_and_named() {
        let known = [known("w4", Network::Own, RUNS), known("w4", Network::Own, RUNS)];
        let wanted = wanted_of(&known);
        assert_eq!((wanted.routes.len(), wanted.left_out), (0, 0));
        assert_eq!(wanted.passed_over, BTreeSet::from(["w4".parse().unwrap()]));
    }

    #[test]
    fn there_are_at_most_so_many_and_the_others_are_counted() {
        let one = known("w2", Network::Own, RUNS);
        let fresh = || Known {
            mapping: Mapping { machine: MachineId::fresh(), ..one.mapping.clone() },
            ..one.clone()
        };
        let many: Vec<Known> = (0..ROUTES_MAX + 3).map(|_| fresh()).collect();
        let wanted = wanted_of(&many);
        assert_eq!((wanted.routes.len(), wanted.left_out), (ROUTES_MAX, 3));
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        let wanted = to_one("fd00::1", "fd77::2");
        assert_eq!(changes(&wanted, &[route("fd00::1", "fd77::2")], true), Changes::default());
    }

    #[test]
    fn a_route_to_a_machine_that_has_moved_is_replaced_and_never_missing_meanwhile() {
        let wanted = to_one("fd00::1", "fd77::3");
        let expected = Changes { remove: Vec::new(), replace: vec![route("fd00::1", "fd77::3")] };
        assert_eq!(changes(&wanted, &[route("fd00::1", "fd77::2")], true), expected);
    }

    #[test]
    fn a_second_one_to_the_same_machine_goes() {
        let wanted = to_one("fd00::1", "fd77::3");
        let found = [route("fd00::1", "fd77::2"), route("fd00::1", "fd77::3")];
        let expected = Changes { remove: vec![route("fd00::1", "fd77::2")], replace: Vec::new() };
        assert_eq!(changes(&wanted, &found, true), expected);
    }

    #[test]
    fn what_a_killed_agent_left_goes_once_all_others_have_told_what_they_have() {
        let left = route("fd00::2", "fd77::2");
        let wanted = to_one("fd00::1", "fd77::3");
        let replace = vec![route("fd00::1", "fd77::3")];
        let expected = Changes { remove: Vec::new(), replace: replace.clone() };
        assert_eq!(changes(&wanted, &[left], false), expected);
        assert_eq!(changes(&wanted, &[left], true), Changes { remove: vec![left], replace });
    }
}
