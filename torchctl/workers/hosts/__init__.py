"""Reach workers on other hosts through one `torchctl relay` per host."""
