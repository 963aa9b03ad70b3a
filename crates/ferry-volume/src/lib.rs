//! The volume server: one process that serves one volume.
