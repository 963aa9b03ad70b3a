//! No file names a place that exists only on the machine of whoever wrote it.

use super::{Finding, Tree};

/// Beginnings of such paths, taken apart so that this file does not contain them.
const MACHINE_PATHS: &[[&str; 2]] = &[["/wo", "rk/"], ["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"]];

/// Written by cargo.
const EXEMPT: &[&str] = &["Cargo.lock", "fuzz/Cargo.lock"];

pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.files().iter().filter(|(path, _)| !EXEMPT.contains(&path.as_str())) {
        for (at, line) in text.lines().enumerate() {
            for needle in MACHINE_PATHS.iter().map(|halves| halves.concat()) {
                if holds_path(line, &needle) {
                    let message = format!("names the machine path `{needle}…`: nobody else has it");
                    findings.push(Finding::failure(path, at + 1, message));
                }
            }
        }
    }
}

/// Whether the needle begins a path here, rather than standing in the middle of one.
fn holds_path(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '>' | '~'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check(&Tree::of(&[(path, text)]), &mut findings);
        findings.iter().filter_map(|finding| finding.line).collect()
    }

    #[test]
    fn a_machine_path_is_found_in_any_kind_of_file() {
        let bad = ["/ho", "me/me/ferry"].concat();
        assert_eq!(lines("docs/a.md", &format!("fine\nsee {bad}\n")), [2]);
        assert_eq!(lines("crates/ferry/src/a.rs", &format!("const P: &str = \"{bad}\";")), [1]);
        assert_eq!(lines(".ci/run", &format!("cd '{bad}'")), [1]);
    }

    #[test]
    fn the_same_letters_inside_another_path_are_fine() {
        let inside = ["state/ho", "me/x and $HOME/y and ~/z"].concat();
        assert_eq!(lines("docs/a.md", &inside), [] as [usize; 0]);
    }
}
