//! Identifiers, each a type of its own so that none can be passed for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// An operator of a job, in the order in which the program made them.
    OperatorId(u32)
}
id! {
    /// A vertex of the job graph: one operator chain.
    VertexId(u32)
}
id! {
    /// One of the parallel instances of a vertex, from 0.
    SubtaskIndex(u32)
}
id! {
    /// A task slot of the worker, from 0.
    SlotIndex(u32)
}
id! {
    /// A checkpoint of a job; strictly increasing.
    CheckpointId(u64)
}
