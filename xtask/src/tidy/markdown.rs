//! Documents: exactly one `# Title` each, and every relative link leads to a file, and to a heading of it if it
//! names one.

use super::{Finding, Tree};

pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.ending(".md") {
        check_title(path, text, findings);
        for (line, target) in links(text) {
            if let Err(message) = resolve(tree, path, text, target) {
                findings.push(Finding::failure(path, line, message));
            }
        }
    }
}

fn check_title(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let titles: Vec<usize> =
        prose(text).filter(|(_, line)| line.starts_with("# ")).map(|(number, _)| number).collect();
    match titles.as_slice() {
        [_] => {}
        [] => findings.push(Finding::file_failure(path, "has no `# Title`")),
        [_, second, ..] => {
            findings.push(Finding::failure(path, *second, "a second `# Title`: one document, one title"));
        }
    }
}

/// The lines outside of fenced code, counted from one.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<&str> = None;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let start = line.trim_start();
        match fence {
            Some(open) => {
                if start.starts_with(open) {
                    fence = None;
                }
                None
            }
            None => {
                fence = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
                fence.is_none().then_some((at + 1, line))
            }
        }
    })
}

/// Targets of `[text](target)` and of `[label]: target`, with their lines; what stands in `code` does not count.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        if let Some(target) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, to)| to)
        {
            found.push((number, target.trim()));
        }
        for (at, _) in line.match_indices("](") {
            let in_code = line[..at].matches('`').count() % 2 == 1;
            let target = &line[at + 2..];
            if let Some(end) = target.find(')').filter(|_| !in_code) {
                found.push((number, target[..end].split(' ').next().unwrap_or_default()));
            }
        }
    }
    found
}

fn resolve(tree: &Tree, from: &str, text: &str, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let document = if file.is_empty() {
        Some(text)
    } else {
        let path = join(from, file).ok_or_else(|| format!("the link `{target}` leads out of the tree"))?;
        if !tree.holds(&path) {
            return Err(format!("the link `{target}` leads nowhere: there is no {path}"));
        }
        tree.files().get(&path).filter(|_| path.ends_with(".md")).map(String::as_str)
    };
    match document {
        Some(document) if !heading.is_empty() && !headings(document).any(|slug| slug == heading) => {
            Err(format!("the link `{target}` names no heading of its document"))
        }
        Some(_) | None => Ok(()),
    }
}

/// `docs/a.md` and `../b.md` make `b.md`; `None` above the root.
fn join(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        parts.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The anchors of a document's headings, the way code hosts make them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        let files = [
            ("README.md", "# Readme\n"),
            ("docs/formats.md", text),
            ("docs/other.md", "# Other\n\n## The map, byte by byte\n"),
            ("crates/ferry-nbd/src/lib.rs", ""),
        ];
        check(&Tree::of(&files), &mut findings);
        findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn one_document_has_one_title() {
        assert_eq!(said("# Formats\n\n## One\n\n```sh\n# a comment\n```\n"), Vec::<String>::new());
        assert!(said("## Formats\n")[0].contains("has no `# Title`"));
        assert!(said("# Formats\n\n# Again\n")[0].contains("docs/formats.md:3: a second"));
    }

    #[test]
    fn links_that_resolve_pass() {
        let text = "# Formats\n\n## Here too\n[a](other.md) [b](../README.md) [c](../crates/ferry-nbd) [d](#here-too)\n\
                    [e](other.md#the-map-byte-by-byte) [f](https://example.org/x) [g](/README.md \"hover\")\n[h]: other.md\n";
        assert_eq!(said(text), Vec::<String>::new());
    }

    #[test]
    fn links_that_lead_nowhere_fail_with_their_line() {
        for (target, why) in [
            ("gone.md", "there is no docs/gone.md"),
            ("../../out.md", "leads out of the tree"),
            ("other.md#gone", "names no heading"),
            ("#gone", "names no heading"),
        ] {
            let said = said(&format!("# Formats\n\nSee [it]({target}).\n"));
            assert_eq!(said.len(), 1, "{target}");
            assert!(said[0].contains("docs/formats.md:3") && said[0].contains(why), "{said:?}");
        }
        assert_eq!(said("# Formats\n\n[label]: gone.md\n").len(), 1);
    }

    #[test]
    fn what_stands_in_code_is_no_link() {
        assert_eq!(said("# Formats\n\n`[a](gone.md)` and\n```\n[b](gone.md)\n```\n"), Vec::<String>::new());
    }
}
