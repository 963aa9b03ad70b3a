//! The program: one binary for people, agents and volume servers.

fn main() {}
