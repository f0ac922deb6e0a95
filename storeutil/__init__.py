"""Coordination of ranks through a store: the functions behind `barrier`, `synchronize` and `store`."""
