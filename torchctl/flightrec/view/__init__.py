"""Prepare a recorder's entries for display."""
