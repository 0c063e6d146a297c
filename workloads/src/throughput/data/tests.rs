use proptest::prelude::*;

use super::*;

/// [`word_hash`]es of what the generator that the peers share writes.
const FIRST_100_000_EVENTS: u64 = 0xf6d7_0e86_951a_dfe5;
const FIRST_1_000_009_TEXT_BYTES: u64 = 0xa629_9dcb_6a32_406a;

#[test]
fn events_are_those_of_the_peers() {
    let mut bytes = Vec::new();
    write_events(100_000, &mut bytes).expect("a vector takes it");
    assert_eq!(bytes.len(), 4_000_000);
    assert_eq!(word_hash(&bytes), FIRST_100_000_EVENTS);
}

#[test]
fn the_text_is_that_of_the_peers() {
    let mut bytes = Vec::new();
    write_text(1_000_000, &mut bytes).expect("a vector takes it");
    assert_eq!(bytes.len(), 1_000_009);
    assert_eq!(word_hash(&bytes), FIRST_1_000_009_TEXT_BYTES);
}

#[test]
fn what_is_written_is_loaded_and_a_shorter_file_grows() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let dir = scratch.path().join("made/when/needed");
    let expected: Vec<Ev> =
        Generator::new(SETTINGS).take(40_000).map(|event| compact(&event)).collect();

    ensure_events(&dir, 20_000, &|| false).expect("written");
    assert_eq!(load_events(&dir, 20_000).expect("loaded"), expected[..20_000]);
    assert_eq!(load_events(&dir, 0).expect("loaded"), []);

    ensure_events(&dir, 40_000, &|| false).expect("written anew");
    assert_eq!(load_events(&dir, 40_000).expect("loaded"), expected);

    ensure_events(&dir, 10, &|| false).expect("left alone");
    assert_eq!(load_events(&dir, 40_000).expect("loaded"), expected);

    let names: Vec<_> = fs::read_dir(&dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(names, [EVENTS_FILE], "nothing partial is left");
}

#[test]
fn a_missing_file_says_how_to_make_it() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    for error in [
        load_events(scratch.path(), 1).expect_err("no file"),
        load_text(scratch.path()).expect_err("no file"),
    ] {
        assert!(matches!(error, DataError::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains("millstream bench throughput"), "{error}");
    }
}

#[test]
fn a_short_file_says_how_many_events_it_holds() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    ensure_events(scratch.path(), 100, &|| false).expect("written");
    let error = load_events(scratch.path(), 101).expect_err("too short");
    assert!(matches!(error, DataError::TooShort { present: 100, wanted: 101, .. }), "{error:?}");
    assert!(error.to_string().contains("--events 101"), "{error}");
}

#[test]
fn an_unknown_kind_of_event_is_named_with_its_place() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    ensure_events(scratch.path(), 20_000, &|| false).expect("written");
    let path = scratch.path().join(EVENTS_FILE);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[17_000 * EVENT_BYTES] = 3;
    fs::write(&path, bytes).expect("writable");
    assert_eq!(load_events(scratch.path(), 17_000).expect("good so far").len(), 17_000);
    let error = load_events(scratch.path(), 20_000).expect_err("one is bad");
    assert!(error.to_string().contains("event 17000 is of the unknown kind 3"), "{error}");
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_place() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    fs::write(scratch.path().join(TEXT_FILE), b"word \xff").expect("writable");
    ensure_text(scratch.path(), &|| false).expect("what is there is left alone");
    let error = load_text(scratch.path()).expect_err("no UTF-8");
    assert!(error.to_string().contains("after byte 5"), "{error}");
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join(EVENTS_FILE);
    let error = write_whole(&path, &|| false, |out| {
        out.write_all(b"half of it")?;
        Err(io::ErrorKind::StorageFull.into())
    })
    .expect_err("the disk is full");
    assert!(error.to_string().starts_with("cannot write"), "{error}");
    assert_eq!(fs::read_dir(scratch.path()).expect("readable").count(), 0);
}

#[test]
fn a_write_that_is_cancelled_ends_soon_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let asked = std::cell::Cell::new(0);
    let is_cancelled = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let error = ensure_events(scratch.path(), 1_000_000, &is_cancelled).expect_err("cancelled");
    assert!(matches!(error, DataError::Cancelled { .. }), "{error:?}");
    assert_eq!(fs::read_dir(scratch.path()).expect("readable").count(), 0);
}

#[test]
fn a_file_where_the_folder_should_be_is_refused() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let not_a_dir = scratch.path().join("taken");
    fs::write(&not_a_dir, "").expect("writable");
    let error = ensure_events(&not_a_dir, 1, &|| false).expect_err("no folder");
    assert!(matches!(error, DataError::Io { .. }), "{error:?}");
}

fn any_event() -> impl Strategy<Value = Ev> {
    prop_oneof![
        any::<[u64; 3]>().prop_map(|[id, name, ts]| Ev::Person { id, name, ts }),
        (any::<u32>(), any::<[u64; 4]>()).prop_map(|(category, [id, seller, reserve, ts])| {
            Ev::Auction { category, id, seller, reserve, ts }
        }),
        any::<[u64; 4]>().prop_map(|[auction, bidder, price, ts]| {
            Ev::Bid(Bid { auction, bidder, price, ts })
        }),
    ]
}

proptest! {
    #[test]
    fn events_survive_encoding(event in any_event()) {
        prop_assert_eq!(decode(&encode(&event)), Ok(event));
    }
}
