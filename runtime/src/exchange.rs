//! The ends of a chain: where records leave it for other subtasks, and where they come from.

mod gate;
mod in_flight;
mod outlet;
mod outputs;
mod partition;
mod routes;

pub use gate::{Event, Inlet, InputGate};
pub(crate) use gate::{Finish, Valve};
pub use in_flight::{ChannelId, EdgeId};
pub(crate) use in_flight::{
    End, InFlight, InFlightError, channel_of, decode, encode, is_list_name,
};
pub use outlet::{Outbound, RemoteChannel};
pub(crate) use outlet::{Outlet, SlotLinks, SlotStream};
pub use outputs::{Broadcast, ExchangeSettings, Fork, Outputs, Partitioned};
pub use partition::{ByKey, Custom, Forward, Global, Partitioner, Rebalance};
pub(crate) use routes::Routes;
