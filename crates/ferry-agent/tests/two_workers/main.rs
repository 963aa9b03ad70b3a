//! Whole agents with their real doors, volume servers and machines, in state directories of their own.

#[cfg(test)]
mod alone;
#[cfg(test)]
mod back;
#[cfg(test)]
mod crossing;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod drain_troubles;
#[cfg(test)]
mod drained;
#[cfg(test)]
mod forked;
#[cfg(test)]
mod grouped;
#[cfg(test)]
mod grown;
#[cfg(test)]
mod house;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod paced;
#[cfg(test)]
mod placed;
#[cfg(test)]
mod rebalanced;
#[cfg(test)]
mod restored;
#[cfg(test)]
mod secured;
#[cfg(test)]
mod stopped;
#[cfg(test)]
mod waiting;

#[cfg(test)]
mod warm;
