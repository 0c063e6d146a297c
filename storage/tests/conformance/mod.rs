//! What every storage does, whatever lies below.

use millstream_storage::{Storage, StorageError};
use std::io::Write;

/// Runs an empty storage through everything.
pub fn check(storage: &dyn Storage) {
    assert_eq!(storage.list("").unwrap(), []);
    assert_eq!(storage.list("nothing/here").unwrap(), []);
    writes(storage);
    reads(storage);
    copies(storage);
    lists(storage);
    deletes(storage);
    refuses_paths(storage);
}

fn writes(storage: &dyn Storage) {
    storage.put("a/one", b"first, and longer").unwrap();
    storage.put("a/one", b"second").unwrap();
    assert_eq!(storage.get("a/one").unwrap(), b"second");
    storage.create_if_absent("a/two", b"mine").unwrap();
    let again = storage.create_if_absent("a/two", b"theirs").unwrap_err();
    assert!(matches!(again, StorageError::AlreadyExists { .. }), "{again}");
    assert!(again.to_string().contains(&storage.title("a/two")), "{again}");
    assert_eq!(storage.get("a/two").unwrap(), b"mine");
    storage.put("empty", b"").unwrap();
    assert_eq!(storage.get("empty").unwrap(), b"");
}

fn reads(storage: &dyn Storage) {
    storage.put("b", b"0123456789").unwrap();
    assert_eq!(storage.read_range("b", 0, 10).unwrap(), b"0123456789");
    assert_eq!(storage.read_range("b", 3, 4).unwrap(), b"3456");
    assert_eq!(storage.read_range("b", 10, 0).unwrap(), b"");
    for (offset, len, expected) in [(9, 2, 11), (10, 1, 11), (100, 1, 101)] {
        match storage.read_range("b", offset, len).unwrap_err() {
            StorageError::TooShort { path, expected: e, found: 10 } if e == expected => {
                assert_eq!(path, storage.title("b"));
            }
            other => panic!("{offset}, {len}: {other:?}"),
        }
    }
    assert_eq!(storage.len("b").unwrap(), 10);
    let lengths = [storage.len("none").map(|_| vec![]), storage.read_range("none", 0, 0)];
    let reads = [storage.get("none"), storage.read_range("none", 0, 1)];
    for missing in reads.into_iter().chain(lengths) {
        let error = missing.unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
        assert!(error.to_string().contains(&storage.title("none")), "{error}");
    }
}

fn copies(storage: &dyn Storage) {
    let mut local = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    local.write_all(&bytes).unwrap();
    storage.copy_from_local(local.path(), 299_999, "c/copy").unwrap();
    assert!(storage.get("c/copy").unwrap() == bytes[..299_999]);
    storage.copy_from_local(local.path(), 300_000, "c/copy").unwrap();
    assert!(storage.get("c/copy").unwrap() == bytes);
    storage.copy_from_local(local.path(), 0, "c/nothing").unwrap();
    assert_eq!(storage.get("c/nothing").unwrap(), b"");
    let short = storage.copy_from_local(local.path(), 300_001, "c/short").unwrap_err();
    assert!(matches!(short, StorageError::TooShort { found: 300_000, .. }), "{short:?}");
    let missing = storage.copy_from_local("no/such/file".as_ref(), 1, "c/short").unwrap_err();
    assert!(missing.to_string().contains("no/such/file"), "{missing}");
    assert!(storage.get("c/short").unwrap_err().is_not_found());
}

fn lists(storage: &dyn Storage) {
    storage.put("list-2/x", b"1").unwrap();
    storage.put("list/deep/y", b"12").unwrap();
    storage.put("list/z", b"123").unwrap();
    let listed: Vec<_> =
        storage.list("list").unwrap().into_iter().map(|file| (file.path, file.len)).collect();
    assert_eq!(listed, [("list/deep/y".to_owned(), 2), ("list/z".to_owned(), 3)]);
    let all = storage.list("").unwrap();
    assert!(all.len() > 3 && all.is_sorted(), "{all:?}");
}

fn deletes(storage: &dyn Storage) {
    storage.delete("list/z").unwrap();
    storage.delete("list/z").unwrap();
    storage.delete("list/never").unwrap();
    assert!(storage.get("list/z").unwrap_err().is_not_found());
    storage.create_if_absent("list/z", b"again").unwrap();
    storage.delete_folder("list").unwrap();
    storage.delete_folder("list").unwrap();
    assert_eq!(storage.list("list").unwrap(), []);
    assert_eq!(storage.get("list-2/x").unwrap(), b"1");
}

fn refuses_paths(storage: &dyn Storage) {
    let is_refused = |error: StorageError| matches!(error, StorageError::BadPath { .. });
    for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".partial-1"] {
        assert!(is_refused(storage.put(path, b"").unwrap_err()), "{path}");
        assert!(is_refused(storage.create_if_absent(path, b"").unwrap_err()), "{path}");
        assert!(is_refused(storage.get(path).unwrap_err()), "{path}");
        assert!(is_refused(storage.read_range(path, 0, 1).unwrap_err()), "{path}");
        assert!(is_refused(storage.len(path).unwrap_err()), "{path}");
        assert!(is_refused(storage.delete(path).unwrap_err()), "{path}");
        assert!(is_refused(storage.delete_folder(path).unwrap_err()), "{path}");
        let copied = storage.copy_from_local("/dev/null".as_ref(), 0, path).unwrap_err();
        assert!(is_refused(copied), "{path}");
    }
    assert!(is_refused(storage.list("..").unwrap_err()));
}
