//! Names of one machine or one network, which mean nothing to anybody else.

use super::Finding;
use crate::workspace::SourceFile;
use std::path::Path;

/// Folders that many machines have: their names give nothing away.
const COMMON_FOLDERS: &[&str] = &[
    "/",
    "/tmp/",
    "/home/",
    "/opt/",
    "/srv/",
    "/mnt/",
    "/usr/",
    "/usr/src/",
    "/var/",
    "/var/tmp/",
];

/// The folder that holds the workspace, and the home folder of who runs this.
pub(super) fn private_folders(root: &Path) -> Vec<String> {
    let home = std::env::var_os("HOME");
    [root.parent(), home.as_deref().map(Path::new)]
        .into_iter()
        .flatten()
        .map(|folder| format!("{}/", folder.display().to_string().trim_end_matches('/')))
        .filter(|folder| !COMMON_FOLDERS.contains(&folder.as_str()))
        .collect()
}

/// Lines that hold a path of one machine, or the address of a registry other than the default one.
/// Lock files name registries in their own way, which the check of licences and sources reads.
pub(super) fn foreign(files: &[SourceFile], private_folders: &[String]) -> Vec<Finding> {
    // In two parts, so that this file does not find itself.
    let registries = [
        concat!("artif", "actory"),
        concat!("sparse", "+http"),
        concat!(".inter", "nal/"),
        concat!("[source.", "crates-io]"),
    ];
    let homes = [concat!("/ro", "ot/"), concat!("/Us", "ers/")];
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (index, line) in file.text.lines().enumerate() {
            let path =
                private_folders.iter().map(String::as_str).chain(homes).find(|folder| {
                    line.match_indices(folder).any(|(at, _)| starts_path(&line[..at]))
                });
            if let Some(path) = path {
                let message = format!("a path of one machine: {path}");
                findings.push(Finding::at(&file.path, index + 1, message));
            }
            if let Some(registry) = registries.iter().find(|registry| line.contains(**registry)) {
                let message = format!("a registry other than the default one: {registry}");
                findings.push(Finding::at(&file.path, index + 1, message));
            }
        }
    }
    findings
}

/// True if an absolute path may begin after `before`: not within another path.
fn starts_path(before: &str) -> bool {
    !before
        .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '~' | '}' | '/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_one_machine_are_found() {
        let folders = ["/builds/7/".to_owned()];
        let files = [
            SourceFile::new("a.md", "see\n`/builds/7/main/README.md`"),
            SourceFile::new("b.md", concat!("in /ro", "ot/.cargo")),
            SourceFile::new(
                "c.md",
                concat!("https://x.org/builds/7/y and ../ro", "ot/x and /tmp/x"),
            ),
            SourceFile::new("Cargo.lock", "/builds/7/main"),
        ];
        let found: Vec<_> = foreign(&files, &folders)
            .into_iter()
            .map(|finding| (finding.path, finding.line))
            .collect();
        assert_eq!(found, [("a.md".to_owned(), Some(2)), ("b.md".to_owned(), Some(1))]);
    }

    #[test]
    fn other_registries_are_found() {
        let text = concat!("[registries]\nx = \"sparse", "+https://example.org/\"");
        let found = foreign(&[SourceFile::new(".cargo/config.toml", text)], &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, Some(2));
    }

    #[test]
    fn common_folders_are_not_private() {
        for folder in ["/tmp/millstream", "/millstream", "/home/millstream"] {
            let private = private_folders(Path::new(folder));
            let parent = Path::new(folder).parent().unwrap().display().to_string();
            assert!(
                !private.contains(&format!("{}/", parent.trim_end_matches('/'))),
                "{private:?}"
            );
        }
        assert!(private_folders(Path::new("/builds/7/main")).contains(&"/builds/7/".to_owned()));
    }
}
