"""Infer the size of a group from its operations: all_gather's output is its input times the number of members."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from torchctl.ranks import MAX_RANKS

if TYPE_CHECKING:
    from torchctl.flightrec.table.trace import Call, Trace


def tell_sizes(trace: Trace) -> None:
    """Fill in `size` for every group, from its known members or else from its operations."""
    hints = np.array(
        [
            _size_of(call, trace.operations[operation].name)
            for call, operation in zip(trace.calls, _operation_of_call(trace), strict=True)
        ]
        or [0]
    )
    low = np.full(len(trace.groups), np.iinfo(np.int64).max)
    high = np.zeros(len(trace.groups), np.int64)
    if len(trace) and hints.any():
        told = hints[trace.call]
        rows = told > 0
        np.minimum.at(low, trace.group[rows], told[rows])
        np.maximum.at(high, trace.group[rows], told[rows])
    for number, group in enumerate(trace.groups):
        if group.known:
            group.size = len(group.members)
        elif high[number] and low[number] == high[number]:
            group.size = int(high[number])
            if group.default:
                # The default group is the world, so its size reveals ranks that nothing else shows.
                group.members = tuple(sorted({*group.members, *range(group.size)}))
                trace.world_size = max(trace.world_size or 0, group.size)


def _operation_of_call(trace: Trace) -> list[int]:
    found = [0] * len(trace.calls)
    if len(trace):
        for call, row in zip(*np.unique(trace.call, return_index=True), strict=True):
            found[call] = int(trace.operation[row])
    return found


def _size_of(call: Call, operation: str) -> int:
    """Return the number of members that a call's sizes imply, or 0 if they imply none."""
    small, large = call.input_sizes, call.output_sizes
    if operation.startswith("reduce_scatter"):
        small, large = large, small
    elif not operation.startswith("all_gather"):
        return 0
    if len(small) != 1:
        return 0
    if len(large) > 1:
        return len(large)  # already limited by the decoder
    one, all_of_them = prod(small[0]), sum(map(prod, large))
    members = all_of_them // one if one > 0 and all_of_them > one and all_of_them % one == 0 else 0
    return members if members <= MAX_RANKS else 0  # sizes come from untrusted files
