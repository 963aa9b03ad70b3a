//! Volumes with real servers.
