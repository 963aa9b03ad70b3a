//! The clone engine as a value: events in, operations out.
