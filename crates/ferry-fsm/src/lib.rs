//! Jobs that survive crashes: journal, replay, decide.
