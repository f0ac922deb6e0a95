"""The questions that a worker can be asked."""
