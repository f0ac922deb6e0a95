"""Whether the times of dumps' files are those of a copy: it writes one after the other, in order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_STEP_NS = 5_000_000  # a copy writes one small file after the other this fast
FEW = 4  # files that ranks wrote at the same time may be in order by chance, with more less than once in ten
File = tuple[int, str, int]  # rank, name, when it was written


def copied_in_order(files: Sequence[File]) -> bool:
    """Whether files were written one right after the other, in the order of their names or ranks.

    A copy does that. Ranks that dump at the same moment end in any order. Whole seconds show no order.
    """
    if len(files) < FEW or not any(written_ns % 1_000_000_000 for _, _, written_ns in files):
        return False
    return any(_in_a_row([one[2] for one in sorted(files, key=lambda file: file[by])]) for by in (0, 1))


def close(files: Sequence[File]) -> bool:
    """Whether files were written as close to each other as a copy does, in any order."""
    times = [written_ns for _, _, written_ns in files]
    return max(times) - min(times) <= _STEP_NS * (len(times) - 1)


def _in_a_row(times: Sequence[int]) -> bool:
    steps = [after - before for before, after in pairwise(times)]
    return min(steps) >= 0 and 0 < max(steps) <= _STEP_NS
