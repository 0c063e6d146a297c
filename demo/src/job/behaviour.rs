//! Users who behave as listeners do not, and sessions.
//!
//! # Invariants
//! - A user's events are looked at in the order of their time, whatever the order in which they come:
//!   they wait until event time has passed them.
//! - A session ends with its last event; it is told once event time is [`SESSION_GAP`] past it.

use super::{Deed, Listening};
use millstream::prelude::*;
use std::fmt;

/// Nothing for longer than this ends a session.
pub const SESSION_GAP: Duration = Duration::from_secs(10 * 60);
/// So many skips, with no song heard to its end between them, are an alarm.
pub const SKIPS_IN_A_ROW: u32 = 12;
/// So many songs in a row, each left for the next one too early without a skip, are an alarm.
pub const FAST_IN_A_ROW: u32 = 8;
/// What of a song must pass before the next one for a listener to have heard it, in percent.
pub const HEARD_PERCENT: i64 = 25;
/// A session of this length is an alarm.
pub const MARATHON: Duration = Duration::from_secs(3 * 3_600);

const SESSION_GAP_MILLIS: i64 = SESSION_GAP.as_millis() as i64;
const MARATHON_MILLIS: i64 = MARATHON.as_millis() as i64;

/// A user does something odd.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// When, in milliseconds since the Unix epoch.
    pub time_millis: i64,
    /// Who.
    pub user: u64,
    /// What.
    pub kind: AlarmKind,
}

/// What is odd.
#[millstream::record]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// [`SKIPS_IN_A_ROW`].
    Skips,
    /// [`FAST_IN_A_ROW`]: no person listens like that.
    TooFast,
    /// A session of [`MARATHON`].
    Marathon,
}

impl fmt::Display for AlarmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skips => write!(f, "skipped {SKIPS_IN_A_ROW} songs in a row"),
            Self::TooFast => write!(f, "played {FAST_IN_A_ROW} songs too fast"),
            Self::Marathon => write!(f, "listened for {} hours", MARATHON.as_secs() / 3_600),
        }
    }
}

/// A time in which a user was at the service.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// Who.
    pub user: u64,
    /// The time of the first event, in milliseconds since the Unix epoch.
    pub start_millis: i64,
    /// The time of the last one.
    pub end_millis: i64,
    /// Songs that were begun.
    pub plays: u32,
    /// Songs that were left.
    pub skips: u32,
}

/// A session that goes on.
#[millstream::record]
#[derive(Clone, Debug)]
struct Watched {
    session: Session,
    skips_in_a_row: u32,
    fast_in_a_row: u32,
    /// When the song began that plays, and how much of it must pass to count as heard; none if it
    /// was skipped.
    playing: Option<(i64, i64)>,
    told_marathon: bool,
    /// When to look whether the session is over, in milliseconds: one timer at a time, set anew if
    /// it finds that the session has gone on.
    timer_millis: i64,
}

impl Watched {
    fn new(user: u64, millis: i64) -> Self {
        Self {
            session: Session { user, start_millis: millis, end_millis: millis, plays: 0, skips: 0 },
            skips_in_a_row: 0,
            fast_in_a_row: 0,
            playing: None,
            told_marathon: false,
            timer_millis: millis,
        }
    }

    /// Whether at `now` nothing has come for too long.
    fn is_over(&self, now: i64) -> bool {
        now - self.session.end_millis > SESSION_GAP_MILLIS
    }

    /// The next event of the session, and the alarms that it gives rise to.
    fn on_event(&mut self, millis: i64, listening: &Listening, mut alarm: impl FnMut(AlarmKind)) {
        self.session.end_millis = millis;
        match listening.deed {
            Deed::Play => {
                self.session.plays += 1;
                if let Some((began, heard)) = self.playing {
                    self.skips_in_a_row = 0;
                    let is_fast = millis - began < heard;
                    self.fast_in_a_row = if is_fast { self.fast_in_a_row + 1 } else { 0 };
                    if self.fast_in_a_row == FAST_IN_A_ROW {
                        alarm(AlarmKind::TooFast);
                    }
                }
                let length = i64::from(listening.track.seconds) * 1_000;
                self.playing = Some((millis, length * HEARD_PERCENT / 100));
            }
            Deed::Skip => {
                self.session.skips += 1;
                self.playing = None;
                self.skips_in_a_row += 1;
                if self.skips_in_a_row == SKIPS_IN_A_ROW {
                    alarm(AlarmKind::Skips);
                }
            }
            Deed::Rating(_) => {}
        }
        if !self.told_marathon && millis - self.session.start_millis >= MARATHON_MILLIS {
            self.told_marathon = true;
            alarm(AlarmKind::Marathon);
        }
    }
}

/// Watches the users, one by one. Emits alarms; sessions go to a side output.
pub(super) struct Behaviour {
    sessions: OutputTag<Session>,
    watched: ValueState<u64, Watched>,
    /// Events that event time has not passed, with their times in milliseconds.
    early: ListState<u64, (i64, Listening)>,
}

impl Behaviour {
    pub(super) fn open(state: &mut KeyedState<'_, u64>, sessions: OutputTag<Session>) -> Self {
        Self { sessions, watched: state.value("watched"), early: state.list("early") }
    }

    /// The events that event time has passed, in the order of their time.
    fn take_due(&mut self, now: i64, cx: &KeyedContext<'_, u64>) -> Vec<(i64, Listening)> {
        if self.early.is_empty(cx) {
            return Vec::new();
        }
        let mut due: Vec<_> = self
            .early
            .update(cx, |early| early.extract_if(.., |(millis, _)| *millis <= now).collect());
        due.sort();
        due
    }
}

impl KeyedProcessFunction<u64, Listening> for Behaviour {
    type Out = Alarm;

    fn process(
        &mut self,
        listening: Listening,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<Alarm>,
    ) -> Result<(), BoxError> {
        let time = cx.timestamp().ok_or("what users do needs a timestamp")?;
        self.early.push(cx, (time.as_millis(), listening));
        cx.register_event_timer(time);
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Alarm>,
    ) -> Result<(), BoxError> {
        let now = time.as_millis();
        let mut watched = self.watched.take(cx);
        for (millis, listening) in self.take_due(now, cx) {
            if let Some(over) = watched.take_if(|watched| watched.is_over(millis)) {
                cx.emit_to(&self.sessions, over.session);
            }
            let user = listening.user;
            let watched = watched.get_or_insert_with(|| Watched::new(user, millis));
            watched.on_event(millis, &listening, |kind| {
                out.collect(Alarm { time_millis: millis, user, kind });
            });
        }
        if let Some(over) = watched.take_if(|watched| watched.is_over(now)) {
            cx.emit_to(&self.sessions, over.session);
        }
        if let Some(mut watched) = watched {
            if watched.timer_millis <= now {
                watched.timer_millis = watched.session.end_millis + SESSION_GAP_MILLIS + 1;
                cx.register_event_timer(Timestamp::from_millis(watched.timer_millis));
            }
            self.watched.set(cx, watched);
        }
        Ok(())
    }
}
