//! Breadth first through all worlds that can be reached; the shortest way to the first broken promise.
//!
//! Invariant: what is answered as whole was searched whole; a search that meets a limit says so.

use crate::promises;
use crate::quick::QuickMap;
use crate::scope::Scope;
use crate::world::{Action, World, Worlds};
use std::fmt;

/// What a search found.
#[derive(Debug)]
pub struct Report {
    /// Different worlds that were reached.
    pub worlds: usize,
    /// Ways from one to another that were tried.
    pub ways: usize,
    /// Different states of a single worker among them.
    pub hosts: usize,
    /// Length of the longest shortest way to one.
    pub depth: usize,
    /// Whether the limit was met before all worlds were seen.
    pub is_cut: bool,
    /// The first promise that was found broken.
    pub broken: Option<Counterexample>,
}

/// How a promise can be broken.
#[derive(Debug)]
pub struct Counterexample {
    /// The promise.
    pub promise: String,
    /// What happens, one after the other.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, ways, hosts, depth, is_cut, broken } = self;
        write!(f, "{worlds} worlds, {ways} ways, {hosts} states of a worker, depth {depth}")?;
        if *is_cut {
            write!(f, "; not all: the limit was met")?;
        }
        match broken {
            None => write!(f, "; every promise holds"),
            Some(found) => write!(f, "\n{found}"),
        }
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in (1..).zip(&self.trace) {
            writeln!(f, "{number:>4}  {line}")?;
        }
        write!(f, "      {}", self.promise)
    }
}

struct Seen {
    world: World,
    parent: u32,
    by: Option<Action>,
}

/// A search under way.
struct Search {
    worlds: Worlds,
    seen: Vec<Seen>,
    known: QuickMap<World, u32>,
    /// From where one comes to where when nothing goes wrong any more and nobody asks for anything.
    kind_ways: Vec<(u32, u32)>,
}

/// Searches all worlds of a scope, up to `worlds_max` of them.
#[must_use]
pub fn search(scope: Scope, worlds_max: usize) -> Report {
    let mut worlds = Worlds::new(scope);
    let first = worlds.first();
    let seen = vec![Seen { world: first, parent: 0, by: None }];
    let mut search = Search { worlds, seen, known: QuickMap::from_iter([(first, 0)]), kind_ways: Vec::new() };
    let mut report = Report { worlds: 1, ways: 0, hosts: 0, depth: 0, is_cut: false, broken: None };
    let (mut at, mut end_of_layer) = (0, 1);
    while at < search.seen.len() && report.broken.is_none() && !report.is_cut {
        report.ways += search.expand(at, &mut report.broken);
        at += 1;
        if at == end_of_layer {
            (end_of_layer, report.depth) = (search.seen.len(), report.depth + 1);
        }
        report.is_cut = search.seen.len() > worlds_max;
    }
    if report.broken.is_none() && !report.is_cut {
        report.broken = search.endless();
    }
    (report.worlds, report.hosts) = (search.seen.len(), search.worlds.hosts_seen());
    report
}

impl Search {
    /// Goes every way from a world. Answers how many there are.
    fn expand(&mut self, at: usize, found: &mut Option<Counterexample>) -> usize {
        let world = self.seen[at].world;
        let ways = self.worlds.after(&world);
        let count = ways.len();
        for (action, to, broken) in ways {
            let is_new = !self.known.contains_key(&to);
            let index = *self.known.entry(to).or_insert(number(self.seen.len()));
            if action.is_kind() {
                self.kind_ways.push((index, number(at)));
            }
            if !is_new && broken.is_none() {
                continue;
            }
            self.seen.push(Seen { world: to, parent: number(at), by: Some(action) });
            let promise = broken.map(str::to_owned);
            let scope = &self.worlds.scope;
            let promise = promise.or_else(|| {
                promises::broken(scope, &to, &self.worlds.hosts(&to), &self.worlds.testimonies(&to))
            });
            if let Some(promise) = promise {
                *found = Some(Counterexample { promise, trace: self.trace(self.seen.len() - 1) });
                break;
            }
        }
        count
    }

    /// A world from which the run does not end though nothing goes wrong any more: no kind way leads from it to an end.
    /// Where an older state of the records was brought back an end is not asked for: a person must look then, and
    /// nothing is lost meanwhile.
    fn endless(&mut self) -> Option<Counterexample> {
        self.kind_ways.sort_unstable();
        let scope = &self.worlds.scope;
        let over = |seen: &Seen| {
            let world = &seen.world;
            promises::is_over(scope, world, &self.worlds.hosts(world), &self.worlds.testimonies(world))
        };
        let mut ends: Vec<bool> = self.seen.iter().map(over).collect();
        let mut open: Vec<u32> = (0..).zip(&ends).filter(|(_, ends)| **ends).map(|(at, _)| at).collect();
        while let Some(at) = open.pop() {
            let from = self.kind_ways.partition_point(|(to, _)| *to < at);
            for (_, before) in self.kind_ways[from..].iter().take_while(|(to, _)| *to == at) {
                if !std::mem::replace(&mut ends[*before as usize], true) {
                    open.push(*before);
                }
            }
        }
        let stuck = self.seen.iter().zip(&ends).position(|(seen, ends)| !ends && !seen.world.restored)?;
        let promise = "from here on nothing goes wrong, and yet the move never ends as it should".to_owned();
        Some(Counterexample { promise, trace: self.trace(stuck) })
    }

    fn trace(&self, mut at: usize) -> Vec<String> {
        let mut trace = Vec::new();
        while let Some(action) = &self.seen[at].by {
            let parent = self.seen[at].parent as usize;
            trace.push(self.worlds.told(&self.seen[parent].world, action));
            at = parent;
        }
        trace.reverse();
        trace
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("a search has a limit below 2^32 worlds")
}
