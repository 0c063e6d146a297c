//! The job: who listens to what, who likes what, who behaves oddly.
//!
//! ```text
//! events ─┬─ songs ──── by song ─┬─ enrich ─┬─ plays, by song: sliding counts ─ by genre: top k
//!         └─ actions ── by song ─┘          ├─ by user: taste ─ favourite genres
//!                                           └─ by user: behaviour ─┬─ alarms
//!                                                                  └─ sessions
//! ```
//!
//! # Invariants
//! - Results depend on the events alone, not on the number of slots nor on the order in which events
//!   come, as long as none is later than the watermark allows.

mod behaviour;
mod enrich;
mod taste;

pub use behaviour::{
    Alarm, AlarmKind, FAST_IN_A_ROW, HEARD_PERCENT, MARATHON, SESSION_GAP, SKIPS_IN_A_ROW, Session,
};
pub use taste::{Favourite, score};

use crate::event::{Event, Track, What};
use behaviour::Behaviour;
use compact_str::CompactString;
use enrich::Enrich;
use millstream::prelude::*;
use millstream::{Chain, TopK};
use std::cmp::Reverse;
use taste::Taste;

/// How far top lists look back.
pub const TOP_WINDOW: Duration = Duration::from_secs(30 * 60);
/// How often they are made anew.
pub const TOP_SLIDE: Duration = Duration::from_secs(60);
/// How many songs they have.
pub const TOP_SONGS: usize = 10;

/// What a user does with a song.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Who.
    pub user: u64,
    /// The song's number.
    pub song: u64,
    /// What.
    pub deed: Deed,
}

impl Action {
    fn with(self, track: Track) -> Listening {
        Listening { user: self.user, track, deed: self.deed }
    }
}

/// As [`Action`], and what song that is.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// Who.
    pub user: u64,
    /// What.
    pub deed: Deed,
    /// With what.
    pub track: Track,
}

/// What can be done with a song.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// To begin to listen.
    Play,
    /// To leave it before its end.
    Skip,
    /// To give it so many stars, from 1 to 5.
    Rating(u8),
}

/// The songs of a genre that were played most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopList {
    /// The genre.
    pub genre: CompactString,
    /// The end of the window, in milliseconds since the Unix epoch; it begins [`TOP_WINDOW`] before.
    pub end_millis: i64,
    /// The songs and how often each was played, the most played first; of equals, the one with the
    /// smallest number.
    pub songs: Vec<(Track, u64)>,
}

/// What the job gives.
#[must_use = "streams must be consumed"]
pub struct Results<T: Chain, F: Chain, A: Chain, S: Chain> {
    /// A list per genre every [`TOP_SLIDE`].
    pub top_lists: DataStream<T>,
    /// Users' favourite genres, whenever they change.
    pub favourites: DataStream<F>,
    /// Odd behaviour.
    pub alarms: DataStream<A>,
    /// Sessions that have ended.
    pub sessions: DataStream<S>,
}

/// Describes the job over `events`, which have timestamps.
pub fn describe<C: Chain<Out = Event>>(
    events: DataStream<C>,
) -> Results<
    impl Chain<Out = TopList>,
    impl Chain<Out = Favourite>,
    impl Chain<Out = Alarm>,
    impl Chain<Out = Session>,
> {
    let songs = OutputTag::new("songs");
    let actions = events.process(Part { songs: songs.clone() }).name("part");
    let songs = actions.side_output(&songs);
    let listening = actions
        .key_by(|action| action.song)
        .connect(songs.key_by(|track: &Track| track.song))
        .process(Enrich::open)
        .name("enrich")
        .uid("enrich")
        .share();

    let top_lists = listening
        .stream()
        .filter_map(|listening: Listening| {
            (listening.deed == Deed::Play).then_some(listening.track)
        })
        .key_by(|track| track.clone())
        .window(Sliding::of(TOP_WINDOW, TOP_SLIDE))
        .count()
        .name("plays")
        .uid("plays")
        .map(|plays| (plays.key, plays.value))
        .key_by(|(track, _)| track.genre.clone())
        .window(Tumbling::of(TOP_SLIDE))
        .aggregate(TopK::new(TOP_SONGS, |(track, plays): &(Track, u64)| {
            (*plays, Reverse(track.song))
        }))
        .name("top songs")
        .uid("top songs")
        .map(|top| TopList {
            genre: top.key,
            end_millis: top.window.end.as_millis(),
            songs: top.value,
        });

    let favourites = listening
        .stream()
        .key_by(|listening: &Listening| listening.user)
        .process(Taste::open)
        .name("taste")
        .uid("taste");

    let sessions = OutputTag::new("sessions");
    let to_sessions = sessions.clone();
    let alarms = listening
        .stream()
        .key_by(|listening: &Listening| listening.user)
        .process(move |state| Behaviour::open(state, to_sessions))
        .name("behaviour")
        .uid("behaviour");
    let sessions = alarms.side_output(&sessions);

    Results { top_lists, favourites, alarms, sessions }
}

/// Parts the events into what users do and, aside, the songs that are added.
#[derive(Clone)]
struct Part {
    songs: OutputTag<Track>,
}

impl ProcessFunction<Event> for Part {
    type Out = Action;

    fn process(
        &mut self,
        event: Event,
        cx: &mut ProcessContext<'_>,
        out: &mut impl Collector<Action>,
    ) -> Result<(), BoxError> {
        match event.what {
            What::Song(track) => cx.emit_to(&self.songs, track),
            What::Play { user, song } => out.collect(Action { user, song, deed: Deed::Play }),
            What::Skip { user, song, .. } => {
                out.collect(Action { user, song, deed: Deed::Skip });
            }
            What::Rating { user, song, stars } => {
                out.collect(Action { user, song, deed: Deed::Rating(stars) });
            }
        }
        Ok(())
    }
}
