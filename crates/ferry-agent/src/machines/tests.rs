//! Machines as real processes on real volumes.
