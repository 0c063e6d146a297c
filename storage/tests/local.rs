//! A directory as storage: what is written is whole, what fails is said in words.

use millstream_storage::{DirectoryLock, LocalDirectory, Storage, StorageError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

mod conformance;

fn directory() -> (tempfile::TempDir, LocalDirectory) {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalDirectory::create(folder.path().join("a/b")).unwrap();
    (folder, storage)
}

#[test]
fn it_is_a_storage() {
    conformance::check(&directory().1);
}

#[test]
fn one_of_many_writers_creates_a_file() {
    let (_folder, storage) = directory();
    let start = Barrier::new(8);
    let won: Vec<bool> = std::thread::scope(|scope| {
        let writer = |index: u8| {
            let (storage, start) = (&storage, &start);
            scope.spawn(move || {
                start.wait();
                match storage.create_if_absent("m/MANIFEST", &[index; 100_000]) {
                    Ok(()) => true,
                    Err(StorageError::AlreadyExists { .. }) => false,
                    Err(error) => panic!("{error}"),
                }
            })
        };
        let writers: Vec<_> = (0..8).map(writer).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let winners: Vec<usize> = (0..8).filter(|index| won[*index]).collect();
    assert_eq!(winners.len(), 1, "{won:?}");
    assert_eq!(storage.get("m/MANIFEST").unwrap(), [winners[0] as u8; 100_000]);
    assert_eq!(fs::read_dir(storage.root().join("m")).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn unfinished_files_are_not_seen_and_can_be_deleted() {
    let (_folder, storage) = directory();
    storage.put("x/a", b"1").unwrap();
    fs::write(storage.root().join("x/.partial-1-1"), "half").unwrap();
    fs::write(storage.root().join(".partial-1-2"), "half").unwrap();
    // A folder that was being deleted.
    fs::create_dir(storage.root().join(".partial-1-3")).unwrap();
    fs::write(storage.root().join(".partial-1-3/b"), "2").unwrap();
    let paths: Vec<_> = storage.list("").unwrap().into_iter().map(|listed| listed.path).collect();
    assert_eq!(paths, ["x/a"]);
    assert_eq!(storage.delete_unfinished().unwrap(), 3);
    assert_eq!(storage.delete_unfinished().unwrap(), 0);
    assert_eq!(storage.get("x/a").unwrap(), b"1");
}

#[test]
fn a_deleted_folder_leaves_nothing() {
    let (_folder, storage) = directory();
    storage.put("x/y/a", b"1").unwrap();
    storage.put("x/b", b"2").unwrap();
    storage.delete_folder("x").unwrap();
    assert_eq!(fs::read_dir(storage.root()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let (folder, _) = directory();
    let missing = LocalDirectory::open(folder.path().join("no")).unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    fs::write(folder.path().join("file"), "").unwrap();
    let file = LocalDirectory::open(folder.path().join("file")).unwrap_err().to_string();
    assert!(file.ends_with("a file stands where a directory should be"), "{file}");
    let below = LocalDirectory::create(folder.path().join("file/x")).unwrap_err().to_string();
    assert!(below.contains("file/x: cannot make the directory; a file stands"), "{below}");
}

#[test]
fn no_access_is_said() {
    let (_folder, storage) = directory();
    storage.put("x/a", b"1").unwrap();
    let folder = storage.root().join("x");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    let result = storage.put("x/b", b"2");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    match result {
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("x/b: cannot write it; give the user"), "{error}");
        }
        // Root may write everywhere.
        Ok(()) => println!("passed over: this user may write into a directory without permission"),
    }
}

#[test]
fn full_and_read_only_disks_are_said_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    // Mounts that only this child and its children see, and that end with them.
    let script = format!(
        "mount -t tmpfs -o size=256k none {0} || {{ echo 'no mounts for this user'; exit 0; }}
         export MILLSTREAM_TEST_DISK={0}
         '{1}' --exact writes_to_a_full_disk_when_told_to --nocapture || exit 1
         mount -o remount,ro {0} || exit 2
         exec '{1}' --exact writes_to_a_read_only_disk_when_told_to --nocapture",
        folder.path().display(),
        std::env::current_exe().unwrap().display()
    );
    let output = match Command::new("unshare").args(["-rm", "sh", "-c", &script]).output() {
        Ok(output) => output,
        Err(error) => return println!("passed over: unshare cannot be run: {error}"),
    };
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if errors.contains("unshare failed") || said.contains("no mounts for this user") {
        return println!("passed over: {said}{errors}");
    }
    assert!(output.status.success(), "{said}{errors}");
    assert_eq!(said.matches("it was so").count(), 2, "both were tried: {said}{errors}");
}

/// In a child of the test above; does nothing by itself.
#[test]
fn writes_to_a_full_disk_when_told_to() {
    let Some(disk) = std::env::var_os("MILLSTREAM_TEST_DISK") else { return };
    let storage = LocalDirectory::create(disk).unwrap();
    storage.put("x/a", b"precious").unwrap();
    let too_much = vec![1; 1 << 20];
    for error in [
        storage.put("x/a", &too_much).unwrap_err(),
        storage.create_if_absent("x/b", &too_much).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("cannot write it; free some space"), "{error}");
    }
    assert_eq!(storage.get("x/a").unwrap(), b"precious");
    assert_eq!(fs::read_dir(storage.root().join("x")).unwrap().count(), 1, "no half of a file");
    // There is space again for what fits.
    storage.put("x/b", &[1; 100_000]).unwrap();
    println!("it was so");
}

/// In a child of the test above; does nothing by itself.
#[test]
fn writes_to_a_read_only_disk_when_told_to() {
    let Some(disk) = std::env::var_os("MILLSTREAM_TEST_DISK") else { return };
    let storage = LocalDirectory::open(&disk).unwrap();
    assert_eq!(storage.get("x/a").unwrap(), b"precious");
    let lock = DirectoryLock::acquire(&Path::new(&disk).join("LOCK")).unwrap_err();
    for error in [
        storage.put("x/a", b"2").unwrap_err().to_string(),
        storage.create_if_absent("y/b", b"2").unwrap_err().to_string(),
        storage.delete("x/a").unwrap_err().to_string(),
        storage.delete_folder("x").unwrap_err().to_string(),
        lock.to_string(),
    ] {
        assert!(error.contains("the file system is mounted read-only"), "{error}");
    }
    println!("it was so");
}

#[test]
fn what_is_appended_goes_where_it_belongs_and_leaves_no_gap() {
    let (_folder, storage) = directory();
    storage.append("state/log", 0, b"abcd").unwrap();
    // A copy that is sent again after a connection was lost.
    storage.append("state/log", 2, b"CDEF").unwrap();
    assert_eq!(storage.get("state/log").unwrap(), b"abCDEF");
    let error = storage.append("state/log", 7, b"h").unwrap_err();
    assert!(matches!(error, StorageError::TooShort { expected: 7, found: 6, .. }), "{error}");
    assert_eq!(storage.get("state/log").unwrap(), b"abCDEF");
}

#[test]
fn nothing_is_left_of_a_file_whose_bytes_cannot_be_made_durable() {
    let (folder, storage) = directory();
    storage.append("state/log", 0, b"").unwrap();
    // It takes all that is written, and cannot be synced.
    let file = folder.path().join("a/b/state/log");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/dev/null", &file).unwrap();
    let error = storage.append("state/log", 0, b"abcd").unwrap_err();
    assert!(error.to_string().contains("cannot write it"), "{error}");
    assert!(fs::symlink_metadata(&file).is_err());
    storage.append("state/log", 0, b"abcd").unwrap();
    assert_eq!(storage.get("state/log").unwrap(), b"abcd");
}
