"""Whom to ask and how."""
