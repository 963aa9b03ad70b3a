//! Hearts are pure: no async, no I/O, no clock, no randomness, so that a simulator and property tests can drive
//! them through every order of events. What would break that must not even be named in their code.

use super::lexer::{Token, closing, matches_at, tokens};
use super::tree::{crate_of, is_test_file};
use super::{Finding, Tree};

const HEARTS: &[&str] = &["ferry-nbd", "ferry-engine", "ferry-fsm", "ferry-crossing", "ferry-placement"];

/// Words that have no place in a heart, whatever path leads to them.
const BANNED_WORDS: &[&str] = &[
    "async",
    "await",
    "tokio",
    "futures",
    "mio",
    "io_uring",
    "rustix",
    "libc",
    "rand",
    "getrandom",
    "RandomState",
    "HashMap",
    "HashSet",
    "SystemTime",
    "Instant",
    "OpenOptions",
    "File",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "Socket",
    "Mutex",
    "RwLock",
    "Condvar",
    "AtomicBool",
    "AtomicU64",
    "AtomicUsize",
    "thread_local",
];

/// Modules of the standard library that reach the world.
const BANNED_STD_MODULES: &[&str] = &["env", "fs", "io", "net", "process", "thread", "time"];

pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.ending(".rs") {
        let in_a_heart = crate_of(path).is_some_and(|name| HEARTS.contains(&name));
        if in_a_heart && !is_test_file(path) {
            check_source(path, &tokens(text), findings);
        }
    }
}

fn check_source(path: &str, tokens: &[Token<'_>], findings: &mut Vec<Finding>) {
    for (at, token) in tokens.iter().enumerate() {
        if BANNED_WORDS.contains(&token.text) {
            findings.push(Finding::failure(path, token.line, advice(token.text)));
        }
        if !matches!(token.text, "std" | "core") || !matches_at(tokens, at + 1, &[":", ":"]) {
            continue;
        }
        for module in modules_after(tokens, at + 3) {
            if BANNED_STD_MODULES.contains(&module.text) {
                findings.push(Finding::failure(path, module.line, advice(&format!("std::{}", module.text))));
            }
        }
    }
}

/// The `x` of `std::x` and the first words of each branch of `std::{x, y::z}`.
fn modules_after<'a>(tokens: &[Token<'a>], at: usize) -> Vec<Token<'a>> {
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![*first];
    }
    let close = closing(tokens, at);
    let mut modules = Vec::new();
    let mut depth = 0usize;
    for inside in at..close {
        match tokens[inside].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 1 && matches!(tokens[inside].text, "{" | ",") && inside + 1 < close {
            modules.push(tokens[inside + 1]);
        }
    }
    modules
}

fn advice(word: &str) -> String {
    let instead = match word {
        "HashMap" | "HashSet" | "RandomState" => "its order is random: use a BTreeMap, a BTreeSet or a Vec",
        "Instant" | "SystemTime" | "std::time" => "take the time as a number of milliseconds in the event",
        "Mutex" | "RwLock" | "Condvar" | "AtomicBool" | "AtomicU64" | "AtomicUsize" | "thread_local" => {
            "a heart is a value with one owner"
        }
        "rand" | "getrandom" => "take the number in the event",
        _ => "let the shell do it and hand the outcome in",
    };
    format!("`{word}` in a heart: hearts are pure; {instead}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, source: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check(&Tree::of(&[(path, source)]), &mut findings);
        findings.iter().filter_map(|finding| finding.line).collect()
    }

    const HEART: &str = "crates/ferry-engine/src/plan.rs";

    #[test]
    fn async_clocks_files_sockets_and_dice_are_found_in_a_heart() {
        assert_eq!(lines(HEART, "async fn f() {}\nfn g() { h.await }"), [1, 2]);
        assert_eq!(
            lines(HEART, "use std::fs;\nfn f() { std::io::stdin(); }\nuse core::time::Duration;"),
            [1, 2, 3]
        );
        assert_eq!(lines(HEART, "fn f(clock: Instant) {}"), [1]);
        assert_eq!(lines(HEART, "fn f() { rand::random::<u8>(); }"), [1]);
        assert_eq!(lines(HEART, "struct S { by_id: HashMap<u64, u8> }"), [1]);
    }

    #[test]
    fn grouped_imports_are_looked_into() {
        assert_eq!(
            lines(HEART, "use std::{\n  fmt,\n  net::{IpAddr},\n  collections::{BTreeMap},\n  thread,\n};"),
            [3, 5]
        );
    }

    #[test]
    fn comments_strings_and_longer_words_do_not_count() {
        let source = "//! async I/O is elsewhere: std::fs, Instant.\nfn f() { g(\"no std::net\"); }\nstruct FileId; fn awaited() {}";
        assert_eq!(lines(HEART, source), [] as [usize; 0]);
        assert_eq!(
            lines(HEART, "use std::collections::{BTreeMap, btree_map::Entry};\nuse std::ops::Range;"),
            [] as [usize; 0]
        );
    }

    #[test]
    fn shells_and_the_hearts_own_integration_tests_may_touch_the_world() {
        assert_eq!(lines("crates/ferry-volume/src/store.rs", "use std::fs::File;"), [] as [usize; 0]);
        assert_eq!(lines("crates/ferry-nbd/tests/golden.rs", "use std::fs;"), [] as [usize; 0]);
    }
}
