"""Findings: which ranks to name, and how sure it is."""
