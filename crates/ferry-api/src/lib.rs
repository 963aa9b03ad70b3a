//! The words of Ferry as types, and the one door to a worker.
