//! The numbers 0, 1, 2, …, dealt out to the readers of a source.
//!
//! # Invariants
//! - All readers together take each number once, also if they are restored with another parallelism,
//!   any number of times.
//! - A reader takes its numbers in ascending order as far as its runs overlap: the least first.
//!
//! Reader `i` of `n` takes `i`, `i + n`, … When readers are restored, some are ahead of others. From
//! the number of the one furthest ahead on, they deal anew; what is left below it are *leftovers*,
//! arithmetic progressions with an end, which are dealt out too. So their number does not grow: each
//! restore makes at most as many as there were readers, and they are soon taken. As many readers as before
//! go on with their own, as each has a watermark of its own; so one of them can be restored while others go on.

/// An arithmetic progression: `next`, `next + step`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) next: u64,
    step: u64,
    /// The first number that is not in it; `None` for a reader's own run, which ends with all numbers.
    end: Option<u64>,
}

/// A [`Run`] as it is stored.
pub(super) type StoredRun = (u64, u64, Option<u64>);

impl From<Run> for StoredRun {
    fn from(Run { next, step, end }: Run) -> Self {
        (next, step, end)
    }
}

impl From<StoredRun> for Run {
    fn from((next, step, end): StoredRun) -> Self {
        Self { next, step, end }
    }
}

/// The numbers of one reader.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    /// What is left of them. The first is the one that is being taken from, and has the least number.
    runs: Vec<Run>,
    /// The least number that any reader had to begin with.
    base: u64,
    /// How many numbers there are, over all readers.
    count: u64,
}

impl Numbers {
    /// The numbers below `count` of reader `subtask` of `parallelism`; `restored` are the runs that
    /// all readers had [left](Self::left), one reader after the other; none at the beginning.
    pub(super) fn new(count: u64, subtask: u32, parallelism: u32, restored: &[Run]) -> Self {
        let own = restored.iter().filter(|run| run.end.is_none());
        let front = own.clone().map(|run| run.next).max().unwrap_or(0);
        let mut leftovers: Vec<Run> = restored
            .iter()
            .map(|run| Run { end: Some(run.end.unwrap_or(front)), ..*run })
            .filter(|run| run.end > Some(run.next))
            .collect();
        leftovers.sort_by_key(|run| run.next);
        let base = leftovers.first().map_or(front, |run| run.next.min(front));
        let readers_before = own.count();
        let (subtask, step) = (subtask as usize, parallelism as usize);
        let runs = if readers_before == step {
            let begins_own = |_: &Run, run: &Run| run.end.is_some();
            restored.chunk_by(begins_own).nth(subtask).unwrap_or_default().to_vec()
        } else {
            let mut runs: Vec<Run> = leftovers.into_iter().skip(subtask).step_by(step).collect();
            // The least number from the front on whose remainder is the subtask's.
            let (subtask, step) = (subtask as u64, step as u64);
            let next = front.saturating_add((subtask + step - front % step) % step);
            runs.push(Run { next, step, end: None });
            runs
        };
        let mut numbers = Self { runs, base, count };
        numbers.settle();
        numbers
    }

    /// The least number that any reader had to begin with.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The next number.
    #[inline]
    pub(super) fn peek(&self) -> Option<u64> {
        let next = self.runs[0].next;
        (next < self.count).then_some(next)
    }

    /// The next number has been taken.
    #[inline]
    pub(super) fn advance(&mut self) {
        let run = &mut self.runs[0];
        run.next = run.next.saturating_add(run.step);
        if self.runs.len() > 1 {
            self.settle();
        }
    }

    /// Drops runs that are at their end and puts the one with the least number first.
    fn settle(&mut self) {
        self.runs.retain(|run| run.end.is_none_or(|end| run.next < end));
        let least = (0..self.runs.len()).min_by_key(|&index| self.runs[index].next);
        self.runs.swap(0, least.expect("a reader's own run is never dropped"));
    }

    /// What is left, and whether it is what is being taken from. A reader's own run is always the first of it: it
    /// tells how far the reader is, and where what the next reader had left begins.
    pub(super) fn left(&self) -> Vec<(Run, bool)> {
        let runs = self.runs.iter().enumerate();
        let mut left: Vec<_> = runs.map(|(index, run)| (*run, index == 0)).collect();
        left.sort_by_key(|(run, _)| run.end.is_some());
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn left_of(numbers: &Numbers) -> Vec<Run> {
        numbers.left().into_iter().map(|(run, _)| run).collect()
    }

    #[test]
    fn as_many_readers_as_before_go_on_with_their_own() {
        let readers = |restored: &[Run]| -> Vec<Numbers> {
            (0..3).map(|subtask| Numbers::new(100, subtask, 3, restored)).collect()
        };
        let mut all = readers(&[]);
        for (numbers, takes) in all.iter_mut().zip([7, 2, 4]) {
            (0..takes).for_each(|_| numbers.advance());
        }
        let left: Vec<Run> = all.iter().flat_map(left_of).collect();
        let next = |all: &[Numbers]| all.iter().map(|numbers| numbers.peek()).collect::<Vec<_>>();
        assert_eq!(next(&all), [Some(21), Some(7), Some(14)]);
        assert_eq!(next(&readers(&left)), next(&all));
    }

    proptest! {
        #[test]
        fn each_number_is_taken_once_however_often_and_however_many_readers_are_restored(
            count in 0u64..300,
            // How many readers, and how many numbers each of them takes.
            attempts in prop::collection::vec(prop::collection::vec(0usize..40, 1..6), 1..6),
        ) {
            let (mut seen, mut restored) = (vec![0; count as usize], Vec::new());
            let mut attempts = attempts;
            attempts.push(vec![usize::MAX; 2]);
            for takes in attempts {
                let mut left = Vec::new();
                for (subtask, take) in takes.iter().enumerate() {
                    let parallelism = takes.len() as u32;
                    let mut numbers =
                        Numbers::new(count, subtask as u32, parallelism, &restored);
                    let mut last = None;
                    for _ in 0..*take {
                        let Some(number) = numbers.peek() else { break };
                        prop_assert!(Some(number) > last && number >= numbers.base());
                        last = Some(number);
                        seen[number as usize] += 1;
                        numbers.advance();
                    }
                    // Anybody may be restored alone: it takes what it would have gone on with.
                    let own = left_of(&numbers);
                    let mut all = vec![vec![Run { next: 0, step: takes.len() as u64, end: None }]; takes.len()];
                    all[subtask].clone_from(&own);
                    let again = Numbers::new(count, subtask as u32, parallelism, &all.concat());
                    prop_assert_eq!((again.peek(), left_of(&again)), (numbers.peek(), own.clone()));
                    left.extend(own);
                }
                restored = left;
            }
            prop_assert!(seen.iter().all(|times| *times == 1), "{seen:?}");
        }
    }
}
