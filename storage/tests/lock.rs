//! The lock of a directory: between processes, and after one was killed.

use millstream_storage::{DirectoryLock, LockError};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// By this variable, this test program finds that it is to hold a lock.
const HOLD: &str = "MILLSTREAM_TEST_HOLD_LOCK";

#[test]
fn who_holds_a_lock_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("LOCK");
    let held = DirectoryLock::acquire(&path).unwrap();
    let refused = DirectoryLock::acquire(&path).unwrap_err();
    let words = refused.to_string();
    assert!(matches!(refused, LockError::Held { .. }), "{words}");
    for word in [
        &format!("{}: in use by process {} on ", path.display(), std::process::id()),
        ", since 20",
        " UTC; stop it, or choose another directory",
    ] {
        assert!(words.contains(word), "{word}: {words}");
    }
    drop(held);
    DirectoryLock::acquire(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"", "nobody holds it");
}

#[test]
fn a_lock_that_cannot_be_made_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let missing = DirectoryLock::acquire(&folder.path().join("no/LOCK")).unwrap_err().to_string();
    assert!(missing.contains("no/LOCK: cannot open it for writing"), "{missing}");
}

#[test]
fn a_killed_process_holds_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("LOCK");
    let mut other = holder(&path);
    let refused = DirectoryLock::acquire(&path).unwrap_err().to_string();
    let words = format!("in use by process {} on ", other.id());
    assert!(refused.contains(&words), "{refused}");
    // SIGKILL: no code of the process runs any more.
    other.kill().unwrap();
    other.wait().unwrap();
    let left = fs::read_to_string(&path).unwrap();
    assert!(left.starts_with("process "), "its words stay, and mean nothing: {left:?}");
    DirectoryLock::acquire(&path).unwrap();
}

/// Another process, which holds the lock when this returns.
fn holder(path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holds_a_lock_when_told_to", "--nocapture"])
        .env(HOLD, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let held = lines.map_while(Result::ok).any(|line| line.contains("the lock is held"));
    assert!(held, "the other process ended without it");
    child
}

/// The other process: does nothing unless [`holder`] started it.
#[test]
fn holds_a_lock_when_told_to() {
    let Some(path) = std::env::var_os(HOLD) else { return };
    let _lock = DirectoryLock::acquire(Path::new(&path)).unwrap();
    println!("the lock is held");
    // Until killed, or until the test that started it has gone.
    std::io::stdin().lines().for_each(drop);
}
