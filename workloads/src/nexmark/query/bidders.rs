//! q11 and q12: how much each bidder bids.

use super::input::Input;
use millstream::Chain;
use millstream::prelude::*;

/// Bids per bidder and session, which ends after `gap` without a bid.
pub(super) fn q11(
    input: &Input<'_>,
    gap: Duration,
) -> DataStream<impl Chain<Out = WindowResult<u64, u64>>> {
    input
        .timed_bids(|bid| bid.bidder)
        .key_by(|bidder| *bidder)
        .sessions(Session::with_gap(gap))
        .count()
}

/// Bids per bidder and ten seconds.
pub(super) fn q12(input: &Input<'_>) -> DataStream<impl Chain<Out = WindowResult<u64, u64>>> {
    input
        .timed_bids(|bid| bid.bidder)
        .key_by(|bidder| *bidder)
        .window(Tumbling::of(Duration::from_secs(10)))
        .count()
}
