use super::Alignment::*;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn id(checkpoint: u64) -> CheckpointId {
    CheckpointId(checkpoint)
}

fn barrier(checkpoint: u64) -> Barrier {
    Barrier { checkpoint: id(checkpoint) }
}

fn aligner(mode: CheckpointMode, channels: usize) -> Aligner {
    Aligner::new(mode, channels, id(0))
}

fn exactly_once(channels: usize) -> Aligner {
    aligner(CheckpointMode::ExactlyOnce, channels)
}

/// All outcomes of one input.
fn all(aligner: &mut Aligner, first: Alignment) -> Vec<Alignment> {
    let mut outcomes = vec![first];
    loop {
        match aligner.follow_up() {
            Waiting => return outcomes,
            outcome => outcomes.push(outcome),
        }
    }
}

fn blocked(aligner: &Aligner) -> Vec<usize> {
    (0..aligner.channels.len()).filter(|channel| aligner.is_blocked(*channel)).collect()
}

fn captured(aligner: &Aligner) -> Vec<usize> {
    (0..aligner.channels.len()).filter(|channel| aligner.is_captured(*channel)).collect()
}

#[test]
fn a_channel_is_blocked_until_all_have_the_barrier() {
    let mut aligner = exactly_once(3);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Waiting);
    assert_eq!(aligner.on_barrier(2, barrier(1)), Waiting);
    assert_eq!(blocked(&aligner), [1, 2]);
    assert_eq!(aligner.missing().collect::<Vec<_>>(), [0]);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Aligned(barrier(1)));
    assert_eq!(blocked(&aligner), []);
    assert_eq!(aligner.pending(), None);
}

#[test]
fn the_only_channel_aligns_at_once() {
    assert_eq!(exactly_once(1).on_barrier(0, barrier(1)), Aligned(barrier(1)));
}

#[test]
fn the_end_of_the_last_channel_without_the_barrier_completes_alignment() {
    let mut aligner = exactly_once(3);
    assert_eq!(aligner.on_end(0), Waiting);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Waiting);
    assert_eq!(aligner.on_end(2), Aligned(barrier(1)));
    assert_eq!(blocked(&aligner), []);
    assert_eq!(aligner.on_end(2), Waiting, "it has ended once");
    assert_eq!(aligner.on_barrier(1, barrier(2)), Aligned(barrier(2)));
}

#[test]
fn a_newer_barrier_abandons_the_pending_checkpoint() {
    let mut aligner = exactly_once(3);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    let first = aligner.on_barrier(1, barrier(2));
    assert_eq!(all(&mut aligner, first), [Abandoned(id(1))]);
    assert_eq!(blocked(&aligner), [1]);
    assert_eq!(aligner.on_barrier(2, barrier(1)), Ignored);
    assert_eq!(aligner.on_barrier(2, barrier(2)), Waiting);
    assert_eq!(aligner.on_barrier(0, barrier(2)), Aligned(barrier(2)));
}

#[test]
fn a_newer_barrier_on_the_last_channel_abandons_and_aligns() {
    let mut aligner = exactly_once(2);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    assert_eq!(aligner.on_end(1), Aligned(barrier(1)));
    let mut aligner = exactly_once(2);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    let first = aligner.on_barrier(1, barrier(2));
    assert_eq!(all(&mut aligner, first), [Abandoned(id(1))]);
    assert_eq!(aligner.on_barrier(0, barrier(2)), Aligned(barrier(2)));
}

#[test]
fn an_older_barrier_is_ignored_and_blocks_nothing() {
    let mut aligner = Aligner::new(CheckpointMode::ExactlyOnce, 2, id(7));
    assert_eq!(aligner.on_barrier(0, barrier(7)), Ignored);
    assert_eq!(aligner.on_barrier(1, barrier(8)), Waiting);
    assert_eq!(aligner.on_barrier(0, barrier(3)), Ignored);
    assert_eq!(blocked(&aligner), [1]);
}

