//! What one user does, one event after the other.

use super::catalogue::{Catalogue, GENRES};
use super::random::Random;
use crate::event::What;

/// Of a thousand users, how many are bots that play a few songs again and again.
const BOTS_PER_MILLE: u64 = 1;
/// Of a thousand sessions, in how many nothing pleases.
const MOODY_PER_MILLE: u64 = 10;
/// Songs that a bot promotes.
const PROMOTED_SONGS: u64 = 4;

/// The pause between two sessions, in milliseconds. Longer than the gap by which the job tells
/// sessions apart.
const PAUSE_MILLIS: (i64, i64) = (11 * 60_000, 20 * 60_000);
/// The time between two songs.
const BETWEEN_SONGS_MILLIS: (i64, i64) = (800, 3_000);
/// The time between two songs of a bot.
const BETWEEN_BOT_SONGS_MILLIS: (i64, i64) = (3_000, 12_000);

/// A user, or a bot.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    random: Random,
    next: Next,
    /// What the user likes most, and second most.
    likes: [u8; 2],
    kind: Kind,
    /// Songs left in this session.
    left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Human { moody: bool },
    Bot { promoted: u64 },
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Song,
    Skip { song: u64, seconds: u32 },
    Rating { song: u64, stars: u8 },
}

impl Listener {
    /// A user, and when the first event is, in milliseconds after the beginning.
    pub(super) fn new(seed: u64, user: u64, catalogue: &Catalogue) -> (Self, i64) {
        let mut random = Random::new(seed, user);
        let genres = GENRES.len() as u64;
        // Genres are not liked alike: earlier ones more.
        let likes = [random.rank(genres) as u8, random.rank(genres) as u8];
        let kind = if random.chance(BOTS_PER_MILLE) {
            let genre = random.below(genres) as usize;
            Kind::Bot { promoted: catalogue.choose(genre, 0, &mut random) }
        } else {
            Kind::Human { moody: false }
        };
        let left = 1 + random.below(25) as u32;
        // As if the service had run for long: many are in the middle of a song, others pause.
        let latest = if random.chance(650) { 200_000 } else { PAUSE_MILLIS.1 };
        let first = 1 + random.between(0, latest);
        (Self { random, next: Next::Song, likes, kind, left }, first)
    }

    /// What `user` does at `now`, and when the next event is: always later.
    pub(super) fn act(&mut self, user: u64, now: i64, catalogue: &Catalogue) -> (What, i64) {
        match self.next {
            Next::Song => {
                let song = self.choose(now, catalogue);
                (What::Play { user, song }, now + self.listen(song, catalogue))
            }
            Next::Skip { song, seconds } => {
                (What::Skip { user, song, seconds }, now + self.rest_after_song())
            }
            Next::Rating { song, stars } => {
                (What::Rating { user, song, stars }, now + self.rest_after_song())
            }
        }
    }

    fn choose(&mut self, now: i64, catalogue: &Catalogue) -> u64 {
        if let Kind::Bot { promoted } = self.kind {
            let genres = GENRES.len() as u64;
            let song = promoted + genres * self.random.below(PROMOTED_SONGS);
            // The promoted one alone where the catalogue is too small for its neighbours.
            return if song < catalogue.len_at(0) { song } else { promoted };
        }
        let genre = match self.random.below(100) {
            0..50 => self.likes[0].into(),
            50..75 => self.likes[1].into(),
            _ => self.random.below(GENRES.len() as u64) as usize,
        };
        catalogue.choose(genre, now, &mut self.random)
    }

    /// Begins to listen; returns the time to the next event.
    fn listen(&mut self, song: u64, catalogue: &Catalogue) -> i64 {
        let Kind::Human { moody } = self.kind else {
            return self.between(BETWEEN_BOT_SONGS_MILLIS);
        };
        let seconds = catalogue.seconds(song);
        let genre = (song % GENRES.len() as u64) as u8;
        let is_liked = self.likes.contains(&genre);
        let skips = match (moody, is_liked) {
            (true, _) => 950,
            (false, true) => 150,
            (false, false) => 550,
        };
        let length = i64::from(seconds) * 1_000;
        if self.random.chance(skips) {
            let heard = 3 + self.random.below(u64::from(seconds) / 4);
            self.next = Next::Skip { song, seconds: heard as u32 };
            return heard as i64 * 1_000;
        }
        if self.random.chance(80) {
            let stars = if is_liked { 3 + self.random.below(3) } else { 1 + self.random.below(4) };
            self.next = Next::Rating { song, stars: stars as u8 };
            return length;
        }
        length + self.rest_after_song()
    }

    /// What follows a song: another one, or after a pause another session.
    fn rest_after_song(&mut self) -> i64 {
        self.next = Next::Song;
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return self.between(BETWEEN_SONGS_MILLIS);
        }
        self.left = 4 + self.random.below(22) as u32;
        self.kind = Kind::Human { moody: self.random.chance(MOODY_PER_MILLE) };
        self.between(PAUSE_MILLIS)
    }

    fn between(&mut self, (start, end): (i64, i64)) -> i64 {
        self.random.between(start, end)
    }
}
