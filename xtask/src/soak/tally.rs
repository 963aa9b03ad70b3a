//! What the soak has done so far, a line of it a minute, and when it is enough.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const PRINT_EVERY: Duration = Duration::from_secs(60);
const HISTORY_STEPS: usize = 400;

/// When the soak is over.
pub enum Until {
    Minutes(u64),
    Kills(u64),
    Moves(u64),
}

pub struct Tally {
    begun: Instant,
    printed: Instant,
    until: Until,
    history: VecDeque<String>,
    /// Requests of the guest that were answered, and the bytes they read or wrote.
    pub ops: u64,
    pub bytes: u64,
    pub compared_bytes: u64,
    pub moves: u64,
    pub kills: u64,
}

impl Tally {
    pub fn new(until: Until) -> Self {
        let now = Instant::now();
        let history = VecDeque::with_capacity(HISTORY_STEPS);
        Self {
            begun: now,
            printed: now,
            until,
            history,
            ops: 0,
            bytes: 0,
            compared_bytes: 0,
            moves: 0,
            kills: 0,
        }
    }

    /// Whether it is enough; prints a line when a minute is over.
    pub fn is_over(&mut self) -> bool {
        if self.printed.elapsed() >= PRINT_EVERY {
            self.printed = Instant::now();
            self.print();
        }
        match self.until {
            Until::Minutes(minutes) => self.begun.elapsed() >= Duration::from_secs(minutes * 60),
            Until::Kills(kills) => self.kills >= kills,
            Until::Moves(moves) => self.moves >= moves,
        }
    }

    pub fn print(&self) {
        println!(
            "soak: {} s, {} requests, {} MiB, {} MiB compared, {} moves, {} kills",
            self.begun.elapsed().as_secs(),
            self.ops,
            self.bytes >> 20,
            self.compared_bytes >> 20,
            self.moves,
            self.kills
        );
    }

    /// Remembers a step.
    pub fn note(&mut self, step: String) {
        if self.history.len() == HISTORY_STEPS {
            self.history.pop_front();
        }
        self.history.push_back(step);
    }

    /// The last steps, one a line.
    pub fn history(&self) -> String {
        self.history.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
