//! What each user likes, as it changes.

use super::{Deed, Listening};
use compact_str::CompactString;
use millstream::prelude::*;
use std::cmp::Reverse;

/// A user's favourite genre has changed.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Favourite {
    /// Who.
    pub user: u64,
    /// The favourite before.
    pub before: Option<CompactString>,
    /// The favourite now; none if there is no genre that the user likes more than not.
    pub now: Option<CompactString>,
}

/// Keeps a score for each genre and user, and tells when the genre with the greatest changes.
///
/// Scores are sums, so what they come to does not depend on the order of the events.
pub(super) struct Taste {
    scores: MapState<u64, CompactString, i64>,
    favourite: ValueState<u64, CompactString>,
}

impl Taste {
    pub(super) fn open(state: &mut KeyedState<'_, u64>) -> Self {
        Self { scores: state.map("scores"), favourite: state.value("favourite") }
    }
}

/// What a deed says about the user's liking of the song's genre.
pub fn score(deed: &Deed) -> i64 {
    match deed {
        Deed::Play => 1,
        // More than the play that came before it.
        Deed::Skip => -2,
        Deed::Rating(stars) => 2 * (i64::from(*stars) - 3),
    }
}

impl KeyedProcessFunction<u64, Listening> for Taste {
    type Out = Favourite;

    fn process(
        &mut self,
        Listening { user, track, deed }: Listening,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Favourite>,
    ) -> Result<(), BoxError> {
        self.scores.modify(cx, &track.genre, || 0, |total| *total += score(&deed));
        let before = self.favourite.get(cx);
        let mut best: Option<(i64, Reverse<CompactString>)> = None;
        self.scores.for_each(cx, |genre, &total| {
            // Of equal ones the first in the alphabet, whatever the order in which they come here.
            if total > 0
                && best.as_ref().is_none_or(|(most, Reverse(first))| {
                    total > *most || total == *most && genre < first
                })
            {
                best = Some((total, Reverse(genre.clone())));
            }
        });
        let now = best.map(|(_, Reverse(genre))| genre);
        if now != before {
            match &now {
                Some(genre) => self.favourite.set(cx, genre.clone()),
                None => self.favourite.clear(cx),
            }
            out.collect(Favourite { user, before, now });
        }
        Ok(())
    }
}
