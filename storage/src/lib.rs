//! Where the files of checkpoints lie: put, create if absent, get, list, delete.
