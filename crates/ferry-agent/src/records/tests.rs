//! The records as the rest of the agent sees them, on a real file.
