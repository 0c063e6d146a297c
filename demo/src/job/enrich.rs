//! What users do, together with the song that they do it with.
//!
//! # Invariants
//! - An action gets the song's entry in the catalogue if it is not older than the entry, in whatever
//!   order the two come; else the song is unknown.
//! - An action waits for an entry until event time has passed the action: then none that is older
//!   can follow.
//! - What waited is emitted with its own time and before event time passes it, so it is never late.

use super::{Action, Listening};
use crate::event::Track;
use millstream::prelude::*;

/// Joins the actions of a song with its entry in the catalogue. If a song is added several times, the
/// oldest entry counts.
pub(super) struct Enrich {
    /// When the song was added, in milliseconds, and what it is.
    entry: ValueState<u64, (i64, Track)>,
    /// Actions that came before their song, with their times in milliseconds.
    waiting: ListState<u64, (i64, Action)>,
}

impl Enrich {
    pub(super) fn open(state: &mut KeyedState<'_, u64>) -> Self {
        Self { entry: state.value("entry"), waiting: state.list("waiting") }
    }
}

impl KeyedCoProcessFunction<u64, Action, Track> for Enrich {
    type Out = Listening;

    fn process_left(
        &mut self,
        action: Action,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Listening>,
    ) -> Result<(), BoxError> {
        let time = cx.timestamp().ok_or("actions need timestamps")?;
        let track = self.entry.with(cx, |entry| {
            entry.filter(|(added, _)| *added <= time.as_millis()).map(|(_, track)| track.clone())
        });
        match track {
            Some(track) => out.collect(action.with(track)),
            None => {
                self.waiting.push(cx, (time.as_millis(), action));
                cx.register_event_timer(time);
            }
        }
        Ok(())
    }

    fn process_right(
        &mut self,
        track: Track,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Listening>,
    ) -> Result<(), BoxError> {
        let added = cx.timestamp().ok_or("songs need timestamps")?.as_millis();
        if self.entry.with(cx, |entry| entry.is_some_and(|(before, _)| *before <= added)) {
            return Ok(());
        }
        for (millis, action) in take(&mut self.waiting, cx, |millis| millis >= added) {
            // Its timer stays, and will find nothing: another action may have the same time.
            out.collect_at(action.with(track.clone()), Timestamp::from_millis(millis));
        }
        self.entry.set(cx, (added, track));
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Listening>,
    ) -> Result<(), BoxError> {
        for (_, action) in take(&mut self.waiting, cx, |millis| millis <= time.as_millis()) {
            let song = action.song;
            out.collect(action.with(Track::unknown(song)));
        }
        Ok(())
    }
}

/// Takes the actions out of the list whose time is as wanted.
fn take(
    waiting: &mut ListState<u64, (i64, Action)>,
    cx: &KeyedContext<'_, u64>,
    is_wanted: impl Fn(i64) -> bool,
) -> Vec<(i64, Action)> {
    if waiting.is_empty(cx) {
        return Vec::new();
    }
    waiting.update(cx, |list| list.extract_if(.., |(millis, _)| is_wanted(*millis)).collect())
}
