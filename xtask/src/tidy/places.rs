//! One place for each danger. A dangerous word may appear only where its row says; some appear nowhere.

use super::lexer::{Token, closing, matches_at, test_bodies, tokens};
use super::tree::is_test_file;
use super::{Finding, Tree};

enum What {
    /// A word, whatever surrounds it.
    Word(&'static str),
    /// A macro call: the word and a `!`.
    Macro(&'static str),
    /// The standard library's or tokio's type for child processes, however it is imported.
    ProcessCommand,
}

struct Danger {
    what: &'static [What],
    /// Paths that begin with one of these may contain it.
    allowed: &'static [&'static str],
    /// Whether code that only tests compile may contain it.
    tests_may: bool,
    instead: &'static str,
}

const DANGERS: &[Danger] = &[
    Danger {
        what: &[What::Macro("todo"), What::Macro("unimplemented"), What::Macro("dbg")],
        allowed: &[],
        tests_may: false,
        instead: "nothing here is a stub: build it or leave it out",
    },
    Danger {
        what: &[What::Word("unsafe"), What::Word("unsafe_code")],
        allowed: &["crates/ferry-volume/src/"],
        tests_may: false,
        instead: "only the crates listed in xtask/src/tidy/places.rs may be unsafe",
    },
    Danger {
        what: &[What::Macro("println"), What::Macro("print"), What::Macro("eprintln"), What::Macro("eprint")],
        allowed: &["crates/ferry/src/output", "xtask/src/"],
        tests_may: true,
        instead: "a person is spoken to through ferry's output module, a log through `tracing`",
    },
    Danger {
        what: &[What::ProcessCommand],
        allowed: &[
            "crates/ferry-agent/src/drivers",
            "crates/ferry/src/demo",
            "xtask/src/ci",
            "xtask/src/bench",
            "xtask/src/fuzz",
        ],
        tests_may: true,
        instead: "child processes are started only in the places listed in xtask/src/tidy/places.rs",
    },
    Danger {
        what: &[What::Word("axum"), What::Word("reqwest"), What::Word("hyper"), What::Word("hyper_util")],
        allowed: &["crates/ferry-api/src/http"],
        tests_may: false,
        instead: "HTTP lives in ferry-api::http; the rest speaks `AgentApi`",
    },
];

pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.ending(".rs") {
        let tokens = tokens(text);
        let test_bodies = test_bodies(&tokens);
        for danger in DANGERS {
            if danger.allowed.iter().any(|prefix| path.starts_with(prefix)) {
                continue;
            }
            for at in 0..tokens.len() {
                let in_test = || is_test_file(path) || test_bodies.iter().any(|body| body.contains(&at));
                let found = danger.what.iter().any(|what| what.is_at(&tokens, at));
                if found && !(danger.tests_may && in_test()) {
                    let message = format!("`{}` has no place here: {}", tokens[at].text, danger.instead);
                    findings.push(Finding::failure(path, tokens[at].line, message));
                }
            }
        }
    }
}

impl What {
    fn is_at(&self, tokens: &[Token<'_>], at: usize) -> bool {
        match self {
            Self::Word(word) => tokens[at].text == *word,
            Self::Macro(word) => matches_at(tokens, at, &[word, "!"]),
            Self::ProcessCommand => is_process_command(tokens, at),
        }
    }
}

/// `process::Command`, or `Command` inside the braces of `process::{…}`. (clap has a `Command` too, which is none.)
fn is_process_command(tokens: &[Token<'_>], at: usize) -> bool {
    if !matches_at(tokens, at, &["process", ":", ":"]) {
        return false;
    }
    match tokens.get(at + 3).map(|token| token.text) {
        Some("Command" | "*") => true,
        Some("{") => {
            let inside = &tokens[at + 3..closing(tokens, at + 3)];
            inside.iter().any(|token| token.text == "Command")
        }
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, source: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check(&Tree::of(&[(path, source)]), &mut findings);
        findings.iter().filter_map(|finding| finding.line).collect()
    }

    const NOWHERE: [usize; 0] = [];
    const AGENT: &str = "crates/ferry-agent/src/records.rs";

    #[test]
    fn a_stub_has_no_place_anywhere_not_even_in_tests() {
        assert_eq!(
            lines(AGENT, "fn f() { todo!() }\nfn g() { unimplemented!() }\nfn h() { dbg!(1); }"),
            [1, 2, 3]
        );
        assert_eq!(lines("crates/ferry/tests/cli.rs", "fn f() { todo!() }"), [1]);
        assert_eq!(lines(AGENT, "// todo!()\nfn todo() {}"), NOWHERE);
    }

    #[test]
    fn unsafe_stays_where_it_is_listed() {
        assert_eq!(lines(AGENT, "fn f() { unsafe { g() } }"), [1]);
        assert_eq!(lines(AGENT, "#![allow(unsafe_code)]"), [1]);
        assert_eq!(lines("crates/ferry-volume/src/ring.rs", "fn f() { unsafe { g() } }"), NOWHERE);
    }

    #[test]
    fn only_the_output_module_the_chores_and_tests_print() {
        assert_eq!(lines(AGENT, "fn f() { println!(); }\nfn g() { eprintln!(); }"), [1, 2]);
        assert_eq!(lines("crates/ferry/src/output.rs", "fn f() { println!(); }"), NOWHERE);
        assert_eq!(lines("crates/ferry/src/output/table.rs", "fn f() { println!(); }"), NOWHERE);
        assert_eq!(lines("crates/ferry/tests/cli.rs", "fn f() { println!(); }"), NOWHERE);
        assert_eq!(
            lines(AGENT, "#[cfg(test)]\nmod tests {\nfn f() { println!(); }\n}\nfn g() { println!(); }"),
            [5]
        );
    }

    #[test]
    fn child_processes_are_found_however_they_are_imported() {
        assert_eq!(lines(AGENT, "use std::process::Command;"), [1]);
        assert_eq!(lines(AGENT, "use tokio::process::{Child,\nCommand};"), [1]);
        assert_eq!(lines(AGENT, "fn f() { std::process::Command::new(\"x\"); }"), [1]);
        assert_eq!(
            lines(AGENT, "use std::process::{ExitCode, exit};\nenum Command { Stop }\nuse clap::Command;"),
            NOWHERE
        );
        assert_eq!(lines("crates/ferry-agent/src/drivers/process.rs", "use std::process::Command;"), NOWHERE);
    }

    #[test]
    fn http_is_spoken_in_one_room() {
        assert_eq!(lines(AGENT, "use axum::Router;"), [1]);
        assert_eq!(lines("crates/ferry-api/src/http/client.rs", "use reqwest::Client;"), NOWHERE);
        assert_eq!(lines("crates/ferry-api/src/machine.rs", "fn f(x: reqwest::Error) {}"), [1]);
    }
}
