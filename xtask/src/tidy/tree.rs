//! The tree that is checked, read once: every file's path, and the text of those that are text.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Built or foreign: never part of what we wrote.
const SKIPPED_DIRECTORIES: &[&str] = &["target", ".git", "node_modules"];

/// Relative path with `/` → text; an entry that is not UTF-8 is kept with an empty text, so that links to it resolve.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads everything under `root`. Symbolic links are not followed.
    pub fn load(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.load_directory(root, "")?;
        Ok(tree)
    }

    fn load_directory(&mut self, directory: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if !SKIPPED_DIRECTORIES.contains(&name.as_str()) {
                    self.load_directory(&entry.path(), &format!("{path}/"))?;
                }
            } else if kind.is_file() && name != ".git" {
                let text = String::from_utf8(fs::read(entry.path())?).unwrap_or_default();
                self.files.insert(path, text);
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect() }
    }

    /// Every file with its text, by path.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// The files whose name ends like this (`.rs`, `.md`, `/Cargo.toml`).
    pub fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(end))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Whether a file, or a directory with a file in it, is there.
    pub fn holds(&self, path: &str) -> bool {
        let directory = format!("{path}/");
        path.is_empty() || self.files.keys().any(|file| file == path || file.starts_with(&directory))
    }
}

/// `ferry-engine` for `crates/ferry-engine/src/lib.rs`; `xtask` for what lies there.
pub fn crate_of(path: &str) -> Option<&str> {
    match path.strip_prefix("crates/") {
        Some(rest) => rest.split('/').next(),
        None => path.starts_with("xtask/").then_some("xtask"),
    }
}

/// Files that only tests compile: integration tests, benches, and modules called `tests`.
pub fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}
