//! The ends of a chain: where records leave it for other subtasks, and where they come from.

mod gate;
mod outputs;
mod partition;

pub use gate::{Event, InputGate};
pub(crate) use gate::{Finish, Valve};
pub use outputs::{Broadcast, ExchangeSettings, Fork, Outputs, Partitioned};
pub use partition::{ByKey, Custom, Forward, Global, Partitioner, Rebalance};
