//! Hosts that lack something: jobs run there all the same, or say what to do.
//!
//! What is taken away cannot be given back, so each test takes it from a process of its own.

mod child;
mod warnings;

use child::{alone, arguments, command, is_child, passes};
use millstream::prelude::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use warnings::warnings_of;

const KEYS: u64 = 100_000;

/// Counts by many keys over an exchange; checks what comes out.
fn count(slots: u32) -> Result<(), JobError> {
    let config = Config::default().with_slots(slots).with_idle(IdlePolicy::Park);
    let env = Environment::new(config);
    let numbers = |i: u32, n: u32| (0..3 * KEYS).skip(i as usize).step_by(n as usize);
    let counts = env.from_iterator("numbers", numbers).key_by(|n| n % KEYS).count();
    let thirds = counts.filter(|(_, count)| *count == 3).map(|(key, _)| key).collect();
    env.execute("count")?;
    let mut keys = thirds.take();
    keys.sort();
    assert!(keys.into_iter().eq(0..KEYS), "each key was counted three times");
    Ok(())
}

/// The words with which a job does not start.
fn refusal(slots: u32) -> String {
    match count(slots) {
        Err(error @ (JobError::Invalid(_) | JobError::Executor { .. })) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(()) => panic!("the job runs"),
    }
}

/// Has a system call fail with `errno`, for this thread and all that it starts.
fn forbid(call: i64, errno: i32) {
    let arch = std::env::consts::ARCH.try_into().expect("the filter knows this processor");
    let filter = SeccompFilter::new(
        [(call, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        arch,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("the filter is valid");
    seccompiler::apply_filter(&program).expect("a thread may restrict itself");
}

#[test]
fn a_job_without_io_uring_says_what_to_do() {
    alone("a_job_without_io_uring_says_what_to_do", || {
        for errno in [libc::EPERM, libc::ENOSYS] {
            // On a thread of its own: a second filter only counts where the first one does not hold.
            let words = std::thread::spawn(move || {
                forbid(libc::SYS_io_uring_setup, errno);
                refusal(2)
            });
            let words = words.join().expect("a refusal is no panic");
            for part in ["io_uring is blocked", "seccomp", "Run the container with"] {
                assert!(words.contains(part), "{words}");
            }
        }
    });
}

#[test]
fn a_job_without_huge_pages_runs_as_ever() {
    alone("a_job_without_huge_pages_runs_as_ever", || {
        rustix::thread::disable_transparent_huge_pages(true).expect("a process may do without");
        count(2).unwrap();
    });
}

/// Runs a test's child as the user nobody, with a limit on the memory that it may lock. `None`, with
/// the reason on standard output, where this user cannot become another.
fn as_nobody(test: &str, locked_kib: u64) -> Option<String> {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    // Where nobody may read it: the build's folder need not be such a place.
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let program = folder.path().join("test");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), executable.clone()).expect("it is ours");
    fs::copy(command(test).get_program(), &program).expect("there is space for the program");
    fs::set_permissions(&program, executable).expect("it is ours");

    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("ulimit -l {locked_kib} && exec \"$0\" \"$@\"")]);
    shell.arg(&program).args(arguments(test)).current_dir(Path::new("/"));
    shell.envs(command(test).get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.uid(NOBODY).gid(NOBODY);
    Some(passes(shell))
}

/// The limit of most distributions.
#[test]
fn a_user_who_may_lock_8_mib_runs_with_one_warning_at_the_most() {
    const TEST: &str = "a_user_who_may_lock_8_mib_runs_with_one_warning_at_the_most";
    if !is_child(TEST) {
        as_nobody(TEST, 8 << 10);
        return;
    }
    for slots in [1, 2, 16] {
        let warnings = warnings_of(|| count(slots).unwrap());
        let memory: Vec<_> = warnings.iter().filter(|words| words.contains("locked")).collect();
        assert!(memory.len() <= 1, "{warnings:?}");
        assert!(memory.iter().all(|words| words.contains("ulimit -l")), "{warnings:?}");
    }
}

#[test]
fn a_user_who_may_lock_64_kib_is_told_to_raise_the_limit() {
    const TEST: &str = "a_user_who_may_lock_64_kib_is_told_to_raise_the_limit";
    if !is_child(TEST) {
        as_nobody(TEST, 64);
        return;
    }
    let words = refusal(2);
    for part in ["only 64 KiB of memory may be locked", "Raise the limit: `ulimit -l`"] {
        assert!(words.contains(part), "{words}");
    }
}
