"""Dumps that are older than others: what they lack proves nothing.

How this works. Nobody finishes an all_reduce before every member has entered it. So when one rank has finished an
operation that another rank's dump does not show, that dump was taken before, while the job was moving.
"""

from __future__ import annotations

import numpy as np

from torchctl.diagnosis.entered import Windows, collectives
from torchctl.flightrec.trace import State, Trace


def stale_ranks(trace: Trace, windows: Windows) -> set[int]:
    """Return the ranks whose dump is older than what others have finished with them."""
    if not len(trace):
        return set()
    proven = proven_entered(trace)
    stale: set[int] = set()
    wrapped = {dump.rank for dump in trace.dumps if dump.wrapped}
    for number, seq in proven.items():
        group = trace.groups[number]
        seen = set(trace.ranks)
        for rank in group.members:
            window = windows.of(number, rank)
            never = window is None and group.known and rank in seen and rank not in wrapped
            behind = never or (window is not None and window[1] < seq)
            if behind:
                stale.add(rank)
    return stale


def proven_entered(trace: Trace) -> dict[int, int]:
    """Return, for each group, the last sequence id that every member must have entered.

    On gloo an entry is retired when it has failed, too: there the proof is that its rank went on in the group.
    """
    symmetric = np.array([operation.symmetric for operation in trace.operations] or [False])
    rows = np.flatnonzero(collectives(trace))
    done = rows[(trace.state[rows] == State.DONE) & symmetric[trace.operation[rows]]]
    if not len(done):
        return {}
    ranks = int(trace.rank.max()) + 1
    pairs = len(trace.groups) * ranks
    finished = np.full(pairs, np.iinfo(np.int64).min)
    last = np.full(pairs, np.iinfo(np.int64).min)
    np.maximum.at(finished, _pair(trace, done, ranks), trace.seq[done])
    np.maximum.at(last, _pair(trace, rows, ranks), trace.seq[rows])
    gloo = np.repeat(np.array([group.backend == "gloo" for group in trace.groups]), ranks)
    known = finished > np.iinfo(np.int64).min
    finished[known & gloo & (last <= finished)] -= 1
    by_group = finished.reshape(len(trace.groups), ranks).max(axis=1)
    return {number: int(seq) for number, seq in enumerate(by_group.tolist()) if seq > np.iinfo(np.int64).min}


def _pair(trace: Trace, rows: np.typing.NDArray[np.int64], ranks: int) -> np.typing.NDArray[np.int64]:
    return trace.group[rows].astype(np.int64) * ranks + trace.rank[rows]
