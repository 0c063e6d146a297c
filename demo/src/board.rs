//! What the job has found out so far, for whoever shows it.
//!
//! # Invariants
//! - Its size is bounded, however long the job runs.
//! - A slot takes its lock once per flush, not per record, and whoever shows it holds the lock only to
//!   copy.

use crate::event::Event;
use crate::job::{Alarm, AlarmKind, Favourite, Session, TOP_SLIDE, TopList};
use compact_str::CompactString;
use millstream::connector::{BoxError, Sink, SinkContext, SinkWriter};
use millstream::{Timestamp, WatermarkStrategy};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Alarms that are kept.
const ALARMS_MAX: usize = 64;
/// Changes of favourites that are kept.
const CHANGES_MAX: usize = 64;
/// Records that a sink keeps to itself at the most.
const RECORDS_PER_FLUSH: usize = 1_024;
/// How far event time goes on before the clock is set anew.
const CLOCK_STEP_MILLIS: i64 = 100;

/// Where the sinks put results. Clones share them.
#[derive(Clone, Debug)]
pub struct Board {
    findings: Arc<Mutex<Findings>>,
    /// The least number before the first event.
    newest_millis: Arc<AtomicI64>,
}

impl Default for Board {
    fn default() -> Self {
        Self { findings: Arc::default(), newest_millis: Arc::new(AtomicI64::new(i64::MIN)) }
    }
}

/// What there is to be shown.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The newest list of each genre.
    top_lists: BTreeMap<CompactString, TopList>,
    /// The newest alarms by their time, the newest last.
    pub alarms: VecDeque<Alarm>,
    /// How many there were of each kind.
    pub alarm_counts: BTreeMap<AlarmKind, u64>,
    /// Sessions that have ended.
    pub sessions: u64,
    /// Songs that were begun in them.
    pub session_plays: u64,
    /// How long they were together.
    pub session_time: Duration,
    /// How many users have each genre as their favourite.
    pub favourites: BTreeMap<CompactString, i64>,
    /// The newest changes of users' favourites, the newest last.
    pub changes: VecDeque<Favourite>,
    /// How often a user's favourite has changed.
    pub favourite_changes: u64,
}

impl Board {
    /// Timestamps for `events` that come at most `out_of_order` late; the newest is
    /// [`Board::newest`].
    pub fn timestamps(
        &self,
        out_of_order: Duration,
    ) -> WatermarkStrategy<impl FnMut(&Event) -> Timestamp + Clone + Send + 'static> {
        let newest = Arc::clone(&self.newest_millis);
        let mut told = i64::MIN;
        WatermarkStrategy::bounded_out_of_orderness(out_of_order, move |event: &Event| {
            if event.time_millis >= told + CLOCK_STEP_MILLIS {
                told = event.time_millis;
                newest.fetch_max(told, Ordering::Relaxed);
            }
            event.time()
        })
    }

    /// The time of the newest event, to a tenth of a second; none before the first.
    pub fn newest(&self) -> Option<Timestamp> {
        let millis = self.newest_millis.load(Ordering::Relaxed);
        (millis > i64::MIN).then(|| Timestamp::from_millis(millis))
    }

    /// What was found so far.
    pub fn findings(&self) -> Findings {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sink that puts records on the board.
    pub fn sink(&self) -> BoardSink {
        BoardSink(self.clone())
    }
}

impl Findings {
    /// The lists of the newest window, by genre.
    pub fn top_lists(&self) -> impl Iterator<Item = &TopList> {
        let newest = self.top_lists.values().map(|list| list.end_millis).max();
        // Those of other subtasks may be a moment behind; what is older is of a genre that nobody
        // plays any more.
        let oldest = newest.map(|end| end - TOP_SLIDE.as_millis() as i64);
        self.top_lists.values().filter(move |list| Some(list.end_millis) >= oldest)
    }

    /// All alarms.
    pub fn alarm_count(&self) -> u64 {
        self.alarm_counts.values().sum()
    }
}

/// What can be put on the board.
pub trait Found: Send + 'static {
    /// Puts it there. `newest_millis` is the time of the newest event.
    fn put(self, findings: &mut Findings, newest_millis: i64);
}

