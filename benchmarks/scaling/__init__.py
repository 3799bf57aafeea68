"""What the scaling benchmarks share: a fleet in cells, processes that load it, and a look at the server meanwhile."""
