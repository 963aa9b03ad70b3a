//! Both ends of the door, with an agent between them that only answers.

mod admitted;
mod certificates;
mod house;
mod secured;
mod unreachable;
