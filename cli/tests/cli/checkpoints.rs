//! `millstream checkpoints`: what is listed, found damaged, deleted and refused.

use crate::program::{Ended, millstream, names_in, run_in};
use millstream_protocol::manifest::layout;
use millstream_protocol::{CheckpointKind, Manifest, SlotEntry, StateFileEntry};
use millstream_storage::{CheckpointDirectory, DirectoryLock, LocalDirectory};
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// A checkpoint with a snapshot of 2000 bytes and these state files, each of which holds its name.
fn take(directory: &Path, id: u64, state_files: &[&str]) {
    let storage = LocalDirectory::create(directory).unwrap();
    let checkpoints = CheckpointDirectory::on(Arc::new(storage));
    let (checkpoint, slot) = (CheckpointId(id), SlotIndex(0));
    let state_files = state_files.iter().map(|name| {
        checkpoints.storage().put(&layout::state_path(name), name.as_bytes()).unwrap();
        StateFileEntry { name: (*name).to_owned(), len: name.len() as u64, note: vec![] }
    });
    let state_files = state_files.collect();
    let snapshot = checkpoints.write_snapshot(checkpoint, slot, &[7; 2_000]).unwrap();
    let manifest = Manifest {
        checkpoint,
        kind: CheckpointKind::Checkpoint,
        job: "count words".to_owned(),
        created: Timestamp::from_millis(1_436_918_400_000),
        max_parallelism: 128,
        backend: "segments".to_owned(),
        operators: vec![],
        slots: vec![SlotEntry { slot, snapshot, state_files }],
    };
    checkpoints.complete(&manifest).unwrap();
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn checkpoints_are_listed_with_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let directory = at.join("ck");
    take(&directory, 1, &["a.seg"]);
    take(&directory, 12, &["a.seg", "b.seg"]);
    take(&directory, 13, &[]);
    fs::create_dir(directory.join("chk-00000014")).unwrap();
    fs::write(directory.join("chk-00000014/slot-0.snapshot"), "x").unwrap();
    flip_a_bit(&directory.join("chk-00000013/MANIFEST"));

    let listed = run_in(at, "checkpoints list ck").succeeded().stdout;
    let lines: Vec<_> =
        listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[0], "ID KIND TAKEN (UTC) SIZE STATE");
    assert_eq!(lines[1], "1 checkpoint 2015-07-15 00:00:00.000 2.0 KiB complete");
    assert_eq!(lines[2], "12 checkpoint 2015-07-15 00:00:00.000 2.0 KiB complete");
    assert!(lines[3].contains("chk-00000013/MANIFEST: its checksum is"), "{listed}");
    assert_eq!(lines[4], "14 - - 1 B incomplete");
    assert_eq!(lines.len(), 5);

    let json = run_in(at, "checkpoints list ck --json").succeeded().json();
    assert_eq!(
        json[1],
        serde_json::json!({
            "checkpoint": 12, "kind": "checkpoint", "job": "count words",
            "created": "2015-07-15 00:00:00.000", "created_ms": 1_436_918_400_000_u64,
            "bytes": 2_010, "own_bytes": fs::metadata(directory.join("chk-00000012/MANIFEST"))
                .unwrap().len() + 2_000,
            "complete": true, "problem": null,
        })
    );
    assert_eq!(json[2]["complete"], false);
    assert!(json[2]["problem"].as_str().unwrap().contains("damaged"), "{}", json[2]);
    assert!(json[3]["problem"].as_str().unwrap().contains("never completed"), "{}", json[3]);
    assert!(!names_in(&directory).contains(&"LOCK".to_owned()), "to look changes nothing");
}

#[test]
fn damaged_checkpoints_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let directory = at.join("ck");
    take(&directory, 1, &["a.seg"]);
    take(&directory, 2, &["a.seg", "b.seg"]);
    fs::create_dir(directory.join("chk-00000003")).unwrap();
    fs::write(directory.join("chk-00000003/slot-0.snapshot"), "x").unwrap();
    let verified = run_in(at, "checkpoints verify ck").succeeded().stdout;
    assert_eq!(
        verified,
        "checkpoint 1: whole, 2.0 KiB\ncheckpoint 2: whole, 2.0 KiB\n\
         checkpoint 3: ck/chk-00000003: never completed: it has no manifest\n"
    );
    run_in(at, "checkpoints verify ck 3").refused(1, &["1 of 1 checkpoints"]);
    run_in(at, "checkpoints verify ck 1 4").refused(2, &["no checkpoint 4; there are 1, 2, 3"]);

    flip_a_bit(&directory.join("chk-00000001/slot-0.snapshot"));
    fs::remove_file(directory.join("state/b.seg")).unwrap();
    let verified = run_in(at, "checkpoints verify ck").refused(1, &["2 of 3 checkpoints"]);
    for words in [
        "checkpoint 1: ck/chk-00000001/slot-0.snapshot: its checksum should be",
        "checkpoint 2: ck/state/b.seg: it does not exist",
    ] {
        assert!(verified.stdout.contains(words), "{words}: {verified:#?}");
    }
    let json = run_in(at, "checkpoints verify ck chk-00000002 --json").refused(1, &[]).json();
    assert_eq!(
        json[0],
        serde_json::json!({
            "checkpoint": 2, "whole": false, "problem": "ck/state/b.seg: it does not exist",
        })
    );
}

