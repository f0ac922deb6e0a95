"""Many dumps: one table of all ranks' entries."""
