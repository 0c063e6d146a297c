//! Which crate may depend on which.
//!
//! Dependencies for tests count like any other: a test that needs a higher crate belongs there.

use super::{Finding, source};
use crate::workspace::SourceFile;
use cargo_metadata::Metadata;
use std::collections::BTreeSet;

/// A crate's manifest and what it depends on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dependencies {
    /// The crate's name.
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) folder: String,
    /// The packages that it names, of whatever kind, under their own names.
    pub(crate) on: BTreeSet<String>,
}

/// What a crate may know of this workspace.
enum Knows {
    /// These crates.
    Only(&'static [&'static str]),
    /// All but these crates: programs at the top, which nothing depends on.
    AllBut(&'static [&'static str]),
}

/// The design: left knows nothing of right.
///
/// types, tuning, hosts ← protocol ← network, storage ← state ← runtime ← api ← connectors, workloads ← bench, demo, sim ← cli
/// protocol, network ← control ← coordinator ← worker ← cli
const TABLE: &[(&str, Knows)] = &[
    ("millstream-types", Knows::Only(&[])),
    ("millstream-tuning", Knows::Only(&[])),
    ("millstream-macros", Knows::Only(&[])),
    // A network for tests and benchmarks: the programs on it may be any.
    ("millstream-hosts", Knows::Only(&[])),
    // The credits of an exchange are decided there.
    ("millstream-network", Knows::Only(&["millstream-types", "millstream-protocol"])),
    ("millstream-protocol", Knows::Only(&["millstream-types"])),
    // To verify a checkpoint is to read its manifest.
    ("millstream-storage", Knows::Only(&["millstream-types", "millstream-protocol"])),
    (
        "millstream-state",
        Knows::Only(&["millstream-types", "millstream-storage", "millstream-tuning"]),
    ),
    (
        "millstream-runtime",
        Knows::Only(&[
            "millstream-types",
            "millstream-protocol",
            "millstream-storage",
            "millstream-network",
            "millstream-state",
            "millstream-tuning",
        ]),
    ),
    (
        "millstream",
        Knows::Only(&[
            "millstream-types",
            "millstream-protocol",
            "millstream-storage",
            "millstream-state",
            "millstream-runtime",
            "millstream-macros",
        ]),
    ),
    // Sources and sinks are written to the runtime's traits, as a third party's would be.
    (
        "millstream-connectors",
        Knows::Only(&["millstream-types", "millstream-runtime", "millstream"]),
    ),
    // What the programs of jobs share, users' own too.
    ("millstream-ops", Knows::Only(&["millstream", "millstream-connectors"])),
    // The control plane links neither the runtime nor state.
    ("millstream-control", Knows::Only(&["millstream-protocol", "millstream-network"])),
    ("millstream-coordinator", Knows::Only(&["millstream-protocol", "millstream-control"])),
    // Its tests run a coordinator.
    (
        "millstream-worker",
        Knows::Only(&["millstream-protocol", "millstream-control", "millstream-coordinator"]),
    ),
    // What a user could write: the suites prove that the public API suffices.
    ("millstream-workloads", Knows::Only(&["millstream"])),
    // Programs that users could have written.
    ("millstream-demo", Knows::Only(&["millstream", "millstream-connectors", "millstream-ops"])),
    ("millstream-sim", Knows::AllBut(&["millstream-demo", "millstream-cli", "xtask"])),
    ("millstream-cluster-tests", Knows::AllBut(&["millstream-cli", "xtask"])),
    ("millstream-bench", Knows::AllBut(&["millstream-demo", "millstream-cli", "xtask"])),
    ("millstream-cli", Knows::AllBut(&["xtask"])),
    ("xtask", Knows::Only(&[])),
];

/// Packages from outside that only some crates may name, so that they can be replaced and simulated.
const RESTRICTED: &[(&str, &[&str])] = &[
    ("glommio", &["millstream-runtime"]),
    ("glommio-ng", &["millstream-runtime"]),
    (
        "io-uring",
        &["millstream-network", "millstream-runtime", "millstream-state", "millstream-storage"],
    ),
];

/// The files of the runtime that may name glommio: a file, or a folder with all in it.
const GLOMMIO_FILES: &[&str] = &["runtime/src/executor.rs", "runtime/src/executor/"];

/// The dependencies of each of the workspace's crates.
pub(crate) fn read(metadata: &Metadata) -> Vec<Dependencies> {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| Dependencies {
            name: package.name.to_string(),
            folder: package
                .manifest_path
                .parent()
                .and_then(|folder| folder.strip_prefix(&metadata.workspace_root).ok())
                .map_or_else(String::new, ToString::to_string),
            on: package.dependencies.iter().map(|dependency| dependency.name.clone()).collect(),
        })
        .collect()
}

