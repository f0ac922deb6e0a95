"""Whom to name."""