#[test]
fn a_cancelled_checkpoint_unblocks_and_its_late_barriers_are_ignored() {
    let mut aligner = exactly_once(2);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    assert!(aligner.cancel(id(1)));
    assert_eq!(blocked(&aligner), []);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Ignored);
    assert_eq!(blocked(&aligner), []);
    assert!(!aligner.cancel(id(1)));
    assert_eq!(aligner.on_barrier(1, barrier(2)), Waiting);
    assert_eq!(aligner.on_barrier(0, barrier(2)), Aligned(barrier(2)));
}

#[test]
fn a_checkpoint_that_a_channel_has_passed_does_not_begin() {
    let mut aligner = exactly_once(2);
    aligner.cancel(id(2));
    assert_eq!(aligner.on_barrier(0, barrier(2)), Ignored);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Abandoned(id(1)), "channel 0 will not bring it");
    assert_eq!(blocked(&aligner), []);
}

#[test]
fn cancelled_checkpoints_are_remembered_within_a_bound() {
    let mut aligner = exactly_once(1);
    for checkpoint in 1..=1000 {
        assert!(!aligner.cancel(id(checkpoint)));
    }
    assert!(aligner.cancelled.len() <= CANCELLED_COUNT_MAX);
    for checkpoint in 1..=1000 {
        assert_eq!(aligner.on_barrier(0, barrier(checkpoint)), Ignored);
    }
    assert_eq!(aligner.on_barrier(0, barrier(1001)), Aligned(barrier(1001)));
}

#[test]
fn a_channel_that_ends_brings_nothing_more_that_was_in_flight() {
    let mut aligner = Aligner::recovering(CheckpointMode::Unaligned, 2, id(7), 2);
    assert_eq!(aligner.on_barrier(1, barrier(7)), Waiting);
    assert_eq!(blocked(&aligner), [1]);
    assert_eq!(aligner.on_end(0), Recovering(barrier(7)));
    assert_eq!(blocked(&aligner), []);
    assert_eq!(aligner.on_barrier(1, barrier(7)), Recovered);
    assert_eq!(blocked(&aligner), []);
    let first = aligner.on_barrier(1, barrier(8));
    assert_eq!(all(&mut aligner, first), [Overtake(barrier(8)), Captured(id(8))]);
}

#[test]
fn a_source_aligns_when_triggered() {
    let mut aligner = exactly_once(0);
    assert_eq!(aligner.on_trigger(id(3)), Aligned(barrier(3)));
    assert_eq!(aligner.on_trigger(id(3)), Ignored);
    assert_eq!(aligner.on_trigger(id(2)), Ignored);
    assert_eq!(aligner.on_trigger(id(4)), Aligned(barrier(4)));
}

#[test]
fn a_subtask_whose_inputs_have_ended_aligns_when_triggered() {
    let mut aligner = exactly_once(2);
    assert_eq!(aligner.on_end(0), Waiting);
    assert_eq!(aligner.on_end(1), Waiting);
    assert_eq!(aligner.on_trigger(id(1)), Aligned(barrier(1)));
}

#[test]
fn an_announced_checkpoint_aligns_when_all_inputs_end_before_a_barrier() {
    let mut aligner = exactly_once(2);
    assert_eq!(aligner.on_end(0), Waiting);
    assert_eq!(aligner.on_trigger(id(1)), Waiting);
    assert_eq!(aligner.on_trigger(id(2)), Waiting);
    let first = aligner.on_end(1);
    assert_eq!(all(&mut aligner, first), [Aligned(barrier(1)), Aligned(barrier(2))]);
}

#[test]
fn an_announced_checkpoint_that_is_cancelled_does_not_align() {
    let mut aligner = exactly_once(1);
    assert_eq!(aligner.on_trigger(id(1)), Waiting);
    assert!(!aligner.cancel(id(1)));
    assert_eq!(aligner.on_end(0), Waiting);
    assert_eq!(aligner.on_trigger(id(1)), Ignored);
}

