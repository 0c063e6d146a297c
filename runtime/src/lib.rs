//! The worker: slots, subtasks, operator chains, operators, windows, timers.
