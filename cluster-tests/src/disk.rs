//! Disks that are small: an ext4 in a file, which takes the rights of root to mount.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// What the file system gives and takes at once.
const BLOCK: [u8; 4096] = [0; 4096];

/// A small disk. It ends with this value.
#[derive(Debug)]
pub struct SmallDisk {
    /// What it is made of, and where it is mounted.
    folder: TempDir,
}

impl SmallDisk {
    /// Tries out whether there can be one here.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn available() -> Result<()> {
        Self::new(1 << 10).context("no file system can be mounted").map(drop)
    }

    /// One of so many KiB.
    ///
    /// # Errors
    /// If it cannot be mounted: see [`Self::available`].
    pub fn new(kib: u64) -> Result<Self> {
        let disk = Self { folder: tempfile::tempdir()? };
        let image = disk.folder.path().join("image");
        File::create(&image)?.set_len(kib << 10)?;
        // Without a journal, which would give back what was deleted seconds later.
        let format = ["-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal"];
        run(Command::new("mkfs.ext4").args(format).arg(&image))?;
        fs::create_dir(disk.path())?;
        let mut mount = Command::new("mount");
        run(mount.args(["-t", "ext4", "-o", "loop"]).arg(image).arg(disk.path()))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Changes how it is mounted.
    ///
    /// # Errors
    /// If the system does not do it.
    pub fn remount(&self, options: &str) -> Result<()> {
        let options = format!("remount,{options}");
        run(Command::new("mount").args(["-o", &options]).arg(self.path()))
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes what room there is now.
    ///
    /// # Errors
    /// If that is not known.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        while file.write_all(&BLOCK).is_ok() {}
        Ok(())
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Errors
    /// If it took nothing.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached at once, whatever is open; a failure shows as a folder that is left.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    Ok(())
}