#[test]
fn an_announced_checkpoint_that_a_channel_passes_is_abandoned() {
    let mut aligner = exactly_once(2);
    assert_eq!(aligner.on_trigger(id(1)), Waiting);
    let first = aligner.on_barrier(0, barrier(2));
    assert_eq!(all(&mut aligner, first), [Abandoned(id(1))]);
    assert_eq!(aligner.on_end(1), Aligned(barrier(2)));
}

#[test]
fn a_trigger_after_the_barriers_changes_nothing() {
    let mut aligner = exactly_once(2);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    assert_eq!(aligner.on_trigger(id(1)), Waiting);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Aligned(barrier(1)));
    assert_eq!(aligner.on_trigger(id(1)), Ignored);
    assert_eq!(aligner.on_end(0), Waiting);
    assert_eq!(aligner.on_end(1), Waiting, "it took part already");
}

#[test]
fn at_least_once_never_blocks_and_has_several_pending() {
    let mut aligner = aligner(CheckpointMode::AtLeastOnce, 2);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    assert_eq!(aligner.on_barrier(0, barrier(2)), Waiting);
    assert_eq!(blocked(&aligner), []);
    assert_eq!(aligner.on_timeout(), Waiting);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Aligned(barrier(1)));
    let first = aligner.on_end(1);
    assert_eq!(all(&mut aligner, first), [Aligned(barrier(2))]);
}

#[test]
fn at_least_once_abandons_only_what_a_channel_has_passed() {
    let mut aligner = aligner(CheckpointMode::AtLeastOnce, 2);
    for checkpoint in [1, 2, 3] {
        assert_eq!(aligner.on_barrier(0, barrier(checkpoint)), Waiting);
    }
    assert_eq!(aligner.on_barrier(1, barrier(1)), Aligned(barrier(1)));
    let first = aligner.on_barrier(1, barrier(3));
    assert_eq!(all(&mut aligner, first), [Abandoned(id(2)), Aligned(barrier(3))]);
}

#[test]
fn an_unaligned_barrier_overtakes_and_captures_until_the_others_come() {
    let mut aligner = aligner(CheckpointMode::Unaligned, 3);
    let first = aligner.on_barrier(1, barrier(1));
    assert_eq!(all(&mut aligner, first), [Overtake(barrier(1))]);
    assert_eq!((blocked(&aligner), captured(&aligner)), (vec![], vec![0, 2]));
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    assert_eq!(captured(&aligner), [2]);
    assert_eq!(aligner.on_end(2), Captured(id(1)));
    assert_eq!(captured(&aligner), []);
    assert_eq!(aligner.on_trigger(id(1)), Ignored);
}

#[test]
fn nothing_is_captured_of_a_channel_that_has_ended() {
    let mut aligner = aligner(CheckpointMode::Unaligned, 3);
    assert_eq!(aligner.on_end(0), Waiting);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Overtake(barrier(1)));
    assert_eq!(captured(&aligner), [2]);
}

#[test]
fn an_unaligned_barrier_on_the_only_channel_is_captured_at_once() {
    let mut aligner = aligner(CheckpointMode::Unaligned, 1);
    let first = aligner.on_barrier(0, barrier(1));
    assert_eq!(all(&mut aligner, first), [Overtake(barrier(1)), Captured(id(1))]);
    assert_eq!(aligner.on_end(0), Waiting);
    let first = aligner.on_trigger(id(2));
    assert_eq!(all(&mut aligner, first), [Overtake(barrier(2)), Captured(id(2))]);
}

#[test]
fn an_alignment_that_times_out_overtakes() {
    let mut aligner = exactly_once(3);
    assert_eq!(aligner.on_timeout(), Waiting, "nothing is pending");
    assert_eq!(aligner.on_barrier(1, barrier(1)), Waiting);
    assert_eq!(aligner.on_timeout(), Overtake(barrier(1)));
    assert_eq!((blocked(&aligner), captured(&aligner)), (vec![], vec![0, 2]));
    assert_eq!(aligner.on_timeout(), Waiting, "it has overtaken");
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    assert_eq!(aligner.on_barrier(2, barrier(1)), Captured(id(1)));
    assert_eq!(aligner.on_barrier(2, barrier(2)), Waiting);
    assert_eq!(blocked(&aligner), [2], "the next one aligns again");
}

