//! q5: the auctions with the most bids.

use super::input::Input;
use millstream::prelude::*;
use millstream::{Chain, Top1WithTies};

const SIZE: Duration = Duration::from_secs(10);
const SLIDE: Duration = Duration::from_secs(2);

/// For each window the auctions that nobody outdoes in bids, with the number of these.
pub(super) fn q5(input: &Input<'_>) -> DataStream<impl Chain<Out = WindowResult<u64, u64>>> {
    input
        .timed_bids(|bid| bid.auction)
        .key_by(|auction| *auction)
        .window(Sliding::of(SIZE, SLIDE))
        .count()
        // Counts carry the last instant of their window. The windows end one slide apart, so that
        // those of one window, and no others, fall into the same slide.
        .window_all(Tumbling::of(SLIDE))
        .aggregate(Top1WithTies::new(|count: &WindowResult<u64, u64>| count.value))
        .name("most bids")
        .flat_map(|most, out| most.value.into_iter().for_each(|count| out.collect(count)))
}
