//! The sessions of one key.

use crate::window::TimeWindow;
use millstream_state::{AlignedVec, Data, DecodeError, EncodeError};
use millstream_types::Timestamp;

/// At least one session, and no two that overlap or touch.
///
/// The latest is kept apart: most keys have but one, and most records belong to the latest.
pub struct Sessions<S> {
    latest: Entry<S>,
    /// Ascending; all before the latest.
    earlier: Vec<Entry<S>>,
}

/// A session and its state.
pub(super) struct Entry<S> {
    pub window: TimeWindow,
    pub state: S,
}

/// True if two sessions are one: they overlap, or one begins where the other ends.
fn are_one(a: TimeWindow, b: TimeWindow) -> bool {
    a.start <= b.end && b.start <= a.end
}

impl<S> Sessions<S> {
    pub(super) fn new(window: TimeWindow, state: S) -> Self {
        Self::one(Entry { window, state })
    }

    pub(super) fn one(session: Entry<S>) -> Self {
        Self { latest: session, earlier: Vec::new() }
    }

    /// Appends a session that is later than all others.
    pub(super) fn push(&mut self, session: Entry<S>) {
        debug_assert!(self.latest.window.end < session.window.start);
        self.earlier.push(std::mem::replace(&mut self.latest, session));
    }

    #[inline]
    pub(super) fn latest_mut(&mut self) -> &mut Entry<S> {
        &mut self.latest
    }

    /// All sessions, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<S>> {
        self.earlier.iter().chain([&self.latest])
    }

    /// All sessions, ascending.
    pub(super) fn into_iter(self) -> impl Iterator<Item = Entry<S>> {
        self.earlier.into_iter().chain([self.latest])
    }

    /// True if one of the sessions would take in the window.
    pub(super) fn touch(&self, window: TimeWindow) -> bool {
        self.iter().any(|session| are_one(session.window, window))
    }

    /// The session that results when `window` is added: that of the window alone, with the state
    /// made by `create`, or the one into which all that it overlaps or touches are merged.
    /// `taken_in` is told the former windows of those.
    #[inline]
    pub(super) fn take_in(
        &mut self,
        window: TimeWindow,
        create: impl FnOnce() -> S,
        merge: impl FnMut(&mut S, &S),
        mut taken_in: impl FnMut(TimeWindow),
    ) -> &mut Entry<S> {
        let alone = self.earlier.last().is_none_or(|before| before.window.end < window.start);
        if alone && are_one(self.latest.window, window) {
            taken_in(self.latest.window);
            let latest = &mut self.latest.window;
            *latest = hull(*latest, window);
            return &mut self.latest;
        }
        self.merge_in(window, create, merge, taken_in)
    }

    #[cold]
    fn merge_in(
        &mut self,
        window: TimeWindow,
        create: impl FnOnce() -> S,
        mut merge: impl FnMut(&mut S, &S),
        mut taken_in: impl FnMut(TimeWindow),
    ) -> &mut Entry<S> {
        let Self { latest, earlier } = self;
        if latest.window.end < window.start {
            let before = std::mem::replace(latest, Entry { window, state: create() });
            earlier.push(before);
            return latest;
        }
        // Those before `from` end too early, and those from `to` begin too late.
        let from = earlier.partition_point(|session| session.window.end < window.start);
        let to = earlier.partition_point(|session| session.window.start <= window.end);
        let mut merged: Option<Entry<S>> = None;
        for session in earlier.drain(from..to) {
            taken_in(session.window);
            match &mut merged {
                None => merged = Some(session),
                Some(merged) => {
                    merge(&mut merged.state, &session.state);
                    merged.window = hull(merged.window, session.window);
                }
            }
        }
        let merged = match merged {
            None => None,
            Some(session) => Some(Entry { window: hull(session.window, window), ..session }),
        };
        if are_one(latest.window, window) {
            taken_in(latest.window);
            latest.window = hull(latest.window, window);
            if let Some(merged) = merged {
                merge(&mut latest.state, &merged.state);
                latest.window = hull(latest.window, merged.window);
            }
            return latest;
        }
        earlier.insert(from, merged.unwrap_or_else(|| Entry { window, state: create() }));
        &mut earlier[from]
    }
}

/// Encoded as the sessions in their order, each with its bounds and the encoding of its state; the
/// latest apart.
type Encoded = ((i64, i64, Vec<u8>), Vec<(i64, i64, Vec<u8>)>);

/// By hand, because that the state has an encoding does not say that it is rkyv's.
impl<S: Data> Data for Sessions<S> {
    const ARCHIVED_BYTES: usize = S::ARCHIVED_BYTES;

    fn encode(&self, out: &mut AlignedVec) -> Result<(), EncodeError> {
        let mut encode = |session: &Entry<S>| {
            session.state.encode(out)?;
            let TimeWindow { start, end } = session.window;
            Ok((start.as_nanos(), end.as_nanos(), out.to_vec()))
        };
        let latest = encode(&self.latest)?;
        let earlier = self.earlier.iter().map(encode).collect::<Result<Vec<_>, EncodeError>>()?;
        (latest, earlier).encode(out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (latest, earlier) = Encoded::decode(bytes)?;
        let decode = |(start, end, state): (i64, i64, Vec<u8>)| {
            let [start, end] = [start, end].map(Timestamp::from_nanos);
            Ok(Entry { window: TimeWindow { start, end }, state: S::decode(&state)? })
        };
        Ok(Self {
            latest: decode(latest)?,
            earlier: earlier.into_iter().map(decode).collect::<Result<_, DecodeError>>()?,
        })
    }
}

/// The least window that contains both.
fn hull(a: TimeWindow, b: TimeWindow) -> TimeWindow {
    TimeWindow { start: a.start.min(b.start), end: a.end.max(b.end) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::testing::t;

    #[test]
    fn sessions_survive_encoding() {
        let window = |start, end| TimeWindow { start: t(start), end: t(end) };
        let mut sessions = Sessions::new(window(-5, 3), vec!["a".to_owned()]);
        sessions.push(Entry { window: window(7, 9), state: vec![] });
        sessions
            .push(Entry { window: window(11, 12), state: vec!["b".to_owned(), "c".to_owned()] });
        let mut out = AlignedVec::new();
        sessions.encode(&mut out).unwrap();
        let decoded = Sessions::<Vec<String>>::decode(&out).unwrap();
        let content =
            |s: Sessions<_>| s.into_iter().map(|e| (e.window, e.state)).collect::<Vec<_>>();
        assert_eq!(content(decoded), content(sessions));
        assert!(Sessions::<Vec<String>>::decode(&out[..out.len() - 8]).is_err());
    }
}
