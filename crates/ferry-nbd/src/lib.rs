//! The NBD protocol without I/O: both ends as state machines that eat and grow bytes.