#[test]
fn deleting_takes_what_no_other_checkpoint_needs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let directory = at.join("ck");
    take(&directory, 1, &["a.seg", "b.seg"]);
    take(&directory, 2, &["b.seg"]);
    take(&directory, 3, &["b.seg"]);
    fs::write(directory.join("state/orphan.seg"), "x").unwrap();

    run_in(at, "checkpoints delete ck").refused(2, &["<ID>"]);
    run_in(at, "checkpoints delete ck newest").refused(2, &["an id is a number"]);
    run_in(at, "checkpoints delete ck 1 9").refused(2, &["no checkpoint 9; there are 1, 2, 3"]);
    assert!(directory.join("chk-00000001/MANIFEST").exists(), "all or none");

    let deleted = run_in(at, "checkpoints delete ck 1").succeeded().stdout;
    assert_eq!(deleted, "checkpoint 1: deleted, and 1 state file with it\n");
    run_in(at, "checkpoints verify ck").succeeded();

    // What cannot be read may need anything.
    flip_a_bit(&directory.join("chk-00000003/MANIFEST"));
    let kept = run_in(at, "checkpoints delete ck --orphans").succeeded();
    assert!(kept.stderr.contains("warning: state files are kept"), "{kept:#?}");
    assert!(kept.stderr.contains("chk-00000003/MANIFEST: its checksum"), "{kept:#?}");
    assert!(directory.join("state/orphan.seg").exists());

    let json = run_in(at, "checkpoints delete ck 3 --orphans --json").succeeded().json();
    assert_eq!(json[0]["deleted"], 3);
    assert_eq!(json[1]["deleted"], serde_json::Value::Null);
    assert_eq!(json[1]["state_files"], serde_json::json!(["orphan.seg"]));
    run_in(at, "checkpoints verify ck").succeeded();
    assert_eq!(names_in(&directory.join("state")), ["b.seg"]);
}

#[test]
fn a_running_jobs_checkpoints_are_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let directory = at.join("ck");
    take(&directory, 1, &["a.seg"]);
    let lock = DirectoryLock::acquire(&directory.join(layout::LOCK)).unwrap();
    let holder = format!("in use by process {} on ", std::process::id());
    run_in(at, "checkpoints delete ck 1").refused(2, &["ck/LOCK", &holder, "stop it"]);
    run_in(at, "checkpoints delete ck --orphans").refused(2, &[&holder]);
    run_in(at, "checkpoints list ck").succeeded();
    run_in(at, "checkpoints verify ck").succeeded();
    drop(lock);
    run_in(at, "checkpoints delete ck 1").succeeded();
    assert_eq!(
        run_in(at, "checkpoints list ck").succeeded().stderr,
        "ck: there are no checkpoints\n"
    );
}

#[test]
fn what_is_no_checkpoint_directory_is_said_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("photos")).unwrap();
    fs::write(at.join("photos/cat.jpg"), "x").unwrap();
    for command in ["list", "verify", "delete"] {
        let id = if command == "delete" { " 1" } else { "" };
        let run = |place: &str| run_in(at, &format!("checkpoints {command} {place}{id}"));
        run("none").refused(2, &["none: it does not exist"]);
        run("photos").refused(2, &["photos: holds files", "is it the directory"]);
        run("photos/cat.jpg").refused(1, &["cat.jpg", "a file stands where a directory should"]);
    }
    assert_eq!(names_in(&at.join("photos")), ["cat.jpg"]);
}

#[test]
fn places_elsewhere_are_asked_or_refused() {
    let ended = |location: &str| {
        let mut command = millstream(["checkpoints", "list", location]);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        Ended::from(command.output().unwrap())
    };
    ended("ftp://host/job").refused(2, &["ftp://host/job", "s3:// or file://"]);
    let place = "s3://bucket/job?endpoint=http://127.0.0.1:9&region=us-east-1";
    if cfg!(feature = "object-store") {
        // The port "discard", where nobody listens.
        ended(place).refused(1, &["s3://bucket/job: cannot list it; is the endpoint right"]);
    } else {
        ended(place).refused(2, &["feature object-store"]);
    }
    let folder = tempfile::tempdir().unwrap();
    take(folder.path(), 7, &[]);
    let listed = ended(&format!("file://{}", folder.path().display())).succeeded().stdout;
    assert!(listed.contains("complete"), "{listed}");
}
