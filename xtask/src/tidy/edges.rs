//! Which crate may use which: the edges of the design, as one table. A new edge is a decision.

use super::{Finding, Tree};

struct Crate {
    name: &'static str,
    /// Our own crates it may depend on, in any kind of dependency.
    may_use: &'static [&'static str],
}

const EDGES: &[Crate] = &[
    Crate { name: "ferry-nbd", may_use: &[] },
    Crate { name: "ferry-engine", may_use: &[] },
    Crate { name: "ferry-fsm", may_use: &[] },
    Crate { name: "ferry-api", may_use: &[] },
    Crate { name: "ferry-volume", may_use: &["ferry-engine", "ferry-nbd"] },
    // Its words travel through the door; who carries them is the agent's.
    Crate { name: "ferry-cluster", may_use: &["ferry-api"] },
    // Of the api the heart takes the words, never the door.
    Crate { name: "ferry-crossing", may_use: &["ferry-fsm", "ferry-api"] },
    // Whether a worker can run a machine at all is the crossing's to say, in Plan as in a bid.
    Crate { name: "ferry-placement", may_use: &["ferry-api", "ferry-crossing"] },
    // Who is there and has news, whatever they are about.
    Crate { name: "ferry-gossip", may_use: &["ferry-api"] },
    Crate {
        name: "ferry-agent",
        may_use: &[
            "ferry-api",
            "ferry-cluster",
            "ferry-crossing",
            "ferry-fsm",
            "ferry-gossip",
            "ferry-placement",
            "ferry-volume",
        ],
    },
    // The model checks the hearts of the crossing; no part of the product uses it.
    Crate { name: "ferry-model", may_use: &["ferry-fsm", "ferry-api", "ferry-crossing"] },
    // The simulator runs the agent and the engine on hosts that are not real; no part of the product uses it.
    Crate {
        name: "ferry-sim",
        may_use: &["ferry-agent", "ferry-api", "ferry-crossing", "ferry-engine", "ferry-volume"],
    },
    // The protocol is for a source that its tests serve themselves; of a cluster it knows whom a token may be shown to.
    Crate {
        name: "ferry",
        may_use: &["ferry-agent", "ferry-api", "ferry-cluster", "ferry-nbd", "ferry-volume"],
    },
    // The bench makes volumes as the agent does, and talks to their servers.
    Crate { name: "xtask", may_use: &["ferry-gossip", "ferry-model", "ferry-volume"] },
    Crate {
        name: "fuzz",
        may_use: &[
            "ferry-cluster",
            "ferry-crossing",
            "ferry-engine",
            "ferry-fsm",
            "ferry-gossip",
            "ferry-nbd",
            "ferry-volume",
        ],
    },
];

/// What a heart may take from outside: arithmetic, encodings and error types, nothing that reaches the world.
const HEARTS: &[&str] = &["ferry-nbd", "ferry-engine", "ferry-fsm", "ferry-crossing", "ferry-placement"];
const HEARTS_MAY_USE: &[&str] = &["crc32c", "proptest", "serde", "serde_json", "thiserror"];

/// HTTP has one room: `ferry_api::http`.
const HTTP_CRATES: &[&str] = &["axum", "hyper", "hyper-util", "reqwest"];

const DEPENDENCY_TABLES: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

pub fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.ending("/Cargo.toml") {
        match text.parse::<toml::Table>() {
            Ok(manifest) => check_manifest(path, &manifest, findings),
            Err(error) => {
                findings.push(Finding::file_failure(path, format!("is not TOML: {}", error.message())))
            }
        }
    }
}

