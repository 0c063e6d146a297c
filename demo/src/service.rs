//! The made-up service: users who listen, songs that are added, events that come late.
//!
//! # Invariants
//! - The same [`Settings`] give the same events, in however many parts they are made: a user's events
//!   depend on the seed and the user alone, a song on the seed and its number.
//! - An event arrives at most [`DELAY_MAX`] after it happened, and a part's events come in the order
//!   in which they arrive: the stream's event time is out of order by that much.
//! - A song is added before anybody plays it.

mod catalogue;
mod listener;
mod random;
mod source;

pub use source::{Pace, ServiceReader, ServiceSource};

use crate::event::{Event, What};
use catalogue::Catalogue;
use listener::Listener;
use random::hash;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How long after it happened an event arrives at the latest.
pub const DELAY_MAX: Duration = Duration::from_secs(5);
/// Of a thousand events, how many come late: their users' phones were out of reach.
const DELAYED_PER_MILLE: u64 = 30;

/// When the service opens: 2026-01-01 18:00 UTC, in milliseconds since the Unix epoch.
pub const OPENING_MILLIS: i64 = 1_767_290_400_000;

/// The time that passes between two events of a user, on average. A test measures it.
pub const USER_INTERVAL: Duration = Duration::from_secs(170);

/// Who and what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Users; about one in a thousand is a bot.
    pub users: u64,
    /// Songs at the beginning; at least ten, one of each genre.
    pub songs: u64,
    /// Other seeds are other services.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { users: 100_000, songs: 10_000, seed: 1 }
    }
}

/// An event, and when it arrives, in milliseconds after the service's opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it arrives.
    pub millis: i64,
    /// What arrives.
    pub event: Event,
}

/// One part of the service's events, without end.
///
/// Part `i` of `n` has the users and the songs whose number is `i` modulo `n`. Complexity: O(log
/// users) per event.
#[derive(Clone, Debug)]
pub struct Service {
    catalogue: Catalogue,
    seed: u64,
    part: u64,
    parts: u64,
    listeners: Vec<Listener>,
    /// The next event of each listener: when, and whose.
    agenda: BinaryHeap<Reverse<(i64, usize)>>,
    /// Events that have happened and have not arrived.
    delayed: BinaryHeap<Reverse<Delayed>>,
    next_song: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    arrives_millis: i64,
    event: Event,
}

impl Service {
    /// Part `part` of `parts`.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn new(settings: Settings, part: u32, parts: u32) -> Self {
        assert!(part < parts, "there are {parts} parts, numbered from 0; {part} is none of them");
        let (part, parts) = (u64::from(part), u64::from(parts));
        let catalogue = Catalogue::new(settings.seed, settings.songs);
        let mut agenda = Vec::new();
        let mut listeners = Vec::new();
        for user in (part..settings.users).step_by(parts as usize) {
            let (listener, first) = Listener::new(settings.seed, user, &catalogue);
            agenda.push(Reverse((first, listeners.len())));
            listeners.push(listener);
        }
        Self {
            catalogue,
            seed: settings.seed,
            part,
            parts,
            listeners,
            agenda: agenda.into(),
            delayed: BinaryHeap::new(),
            next_song: part,
        }
    }

    fn event(millis: i64, what: What) -> Event {
        Event { time_millis: OPENING_MILLIS.saturating_add(millis), what }
    }

    /// How long after `millis` what a user did then arrives.
    fn delay_millis(&self, user: u64, millis: i64) -> i64 {
        let luck = hash(self.seed ^ user, millis as u64);
        match luck % 1_000 < DELAYED_PER_MILLE {
            true => 1 + (luck / 1_000 % DELAY_MAX.as_millis() as u64) as i64,
            false => 0,
        }
    }
}

