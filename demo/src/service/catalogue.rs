//! The songs that the made-up service has.
//!
//! A song is a pure function of the seed and its number, so that no subtask has to know what another
//! one made. Song `n` is of genre `n % GENRES`; within a genre, songs with smaller numbers are more
//! popular. New songs are added all the time, with the next number each.

use super::random::{Random, hash};
use crate::event::Track;
use compact_str::format_compact;

/// The genres.
pub(super) const GENRES: [&str; 10] = [
    "pop",
    "hip hop",
    "rock",
    "electronic",
    "latin",
    "indie",
    "country",
    "jazz",
    "classical",
    "metal",
];

/// How often a song is added.
pub(super) const NEW_SONG_MILLIS: i64 = 20_000;
/// How long the same songs are hot.
const HOT_MILLIS: i64 = 20 * 60_000;
/// Hot songs of a genre at a time.
const HOT_SONGS: u64 = 3;
/// Songs that count as new.
const NEW_SONGS: u64 = 60;

const MOODS: [&str; 32] = [
    "Silver", "Midnight", "Paper", "Broken", "Golden", "Silent", "Electric", "Crimson", "Hollow",
    "Distant", "Velvet", "Burning", "Frozen", "Little", "Endless", "Wild", "Neon", "Lonely",
    "Blue", "Secret", "Summer", "Faded", "Second", "Restless", "Lucky", "Northern", "Slow",
    "Hidden", "Amber", "Gentle", "Stolen", "Perfect",
];
const THINGS: [&str; 32] = [
    "River", "Heart", "Lights", "Summer", "Ocean", "Letters", "Highway", "Garden", "Mirror", "Sky",
    "Echo", "Fire", "Shadow", "Window", "Train", "Promise", "Moon", "City", "Dream", "Storm",
    "Road", "Island", "Machine", "Harbour", "Winter", "Stranger", "Signal", "Thunder", "Kingdom",
    "Morning", "Ghost", "Horizon",
];
const FORMS: [[&str; 3]; 10] = [
    ["", " ", ""],
    ["The ", " ", ""],
    ["", " ", " II"],
    ["", " ", " (Live)"],
    ["My ", " ", ""],
    ["", " of the ", ""],
    ["", " ", " (Acoustic)"],
    ["One ", " ", ""],
    ["", " ", " Blues"],
    ["Your ", " ", ""],
];

/// The catalogue as it is at any time.
#[derive(Clone, Debug)]
pub(super) struct Catalogue {
    seed: u64,
    /// Songs at the beginning, at least one of each genre.
    initial: u64,
}

impl Catalogue {
    pub(super) fn new(seed: u64, initial: u64) -> Self {
        Self { seed, initial: initial.max(GENRES.len() as u64) }
    }

    /// Songs that were added until `millis` after the beginning.
    pub(super) fn len_at(&self, millis: i64) -> u64 {
        self.initial + (millis.max(0) / NEW_SONG_MILLIS) as u64
    }

    /// When a song was added, in milliseconds after the beginning.
    pub(super) fn added_millis(&self, song: u64) -> i64 {
        let later = song.saturating_sub(self.initial.saturating_sub(1));
        i64::try_from(later).map_or(i64::MAX, |n| n.saturating_mul(NEW_SONG_MILLIS))
    }

    pub(super) fn track(&self, song: u64) -> Track {
        // A step that shares no factor with the number of titles visits all before it repeats one.
        let titles = (MOODS.len() * THINGS.len() * FORMS.len()) as u64;
        let title = (hash(self.seed, 0) % titles + song % titles * 7_919) % titles;
        let (rest, form) = (title / FORMS.len() as u64, title % FORMS.len() as u64);
        let (mood, thing) = (rest % MOODS.len() as u64, rest / MOODS.len() as u64);
        let [before, between, after] = FORMS[form as usize];
        let (mood, thing) = (MOODS[mood as usize], THINGS[thing as usize]);
        Track {
            song,
            title: format_compact!("{before}{mood}{between}{thing}{after}"),
            genre: GENRES[(song % GENRES.len() as u64) as usize].into(),
            seconds: self.seconds(song),
        }
    }

    /// A song's length.
    pub(super) fn seconds(&self, song: u64) -> u32 {
        120 + (hash(self.seed, !song) % 180) as u32
    }

    /// A song that somebody chooses who wants to hear this genre: the hot ones and the newest are
    /// in everybody's ears, the others are as popular as they are.
    pub(super) fn choose(&self, genre: usize, millis: i64, random: &mut Random) -> u64 {
        let genres = GENRES.len() as u64;
        let songs = |len: u64| (len - genre as u64).div_ceil(genres);
        let ranks = songs(self.len_at(millis));
        let rank = match random.below(100) {
            0..10 => {
                let period = millis / HOT_MILLIS;
                let known = songs(self.len_at(period * HOT_MILLIS));
                let place = random.rank(HOT_SONGS);
                hash(self.seed ^ period as u64, place * genres + genre as u64) % known
            }
            10..14 => ranks - 1 - random.below((NEW_SONGS / genres).min(ranks)),
            _ => random.rank(ranks),
        };
        rank * genres + genre as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn titles_of_a_full_catalogue_differ() {
        let catalogue = Catalogue::new(3, 10_000);
        let titles: HashSet<_> = (0..10_000).map(|song| catalogue.track(song).title).collect();
        assert_eq!(titles.len(), 10_000);
    }

    #[test]
    fn only_songs_that_exist_are_chosen_and_they_are_of_the_genre() {
        for initial in [0, 10, 17, 5_000] {
            let catalogue = Catalogue::new(1, initial);
            let mut random = Random::new(1, 1);
            for n in 0..20_000 {
                let (genre, millis) = (n % GENRES.len(), (n * 997) as i64);
                let song = catalogue.choose(genre, millis, &mut random);
                assert!(catalogue.added_millis(song) <= millis, "{song} at {millis}");
                assert_eq!(catalogue.track(song).genre, GENRES[genre]);
            }
        }
    }

    #[test]
    fn a_song_is_added_when_the_catalogue_grows() {
        let catalogue = Catalogue::new(1, 100);
        assert_eq!(catalogue.added_millis(99), 0);
        for song in 100..110 {
            let added = catalogue.added_millis(song);
            assert_eq!((catalogue.len_at(added - 1), catalogue.len_at(added)), (song, song + 1));
        }
    }
}
