//! Words shared by two crates or more: ids, key groups, event time, stream elements.
//!
//! No I/O, no async, no unsafe code. A helper with one caller lives with that caller, not here.
#![forbid(unsafe_code)]

mod element;
mod ids;
mod key;
mod time;

pub use element::{Barrier, Batch, Element, LatencyMarker};
pub use ids::{CheckpointId, OperatorId, SlotIndex, SubtaskIndex, VertexId};
pub use key::{
    DEFAULT_MAX_PARALLELISM, KeyGroup, KeyGroupAssignment, KeyGroupRange, KeyHasher,
    MAX_PARALLELISM_LIMIT, hash_key,
};
pub use time::{Timestamp, parse_duration};
