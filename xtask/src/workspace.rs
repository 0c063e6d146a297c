//! The workspace as the checks see it: its root, its crates, its files.

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Metadata, MetadataCommand};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace that this program was built from.
pub(crate) struct Workspace {
    /// The folder of the root manifest.
    pub(crate) root: PathBuf,
}

/// A file that git knows, or would take in.
pub(crate) struct SourceFile {
    /// Relative to the root, with slashes.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = xtask.parent().context("xtask lies below the workspace's root")?;
        ensure!(
            root.join("Cargo.toml").is_file(),
            "the workspace was moved after xtask was built: run `cargo clean -p xtask`"
        );
        Ok(Self { root: root.to_owned() })
    }

    /// The target folder for a build with other compiler flags than the ordinary one.
    pub(crate) fn target_dir(&self, name: &str) -> PathBuf {
        self.root.join("target").join(name)
    }

    /// `cargo metadata` of the workspace's own crates.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        Ok(MetadataCommand::new().current_dir(&self.root).no_deps().exec()?)
    }

    /// The text files that git tracks or does not ignore, sorted by path.
    pub(crate) fn files(&self) -> Result<Vec<SourceFile>> {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
            .current_dir(&self.root)
            .output()
            .context("tidy asks git which files there are: is git installed?")?;
        ensure!(
            listed.status.success(),
            "git ls-files failed: {}",
            String::from_utf8_lossy(&listed.stderr)
        );
        let mut files: Vec<SourceFile> = String::from_utf8(listed.stdout)?
            .split_terminator('\0')
            // Binary files have no text, deleted ones none any more, and links lead elsewhere.
            .filter(|path| !self.root.join(path).is_symlink())
            .filter_map(|path| {
                let text = std::fs::read_to_string(self.root.join(path)).ok()?;
                Some(SourceFile { path: path.to_owned(), text })
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}

#[cfg(test)]
impl SourceFile {
    /// A file for a check's test.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}
