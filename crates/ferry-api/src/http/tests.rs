//! The door over a real socket.