impl Found for TopList {
    fn put(self, findings: &mut Findings, newest_millis: i64) {
        // At the end of the input, windows fire that end after it: they hold less and less.
        if self.end_millis > newest_millis + TOP_SLIDE.as_millis() as i64 {
            return;
        }
        findings.top_lists.insert(self.genre.clone(), self);
    }
}

impl Found for Alarm {
    fn put(self, findings: &mut Findings, _: i64) {
        *findings.alarm_counts.entry(self.kind).or_default() += 1;
        // Subtasks do not tell theirs in turns.
        let earlier = |alarm: &Alarm| alarm.time_millis <= self.time_millis;
        let at = findings.alarms.partition_point(earlier);
        findings.alarms.insert(at, self);
        if findings.alarms.len() > ALARMS_MAX {
            findings.alarms.pop_front();
        }
    }
}

impl Found for Session {
    fn put(self, findings: &mut Findings, _: i64) {
        findings.sessions += 1;
        findings.session_plays += u64::from(self.plays);
        findings.session_time += Duration::from_millis(self.end_millis.abs_diff(self.start_millis));
    }
}

impl Found for Favourite {
    fn put(self, findings: &mut Findings, _: i64) {
        findings.favourite_changes += 1;
        for (genre, change) in [(&self.before, -1), (&self.now, 1)] {
            if let Some(genre) = genre {
                *findings.favourites.entry(genre.clone()).or_default() += change;
            }
        }
        if findings.changes.len() == CHANGES_MAX {
            findings.changes.pop_front();
        }
        findings.changes.push_back(self);
    }
}

/// Puts records on a [`Board`] as they come, for people to see: if the job is restored, what came after
/// its checkpoint is put there again.
#[derive(Clone, Debug)]
pub struct BoardSink(Board);

impl<T: Found> Sink<T> for BoardSink {
    type Writer = BoardWriter<T>;

    fn open(self, _: &SinkContext) -> Result<BoardWriter<T>, BoxError> {
        Ok(BoardWriter { board: self.0, records: Vec::new() })
    }
}

/// The writer of a [`BoardSink`].
pub struct BoardWriter<T> {
    board: Board,
    records: Vec<T>,
}

impl<T: Found> SinkWriter<T> for BoardWriter<T> {
    fn write(&mut self, value: T, _: Timestamp) -> Result<(), BoxError> {
        self.records.push(value);
        if self.records.len() < RECORDS_PER_FLUSH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        if !self.records.is_empty() {
            let newest_millis = self.board.newest_millis.load(Ordering::Relaxed);
            let mut findings = self.board.lock();
            self.records.drain(..).for_each(|record| record.put(&mut findings, newest_millis));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Track;

    fn list(genre: &str, end_millis: i64) -> TopList {
        TopList { genre: genre.into(), end_millis, songs: vec![(Track::unknown(1), 1)] }
    }

    #[test]
    fn lists_of_windows_that_lie_ahead_are_not_shown() {
        let mut findings = Findings::default();
        let minute = TOP_SLIDE.as_millis() as i64;
        for end in 1..40 {
            list("pop", end * minute).put(&mut findings, 5 * minute + 7);
        }
        list("polka", 2 * minute).put(&mut findings, 5 * minute + 7);
        list("rock", 5 * minute).put(&mut findings, 5 * minute + 7);
        let shown: Vec<_> =
            findings.top_lists().map(|list| (&*list.genre, list.end_millis / minute)).collect();
        assert_eq!(shown, [("pop", 6), ("rock", 5)]);
    }

    #[test]
    fn the_board_stays_small() {
        let mut findings = Findings::default();
        for n in 0..1_000 {
            let alarm = Alarm { time_millis: n, user: 1, kind: AlarmKind::Skips };
            alarm.put(&mut findings, 0);
            let (before, now) = (Some("pop".into()), Some("jazz".into()));
            Favourite { user: 1, before, now }.put(&mut findings, 0);
        }
        assert_eq!(findings.alarms.len(), ALARMS_MAX);
        assert_eq!(findings.alarms.back().map(|alarm| alarm.time_millis), Some(999));
        assert_eq!(findings.changes.len(), CHANGES_MAX);
        assert_eq!((findings.alarm_count(), findings.favourites["pop"]), (1_000, -1_000));
    }
}
