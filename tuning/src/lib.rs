//! What the host is: cores, caches, limits.
