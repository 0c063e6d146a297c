//! Input files that are not what they should be: never a panic, and what is wrong is said.

#[path = "../../api/tests/soaking/mod.rs"]
mod soaking;

use millstream_workloads::nexmark::json::{JsonError, parse_line, read_events, write_line};
use millstream_workloads::nexmark::{Generator, Settings};
use millstream_workloads::throughput::Ev;
use millstream_workloads::throughput::data::{
    DataError, SETTINGS, compact, ensure_events, load_events, load_text,
};
use proptest::collection::vec;
use proptest::prelude::*;
use soaking::soak;
use std::fs;

type Tried = Result<(), Box<dyn std::error::Error>>;

const EVENTS: usize = 200;
const EVENT_BYTES: usize = 40;

/// Bytes to be set to something else.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)
}

#[test]
fn soak_damaged_events_are_refused_or_events() -> Tried {
    let folder = tempfile::tempdir()?;
    ensure_events(folder.path(), EVENTS, &|| false)?;
    let path = folder.path().join("ev.bin");
    let whole = fs::read(&path)?;
    let expected: Vec<Ev> = Generator::new(SETTINGS).take(EVENTS).map(|e| compact(&e)).collect();
    let cut = prop_oneof![Just(whole.len()), 0..=whole.len()];
    soak((cut, changes(), 0..2 * EVENTS), |(cut, changes, wanted)| {
        let mut bytes = whole[..cut].to_vec();
        for (at, byte) in changes.iter().filter(|_| cut > 0) {
            bytes[at.index(cut)] = *byte;
        }
        fs::write(&path, &bytes).unwrap();
        let unknown =
            |event: &[u8]| u32::from_le_bytes(event[..4].try_into().expect("four bytes")) > 2;
        let first_unknown = bytes.chunks_exact(EVENT_BYTES).take(wanted).position(unknown);
        match load_events(folder.path(), wanted) {
            Ok(events) => {
                prop_assert!(events.len() == wanted && wanted <= cut / EVENT_BYTES);
                prop_assert_eq!(first_unknown, None);
                for (index, event) in events.iter().enumerate() {
                    let at = EVENT_BYTES * index;
                    let same = bytes[at..at + EVENT_BYTES] == whole[at..at + EVENT_BYTES];
                    prop_assert!(!same || *event == expected[index]);
                }
            }
            Err(error @ DataError::TooShort { present, .. }) => {
                prop_assert!(present == cut / EVENT_BYTES && wanted > present);
                prop_assert!(error.to_string().contains("millstream bench throughput"));
            }
            Err(error @ DataError::Corrupt { .. }) => {
                let words = error.to_string();
                let place = format!("ev.bin: event {} is of", first_unknown.unwrap_or(usize::MAX));
                prop_assert!(words.contains(&place) && words.contains("delete"), "{words}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
        Ok(())
    })
}

#[test]
fn soak_damaged_text_is_refused_where_it_is_no_text() -> Tried {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("text.txt");
    soak(("[a-zé \n]{0,300}", changes()), |(text, changes)| {
        let mut bytes = text.into_bytes();
        for (at, byte) in changes.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        fs::write(&path, &bytes).unwrap();
        match (load_text(folder.path()), str::from_utf8(&bytes)) {
            (Ok(loaded), Ok(text)) => prop_assert_eq!(loaded, text),
            (Err(error @ DataError::Corrupt { .. }), Err(wrong)) => {
                let words = error.to_string();
                let place = format!("text.txt: no UTF-8 text after byte {}", wrong.valid_up_to());
                prop_assert!(words.contains(&place), "{words}");
            }
            (loaded, text) => prop_assert!(false, "{loaded:?}, {text:?}"),
        }
        Ok(())
    })
}

#[test]
fn soak_damaged_json_names_the_line_and_the_rest_is_read() -> Tried {
    let settings = Settings { base_time_millis: 1_436_918_400_000, rate: 1_000 };
    let mut lines = Vec::new();
    for event in Generator::new(settings).take(60) {
        let mut line = Vec::new();
        write_line(&event, &mut line);
        lines.push(line.trim_ascii_end().to_vec());
    }
    let damage = vec((any::<prop::sample::Index>(), changes()), 0..3);
    soak((damage, any::<bool>()), |(damage, ended)| {
        let mut lines = lines.clone();
        for (line, changes) in damage {
            let line = line.index(lines.len());
            for (at, byte) in changes {
                let at = at.index(lines[line].len());
                // A line end would make two lines of one.
                lines[line][at] = if byte == b'\n' { b'?' } else { byte };
            }
        }
        let mut file = lines.join(&b'\n');
        file.extend(ended.then_some(b'\n'));
        let parsed: Vec<_> = lines.iter().zip(1..).map(|(line, at)| parse_line(line, at)).collect();
        let first_wrong = parsed.iter().position(Result::is_err);
        match read_events(&*file, usize::MAX) {
            Ok(events) => {
                prop_assert_eq!(first_wrong, None);
                prop_assert_eq!(events.len(), lines.len());
            }
            Err(error @ JsonError::Malformed { line, .. }) => {
                prop_assert_eq!(Some(line as usize - 1), first_wrong);
                let place = format!("line {line}, column ");
                prop_assert!(error.to_string().starts_with(&place), "{error}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
        Ok(())
    })
}
