//! The job finds what a naive computation over the same events finds: at any number of slots, from
//! the service and from files, whatever the order in which events come.

mod naive;

use millstream::connector::Source;
use millstream::{Config, Environment, JobStatus, WatermarkStrategy};
use millstream_connectors::{CsvEncoder, Encoder, JsonEncoder};
use millstream_demo::event::{Event, Track, What};
use millstream_demo::input::{EventSource, FileFormat};
use millstream_demo::job::{self, AlarmKind, Favourite, SESSION_GAP, SKIPS_IN_A_ROW};
use millstream_demo::service::{DELAY_MAX, Pace, Service, ServiceSource, Settings};
use naive::Findings;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const SETTINGS: Settings = Settings { users: 1_500, songs: 200, seed: 11 };
const SERVICE_TIME: Duration = Duration::from_secs(4 * 3_600);

fn environment(slots: u32) -> Environment {
    Environment::new(Config::default().with_slots(slots))
}

fn generated() -> Vec<Event> {
    let last = SERVICE_TIME.as_millis() as i64;
    let arrivals = Service::new(SETTINGS, 0, 1).take_while(|arrival| arrival.millis <= last);
    arrivals.map(|arrival| arrival.event).collect()
}

/// What the job finds in the events of a source that come at most `out_of_order` late.
fn found(slots: u32, source: impl Source<Out = Event>, out_of_order: Duration) -> Findings {
    let env = environment(slots);
    let strategy = WatermarkStrategy::bounded_out_of_orderness(out_of_order, Event::time);
    let results = job::describe(env.from_source("events", source).assign_timestamps(strategy));
    let top_lists = results.top_lists.collect();
    let favourites = results.favourites.collect();
    let alarms = results.alarms.collect();
    let sessions = results.sessions.collect();
    let result = env.execute("music service").unwrap();
    assert_eq!(result.status, JobStatus::Finished);
    assert_eq!(result.metrics.counters.late(), 0, "no event is late");
    let mut findings = Findings {
        top_lists: top_lists.take(),
        favourites: last_favourites(favourites.take()),
        alarms: alarms.take(),
        sessions: sessions.take(),
    };
    findings.top_lists.sort();
    findings.alarms.sort();
    findings.sessions.sort();
    findings
}

/// The favourite of each user at the end; each change must begin where the one before ended.
fn last_favourites(changes: Vec<Favourite>) -> BTreeMap<u64, compact_str::CompactString> {
    let mut favourites = BTreeMap::new();
    for Favourite { user, before, now } in changes {
        assert_ne!(before, now);
        let old = match now {
            Some(genre) => favourites.insert(user, genre),
            None => favourites.remove(&user),
        };
        assert_eq!(old, before, "user {user}");
    }
    favourites
}

/// As `assert_eq!`, without a page of events where they differ.
fn assert_same(found: &Findings, expected: &Findings, what: &str) {
    assert!(found.top_lists == expected.top_lists, "top lists differ: {what}");
    assert!(found.favourites == expected.favourites, "favourites differ: {what}");
    assert_eq!(found.alarms, expected.alarms, "{what}");
    assert!(found.sessions == expected.sessions, "sessions differ: {what}");
}

#[test]
fn the_services_events_give_what_the_naive_computation_gives() {
    let expected = naive::findings(&generated());
    for kind in [AlarmKind::Skips, AlarmKind::TooFast, AlarmKind::Marathon] {
        assert!(expected.alarms.iter().any(|alarm| alarm.kind == kind), "no {kind:?} to be found");
    }
    assert!(expected.top_lists.len() > 2_000 && expected.sessions.len() > 3_000);
    // At such a pace all events are due at once, made by as many parts as there are slots.
    for pace in [Pace::Times(1e9), Pace::Unlimited] {
        for slots in 1..=3 {
            let source = ServiceSource::new(SETTINGS, pace).for_service_time(SERVICE_TIME);
            let found = found(slots, source, DELAY_MAX);
            assert_same(&found, &expected, &format!("{slots} slots, {pace:?}"));
        }
    }
}

fn write(path: &Path, events: &[Event], mut encoder: impl Encoder<Event>) {
    let mut bytes = Vec::new();
    for event in events {
        encoder.encode(event, &mut bytes).unwrap();
    }
    if path.extension().is_some_and(|ending| ending == "gz") {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        bytes = gzip.finish().unwrap();
    }
    fs::write(path, bytes).unwrap();
}

/// Events as rows of CSV, which the command line writes too.
#[derive(Clone, Default)]
struct Rows(CsvEncoder);

impl Encoder<Event> for Rows {
    fn encode(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), millstream::BoxError> {
        self.0.encode(&millstream_demo::event::Row::from(event.clone()), out)
    }
}

