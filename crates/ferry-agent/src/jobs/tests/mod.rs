//! Moves in a world made of memory, with real records: cut off at every point, and looked at from outside.

mod faults;
mod requests;
mod world;
