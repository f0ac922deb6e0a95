"""Finds out why a process does not answer, from what the kernel shows: /proc, control groups, its last word.

Used by the sentinel beside each worker and by `torchctl doctor`. Imports only a few standard library modules, since
every rank pays for the sentinel's memory.
"""
