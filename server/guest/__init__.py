"""Living inside a trainer without harming it."""
