//! The shape of source files: each opens with `//!`, none is a book, and a function fits a screen.

use super::lexer::{Token, closing, tokens};
use super::ratchet::LongFunction;
use super::{Finding, Tree};

pub const FILE_LINES_WARN: usize = 500;
pub const FILE_LINES_MAX: usize = 900;
pub const FUNCTION_LINES_MAX: usize = 70;

pub fn check(tree: &Tree, ratchet: &[LongFunction], findings: &mut Vec<Finding>) {
    let mut tolerated_seen = vec![false; ratchet.len()];
    for (path, text) in tree.ending(".rs") {
        check_header(path, text, findings);
        check_file_length(path, text, findings);
        for function in functions(&tokens(text)) {
            let tolerated =
                ratchet.iter().position(|entry| entry.path == path && entry.name == function.name);
            if let Some(at) = tolerated {
                tolerated_seen[at] = true;
            }
            findings.extend(judge(path, &function, tolerated.map(|at| &ratchet[at])));
        }
    }
    for (entry, seen) in ratchet.iter().zip(tolerated_seen) {
        if !seen {
            let message = format!("`{}` is not there any more: delete its line from the ratchet", entry.name);
            findings.push(Finding::file_failure(entry.path, message));
        }
    }
}

fn check_header(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !lines.next().is_some_and(|line| line.starts_with("//! ") && line.trim_end().len() > "//! ".len()) {
        findings.push(Finding::failure(
            path,
            1,
            "does not open with `//!`: say what this room is for, and its invariant",
        ));
    }
}

fn check_file_length(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let lines = text.lines().count();
    let message = format!("is {lines} lines long (about {FILE_LINES_WARN} is enough): split it by concern");
    if lines > FILE_LINES_MAX {
        findings.push(Finding::file_failure(path, message));
    } else if lines > FILE_LINES_WARN {
        findings.push(Finding::file_warning(path, message));
    }
}

fn judge(path: &str, function: &Function<'_>, tolerated: Option<&LongFunction>) -> Option<Finding> {
    let Function { name, line, lines } = *function;
    let message = match tolerated.map(|entry| entry.lines) {
        None if lines > FUNCTION_LINES_MAX => {
            format!("`{name}` is {lines} lines long, a screen is {FUNCTION_LINES_MAX}: split it")
        }
        Some(_) if lines <= FUNCTION_LINES_MAX => {
            format!("`{name}` fits a screen now: delete its line from the ratchet")
        }
        Some(limit) if lines > limit => format!("`{name}` grew from {limit} to {lines} lines: split it"),
        Some(limit) if lines < limit => {
            format!("`{name}` shrank from {limit} to {lines} lines: lower its number in the ratchet")
        }
        None | Some(_) => return None,
    };
    Some(Finding::failure(path, line, message))
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
}

/// Every function with a body; nested ones too, each on its own account.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Function<'a>> {
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        let name = tokens[at + 1].text;
        let is_named = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if tokens[at].text != "fn" || !is_named {
            continue;
        }
        if let Some(open) = body_after(tokens, at + 2) {
            let line = tokens[at].line;
            found.push(Function { name, line, lines: tokens[closing(tokens, open)].line - line + 1 });
        }
    }
    found
}

/// The `{` that opens the body, or `None` for a declaration that ends in `;`.
fn body_after(tokens: &[Token<'_>], mut at: usize) -> Option<usize> {
    loop {
        match tokens.get(at)?.text {
            "{" => return Some(at),
            ";" => return None,
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "crates/ferry-volume/src/a.rs";

    fn said(source: &str, ratchet: &[LongFunction]) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Tree::of(&[(PATH, source)]), ratchet, &mut findings);
        findings.iter().map(Finding::to_string).collect()
    }

    fn function_of(lines: usize) -> String {
        format!("//! Room.\nfn long(x: [u8; 4]) -> u8 {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    fn entry(lines: usize) -> [LongFunction; 1] {
        [LongFunction { path: PATH, name: "long", lines }]
    }

    #[test]
    fn a_file_opens_with_what_it_is_for() {
        assert_eq!(said("//! Room.\n", &[]), Vec::<String>::new());
        assert_eq!(said("#![no_std]\n\n//! Room.\n", &[]), Vec::<String>::new());
        assert_eq!(said("fn f() {}\n", &[]).len(), 1);
        assert_eq!(said("// Not the file's.\n//! Room.\n", &[]).len(), 1);
        assert_eq!(said("//! \n", &[]).len(), 1);
    }

    #[test]
    fn a_long_file_warns_and_a_book_fails() {
        let lines = |count: usize| format!("//! Room.\n{}", "\n".repeat(count - 1));
        assert_eq!(said(&lines(FILE_LINES_WARN), &[]), Vec::<String>::new());
        assert!(said(&lines(FILE_LINES_WARN + 1), &[])[0].starts_with("warning: "));
        assert!(said(&lines(FILE_LINES_MAX + 1), &[])[0].starts_with("error: "));
    }

    #[test]
    fn a_function_fits_a_screen() {
        assert_eq!(said(&function_of(FUNCTION_LINES_MAX), &[]), Vec::<String>::new());
        let said = said(&function_of(FUNCTION_LINES_MAX + 1), &[]);
        assert!(said[0].contains(":2: `long` is 71 lines long"), "{said:?}");
    }

    #[test]
    fn declarations_types_and_braces_in_strings_do_not_confuse_it() {
        let tail = "\n".repeat(100);
        let source = format!(
            "//! Room.\ntrait T {{\nfn f(&self);\nfn g(x: fn(u8) -> u8) {{ h(\"{{\"); }}\n{tail}}}\n"
        );
        assert_eq!(said(&source, &[]), Vec::<String>::new());
    }

    #[test]
    fn the_ratchet_tolerates_exactly_what_it_lists_and_may_only_shrink() {
        assert_eq!(said(&function_of(80), &entry(80)), Vec::<String>::new());
        assert!(said(&function_of(81), &entry(80))[0].contains("grew from 80 to 81"));
        assert!(said(&function_of(79), &entry(80))[0].contains("lower its number"));
        assert!(said(&function_of(60), &entry(80))[0].contains("fits a screen now"));
        assert!(said("//! Room.\n", &entry(80))[0].contains("is not there any more"));
    }
}
