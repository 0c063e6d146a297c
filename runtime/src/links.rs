//! Descriptions of operators: what a chain is put together from. Each builds its operator of the
//! same name on the slot's thread.

mod keyed;
mod sides;
mod stateless;
mod tails;
mod windows;

pub use keyed::{FoldLink, KeyedConnectLink, KeyedProcessLink};
pub use sides::{FromSide, SideBranches};
pub use stateless::{
    AssignTimestampsLink, FilterLink, FilterMapLink, FlatMapLink, InspectLink, MapLink, ProcessLink,
};
pub use tails::{
    Branches, broadcast_tail, by_key_tail, custom_tail, fork_tail, forward_tail, global_tail,
    rebalance_tail, sink_outcome, sink_tail,
};
pub use windows::{
    CountWindowLink, DirectWindowLink, LateOutput, PreAggregateLink, SessionWindowLink,
    SlicedWindowLink, WindowJoinLink,
};
