//! Moves in a world made of memory, with real records: cut off at every point, and looked at from outside.

mod ahead;
mod faults;
mod forgetting;
mod hooks;
mod judged;
mod live;
mod records;
mod requests;
mod target;
mod waits;
mod world;