fn check_manifest(path: &str, manifest: &toml::Table, findings: &mut Vec<Finding>) {
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    let folder = path.strip_suffix("/Cargo.toml").and_then(|path| path.rsplit('/').next());
    let Some(known) = EDGES.iter().find(|known| Some(known.name) == name && Some(known.name) == folder)
    else {
        findings.push(Finding::file_failure(
            path,
            format!(
                "crate `{}` in folder `{}` is not in the table of edges: name both alike and add a row to \
                 xtask/src/tidy/edges.rs",
                name.unwrap_or("?"),
                folder.unwrap_or("?")
            ),
        ));
        return;
    };
    for dependency in dependencies(manifest) {
        let message = if EDGES.iter().any(|other| other.name == dependency) {
            (!known.may_use.contains(&dependency.as_str()))
                .then(|| format!("`{}` must not use `{dependency}`: the design has no such edge", known.name))
        } else if HEARTS.contains(&known.name) && !HEARTS_MAY_USE.contains(&dependency.as_str()) {
            Some(format!("the heart `{}` must not use `{dependency}`: hearts are pure", known.name))
        } else if HTTP_CRATES.contains(&dependency.as_str()) && known.name != "ferry-api" {
            Some(format!("`{}` must not use `{dependency}`: HTTP lives in ferry-api::http", known.name))
        } else {
            None
        };
        findings.extend(message.map(|message| Finding::file_failure(path, message)));
    }
}

/// The packages named in all dependency tables, those behind `target.'cfg(…)'` and renames included.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = std::iter::once(manifest)
        .chain(targets.into_iter().flat_map(toml::Table::values).filter_map(toml::Value::as_table));
    let mut names = Vec::new();
    for table in tables {
        for kind in DEPENDENCY_TABLES {
            for (key, value) in table.get(*kind).and_then(toml::Value::as_table).into_iter().flatten() {
                let package = value.get("package").and_then(toml::Value::as_str);
                names.push(package.unwrap_or(key).to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, manifest: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Tree::of(&[(path, manifest)]), &mut findings);
        findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn an_edge_of_the_design_passes() {
        let manifest = "[package]\nname = \"ferry-volume\"\n[dependencies]\nferry-engine.workspace = true\nlibc = \"0.2\"\n";
        assert_eq!(said("crates/ferry-volume/Cargo.toml", manifest), Vec::<String>::new());
    }

    #[test]
    fn an_edge_that_the_design_does_not_have_fails_in_every_kind_of_dependency() {
        for table in [
            "[dependencies]",
            "[dev-dependencies]",
            "[build-dependencies]",
            "[target.'cfg(unix)'.dependencies]",
        ] {
            let manifest =
                format!("[package]\nname = \"ferry-api\"\n{table}\nferry-volume.workspace = true\n");
            let said = said("crates/ferry-api/Cargo.toml", &manifest);
            assert_eq!(said.len(), 1, "{table}");
            assert!(said[0].contains("`ferry-api` must not use `ferry-volume`"), "{said:?}");
        }
    }

    #[test]
    fn a_renamed_dependency_is_still_seen() {
        let manifest = "[package]\nname = \"ferry-api\"\n[dependencies]\nx = { package = \"ferry-nbd\", path = \"../ferry-nbd\" }\n";
        assert_eq!(said("crates/ferry-api/Cargo.toml", manifest).len(), 1);
    }

    #[test]
    fn a_heart_takes_nothing_that_reaches_the_world() {
        let manifest = "[package]\nname = \"ferry-fsm\"\n[dependencies]\nthiserror = \"2\"\n[dev-dependencies]\nrand = \"1\"\n";
        let said = said("crates/ferry-fsm/Cargo.toml", manifest);
        assert_eq!(said, ["the heart `ferry-fsm` must not use `rand`: hearts are pure"]);
    }

    #[test]
    fn http_has_one_room() {
        let manifest = "[package]\nname = \"ferry-agent\"\n[dependencies]\naxum = \"0.8\"\n";
        assert_eq!(said("crates/ferry-agent/Cargo.toml", manifest).len(), 1);
        let manifest = "[package]\nname = \"ferry-api\"\n[dependencies]\naxum = \"0.8\"\n";
        assert_eq!(said("crates/ferry-api/Cargo.toml", manifest), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_crate_or_a_folder_of_another_name_fails() {
        assert_eq!(said("crates/ferry-utils/Cargo.toml", "[package]\nname = \"ferry-utils\"\n").len(), 1);
        assert_eq!(said("crates/engine/Cargo.toml", "[package]\nname = \"ferry-engine\"\n").len(), 1);
    }

    #[test]
    fn a_manifest_that_is_not_toml_is_said() {
        assert!(said("crates/ferry-api/Cargo.toml", "[package\n")[0].contains("is not TOML"));
    }
}