#[test]
fn a_barrier_that_has_overtaken_makes_the_next_subtask_overtake_too() {
    let mut aligner = exactly_once(3);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Waiting);
    assert_eq!(aligner.on_overtaking_barrier(1, barrier(1)), Overtake(barrier(1)));
    assert_eq!((blocked(&aligner), captured(&aligner)), (vec![], vec![2]));
    assert_eq!(aligner.on_overtaking_barrier(2, barrier(1)), Captured(id(1)));
    assert_eq!(aligner.on_barrier(0, barrier(2)), Waiting);
    let first = aligner.on_overtaking_barrier(0, barrier(3));
    assert_eq!(all(&mut aligner, first), [Abandoned(id(2)), Overtake(barrier(3))]);
    assert_eq!(captured(&aligner), [1, 2]);
}

#[test]
fn what_is_captured_goes_on_when_an_announced_checkpoint_is_abandoned() {
    let mut aligner = aligner(CheckpointMode::Unaligned, 2);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Overtake(barrier(1)));
    assert_eq!(aligner.on_trigger(id(2)), Waiting);
    assert!(!aligner.cancel(id(3)));
    assert_eq!(aligner.on_barrier(0, barrier(3)), Abandoned(id(2)));
    assert_eq!(captured(&aligner), [1]);
}

#[test]
fn what_is_captured_is_dropped_with_its_checkpoint() {
    let mut aligner = aligner(CheckpointMode::Unaligned, 2);
    assert_eq!(aligner.on_barrier(0, barrier(1)), Overtake(barrier(1)));
    assert!(aligner.cancel(id(1)));
    assert_eq!(captured(&aligner), []);
    assert_eq!(aligner.on_barrier(1, barrier(1)), Ignored);
    assert_eq!(aligner.on_barrier(0, barrier(2)), Overtake(barrier(2)));
    let first = aligner.on_barrier(0, barrier(3));
    assert_eq!(all(&mut aligner, first), [Abandoned(id(2)), Overtake(barrier(3))]);
    assert_eq!(captured(&aligner), [1]);
}

/// What a channel brings, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Record,
    Barrier(u64),
}

fn script() -> impl Strategy<Value = Vec<Item>> {
    proptest::collection::vec(prop_oneof![2 => Just(None), 1 => (1_u64..3).prop_map(Some)], 0..12)
        .prop_map(|steps| {
            let mut newest = 0;
            let item = |step: Option<u64>| match step {
                None => Item::Record,
                // Mostly each id, sometimes one is left out.
                Some(step) => {
                    newest += step;
                    Item::Barrier(newest)
                }
            };
            steps.into_iter().map(item).collect()
        })
}

/// What a subtask under test has done, checked against what the invariants say.
struct Subtask {
    mode: CheckpointMode,
    aligner: Aligner,
    scripts: Vec<Vec<Item>>,
    /// How many items of each channel were read.
    read: Vec<usize>,
    ended: Vec<bool>,
    last: u64,
    /// How each checkpoint ended.
    ends: BTreeMap<u64, &'static str>,
    /// The items that were captured for the overtaking checkpoint, by channel.
    capturing: Option<(u64, Vec<usize>)>,
    /// How many rounds may come of what was in flight, and how many have.
    rounds: (u32, u32),
}

impl Subtask {
    fn new(mode: CheckpointMode, scripts: Vec<Vec<Item>>) -> Self {
        let channels = scripts.len();
        Self {
            mode,
            aligner: aligner(mode, channels),
            scripts,
            read: vec![0; channels],
            ended: vec![false; channels],
            last: 0,
            ends: BTreeMap::new(),
            capturing: None,
            rounds: (0, 0),
        }
    }

