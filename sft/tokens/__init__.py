"""From tokens to datums: the cache on disk, the pool of processes, the tables."""