/// Edges that the tables do not hold.
pub(crate) fn forbidden(crates: &[Dependencies]) -> Vec<Finding> {
    let ours: BTreeSet<&str> = crates.iter().map(|one| one.name.as_str()).collect();
    let mut findings = Vec::new();
    for one in crates {
        let manifest = format!("{}/Cargo.toml", one.folder);
        let knows = TABLE.iter().find(|(name, _)| *name == one.name).map(|(_, knows)| knows);
        for on in one.on.iter().map(String::as_str) {
            let allowed = match knows {
                _ if !ours.contains(on) => true,
                Some(Knows::Only(list)) => list.contains(&on),
                Some(Knows::AllBut(list)) => !list.contains(&on),
                // The crate itself is reported.
                None => true,
            };
            if !allowed {
                let message =
                    format!("{} must not depend on {on}: the design has no such edge", one.name);
                findings.push(Finding::of_file(&manifest, message));
            }
            if let Some((_, by)) = RESTRICTED.iter().find(|(restricted, _)| *restricted == on)
                && !by.contains(&one.name.as_str())
            {
                let message =
                    format!("{} must not depend on {on}: only {} may", one.name, by.join(", "));
                findings.push(Finding::of_file(&manifest, message));
            }
        }
    }
    findings
}

/// Crates that the table does not name, and names in it that are no crates.
pub(crate) fn unlisted(crates: &[Dependencies]) -> Vec<Finding> {
    let listed = |name: &str| TABLE.iter().any(|(known, _)| *known == name);
    let unknown = crates.iter().filter(|one| !listed(&one.name)).map(|one| {
        let message = format!("{} is not in tidy's table of dependency edges: add it", one.name);
        Finding::of_file(&format!("{}/Cargo.toml", one.folder), message)
    });
    let gone = TABLE.iter().filter(|(name, _)| crates.iter().all(|one| one.name != *name)).map(
        |(name, _)| Finding::of_file("xtask/src/tidy/edges.rs", format!("{name} is no crate here")),
    );
    unknown.chain(gone).collect()
}

/// Files that name glommio and must not.
pub(crate) fn executor_named(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| source::is_ours(file)) {
        let allowed = GLOMMIO_FILES.iter().any(|place| {
            file.path == *place || place.ends_with('/') && file.path.starts_with(place)
        });
        if !allowed && let Some(line) = source::first_word(&source::code_of(&file.text), "glommio")
        {
            let message = format!("only {} may name glommio", GLOMMIO_FILES[0]);
            findings.push(Finding::at(&file.path, line, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, on: &[&str]) -> Dependencies {
        Dependencies {
            name: name.to_owned(),
            folder: "folder".to_owned(),
            on: on.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn messages(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn edges_of_the_design_are_allowed() {
        let crates = [
            one("millstream-types", &["serde"]),
            one("millstream-state", &["millstream-types", "rkyv"]),
            one("millstream-runtime", &["millstream-state", "glommio-ng"]),
            one("millstream", &["millstream-runtime"]),
            one("millstream-workloads", &["millstream"]),
            one("millstream-bench", &["millstream-network", "millstream-workloads"]),
            one("millstream-cli", &["millstream-bench"]),
        ];
        assert_eq!(forbidden(&crates), []);
    }

    #[test]
    fn an_edge_to_the_right_is_named() {
        let crates =
            [one("millstream-state", &["millstream-network"]), one("millstream-network", &[])];
        assert_eq!(
            messages(forbidden(&crates)),
            ["folder/Cargo.toml: millstream-state must not depend on millstream-network: the \
              design has no such edge"]
        );
    }

    #[test]
    fn workloads_know_the_public_api_alone() {
        let crates = [
            one("millstream-workloads", &["millstream", "millstream-runtime"]),
            one("millstream", &[]),
            one("millstream-runtime", &[]),
        ];
        assert_eq!(messages(forbidden(&crates)).len(), 1);
    }

    #[test]
    fn nothing_depends_on_the_programs() {
        let crates = [
            one("millstream-bench", &["millstream-cli"]),
            one("millstream-cli", &["xtask"]),
            one("xtask", &[]),
        ];
        assert_eq!(messages(forbidden(&crates)).len(), 2);
    }

    #[test]
    fn glommio_is_a_dependency_of_the_runtime_alone() {
        let found = messages(forbidden(&[one("millstream-network", &["glommio-ng"])]));
        assert_eq!(
            found,
            ["folder/Cargo.toml: millstream-network must not depend on glommio-ng: only \
              millstream-runtime may"]
        );
    }

    #[test]
    fn glommio_is_named_in_one_place() {
        let code = "//! Behind it: glommio.\nuse glommio::LocalExecutor;\n";
        let files = [
            SourceFile::new("runtime/src/executor.rs", code),
            SourceFile::new("runtime/src/executor/slot.rs", code),
            SourceFile::new("runtime/src/executors.rs", code),
            SourceFile::new(
                "runtime/src/subtask.rs",
                "// glommio yields here\nlet s = \"glommio\";",
            ),
        ];
        assert_eq!(
            messages(executor_named(&files)),
            ["runtime/src/executors.rs:2: only runtime/src/executor.rs may name glommio"]
        );
    }

    #[test]
    fn the_table_and_the_workspace_name_the_same_crates() {
        let mut crates: Vec<_> = TABLE.iter().map(|(name, _)| one(name, &[])).collect();
        assert_eq!(unlisted(&crates), []);
        crates[0].name = "millstream-new".to_owned();
        assert_eq!(
            messages(unlisted(&crates)),
            [
                "folder/Cargo.toml: millstream-new is not in tidy's table of dependency edges: add it",
                "xtask/src/tidy/edges.rs: millstream-types is no crate here"
            ]
        );
    }
}