    /// Of a job restored from checkpoint 0; so many records come in each round on each channel.
    fn recovering(mode: CheckpointMode, rounds: u32, channels: Vec<(usize, Vec<Item>)>) -> Self {
        let script = |(in_flight, script): (usize, Vec<Item>)| {
            let round = std::iter::repeat_n(Item::Record, in_flight).chain([Item::Barrier(0)]);
            let all = (0..rounds).flat_map(|_| round.clone());
            all.chain(script).collect()
        };
        let scripts: Vec<_> = channels.into_iter().map(script).collect();
        let aligner = Aligner::recovering(mode, scripts.len(), id(0), rounds);
        Self { aligner, rounds: (rounds, 0), ..Self::new(mode, scripts) }
    }

    /// How many rounds a channel has brought.
    fn brought(&self, channel: usize) -> u32 {
        let read = &self.scripts[channel][..self.read[channel]];
        read.iter().filter(|item| **item == Item::Barrier(0)).count() as u32
    }

    fn step(&mut self, channel: usize) {
        if self.ended[channel] || self.aligner.is_blocked(channel) {
            return;
        }
        let outcome = match self.scripts[channel].get(self.read[channel]) {
            Some(Item::Record) => {
                let captures = self.aligner.is_captured(channel);
                let expected =
                    self.capturing.as_ref().is_some_and(|(id, _)| !self.has_passed(channel, *id));
                assert_eq!(captures, expected, "channel {channel}");
                if let Some((_, records)) = self.capturing.as_mut().filter(|_| captures) {
                    records[channel] += 1;
                }
                self.read[channel] += 1;
                return;
            }
            Some(Item::Barrier(id)) => {
                self.read[channel] += 1;
                self.aligner.on_barrier(channel, barrier(*id))
            }
            None => {
                self.ended[channel] = true;
                self.aligner.on_end(channel)
            }
        };
        self.perform(outcome);
    }

    fn perform(&mut self, first: Alignment) {
        for outcome in all(&mut self.aligner, first) {
            match outcome {
                Aligned(barrier) => {
                    let id = barrier.checkpoint.0;
                    self.begin(id);
                    if self.mode == CheckpointMode::ExactlyOnce {
                        for channel in 0..self.read.len() {
                            assert_eq!(self.read[channel], self.cut(channel, id), "{id}");
                        }
                    }
                    self.end(id, "aligned");
                }
                Overtake(barrier) => {
                    self.begin(barrier.checkpoint.0);
                    self.capturing = Some((barrier.checkpoint.0, vec![0; self.read.len()]));
                }
                Captured(id) => {
                    let (pending, _) = self.capturing.take().expect("it has overtaken");
                    assert_eq!(pending, id.0);
                    self.end(id.0, "captured");
                }
                Abandoned(id) => {
                    self.capturing.take_if(|(pending, _)| *pending == id.0);
                    self.end(id.0, "abandoned");
                }
                Recovering(_) | Recovered => {
                    self.rounds.1 += 1;
                    assert_eq!(outcome == Recovered, self.rounds.0 == self.rounds.1);
                    for channel in 0..self.read.len() {
                        assert_eq!(self.brought(channel), self.rounds.1, "{channel}");
                    }
                }
                Waiting | Ignored => {}
            }
        }
    }

    fn begin(&mut self, id: u64) {
        assert_eq!(self.rounds.0, self.rounds.1, "{id} before what was in flight has come");
        assert!(id > self.last, "{id} after {}", self.last);
        self.last = id;
    }

    fn end(&mut self, id: u64, how: &'static str) {
        assert_eq!(self.ends.insert(id, how), None, "{id} ended twice");
    }

    /// How many items of a channel precede a barrier, with the barrier itself.
    fn cut(&self, channel: usize, id: u64) -> usize {
        let script = &self.scripts[channel];
        script.iter().position(|item| *item == Item::Barrier(id)).map_or(script.len(), |at| at + 1)
    }

