//! Hosts that lack something: space, a kind of file system, io_uring.

use crate::program::{Ended, millstream, run_in};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What writes a file of this name, and more than a megabyte into it.
const WRITERS: [&str; 4] = [
    "generate nexmark --events 20000 --out out.jsonl",
    "bench nexmark --query q0 --events 20000 --output out.txt",
    "bench throughput --workload q0 --events 100000 --data .",
    "demo --write-events out.jsonl --rate 20k --duration 2s",
];

/// Runs commands in a folder, on a file system in memory of this size, which the folder has as long
/// as they run. `None`, with the reason on standard output, where this user may not mount one.
fn in_memory(folder: &Path, size: &str, script: &str) -> Option<Ended> {
    let in_own_mounts = |script: &str| {
        let mount = format!("mount -t tmpfs -o size={size} tmpfs . && cd \"$PWD\"");
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "bash", "-c", &format!("{mount} || exit 99\n{script}")]);
        shell.env("MILLSTREAM", env!("CARGO_BIN_EXE_millstream")).current_dir(folder);
        shell.output()
    };
    match in_own_mounts("true") {
        Ok(output) if output.status.success() => {}
        _ => {
            println!("skipped: this user may not mount a file system");
            return None;
        }
    }
    Some(in_own_mounts(script).expect("it ran before").into())
}

#[test]
fn a_full_disk_is_said_and_leaves_no_part_of_a_file() {
    for writer in WRITERS {
        let folder = tempfile::tempdir().unwrap();
        // What is left is listed while the file system is there.
        let script = format!("\"$MILLSTREAM\" {writer}; code=$?; ls -A; exit $code");
        let Some(ended) = in_memory(folder.path(), "1m", &script) else { return };
        let ended = ended.refused(1, &["No space left", "free some space"]);
        assert_eq!(ended.stdout, "", "{writer} leaves something behind");
    }
}

/// Such a file system takes no direct I/O on many kernels.
#[test]
fn files_in_memory_are_written_as_others_are() {
    for writer in WRITERS {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("\"$MILLSTREAM\" {writer} >&2 && cat * | cksum");
        let Some(ended) = in_memory(folder.path(), "64m", &script) else { return };
        let in_memory = ended.succeeded().stdout;
        run_in(folder.path(), writer).succeeded();
        let on_disk = Command::new("bash")
            .args(["-c", "cat * | cksum"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(in_memory, Ended::from(on_disk).stdout, "{writer}");
        let bytes = in_memory.split_whitespace().last().unwrap().parse::<u64>().unwrap();
        assert!(bytes > 1 << 20, "{writer} writes {bytes} bytes, less than a full disk needs");
    }
}

/// Set in the process that forbids itself io_uring and becomes the program.
const FORBIDDING: &str = "FORBID_IO_URING";

#[test]
fn a_host_without_io_uring_is_named_and_is_no_failure_of_the_job() {
    const TEST: &str = "hosts::a_host_without_io_uring_is_named_and_is_no_failure_of_the_job";
    if std::env::var_os(FORBIDDING).is_some() {
        let arch = std::env::consts::ARCH.try_into().expect("the filter knows this processor");
        let filter = SeccompFilter::new(
            [(libc::SYS_io_uring_setup, Vec::new())].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
            arch,
        );
        let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a valid filter");
        seccompiler::apply_filter(&program).expect("a thread may restrict itself");
        panic!("{}", millstream(["bench", "nexmark", "--query", "q0", "--events", "1000"]).exec());
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(FORBIDDING, "1")
        .output()
        .unwrap();
    Ended::from(output)
        .refused(2, &["io_uring is blocked by a seccomp filter", "Run the container with"]);
}
