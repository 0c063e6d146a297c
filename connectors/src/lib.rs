//! Sources and sinks: files, sockets, standard streams.