#[test]
fn files_give_what_the_naive_computation_gives() {
    let events = generated();
    let expected = naive::findings(&events);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Larger than what one subtask reads before another one takes over, but for the compressed one.
    write(&path("events.jsonl"), &events, JsonEncoder);
    write(&path("events.csv"), &events, Rows::default());
    write(&path("events.jsonl.gz"), &events, JsonEncoder);
    for name in ["events.jsonl", "events.csv", "events.jsonl.gz"] {
        for slots in 1..=3 {
            let source = EventSource::files(&path(name), FileFormat::of_name(&path(name)));
            let found = found(slots, source, DELAY_MAX);
            assert_same(&found, &expected, &format!("{name}, {slots} slots"));
        }
    }
}

#[test]
fn the_board_shows_the_lists_of_the_last_full_window() {
    let events = generated();
    let last = events.iter().map(|event| event.time_millis).max().unwrap();
    let slide = job::TOP_SLIDE.as_millis() as i64;
    let end = last.div_euclid(slide) * slide + slide;
    let expected: Vec<_> = naive::findings(&events)
        .top_lists
        .into_iter()
        .filter(|list| list.end_millis == end)
        .collect();
    for slots in 1..=3 {
        let env = environment(slots);
        let source = ServiceSource::new(SETTINGS, Pace::Unlimited).for_service_time(SERVICE_TIME);
        let board = millstream_demo::describe(&env, EventSource::Service(source), DELAY_MAX);
        env.execute("music service").unwrap();
        let mut shown: Vec<_> = board.findings().top_lists().cloned().collect();
        shown.sort();
        assert_eq!(shown, expected, "{slots} slots");
    }
}

/// Few users and songs, dense in time, so that everything happens to the same ones; sessions end and
/// songs are added in the middle.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let gap = SESSION_GAP.as_millis() as i64;
    let step = prop_oneof![
        12 => 0..40_000i64,
        1 => prop::sample::select(vec![gap - 1, gap, gap + 1, 3 * gap]),
    ];
    let what = prop_oneof![
        1 => (0..12u64, 1..300u32, 0..3usize).prop_map(|(song, seconds, genre)| {
            let genre = ["jazz", "pop", "rock"][genre].into();
            What::Song(Track { song, title: "song".into(), genre, seconds })
        }),
        20 => (0..4u64, 0..12u64).prop_map(|(user, song)| What::Play { user, song }),
        20 => (0..4u64, 0..12u64).prop_map(|(user, song)| What::Skip { user, song, seconds: 3 }),
        4 => (0..4u64, 0..12u64, 1..=5u8)
            .prop_map(|(user, song, stars)| What::Rating { user, song, stars }),
    ];
    prop::collection::vec((step, what, 0..60_000i64), 1..400).prop_map(|events| {
        let (mut time_millis, mut added) = (1_000_000_000_000, std::collections::BTreeSet::new());
        let mut arrivals = Vec::new();
        for (step, what, delay) in events {
            time_millis += step;
            // A song is added once.
            if !matches!(&what, What::Song(track) if !added.insert(track.song)) {
                arrivals.push((time_millis + delay, Event { time_millis, what }));
            }
        }
        arrivals.sort();
        arrivals.into_iter().map(|(_, event)| event).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_events_give_what_the_naive_computation_gives(events in events(), slots in 1..=3u32) {
        let expected = naive::findings(&events);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        write(&path, &events, JsonEncoder);
        let source = EventSource::files(&path, FileFormat::Json);
        assert_same(&found(slots, source, Duration::from_secs(60)), &expected, "of any events");
    }
}

#[test]
fn users_who_skip_and_bots_are_told_once() {
    let at = |seconds: u64, what| Event { time_millis: seconds as i64 * 1_000, what };
    let mut events = vec![at(
        0,
        What::Song(Track { song: 1, title: "One".into(), genre: "pop".into(), seconds: 200 }),
    )];
    for n in 0..u64::from(SKIPS_IN_A_ROW) + 5 {
        events.push(at(10 * n + 1, What::Play { user: 1, song: 1 }));
        events.push(at(10 * n + 2, What::Skip { user: 1, song: 1, seconds: 1 }));
        events.push(at(10 * n + 3, What::Play { user: 2, song: 1 }));
        // The song is heard, as far as one can tell.
        events.push(at(51 * n + 4, What::Play { user: 3, song: 1 }));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.csv");
    write(&path, &events, Rows::default());
    let source = EventSource::files(&path, FileFormat::Csv);
    let found = found(2, source, Duration::from_secs(3_600));
    let alarms: Vec<_> = found.alarms.iter().map(|alarm| (alarm.user, alarm.kind)).collect();
    assert_eq!(alarms, [(2, AlarmKind::TooFast), (1, AlarmKind::Skips)]);
    assert_eq!(found.favourites, BTreeMap::from([(2, "pop".into()), (3, "pop".into())]));
    assert_same(&found, &naive::findings(&events), "scenario");
}
