"""Who waits in what."""
