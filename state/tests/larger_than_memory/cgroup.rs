//! A control group with a limit of memory: version 1, or 2.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Removed when it is dropped; its processes must have ended.
pub struct Cgroup {
    folder: PathBuf,
    peak: &'static str,
}

impl Cgroup {
    /// A group for this process's children. Says why if there can be none.
    pub fn new(limit: u64) -> Result<Self, String> {
        let name = format!("millstream-test-{}", std::process::id());
        let one = Path::new("/sys/fs/cgroup/memory");
        let made = if one.join("memory.limit_in_bytes").exists() {
            Self::make(one.join(name), "memory.limit_in_bytes", "memory.max_usage_in_bytes", limit)
        } else {
            let root = Path::new("/sys/fs/cgroup");
            std::fs::write(root.join("cgroup.subtree_control"), "+memory")
                .and_then(|()| Self::make(root.join(name), "memory.max", "memory.peak", limit))
        };
        made.map_err(|error| format!("no control group with a limit of memory: {error}"))
    }

    fn make(folder: PathBuf, max: &str, peak: &'static str, limit: u64) -> io::Result<Self> {
        std::fs::create_dir(&folder)?;
        let group = Self { folder, peak };
        std::fs::write(group.folder.join(max), limit.to_string())?;
        Ok(group)
    }

    /// A command that runs the program in the group.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        // The shell enters the group and becomes the program.
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.folder.join("cgroup.procs")).arg(program);
        command
    }

    /// The most memory that it has had, in bytes; 0 if the kernel does not say.
    pub fn peak(&self) -> u64 {
        let peak = std::fs::read_to_string(self.folder.join(self.peak)).unwrap_or_default();
        peak.trim().parse().unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}
