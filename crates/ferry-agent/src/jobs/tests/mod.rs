//! Moves in a world made of memory.
