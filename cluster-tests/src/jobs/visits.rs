//! A keyed process function that uses every kind of state, and timers.

use millstream::prelude::*;
use millstream::{Chain, Environment, Generator};

/// Records of a run.
pub(super) const VISITS: u64 = 20_000;
const MOST_LATE_MILLIS: i64 = 20;
const DIGEST_MILLIS: i64 = 250;

#[millstream::record]
#[derive(Clone, Debug)]
struct Visit {
    id: u64,
    visitor: u64,
    time_millis: i64,
}

/// Visits of a few visitors more and many less, a millisecond apart and some of them late.
fn visits(env: &Environment) -> DataStream<impl Chain<Out = Visit>> {
    let make = |n: u64, _| {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let visitor = if mixed.is_multiple_of(3) { mixed % 5 } else { mixed % 997 };
        Visit { id: n, visitor, time_millis: n as i64 - mixed as i64 % MOST_LATE_MILLIS }
    };
    let late = Duration::from_millis(2 * MOST_LATE_MILLIS as u64);
    env.generate("visits", Generator::new(make).count(VISITS)).assign_timestamps(
        WatermarkStrategy::bounded_out_of_orderness(late, |visit: &Visit| {
            Timestamp::from_millis(visit.time_millis)
        }),
    )
}

/// For each visitor and quarter of a second: what there was, and how much there was before.
pub(super) fn digests(env: &Environment) -> DataStream<impl Chain<Out = String>> {
    visits(env)
        .key_by(|visit| visit.visitor)
        .process(|state| Digest {
            before: state.value("before"),
            visits: state.list("visits"),
            by_residue: state.map("by residue"),
        })
        .uid("digest")
}

struct Digest {
    /// Visits in the digests that were written.
    before: ValueState<u64, u64>,
    /// Visits that are in none yet.
    visits: ListState<u64, Visit>,
    /// The sums of their ids, by the end of their digest and the residue of the id.
    by_residue: MapState<u64, (i64, u64), u64>,
}

impl KeyedProcessFunction<u64, Visit> for Digest {
    type Out = String;

    fn process(
        &mut self,
        visit: Visit,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        let end = (visit.time_millis.div_euclid(DIGEST_MILLIS) + 1) * DIGEST_MILLIS;
        let id = visit.id;
        self.by_residue.modify(cx, &(end, id % 4), || 0, |sum| *sum += id);
        self.visits.push(cx, visit);
        cx.register_event_timer(Timestamp::from_millis(end));
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        let end = time.as_millis();
        let (done, open): (Vec<_>, Vec<_>) =
            self.visits.take(cx).into_iter().partition(|visit| visit.time_millis < end);
        self.visits.extend(cx, open);
        let mut ids: Vec<u64> = done.iter().map(|visit| visit.id).collect();
        ids.sort_unstable();
        let mut sums = Vec::new();
        for residue in 0..4 {
            sums.push(self.by_residue.get(cx, &(end, residue)).unwrap_or(0));
            self.by_residue.remove(cx, &(end, residue));
        }
        let before = self.before.get(cx).unwrap_or(0);
        self.before.set(cx, before + ids.len() as u64);
        out.collect(format!("{} {end} {before} {ids:?} {sums:?}", cx.key()));
        Ok(())
    }
}
