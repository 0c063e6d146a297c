//! Two copies: what counts as written, and what is read when one of them is lost.

use millstream_storage::{LocalDirectory, Replicated, Storage, StorageError};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

mod conformance;

struct Copies {
    _folder: tempfile::TempDir,
    primary: PathBuf,
    replica: PathBuf,
    both: Replicated,
}

fn copies() -> Copies {
    let folder = tempfile::tempdir().unwrap();
    let (primary, replica) = (folder.path().join("primary"), folder.path().join("replica"));
    let both = Replicated::new(
        Arc::new(LocalDirectory::create(&primary).unwrap()),
        Arc::new(LocalDirectory::create(&replica).unwrap()),
    );
    Copies { _folder: folder, primary, replica, both }
}

#[test]
fn it_is_a_storage() {
    conformance::check(&copies().both);
}

#[test]
fn what_is_written_is_in_both_places() {
    let copies = copies();
    copies.both.put("a", b"1").unwrap();
    copies.both.create_if_absent("x/b", b"2").unwrap();
    copies.both.copy_from_local(&copies.primary.join("a"), 1, "c").unwrap();
    // A store writes its files where they stay: that one is not copied onto itself.
    fs::write(copies.primary.join("d"), "4 and what follows").unwrap();
    copies.both.copy_from_local(&copies.primary.join("d"), 1, "d").unwrap();
    assert_eq!(fs::read(copies.primary.join("d")).unwrap(), b"4 and what follows");
    assert_eq!(fs::read(copies.replica.join("d")).unwrap(), b"4");
    // That the primary has it already does not mean that the replica has.
    copies.both.follow_local(&copies.primary.join("d"), 3, "d").unwrap();
    assert_eq!(fs::read(copies.replica.join("d")).unwrap(), b"4 a");
    for (path, bytes) in [("a", b"1"), ("x/b", b"2"), ("c", b"1")] {
        assert_eq!(fs::read(copies.replica.join(path)).unwrap(), bytes, "{path}");
    }
    copies.both.delete("a").unwrap();
    copies.both.delete_folder("x").unwrap();
    for place in [&copies.primary, &copies.replica] {
        assert!(!place.join("a").exists() && !place.join("x").exists());
    }
}

#[test]
fn what_the_primary_has_lost_is_read_from_the_replica() {
    let copies = copies();
    copies.both.put("x/a", b"0123456789").unwrap();
    copies.both.put("x/b", b"b").unwrap();
    let listed = copies.both.list("").unwrap();
    let reads = || {
        assert_eq!(copies.both.get("x/a").unwrap(), b"0123456789");
        assert_eq!(copies.both.read_range("x/a", 3, 4).unwrap(), b"3456");
        assert_eq!(copies.both.len("x/a").unwrap(), 10);
        assert_eq!(copies.both.list("").unwrap(), listed);
        assert_eq!(fs::read(copies.both.local_path("x/a").unwrap()).unwrap(), b"0123456789");
        let exists = copies.both.create_if_absent("x/a", b"other").unwrap_err();
        assert!(matches!(exists, StorageError::AlreadyExists { .. }), "{exists}");
    };
    reads();
    fs::remove_file(copies.primary.join("x/a")).unwrap();
    reads();
    fs::remove_dir_all(&copies.primary).unwrap();
    reads();
    assert!(copies.both.get("x/c").unwrap_err().is_not_found());
}

#[test]
fn nobody_says_that_there_is_nothing_if_one_place_does_not_answer() {
    let copies = copies();
    copies.both.put("x/a", b"1").unwrap();
    // The primary is another host's, with an empty disk.
    fs::remove_dir_all(copies.primary.join("x")).unwrap();
    let replica = copies.replica.join("x");
    fs::rename(&replica, copies.replica.join("y")).unwrap();
    fs::write(&replica, "not a folder").unwrap();
    copies.both.list("x").unwrap_err();
    fs::remove_file(&replica).unwrap();
    fs::rename(copies.replica.join("y"), &replica).unwrap();
    assert_eq!(copies.both.list("x").unwrap().len(), 1);
    // What is there is enough to go on from.
    copies.both.put("x/b", b"2").unwrap();
    fs::remove_dir_all(&replica).unwrap();
    fs::write(&replica, "not a folder").unwrap();
    assert_eq!(copies.both.list("x").unwrap().len(), 1);
}

#[test]
fn a_truncated_copy_is_passed_over_where_it_is_noticed() {
    let copies = copies();
    copies.both.put("a", b"0123456789").unwrap();
    fs::write(copies.primary.join("a"), "0123").unwrap();
    assert_eq!(copies.both.read_range("a", 3, 4).unwrap(), b"3456");
    fs::write(copies.replica.join("a"), "01234").unwrap();
    let error = copies.both.read_range("a", 3, 4).unwrap_err();
    assert!(matches!(error, StorageError::TooShort { found: 4, .. }), "the primary's: {error}");
}

#[test]
fn what_one_place_cannot_take_does_not_count() {
    let copies = copies();
    // A file where the replica needs a folder.
    fs::write(copies.replica.join("x"), "").unwrap();
    let error = copies.both.create_if_absent("x/MANIFEST", b"1").unwrap_err();
    assert!(error.to_string().contains("replica/x"), "{error}");
    assert!(!copies.primary.join("x/MANIFEST").exists(), "it is taken back");
    assert!(copies.both.put("x/a", b"1").is_err());
    fs::remove_file(copies.replica.join("x")).unwrap();
    copies.both.create_if_absent("x/MANIFEST", b"1").unwrap();
}
