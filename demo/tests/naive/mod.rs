//! What the job must find, computed the slow and plain way: all events in memory, every window on its
//! own, every user on its own.

use compact_str::CompactString;
use millstream_demo::event::{Event, Track, What};
use millstream_demo::job::{
    Alarm, AlarmKind, Deed, FAST_IN_A_ROW, HEARD_PERCENT, MARATHON, SESSION_GAP, SKIPS_IN_A_ROW,
    Session, TOP_SLIDE, TOP_SONGS, TOP_WINDOW, TopList, score,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// All that the job finds, in an order of its own.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    pub top_lists: Vec<TopList>,
    pub favourites: BTreeMap<u64, CompactString>,
    pub alarms: Vec<Alarm>,
    pub sessions: Vec<Session>,
}

type Deeds = Vec<(i64, Deed, Track)>;

pub fn findings(events: &[Event]) -> Findings {
    let mut songs: HashMap<u64, (i64, Track)> = HashMap::new();
    for event in events {
        if let What::Song(track) = &event.what {
            songs.insert(track.song, (event.time_millis, track.clone()));
        }
    }
    let mut users: BTreeMap<u64, Deeds> = BTreeMap::new();
    for event in events {
        let (user, song, deed) = match event.what {
            What::Song(_) => continue,
            What::Play { user, song } => (user, song, Deed::Play),
            What::Skip { user, song, .. } => (user, song, Deed::Skip),
            What::Rating { user, song, stars } => (user, song, Deed::Rating(stars)),
        };
        let track = match songs.get(&song) {
            Some((added, track)) if *added <= event.time_millis => track.clone(),
            _ => Track::unknown(song),
        };
        users.entry(user).or_default().push((event.time_millis, deed, track));
    }
    let mut findings = Findings { top_lists: top_lists(&users), ..Findings::default() };
    for (user, mut deeds) in users {
        findings.favourites.extend(favourite(&deeds).map(|genre| (user, genre)));
        deeds.sort();
        let gap = SESSION_GAP.as_millis() as i64;
        for deeds in deeds.chunk_by(|before, after| after.0 - before.0 <= gap) {
            findings.sessions.push(session(user, deeds));
            let kinds = alarms(deeds).into_iter();
            findings.alarms.extend(kinds.map(|(time_millis, kind)| Alarm {
                time_millis,
                user,
                kind,
            }));
        }
    }
    findings.alarms.sort();
    findings.sessions.sort();
    findings
}

fn top_lists(users: &BTreeMap<u64, Deeds>) -> Vec<TopList> {
    let (window, slide) = (TOP_WINDOW.as_millis() as i64, TOP_SLIDE.as_millis() as i64);
    let mut plays: BTreeMap<(CompactString, i64), HashMap<&Track, u64>> = BTreeMap::new();
    for (time, deed, track) in users.values().flatten() {
        if *deed == Deed::Play {
            let mut end = time - time.rem_euclid(slide) + slide;
            while end - window <= *time {
                let songs = plays.entry((track.genre.clone(), end)).or_default();
                *songs.entry(track).or_default() += 1;
                end += slide;
            }
        }
    }
    let mut lists: Vec<TopList> = plays
        .into_iter()
        .map(|((genre, end_millis), songs)| {
            let mut songs: Vec<_> = songs.into_iter().map(|(song, n)| (song.clone(), n)).collect();
            songs.sort_by_key(|(track, plays)| (Reverse(*plays), track.song));
            songs.truncate(TOP_SONGS);
            TopList { genre, end_millis, songs }
        })
        .collect();
    lists.sort();
    lists
}

fn favourite(deeds: &Deeds) -> Option<CompactString> {
    let mut scores: BTreeMap<&CompactString, i64> = BTreeMap::new();
    for (_, deed, track) in deeds {
        *scores.entry(&track.genre).or_default() += score(deed);
    }
    let most = scores.values().copied().max().filter(|score| *score > 0)?;
    scores.into_iter().find(|(_, score)| *score == most).map(|(genre, _)| genre.clone())
}

fn session(user: u64, deeds: &[(i64, Deed, Track)]) -> Session {
    let count = |wanted: Deed| deeds.iter().filter(|(_, deed, _)| *deed == wanted).count() as u32;
    Session {
        user,
        start_millis: deeds[0].0,
        end_millis: deeds[deeds.len() - 1].0,
        plays: count(Deed::Play),
        skips: count(Deed::Skip),
    }
}

/// The alarms of a session. A play that follows a play, with no skip between, means that the former
/// was heard, or left too fast.
fn alarms(deeds: &[(i64, Deed, Track)]) -> Vec<(i64, AlarmKind)> {
    let mut alarms = Vec::new();
    let start = deeds[0].0;
    let marathon = deeds.iter().find(|(time, ..)| time - start >= MARATHON.as_millis() as i64);
    alarms.extend(marathon.map(|(time, ..)| (*time, AlarmKind::Marathon)));

    let deeds: Vec<_> =
        deeds.iter().filter(|(_, deed, _)| !matches!(deed, Deed::Rating(_))).collect();
    let (mut skips, mut fast) = (0, 0);
    for index in 0..deeds.len() {
        let (time, deed, _) = deeds[index];
        let before = index.checked_sub(1).map(|before| deeds[before]);
        match (before, deed) {
            (_, Deed::Skip) => {
                skips += 1;
                if skips == SKIPS_IN_A_ROW {
                    alarms.push((*time, AlarmKind::Skips));
                }
            }
            (Some((began, Deed::Play, track)), Deed::Play) => {
                skips = 0;
                let heard_from = i64::from(track.seconds) * 1_000 * HEARD_PERCENT / 100;
                fast = if time - began < heard_from { fast + 1 } else { 0 };
                if fast == FAST_IN_A_ROW {
                    alarms.push((*time, AlarmKind::TooFast));
                }
            }
            _ => {}
        }
    }
    alarms
}
