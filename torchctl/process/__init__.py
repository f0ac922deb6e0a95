"""Why a process does not answer, told from what the kernel shows of it: /proc, control groups, its last word.

Used by the sentinel beside each worker and by `torchctl doctor`: the standard library only, and few modules of it,
since every rank pays for the sentinel's memory.
"""
