//! Data, model and queries of the throughput workloads.