impl Iterator for Service {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            let song = self.catalogue.added_millis(self.next_song);
            let late = self.delayed.peek().map_or(i64::MAX, |Reverse(event)| event.arrives_millis);
            let user = self.agenda.peek().map_or(i64::MAX, |Reverse((millis, _))| *millis);
            if song <= user.min(late) {
                let track = self.catalogue.track(self.next_song);
                self.next_song += self.parts;
                return Some(Arrival { millis: song, event: Self::event(song, What::Song(track)) });
            }
            if late <= user {
                let Reverse(Delayed { arrives_millis, event }) = self.delayed.pop()?;
                return Some(Arrival { millis: arrives_millis, event });
            }
            let Reverse((millis, index)) = *self.agenda.peek()?;
            let user = self.part + index as u64 * self.parts;
            let (what, next) = self.listeners[index].act(user, millis, &self.catalogue);
            assert!(next > millis, "user {user} does two things at once");
            // In place of the old entry: one pass through the heap instead of two.
            if let Some(mut top) = self.agenda.peek_mut() {
                *top = Reverse((next, index));
            }
            let event = Self::event(millis, what);
            match self.delay_millis(user, millis) {
                0 => return Some(Arrival { millis, event }),
                delay => {
                    self.delayed.push(Reverse(Delayed { arrives_millis: millis + delay, event }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SETTINGS: Settings = Settings { users: 3_000, songs: 500, seed: 7 };
    const HOUR: i64 = 3_600_000;

    fn part(part: u32, parts: u32, until: i64) -> Vec<Arrival> {
        Service::new(SETTINGS, part, parts).take_while(|arrival| arrival.millis < until).collect()
    }

    #[test]
    fn the_parts_are_together_what_the_whole_is() {
        let events = |parts: u32| {
            let mut all: Vec<Event> = (0..parts)
                .flat_map(|i| part(i, parts, HOUR))
                .map(|arrival| arrival.event)
                .collect();
            all.sort();
            all
        };
        let whole = events(1);
        assert!(whole.len() > 50_000);
        assert!(events(2) == whole && events(3) == whole);
    }

    #[test]
    fn events_arrive_in_order_and_at_most_so_late() {
        let (mut latest, mut out_of_order, mut before) = (0, 0, 0);
        for Arrival { millis, event } in part(0, 1, HOUR) {
            assert!(millis >= before, "{millis} after {before}");
            before = millis;
            let happened = event.time_millis - OPENING_MILLIS;
            let delay = millis - happened;
            assert!((0..=DELAY_MAX.as_millis() as i64).contains(&delay), "{delay}");
            out_of_order += usize::from(happened < latest);
            latest = latest.max(happened);
        }
        assert!(out_of_order > 1_000, "{out_of_order}");
    }

    #[test]
    fn songs_are_known_before_they_are_played() {
        let mut added = HashMap::new();
        for Arrival { event, .. } in part(0, 1, HOUR) {
            match event.what {
                What::Song(track) => assert!(added.insert(track.song, event.time_millis).is_none()),
                What::Play { song, .. } => {
                    assert!(added[&song] <= event.time_millis, "{song}");
                }
                What::Skip { .. } | What::Rating { .. } => {}
            }
        }
        assert_eq!(added.len(), 500 + (HOUR / catalogue::NEW_SONG_MILLIS) as usize - 1);
    }

    #[test]
    fn the_average_interval_between_a_users_events_is_what_is_said() {
        for quarter in 0..8 {
            let start = quarter * HOUR / 4;
            let events = Service::new(Settings { users: 20_000, ..SETTINGS }, 0, 1)
                .skip_while(|arrival| arrival.millis < start)
                .take_while(|arrival| arrival.millis < start + HOUR / 4)
                .filter(|arrival| !matches!(arrival.event.what, What::Song(_)))
                .count();
            let interval = HOUR as f64 / 4.0 * 20_000.0 / events as f64;
            let ratio = interval / USER_INTERVAL.as_millis() as f64;
            assert!((0.9..1.1).contains(&ratio), "quarter {quarter}: {interval} ms");
        }
    }
}
