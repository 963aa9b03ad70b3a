//! The house rules, as code. A check is a pure function from the [`Tree`] to what it found, so that
//! each one is tested on small good and bad trees; only [`Tree::load`] touches the disk.

mod edges;
mod hearts;
mod lexer;
mod markdown;
mod places;
mod privacy;
mod ratchet;
mod shape;
mod tree;

use std::fmt;
use std::path::Path;

use anyhow::{Context, bail};
pub use tree::Tree;

/// Whether a finding stops the change or is only said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Warning,
    Failure,
}

/// One place that breaks one rule, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub weight: Weight,
    pub path: String,
    /// Counted from one; `None` when the whole file is meant.
    pub line: Option<usize>,
    pub message: String,
}

impl Finding {
    fn failure(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { weight: Weight::Failure, path: path.to_owned(), line: Some(line), message: message.into() }
    }

    fn file_failure(path: &str, message: impl Into<String>) -> Self {
        Self { weight: Weight::Failure, path: path.to_owned(), line: None, message: message.into() }
    }

    fn file_warning(path: &str, message: impl Into<String>) -> Self {
        Self { weight: Weight::Warning, path: path.to_owned(), line: None, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            Weight::Warning => write!(f, "warning: ")?,
            Weight::Failure => write!(f, "error: ")?,
        }
        write!(f, "{}", self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Checks the tree under `root`, prints every finding, and fails if one of them is a failure.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let tree = Tree::load(root).with_context(|| format!("cannot read the tree under {}", root.display()))?;
    let findings = check(&tree);
    for finding in &findings {
        println!("{finding}");
    }
    let failures = findings.iter().filter(|finding| finding.weight == Weight::Failure).count();
    if failures > 0 {
        bail!("tidy: {failures} of the house rules' checks failed");
    }
    println!("tidy: {} files are in order", tree.files().len());
    Ok(())
}

/// All checks over one tree, in the order of their paths.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    edges::check(tree, &mut findings);
    hearts::check(tree, &mut findings);
    shape::check(tree, ratchet::LONG_FUNCTIONS, &mut findings);
    places::check(tree, &mut findings);
    markdown::check(tree, &mut findings);
    privacy::check(tree, &mut findings);
    findings.sort_by(|a, b| (&a.path, a.line, &a.message).cmp(&(&b.path, b.line, &b.message)));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn small_good_tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\n");
        write(dir.path(), "crates/ferry-engine/Cargo.toml", "[package]\nname = \"ferry-engine\"\n");
        write(dir.path(), "crates/ferry-engine/src/lib.rs", "//! A heart.\n\npub fn beat() {}\n");
        write(dir.path(), "README.md", "# A title\n\nSee [the heart](crates/ferry-engine/src/lib.rs).\n");
        dir
    }

    #[test]
    fn a_small_good_tree_on_disk_is_in_order() {
        let dir = small_good_tree();
        assert_eq!(check(&Tree::load(dir.path()).unwrap()), []);
        run(dir.path()).unwrap();
    }

    #[test]
    fn a_bad_tree_on_disk_fails_with_path_and_line() {
        let dir = small_good_tree();
        write(dir.path(), "crates/ferry-engine/src/lib.rs", "//! A heart.\n\nuse std::time::Instant;\n");
        let said: Vec<String> =
            check(&Tree::load(dir.path()).unwrap()).iter().map(Finding::to_string).collect();
        assert!(said[0].starts_with("error: crates/ferry-engine/src/lib.rs:3: "), "{said:?}");
        assert!(run(dir.path()).is_err());
    }

    #[test]
    fn a_warning_is_said_and_passes() {
        let dir = small_good_tree();
        let text = format!("//! A heart.\n{}", "//\n".repeat(shape::FILE_LINES_WARN));
        write(dir.path(), "crates/ferry-engine/src/lib.rs", &text);
        let findings = check(&Tree::load(dir.path()).unwrap());
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].weight, Weight::Warning);
        run(dir.path()).unwrap();
    }

    #[test]
    fn what_was_built_is_not_read() {
        let dir = small_good_tree();
        write(dir.path(), "target/debug/out.rs", "fn no_header() {}\n");
        write(dir.path(), ".git/hook.md", "no title\n");
        assert_eq!(check(&Tree::load(dir.path()).unwrap()), []);
    }

    #[test]
    fn this_very_project_is_in_order() {
        run(&crate::workspace_root()).unwrap();
    }
}
