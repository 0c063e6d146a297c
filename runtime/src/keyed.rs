//! Operators over keyed state.

mod connect;
mod context;
mod fold;
mod lookahead;
mod process;

pub use connect::{KeyedCoProcessFunction, KeyedConnect};
pub(crate) use context::TimerService;
pub use context::{KeyedContext, KeyedState};
pub use fold::{Fold, FoldFunction};
pub use process::{KeyedProcess, KeyedProcessFunction};
