use super::*;
use millstream_types::Timestamp;
use std::fs;
use std::path::Path;

/// Compares what this program writes with what fuzzing begins with, in `fuzz/corpus`. Set
/// `MILLSTREAM_WRITE_SEEDS` to write it.
pub(crate) fn check_seed(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let path = folder.join(name);
    if std::env::var_os("MILLSTREAM_WRITE_SEEDS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    assert!(fs::read(&path).unwrap() == bytes, "{target}/{name} is not what is written");
}

const BATCH: u8 = 0;
const SIGNAL: u8 = 1;
const OVERTAKING: u8 = 2;

type Frame = (u8, Vec<u8>);

fn batch<T: Data>(rows: Vec<(T, Option<i64>)>) -> Frame {
    let mut batch = Rows::default();
    for (value, time) in rows {
        batch.push(value, time.map_or(Timestamp::MIN, Timestamp::from_nanos));
    }
    let mut codec = RowsCodec::<T>::default();
    let mut payload = vec![0; codec.prepare(&batch).unwrap()];
    codec.write(&batch, &mut payload);
    (BATCH, payload)
}

/// As `docs/formats/frames.md` has it.
fn signal(frame: u8, kind: u8, value: u64) -> Frame {
    let payload = [&[kind, 0, 0, 0, 0, 0, 0, 0], &value.to_le_bytes()[..]].concat();
    (frame, payload)
}

#[test]
fn the_seeds_are_what_is_written_and_are_read() {
    let plain = || batch((0..5_u64).map(|n| (n, None)).collect());
    let timed = batch((0..4_u64).map(|n| (n * n, Some(n as i64 * 1_000))).collect());
    let end = || signal(SIGNAL, 6, 0);
    let validated = || batch(vec![((7_u32, true, 'a'), Some(3)), ((8, false, '\u{2192}'), None)]);
    let archived = || {
        batch(vec![
            (("short".to_owned(), vec![1_u16, 2, 3], Some(7_u64)), Some(3)),
            (("longer than what is kept in place".to_owned(), vec![], None), Some(4)),
            ((String::new(), vec![9; 20], None), Some(5)),
        ])
    };
    let signals = (1..=5).map(|kind| signal(SIGNAL, kind, 7));
    let seeds = [
        ("plain", 0, vec![plain(), timed, signal(SIGNAL, 1, 4_000), plain(), end()]),
        ("validated", 1, vec![validated(), signal(OVERTAKING, 2, 8), validated()]),
        ("archived", 2, vec![archived(), signal(SIGNAL, 2, 8), archived()]),
        ("signals", 0, signals.chain([signal(OVERTAKING, 2, 9), end()]).collect()),
    ];
    for (name, records, frames) in seeds {
        let mut bytes = vec![records];
        for (kind, payload) in &frames {
            bytes.push(*kind);
            bytes.extend((payload.len() as u16).to_le_bytes());
            bytes.extend(payload);
        }
        check_seed("channel", name, &bytes);
        assert_eq!(check_frames(&bytes), frames.len(), "{name}");
    }
}
