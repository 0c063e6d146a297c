//! Benchmarks: throughput, latency, comparison with peers, micro-benchmarks.