    fn has_passed(&self, channel: usize, id: u64) -> bool {
        self.ended[channel] || self.read[channel] >= self.cut(channel, id)
    }

    /// Reads on until everything has ended. Whatever happened, no channel may stay blocked.
    fn drain(&mut self) {
        for _ in 0..1000 {
            if self.ended.iter().all(|ended| *ended) {
                return;
            }
            (0..self.scripts.len()).for_each(|channel| self.step(channel));
        }
        panic!("blocked for ever: {:?}", self.aligner);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_snapshot_is_a_cut_whatever_the_channels_bring(
        unaligned in any::<bool>(),
        scripts in proptest::collection::vec(script(), 1..4),
        steps in proptest::collection::vec((0_usize..4, 0_u8..20, 0_u64..10), 0..80),
    ) {
        let mode =
            if unaligned { CheckpointMode::Unaligned } else { CheckpointMode::ExactlyOnce };
        let mut subtask = Subtask::new(mode, scripts);
        for (channel, what, checkpoint) in steps {
            match what {
                0 => {
                    if subtask.aligner.cancel(id(checkpoint)) {
                        subtask.capturing.take_if(|(pending, _)| *pending == checkpoint);
                        subtask.end(checkpoint, "cancelled");
                    }
                }
                1 => {
                    let outcome = subtask.aligner.on_trigger(id(checkpoint));
                    subtask.perform(outcome);
                }
                2 => {
                    let outcome = subtask.aligner.on_timeout();
                    subtask.perform(outcome);
                }
                _ => subtask.step(channel % subtask.scripts.len()),
            }
        }
        subtask.drain();
        prop_assert_eq!(subtask.aligner.pending(), None);
        prop_assert_eq!(blocked(&subtask.aligner), vec![]);
    }

    #[test]
    fn what_was_in_flight_is_received_before_anything_that_was_sent_later(
        unaligned in any::<bool>(),
        rounds in 1_u32..4,
        channels in proptest::collection::vec((0_usize..4, script()), 1..4),
        steps in proptest::collection::vec(0_usize..4, 0..80),
    ) {
        let mode =
            if unaligned { CheckpointMode::Unaligned } else { CheckpointMode::ExactlyOnce };
        let mut subtask = Subtask::recovering(mode, rounds, channels);
        for channel in steps {
            let channel = channel % subtask.scripts.len();
            // Nothing behind the barrier of a round is read before that has come on all channels.
            let is_ahead = subtask.brought(channel) > subtask.rounds.1;
            let read = subtask.read[channel];
            subtask.step(channel);
            prop_assert!(!is_ahead || subtask.read[channel] == read);
        }
        subtask.drain();
        prop_assert_eq!(subtask.rounds, (rounds, rounds));
        prop_assert_eq!(blocked(&subtask.aligner), vec![]);
    }

    #[test]
    fn barriers_on_all_channels_align_in_order(
        at_least_once in any::<bool>(),
        channels in 1_usize..4,
        count in 1_u64..6,
        steps in proptest::collection::vec(0_usize..4, 0..60),
        ends in proptest::collection::vec(0_usize..20, 4),
    ) {
        // Every channel brings every barrier, but for the last ones of a channel that ends early.
        let scripts = (0..channels)
            .map(|channel| {
                let all = (1..=count).flat_map(|id| [Item::Record, Item::Barrier(id)]);
                // One channel goes on to the end, else later barriers come to nobody.
                all.take(if channel == 0 { usize::MAX } else { ends[channel] }).collect()
            })
            .collect();
        let mode = if at_least_once {
            CheckpointMode::AtLeastOnce
        } else {
            CheckpointMode::ExactlyOnce
        };
        let mut subtask = Subtask::new(mode, scripts);
        steps.into_iter().for_each(|channel| subtask.step(channel % channels));
        subtask.drain();
        prop_assert!(subtask.ends.values().all(|end| *end == "aligned"), "{:?}", subtask.ends);
        prop_assert_eq!(subtask.ends.len() as u64, count);
    }
}
