//! The exchange: channels of batches between subtasks.
