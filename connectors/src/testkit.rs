//! Tests that any source and any sink can be run through.
//!
//! A test describes a connector and how to see its results; the kit drives it as a job would that is
//! killed and restored again and again, with another number of subtasks each time, by a script that
//! one seed decides. To be killed is to be dropped without a word. What is found wrong is a panic that
//! names the seed.
//!
//! ```
//! use millstream::Collection;
//! use millstream_connectors::testkit::exercise_source;
//!
//! let expected: Vec<u32> = (0..1_000).collect();
//! exercise_source(7, || Collection::new(0..1_000), &expected);
//! ```

mod random;
mod sinks;
mod slot;
mod sources;

pub use random::Random;
pub use sinks::{Appears, SinkTest, exercise_sink};
pub use slot::{LOST_WAKE_UP, Output, Slot};
pub use sources::exercise_source;
