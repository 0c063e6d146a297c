//! The commands of `docs/operations.md`, in their order, on three hosts that are network namespaces.
//!
//! The text runs as it stands. Two things differ from three machines: all hosts have one file system, so
//! each has a home directory of its own; and `scp` copies between those. Whatever runs at the end is killed.

mod document;

use document::{Block, matches};
use millstream_hosts::Hosts;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
const HOSTS: usize = 3;
/// No block takes so long.
const BLOCK_SECONDS_MAX: &str = "300";
/// Copies from a home directory into another.
const SCP: &str = "#!/bin/sh
[ $# = 3 ] && [ \"$1\" = -pr ] && cp -pr \"$2\" \"$HOMES/${3%%:*}/${3#*:}\"
";

/// The hosts, and a folder with their home directories, by their addresses.
struct Site {
    // Before the folder, so that nobody writes there any more when it is removed.
    hosts: Hosts,
    folder: TempDir,
}

impl Site {
    /// With the program on the first host.
    fn new() -> Self {
        let site = Self { hosts: Hosts::new(HOSTS).unwrap(), folder: tempfile::tempdir().unwrap() };
        for host in 0..HOSTS {
            fs::create_dir(site.home(host)).unwrap();
        }
        let bin = site.home(0).join("millstream/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_millstream"), bin.join("millstream")).unwrap();
        fs::create_dir(site.path("bin")).unwrap();
        let scp = site.path("bin/scp");
        fs::write(&scp, SCP).unwrap();
        fs::set_permissions(&scp, Permissions::from_mode(0o755)).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn home(&self, host: usize) -> PathBuf {
        self.path(&self.hosts.host(host).address().to_string())
    }

    /// Runs a block on a host; what it has written to standard output.
    fn run(&self, host: usize, block: &Block) -> String {
        let home = self.home(host);
        // Not pipes: what goes on in the background would keep them open.
        let (stdout, stderr) = (self.path("stdout"), self.path("stderr"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.hosts.host(host).command("timeout");
        command.args([BLOCK_SECONDS_MAX, "bash", "-euo", "pipefail", "-c", &block.script]);
        command.current_dir(&home).env("HOME", &home).env("HOMES", self.folder.path());
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MILLSTREAM_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let status = command.status().unwrap();
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        let (stdout, stderr) = (text(&stdout), text(&stderr));
        assert!(
            status.success(),
            "line {}, on host{}: {status}\n{}\n---- output\n{stdout}\n---- errors\n{stderr}\n{}",
            block.line,
            host + 1,
            block.script,
            self.logs()
        );
        stdout
    }

    /// What coordinators, workers and jobs have said last.
    fn logs(&self) -> String {
        let find = "find . -name '*.log' -size +0 | sort | \
                    while read -r log; do echo \"==== $log\"; tail -n 30 \"$log\"; done";
        let output = Command::new("sh").args(["-c", find]).current_dir(self.folder.path()).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    }
}

#[test]
fn every_command_does_what_the_document_says() {
    let blocks = document::blocks(&fs::read_to_string(DOCUMENT).unwrap(), HOSTS);
    if let Err(missing) = Hosts::available() {
        return println!("skipped: {missing}");
    }
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return println!("skipped: curl is not installed");
    }
    let site = Site::new();
    for block in blocks {
        for host in &block.hosts {
            let found = site.run(*host, &block);
            if let Some(expected) = &block.expected {
                assert!(
                    matches(expected, &found),
                    "line {}:\n{}\n---- expected\n{expected}\n---- found\n{found}\n{}",
                    block.line,
                    block.script,
                    site.logs()
                );
            }
        }
    }
}
